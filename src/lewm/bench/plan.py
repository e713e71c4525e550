"""Planning with the laptop preset's model and every planner, and with the paper preset's at its true size, against imagining every window anew.

Axes: E episode, S candidate, T model step, H context, D latent, A action block.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lewm.bench.official_reference import official_predictions
from lewm.bench.references import straight_rollout
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, milliseconds, relative_difference, take_turns
from lewm.config import Config, PlannerConfig
from lewm.config_files import load_preset
from lewm.models.official import official_names
from lewm.models.world_model import WorldModel
from lewm.planner_config import SEARCHES
from lewm.planning.base import Cost, Planner
from lewm.planning.costs import ImaginedCost, Rollout
from lewm.planning.mpc import MPCPolicy
from lewm.registry import PLANNERS
from lewm.schema import ActionSpec, ObservationSpec

REFERENCE = "the same search with a straight rollout: the predictor on the whole window of every candidate at every step, last output kept"
OFFICIAL_REFERENCE = "the same search with the official predictor written plainly, on the whole window of every candidate at every step"
ACTION_SPEC = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
PAPER_ITERATIONS = 2
"""Of the paper's 30: a plan takes so many times longer."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison."""

    policy: MPCPolicy
    reference: Rollout
    reference_is: str
    name: str
    num_episodes: int
    num_rounds: int
    target_must: float | None = None
    target_aim: float | None = None


def measure(options: BenchOptions) -> list[Row]:
    """Milliseconds per plan: CEM with 1, 16 and 64 episodes at once, every other planner with 1 and 16, and CEM at the paper's true size."""
    peak = _matmul_flops_per_second(64 if options.is_quick else 1024)
    return [_measured(case, peak) for case in [*_laptop_cases(options), _paper_case(options)]]


def _laptop_cases(options: BenchOptions) -> list[Case]:
    config = load_preset("laptop")
    planner = dataclasses.replace(config.planner, use_compile=options.use_compile and not options.is_quick)
    if options.is_quick:
        planner = dataclasses.replace(planner, num_candidates=8, num_elites=2, num_iterations=2)
    model = model_that_acts(config)
    cases = []
    for name in SEARCHES:
        few = {"refine_iterations": 1} if options.is_quick and name == "cem-gradient" else {}
        policy = MPCPolicy(model, planner.switched(name, **few))
        batches = {2: 1} if options.is_quick else {1: 10, 16: 2} | ({64: 1} if name == "cem" else {})  # a round plans for all of them
        for num_episodes, num_rounds in batches.items():
            cases.append(
                Case(
                    policy=policy,
                    reference=lambda *arguments: straight_rollout(model, *arguments),
                    reference_is=REFERENCE,
                    name=_words(policy.config),
                    num_episodes=num_episodes,
                    num_rounds=num_rounds,
                )
            )
    return cases


def _paper_case(options: BenchOptions) -> Case:
    config = load_preset("paper")
    planner = dataclasses.replace(config.planner, num_iterations=PAPER_ITERATIONS)
    if options.is_quick:
        planner = dataclasses.replace(planner, num_candidates=8, num_elites=2)
    model = model_that_acts(config, size_px=28)  # frames are not looked at
    names, state = official_names(model), model.state_dict()
    weights = {official: state[ours] for ours, official in names.items()}
    return Case(
        policy=MPCPolicy(model, planner),
        reference=lambda context, _, candidates: _official_rollout(model, weights, context, candidates),
        reference_is=OFFICIAL_REFERENCE,
        name=f"paper preset, {_words(planner)}",
        num_episodes=1,
        num_rounds=1 if options.is_quick else 5,
        target_must=None if options.is_quick else 1.3,
        target_aim=None if options.is_quick else 2.0,
    )


