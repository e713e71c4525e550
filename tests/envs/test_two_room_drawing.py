"""The frames of two-room, against a plain renderer that draws every pixel of one frame at a time."""

import numpy as np
import pytest

from lewm.bench.references import plain_two_room_frame
from lewm.envs.two_room.drawing import draw_background
from lewm.envs.two_room.env import TwoRoomBatch
from lewm.errors import EnvError


def everything_varied(num_envs: int, size_px: int) -> TwoRoomBatch:
    names = ("agent_color", "agent_radius_px", "background_color", "door_y_px", "door_half_size_px", "wall_thickness_px")
    batch = TwoRoomBatch(num_envs, size_px=size_px, vary=names)
    batch.reset(range(num_envs))
    return batch


@pytest.mark.parametrize("size_px", [16, 31, 64, 96, 224, 300])
def test_frames_equal_the_plain_renderer_within_one_grey_level(size_px):
    for batch in (everything_varied(40, size_px), TwoRoomBatch(8, size_px=size_px)):
        batch.reset(range(batch.num_envs))
        frames, moments = batch.observe().frames, batch.moments
        for frame, moment in zip(frames[:, 0], moments, strict=True):
            assert np.abs(frame - plain_two_room_frame(moment, size_px)).max() <= 1.0


def test_agents_in_every_corner_and_in_the_door_are_drawn_whole():
    batch = TwoRoomBatch(5, size_px=64)
    batch.reset(range(5))
    batch.set_states(batch.states_at(np.array([[21.0, 21.0], [203.0, 21.0], [21.0, 203.0], [203.0, 203.0], [112.0, 49.0]])))
    for frame, moment in zip(batch.observe().frames[:, 0], batch.moments, strict=True):
        assert np.abs(frame - plain_two_room_frame(moment, 64)).max() <= 1.0


def test_walls_at_224_px_are_crisp_and_where_the_geometry_says():
    batch = TwoRoomBatch(1, size_px=224)
    batch.reset([0])
    background = draw_background(batch.moments[0], 224)
    assert set(np.unique(background)) == {0, 255}
    is_wall = background[:, :, 0] == 0
    np.testing.assert_array_equal(np.flatnonzero(is_wall[150]), [*range(10, 14), *range(107, 117), *range(210, 214)])
    np.testing.assert_array_equal(np.flatnonzero(~is_wall[20:200, 112]) + 20, range(35, 63))


def test_walls_keep_their_area_at_every_size():
    batch = TwoRoomBatch(1)
    batch.reset([0])
    darkness = [1 - draw_background(batch.moments[0], size_px).mean() / 255 for size_px in (31, 64, 224, 500)]
    np.testing.assert_allclose(darkness, darkness[2], atol=2e-3)


def test_a_frame_depends_on_the_state_alone_not_on_what_was_drawn_before_or_beside_it():
    batch = everything_varied(12, 64)
    generator = np.random.default_rng(0)
    for _ in range(10):
        batch.step(generator.uniform(-1, 1, (12, 2)))
        batch.observe()
    frames, states = batch.observe().frames, batch.get_states()
    alone = TwoRoomBatch(1, size_px=64)
    for frame, state in zip(frames, states, strict=True):
        alone.set_states([state])
        np.testing.assert_array_equal(alone.observe().frames[0], frame)


def test_observations_belong_to_the_caller():
    batch = TwoRoomBatch(4)
    batch.reset(range(4))
    first = batch.observe().frames
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(batch.observe().frames, kept)


def test_frames_are_drawn_into_a_given_array():
    batch = TwoRoomBatch(4)
    batch.reset(range(4))
    room = np.full((6, 1, 64, 64, 3), 9, np.uint8)
    returned = batch.observe(out=room[1:5]).frames
    assert np.shares_memory(returned, room)
    np.testing.assert_array_equal(room[1:5], batch.observe().frames)
    assert (room[[0, 5]] == 9).all()


@pytest.mark.parametrize(
    "out", [np.zeros((4, 64, 64, 3), np.uint8), np.zeros((4, 1, 64, 64, 3), np.float32), np.zeros((4, 1, 64, 64, 6), np.uint8)[..., ::2]]
)
def test_an_array_that_frames_cannot_be_drawn_into_is_refused(out):
    batch = TwoRoomBatch(4)
    batch.reset(range(4))
    with pytest.raises(EnvError, match=r"out must be a writeable, C-contiguous uint8 array of shape \(4, 1, 64, 64, 3\)"):
        batch.observe(out=out)


def test_pixel_noise_has_the_asked_strength_and_is_a_function_of_seed_and_env_step():
    # Grey, so that the noise is not cut off at 0 or 255.
    noisy = TwoRoomBatch(3, pixel_noise_std=0.05, background_color=(128, 128, 128))
    clean = TwoRoomBatch(3, background_color=(128, 128, 128))
    for batch in (noisy, clean):
        batch.reset([5, 6, 5])
    noise = noisy.observe().frames.astype(int) - clean.observe().frames
    is_floor = (clean.observe().frames == 128).all(-1)
    assert noise[is_floor].std() == pytest.approx(0.05 * 255, rel=0.02)  # 3 x 9,000 values: 2 % is five standard errors
    assert abs(noise[is_floor].mean()) < 0.5
    np.testing.assert_array_equal(noise[0], noise[2])
    assert (noise[0] != noise[1]).any()
    np.testing.assert_array_equal(noisy.observe().frames, noisy.observe().frames)
    before = noisy.observe().frames
    noisy.step(np.zeros((3, 2)))
    assert (noisy.observe().frames != before).any()
