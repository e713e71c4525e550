"""Planning with the laptop preset's model and search, against imagining every window anew.

Axes: E episode, S candidate, T model step, H context, D latent, A action block.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lewm.bench.references import straight_rollout
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, milliseconds, relative_difference, take_turns
from lewm.config import Config, PlannerConfig
from lewm.config_files import load_preset
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace, Cost, Planner
from lewm.planning.costs import LatentGoalCost, reduce_over_horizon
from lewm.registry import PLANNERS
from lewm.schema import ActionSpec, ObservationSpec

REFERENCE = "the same search with a straight rollout: the predictor on the whole window of every candidate at every step, last output kept"
ACTION_SPEC = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


@torch.no_grad()
def measure(options: BenchOptions) -> list[Row]:
    """Milliseconds per plan when 1, 16 and 64 episodes are planned together."""
    config = load_preset("laptop")
    if options.is_quick:
        planner = dataclasses.replace(config.planner, num_candidates=8, num_elites=2, num_iterations=2)
        config = dataclasses.replace(config, planner=planner)
    model = model_that_acts(config)
    peak = _matmul_flops_per_second(64 if options.is_quick else 1024)
    batches = {1: 2, 2: 2} if options.is_quick else {1: 10, 16: 2, 64: 1}  # a round plans for all of them
    return [_measure_batch(model, config.planner, num_episodes, num_rounds, peak) for num_episodes, num_rounds in batches.items()]


def _measure_batch(model: WorldModel, config: PlannerConfig, num_episodes: int, num_rounds: int, peak_flops_per_second: float) -> Row:
    planner: Planner = PLANNERS.load(config.name)(config)
    mean, std = model.action_statistics()
    space = BlockSpace(action_spec=model.action_spec, action_block=model.action_block, mean=mean, std=std)
    generator = torch.Generator().manual_seed(num_episodes)
    history, latent, block = config.history_model_steps, model.latent_dimension, space.block_dimension
    context = torch.randn(num_episodes, history, latent, generator=generator)
    past_blocks = torch.rand(num_episodes, history - 1, block, generator=generator) * 2 - 1
    goals = torch.randn(num_episodes, latent, generator=generator)
    candidates = torch.rand(num_episodes, config.num_candidates, config.horizon_model_steps, block, generator=generator) * 2 - 1
    assert config.cost != "distance", "a bench has no heads"
    kind = config.cost
    fast = LatentGoalCost(model, context, past_blocks, goals, kind=kind, mean_weight=config.mean_weight, max_batch_rows=config.max_batch_rows)

    def straight(candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        distances = (straight_rollout(model, context, past_blocks, candidates) - goals[:, None, None]).square().sum(-1)
        return reduce_over_horizon(distances, kind) + config.mean_weight * distances.mean(-1)

    def plan(cost: Cost) -> Callable[[], object]:
        seeds = [(episode, 0) for episode in range(num_episodes)]
        return lambda: planner.plan(cost, space, horizon_model_steps=config.horizon_model_steps, seeds=seeds)

    contenders = {"ours": Contender(plan(fast), amount=num_episodes), "reference": Contender(plan(straight), amount=num_episodes)}
    with FlopCounterMode(display=False) as counter:
        fast(candidates)
    straight(candidates)
    seconds = take_turns(contenders, num_rounds=num_rounds, num_warmups=0)  # a whole plan is a long warm-up; the two costs above are enough
    # The results are compared on the same candidates: in a whole search a rounding error may swap two elites that are equally good.
    imagined = model.rollout(context, past_blocks, candidates), straight_rollout(model, context, past_blocks, candidates)
    flops_per_candidate = counter.get_total_flops() / (num_episodes * config.num_candidates)  # of the matrix products
    ours = milliseconds(seconds["ours"])
    candidates_per_second = 1e3 * config.num_candidates * config.num_iterations / ours.median
    return Row(
        case=f"{config.name} {config.num_candidates}x{config.num_iterations}, horizon {config.horizon_model_steps}, episodes at once: {num_episodes}",
        unit="ms/plan",
        better="lower",
        ours=ours,
        reference=milliseconds(seconds["reference"]),
        reference_is=REFERENCE,
        max_difference=relative_difference(*imagined),
        details={
            "candidates_per_second": candidates_per_second,
            "share_of_matmul_peak": flops_per_candidate * candidates_per_second / peak_flops_per_second,
        },
    )


def model_that_acts(config: Config) -> WorldModel:
    """A model with random weights whose predictions depend on the actions (AdaLN-zero starts without)."""
    torch.manual_seed(0)
    model = WorldModel(config, ObservationSpec(height_px=64, width_px=64), ACTION_SPEC).eval()
    model.set_action_statistics((0.0, 0.0), (0.7, 0.7))
    for name, parameter in model.predictor.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _matmul_flops_per_second(size: int) -> float:
    """What one large matrix product reaches here."""
    left, right = torch.rand(2, size, size)
    seconds = take_turns({"matmul": Contender(lambda: left @ right, amount=2 * size**3)}, num_rounds=10, num_warmups=3)["matmul"]
    return 1 / min(seconds)
