"""Every planner on costs whose optimum, weights or path are known.

Axes: E episode, S candidate, T model step, A action block.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import ConfigError, PlanningError
from lewm.planner_config import SEARCHES
from lewm.planning.base import BlockSpace, Plan, Trace
from lewm.planning.gradient import optimizer_class
from lewm.planning.noise import coloured_noise
from lewm.planning.sampling import path_integral_weights
from lewm.registry import PLANNERS
from lewm.schema import ActionSpec

SPACE = BlockSpace(
    action_spec=ActionSpec(kind="continuous", low=(-1.0, -2.0), high=(1.0, 2.0)),
    action_block=5,
    mean=(0.1, -0.2),
    std=(0.5, 1.5),
)
CHOICES = BlockSpace(action_spec=ActionSpec(kind="discrete", num_choices=3), action_block=2, mean=(0.0,) * 3, std=(1.0,) * 3)
SEEDS = [(11, 0), (12, 0), (13, 4)]
HORIZON, A = 2, 10
SMALL = PlannerConfig(horizon_model_steps=HORIZON, replan_every_model_steps=1, num_candidates=200, num_elites=20, num_iterations=40)
SAMPLING = ("cem", "icem", "mppi", "predictive-sampling")
REACH = {"cem": 0.01, "icem": 0.05, "mppi": 0.05, "predictive-sampling": 3.0, "gradient": 0.02, "cem-gradient": 0.001}
"""Cost at which a planner has found the bottom of a bowl in 20 dimensions; noise that never shrinks comes least near."""


def settings(name: str, **changes) -> PlannerConfig:
    return SMALL.switched(name, **changes)


def bowl(target: Tensor):
    return lambda candidates: (candidates - target[:, None]).square().sum((-1, -2))


def targets(num_episodes: int = 3, dtype=torch.float32) -> Tensor:
    return torch.rand(num_episodes, HORIZON, A, generator=torch.Generator().manual_seed(0)).to(dtype) - 0.5


def search(config: PlannerConfig, cost=None, seeds=SEEDS, space=SPACE, **options) -> Plan:
    return PLANNERS.load(config.name)(config).plan(cost or bowl(targets()), space, horizon_model_steps=HORIZON, seeds=seeds, **options)


@pytest.mark.parametrize("space", [SPACE, CHOICES], ids=["continuous", "discrete"])
def test_a_typical_block_that_is_changed_in_place_does_not_change_the_next(space: BlockSpace):
    first = space.typical(torch.device("cpu"))
    before = first.clone()
    first.zero_()
    assert torch.equal(space.typical(torch.device("cpu")), before)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_planner_finds_the_bottom_of_a_bowl(name):
    white = {"noise_exponent": 0.0} if name == "icem" else {}  # the bottom is no smooth plan
    assert search(settings(name, **white)).cost.max() < REACH[name]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_planner_keeps_to_the_bounds_and_finds_a_minimum_there(name):
    config = settings(name, num_iterations=80)
    high = torch.tensor([1.0, 2.0]).repeat(5)
    plan = search(config, bowl(torch.full((3, HORIZON, A), 5.0)))
    assert (plan.blocks <= high).all()
    assert (high - plan.blocks).mean() < 0.1


@pytest.mark.parametrize("name", SEARCHES)
def test_an_episode_gets_the_same_plan_alone_and_in_a_batch_of_64(name):
    config = settings(name, num_iterations=6, precision="64-true")
    goals, seeds = targets(64, torch.float64), [(100 + episode, episode % 3) for episode in range(64)]
    together = search(config, bowl(goals), seeds)
    for episode in (0, 17, 63):
        alone = search(config, bowl(goals[episode : episode + 1]), seeds[episode : episode + 1])
        assert together.blocks.dtype == torch.float64
        torch.testing.assert_close(alone.blocks[0], together.blocks[episode], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLING)
def test_an_early_stop_of_some_episodes_changes_nothing_for_the_others(name):
    config = settings(name, stop_improvement=0.6, num_iterations=20)
    together = search(config)
    for episode in range(3):
        alone = search(config, bowl(targets()[episode : episode + 1]), SEEDS[episode : episode + 1])
        torch.testing.assert_close(alone.blocks[0], together.blocks[episode], rtol=0, atol=1e-6)
    assert together.num_iterations < 20


def test_a_search_stops_when_its_gaussian_is_narrow():
    assert search(settings("cem", stop_std=0.2)).num_iterations < 25
    assert search(settings("cem", stop_std=1e-9)).num_iterations == 40


@pytest.mark.parametrize("name", SEARCHES)
def test_candidates_whose_cost_is_nan_are_never_chosen(name):
    """NaN on one side of a line through the start: what is found is on the other, though the bowl's bottom is not."""
    side = torch.full((3, HORIZON, A), -0.5)

    def half_broken(candidates: Tensor) -> Tensor:
        is_broken = candidates[..., 0, 0] < -0.2
        return bowl(side)(candidates).masked_fill(is_broken, torch.nan)

    plan = search(settings(name), half_broken)
    assert plan.cost.isfinite().all()
    assert (plan.blocks[:, 0, 0] >= -0.2 - 1e-6).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_costs_that_are_all_nan_are_an_error(name):
    with pytest.raises(PlanningError, match="every candidate has a cost that is not a number"):
        search(settings(name), lambda candidates: candidates.sum((-1, -2)) * torch.nan)


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "cem"])
def test_planners_of_continuous_actions_refuse_choices_by_name(name):
    with pytest.raises(PlanningError, match=rf"planner '{name}' searches continuous actions.*use 'cem'"):
        search(settings(name), space=CHOICES)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_planner_setting_is_a_deadline_too(name):
    plan = search(settings(name, deadline_s=1e-9))
    assert plan.num_iterations == 1
    assert plan.cost.isfinite().all()


