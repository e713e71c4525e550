"""Do the latents carry information? Pure metrics, and a verdict on one look or on the looks of a whole training run.

Axes: B batch, T model step, D latent, A action block.

No single number decides. SIGReg sees scale but, at small batches, not rank; the effective rank sees rank but not scale (a cloud shrunk a
thousandfold keeps its rank); a healthy run may begin with all latents near one point, so during training it is the trend after warm-up that counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.data.splits import split_episodes
from lewm.errors import ConfigError, DataError
from lewm.evaluation.latent_metrics import (
    directions_as_json,
    effective_rank,
    episode_share,
    explained_share,
    neighbour_overlap,
    participation_ratio,
    straightness,
    time_share,
    worst_directions,
)
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
LOW_RANK_FRACTION, LEAST_RANK, LOW_RANK_EXCESS = 0.05, 1.5, 0.02
"""An effective rank below this share of D, or this number, makes a collapse partial if SIGReg is off as well: above its floor by this share of what a
single point scores. (Both grow with the batch, so the share does not depend on it.)"""
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
TIME_CAPTURE, EPISODE_CAPTURE, NUISANCE_CAPTURE = 0.5, 0.95, 0.5
"""An encoder is captured by a nuisance from this share of the latents' variance on that follows from the frame's number, from the episode, or from
labels called ``nuisance_*``, each alone."""
NUISANCE_PREFIX = "nuisance_"
NUM_CLIPS, CLIPS_PER_CHUNK = 2048, 256
TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class CollapseVerdict:
    """``healthy``, ``collapsed``, ``partial collapse``, ``captured by a nuisance`` or ``action-blind``, and why."""

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
    captured = _capture_reasons(look)
    if captured:
        return CollapseVerdict(name="captured by a nuisance", reasons=captured)
    sensitivity = look.get("action_sensitivity")
    if sensitivity is not None and sensitivity < BLIND_SENSITIVITY:
        reason = f"with the actions of other clips the prediction error is {sensitivity:.3f} times as large: the predictor ignores actions"
        return CollapseVerdict(name="action-blind", reasons=(reason,))
    return HEALTHY


def warning_score(look: Mapping[str, float]) -> float:
    """How near a look is to a verdict other than healthy: minus the smallest margin to a threshold, in natural logarithms; above 0 is beyond one.

    The thresholds are those of ``judge``: of the mean standard deviation, the share of living dimensions, the effective rank and the sensitivity
    to actions (of what goes beyond 1).
    """
    margins = [
        _log_ratio(look["std_mean"], COLLAPSED_STD),
        _log_ratio(1 - look["dead_fraction"], 1 - DEAD_FRACTION),
        _log_ratio(look["effective_rank"], max(LEAST_RANK, LOW_RANK_FRACTION * look["latent_dimension"])),
    ]
    if "action_sensitivity" in look:
        margins.append(_log_ratio(look["action_sensitivity"] - 1, BLIND_SENSITIVITY - 1))
    return -min(margins)


def _log_ratio(value: float, threshold: float) -> float:
    return math.log(max(value, TINY) / threshold)


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


@dataclass(frozen=True)
class _Look:
    """Clips without their frames, and how well they are predicted."""

    latents: Float[Tensor, "B T D"]
    episodes: Int[Tensor, "B T"]
    env_steps: Int[Tensor, "B T"]
    labels: Float[Tensor, "B T s"] | None
    is_nuisance: Bool[Tensor, " s"]
    """Which labels are of something that nobody should model."""
    errors: dict[str, float]
    """Mean squared prediction errors: ``true``, ``copy`` and, where there are actions, ``shuffled`` and ``zero``."""


@torch.no_grad()
def evaluate_collapse(model: WorldModel, store: Store, *, config: Config, num_clips: int = NUM_CLIPS, seed: int = 0) -> dict[str, Any]:
    """Look at clips of the held-out episodes: measurements and verdict, JSON-ready. ``config`` says how clips are cut and what is held out.

    Beside what training watches: the least Gaussian directions, straightness, how much of the variance follows from the frame's number or from the
    episode alone, and, where the dataset has labels, from those called ``nuisance_*`` and from the others, and how many neighbours are neighbours in
    the true state.
    """
    if num_clips < 2:
        raise ConfigError(f"num_clips must be at least 2, got {num_clips}")
    episode_ids = heldout_episodes(store, config)[1]
    look = _look_at(model.eval(), store, config, episode_ids, num_clips, seed)
    flat = look.latents.flatten(0, 1)
    errors = {"prediction_error": look.errors["true"], "copy_error": look.errors["copy"]}
    measured = measure_latents(look.latents.transpose(0, 1)) | errors | _shares_of(flat, look)
    for name in ("shuffled", "zero"):
        if name in look.errors:
            measured["action_sensitivity" if name == "shuffled" else "zero_action_sensitivity"] = look.errors[name] / max(look.errors["true"], TINY)
    verdict = judge(measured)
    return {
        "evaluation": "collapse",
        "format": FORMAT,
        "verdict": verdict.name,
        "reasons": list(verdict.reasons),
        **measured,
        "straightness": straightness(look.latents),
        "least_gaussian_directions": directions_as_json(worst_directions(flat, seed=seed)),
        "sigreg_gaussian": GAUSSIAN_SIGREG,
        "num_clips": len(look.latents),
        "num_frames": len(flat),
        "num_episodes": len(episode_ids),
        "seed": seed,
    }


def _look_at(model: WorldModel, store: Store, config: Config, episode_ids: np.ndarray, num_clips: int, seed: int) -> _Look:
    sampler = ClipSampler(
        store,
        num_transitions=config.data.num_transitions,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=CLIPS_PER_CHUNK,
        seed=seed,
    )
    names = store.label_names
    device = next(model.parameters()).device
    latents, totals, parts = [], dict[str, float](), []
    for chunk in sampler.fixed_chunks(seed, num_clips, CLIPS_PER_CHUNK):
        clip = chunk.map(lambda array: torch.from_numpy(array).to(device))
        encoded = model.encode(clip.observations)
        latents.append(encoded.float().cpu())
        for name, error in _prediction_errors(model, encoded, clip).items():
            totals[name] = totals.get(name, 0.0) + error * len(encoded)
        parts.append((chunk.episode, chunk.start_env_step, chunk.labels))
    all_latents = torch.cat(latents)
    num_frames = all_latents.shape[1]
    episodes, starts = (torch.from_numpy(np.concatenate([part[k] for part in parts])) for k in (0, 1))
    labels = [part[2] for part in parts if part[2] is not None]
    return _Look(
        latents=all_latents,
        episodes=episodes[:, None].expand(-1, num_frames),
        env_steps=starts[:, None] + torch.arange(num_frames) * model.action_block,
        labels=torch.from_numpy(np.concatenate(labels)) if labels else None,
        is_nuisance=torch.tensor([name.startswith(NUISANCE_PREFIX) for name in names], dtype=torch.bool),
        errors={name: total / len(all_latents) for name, total in totals.items()},
    )


def _prediction_errors(model: WorldModel, latents: Float[Tensor, "B _ D"], clip: Clip[Tensor]) -> dict[str, float]:
    """Mean squared errors with the true actions, with those of other clips and with the mean action; of predicting no change."""
    context, targets = latents[:, :-1], latents[:, 1:]

    def error(blocks: Tensor) -> float:
        return float((model.predict(context, blocks) - targets).float().square().mean())

    errors = {"true": error(clip.blocks), "copy": float((context - targets).float().square().mean())}
    if clip.blocks.shape[-1] > 0 and len(clip.blocks) > 1:
        errors["shuffled"] = error(clip.blocks.roll(len(clip.blocks) // 2, 0))
        errors["zero"] = error(torch.full_like(clip.blocks, torch.nan) if model.action_spec.kind == "continuous" else torch.zeros_like(clip.blocks))
    return errors


def _shares_of(flat: Float[Tensor, "n D"], look: _Look) -> dict[str, float]:
    """What the latents' variance follows from."""
    episodes, env_steps = look.episodes.flatten(), look.env_steps.flatten()
    shares = {"time_share": time_share(flat, env_steps, episodes), "episode_share": episode_share(flat, episodes)}
    if look.labels is None:
        return shares
    labels, is_nuisance = look.labels.flatten(0, 1), look.is_nuisance
    if bool(is_nuisance.any()):
        shares["nuisance_share"] = explained_share(flat, labels[:, is_nuisance], episodes)
    state = labels[:, ~is_nuisance]
    return shares | {"state_share": explained_share(flat, state, episodes), "neighbour_overlap": neighbour_overlap(flat, state)}


