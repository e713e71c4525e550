"""The methods that are compared: one line of a table each.

To add one, add its line to ``METHODS``; a head that it needs and that nobody trains yet also gets one in ``RECIPES``. Nothing here imports torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lewm.config import PlannerConfig
from lewm.config_files import load_preset
from lewm.errors import ConfigError
from lewm.head_config import HEAD_CONFIGS, HeadConfig
from lewm.planner_config import CONTINUOUS_ONLY, LANDMARKS
from lewm.registry import did_you_mean

SEARCH, SEARCH_WITH_HELP, ACTING, FLOOR, CEILING, POLICY = "search", "search + head", "head", "floor", "ceiling", "learned policy"
KINDS = (FLOOR, SEARCH, SEARCH_WITH_HELP, ACTING, POLICY, CEILING)
"""Kinds of method, in the order of the table: search on the model alone, with help from a head or the data, a head alone."""
BASELINE = "cem"
"""What the others are compared with."""
GRADIENT_COSTS = 3
"""A gradient of an imagined future counts as so many futures: one forward and about two for the way back."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A head that methods need: its stage, and settings of the stage that make it another head."""

    stage: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **more: Any) -> HeadConfig:
        """The stage's settings."""
        return HEAD_CONFIGS[self.stage](**dict(self.changes) | more)

    def fits(self, heads: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether one of a checkpoint's declared heads is this one."""
        found = heads.get(self.stage)
        return found is not None and all(found.get(name) == value for name, value in self.changes.items())


RECIPES: dict[str, Recipe] = {
    "inverse-goal": Recipe(stage="inverse-goal", changes={"use_steps_remaining": True}),
    "bc": Recipe(stage="inverse-goal", changes={"use_steps_remaining": False}),
    "intent": Recipe(stage="intent"),
    "distance": Recipe(stage="distance"),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to act with a run."""

    kind: str
    """One of ``KINDS``."""
    summary: str
    """One line."""
    settings: Callable[[PlannerConfig], PlannerConfig]
    """The planner's settings, from the run's own."""
    head: str | None = None
    """Key of ``RECIPES``: a head that the run must have."""
    pair_share: float = 1.0
    """Of the pairs that it is tried on: less than 1 for methods that are much slower than the others."""


def switched(name: str, **changes: Any) -> Callable[[PlannerConfig], PlannerConfig]:
    """The run's own settings for another planner, with changes."""
    return lambda own: own.switched(name, **changes)


def num_futures(config: PlannerConfig) -> int | None:
    """Imagined futures per plan, a gradient counting as ``GRADIENT_COSTS``; 0 without a search, None for planners that are not known here."""
    if config.name == LANDMARKS:
        return num_futures(config.switched(config.landmark_search))
    if config.name == "direct":
        return 0
    if config.name == "guarded":
        return config.guard_num_candidates * config.guard_num_iterations
    if config.name == "gradient":
        return GRADIENT_COSTS * config.num_restarts * config.num_iterations
    if config.name not in ("cem", "icem", "mppi", "predictive-sampling", "cem-gradient"):
        return None
    sampled = sum(config.candidates_in(iteration) for iteration in range(config.num_iterations))
    return sampled + (GRADIENT_COSTS * config.refine_iterations if config.name == "cem-gradient" else 0)


def paper_search(own: PlannerConfig) -> PlannerConfig:
    """LeWorldModel's published search; how goals are compared stays the run's."""
    return replace(load_preset("paper").planner, goal=own.goal)


def _icem(own: PlannerConfig) -> PlannerConfig:
    """As many futures per plan as the run's own search: fewer and fewer candidates, so that it begins with more."""
    config = own.switched("icem")
    if config.candidate_schedule:
        return config
    wanted, found = _own_futures(own), num_futures(config) or 1
    return replace(config, num_candidates=max(config.num_elites, round(config.num_candidates * wanted / found)))


def _gradient(own: PlannerConfig) -> PlannerConfig:
    """As many steps as cost what the run's own search costs."""
    config = own.switched("gradient")
    return replace(config, num_iterations=max(1, _own_futures(own) // (GRADIENT_COSTS * config.num_restarts)))


def _cem_gradient(own: PlannerConfig) -> PlannerConfig:
    """The last iteration of the run's own search is given to the gradient."""
    config = own.switched("cem-gradient")
    if config.num_iterations < 2:
        return config
    last = config.candidates_in(config.num_iterations - 1)
    return replace(config, num_iterations=config.num_iterations - 1, refine_iterations=max(1, last // GRADIENT_COSTS))


def _own_futures(own: PlannerConfig) -> int:
    return num_futures(own.switched("cem")) or 1


METHODS: dict[str, Method] = {
    "retrieval": Method(
        kind=FLOOR,
        summary="learns nothing: the training action whose episode went on to something like the goal",
        settings=switched("direct", proposals="retrieval"),
    ),
    "cem": Method(kind=SEARCH, summary="cross-entropy method, the run's own settings", settings=switched("cem")),
    "cem-paper": Method(
        kind=SEARCH, summary="LeWorldModel's published search: 300 x 30, five blocks, all executed", settings=paper_search, pair_share=0.5
    ),
    "icem": Method(kind=SEARCH, summary="coloured noise, kept elites, as many futures as cem", settings=_icem),
    "mppi": Method(kind=SEARCH, summary="path integral, as many futures as cem", settings=switched("mppi")),
    "predictive-sampling": Method(kind=SEARCH, summary="best of noisy candidates, as many as cem", settings=switched("predictive-sampling")),
    "gradient": Method(kind=SEARCH, summary="Adam from several starts, at the cost of cem", settings=_gradient, pair_share=0.5),
    "cem-gradient": Method(kind=SEARCH, summary="cem, its last iteration replaced by the gradient", settings=_cem_gradient, pair_share=0.5),
    "cem-distance": Method(
        kind=SEARCH_WITH_HELP,
        summary="cem on a learned temporal distance",
        settings=switched("cem", distance="distance", mean_weight=1.0),
        head="distance",
    ),
    "cem-retrieval": Method(
        kind=SEARCH_WITH_HELP, summary="cem that also tries what retrieval proposes", settings=switched("cem", proposals="retrieval")
    ),
    "landmarks": Method(kind=SEARCH_WITH_HELP, summary="cem along routes over a map of the training latents", settings=switched("landmarks")),
    "landmarks-intent": Method(
        kind=SEARCH_WITH_HELP,
        summary="the intent head along the same routes, no search below",
        settings=switched("landmarks", landmark_search="direct", proposals="intent"),
        head="intent",
    ),
    "guarded-intent": Method(
        kind=SEARCH_WITH_HELP, summary="a small cem around the intent head", settings=switched("guarded", proposals="intent"), head="intent"
    ),
    "guarded-inverse-goal": Method(
        kind=SEARCH_WITH_HELP,
        summary="a small cem around the inverse model",
        settings=switched("guarded", proposals="inverse-goal"),
        head="inverse-goal",
    ),
    "direct-intent": Method(kind=ACTING, summary="the intent head, no search", settings=switched("direct", proposals="intent"), head="intent"),
    "direct-inverse-goal": Method(
        kind=ACTING,
        summary="the goal-conditioned inverse model, no search",
        settings=switched("direct", proposals="inverse-goal"),
        head="inverse-goal",
    ),
    "direct-bc": Method(
        kind=ACTING,
        summary="behaviour cloning on latents: the inverse model without the steps to the goal",
        settings=switched("direct", proposals="inverse-goal"),
        head="bc",
    ),
}

EXPERT = "expert"
"""The world's noiseless expert in the table."""
CEILINGS: dict[str, str] = {"search": "cem on the simulator itself: what a perfect model would reach with such a search"}
"""Scripted policies that are tried beside the methods, in worlds that allow it; the noiseless expert comes with the pairs."""


def check_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, each in one of the tables and there once; ``ConfigError`` otherwise."""
    for name in names:
        if name not in METHODS and name not in CEILINGS:
            raise ConfigError(f"unknown method {name!r}.{did_you_mean(name, [*METHODS, *CEILINGS])}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"methods must be one or more different names, got {', '.join(names)}")
    return names


def is_for(config: PlannerConfig, action_kind: str) -> bool:
    """Whether a planner has a meaning for these actions."""
    return action_kind == "continuous" or config.name not in CONTINUOUS_ONLY