@pytest.mark.parametrize("name", ["icem", "predictive-sampling", "gradient"])
def test_planners_that_return_the_best_candidate_never_lose_a_proposal_that_is_the_optimum(name):
    assert search(settings(name, num_iterations=8), proposals=targets()[:, None]).cost.max() < 1e-10


@pytest.mark.parametrize("name", SEARCHES)
def test_a_proposal_that_is_nan_is_none(name):
    config = settings(name, num_iterations=3)
    nothing = torch.full((3, 1, HORIZON, A), torch.nan)
    assert torch.equal(search(config, proposals=nothing).blocks, search(config).blocks)


def test_the_schedule_says_how_many_candidates_each_iteration_has():
    seen = []

    def remember(candidates: Tensor) -> Tensor:
        seen.append(candidates.shape[1])
        return bowl(targets())(candidates)

    search(settings("predictive-sampling", candidate_schedule=(50, 30, 20), num_iterations=5), remember)
    assert seen == [50, 30, 20, 20, 20]


def test_the_population_of_icem_decays_to_twice_its_elites():
    config = settings("icem", candidate_decay=1.5)
    assert [config.candidates_in(iteration) for iteration in range(5)] == [200, 133, 89, 59, 40]


def test_elites_that_are_kept_are_not_imagined_again_and_never_lost():
    """A cost that only gets worse from call to call: the plan is the best of the first iteration, whose elites were imagined once."""
    seen = []

    def worse_and_worse(candidates: Tensor) -> Tensor:
        seen.append(bowl(targets())(candidates) + 100 * len(seen))
        return seen[-1]

    plan = search(settings("icem", num_iterations=4), worse_and_worse)
    assert torch.equal(plan.cost, seen[0].amin(1))
    assert [costs.shape[1] for costs in seen] == [200, 160, 128, 102]
    assert plan.elites is not None
    torch.testing.assert_close(bowl(targets())(plan.elites), seen[0].topk(6, largest=False).values)


def test_the_weights_of_mppi_are_the_formula():
    costs = torch.rand(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 7 + 100
    lam = 0.3 * costs.std(1, correction=0, keepdim=True)
    literal = torch.from_numpy(np.exp(-(costs - costs.amin(1, keepdim=True)).numpy() / lam.numpy()))
    torch.testing.assert_close(path_integral_weights(costs, 0.3), literal / literal.sum(1, keepdim=True))


def test_infinite_costs_weigh_nothing_and_equal_ones_the_same():
    weights = path_integral_weights(torch.tensor([[1.0, torch.inf, 1.0], [torch.inf] * 3]), 0.5)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.0, 0.5], [1 / 3] * 3]))


def test_mppi_takes_the_weighted_mean_of_its_candidates():
    seen = {}

    def remember(candidates: Tensor) -> Tensor:
        seen.setdefault("candidates", candidates)
        return bowl(targets())(candidates)

    plan = search(settings("mppi", num_iterations=1, temperature=0.5, use_bounds=False), remember)
    weights = path_integral_weights(bowl(targets())(seen["candidates"]), 0.5)
    torch.testing.assert_close(plan.blocks, (weights[:, :, None, None] * seen["candidates"]).sum(1))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_power_of_coloured_noise_falls_with_the_frequency_as_promised(exponent):
    noise = coloured_noise([(3, 0)], 0, num_candidates=2000, num_env_steps=64, action_dimension=2, exponent=exponent)[0].double()
    power = torch.fft.rfft(noise, dim=1).abs().square().mean((0, 2))[1:-1]  # the constant and the highest frequency are counted otherwise
    slope = np.polyfit(np.log(np.fft.rfftfreq(64)[1:-1]), np.log(power.numpy()), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)
    assert noise.var() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("num_env_steps", [1, 2, 15])
