"""Planning with the laptop preset's model and every planner, and with the paper preset's at its true size, against imagining every window anew.

Axes: E episode, S candidate, T model step, H context, D latent, A action block.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lewm.bench.compiler import require_compiler
from lewm.bench.official_reference import official_predictions
from lewm.bench.references import straight_rollout
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, milliseconds, relative_difference, take_turns
from lewm.config import Config, PlannerConfig
from lewm.config_files import load_preset
from lewm.models.official import official_names
from lewm.models.world_model import WorldModel
from lewm.planner_config import SEARCHES
from lewm.planning.base import Cost
from lewm.planning.costs import ImaginedCost, Rollout
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, ObservationSpec

REFERENCE = "the same search with a straight rollout: the predictor on the whole window of every candidate at every step, last output kept"
OFFICIAL_REFERENCE = "the same search with the official predictor written plainly, on the whole window of every candidate at every step"
ACTION_SPEC = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
PAPER_ITERATIONS = 2
"""Of the paper's 30, on a CPU: a plan takes so many times longer."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run the same search."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the planner's settings."""
    words: str = ""
    """For the case of a row, where there are several."""


AS_IT_IS = (Variant(),)
ON_A_GPU = tuple(
    Variant(changes={"precision": precision, "use_cuda_graphs": use_cuda_graphs}, words=f", {words}{', CUDA graphs' if use_cuda_graphs else ''}")
    for precision, words in (("32-true", "float32"), ("bf16-mixed", "bf16-mixed"))
    for use_cuda_graphs in (False, True)
)
COMPILED_ON_A_GPU = tuple(
    Variant(
        changes={"precision": "bf16-mixed", "use_compile": True, "use_cuda_graphs": use_cuda_graphs},
        words=f", bf16-mixed, compiled{', CUDA graphs' if use_cuda_graphs else ''}",
    )
    for use_cuda_graphs in (False, True)
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One search, run in several ways, beside the reference in the same precision."""

    model: WorldModel
    planner: PlannerConfig
    variants: Sequence[Variant] = AS_IT_IS
    reference: Rollout
    reference_is: str
    name: str
    num_episodes: int
    num_rounds: int
    target_must: float | None = None
    target_aim: float | None = None


def measure(options: BenchOptions) -> Iterator[Row]:
    """Milliseconds per plan: CEM with 1, 16 and 64 episodes at once, every other planner with 1 and 16, and CEM at the paper's true size.

    On a GPU CEM alone, also in half precision and replayed as CUDA graphs, and the paper's search whole, with 1 and 16 episodes.
    """
    if options.use_compile and not options.is_quick:  # the quick form compiles nothing
        require_compiler(options.device)
    cases = [*_laptop_cases(options), *_paper_cases(options)]
    size = 64 if options.is_quick else 1024 if options.device == "cpu" else 8192
    precisions = {str(variant.changes.get("precision", case.planner.precision)) for case in cases for variant in case.variants}
    peaks = {precision: _matmul_flops_per_second(size, precision, options.device) for precision in sorted(precisions)}
    for case in cases:
        yield from _rows(case, peaks, options.device)


def _laptop_cases(options: BenchOptions) -> list[Case]:
    config = load_preset("laptop")
    is_on_cpu = options.device == "cpu"
    planner = dataclasses.replace(config.planner, use_compile=options.use_compile and is_on_cpu and not options.is_quick)
    if options.is_quick:
        planner = dataclasses.replace(planner, num_candidates=8, num_elites=2, num_iterations=2)
    model = model_that_acts(config).to(options.device)
    cases = []
    for name in SEARCHES if is_on_cpu or options.is_quick else ("cem",):
        few = {"refine_iterations": 1} if options.is_quick and name == "cem-gradient" else {}
        switched = planner.switched(name, **few)
        batches = {2: 1} if options.is_quick else {1: 10, 16: 2 if is_on_cpu else 5} | ({64: 1 if is_on_cpu else 3} if name == "cem" else {})
        for num_episodes, num_rounds in batches.items():  # a round plans for all of them
            cases.append(
                Case(
                    model=model,
                    planner=switched,
                    variants=ON_A_GPU if name == "cem" and not is_on_cpu else AS_IT_IS,
                    reference=lambda *arguments: straight_rollout(model, *arguments),
                    reference_is=REFERENCE,
                    name=_words(switched),
                    num_episodes=num_episodes,
                    num_rounds=num_rounds,
                )
            )
    return cases


