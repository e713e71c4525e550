"""Scripted policies: random ones for every world, experts for two-room."""

from types import SimpleNamespace

import numpy as np
import pytest

from lewm.envs.policies import POLICIES, BlockRandomPolicy, OUPolicy, RandomPolicy
from lewm.envs.two_room.env import TwoRoom, TwoRoomBatch
from lewm.envs.two_room.policies import ExpertPolicy, NoiselessExpertPolicy
from lewm.errors import EnvError
from lewm.schema import ActionSpec

ALL_POLICIES = {**POLICIES, **TwoRoom.POLICIES}
LAYOUT = ("agent_radius_px", "door_y_px", "door_half_size_px", "wall_thickness_px")


def roll(policy, seeds, num_env_steps, **options):
    """Positions [N+1, E, 2] and actions [N, E, 2]."""
    batch = TwoRoomBatch(len(seeds), size_px=16, **options)
    batch.reset(seeds)
    policy.reset(batch, seeds, num_env_steps)
    positions, actions = [batch.moments["position_px"]], []
    for _ in range(num_env_steps):
        actions.append(policy.act(batch))
        batch.step(actions[-1])
        positions.append(batch.moments["position_px"])
    return np.stack(positions), np.stack(actions), batch


@pytest.mark.parametrize("name", sorted(ALL_POLICIES))
def test_an_episode_is_the_same_alone_and_in_any_batch(name):
    _, together, _ = roll(ALL_POLICIES[name](), [1, 2, 3, 4], 60, vary=LAYOUT)
    _, alone, _ = roll(ALL_POLICIES[name](), [3], 60, vary=LAYOUT)
    np.testing.assert_array_equal(together[:, 2:3], alone)
    assert together.dtype == np.float32
    assert (np.abs(together) <= 1).all()


@pytest.mark.parametrize("name", sorted(ALL_POLICIES))
def test_a_longer_limit_continues_the_same_episode(name):
    policy, batch = ALL_POLICIES[name](), TwoRoomBatch(2, size_px=16)
    batch.reset([5, 6])
    policy.reset(batch, [5, 6], 100)
    longer = [policy.act(batch)]
    for _ in range(11):
        batch.step(longer[-1])
        longer.append(policy.act(batch))
    _, shorter, _ = roll(ALL_POLICIES[name](), [5, 6], 12)
    np.testing.assert_array_equal(np.stack(longer), shorter)


@pytest.mark.parametrize("name", sorted(ALL_POLICIES))
def test_acting_beyond_the_limit_is_refused(name):
    policy, batch = ALL_POLICIES[name](), TwoRoomBatch(1)
    batch.reset([0])
    policy.reset(batch, [0], 1)
    policy.act(batch)
    with pytest.raises(EnvError, match="reset for 1 env steps and asked for one more"):
        policy.act(batch)


def test_random_actions_are_uniform_and_held_ones_last_as_long_as_asked():
    batch = SimpleNamespace(num_envs=50, action_spec=ActionSpec(kind="continuous", low=(-2.0, 0.0), high=(0.0, 10.0)))
    policy = RandomPolicy()
    policy.reset(batch, range(50), 100)
    actions = np.stack([policy.act(batch) for _ in range(100)]).reshape(-1, 2)
    np.testing.assert_allclose(actions.mean(0), [-1, 5], rtol=0.05)
    np.testing.assert_allclose(actions.std(0), np.array([2, 10]) / 12**0.5, rtol=0.05)
    held = BlockRandomPolicy(hold_env_steps=4)
    held.reset(batch, range(50), 10)
    actions = np.stack([held.act(batch) for _ in range(10)])
    changes = (np.diff(actions, axis=0) != 0).all((1, 2))
    np.testing.assert_array_equal(np.flatnonzero(changes), [3, 7])


def test_discrete_worlds_get_choices():
    batch = SimpleNamespace(num_envs=3, action_spec=ActionSpec(kind="discrete", num_choices=4))
    policy = RandomPolicy()
    policy.reset(batch, range(3), 200)
    actions = np.stack([policy.act(batch) for _ in range(200)])
    assert actions.shape == (200, 3)
    assert actions.dtype == np.int64
    assert set(np.unique(actions)) == {0, 1, 2, 3}


