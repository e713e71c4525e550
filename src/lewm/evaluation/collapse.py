"""Do the latents carry information? Pure metrics, and a verdict on one look or on the looks of a whole training run.

Axes: B batch, T model step, D latent, A action block.

No single number decides. SIGReg sees scale but, at small batches, not rank; the effective rank sees rank but not scale (a cloud shrunk a
thousandfold keeps its rank); a healthy run may begin with all latents near one point, so during training it is the trend after warm-up that counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.data.splits import split_episodes
from lewm.errors import DataError
from lewm.models.world_model import WorldModel
from lewm.objectives.sigreg import random_directions, sigreg
from lewm.schema import Clip

FORMAT = 1
GAUSSIAN_SIGREG = 1.05
"""SIGReg of a perfect match, for any batch."""
NUM_DIRECTIONS = 256
DEAD_STD = 0.1
"""A latent dimension that varies less than this is dead; SIGReg aims at 1."""
COLLAPSED_SHARE = 0.8
"""A collapse scores at least this share of what SIGReg gives a single point (0.402 B)."""
COLLAPSED_STD = 0.1
"""... and its mean standard deviation is below this. (Two-room, laptop preset: without SIGReg at most 0.05, with it above 0.1 from step 30 on.)"""
DEAD_FRACTION = 0.5
"""Share of dead dimensions that makes a collapse partial."""
LOW_RANK_FRACTION = 0.05
"""Effective rank, as a share of D, that makes a collapse partial if SIGReg is off as well."""
BLIND_SENSITIVITY = 1.05
"""Shuffled actions must raise the prediction error by at least this factor."""
WARMUP_FRACTION = 0.05
"""Share of training during which nothing is judged."""
WARMUP_STEPS = 30
"""Steps during which nothing is judged, however short the training: a healthy run needs about as many to spread its latents."""
LATE_FRACTION = 0.15
"""Share of training after which only a steep recovery holds an alarm back: a collapse must be known within the first fifth."""
RECOVERY, LATE_RECOVERY = 1.25, 2.0
"""A mean standard deviation that grew by this factor over the last looks is on its way up: no alarm yet."""
NUM_CONSECUTIVE_LOOKS = 2
SETTLED_FRACTION = 0.5
"""Share of training after which a partial collapse or blindness to actions is worth a word."""
NUM_CLIPS = 512


@dataclass(frozen=True, kw_only=True)
class CollapseVerdict:
    """``healthy``, ``collapsed``, ``partial collapse`` or ``action-blind``, and why."""

    name: str
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The verdict as a sentence."""
        return f"{self.name}: {'; '.join(self.reasons)}" if self.reasons else self.name

    @property
    def is_alarm(self) -> bool:
        """Whether training should say so at once."""
        return self.name in {"collapsed", "partial collapse"}


HEALTHY = CollapseVerdict(name="healthy")


def effective_rank(latents: Float[Tensor, "B D"]) -> float:
    """exp(entropy of the normalised singular values) of the centred latents (Roy & Vetterli 2007): 1..D, blind to scale, 0 for a single point."""
    shares = _shares(_singular_values(latents))
    return 0.0 if shares is None else float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def participation_ratio(latents: Float[Tensor, "B D"]) -> float:
    """(sum v)^2 / sum v^2 of the eigenvalues v of the covariance: 1..D, blind to scale, 0 for a single point."""
    shares = _shares(_singular_values(latents) ** 2)
    return 0.0 if shares is None else float(1 / (shares**2).sum())


def measure_latents(latents: Float[Tensor, "T B D"]) -> dict[str, float]:
    """Scale, rank and SIGReg of latents at T times of B clips; SIGReg is taken per time over the batch, as the loss does, the rest over all."""
    latents = latents.detach().float()
    flat = latents.flatten(0, 1)
    std = flat.std(0, correction=0)
    directions = random_directions(latents.shape[-1], NUM_DIRECTIONS, seed=0, device=latents.device)
    return {
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "dead_fraction": float((std < DEAD_STD).float().mean()),
        "effective_rank": effective_rank(flat),
        "participation_ratio": participation_ratio(flat),
        "sigreg": float(sigreg(latents, directions)),
        "sigreg_collapsed": float(sigreg(torch.zeros_like(latents[:1]), directions)),
        "latent_dimension": latents.shape[-1],
        "batch_size": latents.shape[1],
    }


