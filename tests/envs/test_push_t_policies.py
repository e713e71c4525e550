"""Scripted policies of Push-T: contacts by chance, and an expert that plans on the true simulator."""

import numpy as np
import pytest

from lewm.envs.push_t.env import PushT, PushTBatch
from lewm.envs.push_t.expert import ExpertPolicy, NoiselessExpertPolicy
from lewm.envs.push_t.geometry import distance_to_block
from lewm.envs.push_t.mixture import MixedPolicy
from lewm.envs.push_t.navigation import actions_towards, waypoints
from lewm.envs.push_t.policies import ContactPolicy, outline_place
from lewm.errors import EnvError


def roll(policy, seeds, num_env_steps, **options):
    """Moments [N+1, E], whether solved [N+1, E] and actions [N, E, 2]."""
    batch = PushTBatch(len(seeds), size_px=16, **options)
    batch.reset(seeds)
    policy.reset(batch, seeds, num_env_steps)
    moments, is_solved, actions = [batch.moments], [batch.is_solved()], []
    for _ in range(num_env_steps):
        actions.append(policy.act(batch))
        batch.step(actions[-1])
        moments.append(batch.moments)
        is_solved.append(batch.is_solved())
    return np.stack(moments), np.stack(is_solved), np.stack(actions)


def test_the_contact_policy_moves_the_block_often_and_never_off_the_table():
    moments, _, _ = roll(ContactPolicy(), range(16), 150)
    moves = np.linalg.norm(np.diff(moments["block_px"], axis=0), axis=-1)
    assert np.mean(moves > 0.5) > 0.2
    assert (np.mean(moves > 0.5, axis=0) > 0.05).all()
    assert (moments["block_px"] > 0).all()
    assert (moments["block_px"] < 512).all()


def test_the_contact_policy_turns_the_block_all_round():
    moments, _, _ = roll(ContactPolicy(), range(8), 200)
    assert np.mean(np.ptp(moments["block_rad"], axis=0) > np.pi / 2) > 0.7


@pytest.mark.parametrize("is_absolute", [False, True])
def test_an_episode_of_the_contact_policy_is_the_same_alone_and_in_a_batch_and_with_a_longer_limit(is_absolute):
    _, _, together = roll(ContactPolicy(), [1, 2, 3], 40, is_absolute=is_absolute, vary=("agent_radius_px", "block_scale_px"))
    _, _, alone = roll(ContactPolicy(), [2], 25, is_absolute=is_absolute, vary=("agent_radius_px", "block_scale_px"))
    np.testing.assert_array_equal(together[:25, 1:2], alone)


def test_acting_beyond_the_limit_and_bad_options_are_refused():
    batch, policy = PushTBatch(1, size_px=16), ContactPolicy()
    batch.reset([0])
    policy.reset(batch, [0], 1)
    policy.act(batch)
    with pytest.raises(EnvError, match="reset for 1 env steps and asked for one more"):
        policy.act(batch)
    with pytest.raises(EnvError, match="max_push_env_steps must be at least 1, got 0"):
        ContactPolicy(max_push_env_steps=0)
    with pytest.raises(EnvError, match=r"action_noise must be in \[0, 100\] px, got -1"):
        ContactPolicy(action_noise=-1)


def test_places_on_the_outline_are_on_it_and_normals_point_outwards():
    batch = PushTBatch(1, size_px=16)
    batch.reset([0])
    moments = batch.moments
    moments["block_px"], moments["block_rad"], moments["block_scale_px"] = 0.0, 0.0, 1.0
    for share in np.linspace(0.003, 1, 50, endpoint=False):
        place, normal = outline_place(share)
        for step, sign in ((1e-3, 1), (-1e-3, -1)):
            assert distance_to_block((place + step * normal)[None, None], moments)[0, 0] * sign > 0


def test_a_pusher_finds_its_way_round_the_block_without_touching_it():
    batch = PushTBatch(40, size_px=16)
    batch.reset(range(40))
    start, destinations = batch.moments, batch.goal_moments["agent_px"]
    distance = distance_to_block(destinations[:, None], start)[:, 0]
    destinations = np.where((distance > 30)[:, None], destinations, start["agent_px"])
    for _ in range(60):
        batch.step(actions_towards(batch, waypoints(batch.moments, destinations)))
    np.testing.assert_allclose(batch.moments["block_px"], start["block_px"], atol=1e-6)
    is_there = np.linalg.norm(batch.moments["agent_px"] - destinations, axis=-1) < 10
    assert is_there.mean() > 0.95


