"""LeRobot v3 datasets: rows in parquet, frames in mp4 (or as images in parquet), several episodes in a file.

Axes: E episode, n row, N env step, Y X image, P proprioception, a env action, s label.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, EpisodeSink, checked_actions, fingerprint_of, leave_out, observed_action_spec
from lewm.data.formats.lerobot_index import Rows, find_rows, read_episode_table, read_own_meta, read_provenance
from lewm.data.formats.lerobot_layout import (
    ACTION,
    EPISODES_DIRECTORY,
    INFO_FILE,
    LABELS,
    REWARD,
    STATE,
    Camera,
    Layout,
    read_layout,
)
from lewm.data.formats.lerobot_writing import LeRobotSink
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.parquet_rows import ParquetRows, as_bytes, as_matrix
from lewm.data.formats.pictures import decoded
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.formats.video_frames import VideoFrames, read_header
from lewm.data.layout import DISCRETE_ACTION_PADDING, DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec, ObservationSpec

TOLERANCE_FRAMES = 0.25
"""So far a video's frame may be from the time of its row."""


class LeRobotFormat(Format):
    """A folder with ``meta/info.json`` of version 3."""

    IS_LOSSLESS = False

    @staticmethod
    def open(
        path: Path, *, cameras: str | Sequence[str] = "", proprioception: str = STATE, labels: str = LABELS, missing_actions: str = "refuse"
    ) -> ForeignStore:
        """The dataset at ``path``. ``cameras``: names separated by commas, all if empty; ``proprioception``, ``labels``: features of numbers."""
        if missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"missing_actions must be 'refuse' or 'zero', got {missing_actions!r}")
        return ForeignStore(
            LeRobotReader(path, cameras=listed(cameras) or (), proprioception=proprioception, labels=labels, missing_actions=missing_actions)
        )

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of files of several episodes."""
        return LeRobotSink(path, meta, resume=resume)


class LeRobotReader(EpisodeReader):
    """Episodes of a LeRobot dataset. The action of an episode's last frame leads nowhere and is dropped."""

    def __init__(self, path: Path, *, cameras: tuple[str, ...], proprioception: str, labels: str, missing_actions: str) -> None:
        self.path = path
        self._options = (cameras, proprioception, labels, missing_actions)
        self._missing_actions = missing_actions
        self._layout = read_layout(path)
        self._cameras = {f"frames.{camera.name}": camera for camera in self._layout.cameras(cameras)}
        self._features = {"proprioception": self._feature(proprioception, STATE), "labels": self._feature(labels, LABELS)}
        self._table = read_episode_table(self._layout, list(self._cameras.values()))
        self._provenance = read_provenance(path)
        self._rows = find_rows(self._layout, self._table, missing_actions=missing_actions)
        self._kept = leave_out(path, self._table.length - 1)
        self.lengths = self._table.length[self._kept] - 1
        self.terminated = self._rows.terminated[self._kept]
        self._numbers, self._frames = ParquetRows(), VideoFrames()
        self._check_videos()
        self.meta = _meta(self._layout, list(self._cameras.values()), self._features, self._rows)

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        if column in self._cameras:
            camera = self._cameras[column]
            return self._video_frames(camera, episode, rows) if camera.is_video else self._image_frames(camera, episode, rows)
        is_own = rows < self.lengths[episode] if column in ("actions", "rewards") else np.ones(len(rows), bool)
        key = {"actions": ACTION, "rewards": REWARD, **self._features}[column]
        spec = self.meta.columns[column]
        values = self._values(key, episode, rows[is_own]) if is_own.any() else np.zeros((0, *spec.shape))
        if values.size != is_own.sum() * np.prod(spec.shape, dtype=np.int64):
            raise DataError(f"{str(self._file(episode))!r}: {key} has shape {list(values.shape[1:])}, {list(spec.shape)} was announced; restore it")
        where = f"{str(self._file(episode))!r}, episode {self._number(episode)}"
        if column == "actions" and spec.dtype.kind == "f":
            values = checked_actions(values, where, missing=self._missing_actions)
        elif not np.isfinite(values).all():
            row = int(rows[is_own][~np.isfinite(values.reshape(len(values), -1)).all(1)][0])
            raise DataError(f"{where}: {key} of frame {row} is not finite; mend the file")
        padding = DISCRETE_ACTION_PADDING if spec.dtype.kind == "i" else np.nan
        out = np.full((len(rows), *spec.shape), padding, spec.dtype)
        out[is_own] = values.reshape(-1, *spec.shape)
        return out

    def provenance(self, episode: int) -> dict[str, Any]:
        tasks = self._table.tasks[self._kept[episode]]
        found: dict[str, Any] = {"source": self._file(episode).relative_to(self.path).as_posix(), "lerobot_episode": self._number(episode)}
        if tasks:
            found |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
        return found | self._provenance.get(self._number(episode), {})

    def fingerprint(self) -> str:
        files = [self.path / INFO_FILE, *(self.path / EPISODES_DIRECTORY).glob("*/*.parquet"), *self._rows.file]
        files += [video for camera in self._cameras.values() if camera.is_video for video in self._videos(camera)]
        return fingerprint_of(self.path, list(dict.fromkeys(files)), repr(self._options))

    def close(self) -> None:
        self._frames.close()
        self._numbers.close()

    def _feature(self, key: str, usual: str) -> str:
        """A feature of numbers; empty if there is none of the usual name."""
        feature = self._layout.features.get(key)
        if feature is None:
            if key and key != usual:
                raise ConfigError(f"{str(self.path)!r} has no feature {key!r}.{did_you_mean(key, self._layout.features)}")
            return ""
        if len(feature["shape"]) != 1 or not feature["dtype"].startswith(("float", "int", "uint", "bool")):
            raise ConfigError(f"feature {key!r} of {str(self.path)!r} is {feature['dtype']} {feature['shape']}; a row of numbers is needed")
        return key

    def _videos(self, camera: Camera) -> list[Path]:
        return list(dict.fromkeys(self._layout.video_file(camera.key, *place) for place in self._table.videos[camera.key][self._kept].tolist()))

    def _check_videos(self) -> None:
        for camera in (camera for camera in self._cameras.values() if camera.is_video):
            for video in self._videos(camera):
                if not video.is_file():
                    raise DataError(f"{str(video)!r} is missing; restore it")
                header = read_header(video)
                if (header.height_px, header.width_px) != (camera.height_px, camera.width_px):
                    raise DataError(
                        f"{str(video)!r} has frames of {header.height_px} x {header.width_px} px, {INFO_FILE} says {camera.height_px} x "
                        f"{camera.width_px}; scale them to one size, for example with ffmpeg -vf scale=WIDTH:HEIGHT"
                    )

    def _file(self, episode: int) -> Path:
        return self._rows.file[int(self._kept[episode])]

    def _number(self, episode: int) -> int:
        return int(self._table.number[self._kept[episode]])

    def _values(self, key: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """A feature of some frames, [n] or [n, ...], as the file has it."""
        file = self._file(episode)
        values = self._numbers.read(file, key, self._rows.first[self._kept[episode]] + rows)
        return as_matrix(values, f"column {key!r} of {str(file)!r}")

    def _video_frames(self, camera: Camera, episode: int, rows: np.ndarray) -> np.ndarray:
        place = self._kept[episode]
        video = self._layout.video_file(camera.key, *self._table.videos[camera.key][place].tolist())
        times_s = self._values("timestamp", episode, rows) if "timestamp" in self._layout.features else rows / self._layout.fps
        numbers = self._frames.index(video).frames_at(self._table.starts_s[camera.key][place] + times_s, TOLERANCE_FRAMES / self._layout.fps)
        is_wrong = (numbers < 0) | (np.diff(numbers, prepend=-1) <= 0)
        if is_wrong.any():
            row = int(rows[is_wrong][0])
            raise DataError(f"{str(video)!r} has no frame of its own for frame {row} of episode {self._number(episode)}; restore it")
        return self._frames.read(video, numbers, camera.height_px, camera.width_px)

    def _image_frames(self, camera: Camera, episode: int, rows: np.ndarray) -> np.ndarray:
        file = self._file(episode)
        images = as_bytes(self._numbers.read(file, camera.key, self._rows.first[self._kept[episode]] + rows))
        out = np.empty((len(rows), camera.height_px, camera.width_px, 3), np.uint8)
        for place, (row, data) in enumerate(zip(rows.tolist(), images, strict=True)):
            where = f"{str(file)!r}, {camera.key} of frame {row} of episode {self._number(episode)}"
            if data is None:
                raise DataError(f"{where} is no image in the file; only images that are stored in the parquet files are read")
            frame = decoded(data, where)
            if frame.shape != out.shape[1:]:
                raise DataError(f"{where} is {frame.shape[0]} x {frame.shape[1]} px, {INFO_FILE} says {camera.height_px} x {camera.width_px}")
            out[place] = frame
        return out


def _meta(layout: Layout, cameras: list[Camera], features: dict[str, str], rows: Rows) -> DatasetMeta:
    own = read_own_meta(layout.root)
    names = {column: layout.names_of(key, prefix, layout.features[key]["shape"][0]) if key else () for column, prefix, key in _named(features)}
    spec = ObservationSpec(
        height_px=cameras[0].height_px,
        width_px=cameras[0].width_px,
        cameras=tuple(camera.name for camera in cameras),
        proprioception=names["proprioception"],
    )
    action_names = layout.names_of(ACTION, "action", len(rows.low)) if len(rows.low) else ()
    return DatasetMeta(
        observation_spec=spec,
        action_spec=_action_spec(rows, own.action_spec if own else None),
        label_names=names["labels"],
        has_rewards=REWARD in layout.features,
        env=own.env if own else {},
        policy=own.policy if own else {},
        collection=own.collection if own else {},
        provenance={
            **(own.provenance if own else {}),
            "source": str(layout.root),
            "format": "lerobot",
            "fps": layout.fps,
            "robot_type": layout.robot_type,
            "action_names": list(action_names),
        },
    )


def _named(features: dict[str, str]) -> list[tuple[str, str, str]]:
    return [("proprioception", "state", features["proprioception"]), ("labels", "label", features["labels"])]


def _action_spec(rows: Rows, own: ActionSpec | None) -> ActionSpec:
    """What was seen, or what the writer noted if what was seen is within it."""
    if not len(rows.low):
        return ActionSpec(kind="none")
    if rows.is_discrete:
        fits = own is not None and own.kind == "discrete" and rows.high[0] < own.num_choices
        return own if fits and own else ActionSpec(kind="discrete", num_choices=max(2, int(rows.high[0]) + 1))
    fits = own is not None and own.kind == "continuous" and len(own.low) == len(rows.low)
    if fits and own and (rows.low >= np.array(own.low, np.float32)).all() and (rows.high <= np.array(own.high, np.float32)).all():
        return own
    return observed_action_spec(rows.low.tolist(), rows.high.tolist())