def _official_rollout(
    model: WorldModel, weights: Mapping[str, Tensor], context: Float[Tensor, "E 1 D"], candidates: Float[Tensor, "E S T A"]
) -> Float[Tensor, "E S T D"]:
    latents = context.repeat_interleave(candidates.shape[1], dim=0)  # [E*S, 1, D]
    blocks, size = model.normalised_blocks(candidates.flatten(0, 1)), model.history_model_steps
    for now in range(1, blocks.shape[1] + 1):
        window = slice(max(0, now - size), now)
        predicted = official_predictions(weights, latents[:, window], blocks[:, window])
        latents = torch.cat([latents, predicted[:, -1:]], dim=1)
    return latents[:, 1:].reshape(*candidates.shape[:3], -1)


def _measured(case: Case, peak_flops_per_second: float) -> Row:
    policy, config, num_episodes = case.policy, case.policy.config, case.num_episodes
    planner: Planner = PLANNERS.load(config.name)(config)
    generator = torch.Generator().manual_seed(num_episodes)
    history, latent, block = config.history_model_steps, policy.model.latent_dimension, policy.space.block_dimension
    context = torch.randn(num_episodes, history, latent, generator=generator)
    past_blocks = torch.rand(num_episodes, history - 1, block, generator=generator) * 2 - 1
    goals = torch.randn(num_episodes, latent, generator=generator)
    candidates = torch.rand(num_episodes, config.num_candidates, config.horizon_model_steps, block, generator=generator) * 2 - 1
    fast = policy.cost(context, past_blocks, goals)
    straight = ImaginedCost(case.reference, context, past_blocks, fast.terms, max_batch_rows=config.max_batch_rows)
    seeds = [(episode, 0) for episode in range(num_episodes)]

    def plan(cost: Cost) -> Callable[[], object]:
        return lambda: planner.plan(cost, policy.space, horizon_model_steps=config.horizon_model_steps, seeds=seeds)

    with torch.no_grad():
        contenders = {"ours": Contender(plan(fast), amount=num_episodes), "reference": Contender(plan(straight), amount=num_episodes)}
        flops = _flops(fast, candidates), _flops(straight, candidates)
        seconds = take_turns(contenders, num_rounds=case.num_rounds, num_warmups=0)  # a whole plan is a long warm-up; the costs above are enough
        # The results are compared on the same candidates: in a whole search a rounding error may swap two elites that are equally good.
        imagined = policy.rollout(context, past_blocks, candidates), case.reference(context, past_blocks, candidates)
    ours = milliseconds(seconds["ours"])
    details = {"p95_ms": 1e3 * float(np.quantile(seconds["ours"], 0.95)), "reference_flops": flops[1] / flops[0]}
    if config.name not in ("gradient", "cem-gradient"):  # whose backward passes are not counted
        imagined_per_plan = sum(config.candidates_in(iteration) for iteration in range(config.num_iterations))
        per_second = 1e3 * imagined_per_plan / ours.median
        flops_per_candidate = flops[0] / (num_episodes * config.num_candidates)  # of the matrix products
        details |= {"candidates_per_second": per_second, "share_of_matmul_peak": flops_per_candidate * per_second / peak_flops_per_second}
    return Row(
        case=f"{case.name}, episodes at once: {num_episodes}",
        unit="ms/plan",
        better="lower",
        ours=ours,
        reference=milliseconds(seconds["reference"]),
        reference_is=case.reference_is,
        target_must=case.target_must,
        target_aim=case.target_aim,
        max_difference=relative_difference(*imagined),
        details=details,
    )


def _words(config: PlannerConfig) -> str:
    size = config.num_restarts if config.name == "gradient" else config.num_candidates
    return f"{config.name} {size}x{config.num_iterations}, horizon {config.horizon_model_steps}"


def _flops(cost: Cost, candidates: Float[Tensor, "E S T A"]) -> int:
    """Of the matrix products of one evaluation."""
    with FlopCounterMode(display=False) as counter:
        cost(candidates)
    return int(counter.get_total_flops())


def model_that_acts(config: Config, size_px: int = 64) -> WorldModel:
    """A model with random weights whose predictions depend on the actions (AdaLN-zero starts without)."""
    torch.manual_seed(0)
    model = WorldModel(config, ObservationSpec(height_px=size_px, width_px=size_px), ACTION_SPEC).eval()
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
