"""How well frames can be drawn from latents, real ones and imagined ones: `lewm eval reconstruction`, for runs with a decoder.

The decoder is for looking; the model never uses it, and what it cannot draw may still be in the latents (``lewm eval probe`` asks that).

Axes: E clip, H context, T time (model step), D latent, A action block, V view, Y X image, e episode, R resample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.errors import ConfigError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.intervals import NUM_RESAMPLES, resampled_counts
from lewm.models.world_model import WorldModel
from lewm.schema import Clip

FORMAT = 1
NUM_CLIPS, CLIPS_PER_BATCH, NUM_MEAN_CLIPS = 256, 16, 1024
SMALLEST_ERROR = 1e-10
"""Mean squared errors below it count as 100 dB: frames that are equal have no finite PSNR."""


@dataclass(frozen=True, kw_only=True)
class DrawnClips:
    """Frames as they were, 0 to 1, and as they are drawn."""

    real: Tensor
    """float32 [E, T+1, V, Y, X, 3]."""
    decoded: Tensor
    """Of their own latents, of the same shape."""
    imagined: Tensor
    """Of latents imagined after the context, with the true actions: [E, T, V, Y, X, 3]."""


@torch.no_grad()
def draw_clips(model: WorldModel, decoder: nn.Module, clip: Clip[Tensor], context_model_steps: int = 1) -> DrawnClips:
    """Decode the latents of a clip, and those that the model imagines from its first ``context_model_steps`` observations."""
    latents = model.encode(clip.observations)  # [E, T+1, D]
    context = context_model_steps
    imagined = model.rollout(latents[:, :context], clip.blocks[:, : context - 1], clip.blocks[:, None, context - 1 :])[:, 0]
    decoded, drawn = (decoder(part.float()).clamp(0, 1) for part in (latents, imagined))
    return DrawnClips(real=clip.observations.frames.float() / 255, decoded=decoded, imagined=drawn)


def psnr_db(squared_error: Any) -> Any:
    """Peak signal-to-noise ratio of a mean squared error of frames 0 to 1."""
    return -10 * np.log10(np.maximum(squared_error, SMALLEST_ERROR))


def evaluate_reconstruction(
    model: WorldModel,
    store: Store,
    *,
    config: Config,
    decoder: nn.Module,
    horizon_model_steps: int = 8,
    context_model_steps: int = 1,
    num_clips: int = NUM_CLIPS,
    seed: int = 0,
) -> dict[str, Any]:
    """PSNR of decoded latents of held-out frames, and of decoded imagined latents 1 .. ``horizon_model_steps`` ahead, with floors; JSON-ready.

    Floors: the mean frame of the training episodes (everywhere) and the last frame of the context (where latents are imagined). The decoded
    latent of the very frame is a ceiling of the imagined ones. A PSNR is that of the mean squared error over all clips and pixels.
    """
    if horizon_model_steps < 1 or context_model_steps < 1:
        raise ConfigError(f"horizon_model_steps and context_model_steps must be at least 1, got {horizon_model_steps} and {context_model_steps}")
    train_ids, heldout_ids = heldout_episodes(store, config)
    mean = _mean_frame(model, store, train_ids, seed)
    num_transitions = context_model_steps - 1 + horizon_model_steps
    sampler = _sampler(model, store, heldout_ids, num_transitions, CLIPS_PER_BATCH, seed)
    errors: dict[str, list[np.ndarray]] = {}
    episodes = []
    for k in range(-(-min(num_clips, sampler.num_windows) // CLIPS_PER_BATCH)):
        clip = sampler.batch(k)
        episodes.append(clip.episode)
        for name, error in _errors(model, decoder, clip, mean, context_model_steps).items():
            errors.setdefault(name, []).append(error)
    estimate = _Estimator(np.concatenate(episodes), seed)
    by_name = {name: np.concatenate(parts) for name, parts in errors.items()}
    return {
        "evaluation": "reconstruction",
        "format": FORMAT,
        "decoded": estimate(by_name["decoded"]),
        "floors": {"mean_frame": estimate(by_name["mean_frame"])},
        "imagined": [
            {"model_steps": step + 1, "env_steps": (step + 1) * model.action_block}
            | estimate(by_name["imagined"][:, step])
            | {"decoded": estimate(by_name["decoded"][:, context_model_steps + step])}
            | {"floors": {name: estimate(by_name[f"{name}_ahead"][:, step]) for name in ("mean_frame", "copy")}}
            for step in range(horizon_model_steps)
        ],
        "context_model_steps": context_model_steps,
        "num_clips": len(estimate.episodes),
        "num_heldout_episodes": len(np.unique(estimate.episodes)),
        "seed": seed,
    }


def reconstruction_table(result: dict[str, Any]) -> str:
    """The result as plain text."""
    rows: list[tuple[str, ...]] = [("", "drawn", "95 % interval", "decoded itself", "floor: mean frame", "floor: copy of the context")]
    rows.append(("latents of held-out frames", *_cells(result["decoded"]), "", f"{result['floors']['mean_frame']['psnr_db']:.1f}", ""))
    for entry in result["imagined"]:
        floors = [f"{entry['floors'][name]['psnr_db']:.1f}" for name in ("mean_frame", "copy")]
        rows.append((f"imagined {entry['model_steps']} model steps ahead", *_cells(entry), f"{entry['decoded']['psnr_db']:.1f}", *floors))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"PSNR in dB, {result['num_clips']} clips of {result['num_heldout_episodes']} held-out episodes", *lines])


def _cells(estimate: dict[str, float]) -> tuple[str, str]:
    return f"{estimate['psnr_db']:.1f}", f"[{estimate['low']:.1f}, {estimate['high']:.1f}]"


class _Estimator:
    """PSNR with its 95 % interval from mean squared errors per clip: a percentile bootstrap that resamples whole episodes."""

    def __init__(self, episodes: np.ndarray, seed: int) -> None:
        self.episodes = episodes
        _, self._rank = np.unique(episodes, return_inverse=True)
        self._counts = resampled_counts(seed, NUM_RESAMPLES, int(self._rank.max()) + 1)  # [R, e]

    def __call__(self, errors: np.ndarray) -> dict[str, float]:
        """Of errors [E] or [E, T]."""
        per_clip = errors.reshape(len(errors), -1).mean(1)
        sums, sizes = np.bincount(self._rank, per_clip), np.bincount(self._rank)
        resampled = psnr_db((self._counts @ sums) / (self._counts @ sizes))
        low, high = np.quantile(resampled, [0.025, 0.975])
        return {"psnr_db": float(psnr_db(per_clip.mean())), "low": float(low), "high": float(high)}


def _errors(model: WorldModel, decoder: nn.Module, clip: Clip[np.ndarray], mean: Tensor, context: int) -> dict[str, np.ndarray]:
    """Mean squared errors per clip and time, float64 [E, T+1] or, of what lies ahead of the context, [E, T]."""
    device = next(model.parameters()).device
    drawn = draw_clips(model, decoder, clip.map(lambda array: torch.from_numpy(array).to(device)), context)
    ahead, start = drawn.real[:, context:], drawn.real[:, context - 1 : context]
    pairs = {
        "decoded": (drawn.decoded, drawn.real),
        "mean_frame": (mean, drawn.real),
        "imagined": (drawn.imagined, ahead),
        "mean_frame_ahead": (mean, ahead),
        "copy_ahead": (start, ahead),
    }
    return {name: _squared_error(one, other) for name, (one, other) in pairs.items()}


def _squared_error(one: Float[Tensor, "*shape"], other: Float[Tensor, "*other"]) -> np.ndarray:
    errors: np.ndarray = (one - other).square().flatten(2).mean(-1, dtype=torch.float64).cpu().numpy()
    return errors


def _mean_frame(model: WorldModel, store: Store, train_ids: np.ndarray, seed: int) -> Tensor:
    """float32 [V, Y, X, 3], 0 to 1, of training clips."""
    sampler = _sampler(model, store, train_ids, 1, CLIPS_PER_BATCH, seed)
    batches = range(-(-min(NUM_MEAN_CLIPS, sampler.num_windows) // CLIPS_PER_BATCH))
    means = [sampler.batch(k).observations.frames.mean((0, 1), dtype=np.float64) for k in batches]
    return torch.from_numpy(np.mean(means, axis=0) / 255).float().to(next(model.parameters()).device)


def _sampler(model: WorldModel, store: Store, episode_ids: np.ndarray, num_transitions: int, batch_size: int, seed: int) -> ClipSampler:
    return ClipSampler(
        store,
        num_transitions=num_transitions,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=batch_size,
        seed=seed,
    )
