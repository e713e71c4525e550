"""Imagination replayed as CUDA graphs: the same plans, whatever the sizes that come by."""

import dataclasses

import numpy as np
import pytest
import torch

from lewm.config_files import load_preset
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planner_config import PlannerConfig
from lewm.planning.cuda_graphs import GraphedRollout
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_EPISODES, SIZE_PX = 4, 32
SMALL = PlannerConfig(horizon_model_steps=3, replan_every_model_steps=1, num_candidates=16, num_elites=6, num_iterations=3)
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


def on_a_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


def make_model(device: str) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(load_preset("laptop"), ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX), CONTINUOUS)
    for parameter in model.predictor.parameters():  # zero-initialised gates would make an untrained predictor deaf to actions
        torch.nn.init.normal_(parameter, std=0.1)
    return model.to(device)


def frames(seed: int) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(seed).integers(0, 256, (NUM_EPISODES, 1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def plans(policy: MPCPolicy, num_env_steps: int) -> list[torch.Tensor]:
    """The plan in force at every env step; there is a new one after each block of 5."""
    found, state = [], policy.reset(frames(7), seeds=range(NUM_EPISODES))
    for env_step in range(num_env_steps):
        _, state = policy.act(frames(100 + env_step), state)
        found.append(state.plan)
    return found


def with_graphs(config: PlannerConfig) -> PlannerConfig:
    return dataclasses.replace(config, use_cuda_graphs=True)


@on_a_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("name", "changes"), [("cem", {}), ("icem", {}), ("cem-gradient", {"refine_iterations": 2}), ("guarded", {"proposals": "cem"})]
)
def test_replayed_plans_are_the_eager_ones_over_three_plans(name, changes, precision):
    """From the second plan on the context has two latents: what has a size of its own in each iteration is replayed in the third."""
    model, config = make_model("cuda"), SMALL.switched(name, precision=precision, history_model_steps=2, **changes)
    policy = MPCPolicy(model, with_graphs(config))
    eager, graphs = plans(MPCPolicy(model, config), 11), plans(policy, 11)
    assert not torch.equal(eager[0], eager[-1])
    torch.testing.assert_close(torch.stack(graphs), torch.stack(eager), rtol=1e-4, atol=1e-4)
    assert isinstance(policy.rollout, GraphedRollout)
    assert policy.rollout._recordings


@on_a_gpu
def test_chunks_of_several_sizes_are_each_replayed_with_their_own_numbers():
    model, config = make_model("cuda"), SMALL.switched("cem", max_batch_rows=7)
    policy = MPCPolicy(model, with_graphs(config))
    eager, graphs = plans(MPCPolicy(model, config), 1), plans(policy, 1)
    torch.testing.assert_close(graphs[0], eager[0], rtol=1e-4, atol=1e-4)
    assert isinstance(policy.rollout, GraphedRollout)
    assert len(policy.rollout._recordings) > 1


@on_a_gpu
def test_a_size_that_comes_by_once_is_not_recorded():
    graphed = GraphedRollout(make_model("cuda").eval().rollout)
    arguments = torch.randn(1, 1, 48, device="cuda"), torch.zeros(1, 0, 10, device="cuda"), torch.rand(1, 4, 3, 10, device="cuda")
    num_recordings = []
    with torch.no_grad():
        for _ in range(3):
            graphed(*arguments)
            num_recordings.append(len(graphed._recordings))
    assert num_recordings == [0, 1, 1]


@on_a_gpu
def test_more_sizes_than_are_kept_are_recorded_anew():
    model = make_model("cuda").eval()
    graphed = GraphedRollout(model.rollout, most_graphs=2)
    context, past = torch.randn(1, 1, 48, device="cuda"), torch.zeros(1, 0, 10, device="cuda")
    kept = []
    with torch.no_grad():
        for num_candidates in (3, 5, 7, 3, 5):
            for _ in range(2):
                candidates = torch.rand(1, num_candidates, 3, 10, device="cuda")
                torch.testing.assert_close(graphed(context, past, candidates), model.rollout(context, past, candidates), rtol=1e-4, atol=1e-4)
            kept.append([recording.inputs[2].shape[1] for recording in graphed._recordings.values()])
    assert kept == [[3], [3, 5], [5, 7], [7, 3], [3, 5]]


@on_a_gpu
def test_a_result_outlives_the_replays_that_follow_it():
    model = make_model("cuda").eval()
    graphed = GraphedRollout(model.rollout)
    context, past, candidates = torch.randn(2, 1, 48, device="cuda"), torch.zeros(2, 0, 10, device="cuda"), torch.rand(2, 2, 4, 3, 10, device="cuda")
    with torch.no_grad():
        graphed(context, past, candidates[0])  # not recorded yet
        first = graphed(context, past, candidates[0])
        before = first.clone()
        second = graphed(context, past, candidates[1])
    assert len(graphed._recordings) == 1
    assert torch.equal(first, before)
    assert not torch.equal(second, before)


@on_a_gpu
def test_a_new_weight_in_the_old_place_counts_at_the_next_replay():
    model = make_model("cuda").eval()
    graphed = GraphedRollout(model.rollout)
    arguments = torch.randn(1, 1, 48, device="cuda"), torch.zeros(1, 0, 10, device="cuda"), torch.rand(1, 4, 3, 10, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        graphed(*arguments)  # not recorded yet, but autocast has rounded the weights
        before = graphed(*arguments)
        model.prediction_projector.contract.weight.mul_(2)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        after = graphed(*arguments)
        torch.testing.assert_close(after, model.rollout(*arguments), rtol=1e-2, atol=1e-2)
    assert len(graphed._recordings) == 1
    assert not torch.equal(before, after)


@on_a_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "predictive-sampling"])
def test_a_search_does_not_wait_for_the_device_between_its_iterations(name):
    policy, num_calls = MPCPolicy(make_model("cuda"), SMALL.switched(name)), 0
    context, goals = torch.randn(2, 1, 48, device="cuda"), torch.randn(2, 48, device="cuda")
    imagined = policy.cost(context, torch.zeros(2, 0, 10, device="cuda"), goals)

    def cost(candidates: torch.Tensor) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        costs = imagined(candidates)
        torch.cuda.set_sync_debug_mode("error" if num_calls < SMALL.num_iterations else "default")
        return costs

    try:
        policy.planner.plan(cost, policy.space, horizon_model_steps=3, seeds=[(0, 0), (1, 0)], device=torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert num_calls >= SMALL.num_iterations


def test_graphs_of_a_model_on_a_cpu_are_refused_with_advice():
    with pytest.raises(PlanningError, match=r"use_cuda_graphs needs a model on the device cuda, and this one is on cpu: move it there, or set it to"):
        MPCPolicy(make_model("cpu"), SMALL.switched("cem", use_cuda_graphs=True))
