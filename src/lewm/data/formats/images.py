"""Folders of numbered images as a dataset: one folder an episode, every image an observation, a table of actions beside them or none at all.

Axes: n row, N env step, Y X image, a env action.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, fingerprint_of, leave_out
from lewm.data.formats.file_names import in_natural_order, last_number
from lewm.data.formats.pictures import decoded, size_of
from lewm.data.formats.recent import Recent
from lewm.data.formats.recognition import IMAGE_SUFFIXES
from lewm.data.formats.side_tables import TABLE_SUFFIXES, SideTables, TableOptions, check_num_rows, table_options
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, ObservationSpec

CAMERA = "images"
TABLE_STEM = "actions"
MAX_KEPT_NAMES = 200_000


class ImagesFormat(Format):
    """A folder of numbered images, or a folder of such folders: png, jpeg."""

    @staticmethod
    def open(
        path: Path,
        *,
        gaps: str = "refuse",
        actions: str = "",
        proprioception: str = "",
        labels: str = "",
        reward: str = "",
        num_choices: int | str = 0,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The episodes at ``path``, in natural order; ``gaps="allow"`` takes images as neighbours although numbers between theirs are missing.

        A table is called ``actions.csv``, ``.parquet`` or ``.npy``; the other options name its columns, separated by commas.
        """
        if gaps not in ("refuse", "allow"):
            raise ConfigError(f"gaps must be 'refuse' or 'allow', got {gaps!r}")
        options = table_options(
            actions=actions, proprioception=proprioception, labels=labels, reward=reward, num_choices=num_choices, missing_actions=missing_actions
        )
        return ForeignStore(ImagesReader(path, options, may_have_gaps=gaps == "allow"))


