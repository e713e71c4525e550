"""Recording a few episodes at once: the worlds and the policy that make them, and the arrays that hold them until their shard is written.

Axes: N env step, E episode, V view, Y X image, P proprioception, a env action, s label.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm.data.durable import reported_as_data_error
from lewm.data.layout import DatasetMeta
from lewm.data.policies import scripted_policy
from lewm.envs.base import GoalEnvBatch, ScriptedPolicy, make_batch
from lewm.schema import Episode, Observation

MAX_BATCHES = 2
"""Worlds of so many sizes are kept for the next recording: the usual size, and that of a shard's last episodes."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Episodes that were stepped together, time first; what a world did after its episode's end is cut off by ``episodes``."""

    seeds: np.ndarray
    """int64 [E]."""
    frames: np.ndarray
    """uint8 [N+1, E, V, Y, X, 3]."""
    labels: np.ndarray
    """float32 [N+1, E, s]."""
    proprioception: np.ndarray
    """float32 [N+1, E, P]."""
    actions: np.ndarray
    """float32 [N, E, a], or int64 [N, E] if discrete."""
    rewards: np.ndarray
    """float32 [N, E]."""
    num_env_steps: np.ndarray
    """int64 [E]: how long each episode lasted."""
    terminated: np.ndarray
    """bool [E]."""

    @property
    def num_frames(self) -> int:
        """Observations in all episodes together."""
        return int(self.num_env_steps.sum()) + len(self.seeds)

    def episodes(self, meta: DatasetMeta) -> list[Episode]:
        """The episodes one by one, as views."""
        return [
            Episode(
                observations=Observation(self.frames[: n + 1, e], self.proprioception[: n + 1, e] if meta.observation_spec.proprioception else None),
                actions=None if meta.action_spec.kind == "none" else self.actions[:n, e],
                labels=self.labels[: n + 1, e] if meta.label_names else None,
                rewards=self.rewards[:n, e],
                terminated=bool(self.terminated[e]),
                seed=int(self.seeds[e]),
            )
            for e, n in enumerate(self.num_env_steps.tolist())
        ]

    def save(self, directory: Path) -> None:
        """Write the arrays into a new directory, for another process on this machine; ``DataError`` if the disk is full."""
        with reported_as_data_error(directory):
            directory.mkdir(parents=True)
            for field in dataclasses.fields(self):
                np.save(directory / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> "Recording":
        """What ``save`` wrote, memory-mapped."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names})


class Recorder:
    """Records the episodes of a dataset, keeping worlds and policy from one recording to the next: emulators take long to build."""

    def __init__(self, meta: DatasetMeta) -> None:
        self.meta = meta
        self._batches: dict[int, GoalEnvBatch] = {}
        self._policy: ScriptedPolicy | None = None

    def record(self, seeds: Sequence[int]) -> Recording:
        """One episode per seed, stepped together."""
        meta, max_env_steps = self.meta, int(self.meta.collection["max_env_steps"])
        envs, policy = self.start(seeds)
        E, N, spec = len(seeds), max_env_steps, meta.observation_spec
        frames = np.empty((N + 1, E, *spec.frame_shape), np.uint8)
        proprioception = np.empty((N + 1, E, len(spec.proprioception)), np.float32)
        labels = np.empty((N + 1, E, len(meta.label_names)), np.float32)
        rewards = np.empty((N, E), np.float32)
        actions = np.empty((N, E), np.int64) if meta.action_spec.kind == "discrete" else np.empty((N, E, meta.action_spec.dimension), np.float32)
        num_env_steps, terminated, is_over = np.full(E, N), np.zeros(E, bool), np.zeros(E, bool)
        for n in range(N + 1):
            observation = envs.observe(out=frames[n])
            if observation.proprioception is not None:
                proprioception[n] = observation.proprioception
            labels[n] = envs.labels()
            if n == N or is_over.all():
                break
            actions[n] = policy.act(envs)
            rewards[n], has_terminated = envs.step(actions[n])
            has_ended = has_terminated | envs.is_truncated()
            num_env_steps[has_ended & ~is_over] = n + 1
            terminated |= has_terminated & ~is_over
            is_over |= has_ended
        return Recording(
            seeds=np.array(seeds, np.int64),
            frames=frames[: n + 1],
            labels=labels[: n + 1],
            proprioception=proprioception[: n + 1],
            actions=actions[:n],
            rewards=rewards[:n],
            num_env_steps=num_env_steps,
            terminated=terminated,
        )

    def start(self, seeds: Sequence[int]) -> tuple[GoalEnvBatch, ScriptedPolicy]:
        """Worlds and policy at the beginning of the seeds' episodes."""
        meta = self.meta
        envs = self._batches.pop(len(seeds), None)
        if envs is None:
            while len(self._batches) >= MAX_BATCHES:
                self._batches.pop(next(iter(self._batches))).close()
            envs = make_batch(meta.env["name"], len(seeds), **meta.env["options"])
        self._batches[len(seeds)] = envs  # the one used last comes last
        if self._policy is None:
            self._policy = scripted_policy(meta.env["name"], meta.policy["name"], **meta.policy["options"])
        envs.reset(seeds)
        self._policy.reset(envs, seeds, int(meta.collection["max_env_steps"]))
        return envs, self._policy

    def close(self) -> None:
        """Free the worlds."""
        while self._batches:
            self._batches.popitem()[1].close()
