"""Plain videos as a dataset: one file an episode, every frame an observation, and a table of actions beside each, or none at all.

Axes: n row, N env step, Y X image, a env action.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, fingerprint_of, leave_out
from lewm.data.formats.file_names import in_natural_order
from lewm.data.formats.recognition import VIDEO_SUFFIXES
from lewm.data.formats.side_tables import TABLE_SUFFIXES, SideTables, TableOptions, check_num_rows, held_rows, is_yes, table_options
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.formats.video_frames import VideoFrames, VideoHeader, read_header
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, ObservationSpec

CAMERA = "video"


class VideoFormat(Format):
    """A video file, or a folder of them: mp4, avi, mkv, mov, webm."""

    @staticmethod
    def open(
        path: Path,
        *,
        fps: float = 0.0,
        read_through: bool | str = False,
        actions: str = "",
        proprioception: str = "",
        labels: str = "",
        reward: str = "",
        num_choices: int | str = 0,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The videos at ``path``, in natural order; tables have the same name but for the suffix.

        ``fps`` is the rate of the tables' rows where it is not that of the frames; ``read_through`` counts frames instead of believing the files'
        headers. ``num_choices`` reads actions as choices; the others
        name columns, with commas between.
        """
        options = table_options(
            actions=actions, proprioception=proprioception, labels=labels, reward=reward, num_choices=num_choices, missing_actions=missing_actions
        )
        return ForeignStore(VideoReader(path, options, rows_per_s(fps), is_read_through=is_yes(read_through)))


