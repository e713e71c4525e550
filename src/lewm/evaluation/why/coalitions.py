"""The parts of an agent, and which of them an oracle stands in for.

| part | the agent's own | its oracle |
|---|---|---|
| encoder | latents of frames | the true labels |
| predictor | the imagined futures of the model | the simulator, set to the true state |
| cost | the planner's distance to the goal | the length of the shortest way |
| search | the planner's settings | ten times as many candidates times iterations |
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.planner_config import LANDMARKS, ON_PROPOSALS
from lewm.planning.terms import DISTANCES
from lewm.registry import PLANNERS

PARTS = ("encoder", "predictor", "cost", "search")
"""In the order of the bits of a coalition's number."""
COST_KINDS = ("last", "min", "sum", "prefix")
WITH_GRADIENTS = ("gradient", "cem-gradient")
CANDIDATE_FACTOR, ITERATION_FACTOR = 2, 5
LEAST_CANDIDATES, LEAST_ITERATIONS, LEAST_STD = 48, 10, 1.0
"""Ten times a search that was switched off is no oracle: 480 candidates are tried at least, and they start as spread out as the training actions."""
ELITE_SHARE = 8
"""Of so many candidates one is an elite, at least."""


@dataclass(frozen=True, order=True)
class Coalition:
    """Parts whose place an oracle takes."""

    number: int

    @classmethod
    def of(cls, *parts: str) -> "Coalition":
        """The coalition of the named parts."""
        return cls(sum(1 << PARTS.index(part) for part in parts))

    def has(self, part: str) -> bool:
        """Whether an oracle stands in for a part."""
        return bool(self.number >> PARTS.index(part) & 1)

    @property
    def name(self) -> str:
        """Its parts with + between; ``none`` for the agent as it is."""
        return "+".join(part for part in PARTS if self.has(part)) or "none"


COALITIONS = tuple(Coalition(number) for number in range(1 << len(PARTS)))
"""All of them, by number."""


def oracle_search(planner: PlannerConfig) -> PlannerConfig:
    """Ten times the search: twice the candidates, five times the iterations, no deadline and no early stop."""
    num_candidates = max(CANDIDATE_FACTOR * max((planner.num_candidates, *planner.candidate_schedule)), LEAST_CANDIDATES)
    changes: dict[str, object] = {
        "num_candidates": num_candidates,
        "num_iterations": max(ITERATION_FACTOR * planner.num_iterations, LEAST_ITERATIONS),
        "deadline_s": None,
        "candidate_schedule": (),
        "initial_std": max(planner.initial_std, LEAST_STD),
        "stop_std": 0.0,
        "stop_improvement": 0.0,
    }
    if planner.knows("num_elites"):
        changes["num_elites"] = max(CANDIDATE_FACTOR * planner.num_elites, num_candidates // ELITE_SHARE)
    return replace(planner, **{name: value for name, value in changes.items() if planner.knows(name)})  # type: ignore[arg-type]


def check_planner(planner: PlannerConfig, heads: Iterable[str]) -> None:
    """``ConfigError`` for settings that have no meaning once a part is swapped."""
    if planner.name in WITH_GRADIENTS:
        raise ConfigError(
            f"planner {planner.name!r} follows the model's gradient, and the simulator that stands in for the model has none: use --planner.name cem"
        )
    if planner.name in (*ON_PROPOSALS, LANDMARKS):
        raise ConfigError(f"planner {planner.name!r} is more than a search on the model, and nothing stands in for the rest: use --planner.name cem")
    if planner.distance not in DISTANCES or planner.cost not in COST_KINDS:
        raise ConfigError(
            f"planner.distance {planner.distance!r} and planner.cost {planner.cost!r} would judge latents by a head, which cannot judge the labels "
            f"that stand in for them: use --planner.distance {' or '.join(DISTANCES)} and --planner.cost {' or '.join(COST_KINDS)}"
        )
    if planner.proposals and (planner.proposals in set(heads) or planner.proposals not in PLANNERS):
        raise ConfigError(f"planner.proposals {planner.proposals!r} is a head that proposes from latents, so no part can be swapped: leave it out")
