"""Any world with a nuisance drawn over its frames.

Axes: E episode, V view, Y X image, a action, s label.
"""

import functools
import inspect
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lewm.envs.base import GoalEnv, GoalEnvBatch, PerturbationEnd, ScriptedPolicy, TakesPerturbations, UnseenLayouts, check_count
from lewm.envs.single import BatchOfOne
from lewm.envs.stress import FAMILY, STRESSES, make_stress
from lewm.errors import EnvError
from lewm.registry import ENVS, unknown_member
from lewm.schema import ActionSpec, Observation, ObservationSpec
from lewm.seeds import hash64

MAGIC = b"lewm-str"
HEADER = struct.Struct("<8s16sQQQQ")
"""Magic, kind; seed and env step of the episode; seed and env step of the goal. The world's own state follows."""
VERSION = 1
GOAL_STREAM = 12
Clock = tuple[int, int]
"""Episode seed and env step: what a nuisance follows."""


class StressedBatch:
    """A ``GoalEnvBatch`` whose frames have a nuisance on them; motion, goals and rewards are the world's.

    A goal looks as it did where it was taken, nuisance included; the goal at a reset has one of its own. States hold the nuisance's clock.
    """

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]

    def __init__(self, name: str, kind: str, inner: GoalEnvBatch) -> None:
        self.name, self.inner = name, inner
        self._kind, self._stress = kind, make_stress(kind)
        self.num_envs, self.observation_spec, self.action_spec = inner.num_envs, inner.observation_spec, inner.action_spec
        self.label_names = inner.label_names + self._stress.label_names
        self.goal_label_names = inner.goal_label_names
        if hasattr(inner, "rendering_description"):
            self.rendering_description = inner.rendering_description
        self._now: list[Clock] = []
        self._goals: list[Clock] = []

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes."""
        self.inner.reset(seeds)
        self._now = [(int(seed), 0) for seed in seeds]
        self._goals = [(int(goal_seed), 0) for goal_seed in hash64(np.array([int(seed) for seed in seeds], np.uint64), GOAL_STREAM)]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step; the nuisance goes on."""
        rewards, terminated = self.inner.step(self._stress.acted(np.asarray(actions)))
        self._now = [(seed, env_step + 1) for seed, env_step in self._now]
        return rewards, terminated

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """The present frames, uint8 [E, V, Y, X, 3], nuisance included."""
        return self._stressed(self.inner.observe(out=out), self._now)

    def observe_goals(self) -> Observation[np.ndarray]:
        """The goals, nuisance included."""
        return self._stressed(self.inner.observe_goals(), self._goals)

    def labels(self) -> np.ndarray:
        """float32 [E, s]: the world's, then the nuisance's."""
        nuisance = np.stack([self._stress.values(*clock) for clock in self._now])
        return np.concatenate([self.inner.labels(), nuisance], axis=1)

    def get_states(self) -> list[bytes]:
        """The world's states with the nuisance's clocks before them."""
        kind = self._kind.encode().ljust(16, b"\0")
        states = self.inner.get_states()
        return [HEADER.pack(MAGIC, kind, *now, *goal) + state for now, goal, state in zip(self._now, self._goals, states, strict=True)]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode."""
        check_count("states", len(states), self.num_envs)
        found = [self._unpacked(state) for state in states]
        self.inner.set_states([state for _, _, state in found])
        self._now, self._goals = [now for now, _, _ in found], [goal for _, goal, _ in found]

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make one state the goal of each episode, as it looks there."""
        check_count("goal states", len(states), self.num_envs)
        found = [self._unpacked(state) for state in states]
        self.inner.set_goals([state for _, _, state in found])
        self._goals = [now for now, _, _ in found]

    def is_solved(self) -> np.ndarray:
        """The world's own predicate, bool [E]."""
        return self.inner.is_solved()

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """The world's own kinds of pair; what the nuisance's labels are does not count."""
        own = len(self.inner.label_names)
        return self.inner.strata(np.asarray(start_labels)[:, :own], np.asarray(goal_labels)[:, :own])

    def is_truncated(self) -> np.ndarray:
        """The world's own time limit."""
        return self.inner.is_truncated()

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The states with every velocity of the world zero."""
        found = [self._unpacked(state) for state in states]
        resting = self.inner.at_rest([state for _, _, state in found])
        return [state[: HEADER.size] + rest for state, rest in zip(states, resting, strict=True)]

    def perturbed(self, states: Sequence[bytes], name: str, severity: float, end: PerturbationEnd) -> list[bytes | None]:
        """The world's own perturbations; the nuisance goes on as it was. ``EnvError`` for a world that has none."""
        if not isinstance(self.inner, TakesPerturbations):
            raise EnvError(f"env {self.name!r} has no perturbations")
        found = self.inner.perturbed([self._unpacked(state)[2] for state in states], name, severity, end)
        return [None if new is None else old[: HEADER.size] + new for old, new in zip(states, found, strict=True)]

    def close(self) -> None:
        """Free what the world has borrowed."""
        self.inner.close()

    def _stressed(self, observation: Observation[np.ndarray], clocks: list[Clock]) -> Observation[np.ndarray]:
        for frames, clock in zip(observation.frames, clocks, strict=True):
            self._stress.draw(frames, *clock)
        return observation

    def _unpacked(self, state: bytes) -> tuple[Clock, Clock, bytes]:
        """Clocks of episode and goal, and the world's own state."""
        if not isinstance(state, bytes) or len(state) < HEADER.size or not state.startswith(MAGIC):
            raise EnvError(f"not a state of env {self.name!r}: take it from an environment of the same name")
        _, kind, seed, env_step, goal_seed, goal_env_step = HEADER.unpack_from(state)
        if kind.rstrip(b"\0") != self._kind.encode():
            raise EnvError(f"not a state of env {self.name!r}: it has the nuisance {kind.rstrip(bytes(1)).decode(errors='replace')!r}")
        return (seed, env_step), (goal_seed, goal_env_step), state[HEADER.size :]


