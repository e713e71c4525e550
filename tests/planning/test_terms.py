"""Terms of a cost against their formulas.

Axes: E episode, S candidate, T model step, W waypoint, A action block, D latent.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.planning.base import BlockSpace, LinearReadout
from lewm.planning.costs import ImaginedCost
from lewm.planning.terms import ActionTerm, GoalTerm, LabelDistance, WaypointTerm, cosine_distance, reduce_over_horizon, squared_l2
from lewm.schema import ActionSpec

E, S, T, D = 3, 5, 4, 6
SPACE = BlockSpace(action_spec=ActionSpec(kind="continuous", low=(-1.0,) * 2, high=(1.0,) * 2), action_block=3, mean=(0.2, -0.1), std=(0.5, 2.0))
ALL = slice(None)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGINED, GOALS, CANDIDATES = draw(0, E, S, T, D), draw(1, E, D), draw(2, E, S, T, D)


@pytest.mark.parametrize(("power", "expected"), [(0.0, 2.0), (1.0, 13 / 6), (2.0, 33 / 14)])
def test_the_prefix_cost_is_a_mean_with_weights_that_grow(power, expected):
    assert reduce_over_horizon(torch.tensor([[2.0, 1.0, 3.0]]), "prefix", power) == pytest.approx(expected)


def test_a_large_prefix_power_leaves_the_last_step_alone():
    assert reduce_over_horizon(torch.tensor([[2.0, 1.0, 3.0]]), "prefix", 200.0) == pytest.approx(3.0)


def test_cosine_distance_is_blind_to_length_and_runs_from_0_to_2():
    torch.testing.assert_close(cosine_distance(3 * GOALS, GOALS), torch.zeros(E, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(cosine_distance(-GOALS, 5 * GOALS), torch.full((E,), 2.0, dtype=torch.float64))


def test_a_goal_term_takes_any_distance():
    """What a head would give: here the number of env steps that a walk of speed 1 takes."""
    term = GoalTerm(goals=GOALS, distance=lambda latents, goals: (latents - goals).norm(dim=-1), kind="min")
    expected = (IMAGINED - GOALS[:, None, None]).norm(dim=-1).amin(-1)
    torch.testing.assert_close(term(IMAGINED, CANDIDATES, ALL), expected)


def test_only_the_named_labels_of_a_wanted_state_count():
    readout = LinearReadout(weights=draw(3, D, 1), bias=draw(4, 1))  # one label of many
    wanted = draw(5, E, 1)
    term = GoalTerm(goals=wanted, distance=LabelDistance(readout=readout))
    blind = torch.linalg.svd(readout.weights.T).Vh[1:].sum(0)
    torch.testing.assert_close(term(IMAGINED, CANDIDATES, ALL), (readout.read(IMAGINED[:, :, -1]) - wanted[:, None]).square().sum(-1))
    torch.testing.assert_close(term(IMAGINED + 9 * blind, CANDIDATES, ALL), term(IMAGINED, CANDIDATES, ALL))


@pytest.mark.parametrize("kind", ["last", "min"])
def test_waypoints_cost_the_best_times_in_order(kind):
    """Against all sequences of times that do not decrease, tried one by one."""
    waypoints, weights = draw(6, E, 3, D), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    distances = (IMAGINED[:, :, :, None] - waypoints[:, None, None]).square().sum(-1) * weights  # E S T W
    tried = [
        sum(distances[:, :, time, number] for number, time in enumerate(times))
        for times in itertools.combinations_with_replacement(range(T), 3)
        if kind == "min" or times[-1] == T - 1
    ]
    term = WaypointTerm(waypoints=waypoints, weights=weights, distance=squared_l2, kind=kind)
    torch.testing.assert_close(term(IMAGINED, CANDIDATES, ALL), torch.stack(tried).amin(0))


def test_one_waypoint_of_weight_one_is_a_goal():
    term = WaypointTerm(waypoints=GOALS[:, None], weights=torch.ones(1), distance=squared_l2, kind="last")
    torch.testing.assert_close(term(IMAGINED, CANDIDATES, ALL), GoalTerm(goals=GOALS, distance=squared_l2)(IMAGINED, CANDIDATES, ALL))


def test_penalties_are_in_standard_deviations_of_the_training_actions():
    actions = CANDIDATES.reshape(E, S, 3 * T, 2).numpy()
    scores = (actions - np.array([0.2, -0.1])) / np.array([0.5, 2.0])
    expected = 0.3 * (scores**2).mean((2, 3)) + 0.7 * (np.diff(scores, axis=2) ** 2).mean((2, 3))
    term = ActionTerm(space=SPACE, action_penalty=0.3, smoothness_penalty=0.7)
    torch.testing.assert_close(term(IMAGINED, CANDIDATES, ALL), torch.from_numpy(expected), atol=1e-6, rtol=1e-6)


def test_a_single_action_is_perfectly_smooth():
    space = BlockSpace(action_spec=SPACE.action_spec, action_block=1, mean=(0.0, 0.0), std=(1.0, 1.0))
    term = ActionTerm(space=space, smoothness_penalty=1.0)
    assert term(IMAGINED[:, :, :1], CANDIDATES[:, :, :1, :2], ALL).abs().max() == 0


@pytest.mark.parametrize("max_batch_rows", [1, 2, 3, S, 2 * S, 1000])
def test_a_cost_is_the_sum_of_its_terms_whatever_the_chunks(max_batch_rows):
    terms = [GoalTerm(goals=GOALS, distance=squared_l2, kind="min"), ActionTerm(space=SPACE, action_penalty=0.1, smoothness_penalty=0.2)]

    def rollout(context: Tensor, past_blocks: Tensor, candidates: Tensor) -> Tensor:
        assert candidates.shape[0] * candidates.shape[1] <= max(max_batch_rows, 1)
        return context[:, None, -1:] + candidates.cumsum(2)

    context = draw(7, E, 1, D)
    cost = ImaginedCost(rollout, context, torch.zeros(E, 0, D), terms, max_batch_rows=max_batch_rows)
    imagined = context[:, None, -1:] + CANDIDATES.cumsum(2)
    torch.testing.assert_close(cost(CANDIDATES), sum(term(imagined, CANDIDATES, ALL) for term in terms))
