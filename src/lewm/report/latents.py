"""Latents of fresh episodes whose true state is known: what the pictures of the latent space are drawn from.

Axes: E episode, n sample, D latent, s label, V view, Y X image.

The episodes are recorded for the report, from seeds that neither training nor evaluation uses, so the pictures need no dataset.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lewm.checkpoint import Checkpoint
from lewm.envs.base import GoalEnv, GoalEnvBatch, ScriptedPolicy, make_batch
from lewm.evaluation.outcomes import scripted_policy
from lewm.evaluation.probing import LinearProbe, fit_probe
from lewm.models.world_model import WorldModel
from lewm.registry import ENVS
from lewm.schema import Observation
from lewm.seeds import episode_seed

NUM_EPISODES = 96
EPISODE_ENV_STEPS = 100
SAMPLE_EVERY_ENV_STEPS = 4
SEED_NAMESPACE = "report"


@dataclass(frozen=True, kw_only=True)
class LabelledLatents:
    """What a model makes of frames whose true state is known."""

    latents: np.ndarray
    """float32 [n, D]."""
    labels: np.ndarray
    """float32 [n, s]."""
    label_names: tuple[str, ...]

    def probe(self) -> LinearProbe:
        """The linear map from latents to labels."""
        return fit_probe(self.latents, self.labels)

    def column(self, name: str) -> np.ndarray:
        """One label, float32 [n]."""
        values: np.ndarray = self.labels[:, self.label_names.index(name)]
        return values

    def principal_components(self) -> tuple[np.ndarray, np.ndarray]:
        """The latents along their two widest directions, float64 [n, 2], and the share of the variance along each, [2]."""
        centred = self.latents.astype(np.float64) - self.latents.mean(0, dtype=np.float64)
        left, singular, _ = np.linalg.svd(centred, full_matrices=False)
        total = float((singular**2).sum())
        shares = singular[:2] ** 2 / total if total > 0 else np.zeros(2)
        return left[:, :2] * singular[:2], shares


def sample_latents(checkpoint: Checkpoint, *, num_episodes: int = NUM_EPISODES, seed: int = 0) -> LabelledLatents:
    """Record episodes with the world's data policy and encode every few frames; the same frames for every model of that world.

    Nothing is taken from after the end of an episode.
    """
    env, options = str(checkpoint.env["name"]), dict(checkpoint.env.get("options", {}))
    env_class: type[GoalEnv] = ENVS.load(env)
    policy = scripted_policy(env, env_class.DATA_POLICY)
    seeds = [episode_seed(SEED_NAMESPACE, seed, index) for index in range(num_episodes)]
    with closing(make_batch(env, num_episodes, **options)) as envs:
        envs.reset(seeds)
        policy.reset(envs, seeds, EPISODE_ENV_STEPS)
        return _sample(checkpoint.model, envs, policy)


def _sample(model: WorldModel, envs: GoalEnvBatch, policy: ScriptedPolicy) -> LabelledLatents:
    offsets = model.observation_spec.stack_offsets_env_steps
    wanted = range(-offsets[0], EPISODE_ENV_STEPS, SAMPLE_EVERY_ENV_STEPS)
    drawn = {step + offset for step in wanted for offset in offsets}
    seen: dict[int, Observation[np.ndarray]] = {}
    latents, labels = [], []
    is_running = np.ones(envs.num_envs, bool)
    for step in range(EPISODE_ENV_STEPS):
        if step in drawn:
            seen[step] = envs.observe()
        if step in wanted:
            latents.append(encode(model, stacked([seen[step + offset][is_running] for offset in offsets])))
            labels.append(envs.labels()[is_running])
            seen = {moment: observation for moment, observation in seen.items() if moment > step + offsets[0]}
        _, terminated = envs.step(policy.act(envs))
        is_running &= ~(terminated | envs.is_truncated())
        if not is_running.any():
            break
    return LabelledLatents(latents=np.concatenate(latents), labels=np.concatenate(labels), label_names=tuple(envs.label_names))


@torch.no_grad()
def encode(model: WorldModel, observation: Observation[np.ndarray]) -> np.ndarray:
    """float32 [E, D]."""
    device = next(model.parameters()).device
    latents: np.ndarray = model.encode(observation.map(lambda array: torch.from_numpy(array).to(device))).float().cpu().numpy()
    return latents


def stacked(moments: Sequence[Observation[np.ndarray]]) -> Observation[np.ndarray]:
    """One observation [E, V, Y, X, 3] from those of several times, oldest first: the stack of the first camera comes first."""
    frames: Any = np.stack([moment.frames for moment in moments], axis=2)  # E cameras stack Y X 3
    return Observation(np.ascontiguousarray(frames.reshape(len(frames), -1, *frames.shape[3:])), moments[-1].proprioception)
