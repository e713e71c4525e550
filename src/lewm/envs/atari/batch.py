"""Many episodes of one Atari game at once.

Axes: E episode, V view, K emulator frame, H W the emulator's screen, Y X image, s label.

Each row is a console of its own (``ALEInterface``): ale-py's native vector environment gives no RAM, no states and no screens before they are
resized. It serves as the speed reference in ``lewm bench``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.atari.console import Console
from lewm.envs.atari.emulator import Emulator
from lewm.envs.atari.frames import FrameMaker
from lewm.envs.atari.labels import NUM_FACTS, Labels
from lewm.envs.atari.options import parse_options
from lewm.envs.atari.state import Glimpse, Moment, read, write
from lewm.envs.base import check_count, check_seeds
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec

STRATA = ("far", "near")
FAR_TOLERANCES = 5.0
"""A goal is far when some goal label is at least this many tolerances away."""
GOAL_STREAM = 13
"""Keeps the numbers of a seed's goal apart from those that a policy draws from the same seed."""
GOAL_ENV_STEPS, MAX_GOAL_ENV_STEPS, GOAL_HOLD_ENV_STEPS = 50, 250, 5
"""The goal that a seed decides: where random actions, each held for some env steps, lead from the start; further on while that is solved at the
start, as in games that begin with a tune."""


