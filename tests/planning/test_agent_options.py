"""What an agent makes of its planner's settings, on an untrained model."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lewm.config_files import from_dict, load_preset, to_dict
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planner_config import SEARCHES, PlannerConfig
from lewm.planning.base import LinearReadout
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_EPISODES, SIZE_PX = 4, 32
SMALL = PlannerConfig(horizon_model_steps=3, replan_every_model_steps=1, num_candidates=16, num_elites=6, num_iterations=3)
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


def make_model(action_spec: ActionSpec = CONTINUOUS) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(load_preset("laptop"), ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX), action_spec)
    for parameter in model.predictor.parameters():  # zero-initialised gates would make an untrained predictor deaf to actions
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_policy(name: str = "cem", heads=None, readout=None, action_spec: ActionSpec = CONTINUOUS, **changes) -> MPCPolicy:
    return MPCPolicy(make_model(action_spec), SMALL.switched(name, **changes), readout, heads=heads)


def frames(seed: int, num: int = NUM_EPISODES) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(seed).integers(0, 256, (num, 1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def act(policy: MPCPolicy, num_env_steps: int, rows=slice(None)):
    state, actions = policy.reset(frames(7)[rows], seeds=range(NUM_EPISODES)[rows]), []
    for env_step in range(num_env_steps):
        action, state = policy.act(frames(100 + env_step)[rows], state)
        actions.append(action)
    return np.stack(actions, 1), state


class Far(nn.Module):
    """A head that proposes all ones and finds latents the nearer the larger they are."""

    def propose(self, context: Tensor, past_blocks: Tensor, goals: Tensor, horizon_model_steps: int) -> Tensor:
        return torch.ones(len(context), 1, horizon_model_steps, 10)

    def distance(self, latents: Tensor, goals: Tensor) -> Tensor:
        assert latents.shape == goals.shape
        return 100 - latents.sum(-1)


@pytest.mark.parametrize("name", SEARCHES)
def test_an_episode_is_planned_alone_as_in_company_over_several_plans(name):
    policy = make_policy(name, precision="64-true", use_warm_start=True)
    together, _ = act(policy, 6)
    alone, _ = act(policy, 6, rows=slice(2, 3))
    np.testing.assert_allclose(alone[0], together[2], atol=1e-6)  # actions are float32


@pytest.mark.parametrize("name", ["cem", "icem", "gradient"])
def test_with_a_model_too_a_plan_is_the_same_alone_and_in_a_batch_of_64(name):
    policy = make_policy(name, precision="64-true", num_iterations=2)
    context, goals = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    past, seeds = torch.zeros(64, 0, 10, dtype=torch.float64), [(episode, 0) for episode in range(64)]
    together = policy.plan_from(context[:, None], past, goals, seeds=seeds)
    alone = policy.plan_from(context[40:41, None], past[40:41], goals[40:41], seeds=seeds[40:41])
    torch.testing.assert_close(alone.blocks[0], together.blocks[40], rtol=0, atol=1e-9)


def test_of_a_deadline_the_proposing_planner_leaves_something():
    policy = make_policy(proposals="gradient", deadline_s=0.4, num_iterations=100_000)
    begun_s = time.monotonic()
    policy.plan_from(torch.zeros(1, 1, 48), torch.zeros(1, 0, 10), torch.ones(1, 48), seeds=[(0, 0)])
    assert 0.4 <= time.monotonic() - begun_s < 5  # one iteration more than there was time for, on a busy machine


def test_an_agent_in_double_precision_leaves_the_model_as_it_is():
    model = make_model()
    policy = MPCPolicy(model, dataclasses.replace(SMALL, precision="64-true"))
    assert next(model.parameters()).dtype == torch.float32
    assert policy.reset(frames(1), seeds=range(NUM_EPISODES)).goals.dtype == torch.float64


def test_elites_of_icem_come_back_shifted():
    policy = make_policy("icem", elites_kept=0.5)
    _, state = act(policy, 1)
    assert state.elites is not None
    rest = policy._rest_of_elites(state.elites)
    assert torch.equal(rest[:, :, :2], state.elites[:, :, 1:])
    torch.testing.assert_close(rest[:, :, 2], policy.space.typical(policy.device).expand(NUM_EPISODES, 3, -1))


def test_a_fresh_episode_has_no_elites_to_propose():
    policy = make_policy("icem")
    state = policy.reset(frames(1), seeds=range(NUM_EPISODES))
    assert policy._rest_of_elites(state.elites).isnan().all()


def test_kept_elites_are_tried_in_the_next_plan():
    """Nothing has changed and one candidate is all there is: what was found before must be among the candidates, or the cost would rise."""
    config = {"horizon_model_steps": 3, "num_iterations": 1, "elites_kept": 0.5}
    policy = make_policy("icem", **config)
    state = policy.reset(frames(7), seeds=range(NUM_EPISODES))
    _, first = policy.act(frames(8), state)
    assert first.elites is not None
    proposed = policy.cost(first.latents, first.blocks, first.goals)(policy._rest_of_elites(first.elites)).amin(1)
    again = policy._plan_group(first, 1)
    assert (again.cost <= proposed + 1e-5).all()


@pytest.mark.parametrize("name", ["gradient", "mppi"])
def test_another_planners_plan_is_tried(name):
    helped, alone = (
        act(make_policy("predictive-sampling", proposals=proposals, num_candidates=2, num_iterations=1), 1)[1] for proposals in (name, "")
    )
    assert (helped.plan_cost <= alone.plan_cost).all()
    assert (helped.plan_cost < alone.plan_cost).any()


def test_a_heads_proposal_is_tried():
    """Nothing else is: of two candidates the other one is the mean action, and the head's distance likes what the ones lead to or does not."""
    policy = make_policy("predictive-sampling", heads={"far": Far()}, proposals="far", num_candidates=2, num_iterations=1)
    _, state = act(policy, 1)
    cost = policy.cost(state.latents, state.blocks, state.goals)
    expected = torch.stack([cost(torch.full((NUM_EPISODES, 1, 3, 10), value))[:, 0] for value in (0.0, 1.0)]).amin(0)
    torch.testing.assert_close(state.plan_cost, expected)


