"""Many Push-T episodes at once.

Axes: E episode, V view, Y X image, a action, s label. Lengths in px of the 512 x 512 table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.base import PerturbationEnd, check_count, check_seeds, move_moments
from lewm.envs.option_checks import parse_options
from lewm.envs.push_t.drawing import Canvas
from lewm.envs.push_t.goals import LABEL_NAMES, PREDICATES, labels_of
from lewm.envs.push_t.layout import ACTION_SCALE_PX, MOMENT, PERTURBATIONS, TABLE_PX, VELOCITIES, PushTOptions, are_visible
from lewm.envs.push_t.physics import Tabletop, check_pymunk
from lewm.envs.push_t.starts import draw_goal, draw_gym_past, draw_start, moment_of
from lewm.envs.push_t.states import Past, pack, unpack_all
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec

NAME, ABSOLUTE_NAME = "push-t", "push-t-absolute"
GOAL_STREAM, LAYOUT_STREAM = 1, 2
"""Keep the numbers that decide a goal and the looks apart from those that decide the start."""


class PushTBatch:
    """E episodes of Push-T; the options are the fields of ``PushTOptions``.

    Row e is a function of its seed and its actions. With fresh contacts every env step begins in a new pymunk space, so that poses and velocities
    decide what follows; with remembered ones each row keeps its space, and its state says how it came about. Rewards are 1 where the goal is
    reached. The goal at a reset is a second start of the same episode that the first does not solve.
    """

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]

    def __init__(self, num_envs: int, /, *, is_absolute: bool = False, **options: Any) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs must be at least 1, got {num_envs}")
        check_pymunk()
        self.num_envs, self.is_absolute = num_envs, is_absolute
        self.name = ABSOLUTE_NAME if is_absolute else NAME
        self.options = parse_options(PushTOptions, self.name, ({"contacts": "remembered"} if is_absolute else {}) | options)
        size = self.options.size_px
        self.observation_spec = ObservationSpec(height_px=size, width_px=size)
        low, high = (0.0, TABLE_PX) if is_absolute else (-1.0, 1.0)
        self.action_spec = ActionSpec(kind="continuous", low=(low, low), high=(high, high), action_repeat=self.options.action_repeat)
        self.predicate = PREDICATES[self.options.success]
        self.label_names, self.goal_label_names = LABEL_NAMES, self.predicate.goal_label_names
        self._now, self._goals = np.zeros(num_envs, MOMENT), np.zeros(num_envs, MOMENT)
        self._pasts: list[Past] = []
        self._tabletops: list[Tabletop | None] = [None] * num_envs
        looks: dict[str, Any] = {name: getattr(self.options, name) for name in ("rendering", "supersampling", "with_goal_zone")}
        self._canvas, self._goal_canvas = Canvas(size, **looks), Canvas(size, **looks)

    @property
    def moments(self) -> np.ndarray:
        """A copy of the present worlds, ``MOMENT`` [E]."""
        self._require_started()
        return self._now.copy()

    @property
    def goal_moments(self) -> np.ndarray:
        """A copy of the goals, ``MOMENT`` [E]."""
        self._require_started()
        return self._goals.copy()

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes: looks, start and goal are drawn from each episode's seed; ``push-t-absolute`` starts where gym-pusht starts."""
        check_seeds(seeds, self.num_envs)
        now, goals, pasts = [], [], []
        for seed in seeds:
            layout = self.options.draw_layout(np.random.default_rng([seed, LAYOUT_STREAM]))
            layout["seed"] = seed
            generator = np.random.default_rng(seed)
            pasts.append(draw_gym_past(layout, generator) if self.is_absolute else Past.of(draw_start(layout, generator)))
            now.append(moment_of(pasts[-1]) if self.is_absolute else pasts[-1].base)
            goals.append(draw_goal(now[-1], np.random.default_rng([seed, GOAL_STREAM]), self.predicate))
        self._take_over(np.array(now, MOMENT), np.array(goals, MOMENT), pasts)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step: actions [E, 2] -> (rewards float32 [E], terminated bool [E]); ``EnvError`` for actions out of bounds or not finite."""
        self._require_started()
        actions = self._checked_actions(actions)
        now = self._now.copy()
        for episode, action in enumerate(actions.tolist()):
            self._advance(episode, now[episode], action)
        now["env_step"] += np.uint32(1)
        now["held_env_steps"] = np.where(self._is_within(now), now["held_env_steps"] + np.uint32(1), 0)
        self._now = now
        is_solved = self.is_solved()
        return is_solved.astype(np.float32), is_solved if self.options.is_terminated_on_success else np.zeros(self.num_envs, bool)

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, 1, Y, X, 3], into ``out`` if given; the array belongs to the caller."""
        self._require_started()
        return Observation(self._canvas.draw(self._now, out))

    def labels(self) -> np.ndarray:
        """float32 [E, s]: ``label_names``."""
        self._require_started()
        return labels_of(self._now)

    def get_states(self) -> list[bytes]:
        """The complete state of every episode; with remembered contacts it grows by 16 bytes per control step."""
        self._require_started()
        is_remembered = self.options.contacts == "remembered"
        rows = zip(self._now, self._goals, self._pasts, strict=True)
        return [pack(self.name, now, goal, past if is_remembered else None) for now, goal, past in rows]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode; ``EnvError`` for one of another environment or version, or a damaged one."""
        check_count("states", len(states), self.num_envs)
        self._take_over(*unpack_all(self.name, states))

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make the present world of one state the goal of each episode; ``EnvError`` for one whose block or pusher is off the table."""
        self._require_started()
        check_count("goal states", len(states), self.num_envs)
        goals, _, _ = unpack_all(self.name, states)
        labels = labels_of(goals)
        is_off = ~_is_on_table(labels)
        if is_off.any():
            places = dict(zip(LABEL_NAMES[:4], labels[is_off][0].tolist(), strict=False))
            raise EnvError(f"a goal's pusher and block must be on the table, within [0, {TABLE_PX:g}] px, got {places}; choose another state")
        self._goals = goals
        self._now["held_env_steps"] = self._is_within(self._now)
        self._prepare_canvases()

    def states_at(self, *, agent_px: np.ndarray, block_px: np.ndarray, block_rad: np.ndarray) -> list[bytes]:
        """The present states with pushers and blocks put elsewhere, at rest: float [E, 2], [E, 2] and [E]. Changes nothing here."""
        self._require_started()
        moved = self._now.copy()
        for name, values in (("agent_px", agent_px), ("block_px", block_px), ("block_rad", block_rad)):
            values = np.asarray(values, np.float64)
            if values.shape != moved[name].shape or not np.isfinite(values).all():
                raise EnvError(f"{name} must be finite numbers of shape {moved[name].shape}, got {values.tolist()}")
            moved[name] = values
        return self._resting(moved, self._goals)

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The states with nothing moving, in the present and in the goal, and no contact remembered."""
        now, goals, _ = unpack_all(self.name, states)
        return self._resting(now, goals)

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, 1, Y, X, 3]."""
        self._require_started()
        return Observation(self._goal_canvas.draw(self._goals))

    def is_solved(self) -> np.ndarray:
        """Which episodes have been, bool [E], within the tolerances of their goal for as long as the predicate asks."""
        self._require_started()
        return np.asarray(self._now["held_env_steps"] >= self.predicate.hold_env_steps)

    def goal_distance(self) -> np.ndarray:
        """float64 [E]: how far each episode is from its goal, in tolerances: the larger of position and angle."""
        self._require_started()
        return self.predicate.distance(labels_of(self._now), labels_of(self._goals))

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n], for labels [n, s]: 0 the block must move, 1 the pusher alone will do, -1 solved at the start or an end is off the table."""
        strata = self.predicate.strata(start_labels, goal_labels)
        return np.where(_is_on_table(np.asarray(start_labels)) & _is_on_table(np.asarray(goal_labels)), strata, -1)

    def is_truncated(self) -> np.ndarray:
        """Which episodes have lasted ``max_env_steps``, bool [E]."""
        self._require_started()
        limit = self.options.max_env_steps
        return np.zeros(self.num_envs, bool) if limit is None else np.asarray(self._now["env_step"] >= limit)

    def perturbed(self, states: Sequence[bytes], name: str, severity: float, end: PerturbationEnd) -> list[bytes | None]:
        """The same states with one perturbation moved and no contact remembered; None where pusher or block would not be visible."""
        now, _, _ = unpack_all(self.name, states)
        moments, is_remembered = move_moments(now, name, PERTURBATIONS[name], severity, end), self.options.contacts == "remembered"
        packed = [pack(self.name, moment, moment, Past.of(moment) if is_remembered else None) for moment in moments]
        return [state if visible else None for state, visible in zip(packed, are_visible(moments), strict=True)]

    def close(self) -> None:
        """Let go of pymunk's spaces; harmless when called twice."""
        self._tabletops = [None] * self.num_envs

    def _advance(self, episode: int, moment: np.void, action: list[float]) -> None:
        """One env step of one episode, from its moment, which becomes the next."""
        is_remembered = self.options.contacts == "remembered"
        tabletop = self._tabletops[episode]
        if tabletop is None:
            tabletop = self._tabletops[episode] = (self._pasts[episode] if is_remembered else Past.of(moment)).repeated()
        elif not is_remembered:
            tabletop.renew()
            tabletop.place(moment)
        for _ in range(self.options.action_repeat):
            target = self._target(tabletop, action)
            tabletop.control(*target)
            if is_remembered:
                self._pasts[episode].targets_px.append(target)
        tabletop.write_to(moment)

    def _target(self, tabletop: Tabletop, action: list[float]) -> tuple[float, float]:
        if self.is_absolute:
            return action[0], action[1]
        x, y = (place + ACTION_SCALE_PX * amount for place, amount in zip(tabletop.agent_px, action, strict=True))
        return (min(max(x, 0.0), TABLE_PX), min(max(y, 0.0), TABLE_PX)) if self.options.is_target_clipped else (x, y)

    def _is_within(self, moments: np.ndarray) -> np.ndarray:
        return self.predicate.is_within(labels_of(moments), labels_of(self._goals))

    def _resting(self, now: np.ndarray, goals: np.ndarray) -> list[bytes]:
        for moments in (now, goals):
            for name in VELOCITIES:
                moments[name] = 0.0
        is_remembered = self.options.contacts == "remembered"
        return [pack(self.name, moment, goal, Past.of(moment) if is_remembered else None) for moment, goal in zip(now, goals, strict=True)]

    def _take_over(self, now: np.ndarray, goals: np.ndarray, pasts: list[Past]) -> None:
        self._now, self._goals, self._pasts = now, goals, pasts
        self._tabletops = [None] * self.num_envs
        self._prepare_canvases()

    def _prepare_canvases(self) -> None:
        self._canvas.prepare(self._now, self._goals)
        self._goal_canvas.prepare(self._goals, self._goals)

    def _require_started(self) -> None:
        if not self._pasts:
            raise EnvError("this environment has no episode yet; call reset or set_state first")

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions, (low, high) = np.asarray(actions), (self.action_spec.low[0], self.action_spec.high[0])
        if actions.shape != (self.num_envs, 2) or actions.dtype.kind not in "fiu":
            raise EnvError(f"actions must be numbers of shape {(self.num_envs, 2)}, got {actions.dtype} {actions.shape}")
        is_allowed = ((actions >= low) & (actions <= high)).all(-1)
        if not is_allowed.all():
            row = int(np.flatnonzero(~is_allowed)[0])
            raise EnvError(f"actions must be finite and within [{low:g}, {high:g}], got {actions[row].tolist()} for episode {row}; clip them")
        return actions.astype(np.float64)


def _is_on_table(labels: np.ndarray) -> np.ndarray:
    """Whether pusher and block's origin are, bool [n], for labels [n, s]."""
    return np.asarray(((labels[:, :4] >= 0) & (labels[:, :4] <= TABLE_PX)).all(-1))