def test_a_world_without_actions_and_bad_settings_are_refused():
    with pytest.raises(EnvError, match="no actions, so no policy can act"):
        RandomPolicy().reset(SimpleNamespace(num_envs=1, action_spec=ActionSpec(kind="none")), [0], 5)
    with pytest.raises(EnvError, match="hold_env_steps must be at least 1, got 0"):
        BlockRandomPolicy(hold_env_steps=0)
    with pytest.raises(EnvError, match=r"repeat_probability must be in \[0, 1\), got 1"):
        ExpertPolicy(repeat_probability=1)
    with pytest.raises(EnvError, match="action_noise must be at least 0, got -1"):
        ExpertPolicy(action_noise=-1)
    with pytest.raises(EnvError, match="seeds: got 2 for 1 episodes"):
        RandomPolicy().reset(TwoRoomBatch(1), [0, 1], 5)
    with pytest.raises(EnvError, match="the two-room experts need a TwoRoomBatch, got SimpleNamespace"):
        ExpertPolicy().act(SimpleNamespace())


@pytest.mark.parametrize("collision", ["swept", "official"])
@pytest.mark.parametrize("vary", [(), LAYOUT])
def test_the_noiseless_expert_stops_on_exactly_its_goal_from_everywhere(collision, vary):
    positions, _, batch = roll(NoiselessExpertPolicy(), range(400), 150, collision=collision, vary=vary)
    assert np.hypot(*(positions[-1] - batch.goal_positions_px).T).max() < 1e-5


def test_the_noiseless_expert_takes_no_longer_than_the_shortest_path_by_the_corners():
    positions, _, batch = roll(NoiselessExpertPolicy(), range(400), 150, vary=LAYOUT)
    path = np.abs(np.diff(positions, axis=0)).max(-1).sum(0)  # length where a step of 5 px along an axis costs one env step
    is_moving = np.abs(np.diff(positions, axis=0)).max(-1) > 1e-4
    steps = is_moving.sum(0)
    # Each of at most four turns may cost one incomplete step.
    assert (steps <= np.ceil(path / 5) + 4).all()
    start, goal, moments = positions[0], batch.goal_positions_px, batch.moments
    # The taut string through the doorway, by brute force over where it passes the doorway's two ends.
    share = np.linspace(0, 1, 41)
    opening = (moments["door_half_size_px"] - moments["agent_radius_px"])[:, None]
    rows = moments["door_y_px"][:, None] + opening * (2 * share - 1)
    half = (moments["wall_thickness_px"] / 2 + moments["agent_radius_px"])[:, None]
    side = np.where(start[:, :1] < 112, -1, 1)
    entry, leave = 112 + side * half, 112 - side * half
    to_entry = np.hypot(entry - start[:, :1], rows - start[:, 1:])
    from_exit = np.hypot(leave - goal[:, :1], rows - goal[:, 1:])
    within = np.hypot(2 * half[..., None], rows[:, :, None] - rows[:, None, :])
    shortest = (to_entry[:, :, None] + within + from_exit[:, None, :]).min((1, 2))
    is_crossing = (start[:, 0] < 112) != (goal[:, 0] < 112)
    shortest = np.where(is_crossing, shortest, np.hypot(*(goal - start).T))
    travelled = np.hypot(*np.diff(positions, axis=0).transpose(2, 0, 1)).sum(0)
    # The clearance of 0.05 px at two corners and the grid over the doorway account for the rest.
    assert (travelled <= shortest + 0.5).all()
    assert (travelled >= shortest - 0.5).all()


@pytest.mark.parametrize("collision", ["swept", "official"])
def test_the_noisy_expert_reaches_goals_in_both_rooms(collision):
    positions, _, batch = roll(ExpertPolicy(retarget=False), range(200), 300, collision=collision)
    is_reached = (np.hypot(*(positions - batch.goal_positions_px).transpose(2, 0, 1)) < 16).any(0)
    is_crossing = (positions[0, :, 0] < 112) != (batch.goal_positions_px[:, 0] < 112)
    assert is_reached[is_crossing].mean() > 0.95
    assert is_reached[~is_crossing].mean() > 0.99


