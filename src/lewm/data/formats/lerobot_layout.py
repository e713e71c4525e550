"""What a LeRobot v3 dataset says of itself in ``meta/info.json``, and where its files are.

Axes: Y X image.
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lewm.errors import ConfigError, DataError
from lewm.registry import did_you_mean

logger = logging.getLogger(__name__)
INFO_FILE = Path("meta/info.json")
STATISTICS_FILE = Path("meta/stats.json")
TASKS_FILE = Path("meta/tasks.parquet")
EPISODES_DIRECTORY = Path("meta/episodes")
OWN_DIRECTORY = Path("meta/lewm")
"""What LeRobot has no place for: the native dataset's settings, and the provenance of its episodes."""
OWN_META_FILE = OWN_DIRECTORY / "meta.json"
FILE_TEMPLATE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_TEMPLATE = f"data/{FILE_TEMPLATE}.parquet"
VIDEO_TEMPLATE = f"videos/{{video_key}}/{FILE_TEMPLATE}.mp4"
EPISODES_TEMPLATE = f"{EPISODES_DIRECTORY}/{FILE_TEMPLATE}.parquet"
PROVENANCE_TEMPLATE = f"{OWN_DIRECTORY}/provenance/{FILE_TEMPLATE}.jsonl"
VERSION = "v3.0"
FILES_PER_CHUNK = 1000
ACTION, STATE, LABELS = "action", "observation.state", "observation.environment_state"
REWARD, DONE, TRUNCATED = "next.reward", "next.done", "next.truncated"
IMAGES_PREFIX = "observation.images."


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A feature that is a picture."""

    key: str
    """Of the feature."""
    name: str
    """Ours: what of the key tells it from the others."""
    height_px: int
    width_px: int
    is_video: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``meta/info.json``."""

    root: Path
    fps: float
    num_episodes: int
    features: dict[str, dict[str, Any]]
    data_template: str
    video_template: str
    robot_type: str

    def data_file(self, chunk: int, file: int) -> Path:
        """A file of rows."""
        return self.root / filled(self.data_template, chunk, file)

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """A file of a camera's frames."""
        return self.root / filled(self.video_template, chunk, file, key)

    def cameras(self, chosen: tuple[str, ...]) -> tuple[Camera, ...]:
        """The cameras of some names, or all that show colours; ``DataError`` if their frames are of different sizes."""
        pictures = {key: feature for key, feature in self.features.items() if feature["dtype"] in ("video", "image")}
        colours = {key: feature for key, feature in pictures.items() if not _is_depth(feature)}
        if len(colours) < len(pictures):
            logger.warning("%s: depth maps are left out, %d of %d cameras are read", self.root, len(colours), len(pictures))
        names = _distinct_names(list(colours))
        known = {name: _camera(key, name, colours[key]) for key, name in names.items()}
        for name in chosen:
            if name not in known:
                raise ConfigError(f"{str(self.root)!r} has no camera {name!r}.{did_you_mean(name, known)}")
        cameras = tuple(known[name] for name in chosen or known)
        if not cameras:
            raise DataError(f"{str(self.root)!r} has no camera; world models are learned from frames")
        sizes = {camera.name: (camera.height_px, camera.width_px) for camera in cameras}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
            raise DataError(f"{str(self.root)!r} has cameras of different sizes ({listed} px); read those of one size: --option cameras=NAME,NAME")
        return cameras

    def names_of(self, key: str, prefix: str, count: int) -> tuple[str, ...]:
        """Names of the numbers of a feature: its own, if there is one for each, else ``prefix_0``, ``prefix_1``, ..."""
        names: Any = self.features[key].get("names")
        if isinstance(names, dict):
            values = list(names.values())
            names = values[0] if len(values) == 1 else list(names)
        if isinstance(names, list) and len(names) == count and len({str(name) for name in names}) == count:
            return tuple(str(name) for name in names)
        return tuple(f"{prefix}_{number}" for number in range(count))


def read_layout(root: Path) -> Layout:
    """``meta/info.json`` of a dataset; ``DataError`` if it is missing, damaged or of another version."""
    path = root / INFO_FILE
    try:
        values = json.loads(path.read_text())
        version = str(values["codebase_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error or type(error).__name__}); restore it") from None
    if not version.startswith("v3."):
        raise DataError(
            f"{str(root)!r} is a LeRobot dataset of version {version}, version 3 is read; convert it with LeRobot's own script: "
            "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=OWNER/NAME (in newer releases "
            "lerobot.scripts.convert_dataset_v21_to_v30)"
        )
    try:
        features = {str(key): _checked_feature(feature) for key, feature in values["features"].items()}
        layout = Layout(
            root=root,
            fps=float(values["fps"]),
            num_episodes=int(values["total_episodes"]),
            features=features,
            data_template=str(values["data_path"]),
            video_template=str(values.get("video_path") or ""),
            robot_type=str(values.get("robot_type") or ""),
        )
        if not 0 < layout.fps < 1e6:
            raise ValueError(f"fps is {layout.fps}")
        filled(layout.data_template, 0, 0)
        if any(feature["dtype"] == "video" for feature in features.values()):
            filled(layout.video_template, 0, 0, "camera")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{str(path)!r} has a wrong entry ({error}); restore it") from None
    return layout


def filled(template: str, chunk: int, file: int, key: str = "") -> PurePosixPath:
    """A template of paths with its numbers and its camera put in. Only these may be in it, and it may not lead out of the dataset."""
    values: dict[str, int | str] = {"chunk_index": chunk, "file_index": file, "video_key": key}

    def put_in(found: re.Match[str]) -> str:
        value = values[found["name"]]
        return f"{value:0{found['width'] or 1}d}" if isinstance(value, int) else value

    text = re.sub(r"\{(?P<name>chunk_index|file_index|video_key)(?::0(?P<width>[1-9])d)?\}", put_in, template)
    path = PurePosixPath(text)
    if not text or "{" in text or "\\" in text or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{template!r} is not a path of a file in the dataset")
    return path


def _checked_feature(feature: dict[str, Any]) -> dict[str, Any]:
    shape = feature["shape"]
    if not isinstance(feature["dtype"], str) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"a feature has dtype {feature['dtype']!r} and shape {shape!r}")
    return feature


def _camera(key: str, name: str, feature: dict[str, Any]) -> Camera:
    """The sides are those that the names say; without names the channels, of which there are at most 4, are first or last."""
    shape, names = list(feature["shape"]), feature.get("names")
    if len(shape) != 3:
        raise DataError(f"camera {key!r} has frames of shape {shape}; height, width and channels are needed")
    if isinstance(names, list) and len(names) == 3 and "height" in names and "width" in names:
        height, width = (shape[names.index(side)] for side in ("height", "width"))
    else:
        height, width = shape[:2] if shape[2] <= 4 else shape[1:]
    return Camera(key=key, name=name, height_px=int(height), width_px=int(width), is_video=feature["dtype"] == "video")


def _distinct_names(keys: list[str]) -> dict[str, str]:
    """By feature, the camera's name: the end of the key, or all of it where two ends are the same."""
    short = {key: re.sub(r"[^A-Za-z0-9_-]", "_", key.removeprefix(IMAGES_PREFIX).removeprefix("observation.")) for key in keys}
    if len(set(short.values())) == len(keys):
        return short
    return {key: re.sub(r"[^A-Za-z0-9_-]", "_", f"{number}_{key}") for number, key in enumerate(keys)}


def _is_depth(feature: dict[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return isinstance(info, dict) and bool(info.get("video.is_depth_map") or info.get("is_depth_map"))
