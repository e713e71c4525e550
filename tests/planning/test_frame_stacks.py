"""What a model of stacked frames is shown as a goal."""

import numpy as np

from lewm.planning.frame_stacks import as_goals, still
from lewm.schema import Observation, ObservationSpec

SPEC = ObservationSpec(height_px=2, width_px=2, cameras=("left", "right"), stack_offsets_env_steps=(-2, -1, 0))


def views(*numbers: int) -> np.ndarray:
    """uint8 [V, 2, 2, 3]: a view per number, filled with it."""
    return np.broadcast_to(np.array(numbers, np.uint8)[:, None, None, None], (len(numbers), 2, 2, 3))


def test_what_was_seen_becomes_a_goal_with_the_newest_frame_of_each_camera_in_every_place():
    seen = Observation(np.stack([np.stack([views(1, 2, 3, 4, 5, 6), views(7, 8, 9, 10, 11, 12)])] * 3))  # C T V Y X 3
    expected = np.stack([np.stack([views(3, 3, 3, 6, 6, 6), views(9, 9, 9, 12, 12, 12)])] * 3)
    np.testing.assert_array_equal(as_goals(seen, SPEC).frames, expected)


def test_a_goal_frame_is_shown_as_what_was_seen_of_it_is():
    seen = Observation(views(1, 2, 3, 4, 5, 6)[None])
    np.testing.assert_array_equal(still(Observation(views(3, 6)[None]), SPEC).frames, as_goals(seen, SPEC).frames)