def test_a_heads_distance_is_the_cost():
    policy = make_policy(heads={"far": Far()}, distance="far")
    _, state = act(policy, 1)
    imagined = policy.model.rollout(state.latents, state.blocks, state.plan[:, None])[:, 0, -1]
    torch.testing.assert_close(state.plan_cost, 100 - imagined.sum(-1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": "reach"}, "planner.distance is 'reach': this run has the heads plain, and the other distances are l2, cosine"),
        ({"distance": "plain"}, "that head measures no distances"),
        ({"proposals": "intent"}, "planner.proposals is 'intent': this run has the heads plain, and the planners are cem"),
        ({"proposals": "plain"}, "that head proposes no plans"),
    ],
)
def test_a_head_that_the_run_does_not_have_or_that_cannot_do_it_is_refused(changes, message):
    with pytest.raises(PlanningError, match=message):
        make_policy(heads={"plain": nn.Linear(1, 1)}, **changes)


def test_a_run_without_heads_says_so():
    with pytest.raises(PlanningError, match="this run has no heads"):
        make_policy(distance="reach")


def test_choices_are_refused_before_anything_is_planned():
    with pytest.raises(PlanningError, match="planner 'icem' searches continuous actions"):
        make_policy("icem", action_spec=ActionSpec(kind="discrete", num_choices=3))


def test_a_penalty_on_the_size_of_choices_is_refused():
    with pytest.raises(PlanningError, match=r"planner\.action_penalty has no meaning for choices"):
        make_policy(action_spec=ActionSpec(kind="discrete", num_choices=3), action_penalty=0.1)


def test_goals_can_be_wanted_labels():
    readout = LinearReadout(weights=torch.eye(48)[:, [3]], bias=torch.zeros(1))
    policy = make_policy(readout=readout)
    _, state = policy.act(frames(8), policy.reset_to(torch.full((NUM_EPISODES, 1), 0.7), seeds=range(NUM_EPISODES)))
    imagined = policy.model.rollout(state.latents, state.blocks, state.plan[:, None])[:, 0, -1]
    torch.testing.assert_close(state.plan_cost, (imagined[:, 3] - 0.7).square())


def test_smoothness_is_paid_for_by_the_cost():
    rough, smooth = (act(make_policy("gradient", smoothness_penalty=weight, num_iterations=20), 1)[1].plan for weight in (0.0, 100.0))

    def roughness(plan: Tensor) -> Tensor:
        return plan.reshape(NUM_EPISODES, -1, 2).diff(dim=1).square().mean()

    assert roughness(smooth) < 0.1 * roughness(rough)


def test_half_precision_rounds_the_costs_and_no_more():
    context, goals = torch.randn(2, 1, 48, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 48)
    candidates = torch.rand(2, 8, 3, 10, generator=torch.Generator().manual_seed(2)) - 0.5
    exact, half = (
        make_policy(precision=precision).cost(context, torch.zeros(2, 0, 10), goals)(candidates) for precision in ("32-true", "bf16-mixed")
    )
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(half, exact)


COMPILED = """
import dataclasses, torch
from lewm.config_files import load_preset
from lewm.models.world_model import WorldModel
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, ObservationSpec

torch.manual_seed(0)
config = load_preset("laptop")
model = WorldModel(config, ObservationSpec(height_px=32, width_px=32), ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0)))
for parameter in model.predictor.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
arguments = torch.randn(2, 1, 48), torch.zeros(2, 0, 10), torch.randn(2, 48)
candidates = torch.rand(2, 8, 5, 10) - 0.5
with torch.no_grad():
    exact, compiled = (
        MPCPolicy(model, dataclasses.replace(config.planner, use_compile=use_compile)).cost(*arguments)(candidates) for use_compile in (False, True)
    )
torch.testing.assert_close(compiled, exact, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_compiled_imagination_gives_the_same_costs():
    """In a process of its own: the compiler cannot look through the shape checks of the tests."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_a_configuration_that_names_another_planner_drops_what_it_does_not_know():
    config = from_dict({"planner": {"name": "mppi", "temperature": 0.2}}, load_preset("laptop"))
    assert (config.planner.name, config.planner.temperature, config.planner.num_elites) == ("mppi", 0.2, 30)
    assert config.planner.noise_smoothing == 0.7
    assert from_dict(to_dict(config)) == config
