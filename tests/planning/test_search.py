"""CEM on costs whose optimum is known.

Axes: E episode, S candidate, T model step, A action block.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Plan, Trace
from lewm.planning.noise import smoothed_noise
from lewm.planning.sampling import CEM
from lewm.planning.terms import reduce_over_horizon
from lewm.schema import ActionSpec

SPACE = BlockSpace(
    action_spec=ActionSpec(kind="continuous", low=(-1.0, -2.0), high=(1.0, 2.0)),
    action_block=5,
    mean=(0.1, -0.2),
    std=(0.5, 1.5),
)
CONFIG = PlannerConfig(horizon_model_steps=3, replan_every_model_steps=1, num_candidates=200, num_elites=20, num_iterations=40)
SEEDS = [(11, 0), (12, 0), (13, 4)]


def distance_to(target: Tensor):
    """A quadratic bowl whose minimum is at ``target`` [E, T, A]."""
    return lambda candidates: (candidates - target[:, None]).square().sum((-1, -2))


def search(config: PlannerConfig = CONFIG, target: Tensor | None = None, seeds=SEEDS, **options) -> Plan:
    target = inner_target() if target is None else target
    return CEM(config).plan(distance_to(target), SPACE, horizon_model_steps=3, seeds=seeds, **options)


def inner_target() -> Tensor:
    return torch.rand(3, 3, 10, generator=torch.Generator().manual_seed(0)) - 0.5


def test_the_minimum_of_a_bowl_is_found():
    assert (search().blocks - inner_target()).abs().max() < 0.05


def test_a_minimum_outside_the_bounds_is_found_at_the_bounds():
    target = torch.full((3, 3, 10), 5.0)
    high = torch.tensor([1.0, 2.0]).repeat(5)
    torch.testing.assert_close(search(target=target).blocks, high.expand(3, 3, 10))


def test_without_bounds_the_search_leaves_them():
    target = torch.full((3, 3, 10), 1.5)
    found = search(dataclasses.replace(CONFIG, use_bounds=False), target).blocks
    assert found[..., 0::2].mean() > 1.2


def test_a_plan_does_not_depend_on_which_episodes_share_the_batch():
    together = search()
    for episode in range(3):
        alone = search(target=inner_target()[episode : episode + 1], seeds=SEEDS[episode : episode + 1])
        torch.testing.assert_close(alone.blocks[0], together.blocks[episode], rtol=0, atol=0)


def test_every_plan_of_an_episode_draws_its_own_noise():
    first, second = search(seeds=[(1, 0)] * 3), search(seeds=[(1, 1)] * 3)
    assert not torch.equal(first.blocks, second.blocks)


def test_the_cost_of_a_plan_is_that_of_its_blocks():
    plan = search()
    torch.testing.assert_close(plan.cost, distance_to(inner_target())(plan.blocks[:, None])[:, 0])


def test_proposals_are_tried():
    """One iteration around a proposal that is the optimum: no random candidate is as good, so the elites' mean moves towards it."""
    config = dataclasses.replace(CONFIG, num_iterations=1, num_elites=2, initial_std=0.01)
    target = torch.full((3, 3, 10), 0.9)
    without, with_proposal = search(config, target), search(config, target, proposals=target[:, None])
    assert (with_proposal.cost < 0.5 * without.cost).all()


def test_the_search_starts_from_the_initial_plan():
    config = dataclasses.replace(CONFIG, num_iterations=1, initial_std=1e-3)
    torch.testing.assert_close(search(config, initial=inner_target()).blocks, inner_target(), atol=0.02, rtol=0)


def test_the_standard_deviation_never_falls_below_its_floor():
    trace = Trace(best_cost=[], mean=[], std=[])
    search(dataclasses.replace(CONFIG, std_floor=0.3), trace=trace)
    assert min(float(std.min()) for std in trace.std) == pytest.approx(0.3)


def test_momentum_slows_the_shrinking_of_the_gaussian():
    traces = []
    for momentum in (0.0, 0.8):
        traces.append(Trace(best_cost=[], mean=[], std=[]))
        search(dataclasses.replace(CONFIG, momentum=momentum), trace=traces[-1])
    assert traces[1].std[3].mean() > 1.2 * traces[0].std[3].mean()


def test_a_deadline_ends_the_search_early_with_the_best_so_far():
    plan = search(deadline_s=0.0)
    assert plan.num_iterations == 1


def test_candidates_whose_cost_is_nan_are_dropped():
    target = inner_target()

    def half_broken(candidates: Tensor) -> Tensor:
        costs = distance_to(target)(candidates)
        costs[:, 1::2] = torch.nan
        return costs

    plan = CEM(CONFIG).plan(half_broken, SPACE, horizon_model_steps=3, seeds=SEEDS)
    assert plan.cost.max() < 0.1


def test_a_cost_that_is_nan_everywhere_is_an_error():
    with pytest.raises(PlanningError, match="every candidate has a cost that is not a number"):
        CEM(CONFIG).plan(lambda candidates: candidates.sum((-1, -2)) * torch.nan, SPACE, horizon_model_steps=3, seeds=SEEDS)


def test_the_gaussian_search_gives_the_plans_that_it_always_gave():
    """Numbers recorded before discrete actions had a distribution of their own: results that people have published must not move."""
    config = dataclasses.replace(CONFIG, momentum=0.3, std_floor=0.1, noise_smoothing=0.6)
    torch.testing.assert_close(search(config).blocks[1, 2, :3], torch.tensor([0.2900978923, 0.4845145345, 0.2463719249]), atol=1e-6, rtol=0)
    started = search(dataclasses.replace(CONFIG, num_iterations=2), initial=0.5 * inner_target(), proposals=inner_target()[:, None])
    torch.testing.assert_close(started.blocks[1, 2, :3], torch.tensor([0.1975562274, 0.6086090207, 0.2161601484]), atol=1e-6, rtol=0)


def test_video_without_actions_cannot_be_planned_on():
    with pytest.raises(PlanningError, match="can predict but not plan"):
        BlockSpace(action_spec=ActionSpec(kind="none"), action_block=1, mean=(), std=())


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_smoothed_noise_has_unit_variance_and_the_promised_correlation(smoothing):
    noise = smoothed_noise([(1, 0)], 0, num_candidates=4000, num_env_steps=20, action_dimension=2, smoothing=smoothing, window_env_steps=4)[0]
    assert noise.var() == pytest.approx(1.0, abs=0.02)
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean()
    assert neighbours == pytest.approx(0.75 * smoothing, abs=0.02)  # two windows of four share three samples


@pytest.mark.parametrize(("kind", "expected"), [("last", 3.0), ("min", 1.0), ("sum", 6.0)])
def test_costs_along_a_future_are_reduced_as_named(kind, expected):
    assert reduce_over_horizon(torch.tensor([[2.0, 1.0, 3.0]]), kind) == pytest.approx(expected)
