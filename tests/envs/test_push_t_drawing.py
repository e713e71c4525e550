"""The frames of Push-T, against gym-pusht's and against themselves at other sizes and in other batches."""

import warnings

import gymnasium
import numpy as np
import pytest

from lewm.envs.push_t.env import PushTBatch
from lewm.envs.push_t.layout import PERTURBATIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pygame's, about how it finds its own data
    import gym_pusht  # noqa: F401  (registers its environment)

LOOKS = tuple(name for name in PERTURBATIONS if name not in ("pixel_noise_std", "friction"))


def drawn(num_envs=1, **options):
    batch = PushTBatch(num_envs, **options)
    batch.reset(range(num_envs))
    return batch


def put(batch, agent, block, angle):
    rows = batch.num_envs
    state = batch.states_at(agent_px=np.tile(agent, (rows, 1)), block_px=np.tile(block, (rows, 1)), block_rad=np.full(rows, angle))
    batch.set_states(state)
    return state


@pytest.mark.parametrize("size_px", [64, 96, 224])
def test_sampled_frames_with_the_goal_zone_look_like_gym_pushts(size_px):
    theirs = gymnasium.make(
        "gym_pusht/PushT-v0", obs_type="pixels", observation_width=size_px, observation_height=size_px, disable_env_checker=True
    ).unwrapped
    ours = PushTBatch(1, is_absolute=True, size_px=size_px, rendering="sampled", with_goal_zone=True)
    for seed in range(5):
        theirs.reset(seed=seed)
        ours.reset([seed])
        ours.set_goals(ours.states_at(agent_px=np.full((1, 2), 50.0), block_px=np.full((1, 2), 256.0), block_rad=np.array([np.pi / 4])))
        for target in ([256, 256], theirs.block.position, [0, 0]):
            frame = theirs.step(np.array(target, np.float64))[0]
            ours.step(np.array([target], np.float64))
            difference = np.abs(ours.observe().frames[0, 0].astype(int) - frame).max(-1)
            # pygame rounds corners to whole px of 512 and draws without smoothing: pixels on an edge differ, a hundredth of all; no others do.
            assert difference.mean() < 0.6
            assert (difference > 8).mean() < 0.02


def test_frames_hold_no_goal_unless_asked():
    plain, zoned = drawn(), drawn(with_goal_zone=True)
    before = plain.observe().frames
    plain.set_goals(put(drawn(), (60.0, 60.0), (256.0, 256.0), 1.0))
    np.testing.assert_array_equal(plain.observe().frames, before)
    is_green = (np.abs(zoned.observe().frames.astype(int) - (144, 238, 144)) <= 1).all(-1)
    assert is_green.sum() > 50


@pytest.mark.parametrize("size_px", [16, 64, 100])
def test_a_smooth_frame_is_the_average_of_a_larger_one(size_px):
    frame, finer = (drawn(6, size_px=size_px, supersampling=factor).observe().frames.astype(int) for factor in (1, 8))
    difference = np.abs(frame - finer)
    # Coverage from the distance to an edge is exact for straight edges along an axis; slanted edges and corners are a little off.
    assert difference.mean() < 0.6
    assert difference.max() <= 48


def test_the_area_of_the_block_is_the_same_at_every_angle_and_size():
    areas = []
    for size_px in (64, 224):
        for angle in (0.0, 0.4, 2.0, 5.0):
            batch = drawn(size_px=size_px)
            put(batch, (30.0, 480.0), (256.0, 256.0), angle)
            far = batch.observe().frames[0, 0, :, size_px // 4 : -size_px // 16].astype(float)
            areas.append((255 - far).sum() / size_px**2)
    np.testing.assert_allclose(areas, np.mean(areas), rtol=0.06)


def test_the_block_lies_over_the_pusher_and_the_walls_over_both():
    batch = drawn(size_px=256)
    put(batch, (256.0, 262.0), (256.0, 256.0), 0.0)
    frame = batch.observe().frames[0, 0]
    assert np.ptp(frame[133, 127].astype(int)) < 60  # grey: the block, not the pusher
    put(batch, (5.0, 256.0), (256.0, 256.0), 0.0)
    np.testing.assert_array_equal(batch.observe().frames[0, 0, 128, 2], [211, 211, 211])


def test_a_frame_depends_on_the_state_alone_not_on_what_was_drawn_before_or_beside_it():
    batch = drawn(12, vary=LOOKS, with_goal_zone=True)
    for _ in range(5):
        batch.step(np.random.default_rng(0).uniform(-1, 1, (12, 2)))
        batch.observe()
    alone = PushTBatch(1, with_goal_zone=True)
    for frame, state in zip(batch.observe().frames, batch.get_states(), strict=True):
        alone.set_states([state])
        np.testing.assert_array_equal(alone.observe().frames[0], frame)


def test_varied_looks_can_be_told_from_the_background():
    moments = drawn(300, size_px=16, vary=LOOKS).moments
    for name in ("agent_color", "block_color"):
        assert (np.abs(moments[name].astype(int) - moments["background_color"]).sum(-1) >= 128).all()


def test_pixel_noise_is_a_function_of_seed_and_env_step():
    noisy, clean = drawn(2, pixel_noise_std=0.05, background_color=(128, 128, 128), block_color=(0, 0, 0), agent_color=(0, 0, 0)), None
    clean = drawn(2, background_color=(128, 128, 128), block_color=(0, 0, 0), agent_color=(0, 0, 0))
    noise = noisy.observe().frames.astype(int) - clean.observe().frames
    assert noise[(clean.observe().frames == 128).all(-1)].std() == pytest.approx(0.05 * 255, rel=0.05)
    np.testing.assert_array_equal(noisy.observe().frames, noisy.observe().frames)
    assert (noise[0] != noise[1]).any()
