"""Many two-room episodes at once.

Axes: E episode, V view, Y X image, a action, s label. Lengths in px of the 224 x 224 arena.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.base import PerturbationEnd, check_count, check_seeds, move_moments
from lewm.envs.option_checks import parse_options
from lewm.envs.two_room.drawing import Canvas
from lewm.envs.two_room.layout import MOMENT, PERTURBATIONS, SPEED_PX, WALL_X_PX, TwoRoomOptions, are_visible, check_layouts
from lewm.envs.two_room.paths import path_lengths_px
from lewm.envs.two_room.physics import LegalSpace, move_official, move_swept, room_positions
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec

VERSION = 1
"""Of the dynamics, the frames and the state bytes."""
STATE_HEADER = struct.Struct("<8sH")
MAGIC = b"two-room"
STRATA = ("cross-room", "same-room")
LABEL_NAMES = ("agent_x_px", "agent_y_px", "door_y_px")


class TwoRoomBatch:
    """E episodes of two-room, stepped together; the options are the fields of ``TwoRoomOptions``.

    Row e is a function of its seed and its actions. A state holds the world and its goal: position, layout, looks, env step, and the seed of the
    pixel noise; ``set_states`` takes over all of it, so a state of another layout changes the layout. Rewards are 1 where the goal is reached.
    """

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]
    path_unit = "px"

    def __init__(self, num_envs: int, /, **options: Any) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.options = parse_options(TwoRoomOptions, "two-room", options)
        self.observation_spec = ObservationSpec(height_px=self.options.size_px, width_px=self.options.size_px)
        self.action_spec = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
        self.label_names = LABEL_NAMES
        self.goal_label_names = LABEL_NAMES[:2]
        self._now = np.zeros(num_envs, MOMENT)
        self._goals = np.zeros(num_envs, MOMENT)
        self._has_started = False
        self._canvas = Canvas(self.options.size_px)
        self._goal_canvas = Canvas(self.options.size_px)

    @property
    def moments(self) -> np.ndarray:
        """A copy of the present worlds, ``MOMENT`` [E]: positions, layouts, looks, env steps, seeds."""
        self._require_started()
        return self._now.copy()

    @property
    def goal_positions_px(self) -> np.ndarray:
        """float64 [E, 2]: where the goals are."""
        self._require_started()
        return self._goals["position_px"].copy()

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes: layout, start and goal are drawn from each episode's seed; rooms independently, positions uniformly in them."""
        check_seeds(seeds, self.num_envs)
        for episode, seed in enumerate(seeds):
            generator = np.random.default_rng(seed)
            moments = np.stack([self.options.draw_layout(generator)] * 2)
            moments["seed"] = seed
            moments["position_px"] = room_positions(moments, generator.random(2) < 0.5, generator.random((2, 2)))
            self._now[episode], self._goals[episode] = moments
        self._take_over()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move every agent by 5 px times its action [E, 2]; ``EnvError`` for actions of another shape, not finite or outside [-1, 1]."""
        self._require_started()
        displacements = SPEED_PX * self._checked_actions(actions)
        move = move_swept if self.options.collision == "swept" else move_official
        self._now["position_px"] = move(self._now["position_px"], displacements, self._now)
        self._now["env_step"] += np.uint32(1)
        is_solved = self.is_solved()
        terminated = is_solved if self.options.is_terminated_on_success else np.zeros(self.num_envs, bool)
        return is_solved.astype(np.float32), terminated

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, 1, Y, X, 3], into ``out`` if given; the array belongs to the caller."""
        self._require_started()
        return Observation(self._canvas.draw(self._now, out))

    def labels(self) -> np.ndarray:
        """float32 [E, 3]: ``label_names``."""
        self._require_started()
        return np.concatenate([self._now["position_px"], self._now["door_y_px"][:, None]], -1).astype(np.float32)

    def get_states(self) -> list[bytes]:
        """The complete state of every episode, 158 bytes each."""
        self._require_started()
        header = STATE_HEADER.pack(MAGIC, VERSION)
        return [header + now.tobytes() + goal.tobytes() for now, goal in zip(self._now, self._goals, strict=True)]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode; ``EnvError`` for one of another environment or version, or that is not legal here."""
        check_count("states", len(states), self.num_envs)
        pairs = self._read(states)
        self._now, self._goals = pairs[:, 0].copy(), pairs[:, 1].copy()
        self._take_over()

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make the world of one state the goal of each episode."""
        self._require_started()
        check_count("goal states", len(states), self.num_envs)
        self._goals = self._read(states)[:, 0].copy()
        self._goal_canvas.prepare(self._goals)

    def states_at(self, positions_px: np.ndarray) -> list[bytes]:
        """The present states with the agents put elsewhere, float [E, 2]: the same layouts, goals, seeds and env steps. Changes nothing here."""
        self._require_started()
        positions = np.asarray(positions_px, np.float64)
        if positions.shape != (self.num_envs, 2):
            raise EnvError(f"positions_px must have shape {(self.num_envs, 2)}, got {positions.shape}")
        moved = self._now.copy()
        moved["position_px"] = positions
        self._check_positions(moved)
        header = STATE_HEADER.pack(MAGIC, VERSION)
        return [header + now.tobytes() + goal.tobytes() for now, goal in zip(moved, self._goals, strict=True)]

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, 1, Y, X, 3]."""
        self._require_started()
        return Observation(self._goal_canvas.draw(self._goals))

    def is_solved(self) -> np.ndarray:
        """Whether each agent is, bool [E], nearer to the goal than ``success_radius_px``."""
        self._require_started()
        return self._goal_distance_px() < self.options.success_radius_px

    def goal_distance(self) -> np.ndarray:
        """float64 [E]: how far each agent is from its goal as the crow flies, in success radii."""
        self._require_started()
        return self._goal_distance_px() / self.options.success_radius_px

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n], for labels [n, 3]: 0 cross-room, 1 same-room.

        -1 for a pair that is solved at the start, has an end in the zone of the wall (where the agent would touch it or stands in the doorway) or
        outside the arena, or whose layouts differ. All other pairs have a legal path. Where radius or thickness vary, their largest values count.
        """
        moments = np.zeros(1, MOMENT)
        for name in ("agent_radius_px", "wall_thickness_px"):
            moments[name] = PERTURBATIONS[name].high[0] if name in self.options.vary else getattr(self.options, name)
        space = LegalSpace.of(moments)
        starts, goals = np.asarray(start_labels, np.float64), np.asarray(goal_labels, np.float64)
        is_usable = (starts[:, 2] == goals[:, 2]) & (self._distance(starts[:, :2], goals[:, :2]) >= self.options.success_radius_px)
        for ends in (starts, goals):
            x = ends[:, 0]
            # Labels are float32: an agent that touches the border may read a hair outside.
            is_inside = ((ends[:, :2] >= space.low[:, None] - 1e-3) & (ends[:, :2] <= space.high[:, None] + 1e-3)).all(-1)
            is_usable &= is_inside & ((x < space.wall_low) | (x > space.wall_high))
        is_same_room = (starts[:, 0] < WALL_X_PX) == (goals[:, 0] < WALL_X_PX)
        return np.where(is_usable, is_same_room.astype(np.int64), -1)

    def path_lengths(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: px of the shortest legal ways between labels [n, 3], whose door counts; thickness, opening and radius are the options'."""
        starts, goals, radius = np.asarray(start_labels, np.float64), np.asarray(goal_labels, np.float64), self.options.agent_radius_px
        wall_half, door_half = self.options.wall_thickness_px / 2 + radius, self.options.door_half_size_px - radius
        return path_lengths_px(starts[:, :2], goals[:, :2], goals[:, 2], wall_half_px=wall_half, door_half_px=door_half)

    def is_truncated(self) -> np.ndarray:
        """Which episodes have lasted ``max_env_steps``, bool [E]."""
        self._require_started()
        limit = self.options.max_env_steps
        return np.zeros(self.num_envs, bool) if limit is None else np.asarray(self._now["env_step"] >= limit)

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The states as they are: nothing in this world has a velocity."""
        return list(states)

    def perturbed(self, states: Sequence[bytes], name: str, severity: float, end: PerturbationEnd) -> list[bytes | None]:
        """The same states with one perturbation moved; None where the agent would overlap a wall, not fit the door or not be visible."""
        moments = move_moments(self._read(states)[:, 0], name, PERTURBATIONS[name], severity, end)
        space = LegalSpace.of(moments)
        positions = moments["position_px"]
        is_legal = space.is_legal(positions) if self.options.collision == "swept" else space.is_in_arena(positions)
        is_legal &= (moments["door_half_size_px"] > moments["agent_radius_px"]) & are_visible(moments)
        header = STATE_HEADER.pack(MAGIC, VERSION)
        return [header + 2 * moment.tobytes() if legal else None for moment, legal in zip(moments, is_legal, strict=True)]

    def close(self) -> None:
        """Nothing to free."""

    def _goal_distance_px(self) -> np.ndarray:
        return self._distance(self._now["position_px"], self._goals["position_px"])

    @staticmethod
    def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        difference = first - second
        distance: np.ndarray = np.hypot(difference[:, 0], difference[:, 1])
        return distance

    def _take_over(self) -> None:
        self._canvas.prepare(self._now)
        self._goal_canvas.prepare(self._goals)
        self._has_started = True

    def _require_started(self) -> None:
        if not self._has_started:
            raise EnvError("this environment has no episode yet; call reset or set_state first")

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, 2) or actions.dtype.kind not in "fiu":
            raise EnvError(f"actions must be numbers of shape {(self.num_envs, 2)}, got {actions.dtype} {actions.shape}")
        is_allowed = (actions >= -1.0) & (actions <= 1.0)
        if not is_allowed.all():
            row = int(np.flatnonzero(~is_allowed.all(-1))[0])
            raise EnvError(f"actions must be finite and within [-1, 1], got {actions[row].tolist()} for episode {row}; clip them")
        return actions.astype(np.float64)

    def _read(self, states: Sequence[bytes]) -> np.ndarray:
        """``MOMENT`` [E, 2] (now, goal) of state bytes, checked."""
        size_bytes = STATE_HEADER.size + 2 * MOMENT.itemsize
        header = STATE_HEADER.pack(MAGIC, VERSION)
        for state in states:
            if not isinstance(state, bytes):
                raise EnvError(f"a state must be bytes as get_states gives them, got {type(state).__name__}; decode hexadecimal with bytes.fromhex")
            if not state.startswith(MAGIC):
                raise EnvError(f"this is not a state of 'two-room': it begins with {state[:8]!r}")
            if not state.startswith(header) or len(state) != size_bytes:
                found = STATE_HEADER.unpack_from(state)[1] if len(state) >= STATE_HEADER.size else "none"
                raise EnvError(f"a two-room state must have version {VERSION} and {size_bytes} bytes, got version {found} and {len(state)} bytes")
        pairs = np.frombuffer(b"".join(state[STATE_HEADER.size :] for state in states), MOMENT).reshape(-1, 2)
        for moments in (pairs[:, 0], pairs[:, 1]):
            check_layouts(moments)
            self._check_positions(moments)
        return pairs

    def _check_positions(self, moments: np.ndarray) -> None:
        space = LegalSpace.of(moments)
        # The official rule lets an agent overlap the wall; only the swept one promises that it never does.
        is_allowed = space.is_legal(moments["position_px"]) if self.options.collision == "swept" else space.is_in_arena(moments["position_px"])
        if not is_allowed.all():
            x, y = moments["position_px"][~is_allowed][0]
            raise EnvError(f"position ({x:g}, {y:g}) px is not legal: the agent would overlap the wall or the border")
