"""Settings of the search for actions, and which of them each planner knows.

The string under a field is its help text. Nothing here imports torch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from lewm.errors import ConfigError
from lewm.setting_checks import at_least, at_most, fraction, require

_PROPOSED = frozenset({"proposals", "steps_to_goal"})
_SAMPLING = _PROPOSED | {"num_candidates", "candidate_schedule", "initial_std", "stop_improvement"}
_SMOOTHED = frozenset({"noise_smoothing", "smoothing_window_env_steps"})
_ADAPTING = frozenset({"std_floor", "momentum", "stop_std"})
_CEM = _SAMPLING | _SMOOTHED | _ADAPTING | {"num_elites"}
LANDMARKS = "landmarks"
"""The planner that finds routes over a map and leaves the search to another."""
_LANDMARKS = frozenset(
    {
        "num_landmarks",
        "landmark_search",
        "landmark_distance",
        "landmark_reach_env_steps",
        "landmark_edge_env_steps",
        "landmark_patience",
        "landmark_seed",
    }
)
OWN_OPTIONS: dict[str, frozenset[str]] = {
    "cem": _CEM | {"probability_floor"},
    "icem": _SAMPLING | _ADAPTING | {"num_elites", "noise_exponent", "elites_kept", "candidate_decay"},
    "mppi": _SAMPLING | _SMOOTHED | _ADAPTING | {"temperature"},
    "predictive-sampling": _SAMPLING | _SMOOTHED,
    "gradient": _PROPOSED | {"optimizer", "step_size", "num_restarts", "initial_std"},
    "cem-gradient": _CEM | {"optimizer", "step_size", "refine_iterations"},
    "direct": _PROPOSED | {"act_every_env_steps"},
    "guarded": _PROPOSED
    | _SMOOTHED
    | _ADAPTING
    | {"guard_num_candidates", "guard_num_iterations", "guard_std", "probability_floor", "stop_improvement"},
}
"""What each of lewm's planners knows beyond the settings that all of them share; planners of other packages are not in it and know everything."""
OWN_OPTIONS[LANDMARKS] = _LANDMARKS.union(*OWN_OPTIONS.values())
PARTICULAR_OPTIONS: frozenset[str] = frozenset[str]().union(*OWN_OPTIONS.values())
ON_PROPOSALS = ("direct", "guarded")
"""Planners that do nothing without ``proposals``."""
SEARCHES = tuple(name for name in OWN_OPTIONS if name not in (*ON_PROPOSALS, LANDMARKS))
CONTINUOUS_ONLY = frozenset(SEARCHES) - {"cem"}
"""Planners that have no meaning for discrete actions."""


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """The search for actions in latent space.

    A setting that the planner does not know must stay at its default: ``ConfigError`` names it. ``switched`` changes the planner.
    """

    name: str = "cem"
    """Which planner; `lewm list planners` shows them."""
    horizon_model_steps: int = 5
    """Model steps that a plan looks ahead."""
    replan_every_model_steps: int = 5
    """Model steps of a plan that are executed before the next one is made."""
    num_candidates: int = 300
    """S: action sequences tried per iteration."""
    candidate_schedule: tuple[int, ...] = ()
    """S of each iteration, the last number for all that follow; instead of num_candidates."""
    num_elites: int = 30
    """Best candidates that the distribution is refitted on (cem, icem)."""
    num_iterations: int = 30
    """Rounds of a search; gradient: steps of the optimiser."""
    goal: Literal["default", "latent", "labels"] = "default"
    """What is compared with the goal: whole latents, or only the labels that decide success, read off the latents by a probe; default: what the
    world says."""
    cost: Literal["last", "min", "sum", "prefix"] = "last"
    """Distance to the goal of the last imagined latent, of the nearest one, of all of them added up, or the mean over all of them in which later
    ones weigh more."""
    prefix_power: float = 1.0
    """With cost prefix: step t of T weighs t ** prefix_power; 0 is the plain mean, a large number the last step."""
    mean_weight: float = 0.0
    """Share of the mean distance over the horizon added to the cost: prefers plans that arrive early."""
    distance: str = "l2"
    """How latents are compared: l2 (squared), cosine, or the name of a head of the run that measures distances."""
    action_penalty: float = 0.0
    """Weight of the mean squared action in the cost, in standard deviations of the training actions from their mean (continuous actions)."""
    smoothness_penalty: float = 0.0
    """Weight of the mean squared change of the action from env step to env step in the cost, in the same unit."""
    initial_std: float = 1.0
    """Standard deviation of the first Gaussian (continuous actions), in standard deviations of the training actions."""
    std_floor: float = 0.0
    """Smallest standard deviation that refitting may reach, in the same unit."""
    probability_floor: float = 0.05
    """Share of the uniform distribution mixed into the choices' probabilities after each refit (discrete actions)."""
    momentum: float = 0.0
    """Share of the old mean and standard deviation (discrete: probabilities) kept at each refit."""
    noise_smoothing: float = 0.0
    """Share of the noise variance that is a moving average over env steps instead of white; discrete: probability that an env step repeats the
    choice of the one before."""
    smoothing_window_env_steps: int = 4
    """Length of that moving average (continuous actions)."""
    noise_exponent: float = 2.0
    """Power of the noise falls with frequency to this exponent: 0 white, 1 pink, 2 red (icem)."""
    elites_kept: float = 0.3
    """Share of the elites that stay candidates in the next iteration and, shifted, in the next plan (icem)."""
    candidate_decay: float = 1.25
    """Each iteration tries so many times fewer candidates than the one before, down to twice the elites (icem without a schedule)."""
    temperature: float = 0.3
    """A candidate weighs exp(-cost / (temperature * standard deviation of the candidates' costs)) (mppi)."""
    stop_std: float = 0.0
    """End an episode's search when the largest standard deviation is below this; 0: never."""
    stop_improvement: float = 0.0
    """End an episode's search when an iteration lowered the best cost by less than this share of it; 0: never."""
    optimizer: str = "Adam"
    """Any optimiser of torch.optim that treats numbers one by one (gradient, cem-gradient)."""
    step_size: float = 0.1
    """Its learning rate, in standard deviations of the training actions."""
    num_restarts: int = 4
    """Starts that the gradient is followed from: the warm start or the mean action, and random ones (gradient)."""
    refine_iterations: int = 10
    """Steps of the optimiser after the search (cem-gradient)."""
    proposals: str = ""
    """Who proposes plans: another planner, a head of the run (inverse-goal, intent), or retrieval (the training action whose episode went on to
    something like the goal). direct executes what is proposed, guarded searches around it, the others try it as a candidate."""
    steps_to_goal: int = 15
    """Env steps in which a head that proposes is to be at the goal: at most what it was trained on; the intent head does not ask."""
    act_every_env_steps: int = 1
    """Env steps between two looks at the world, at most an action block; each look decides the actions until the next (direct)."""
    guard_num_candidates: int = 128
    """Action sequences tried per iteration around what is proposed (guarded)."""
    guard_num_iterations: int = 3
    """Refits per plan (guarded)."""
    guard_std: float = 0.5
    """Standard deviation of the first Gaussian around the proposal, in standard deviations of the training actions (guarded)."""
    num_landmarks: int = 500
    """Frames of the training data that the map is made of, at most (landmarks)."""
    landmark_search: str = "cem"
    """Which planner goes from landmark to landmark; its settings are given beside this one (landmarks)."""
    landmark_distance: str = ""
    """A head of the run that says how many env steps are between landmarks; default: what the training episodes took (landmarks)."""
    landmark_reach_env_steps: int = 20
    """How far ahead on the route the landmark is that is planned for; the goal itself once it is so near (landmarks)."""
    landmark_edge_env_steps: int = 20
    """Longest edge of the map (landmarks)."""
    landmark_patience: float = 2.0
    """Edges are re-weighted when the way left has not become shorter within so many times the env steps to the landmark (landmarks)."""
    landmark_seed: int = 0
    """Which frames k-means begins with (landmarks)."""
    deadline_s: float | None = None
    """Seconds for a plan: when they are over, the best one so far is taken. At least one iteration is always run."""
    use_bounds: bool = True
    """Imagine actions within the world's bounds only (in env units); the Gaussian itself is refitted on unclamped samples. Executed actions are
    always within them. Discrete actions have no bounds."""
    use_warm_start: bool = False
    """Start from the rest of the previous plan (discrete: half of the probability goes to it, half to all choices alike)."""
    history_model_steps: int = 1
    """H: past observations, action_block env steps apart, that the model is given; at most the model's own history."""
    max_batch_rows: int = 16_384
    """Candidates imagined at once, over all episodes; bounds memory and changes no result."""
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    """Arithmetic of imagination: bf16-mixed is fast on GPUs and rounds, 64-true is for checks."""
    use_compile: bool = False
    """Compile imagination with torch.compile: the first plan of each batch size then takes a minute."""
    use_cuda_graphs: bool = False
    """Replay imagination as CUDA graphs, recorded when a number of episodes and candidates comes by for the second time (the 16 used last are kept):
    small batches on a GPU wait less for the processor. With use_compile the compiled form is recorded. Steps along gradients run without graphs; a
    CPU is refused."""

    def __post_init__(self) -> None:
        self._check_known()
        at_least(1, horizon_model_steps=self.horizon_model_steps, num_candidates=self.num_candidates, num_iterations=self.num_iterations)
        at_least(1, history_model_steps=self.history_model_steps, smoothing_window_env_steps=self.smoothing_window_env_steps)
        at_least(1, max_batch_rows=self.max_batch_rows, num_restarts=self.num_restarts, refine_iterations=self.refine_iterations)
        at_least(1, act_every_env_steps=self.act_every_env_steps, steps_to_goal=self.steps_to_goal, guard_num_iterations=self.guard_num_iterations)
        at_least(2, guard_num_candidates=self.guard_num_candidates)
        require(
            1 <= self.replan_every_model_steps <= self.horizon_model_steps,
            f"planner.replan_every_model_steps must be in [1, horizon_model_steps = {self.horizon_model_steps}], got {self.replan_every_model_steps}",
        )
        self._check_candidates()
        at_least(0, mean_weight=self.mean_weight, std_floor=self.std_floor, noise_smoothing=self.noise_smoothing)
        at_least(0, prefix_power=self.prefix_power, action_penalty=self.action_penalty, smoothness_penalty=self.smoothness_penalty)
        at_least(0, noise_exponent=self.noise_exponent, stop_std=self.stop_std, stop_improvement=self.stop_improvement)
        at_least(1, candidate_decay=self.candidate_decay)
        require(self.noise_smoothing <= 1, f"planner.noise_smoothing must be in [0, 1], got {self.noise_smoothing:g}")
        for name in ("initial_std", "temperature", "step_size", "deadline_s", "guard_std"):
            value = getattr(self, name)
            require(value is None or value > 0, f"planner.{name} must be positive, got {value}")
        at_least(
            1, num_landmarks=self.num_landmarks, landmark_reach_env_steps=self.landmark_reach_env_steps, landmark_patience=self.landmark_patience
        )
        at_least(1, landmark_edge_env_steps=self.landmark_edge_env_steps)
        require(
            self.landmark_search != LANDMARKS, "planner.landmark_search names the planner below planner 'landmarks', not itself; 'cem', for example"
        )
        fraction(momentum=self.momentum)
        for name in ("probability_floor", "elites_kept"):
            at_least(0, **{f"planner.{name}": getattr(self, name)})
            at_most(1, **{f"planner.{name}": getattr(self, name)})
        require(self.goal in ("default", "latent", "labels"), f"planner.goal must be one of default, latent, labels; got {self.goal!r}")
        require(
            self.goal != "labels" or self.distance == "l2",
            f"planner.distance {self.distance!r} compares latents, and planner.goal is 'labels': leave one of them out",
        )

    def knows(self, option: str) -> bool:
        """Whether a setting means something to this planner; everything does to planners of other packages."""
        return option not in PARTICULAR_OPTIONS or option in OWN_OPTIONS.get(self.name, PARTICULAR_OPTIONS)

    def switched(self, name: str, **changes: Any) -> "PlannerConfig":
        """These settings for another planner: what it does not know goes back to its default, and ``changes`` are made."""
        known = dataclasses.replace(PlannerConfig(), name=name)
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if known.knows(field.name)}
        return PlannerConfig(**kept | {"name": name} | changes)

    def candidates_in(self, iteration: int) -> int:
        """S of an iteration, counted from 0."""
        if self.candidate_schedule:
            return self.candidate_schedule[min(iteration, len(self.candidate_schedule) - 1)]
        if self.name != "icem":
            return self.num_candidates
        return min(self.num_candidates, max(2 * self.num_elites, round(self.num_candidates * self.candidate_decay**-iteration)))

    def _check_known(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        unknown = [name for name in defaults if not self.knows(name) and getattr(self, name) != defaults[name]]
        if unknown:
            known = ", ".join(sorted(OWN_OPTIONS[self.name]))
            raise ConfigError(
                f"planner {self.name!r} does not know {', '.join(f'planner.{name}' for name in unknown)}: leave it out. Besides what all planners "
                f"know, it knows {known} (in Python, config.switched({self.name!r}) drops what it does not know)"
            )

    def _check_candidates(self) -> None:
        sizes = self.candidate_schedule or (self.num_candidates,)
        require(min(sizes) >= 1, f"planner.candidate_schedule must hold numbers of at least 1, got {list(sizes)}")
        name = "smallest of candidate_schedule" if self.candidate_schedule else "num_candidates"
        require(
            not self.knows("num_elites") or 1 < self.num_elites <= min(sizes),
            f"planner.num_elites must be in [2, {name} = {min(sizes)}], got {self.num_elites}",
        )
