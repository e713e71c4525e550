"""Runs beside the door of two-room are the runs through it but for their height, and cannot be made by the world."""

import numpy as np
import pytest

from lewm.envs.two_room.batch import TwoRoomBatch
from lewm.evaluation.wall_crossings import SIZES_PX, _door_heights, _wall_heights, matched, wall_crossings, why_no_crossings

NUM_RUNS = 64


def envs(**options: object) -> TwoRoomBatch:
    batch = TwoRoomBatch(NUM_RUNS, **options)
    batch.reset(list(range(NUM_RUNS)))
    return batch


def test_both_runs_of_a_pair_have_the_same_actions_and_differ_from_the_first_frame_on() -> None:
    control, crossing = wall_crossings(8, 5, {"size_px": 32, "vary": ("door_y_px",)}, (20, 60), seed=3)
    np.testing.assert_array_equal(control.blocks, crossing.blocks)
    assert set(np.unique(control.blocks[..., ::2])) == {-1.0, 1.0}
    assert (control.observations.frames[:, 0] != crossing.observations.frames[:, 0]).any((1, 2, 3, 4)).all()


def test_the_dot_is_at_the_same_x_in_both_runs_of_a_pair() -> None:
    pair = wall_crossings(8, 5, {"size_px": 32, "vary": ("door_y_px",)}, (20, 60), seed=3)
    found = [columns_of_the_dot(part.observations.frames) for part in pair]
    np.testing.assert_allclose(found[0], found[1], atol=0.6)  # but for what the wall hides of the dot


@pytest.mark.parametrize("collision", ["swept", "official"])
@pytest.mark.parametrize("size", [0.0, *SIZES_PX])
def test_agents_pass_at_heights_of_the_door_and_at_no_height_beside_it(size: float, collision: str) -> None:
    batch = envs(collision=collision, vary=("door_y_px", "door_half_size_px"))
    generator = np.random.default_rng(0)
    moments = batch.moments
    heights = _wall_heights(moments, batch.options, (size, size), generator) if size else _door_heights(moments, generator)
    signs = np.where(np.arange(NUM_RUNS) % 2, 1.0, -1.0)
    batch.set_states(batch.states_at(np.stack([112 - 12.5 * signs, heights], 1)))
    for _ in range(5):
        batch.step(np.stack([signs, np.zeros(NUM_RUNS)], 1))
    has_crossed = signs * (batch.labels()[:, 0] - 112) > 0
    np.testing.assert_array_equal(has_crossed, np.full(NUM_RUNS, size == 0))


def test_runs_beside_the_door_are_as_far_from_it_as_asked_for_above_and_below() -> None:
    batch = envs(vary=("door_y_px",))
    moments = batch.moments
    beside = np.abs(_wall_heights(moments, batch.options, (4, 4), np.random.default_rng(0)) - moments["door_y_px"])
    np.testing.assert_allclose(beside, 14 - 7 + 4)
    signs = np.sign(_wall_heights(moments, batch.options, (4, 4), np.random.default_rng(0)) - moments["door_y_px"])
    assert 0.3 < (signs > 0).mean() < 0.7


def test_matched_runs_are_nearly_equal_within_their_group_and_none_comes_twice() -> None:
    generator = np.random.default_rng(0)
    control, crossing, groups = generator.normal(0, 1, 200), generator.normal(0.8, 1, 200), generator.integers(0, 2, 200)
    first, second = matched(control, crossing, groups, caliper=0.05)
    assert len(first) > 60
    assert len(set(first.tolist())) == len(set(second.tolist())) == len(first) == len(second)
    np.testing.assert_array_equal(groups[first], groups[second])
    assert np.abs(control[first] - crossing[second]).max() <= 0.05


def test_a_step_that_is_too_short_to_cross_the_wall_is_said_to_be() -> None:
    assert why_no_crossings({}, 5) is None
    assert why_no_crossings({}, 4) == "a model step of 20 px cannot lead from one side of the wall to the other (24 px)"
    assert why_no_crossings({"vary": ("wall_thickness_px",)}, 5) == "a model step of 25 px cannot lead from one side of the wall to the other (44 px)"


def columns_of_the_dot(frames: np.ndarray) -> np.ndarray:
    """Mean column of the dot in px of the frame, [B, T+1]."""
    redness = np.clip(frames[:, :, 0, :, :, 0].astype(float) - frames[:, :, 0, :, :, 1], 0, None) ** 2
    found: np.ndarray = (redness.sum(2) @ (np.arange(32) + 0.5)) / redness.sum((2, 3))
    return found
