"""The two-room environment: episodes, states, goals, options."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lewm.envs.base import make_batch
from lewm.envs.two_room.env import TwoRoom, TwoRoomBatch
from lewm.envs.two_room.layout import PERTURBATIONS
from lewm.envs.two_room.physics import LegalSpace
from lewm.errors import EnvError

ALL = tuple(PERTURBATIONS)


def random_actions(num_env_steps: int, num_envs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (num_env_steps, num_envs, 2)).astype(np.float32)


def test_gymnasium_accepts_the_environment():
    gymnasium.register("two-room-v1", entry_point=TwoRoom)
    try:
        check_env(gymnasium.make("two-room-v1", render_mode="rgb_array").unwrapped)
    finally:
        del gymnasium.registry["two-room-v1"]


def test_the_single_environment_and_a_row_of_a_batch_are_the_same_world():
    actions = random_actions(20, 3)
    batch, single = TwoRoomBatch(3, vary=ALL), TwoRoom(vary=ALL)
    batch.reset([3, 4, 5])
    single.reset(seed=4)
    for step_actions in actions:
        batch.step(step_actions)
        observation, *_ = single.step(step_actions[1])
        np.testing.assert_array_equal(observation["frames"], batch.observe().frames[1])
    assert single.get_state() == batch.get_states()[1]


def test_a_row_does_not_depend_on_its_batch_mates():
    actions = random_actions(30, 8)
    whole = TwoRoomBatch(8, vary=ALL)
    whole.reset(range(8))
    part = TwoRoomBatch(2, vary=ALL)
    part.reset([6, 1])
    for step_actions in actions:
        whole.step(step_actions)
        part.step(step_actions[[6, 1]])
    assert part.get_states() == [whole.get_states()[6], whole.get_states()[1]]
    np.testing.assert_array_equal(part.observe().frames, whole.observe().frames[[6, 1]])
    np.testing.assert_array_equal(part.observe_goals().frames, whole.observe_goals().frames[[6, 1]])


@pytest.mark.parametrize("collision", ["swept", "official"])
def test_a_restored_state_continues_exactly(collision):
    actions = random_actions(40, 5)
    first = TwoRoomBatch(5, collision=collision, vary=ALL)
    first.reset(range(5))
    for step_actions in actions[:20]:
        first.step(step_actions)
    second = TwoRoomBatch(5, collision=collision)
    second.set_states(first.get_states())
    for step_actions in actions[20:]:
        np.testing.assert_array_equal(first.step(step_actions)[0], second.step(step_actions)[0])
        assert first.get_states() == second.get_states()
        np.testing.assert_array_equal(first.observe().frames, second.observe().frames)
        np.testing.assert_array_equal(first.observe_goals().frames, second.observe_goals().frames)


def test_starts_and_goals_are_uniform_over_both_rooms_and_never_touch_a_wall():
    batch = TwoRoomBatch(2000)
    batch.reset(range(2000))
    starts, goals = batch.labels()[:, :2], batch.goal_positions_px
    space = LegalSpace.of(batch.moments)
    for positions in (starts.astype(np.float64), goals):
        assert space.is_legal(positions).all()
        assert np.mean(positions[:, 0] < 112) == pytest.approx(0.5, abs=0.045)  # four standard errors
        assert positions[:, 1].mean() == pytest.approx(112, abs=4.8)
        assert positions[:, 1].std() == pytest.approx(182 / 12**0.5, rel=0.05)
    assert np.mean((starts[:, 0] < 112) == (goals[:, 0] < 112)) == pytest.approx(0.5, abs=0.045)


def test_a_goal_is_reached_strictly_within_the_radius():
    batch = TwoRoomBatch(3, is_terminated_on_success=True)
    batch.reset(range(3))
    batch.set_goals(batch.states_at(np.full((3, 2), 60.0)))
    batch.set_states(batch.states_at(np.array([[60.0, 76.0], [60.0, 75.9], [76.1, 60.0]])))
    np.testing.assert_array_equal(batch.is_solved(), [False, True, False])
    rewards, terminated = batch.step(np.zeros((3, 2)))
    np.testing.assert_array_equal(rewards, np.float32([0, 1, 0]))
    np.testing.assert_array_equal(terminated, [False, True, False])


def test_the_goal_frame_shows_the_world_in_the_goal_state():
    env = TwoRoom()
    env.reset(seed=1)
    target = env.get_state()
    shown = env.step(np.zeros(2, np.float32))[0]["frames"]
    env.reset(seed=2)
    env.set_goal(target)
    np.testing.assert_array_equal(env.goal_frame(), shown)


def test_an_episode_is_truncated_at_its_limit_and_terminated_only_if_asked():
    env = TwoRoom(max_env_steps=3)
    env.reset(seed=0)
    env.set_goal(env.get_state())
    results = [env.step(np.zeros(2, np.float32)) for _ in range(3)]
    assert [result[3] for result in results] == [False, False, True]
    assert not any(result[2] for result in results)
    assert [result[1] for result in results] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ALL)
def test_a_varied_perturbation_differs_between_episodes_and_stays_in_its_range(name):
    batch = TwoRoomBatch(200, vary=(name,))
    batch.reset(range(200))
    values = batch.moments[name].reshape(200, -1)
    perturbation = PERTURBATIONS[name]
    assert (values >= perturbation.low).all()
    assert (values <= perturbation.high).all()
    spread = (np.array(perturbation.high) - perturbation.low) / 12**0.5
    np.testing.assert_allclose(values.std(0), spread, rtol=0.25)
    for other in ALL:
        if other != name:
            assert (batch.moments[other] == batch.moments[other][0]).all()


def test_varied_layouts_always_let_the_agent_through_and_show_it():
    batch = TwoRoomBatch(2000, size_px=16, vary=ALL)
    batch.reset(range(2000))
    moments = batch.moments
    assert (moments["door_half_size_px"] >= 1.1 * moments["agent_radius_px"] - 1e-9).all()
    assert (np.abs(moments["agent_color"].astype(int) - moments["background_color"]).sum(-1) >= 128).all()


@pytest.mark.parametrize("name", ALL)
def test_a_perturbation_outside_its_range_is_refused_with_the_range(name):
    low, high = PERTURBATIONS[name].low, PERTURBATIONS[name].high
    for bad in (low[0] - 1, high[0] + 1, float("nan")):
        value = bad if len(low) == 1 else (bad, *high[1:])
        with pytest.raises(EnvError, match=rf"{name} must be .*\[{low[0]:g}, {high[0]:g}\], got"):
            TwoRoomBatch(1, **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_px": 8}, r"size_px must be a whole number in \[16, 1024\], got 8"),
        ({"size_px": 64.0}, r"size_px must be a whole number"),
        ({"collision": "none"}, r"collision must be 'swept' or 'official', got 'none'"),
        ({"success_radius_px": 0}, r"success_radius_px must be in \[1, 224\], got 0"),
        ({"max_env_steps": 0}, r"max_env_steps must be a whole number in \[1, "),
        ({"vary": ("door_y",)}, r"unknown perturbation 'door_y'. Did you mean 'door_y_px'\?"),
        ({"vary": "door_y_px"}, r"vary must be a tuple of names"),
        ({"size": 64}, r"env 'two-room' has no option 'size'. Did you mean 'size_px'\?"),
        ({"agent_radius_px": 12, "door_half_size_px": 13}, r"door_half_size_px \(13\) must be at least 1.1 x agent_radius_px \(12\)"),
        ({"agent_color": (250, 250, 250)}, r"agent_color \(250, 250, 250\) cannot be told from background_color"),
        ({"agent_color": (255, 0.5, 0)}, r"agent_color must be 3 whole numbers"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(options, message):
    with pytest.raises(EnvError, match=message):
        make_batch("two-room", 2, **options)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 3)), r"actions must be numbers of shape \(2, 2\), got float64 \(2, 3\)"),
        (np.zeros(2), r"actions must be numbers of shape \(2, 2\)"),
        (np.array([[0, 0], [0, np.nan]]), r"finite and within \[-1, 1\], got \[0.0, nan\] for episode 1"),
        (np.array([[0, 1.001], [0, 0]]), r"finite and within \[-1, 1\], got \[0.0, 1.001\] for episode 0; clip them"),
        (np.array([["a", "b"], ["c", "d"]]), r"actions must be numbers"),
    ],
)
def test_actions_are_never_clipped_or_reshaped_silently(actions, message):
    batch = TwoRoomBatch(2)
    batch.reset([0, 1])
    before = batch.get_states()
    with pytest.raises(EnvError, match=message):
        batch.step(actions)
    assert batch.get_states() == before


def test_states_of_another_world_version_or_place_are_refused():
    batch = TwoRoomBatch(1)
    batch.reset([0])
    state = batch.get_states()[0]
    bad_position = bytearray(state)
    bad_position[10:26] = np.array([112.0, 150.0]).tobytes()
    bad_door = bytearray(state)
    bad_door[40:48] = np.array([500.0]).tobytes()
    for bad, message in (
        (b"push-t--" + state[8:], r"not a state of 'two-room': it begins with b'push-t--'"),
        (state[:8] + b"\x09\x00" + state[10:], r"must have version 1 and 158 bytes, got version 9 and 158 bytes"),
        (state[:-1], r"got version 1 and 157 bytes"),
        (state.hex(), r"a state must be bytes .*got str; decode hexadecimal"),
        (b"two-room", r"got version none and 8 bytes"),
        (bytes(bad_position), r"position \(112, 150\) px is not legal"),
        (bytes(bad_door), r"door_y_px must be in \[35, 189\], got 500"),
    ):
        with pytest.raises(EnvError, match=message):
            batch.set_states([bad])
    assert batch.get_states() == [state]


def test_an_environment_without_an_episode_or_with_wrong_counts_says_so():
    batch = TwoRoomBatch(2)
    with pytest.raises(EnvError, match="no episode yet; call reset"):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(EnvError, match="seeds: got 1 for 2 episodes"):
        batch.reset([0])
    with pytest.raises(EnvError, match=r"a seed must be in \[0, 2\*\*64\), got -1"):
        TwoRoom().reset(seed=-1)
    with pytest.raises(EnvError, match=r"takes no reset options, got \['door'\]"):
        TwoRoom().reset(seed=1, options={"door": 3})


def test_strata_tell_cross_room_from_same_room_and_leave_out_unusable_pairs():
    batch = TwoRoomBatch(1)
    start = np.float32([[50, 50, 49], [50, 50, 49], [50, 50, 49], [50, 50, 49], [105, 49, 49], [50, 50, 49], [10, 50, 49], [50, 50, 49]])
    goal = np.float32([[150, 50, 49], [50, 100, 49], [50, 65.9, 49], [50, 66, 49], [50, 50, 49], [124, 49, 49], [60, 50, 49], [150, 50, 60]])
    # cross, same, solved, just not solved, start in the doorway, goal touching the wall, outside, different doors
    np.testing.assert_array_equal(batch.strata(start, goal), [0, 1, -1, 1, -1, -1, -1, -1])