def _paper_cases(options: BenchOptions) -> list[Case]:
    config, is_on_cpu = load_preset("paper"), options.device == "cpu"
    planner = dataclasses.replace(config.planner, num_iterations=PAPER_ITERATIONS if is_on_cpu or options.is_quick else config.planner.num_iterations)
    if options.is_quick:
        planner = dataclasses.replace(planner, num_candidates=8, num_elites=2)
    model = model_that_acts(config, size_px=28).to(options.device)  # frames are not looked at
    names, state = official_names(model), model.state_dict()
    weights = {official: state[ours] for ours, official in names.items()}
    is_held_to_targets = is_on_cpu and not options.is_quick
    cases = []
    for num_episodes, num_rounds in ({1: 1} if options.is_quick else {1: 5} if is_on_cpu else {1: 5, 16: 3}).items():
        is_compiled_too = options.use_compile and num_episodes > 1  # each number of episodes would be compiled anew
        cases.append(
            Case(
                model=model,
                planner=planner,
                variants=AS_IT_IS if is_on_cpu else (*ON_A_GPU, *COMPILED_ON_A_GPU) if is_compiled_too else ON_A_GPU,
                reference=lambda context, _, candidates: _official_rollout(model, weights, context, candidates),
                reference_is=OFFICIAL_REFERENCE,
                name=f"paper preset, {_words(planner)}",
                num_episodes=num_episodes,
                num_rounds=num_rounds,
                target_must=1.3 if is_held_to_targets else None,
                target_aim=2.0 if is_held_to_targets else None,
            )
        )
    return cases


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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is planned for, drawn at random."""

    context: Float[Tensor, "E H D"]
    past_blocks: Float[Tensor, "E H-1 A"]
    goals: Float[Tensor, "E D"]
    candidates: Float[Tensor, "E S T A"]
    """For comparing results: in a whole search a rounding error may swap two elites that are equally good."""


def _problem(case: Case, device: str) -> Problem:
    config, num_episodes, generator = case.planner, case.num_episodes, torch.Generator().manual_seed(case.num_episodes)
    history, latent = config.history_model_steps, case.model.latent_dimension
    block = ACTION_SPEC.block_dimension(case.model.action_block)
    context = torch.randn(num_episodes, history, latent, generator=generator)
    past_blocks = torch.rand(num_episodes, history - 1, block, generator=generator) * 2 - 1
    goals = torch.randn(num_episodes, latent, generator=generator)
    candidates = torch.rand(num_episodes, config.num_candidates, config.horizon_model_steps, block, generator=generator) * 2 - 1
    return Problem(context=context.to(device), past_blocks=past_blocks.to(device), goals=goals.to(device), candidates=candidates.to(device))


@torch.no_grad()
def _rows(case: Case, peaks: Mapping[str, float], device: str) -> list[Row]:
    """One row per variant; all of them and their references take turns."""
    problem = _problem(case, device)
    policies = {variant.words: MPCPolicy(case.model, dataclasses.replace(case.planner, **variant.changes)) for variant in case.variants}
    costs = {words: policy.cost(problem.context, problem.past_blocks, problem.goals) for words, policy in policies.items()}
    straight = {cost.precision: _with_rollout(cost, case.reference) for cost in costs.values()}
    plans = {words: _plan(policies[words], cost, device) for words, cost in costs.items()}
    plans |= {f"reference {precision}": _plan(next(iter(policies.values())), cost, device) for precision, cost in straight.items()}
    flops = _flops(_with_rollout(next(iter(costs.values())), case.model.rollout), problem), _flops(next(iter(straight.values())), problem)
    seconds = take_turns(
        {name: Contender(plan, amount=case.num_episodes) for name, plan in plans.items()},
        num_rounds=case.num_rounds,
        # On a CPU a whole plan would be a long warm-up: the costs above are enough, unless code is compiled.
        num_warmups=2 if device != "cpu" else int(case.planner.use_compile),
        device=device,
    )
    return [
        Row(
            case=f"{case.name}, episodes at once: {case.num_episodes}{words}",
            unit="ms/plan",
            better="lower",
            ours=milliseconds(seconds[words]),
            reference=milliseconds(seconds[f"reference {cost.precision}"]),
            reference_is=case.reference_is,
            target_must=case.target_must,
            target_aim=case.target_aim,
            max_difference=relative_difference(_imagined(cost, problem), _imagined(straight[cost.precision], problem)),
            details=_details(policies[words].config, seconds[words], case.num_episodes, flops, peaks),
        )
        for words, cost in costs.items()
    ]


def _with_rollout(cost: ImaginedCost, rollout: Rollout) -> ImaginedCost:
    return ImaginedCost(rollout, cost.context, cost.past_blocks, cost.terms, max_batch_rows=cost.max_batch_rows, precision=cost.precision)


def _plan(policy: MPCPolicy, cost: ImaginedCost, device: str) -> Callable[[], object]:
    seeds = [(episode, 0) for episode in range(len(cost.context))]
    steps = policy.config.horizon_model_steps
    return lambda: policy.planner.plan(cost, policy.space, horizon_model_steps=steps, seeds=seeds, device=torch.device(device))


def _imagined(cost: ImaginedCost, problem: Problem) -> Float[Tensor, "E S T D"]:
    with torch.autocast(problem.context.device.type, torch.bfloat16, enabled=cost.precision == "bf16-mixed"):
        return cost.rollout(problem.context, problem.past_blocks, problem.candidates).float()


def _details(
    config: PlannerConfig, seconds: Sequence[float], num_episodes: int, flops: tuple[int, int], peaks: Mapping[str, float]
) -> dict[str, float]:
    """Other figures, of ``seconds`` per plan and of the operations of one evaluation: ours, the reference's."""
    details = {"p95_ms": 1e3 * float(np.quantile(seconds, 0.95)), "reference_flops": flops[1] / flops[0]}
    if config.name in ("gradient", "cem-gradient"):  # whose backward passes are not counted
        return details
    imagined_per_plan = sum(config.candidates_in(iteration) for iteration in range(config.num_iterations))
    per_second = imagined_per_plan / statistics.median(seconds)
    flops_per_candidate = flops[0] / (num_episodes * config.num_candidates)  # of the matrix products
    return details | {"candidates_per_second": per_second, "share_of_matmul_peak": flops_per_candidate * per_second / peaks[config.precision]}


def _words(config: PlannerConfig) -> str:
    size = config.num_restarts if config.name == "gradient" else config.num_candidates
    return f"{config.name} {size}x{config.num_iterations}, horizon {config.horizon_model_steps}"


def _flops(cost: Cost, problem: Problem) -> int:
    """Of the matrix products of one evaluation."""
    with FlopCounterMode(display=False) as counter:
        cost(problem.candidates)
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


def _matmul_flops_per_second(size: int, precision: str, device: str) -> float:
    """What one large matrix product in the precision of a search reaches here."""
    left, right = torch.rand(2, size, size, device=device, dtype=torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    contenders = {"matmul": Contender(lambda: left @ right, amount=2 * size**3)}
    return 1 / min(take_turns(contenders, num_rounds=10, num_warmups=3, device=device)["matmul"])
