"""CEM over choices, on walks along a line whose optimum is known.

Axes: E episode, S candidate, T model step, A action block, N env step.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import ConfigError, PlanningError
from lewm.planning.base import BlockSpace, Plan, Trace
from lewm.planning.distributions import CategoricalBlocks
from lewm.planning.noise import uniform_choices
from lewm.planning.sampling import CEM
from lewm.schema import ActionSpec

LEFT, STAY, RIGHT = range(3)
SPEC = ActionSpec(kind="discrete", num_choices=3)
SPACE = BlockSpace(action_spec=SPEC, action_block=2, mean=(0.0,) * 3, std=(1.0,) * 3)
CONFIG = PlannerConfig(horizon_model_steps=4, replan_every_model_steps=1, num_candidates=300, num_elites=30, num_iterations=15)
SEEDS = [(11, 0), (12, 0), (13, 4)]
WANTED = torch.tensor(
    [
        [RIGHT, RIGHT, RIGHT, STAY, LEFT, LEFT, LEFT, LEFT],
        [STAY, LEFT, RIGHT, LEFT, RIGHT, RIGHT, STAY, STAY],
        [LEFT, LEFT, LEFT, LEFT, RIGHT, RIGHT, RIGHT, RIGHT],
    ]
)


def blocks_of(choices: Tensor) -> Tensor:
    """int64 [..., N] -> float32 [..., T, A]."""
    return torch.from_numpy(SPEC.as_blocks(choices.numpy(), 2))


def choices_of(blocks: Tensor) -> Tensor:
    """float32 [..., T, A] -> int64 [..., N]."""
    return torch.from_numpy(SPEC.from_blocks(blocks.numpy(), 2)).flatten(-2)


def way_of(blocks: Tensor) -> Tensor:
    """Where a walk is after each env step, [..., N]."""
    return (choices_of(blocks) - 1).cumsum(-1)


def off_the_way(wanted: Tensor = WANTED):
    """How far a walk is from the wanted one, added up over env steps: 0 for the wanted choices and nothing else."""
    return lambda candidates: (way_of(candidates) - way_of(blocks_of(wanted))[:, None]).abs().sum(-1).float()


def search(config: PlannerConfig = CONFIG, cost=None, seeds=SEEDS, **options) -> Plan:
    return CEM(config).plan(cost or off_the_way(), SPACE, horizon_model_steps=4, seeds=seeds, **options)


def start(config: PlannerConfig = CONFIG, probabilities: Tensor | None = None) -> CategoricalBlocks:
    even = torch.full((3, 4, 6), 1 / 3)
    return CategoricalBlocks(config=config, space=SPACE, probabilities=even if probabilities is None else probabilities)


def test_the_only_best_sequence_of_choices_is_found():
    plan = search()
    assert choices_of(plan.blocks).tolist() == WANTED.tolist()
    assert plan.cost.tolist() == [0, 0, 0]


def test_a_discrete_plan_does_not_depend_on_which_episodes_share_the_batch():
    config = dataclasses.replace(CONFIG, num_iterations=3, noise_smoothing=0.4)
    together = search(config)
    for episode in range(3):
        rows = slice(episode, episode + 1)
        alone = search(config, off_the_way(WANTED[rows]), seeds=SEEDS[rows])
        assert torch.equal(alone.blocks[0], together.blocks[episode])


def test_every_plan_of_an_episode_draws_its_own_choices():
    config = dataclasses.replace(CONFIG, num_iterations=1)
    first, second = (search(config, seeds=[(1, index)] * 3) for index in range(2))
    assert not torch.equal(first.blocks, second.blocks)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_candidates_and_plans_are_one_hot(smoothing):
    seen = []

    def remember(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        return off_the_way()(candidates)

    plan = search(dataclasses.replace(CONFIG, noise_smoothing=smoothing), remember)
    for blocks in (*seen, plan.blocks):
        assert torch.equal(blocks, blocks_of(choices_of(blocks)))


def test_the_plan_is_the_cheapest_candidate_of_all_iterations():
    """A cost that gets worse from call to call: the best candidate is one of the first iteration, which the last iterations do not hold."""
    seen, costs = [], []

    def worse_and_worse(candidates: Tensor) -> Tensor:
        seen.append(candidates)
        costs.append(off_the_way()(candidates) + 100 * len(seen))
        return costs[-1]

    plan = search(cost=worse_and_worse)
    assert torch.equal(plan.cost, costs[0].amin(1))
    for episode in range(3):
        assert torch.equal(plan.blocks[episode], seen[0][episode, costs[0][episode].argmin()])


def test_a_mixture_of_two_good_sequences_is_never_returned():
    """Left all along and right all along are equally good; most probable choices taken one by one could mix them, and mixtures are bad."""

    def far_from_the_start(candidates: Tensor) -> Tensor:
        return -way_of(candidates)[..., -1].abs().float()

    plan = search(dataclasses.replace(CONFIG, noise_smoothing=0.7, num_iterations=4), far_from_the_start)
    assert plan.cost.tolist() == [-8, -8, -8]


def test_the_first_candidate_is_the_most_probable_sequence():
    sampled = start(probabilities=0.4 * blocks_of(WANTED) + 0.2).sample(SEEDS, 0)
    assert torch.equal(choices_of(sampled[:, 0]), WANTED)


def test_choices_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.5, 0.1, 0.2, 0.7]).expand(3, 4, 6)
    sampled = start(dataclasses.replace(CONFIG, num_candidates=20_000), probabilities.contiguous()).sample(SEEDS, 0)
    np.testing.assert_allclose(sampled.mean((0, 1, 2)), probabilities[0, 0], atol=0.01)
    assert sampled[:, 1:, :, 1].sum() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.6, 1.0])
def test_an_env_step_repeats_the_choice_before_it_as_often_as_promised(smoothing):
    config = dataclasses.replace(CONFIG, num_candidates=5000, noise_smoothing=smoothing)
    choices = choices_of(start(config).sample(SEEDS, 0))[:, 1:]
    repeats = (choices[..., 1:] == choices[..., :-1]).float().mean((0, 1))
    np.testing.assert_allclose(repeats, smoothing + (1 - smoothing) / 3, atol=0.02)
    assert (choices[..., 0] == LEFT).float().mean() == pytest.approx(1 / 3, abs=0.02)


def test_a_repeat_after_a_repeat_goes_back_to_the_choice_that_was_drawn():
    _, source = uniform_choices([(1, 2)], 0, num_candidates=50, num_env_steps=30, repeat_probability=0.5)
    steps = torch.arange(30)
    assert torch.equal(source.gather(-1, source), source), "an env step takes its choice from one that was drawn"
    assert ((source == steps) | (source == torch.cat([source[..., :1], source[..., :-1]], -1))).all()


def test_repeats_reach_further_than_independent_choices():
    space = dataclasses.replace(SPACE, action_block=10)
    config = dataclasses.replace(CONFIG, num_iterations=1)

    def distance(candidates: Tensor) -> Tensor:
        return -(torch.from_numpy(SPEC.from_blocks(candidates.numpy(), 10)).flatten(-2) - 1).sum(-1).float()

    reached = [
        -CEM(dataclasses.replace(config, noise_smoothing=smoothing)).plan(distance, space, horizon_model_steps=4, seeds=SEEDS).cost.mean()
        for smoothing in (0.0, 0.9)
    ]
    assert reached[1] > 1.4 * reached[0]  # 40 env steps; independent choices spread like sqrt(40)


def test_refitting_mixes_old_probabilities_elite_frequencies_and_the_floor():
    config = dataclasses.replace(CONFIG, momentum=0.25, probability_floor=0.1)
    elites = blocks_of(torch.stack([WANTED, WANTED, WANTED, torch.full_like(WANTED, STAY)], dim=1))  # 3 of 4 as wanted
    found = start(config).refit(elites).probabilities
    frequencies = 0.75 * blocks_of(WANTED) + 0.25 * blocks_of(torch.full_like(WANTED, STAY))
    torch.testing.assert_close(found, 0.9 * (0.25 / 3 + 0.75 * frequencies) + 0.1 / 3)
    torch.testing.assert_close(found.reshape(3, 8, 3).sum(-1), torch.ones(3, 8))


def test_no_choice_dies_out():
    trace = Trace(best_cost=[], mean=[], std=[])
    search(dataclasses.replace(CONFIG, probability_floor=0.3), trace=trace)
    assert min(float(mean.min()) for mean in trace.mean) == pytest.approx(0.1)


def test_without_a_floor_the_search_settles():
    trace = Trace(best_cost=[], mean=[], std=[])
    search(dataclasses.replace(CONFIG, probability_floor=0.0), trace=trace)
    assert trace.std[-1].max() < 0.2


def test_a_discrete_search_starts_from_the_probabilities_it_is_given():
    config = dataclasses.replace(CONFIG, num_iterations=1)
    sure = search(config, lambda candidates: torch.rand(candidates.shape[:2]), initial=blocks_of(WANTED))
    assert torch.equal(choices_of(sure.blocks), WANTED), "a one-hot start tries nothing else"
    half = search(dataclasses.replace(config, num_candidates=40), initial=0.5 * blocks_of(WANTED) + 0.5 / 3)
    assert half.cost.max() == 0, "the most probable sequence is a candidate"


def test_an_initial_plan_without_any_weight_counts_as_even():
    config = dataclasses.replace(CONFIG, num_iterations=2)
    assert torch.equal(search(config, initial=torch.zeros(3, 4, 6)).blocks, search(config).blocks)


def test_discrete_proposals_are_tried():
    config = dataclasses.replace(CONFIG, num_iterations=1, num_candidates=8, num_elites=2)
    assert search(config).cost.min() > 0
    assert search(config, proposals=0.9 * blocks_of(WANTED)[:, None]).cost.tolist() == [0, 0, 0]


def test_a_deadline_ends_a_discrete_search_with_the_best_so_far():
    plan, first = search(deadline_s=0.0), search(dataclasses.replace(CONFIG, num_iterations=1))
    assert plan.num_iterations == 1
    assert torch.equal(plan.blocks, first.blocks)


def test_a_discrete_plan_is_never_a_candidate_whose_cost_is_nan():
    def half_broken(candidates: Tensor) -> Tensor:
        costs = off_the_way()(candidates)
        costs[:, ::2] = torch.nan
        return costs

    assert search(cost=half_broken).cost.tolist() == [0, 0, 0]
    with pytest.raises(PlanningError, match="every candidate has a cost that is not a number"):
        search(cost=lambda candidates: off_the_way()(candidates) * torch.nan)


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_probability_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(ConfigError, match=r"planner\.probability_floor must be at"):
        PlannerConfig(probability_floor=floor)