class StressedEnv(BatchOfOne):
    """A world with a nuisance drawn over its frames; the options are the world's own."""

    INNER: ClassVar[type[GoalEnv]]
    KIND: ClassVar[str]

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> StressedBatch:
        """The same world for ``num_envs`` episodes at once, with the world's own options."""
        return StressedBatch(cls.NAME, cls.KIND, cls.INNER.make_batch(num_envs, **options))

    @classmethod
    def unseen_layouts(cls, options: dict[str, Any]) -> UnseenLayouts | None:
        """The world's own."""
        return cls.INNER.unseen_layouts(options)


class InnerPolicy:
    """A world's own scripted policy, which looks at the world below the nuisance."""

    MAKE: ClassVar[type[ScriptedPolicy]]

    def __init__(self, **options: Any) -> None:
        self._policy = self.MAKE(**options)

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes."""
        self._policy.reset(_inner(envs), seeds, max_env_steps)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """The actions of the next env step."""
        return self._policy.act(_inner(envs))


@functools.cache
def stressed_env(member: str) -> type[StressedEnv]:
    """The environment called ``stress/<kind>/<env>``; ``UnknownNameError`` with a suggestion if there is no such kind or environment."""
    kind, _, name = member.partition("/")
    if kind not in STRESSES or name not in ENVS:
        raise unknown_member("env", FAMILY, member, [f"{known}/two-room" for known in STRESSES])
    inner: type[GoalEnv] = ENVS.load(name)
    attributes: dict[str, Any] = {
        "NAME": FAMILY + member,
        "VERSION": VERSION * 1000 + inner.VERSION,
        "INNER": inner,
        "KIND": kind,
        "STRATA": inner.STRATA,
        "DATA_POLICY": inner.DATA_POLICY,
        "GOAL_COST": inner.GOAL_COST,
        "PERTURBATIONS": inner.PERTURBATIONS,
        "POLICIES": {policy: _wrapped(made) for policy, made in inner.POLICIES.items()},
        "__doc__": f"{STRESSES[kind].__doc__}\n\nOver {name}: {inner.__doc__}",
    }
    return type(f"Stressed_{member.replace('-', '_').replace('/', '_')}", (StressedEnv,), attributes)


def _wrapped(policy: type[ScriptedPolicy]) -> type[InnerPolicy]:
    """The policy for the world below, with the same options."""
    made = type(f"Inner{policy.__name__}", (InnerPolicy,), {"MAKE": policy, "__doc__": policy.__doc__})
    made.__signature__ = inspect.signature(policy)  # type: ignore[attr-defined]  # options are checked against it
    return made


def _inner(envs: GoalEnvBatch) -> GoalEnvBatch:
    return envs.inner if isinstance(envs, StressedBatch) else envs
