"""The frames that a plan starts from and goes to: image files, or rows of a dataset.

Axes: V view, Y X image.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lewm.data.formats.store import Store
from lewm.data.resizing import Resizing
from lewm.errors import ConfigError, DataError
from lewm.schema import Observation, ObservationSpec

ROW = re.compile(r"(\d+):(\d+)")


def frame_of(text: str, spec: ObservationSpec, store: Store | None, *, is_resized: bool, is_still: bool) -> Observation[np.ndarray]:
    """``EPISODE:STEP`` of the dataset or an image file as an observation [1, V, Y, X, 3] that a model of ``spec`` takes.

    ``is_still`` repeats a dataset's frame over the stack, as goals are shown, instead of stacking the frames before it; a file is always still.
    """
    row = ROW.fullmatch(text)
    if row is None or Path(text).exists():
        return _of_file(Path(text), spec, is_resized)
    if store is None:
        raise ConfigError(f"{text!r} is a row of a dataset: say of which one with --data DIR (or give an image file)")
    return _of_row(store, int(row[1]), int(row[2]), spec, is_still)


def _of_row(store: Store, episode_id: int, env_step: int, spec: ObservationSpec, is_still: bool) -> Observation[np.ndarray]:
    episode = store.episode(episode_id)
    if env_step > episode.num_env_steps:
        raise DataError(f"episode {episode_id} of {str(store.path)!r} has env steps 0 to {episode.num_env_steps}, got {env_step}")
    offsets = (0,) * len(spec.stack_offsets_env_steps) if is_still else spec.stack_offsets_env_steps
    frames = episode.observations.frames[[max(0, env_step + offset) for offset in offsets]]  # stack cameras Y X 3
    stacked = frames.swapaxes(0, 1).reshape(1, -1, *frames.shape[2:])  # the stack of the first camera comes first
    proprioception = episode.observations.proprioception
    return Observation(np.ascontiguousarray(stacked), None if proprioception is None else proprioception[None, env_step])


def _of_file(path: Path, spec: ObservationSpec, is_resized: bool) -> Observation[np.ndarray]:
    expected = f"{spec.height_px} x {spec.width_px} px RGB of 8 bits (height x width)"
    if len(spec.cameras) > 1 or spec.proprioception:
        missing = f"{len(spec.cameras)} cameras" if len(spec.cameras) > 1 else f"proprioception ({', '.join(spec.proprioception)})"
        raise ConfigError(f"this model sees {missing}, which an image file does not have: give EPISODE:STEP of a dataset")
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise DataError(f"there is no image file {str(path)!r}; give one, or EPISODE:STEP with --data DIR") from None
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as an image: {error}; expected {expected}") from None
    if image.mode != "RGB":
        raise DataError(f"{str(path)!r} is an image of mode {image.mode!r}; expected {expected}: convert it")
    frames = np.asarray(image)[None, None]  # Y X 3 -> 1 1 Y X 3
    if frames.shape[2:4] != (spec.height_px, spec.width_px):
        if not is_resized:
            raise DataError(f"{str(path)!r} has {frames.shape[2]} x {frames.shape[3]} px; expected {expected}: --resize scales it")
        frames = Resizing(height_px=spec.height_px, width_px=spec.width_px).apply(frames)
    return Observation(np.repeat(frames, len(spec.stack_offsets_env_steps), axis=1))
