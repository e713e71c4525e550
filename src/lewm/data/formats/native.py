"""The native dataset as one format among the others."""

from pathlib import Path

from lewm.data.episodes import EpisodeStore
from lewm.data.formats.base import EpisodeSink
from lewm.data.formats.store import Format
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter


class NativeFormat(Format):
    """Memory-mapped, sharded, checksummed ``.npy`` columns."""

    @staticmethod
    def open(path: Path) -> EpisodeStore:
        """The dataset at ``path``."""
        return EpisodeStore(path)

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of whole shards."""
        return EpisodeWriter(path, meta, resume=resume)