def share_reached(seeds, num_env_steps, **options):
    """The share of random goals that the noiseless expert reaches from random starts."""
    batch, policy = PushTBatch(len(seeds), size_px=16, **options), NoiselessExpertPolicy()
    batch.reset(seeds)
    policy.reset(batch, seeds, num_env_steps)
    is_reached = np.zeros(len(seeds), bool)
    for _ in range(num_env_steps):
        batch.step(policy.act(batch))
        is_reached |= batch.is_solved()
        if is_reached.all():
            break
    return is_reached.mean()


@pytest.mark.parametrize("options", [{}, {"is_absolute": True}, {"success": "clear-strict"}])
def test_the_noiseless_expert_reaches_random_goals_from_random_starts(options):
    assert share_reached(range(5), 120, **options) >= 0.8


@pytest.mark.slow
def test_the_noiseless_expert_reaches_nearly_all_goals_within_300_env_steps():
    assert share_reached(range(20_000, 20_060), 300) >= 0.95


def test_the_expert_reaches_one_goal_of_its_own_after_another():
    batch, policy = PushTBatch(3, size_px=16), ExpertPolicy()
    batch.reset([1, 2, 3])
    policy.reset(batch, [1, 2, 3], 150)
    goals = [set() for _ in range(3)]
    for _ in range(150):
        batch.step(policy.act(batch))
        for seen, goal in zip(goals, policy.goals, strict=True):
            seen.add(goal.tobytes())
    assert all(len(seen) >= 2 for seen in goals)


def test_an_expert_without_retargeting_makes_for_the_goal_of_the_environment():
    batch, policy = PushTBatch(1, size_px=16), ExpertPolicy(retarget=False, action_noise=0)
    batch.reset([4])
    policy.reset(batch, [4], 5)
    assert policy.goals[0].tobytes() == batch.goal_moments[0].tobytes()


@pytest.mark.parametrize("policy_class", [ExpertPolicy, NoiselessExpertPolicy])
def test_an_episode_of_an_expert_is_the_same_alone_and_in_a_batch_and_with_a_longer_limit(policy_class):
    _, _, together = roll(policy_class(), [1, 2, 3], 30)
    _, _, alone = roll(policy_class(), [2], 20)
    np.testing.assert_array_equal(together[:20, 1:2], alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retarget": 1}, "retarget must be True or False, got 1"),
        ({"action_noise": float("nan")}, r"action_noise must be in \[0, 100\] px, got nan"),
        ({"max_goal_env_steps": 0}, "max_goal_env_steps must be at least 1, got 0"),
    ],
)
def test_an_expert_refuses_options_that_make_no_sense(options, message):
    with pytest.raises(EnvError, match=message):
        ExpertPolicy(**options)


def test_episodes_of_a_mixture_are_those_of_one_policy_or_the_other():
    seeds = list(range(8))
    mixed, contact, expert = (roll(policy, seeds, 6)[2] for policy in (MixedPolicy(), ContactPolicy(), ExpertPolicy()))
    is_contact, is_expert = ((mixed == other).all(axis=(0, 2)) for other in (contact, expert))
    assert (is_contact ^ is_expert).all()
    assert 0 < is_contact.sum() < 8
    for share, other in ((0.0, expert), (1.0, contact)):
        np.testing.assert_array_equal(roll(MixedPolicy(contact_share=share), seeds, 6)[2], other)
    with pytest.raises(EnvError, match=r"contact_share must be in \[0, 1\], got 1.5"):
        MixedPolicy(contact_share=1.5)


def test_data_are_recorded_with_contacts_by_default_and_the_ceiling_is_an_expert_without_noise():
    assert PushT.DATA_POLICY == "contact"
    assert PushT.POLICIES["expert-noiseless"] is NoiselessExpertPolicy


@pytest.mark.slow
def test_the_ceiling_reaches_the_pairs_of_the_data_policy_within_their_budget():
    from lewm.evaluation.protocol import make_manifest
    from lewm.evaluation.results import run_references

    manifest = make_manifest("push-t", {"size_px": 16}, distances=[25], num_pairs=12, seed=0)
    ceiling = run_references(manifest).ceiling
    assert {pair.stratum for pair in manifest.pairs} == {"block-moves", "agent-only"}
    assert sum(first_hit is not None for first_hit in ceiling.values()) >= 20