@torch.no_grad()
def measure_collapse(model: WorldModel, clip: Clip[Tensor]) -> dict[str, float]:
    """One look at a batch of clips: ``measure_latents``, the prediction error, and how much worse it gets when the clips swap their actions.

    ``copy_error`` is that of predicting no change. ``action_sensitivity`` (error with the actions of another clip / error with the true ones) is
    left out for data without actions. The model should be in evaluation mode.
    """
    latents = model.encode(clip.observations)  # B T+1 D
    context, targets = latents[:, :-1], latents[:, 1:]
    error = (model.predict(context, clip.blocks) - targets).float().square().mean()
    measured = measure_latents(latents.transpose(0, 1))
    measured |= {"prediction_error": float(error), "copy_error": float((context - targets).float().square().mean())}
    if clip.blocks.shape[-1] > 0 and len(clip.blocks) > 1:
        shuffled = (model.predict(context, clip.blocks.roll(len(clip.blocks) // 2, 0)) - targets).float().square().mean()
        measured["action_sensitivity"] = float(shuffled / error.clamp(min=torch.finfo(error.dtype).tiny))
    return measured


def judge(look: Mapping[str, float]) -> CollapseVerdict:
    """The verdict on one look at a finished model."""
    if _is_at_one_point(look):
        return CollapseVerdict(name="collapsed", reasons=_collapse_reasons(look))
    partial = _partial_reasons(look)
    if partial:
        return CollapseVerdict(name="partial collapse", reasons=partial)
    sensitivity = look.get("action_sensitivity")
    if sensitivity is not None and sensitivity < BLIND_SENSITIVITY:
        reason = f"with the actions of other clips the prediction error is {sensitivity:.3f} times as large: the predictor ignores actions"
        return CollapseVerdict(name="action-blind", reasons=(reason,))
    return HEALTHY


def judge_training(looks: Sequence[Mapping[str, float]], *, num_steps: int) -> CollapseVerdict:
    """The verdict on a run so far, from its looks (``step`` and the values of ``measure_collapse``), oldest first.

    Collapsed: after warm-up (5 % of ``num_steps``, at least 30 steps), two looks in a row with all latents near one point and no growth of their
    spread. The milder verdicts wait for the second half of training, for two looks in a row as well.
    """
    judged = [look for look in looks if look["step"] + 1 >= max(WARMUP_STEPS, WARMUP_FRACTION * num_steps)]
    recent = judged[-NUM_CONSECUTIVE_LOOKS:]
    if len(recent) < NUM_CONSECUTIVE_LOOKS:
        return HEALTHY
    if all(_is_at_one_point(look) for look in recent):
        needed = LATE_RECOVERY if recent[-1]["step"] + 1 >= LATE_FRACTION * num_steps else RECOVERY
        is_recovering = recent[-1]["std_mean"] > needed * recent[0]["std_mean"]
        return HEALTHY if is_recovering else CollapseVerdict(name="collapsed", reasons=_collapse_reasons(recent[-1]))
    if recent[0]["step"] + 1 < SETTLED_FRACTION * num_steps:
        return HEALTHY
    verdicts = [judge(look) for look in recent]
    return verdicts[-1] if verdicts[0].name == verdicts[-1].name else HEALTHY


def evaluate_collapse(model: WorldModel, store: Store, *, config: Config, num_clips: int = NUM_CLIPS, seed: int = 0) -> dict[str, Any]:
    """Look at clips of the held-out episodes: measurements and verdict, JSON-ready. ``config`` says how clips are cut and what is held out."""
    episode_ids = heldout_episodes(store, config)[1]
    sampler = ClipSampler(
        store,
        num_transitions=config.data.num_transitions,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=num_clips,
        seed=seed,
    )
    device = next(model.parameters()).device
    measured = measure_collapse(model.eval(), sampler.fixed_batch(seed, num_clips).map(lambda array: torch.from_numpy(array).to(device)))
    verdict = judge(measured)
    return {
        "evaluation": "collapse",
        "format": FORMAT,
        "verdict": verdict.name,
        "reasons": list(verdict.reasons),
        **measured,
        "sigreg_gaussian": GAUSSIAN_SIGREG,
        "num_clips": int(measured["batch_size"]),
        "num_episodes": len(episode_ids),
        "seed": seed,
    }


def heldout_episodes(store: Store, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training episodes and of the held-out ones; ``DataError`` if either is empty."""
    train_ids, heldout_ids = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)
    if len(train_ids) == 0 or len(heldout_ids) == 0:
        raise DataError(
            f"of {len(store.episode_ids)} episodes {len(heldout_ids)} are held out (data.validation_fraction {config.data.validation_fraction:g}); "
            "both parts need at least one: collect more episodes"
        )
    return train_ids, heldout_ids


def _singular_values(latents: Tensor) -> Tensor:
    latents = latents.detach().double()
    values: Tensor = torch.linalg.svdvals(latents - latents.mean(0))
    return values


def _shares(values: Tensor) -> Tensor | None:
    """Values as shares of their sum; None if there is nothing but rounding."""
    total = values.sum()
    return None if float(total) < 1e-12 else values / total


def _is_at_one_point(look: Mapping[str, float]) -> bool:
    return look["sigreg"] >= COLLAPSED_SHARE * look["sigreg_collapsed"] and look["std_mean"] < COLLAPSED_STD


def _collapse_reasons(look: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"SIGReg is {look['sigreg']:.1f}, a single point would score {look['sigreg_collapsed']:.1f} and a Gaussian {GAUSSIAN_SIGREG}",
        f"the mean standard deviation of a latent dimension is {look['std_mean']:.3f}, where 1 is meant",
    )


def _partial_reasons(look: Mapping[str, float]) -> tuple[str, ...]:
    reasons = []
    if look["dead_fraction"] >= DEAD_FRACTION:
        reasons.append(f"{look['dead_fraction']:.0%} of the latent dimensions are dead (standard deviation below {DEAD_STD})")
    if look["effective_rank"] < LOW_RANK_FRACTION * look["latent_dimension"] and look["sigreg"] > 2 * GAUSSIAN_SIGREG:
        rank = f"{look['effective_rank']:.1f} of {look['latent_dimension']:.0f}"
        reasons.append(f"the effective rank is {rank} and SIGReg {look['sigreg']:.1f} (a Gaussian: {GAUSSIAN_SIGREG})")
    return tuple(reasons)
