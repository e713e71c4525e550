"""Many episodes of one MuJoCo world at once, all in one simulator.

Axes: E episode, V view, Y X image, a action, s label.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from lewm.envs.base import EpisodeError, check_count, check_seeds
from lewm.envs.mujoco.labels import LabelTable
from lewm.envs.mujoco.options import MujocoOptions
from lewm.envs.mujoco.rendering import SceneRenderer
from lewm.envs.mujoco.simulator import Moment, MujocoSimulator
from lewm.envs.mujoco.states import StateFormat
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec


class GoalPredicate(Protocol):
    """When a world is where its goal is, and how hard that is to reach; told from labels [n, s]."""

    @property
    def readable_names(self) -> tuple[str, ...]:
        """The compared labels as a linear probe can read them."""

    def is_solved(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """Whether at the goal, bool [n]."""

    def distance(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: how far from the goal, in tolerances."""

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: which kind of pair; -1 if solved at the start."""


class MujocoBatch(ABC):
    """E episodes of the environment called ``name``.

    Row e is a function of its seed and its actions: one simulator takes each row in turn from its explicit moment to the next, which is why a state
    continues exactly. A row that has terminated stays as it is, with reward 0, until it is reset or given a state.
    """

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]

    def __init__(
        self,
        num_envs: int,
        name: str,
        options: MujocoOptions,
        *,
        simulator: MujocoSimulator,
        table: LabelTable,
        predicate: GoalPredicate,
        states: StateFormat,
    ) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.name = name
        self._options, self._simulator, self._table, self._goal_predicate, self._state_format = options, simulator, table, predicate, states
        self._renderer: SceneRenderer | None = None
        names, size = simulator.camera_names, options.size_px
        self._cameras = options.camera_numbers(names, name)
        self.observation_spec = ObservationSpec(height_px=size, width_px=size, cameras=tuple(names[number] for number in self._cameras))
        self._low, self._high = simulator.action_bounds
        self.action_spec = ActionSpec(
            kind="continuous", low=tuple(self._low.tolist()), high=tuple(self._high.tolist()), action_repeat=options.action_repeat
        )
        self.label_names = table.names
        self.goal_label_names = predicate.readable_names
        self._now: list[Moment] = []
        self._goals: list[Moment] = []
        self._is_over = np.zeros(num_envs, bool)
        self._is_closed = False
        self._positions = np.zeros((num_envs, table.num_positions))
        self._goal_labels = np.zeros((num_envs, len(self.label_names)), np.float32)

    @abstractmethod
    def _draw_goal(self, start: Moment, seed: int) -> Moment:
        """The goal of a new episode, at rest."""

    @abstractmethod
    def _measured(self, moment: Moment) -> np.ndarray:
        """float64 [num_positions]: what the label table needs beside ``qpos`` and ``qvel``; the simulator holds the moment."""

    @property
    def env_step_s(self) -> float:
        """Simulated time of one env step."""
        return self._simulator.control_step_s * self._options.action_repeat

    @property
    def max_env_steps(self) -> int | None:
        """Env steps after which an episode is truncated: the option, or the world's own time limit."""
        limit = self._simulator.time_limit_control_steps
        return self._options.max_env_steps or (None if limit is None else -(-limit // self._options.action_repeat))

    def rendering_description(self) -> dict[str, Any]:
        """How frames are drawn: ``profile``, ``hide``, ``backend`` and ``gl_renderer``, for provenance."""
        self._require_open()
        renderer = self._open_renderer()
        settings = self._options.renderer_settings()
        drawn = {"profile": settings.pop("profile"), "hide": list(settings.pop("hide")), **settings}
        return drawn | {"backend": renderer.backend, "gl_renderer": renderer.gl_renderer}

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes, with start, variation and goal drawn from each episode's seed."""
        self._require_open()
        check_seeds(seeds, self.num_envs)
        starts = [self._simulator.initialise([seed]) for seed in seeds]
        self._take_over(starts, [self._draw_goal(start, seed) for start, seed in zip(starts, seeds, strict=True)])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step: actions [E, a] -> (rewards float32 [E], terminated bool [E]); ``EnvError`` for actions out of bounds or not finite.

        ``EpisodeError`` where an episode's simulation diverges; then every episode is where it was.
        """
        self._require_started()
        actions = self._checked_actions(actions)
        rewards, is_over = np.zeros(self.num_envs, np.float32), self._is_over.copy()
        now, positions = list(self._now), self._positions.copy()
        running = np.flatnonzero(~is_over).tolist()
        for episode in running:
            self._simulator.load(now[episode])
            try:
                rewards[episode], is_over[episode] = self._simulator.advance(actions[episode], self._options.action_repeat)
            except EpisodeError as error:
                raise EpisodeError(f"{error} (episode {episode} of 0 to {self.num_envs - 1}); leave it out, or lower the actions") from error
            now[episode] = self._simulator.save(now[episode].env_step + 1)
            positions[episode] = self._measured(now[episode])
        before, self._now, self._positions = self._now, now, positions
        self._after_step(running, before)
        self._is_over = is_over | self.is_solved() if self._options.is_terminated_on_success else is_over
        return rewards, self._is_over.copy()

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, V, Y, X, 3], into ``out`` if given; the array belongs to the caller."""
        self._require_started()
        return Observation(self._draw(self._now, out))

    def labels(self) -> np.ndarray:
        """float32 [E, s]: ``label_names``."""
        self._require_started()
        return self._labels_of(self._now, self._positions)

    def goal_labels(self) -> np.ndarray:
        """float32 [E, s]: the labels of the goals."""
        self._require_started()
        return self._goal_labels.copy()

    def get_states(self) -> list[bytes]:
        """The complete state of every episode: the present moment and the goal's."""
        self._require_started()
        return [self._state_format.pack(self.name, now, goal) for now, goal in zip(self._now, self._goals, strict=True)]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode; ``EnvError`` for one of another task or version."""
        self._require_open()
        check_count("states", len(states), self.num_envs)
        moments = [self._state_format.unpack(self.name, state, self._simulator) for state in states]
        self._take_over([now for now, _ in moments], [goal for _, goal in moments])

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make the present world of one state the goal of each episode."""
        self._require_started()
        check_count("goal states", len(states), self.num_envs)
        self._take_over_goals([self._state_format.unpack(self.name, state, self._simulator)[0] for state in states])

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The states with nothing moving and nothing driven, in the present and in the goal."""
        self._require_open()
        moments = [self._state_format.unpack(self.name, state, self._simulator) for state in states]
        return [self._state_format.pack(self.name, self._simulator.at_rest(now), self._simulator.at_rest(goal)) for now, goal in moments]

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, V, Y, X, 3]."""
        self._require_started()
        return Observation(self._draw(self._goals, None))

    def is_solved(self) -> np.ndarray:
        """Which episodes are at their goal, bool [E]."""
        return self._goal_predicate.is_solved(self.labels(), self._goal_labels)

    def goal_distance(self) -> np.ndarray:
        """float64 [E]: how far each episode is from its goal, in tolerances; 1 is the edge of success."""
        return self._goal_predicate.distance(self.labels(), self._goal_labels)

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n], for labels [n, s]: the kind of each pair; -1 if it is solved at the start."""
        return self._goal_predicate.strata(start_labels, goal_labels)

    def is_truncated(self) -> np.ndarray:
        """Which episodes have lasted ``max_env_steps``, bool [E]."""
        self._require_started()
        limit = self.max_env_steps
        return np.array([limit is not None and moment.env_step >= limit for moment in self._now])

    def close(self) -> None:
        """Free the renderer; harmless when called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._is_closed = True

    def _after_step(self, episodes: Sequence[int], before: Sequence[Moment]) -> None:  # noqa: B027  # most worlds count nothing
        """Something that a world counts along; ``episodes`` were stepped, from the moments ``before``."""

    def _take_over(self, now: list[Moment], goals: list[Moment]) -> None:
        self._positions = self._positions_of(now)
        self._now = now
        self._is_over = np.zeros(self.num_envs, bool)
        self._take_over_goals(goals)

    def _take_over_goals(self, goals: list[Moment]) -> None:
        self._goal_labels = self._labels_of(goals, self._positions_of(goals))
        self._goals = goals

    def _positions_of(self, moments: Sequence[Moment]) -> np.ndarray:
        positions = np.zeros((len(moments), self._table.num_positions))
        for row, moment in enumerate(moments if self._table.num_positions else ()):
            self._simulator.load(moment)
            positions[row] = self._measured(moment)
        return positions

    def _labels_of(self, moments: Sequence[Moment], positions: np.ndarray) -> np.ndarray:
        qpos, qvel = (np.stack([self._simulator.part(moment, name) for moment in moments]) for name in ("qpos", "qvel"))
        return self._table.values(qpos, qvel, positions)

    def _open_renderer(self) -> SceneRenderer:
        if self._renderer is None:
            self._renderer = SceneRenderer(self._simulator.model, self._options.size_px, **self._options.renderer_settings())
        return self._renderer

    def _draw(self, moments: Sequence[Moment], out: np.ndarray | None) -> np.ndarray:
        shape = (len(moments), *self.observation_spec.frame_shape)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise EnvError(f"out must be uint8 {shape}, got {out.dtype} {out.shape}")
        renderer = self._open_renderer()
        for row, moment in enumerate(moments):
            self._simulator.load(moment)
            if "hfield_data" in moment.variation:
                renderer.upload_height_fields()
            for view, camera in enumerate(self._cameras):
                renderer.draw(self._simulator.data, self._simulator.camera(camera), out[row, view])
        return out

    def _require_open(self) -> None:
        if self._is_closed:
            raise EnvError("this environment was closed; make a new one")

    def _require_started(self) -> None:
        self._require_open()
        if not self._now:
            raise EnvError("this environment has no episode yet; call reset or set_state first")

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        shape = (self.num_envs, len(self._low))
        if actions.shape != shape or actions.dtype.kind not in "fiu":
            raise EnvError(f"actions must be numbers of shape {shape}, got {actions.dtype} {actions.shape}")
        # Bounds such as 1.1 are no float32 numbers; an action that was clipped to them as one is within them.
        with np.errstate(over="ignore"):
            rounded = actions.astype(np.float32)
        is_allowed = (rounded >= self._low.astype(np.float32)) & (rounded <= self._high.astype(np.float32))
        if not is_allowed.all():
            episode = int(np.flatnonzero(~is_allowed.all(-1))[0])
            is_uniform = (self._low == self._low[0]).all() and (self._high == self._high[0]).all()
            bounds = f"[{self._low[0]:g}, {self._high[0]:g}]" if is_uniform else f"{self._low.tolist()} and {self._high.tolist()}"
            raise EnvError(f"actions must be finite and within {bounds}, got {actions[episode].tolist()} for episode {episode}; clip them")
        return np.clip(actions.astype(np.float64), self._low, self._high)