class ImagesReader(EpisodeReader):
    """Folders of images and the tables in them."""

    def __init__(self, path: Path, options: TableOptions, *, may_have_gaps: bool) -> None:
        self.path, self._options, self._may_have_gaps = path, options, may_have_gaps
        self._names: Recent[Path, list[str]] = Recent(MAX_KEPT_NAMES, len)
        folders = find_folders(path)
        num_images = np.array([len(self._images(folder)) for folder in folders], np.int64)
        kept = leave_out(path, num_images - 1)
        self._folders = [folders[int(number)] for number in kept]
        self.lengths = num_images[kept] - 1
        self.terminated = np.zeros(len(kept), bool)
        files = _find_tables(self._folders)
        if not files and options.named:
            raise ConfigError(f"{str(path)!r} has no tables beside its images ({TABLE_STEM}.csv, .parquet or .npy), so no columns can be named")
        self._tables = SideTables(files, options) if files else None
        if self._tables is not None:
            for episode, length in enumerate(self.lengths.tolist()):
                check_num_rows(self._tables, episode, length + 1, str(self._folders[episode]))
                self._tables.look_at(episode, length)
        self._height_px, self._width_px = size_of(self._image(0, 0))
        for episode in range(len(kept)):
            self._check_size(self._image(episode, 0), size_of(self._image(episode, 0)))
        self.meta = self._meta()

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        if not column.startswith("frames."):
            assert self._tables is not None  # it has no other columns without them
            return self._tables.rows(column, episode, rows, int(self.lengths[episode]), None)
        out = np.empty((len(rows), self._height_px, self._width_px, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            file = self._image(episode, row)
            frame = decoded(self._content(file), repr(str(file)))
            self._check_size(file, frame.shape[:2])
            out[place] = frame
        return out

    def provenance(self, episode: int) -> dict[str, Any]:
        return {"source": self._folders[episode].name}

    def fingerprint(self) -> str:
        """Of the names and sizes of all images, and of the ends of the tables and of each episode's first and last image."""
        listed = [f"{folder.name}/{name} {(folder / name).stat().st_size}" for folder in self._folders for name in self._images(folder)]
        ends = [self._image(episode, row) for episode, length in enumerate(self.lengths.tolist()) for row in (0, length)]
        return fingerprint_of(self.path, [*ends, *(self._tables.files if self._tables else ())], repr(self._options), *listed)

    def _images(self, folder: Path) -> list[str]:
        return self._names.get(folder, lambda: numbered_images(folder, may_have_gaps=self._may_have_gaps))

    def _image(self, episode: int, row: int) -> Path:
        folder = self._folders[episode]
        names = self._images(folder)
        if len(names) != self.lengths[episode] + 1:
            raise DataError(
                f"{str(folder)!r} has {len(names)} images, had {int(self.lengths[episode]) + 1} when it was opened; open the dataset anew"
            )
        return folder / names[row]

    def _content(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read ({error.strerror}); restore it") from None

    def _check_size(self, file: Path, size: tuple[int, ...]) -> None:
        if tuple(size) != (self._height_px, self._width_px):
            raise DataError(
                f"{str(file)!r} is {size[0]} x {size[1]} px, {str(self._image(0, 0))!r} is {self._height_px} x {self._width_px}; "
                "scale the files to one size before, for example with Pillow (Image.resize): --size-px cannot, it needs frames of one size"
            )

    def _meta(self) -> DatasetMeta:
        spec = ObservationSpec(height_px=self._height_px, width_px=self._width_px, cameras=(CAMERA,), proprioception=self._options.proprioception)
        return DatasetMeta(
            observation_spec=spec,
            action_spec=self._tables.action_spec() if self._tables else ActionSpec(kind="none"),
            label_names=self._options.labels,
            has_rewards=bool(self._options.reward),
            provenance={"source": str(self.path), "format": "images", "action_names": list(self._tables.action_names) if self._tables else []},
        )


def find_folders(path: Path) -> list[Path]:
    """The folders with images in ``path``, or ``path`` itself; ``DataError`` if there are both, or none."""
    folders = in_natural_order(entry for entry in path.iterdir() if entry.is_dir() and _has_image(entry))
    if _has_image(path):
        if folders:
            raise DataError(f"{str(path)!r} has images of its own beside the folder {folders[0].name!r}; keep one folder an episode, or images only")
        return [path]
    if not folders:
        raise DataError(f"{str(path)!r} has no images ({', '.join(IMAGE_SUFFIXES)}), nor have its folders")
    return folders


def numbered_images(folder: Path, *, may_have_gaps: bool) -> list[str]:
    """The names of a folder's images in the order of the numbers that they end in; ``DataError`` for double, missing and nameless numbers."""
    names = [entry.name for entry in folder.iterdir() if _is_image(entry)]
    numbers = {name: last_number(name) for name in names}
    nameless = next((name for name in sorted(names) if numbers[name] is None), None)
    if nameless is not None:
        raise DataError(f"{str(folder / nameless)!r} has no number at the end of its name, so its place is unknown; rename or remove it")
    names.sort(key=lambda name: (numbers[name] or 0, name))
    for before, after in pairwise(names):
        first, second = numbers[before] or 0, numbers[after] or 0
        if first == second:
            raise DataError(f"{str(folder)!r} has two images with number {first}, {before} and {after}; keep one kind of image in a folder")
        if second != first + 1 and not may_have_gaps:
            raise DataError(
                f"{str(folder)!r} goes on from {before} to {after}: number {first + 1} is missing; restore it, or pass --option gaps=allow "
                "if there never was one"
            )
    return names


def _find_tables(folders: list[Path]) -> list[Path]:
    found = [[table for suffix in TABLE_SUFFIXES if (table := folder / f"{TABLE_STEM}{suffix}").is_file()] for folder in folders]
    for folder, tables in zip(folders, found, strict=True):
        if len(tables) > 1:
            raise DataError(f"{str(folder)!r} has two tables, {tables[0].name} and {tables[1].name}; keep one")
        if not tables and any(found):
            raise DataError(f"{str(folder)!r} has no {TABLE_STEM}.csv, .parquet or .npy, other folders have; add it, or move the folder away")
    return [tables[0] for tables in found if tables]


def _has_image(folder: Path) -> bool:
    return any(_is_image(entry) for entry in folder.iterdir())


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