def test_without_noise_the_papers_policy_walks_at_unit_speed_through_the_door_without_dithering():
    policy = ExpertPolicy(action_noise=0.0, repeat_probability=0.0, retarget=False)
    positions, actions, batch = roll(policy, range(400), 150, vary=LAYOUT)
    np.testing.assert_allclose(np.hypot(*actions.transpose(2, 0, 1)), 1.0, atol=1e-6)
    assert (np.hypot(*(positions - batch.goal_positions_px).transpose(2, 0, 1)) < 16).any(0).all()


def test_a_retargeting_expert_keeps_moving_and_changes_rooms():
    positions, _, _ = roll(ExpertPolicy(), range(100), 300)
    late = positions[200:]
    assert np.median(np.hypot(*(late.max(0) - late.min(0)).T)) > 60
    changes = (np.diff(positions[:, :, 0] < 112, axis=0) != 0).sum(0)
    assert np.mean(changes >= 1) > 0.8


def test_expert_actions_have_the_noise_repeats_and_drift_of_the_paper():
    seeds = range(300)
    batch = TwoRoomBatch(300, size_px=16)
    batch.reset(seeds)
    policy = ExpertPolicy()
    policy.reset(batch, seeds, 40)
    actions, drift = [], []
    for _ in range(40):
        actions.append(policy.act(batch))
        way = policy.targets_px - batch.moments["position_px"]
        is_same_room = (policy.targets_px[:, 0] < 112) == (batch.moments["position_px"][:, 0] < 112)
        drift.append(((actions[-1] * way).sum(-1) / np.hypot(*way.T))[is_same_room])
        batch.step(actions[-1])
    actions = np.stack(actions)
    # A component of clip(c + N(0, 2), -1, 1) grows by P(|c + N| < 1) = 0.38 per unit of c, for |c| <= 1 between 0.34 and 0.38.
    assert np.concatenate(drift).mean() == pytest.approx(0.36, abs=0.05)
    assert np.mean(np.abs(actions) == 1) == pytest.approx(0.62, abs=0.04)


def test_the_expert_repeats_its_previous_action_as_often_as_asked():
    shares = []
    for repeat_probability in (0.0, 0.05):
        _, actions, _ = roll(ExpertPolicy(repeat_probability=repeat_probability), range(300), 40)
        shares.append((np.diff(actions, axis=0) == 0).all(-1).mean())
    # Clipped actions also repeat by chance: the rest is what a repeat adds.
    assert (shares[1] - shares[0]) / (1 - shares[0]) == pytest.approx(0.05, abs=0.012)


def test_noisy_experts_never_share_noise_between_episodes():
    _, actions, _ = roll(ExpertPolicy(), [0, 1], 50)
    assert (actions[:, 0] == actions[:, 1]).all(-1).mean() < 0.5


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (BlockRandomPolicy, {"hold_env_steps": 2.5}, "hold_env_steps must be a whole number, got 2.5"),
        (BlockRandomPolicy, {"hold_env_steps": True}, "hold_env_steps must be a whole number, got True"),
        (BlockRandomPolicy, {"hold_env_steps": "5"}, "hold_env_steps must be a whole number, got '5'"),
        (OUPolicy, {"theta": "slow"}, r"theta must be in \(0, 1\], where 1 is white noise, got 'slow'"),
        (OUPolicy, {"std": None}, r"std must be in \(0, 10\] halves of the action range, got None"),
        (ExpertPolicy, {"action_noise": float("inf")}, "action_noise must be at least 0, got inf"),
        (ExpertPolicy, {"action_noise": []}, r"action_noise must be at least 0, got \[\]"),
        (ExpertPolicy, {"retarget": 1}, "retarget must be True or False, got 1"),
        (NoiselessExpertPolicy, {"retarget": "yes"}, "retarget must be True or False, got 'yes'"),
    ],
)
def test_an_option_of_another_kind_is_refused(make, options, message):
    with pytest.raises(EnvError, match=message):
        make(**options)