def rows_per_s(text: float | str) -> float:
    """The option ``fps``; 0 is for a row per frame."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < np.inf:
        raise ConfigError(f"fps must be a number above 0, the rate of the tables' rows, got {text!r}")
    return rate


class VideoReader(EpisodeReader):
    """Videos and the tables beside them."""

    def __init__(self, path: Path, options: TableOptions, fps: float, *, is_read_through: bool) -> None:
        self.path, self._fps, self._options = path, fps, options
        self._is_read_through = is_read_through or fps > 0  # times are only found by reading through
        self._frames = VideoFrames()
        videos = find_videos(path)
        headers = [read_header(video) for video in videos]
        _check_sizes(videos, headers)
        num_frames = np.array([self._count(video, header) for video, header in zip(videos, headers, strict=True)])
        kept = leave_out(path, num_frames - 1)
        self._videos = [videos[int(number)] for number in kept]
        self.lengths = num_frames[kept] - 1
        self.terminated = np.zeros(len(kept), bool)
        files = find_tables(self._videos)
        if not files and (fps or options.named):
            raise ConfigError(f"{str(path)!r} has no tables beside its videos, so no rate and no columns of theirs can be named")
        self._tables = SideTables(files, options) if files else None
        self._look_at_tables()
        self.meta = self._meta(headers[kept[0]])

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        if column.startswith("frames."):
            spec = self.meta.observation_spec
            self._check_count(episode)
            return self._frames.read(self._videos[episode], rows, spec.height_px, spec.width_px)
        assert self._tables is not None  # it has no other columns without them
        return self._tables.rows(column, episode, rows, int(self.lengths[episode]), self._table_rows(episode))

    def provenance(self, episode: int) -> dict[str, Any]:
        return {"source": self._videos[episode].name}

    def fingerprint(self) -> str:
        root = self.path if self.path.is_dir() else self.path.parent
        return fingerprint_of(root, [*self._videos, *(self._tables.files if self._tables else ())], repr((self._options, self._fps)))

    def close(self) -> None:
        self._frames.close()

    def _count(self, video: Path, header: VideoHeader) -> int:
        """Frames of a file: as announced, or counted where nothing is."""
        return len(self._frames.index(video)) if self._is_read_through or header.num_frames is None else header.num_frames

    def _check_count(self, episode: int) -> None:
        shown, announced = len(self._frames.index(self._videos[episode])), int(self.lengths[episode]) + 1
        if shown != announced:
            raise DataError(
                f"{str(self._videos[episode])!r} announces {announced} frames but shows {shown}: it was trimmed, or is damaged; pass "
                "--option read_through=true if it should be so, or re-encode it"
            )

    def _table_rows(self, episode: int) -> np.ndarray | None:
        """int64 [N+1]: the row of the table for each frame, if that is a matter of time."""
        if not self._fps or self._tables is None:
            return None
        self._check_count(episode)
        where = f"{str(self._tables.files[episode])!r}"
        return held_rows(self._tables.count(episode), self._fps, self._frames.index(self._videos[episode]).times_s, where)

    def _look_at_tables(self) -> None:
        if self._tables is None:
            return
        if self._fps and self._options.reward:
            raise ConfigError("rewards cannot be matched by time, for several rows may belong to one frame; leave out reward or fps")
        for episode, length in enumerate(self.lengths.tolist()):
            rows = self._table_rows(episode)
            if rows is None:
                check_num_rows(
                    self._tables, episode, length + 1, str(self._videos[episode]), "; if rows have another rate, name it: --option fps=RATE"
                )
            elif rows[-1] == self._tables.count(episode) and (self._options.proprioception or self._options.labels):
                raise DataError(
                    f"{str(self._tables.files[episode])!r} ends before the last frame of {str(self._videos[episode])!r}; a row is missing"
                )
            self._tables.look_at(episode, length, rows)

    def _meta(self, header: VideoHeader) -> DatasetMeta:
        spec = ObservationSpec(height_px=header.height_px, width_px=header.width_px, cameras=(CAMERA,), proprioception=self._options.proprioception)
        return DatasetMeta(
            observation_spec=spec,
            action_spec=self._tables.action_spec() if self._tables else ActionSpec(kind="none"),
            label_names=self._options.labels,
            has_rewards=bool(self._options.reward),
            provenance={"source": str(self.path), "format": "video", "action_names": list(self._tables.action_names) if self._tables else []},
        )


def find_videos(path: Path) -> list[Path]:
    """The videos of a folder, or the one that ``path`` is; ``DataError`` if there is none."""
    if path.is_file():
        return [path]
    found = in_natural_order(entry for entry in path.iterdir() if _is_video(entry))
    if not found:
        raise DataError(f"{str(path)!r} has no videos ({', '.join(VIDEO_SUFFIXES)})")
    stems = [video.stem for video in found]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None) if len(set(stems)) < len(stems) else None
    if twice is not None:
        raise DataError(f"{str(path)!r} has two videos called {twice!r}; which of them a table belongs to is unknown: rename or remove one")
    return found


def find_tables(videos: list[Path]) -> list[Path]:
    """The table of each video, none if no video has one; ``DataError`` if only some have, or one has two."""
    found = [[table for suffix in TABLE_SUFFIXES if (table := video.with_suffix(suffix)).is_file()] for video in videos]
    for video, tables in zip(videos, found, strict=True):
        if len(tables) > 1:
            raise DataError(f"{str(video)!r} has two tables, {tables[0].name} and {tables[1].name}; keep one")
        if not tables and any(found):
            raise DataError(
                f"{str(video)!r} has no actions ({', '.join(TABLE_SUFFIXES)} with its name), other videos have; add them, or move it away"
            )
    return [tables[0] for tables in found if tables]


def _check_sizes(videos: list[Path], headers: list[VideoHeader]) -> None:
    height_px, width_px = headers[0].height_px, headers[0].width_px
    for video, header in zip(videos, headers, strict=True):
        if (header.height_px, header.width_px) != (height_px, width_px):
            raise DataError(
                f"{str(video)!r} has frames of {header.height_px} x {header.width_px} px, {str(videos[0])!r} of {height_px} x {width_px}; "
                "scale them to one size, for example with ffmpeg -vf scale=WIDTH:HEIGHT"
            )


def _is_video(entry: Path) -> bool:
    return entry.suffix.lower() in VIDEO_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
