"""How a native dataset looks in LeRobot's terms: features, rows, tasks and ``meta/info.json``.

Axes: N env step, n row.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from lewm.data.formats.lerobot_layout import (
    ACTION,
    DATA_TEMPLATE,
    DONE,
    FILES_PER_CHUNK,
    IMAGES_PREFIX,
    LABELS,
    REWARD,
    STATE,
    TRUNCATED,
    VERSION,
    VIDEO_TEMPLATE,
)
from lewm.data.formats.video_encoding import PIXEL_FORMAT
from lewm.data.layout import DatasetMeta
from lewm.schema import Episode

DEFAULT_TASK = "unspecified"
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
"""LeRobot's own limits, which it goes by if it continues a dataset."""


def camera_key(camera: str) -> str:
    """The feature of a camera."""
    return IMAGES_PREFIX + camera


def rows_of(episode: Episode, fps: float, number: int, first_index: int, task_index: int) -> dict[str, np.ndarray]:
    """The columns of an episode, [N+1] or [N+1, d]."""
    num_rows = episode.num_env_steps + 1
    found: dict[str, np.ndarray] = {}
    if episode.observations.proprioception is not None:
        found[STATE] = episode.observations.proprioception
    if episode.labels is not None:
        found[LABELS] = episode.labels
    if episode.actions is not None:
        found[ACTION] = np.concatenate([episode.actions, episode.actions[-1:]])
    if episode.rewards is not None:
        found[REWARD] = np.concatenate([episode.rewards, np.zeros(1, np.float32)])
    is_end = np.arange(num_rows) >= num_rows - 2  # the last transition, and the row that it leads to
    found |= {DONE: is_end, TRUNCATED: is_end & (not episode.terminated)}
    frame = np.arange(num_rows)
    found |= {"timestamp": (frame / fps).astype(np.float32), "frame_index": frame, "episode_index": np.full(num_rows, number)}
    return found | {"index": first_index + frame, "task_index": np.full(num_rows, task_index)}


def features_of(meta: DatasetMeta, fps: float) -> dict[str, Any]:
    """``features`` of ``meta/info.json``."""
    spec, columns = meta.observation_spec, meta.columns

    def numbers(dtype: str, names: list[str] | None, count: int = 1) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [count], "names": names}

    found: dict[str, Any] = {}
    if spec.proprioception:
        found[STATE] = numbers("float32", list(spec.proprioception), len(spec.proprioception))
    if meta.label_names:
        found[LABELS] = numbers("float32", list(meta.label_names), len(meta.label_names))
    if "actions" in columns:
        names = meta.provenance.get("action_names")
        count = 1 if meta.action_spec.kind == "discrete" else meta.action_spec.dimension
        names = names if isinstance(names, list) and len(names) == count else [f"action_{place}" for place in range(count)]
        found[ACTION] = numbers("int64" if meta.action_spec.kind == "discrete" else "float32", names, count)
    if meta.has_rewards:
        found[REWARD] = numbers("float32", None)
    found |= {DONE: numbers("bool", None), TRUNCATED: numbers("bool", None)}
    for camera in spec.cameras:
        found[camera_key(camera)] = {
            "dtype": "video",
            "shape": [spec.height_px, spec.width_px, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": spec.height_px,
                "video.width": spec.width_px,
                "video.codec": "h264",
                "video.pix_fmt": PIXEL_FORMAT,
                "video.is_depth_map": False,
                "video.fps": _plain(fps),
                "video.channels": 3,
                "has_audio": False,
            },
        }
    found |= {"timestamp": numbers("float32", None)}
    return found | {name: numbers("int64", None) for name in ("frame_index", "episode_index", "index", "task_index")}


def info_of(meta: DatasetMeta, *, fps: float, num_episodes: int, num_rows: int, num_tasks: int) -> dict[str, Any]:
    """``meta/info.json``."""
    return {
        "codebase_version": VERSION,
        "robot_type": str(meta.provenance.get("robot_type") or meta.env.get("name") or "unknown"),
        "total_episodes": num_episodes,
        "total_frames": num_rows,
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": _plain(fps),
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": DATA_TEMPLATE,
        "video_path": VIDEO_TEMPLATE,
        "features": features_of(meta, fps),
    }


def tasks_table(tasks: list[str]) -> pa.Table:
    """``meta/tasks.parquet``: the texts are the index of what pandas makes of it, as LeRobot expects."""
    columns = [("task_index", "int64", "int64", "task_index"), (None, "unicode", "object", "__index_level_0__")]
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
            for name, kind, numpy_kind, field in columns
        ],
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def _plain(fps: float) -> float | int:
    return int(fps) if fps == int(fps) else fps
