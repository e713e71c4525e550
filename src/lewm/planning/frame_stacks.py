"""The last frames of episodes in flight, for models that see stacked ones.

Axes: E episode, K kept frame, V view (cameras x stacked frames), Y X image.
"""

import numpy as np

from lewm.schema import Observation, ObservationSpec


def empty_frames(spec: ObservationSpec, num_episodes: int) -> np.ndarray | None:
    """uint8 [E, K, cameras, Y, X, 3], K as far back as the oldest stacked frame; None where nothing is stacked."""
    offsets = spec.stack_offsets_env_steps
    if len(offsets) == 1:
        return None
    return np.zeros((num_episodes, 1 - offsets[0], len(spec.cameras), spec.height_px, spec.width_px, 3), dtype=np.uint8)


def with_newest(kept: np.ndarray, frames: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """The kept frames with the present ones [E, cameras, Y, X, 3] last; before an episode's first frame there is only that frame."""
    moved = np.concatenate([kept[:, 1:], frames[:, None]], axis=1)
    moved[is_first] = frames[is_first, None]
    return moved


def stacked(kept: np.ndarray, spec: ObservationSpec) -> np.ndarray:
    """uint8 [E, V, Y, X, 3]: what the model is shown."""
    picked = kept[:, [offset - 1 for offset in spec.stack_offsets_env_steps]]
    return picked.swapaxes(1, 2).reshape(len(picked), -1, *picked.shape[3:])  # E stack cameras Y X 3 -> E V Y X 3


def still(goals: Observation[np.ndarray], spec: ObservationSpec) -> Observation[np.ndarray]:
    """Goals, one frame per camera, as the model is shown them: the same frame in every place of the stack."""
    num_stacked = len(spec.stack_offsets_env_steps)
    frames = np.repeat(goals.frames, num_stacked, axis=-4) if num_stacked > 1 else goals.frames
    return Observation(frames, goals.proprioception)


def as_goals(observations: Observation[np.ndarray], spec: ObservationSpec) -> Observation[np.ndarray]:
    """What was seen, frames [..., V, Y, X, 3], shown as goals are: the newest frame of each camera in every place of the stack."""
    num_stacked = len(spec.stack_offsets_env_steps)
    return still(Observation(observations.frames[..., num_stacked - 1 :: num_stacked, :, :, :], observations.proprioception), spec)
