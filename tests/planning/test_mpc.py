"""The agent around a planner, on an untrained model: what it must do does not depend on how good the model is."""

import dataclasses

import numpy as np
import pytest
import torch

from lewm.config import Config
from lewm.config_files import load_preset
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_EPISODES, BLOCK, SIZE_PX = 5, 5, 32


def make_config(**planner) -> Config:
    config = load_preset("laptop")
    settings = {"horizon_model_steps": 3, "replan_every_model_steps": 2, "num_candidates": 16, "num_elites": 4, "num_iterations": 2}
    return dataclasses.replace(config, planner=dataclasses.replace(config.planner, **settings | planner))


def make_policy(stack=(0,), **planner) -> MPCPolicy:
    config = make_config(**planner)
    torch.manual_seed(0)
    spec = ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, stack_offsets_env_steps=stack)
    model = WorldModel(config, spec, ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0)))
    return MPCPolicy(model, config.planner)


def frames(seed: int, num: int = NUM_EPISODES) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(seed).integers(0, 256, (num, 1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def act(policy: MPCPolicy, state: PolicyState, num_env_steps: int, *, first: int = 0, rows=slice(None)) -> tuple[np.ndarray, PolicyState]:
    actions = []
    for env_step in range(first, first + num_env_steps):
        action, state = policy.act(frames(100 + env_step)[rows], state)
        actions.append(action)
    return np.stack(actions, 1), state


def start(policy: MPCPolicy) -> PolicyState:
    return policy.reset(frames(7), seeds=range(NUM_EPISODES))


def test_a_fresh_episode_does_not_change_the_plan_of_one_that_warm_starts():
    policy = make_policy(use_warm_start=True)
    _, old = act(policy, start(policy), 10)  # two blocks of its first plan are done: the next env step plans
    alone, _ = policy.act(frames(1), old)
    mixed, _ = policy.act(Observation(np.concatenate([frames(1).frames, frames(2).frames])), policy.join([old, start(policy)]))
    np.testing.assert_allclose(mixed[:NUM_EPISODES], alone, atol=1e-5)


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("use_warm_start", [False, True])
def test_episodes_can_be_split_and_joined_without_changing_an_action(history, use_warm_start):
    policy = make_policy(history_model_steps=history, use_warm_start=use_warm_start)
    together, _ = act(policy, start(policy), 25)
    _, state = act(policy, start(policy), 7)
    order = [np.array([3, 0]), np.array([1, 2, 4])]
    parts = [act(policy, policy.select(state, index), 10, first=7, rows=index)[1] for index in order]
    joined = policy.join(parts)
    index = np.concatenate(order)
    later, _ = act(policy, joined, 8, first=17, rows=index)
    np.testing.assert_allclose(later, together[index, 17:], atol=1e-5)


def test_frames_are_needed_only_where_a_plan_is_due():
    policy = make_policy(history_model_steps=1)
    state, needs = start(policy), []
    for env_step in range(2 * 2 * BLOCK):
        needs.append(policy.needs_frame(state))
        _, state = policy.act(frames(env_step) if needs[-1] else None, state)
    assert np.flatnonzero(needs).tolist() == [0, 2 * BLOCK]


def test_with_a_history_frames_are_needed_at_every_block():
    policy = make_policy(history_model_steps=3)
    state, needs = start(policy), []
    for env_step in range(2 * 2 * BLOCK):
        needs.append(policy.needs_frame(state))
        _, state = policy.act(frames(env_step), state)
    assert np.flatnonzero(needs).tolist() == [0, 5, 10, 15]


def test_a_missing_frame_is_an_error():
    policy = make_policy()
    with pytest.raises(PlanningError, match="needs an observation"):
        policy.act(None, start(policy))


def test_the_history_holds_the_observations_and_blocks_that_really_happened():
    policy = make_policy(history_model_steps=3)
    actions, state = act(policy, start(policy), 11)  # observations at env steps 0, 5, 10; blocks 0-4 and 5-9 between them
    expected = torch.stack([policy.model.encode(frames(100 + step).map(torch.from_numpy)) for step in (0, 5, 10)], dim=1)
    torch.testing.assert_close(state.latents, expected)
    np.testing.assert_allclose(state.blocks.numpy(), actions[:, :10].reshape(NUM_EPISODES, 2, 10), atol=1e-6)


def test_actions_stay_within_the_bounds_even_if_the_search_does_not():
    policy = make_policy(use_bounds=False, initial_std=50.0)
    actions, _ = act(policy, start(policy), 5)
    assert np.abs(actions).max() == 1.0


def test_a_model_of_stacked_frames_sees_the_frames_before():
    policy = make_policy(stack=(-2, 0))
    _, state = act(policy, start(policy), 11)
    assert policy.needs_frame(state)
    newest = policy.model.encode(Observation(torch.from_numpy(np.concatenate([frames(108).frames, frames(110).frames], axis=1))))
    torch.testing.assert_close(state.latents[:, -1], newest)


def test_a_history_longer_than_the_models_is_refused():
    policy = make_policy()
    with pytest.raises(PlanningError, match="attends to 3 at most"):
        MPCPolicy(policy.model, dataclasses.replace(policy.config, history_model_steps=4))