def heldout_episodes(store: Store, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training episodes and of the held-out ones; ``DataError`` if either is empty."""
    train_ids, heldout_ids = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)
    if len(train_ids) == 0 or len(heldout_ids) == 0:
        raise DataError(
            f"of {len(store.episode_ids)} episodes {len(heldout_ids)} are held out (data.validation_fraction {config.data.validation_fraction:g}); "
            "both parts need at least one: collect more episodes"
        )
    return train_ids, heldout_ids


def _is_at_one_point(look: Mapping[str, float]) -> bool:
    return look["sigreg"] >= COLLAPSED_SHARE * look["sigreg_collapsed"] and look["std_mean"] < COLLAPSED_STD


def _collapse_reasons(look: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"SIGReg is {look['sigreg']:.1f}, a single point would score {look['sigreg_collapsed']:.1f} and a Gaussian {GAUSSIAN_SIGREG}",
        f"the mean standard deviation of a latent dimension is {look['std_mean']:.3f}, where 1 is meant",
    )


def _capture_reasons(look: Mapping[str, float]) -> tuple[str, ...]:
    told = {
        "time_share": (TIME_CAPTURE, "the frame's number in its episode"),
        "episode_share": (EPISODE_CAPTURE, "which episode it is, and hardly changes within one"),
        "nuisance_share": (NUISANCE_CAPTURE, "the labels called nuisance_*"),
    }
    return tuple(
        f"{look[name]:.0%} of the latents' variance follows from {what} (from {limit:.0%} on, that is no world model)"
        for name, (limit, what) in told.items()
        if look.get(name, 0.0) >= limit
    )


def _partial_reasons(look: Mapping[str, float]) -> tuple[str, ...]:
    reasons = []
    if look["dead_fraction"] >= DEAD_FRACTION:
        reasons.append(f"{look['dead_fraction']:.0%} of the latent dimensions are dead (standard deviation below {DEAD_STD})")
    excess = (look["sigreg"] - GAUSSIAN_SIGREG) / look["sigreg_collapsed"]
    if look["effective_rank"] < max(LEAST_RANK, LOW_RANK_FRACTION * look["latent_dimension"]) and excess > LOW_RANK_EXCESS:
        rank = f"{look['effective_rank']:.1f} of {look['latent_dimension']:.0f}"
        reasons.append(f"the effective rank is {rank} and SIGReg {look['sigreg']:.1f} (a Gaussian: {GAUSSIAN_SIGREG})")
    return tuple(reasons)
