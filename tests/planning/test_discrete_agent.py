"""The agent in a world of discrete actions, on an untrained model: what it must do does not depend on how good the model is."""

import dataclasses

import numpy as np
import pytest
import torch

from lewm.config_files import load_preset
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace, LinearReadout
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_EPISODES, BLOCK, SIZE_PX, NUM_CHOICES = 4, 3, 32, 5
SPEC = ActionSpec(kind="discrete", num_choices=NUM_CHOICES)


def make_policy(stack=(0,), readout: LinearReadout | None = None, **planner) -> MPCPolicy:
    config = load_preset("laptop")
    settings = {"horizon_model_steps": 3, "replan_every_model_steps": 2, "num_candidates": 16, "num_elites": 4, "num_iterations": 2}
    config = dataclasses.replace(
        config, planner=dataclasses.replace(config.planner, **settings | planner), data=dataclasses.replace(config.data, action_block=BLOCK)
    )
    torch.manual_seed(0)
    model = WorldModel(config, ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, stack_offsets_env_steps=stack), SPEC)
    for parameter in model.predictor.parameters():  # zero-initialised gates would make an untrained predictor deaf to actions
        torch.nn.init.normal_(parameter, std=0.1)
    return MPCPolicy(model, config.planner, readout)


def read_out(*columns: int) -> LinearReadout:
    """Reads the latent dimensions with these numbers."""
    return LinearReadout(weights=torch.eye(48)[:, list(columns)], bias=torch.zeros(len(columns)))


def frames(seed: int) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(seed).integers(0, 256, (NUM_EPISODES, 1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def start(policy: MPCPolicy) -> PolicyState:
    return policy.reset(frames(7), seeds=range(NUM_EPISODES))


def act(policy: MPCPolicy, state: PolicyState, num_env_steps: int, *, first: int = 0, rows=slice(None)) -> tuple[np.ndarray, PolicyState]:
    actions = []
    for env_step in range(first, first + num_env_steps):
        action, state = policy.act(frames(100 + env_step)[rows], state)
        actions.append(action)
    return np.stack(actions, 1), state


@pytest.mark.parametrize("use_warm_start", [False, True])
def test_actions_are_whole_numbers_within_the_choices(use_warm_start):
    policy = make_policy(use_warm_start=use_warm_start)
    actions, _ = act(policy, start(policy), 4 * BLOCK)
    assert actions.dtype == np.int64
    assert actions.shape == (NUM_EPISODES, 4 * BLOCK)
    assert actions.min() >= 0
    assert actions.max() < NUM_CHOICES
    assert len(np.unique(actions)) > 1


def test_the_executed_actions_are_those_of_the_plan():
    policy = make_policy()
    actions, state = act(policy, start(policy), 2 * BLOCK)
    np.testing.assert_array_equal(actions, SPEC.from_blocks(state.plan[:, :2].numpy(), BLOCK).reshape(NUM_EPISODES, -1))


def test_the_history_holds_the_choices_that_were_made():
    policy = make_policy(history_model_steps=3)
    actions, state = act(policy, start(policy), 2 * BLOCK + 1)
    np.testing.assert_array_equal(state.blocks.numpy(), SPEC.as_blocks(actions[:, : 2 * BLOCK], BLOCK))


@pytest.mark.parametrize(("history", "use_warm_start", "stack"), [(1, False, (0,)), (3, True, (0,)), (2, True, (-1, 0))])
def test_discrete_episodes_can_be_split_and_joined_without_changing_an_action(history, use_warm_start, stack):
    policy = make_policy(stack, history_model_steps=history, use_warm_start=use_warm_start)
    together, _ = act(policy, start(policy), 16)
    _, state = act(policy, start(policy), 4)
    index = np.array([3, 0, 2])
    apart, _ = act(policy, policy.select(state, index), 12, first=4, rows=index)
    np.testing.assert_array_equal(apart, together[index, 4:])


def test_a_warm_start_gives_half_of_the_probability_to_the_rest_of_the_old_plan():
    """Two of three blocks are executed: the third comes first, what follows it is open, and an episode without a plan is open all along."""
    policy, given = make_policy(use_warm_start=True), []
    _, old = act(policy, start(policy), 2 * BLOCK)
    both = policy.join([old, start(policy)])
    search = policy.planner.plan
    policy.planner.plan = lambda *arguments, **named: given.append(named["initial"]) or search(*arguments, **named)
    policy.act(Observation(np.concatenate([frames(1).frames, frames(2).frames])), both)
    (initial,) = given
    torch.testing.assert_close(initial[:NUM_EPISODES, 0], 0.5 * old.plan[:, 2] + 0.5 / NUM_CHOICES)
    torch.testing.assert_close(initial[:NUM_EPISODES, 1:], torch.full((NUM_EPISODES, 2, NUM_CHOICES * BLOCK), 1 / NUM_CHOICES))
    torch.testing.assert_close(initial[NUM_EPISODES:], torch.full((NUM_EPISODES, 3, NUM_CHOICES * BLOCK), 1 / NUM_CHOICES))


def test_a_discrete_model_of_stacked_frames_sees_the_frames_before():
    policy = make_policy(stack=(-2, 0))
    _, state = act(policy, start(policy), 2 * BLOCK + 1)
    newest = policy.model.encode(Observation(torch.from_numpy(np.concatenate([frames(104).frames, frames(106).frames], axis=1))))
    torch.testing.assert_close(state.latents[:, -1], newest)


def test_what_a_world_takes_is_one_hot_or_within_the_bounds():
    discrete = BlockSpace(action_spec=SPEC, action_block=1, mean=(0.0,) * 5, std=(1.0,) * 5)
    assert discrete.executable(torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])).tolist() == [[0, 0, 1, 0, 0]]
    bounded = BlockSpace(action_spec=ActionSpec(kind="continuous", low=(-1.0,), high=(2.0,)), action_block=2, mean=(0.0,), std=(1.0,))
    assert bounded.executable(torch.tensor([[-3.0, 5.0]])).tolist() == [[-1, 2]]


def test_with_a_readout_plans_are_judged_by_the_labels_alone():
    """The cost of a plan is the squared distance of what is read off the latents that it leads to."""
    policy = make_policy(readout=read_out(3, 8), cost="last", mean_weight=0.0)
    _, state = policy.act(frames(100), start(policy))
    imagined = policy.model.rollout(state.latents, state.blocks, state.plan[:, None])[:, 0, -1]
    torch.testing.assert_close(state.plan_cost, (imagined[:, [3, 8]] - state.goals).square().sum(-1), atol=1e-5, rtol=1e-4)


def test_a_goal_of_latents_ignores_a_readout():
    plain, given = make_policy(), make_policy(readout=read_out(3), goal="latent")
    np.testing.assert_array_equal(act(plain, start(plain), 6)[0], act(given, start(given), 6)[0])


def test_a_goal_of_labels_without_a_readout_is_refused():
    with pytest.raises(PlanningError, match=r"planner\.goal is 'labels', which a readout of labels must be given for"):
        make_policy(goal="labels")


def test_a_readout_of_other_latents_is_refused():
    with pytest.raises(PlanningError, match="for latents of 7 dimensions, this model's have 48"):
        make_policy(readout=LinearReadout(weights=torch.ones(7, 1), bias=torch.zeros(1)))
