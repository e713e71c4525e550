"""Goal costs on a world that is exactly linear: a latent moves by the candidate's block, so every cost has a closed form.

Axes: E episode, S candidate, H context, T model step, A action block, D latent (= A), s label.
"""

import dataclasses

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import PlannerConfig
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace, LinearReadout
from lewm.planning.costs import LabelGoalCost, LatentGoalCost
from lewm.planning.sampling import CEM
from lewm.schema import ActionSpec

E, S, T, D = 3, 6, 4, 5
SPACE = BlockSpace(action_spec=ActionSpec(kind="continuous", low=(-1.0,) * D, high=(1.0,) * D), action_block=1, mean=(0.0,) * D, std=(0.5,) * D)


class LinearWorld(WorldModel):
    """Adds blocks to the latent."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def rollout(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], candidates: Float[Tensor, "E S T A"]
    ) -> Float[Tensor, "E S T D"]:
        return context[:, None, -1:] + candidates.cumsum(2)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CONTEXT, GOALS, CANDIDATES = draw(0, E, 1, D), draw(1, E, D), draw(2, E, S, T, D)
READOUT = LinearReadout(weights=draw(3, D, 2), bias=draw(4, 2))


def label_cost(goals: Tensor = GOALS, readout: LinearReadout = READOUT, **settings) -> LabelGoalCost:
    return LabelGoalCost(LinearWorld(), CONTEXT, torch.zeros(E, 0, D), goals, readout=readout, **settings)


@pytest.mark.parametrize("kind", ["last", "min", "sum"])
def test_the_label_cost_is_the_squared_distance_of_what_is_read(kind):
    ends = CONTEXT[:, None] + CANDIDATES.cumsum(2)
    distances = ((ends - GOALS[:, None, None]) @ READOUT.weights).square().sum(-1)  # E S T
    reduced = {"last": distances[..., -1], "min": distances.amin(-1), "sum": distances.sum(-1)}[kind]
    torch.testing.assert_close(label_cost(kind=kind, mean_weight=0.3)(CANDIDATES), reduced + 0.3 * distances.mean(-1))


def test_directions_that_carry_other_labels_change_nothing():
    """Two latents that differ only where the map reads nothing are the same goal, and a candidate that moves there is neither better nor worse."""
    blind = torch.linalg.svd(READOUT.weights.T).Vh[2:]  # D-2 D: the null space of the map
    other_goals = GOALS + 7 * blind.sum(0)
    other_candidates = CANDIDATES + 3 * blind[0]
    torch.testing.assert_close(label_cost(other_goals)(other_candidates), label_cost()(CANDIDATES), atol=1e-3, rtol=1e-4)


def test_a_search_reaches_the_label_though_the_goal_shows_what_cannot_be_reached():
    """Only latent dimension 0 carries the label. The whole-latent cost, with a weak search, spends itself on the others, which are out of reach."""
    weights = torch.zeros(D, 1)
    weights[0] = 1
    start, goals = torch.zeros(E, 1, D), torch.tensor([0.5, 50, 50, 50, 50]).expand(E, D)
    config = PlannerConfig(horizon_model_steps=2, replan_every_model_steps=1, num_iterations=6, num_candidates=50, num_elites=10)
    missed = {}
    for readout in (LinearReadout(weights=weights, bias=torch.zeros(1)), LinearReadout(weights=torch.eye(D), bias=torch.zeros(D))):
        cost = LabelGoalCost(LinearWorld(), start, torch.zeros(E, 0, D), goals, readout=readout)
        plan = CEM(config).plan(cost, SPACE, horizon_model_steps=2, seeds=[(seed, 0) for seed in range(E)])
        missed[len(readout.bias)] = (plan.blocks.sum(1)[:, 0] - 0.5).abs()
    assert missed[1].max() < 0.05
    assert missed[D].mean() > 0.2


def test_a_map_that_reads_the_whole_latent_gives_the_latent_cost():
    identity = LinearReadout(weights=torch.eye(D), bias=draw(5, D))
    latent = LatentGoalCost(LinearWorld(), CONTEXT, torch.zeros(E, 0, D), GOALS, kind="min", mean_weight=0.1)
    torch.testing.assert_close(label_cost(readout=identity, kind="min", mean_weight=0.1)(CANDIDATES), latent(CANDIDATES))


@pytest.mark.parametrize("max_batch_rows", [1, 2 * S, 1000])
def test_the_label_cost_does_not_depend_on_the_chunks(max_batch_rows):
    torch.testing.assert_close(label_cost(max_batch_rows=max_batch_rows)(CANDIDATES), label_cost()(CANDIDATES))


def test_the_bias_does_not_matter_for_the_cost():
    shifted = dataclasses.replace(READOUT, bias=READOUT.bias + 10)
    torch.testing.assert_close(label_cost(readout=shifted)(CANDIDATES), label_cost()(CANDIDATES), atol=1e-4, rtol=1e-4)