class AtariBatch:
    """E episodes of the game ``rom_id``, stepped together; the options are the fields of ``AtariOptions``.

    Row e is a function of its seed and its actions. A state holds the console, its last screens, the seed and the goal, so frames continue
    exactly; it does not depend on the size of the frames. A row that has terminated stays as it is, with reward 0, until it is reset.
    Success: every goal label is within ``goal_tolerance`` (inclusive) of its value in the goal state.
    """

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]

    def __init__(self, rom_id: str, num_envs: int, /, **options: Any) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.rom_id, self.name = num_envs, rom_id, f"atari/{rom_id}"
        self.options = parse_options(self.name, options)
        self._labels = Labels(rom_id, self.options)
        self.label_names, self.goal_label_names = self._labels.names, self._labels.goal_names
        self._dynamics = {"game": rom_id, **self.options.dynamics()}
        first = Emulator(rom_id, self.options)
        self._actions = np.array(first.actions(self.options.full_action_space))
        self._frames = FrameMaker(first.palette, first.screen_size_px, self.options.size_px, self.options.resampler)
        self.observation_spec = ObservationSpec(height_px=self._frames.height_px, width_px=self._frames.width_px, cameras=("screen",))
        self.action_spec = ActionSpec(kind="discrete", num_choices=len(self._actions), action_repeat=self.options.frame_skip)
        self._screens_shape = (self.options.num_screens, *first.screen_size_px)
        screens = np.zeros((num_envs, *self._screens_shape), np.uint8)
        self._consoles = [Console(rom_id, self.options, screens[row], None if row else first) for row in range(num_envs)]
        self._scratch = Console(rom_id, self.options, np.zeros(self._screens_shape, np.uint8))
        self._facts = np.zeros((num_envs, NUM_FACTS), np.uint8)
        self._goals: list[Glimpse | None] = [None] * num_envs
        self._drawn_goals: list[tuple[int, Glimpse] | None] = [None] * num_envs
        self._has_started = self._is_closed = False

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes: the seed decides how long the console waits first, sticky actions and the goal."""
        self._require_open()
        check_seeds(seeds, self.num_envs)
        for console, seed in zip(self._consoles, seeds, strict=True):
            console.reset(int(seed))
        self._goals = [None] * self.num_envs
        self._has_started = True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance by one env step: choices [E], whole numbers -> (rewards float32 [E], not clipped, terminated bool [E])."""
        self._require_started()
        pressed = self._actions[self._checked_actions(actions)].tolist()
        rewards = [console.step(action) for console, action in zip(self._consoles, pressed, strict=True)]
        return np.array(rewards, np.float32), np.array([console.is_terminated for console in self._consoles])

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, 1, Y, X, 3], into ``out`` if given; the array belongs to the caller."""
        self._require_started()
        return Observation(self._draw([console.screens for console in self._consoles], out))

    def labels(self) -> np.ndarray:
        """float32 [E, s]: ``label_names``, bytes as they are."""
        self._require_started()
        for console, facts in zip(self._consoles, self._facts, strict=True):
            console.read_facts(facts)
        return self._labels.read(self._facts)

    def get_states(self) -> list[bytes]:
        """The complete state of every episode, about 10 kB each; good for environments of the same game, frame skip and other dynamics."""
        self._require_started()
        return [write(console.get_moment(goal), self._dynamics) for console, goal in zip(self._consoles, self._goals, strict=True)]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode; ``EnvError`` for one that is damaged, or of another game, version or dynamics."""
        self._require_open()
        moments = self._read("states", states)
        for row, moment in enumerate(moments):
            self._consoles[row].set_moment(moment)
            self._goals[row] = moment.goal
        self._has_started = True

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make one state the goal of each episode: its frame, and its goal labels for success."""
        self._require_started()
        if not self.goal_label_names:
            raise EnvError(
                f"env {self.name!r} has no goal labels: nobody has listed where its agent is in RAM; "
                "say which labels decide success, such as goal_labels=['ram_012'] with with_ram=true"
            )
        self._goals = [moment.now for moment in self._read("goal states", states)]

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, 1, Y, X, 3]."""
        self._require_started()
        return Observation(self._draw([self._goal(row).screens for row in range(self.num_envs)], None))

    def is_solved(self) -> np.ndarray:
        """Which episodes have every goal label within ``goal_tolerance`` of the goal's, bool [E]; all False in a game without goal labels."""
        self._require_started()
        if not self.goal_label_names:
            return np.zeros(self.num_envs, bool)
        goals = self._labels.read(np.stack([self._goal(row).facts for row in range(self.num_envs)]))
        return np.asarray(self._goal_distance(self.labels(), goals) <= self.options.goal_tolerance)

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n], for labels [n, s]: 0 far (some goal label at least 5 tolerances away), 1 near, -1 solved at the start or no goal labels."""
        if not self.goal_label_names:
            return np.full(len(start_labels), -1, np.int64)
        distance = self._goal_distance(np.asarray(start_labels), np.asarray(goal_labels))
        is_near = distance < FAR_TOLERANCES * self.options.goal_tolerance
        return np.where(distance <= self.options.goal_tolerance, -1, is_near.astype(np.int64))

    def is_truncated(self) -> np.ndarray:
        """Which episodes have lasted ``max_env_steps``, bool [E]."""
        self._require_started()
        return np.array([console.env_step >= self.options.max_env_steps for console in self._consoles])

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """``EnvError``: velocities cannot be told apart from the rest of RAM."""
        raise EnvError(f"env {self.name!r} has no state at rest: a game's velocities are not known; evaluate without rest starts")

    def close(self) -> None:
        """Drop the emulators; harmless when called twice."""
        self._consoles.clear()
        self._scratch = Console(self.rom_id, self.options, np.zeros(self._screens_shape, np.uint8))
        self._is_closed = True

    def _goal(self, row: int) -> Glimpse:
        """The goal of a row; the one that its seed decides is made when it is first asked for, on a console of its own.

        It is kept apart from goals that were set: a state must not depend on whether somebody looked at its goal.
        """
        goal = self._goals[row]
        if goal is not None:
            return goal
        seed, drawn = self._consoles[row].seed, self._drawn_goals[row]
        if drawn is None or drawn[0] != seed:
            drawn = self._drawn_goals[row] = (seed, self._draw_goal(seed))
        return drawn[1]

    def _draw_goal(self, seed: int) -> Glimpse:
        choices = np.random.default_rng([seed, GOAL_STREAM]).integers(len(self._actions), size=MAX_GOAL_ENV_STEPS // GOAL_HOLD_ENV_STEPS)
        self._scratch.reset(seed)
        start = goal = self._scratch.glimpse()
        for number, choice in enumerate(choices, 1):
            for _ in range(GOAL_HOLD_ENV_STEPS):
                self._scratch.step(int(self._actions[choice]))
            goal = self._scratch.glimpse()
            labels = self._labels.read(np.stack([start.facts, goal.facts]))
            is_elsewhere = not self.goal_label_names or self.strata(labels[:1], labels[1:])[0] >= 0
            if is_elsewhere and number * GOAL_HOLD_ENV_STEPS >= GOAL_ENV_STEPS:
                break
        return goal

    def _goal_distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        columns = self._labels.goal_columns
        return np.asarray(np.abs(first[:, columns].astype(np.float64) - second[:, columns]).max(-1))

    def _draw(self, screens: Sequence[np.ndarray], out: np.ndarray | None) -> np.ndarray:
        shape = (self.num_envs, *self.observation_spec.frame_shape)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise EnvError(f"out must be a C-contiguous uint8 array of shape {shape}, got {out.dtype} {out.shape}")
        for row, screen in enumerate(screens):
            self._frames.draw(screen, out[row, 0])
        return out

    def _read(self, what: str, states: Sequence[bytes]) -> list[Moment]:
        check_count(what, len(states), self.num_envs)
        return [read(state, self._dynamics, self._screens_shape) for state in states]

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise EnvError(f"actions must be whole numbers of shape {(self.num_envs,)}, got {actions.dtype} {actions.shape}")
        is_allowed = (actions >= 0) & (actions < len(self._actions))
        if not is_allowed.all():
            row = int(np.flatnonzero(~is_allowed)[0])
            raise EnvError(f"actions must be in [0, {len(self._actions) - 1}], got {int(actions[row])} for episode {row}")
        return actions

    def _require_open(self) -> None:
        if self._is_closed:
            raise EnvError("this environment was closed; make a new one")

    def _require_started(self) -> None:
        self._require_open()
        if not self._has_started:
            raise EnvError("this environment has no episode yet; call reset or set_state first")