def test_coloured_noise_has_unit_variance_for_any_length(num_env_steps):
    noise = coloured_noise([(3, 0)], 0, num_candidates=5000, num_env_steps=num_env_steps, action_dimension=2, exponent=2.0)
    assert noise.square().mean() == pytest.approx(1.0, abs=0.05)


def test_predictive_sampling_takes_the_cheapest_candidate():
    seen = {}

    def remember(candidates: Tensor) -> Tensor:
        seen.update(candidates=candidates, costs=bowl(targets())(candidates))
        return seen["costs"]

    plan = search(settings("predictive-sampling", num_iterations=1), remember)
    assert torch.equal(plan.blocks, seen["candidates"][torch.arange(3), seen["costs"].argmin(1)])


def test_gradient_descent_on_a_bowl_follows_its_closed_form():
    """In standard deviations the bowl is sum (std z + mean - target)^2, so that plain descent shrinks each error by 1 - 2 std^2 per unit of step."""
    config = settings("gradient", optimizer="SGD", step_size=0.05, num_restarts=1, num_iterations=12, use_bounds=False, precision="64-true")
    trace, goal = Trace(best_cost=[], mean=[], std=[]), targets(dtype=torch.float64)
    search(config, bowl(goal), trace=trace)
    std, mean = (SPACE.per_block(values, goal.device).double() for values in (SPACE.std, SPACE.mean))
    for step, found in enumerate(trace.mean):
        torch.testing.assert_close(found, goal + (mean - goal) * (1 - 2 * 0.05 * std.square()) ** step)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "SGD"])
def test_any_elementwise_optimiser_goes_downhill(name):
    config = settings("gradient", optimizer=name, step_size=0.05, num_restarts=1)
    assert (search(config).cost < 0.1 * search(dataclasses.replace(config, num_iterations=1)).cost).all()


@pytest.mark.parametrize(("name", "why"), [("LBFGS", "couples the plans of a batch"), ("Adamm", r"is no optimiser of torch.optim.*'Adam'")])
def test_other_optimisers_are_refused(name, why):
    with pytest.raises(PlanningError, match=why):
        optimizer_class(name)


def test_more_restarts_find_the_deeper_of_two_valleys():
    """Two bottoms on both sides of the mean action; the one on the start's side is the worse one."""

    def two_valleys(candidates: Tensor) -> Tensor:
        x = candidates[..., 0, 0]
        return (x.square() - 0.25).square() + 0.05 * x + candidates[..., 1:, :].square().sum((-1, -2))

    config = settings("gradient", num_restarts=1)
    alone, many = search(config, two_valleys), search(dataclasses.replace(config, num_restarts=12), two_valleys)
    assert (many.blocks[:, 0, 0] < 0).all()
    assert (many.cost < alone.cost - 0.02).all()


def test_a_cost_without_gradients_is_refused_by_the_gradient_planner():
    with pytest.raises(PlanningError, match="this cost has none: use a sampling planner"):
        search(settings("gradient"), lambda candidates: bowl(targets())(candidates.detach()))


def test_the_hybrid_is_never_worse_than_the_search_it_begins_with():
    few = {"num_iterations": 3}
    assert (search(settings("cem-gradient", **few)).cost < search(settings("cem", **few)).cost).all()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("gradient", "num_elites", 5),
        ("mppi", "num_elites", 5),
        ("cem", "temperature", 0.7),
        ("icem", "noise_smoothing", 0.5),
        ("cem", "step_size", 1),
    ],
)
def test_a_setting_that_the_planner_does_not_know_is_refused_by_name(name, option, value):
    with pytest.raises(ConfigError, match=rf"planner '{name}' does not know planner\.{option}"):
        settings(name, **{option: value})


def test_switching_the_planner_keeps_what_both_know_and_drops_the_rest():
    config = PlannerConfig(num_elites=7, noise_smoothing=0.7, horizon_model_steps=8, num_candidates=96).switched("gradient", step_size=0.3)
    assert (config.horizon_model_steps, config.step_size) == (8, 0.3)
    assert (config.num_elites, config.noise_smoothing, config.num_candidates) == (30, 0.0, 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ({"num_elites": 1}, r"num_elites must be in \[2, num_candidates = 200\], got 1"),
        ({"candidate_schedule": (100, 10)}, r"num_elites must be in \[2, smallest of candidate_schedule = 10\], got 20"),
        ({"candidate_schedule": (100, 0)}, "candidate_schedule must hold numbers of at least 1"),
        ({"replan_every_model_steps": 3}, r"replan_every_model_steps must be in \[1, horizon_model_steps = 2\]"),
        ({"deadline_s": 0.0}, "deadline_s must be positive"),
        ({"goal": "labels", "distance": "cosine"}, "'cosine' compares latents, and planner.goal is 'labels'"),
    ],
)
def test_settings_without_meaning_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)
