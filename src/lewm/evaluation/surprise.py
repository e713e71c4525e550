"""Violation of expectation, ``lewm eval surprise``: does the model notice what the world does not do.

Surprise is the logarithm of the prediction error of the next latent, in standard deviations of normal steps. What a violation is compared with is the
same clip as it was, so every comparison is paired.

Axes: B clip, T model step, D latent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.envs.two_room_batch import TwoRoomBatch
from lewm.envs.two_room_layout import SPEED_PX
from lewm.errors import ConfigError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.intervals import mcnemar_p, separation
from lewm.evaluation.violations import CLIP_STEPS, FRAME_VIOLATIONS, NUM_STEPS, VIOLATION_STEP, action_flip, shortened, wall_crossings
from lewm.models.world_model import WorldModel
from lewm.schema import Clip

FORMAT = 1
NUM_CLIPS, CLIPS_PER_CHUNK = 512, 128
ACTION_SIZES = (0.5, 1.0)
FALSE_ALARM_RATE = 0.01
"""Of normal steps: the threshold of an alarm is their quantile."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What could tell each step of some clips: float64 [B, T] each."""

    prediction: np.ndarray
    """log of the mean squared error of the predicted latent."""
    persistence: np.ndarray
    """log of the mean squared change of the latent."""
    frame_difference: np.ndarray
    """log of the mean absolute change of the frame."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is normal: mean and standard deviation of the log errors of normal steps, and the alarm's threshold."""

    mean: float
    std: float
    threshold: float

    @classmethod
    def of(cls, signals: Signals) -> "Calibration":
        """From normal clips."""
        values = signals.prediction.ravel()
        return cls(mean=float(values.mean()), std=float(max(values.std(), 1e-9)), threshold=float(np.quantile(values, 1 - FALSE_ALARM_RATE)))


def evaluate_surprise(model: WorldModel, store: Store, *, config: Config, num_clips: int = NUM_CLIPS, seed: int = 0) -> dict[str, Any]:
    """Violations of every kind and size on clips of held-out episodes, JSON-ready.

    Half of the clips say what is normal, the other half is scored. For each violation: AUROC of the surprise at its step against the same step of the
    same clips as they were, with interval; the same of frame difference and of latent persistence (floors); effect size, an exact sign test, how
    often and after how many steps the alarm is raised. In two-room, agents run through the wall as well. ``DataError`` if no held-out episode is
    long enough.
    """
    if num_clips < 8:
        raise ConfigError(f"num_clips must be at least 8, got {num_clips}")
    model.eval()
    chunks = list(_chunks(model, store, config, num_clips, seed))
    cut = max(1, len(chunks) // 2)
    calibration = Calibration.of(_joined([_signals(model, shortened(chunk)) for chunk in chunks[:cut]]))
    scored = chunks[cut:] or chunks
    normal = _joined([_signals(model, shortened(chunk)) for chunk in scored])
    violations: dict[str, dict[str, Any]] = {}
    for name, (change, sizes) in FRAME_VIOLATIONS.items():
        violations[name] = {}
        for size in sizes:
            generator = np.random.default_rng([seed, len(violations)])
            changed = _joined([_signals(model, change(chunk, size, generator)) for chunk in scored])
            violations[name][f"{size:g}"] = _compared(normal, changed, calibration)
    if model.action_spec.kind != "none":
        mean = np.tile(model.action_mean.cpu().numpy(), model.action_block)
        sizes = (1.0,) if model.action_spec.kind == "discrete" else ACTION_SIZES
        flips = {size: _joined([_signals(model, action_flip(chunk, model.action_spec, mean, size)) for chunk in scored]) for size in sizes}
        violations["action-flip"] = {f"{size:g}": _compared(normal, changed, calibration) for size, changed in flips.items()}
    wall = _wall(model, store, len(normal.prediction), seed, calibration)
    return {
        "evaluation": "surprise",
        "format": FORMAT,
        "violations": violations | ({} if wall is None else {"wall": {"1": wall}}),
        "calibration": {"mean": calibration.mean, "std": calibration.std, "threshold": calibration.threshold, "false_alarm_rate": FALSE_ALARM_RATE},
        "false_alarms_per_1000_steps": float(1000 * (normal.prediction > calibration.threshold).mean()),
        "num_clips": len(normal.prediction),
        "violation_step": VIOLATION_STEP,
        "num_model_steps": NUM_STEPS,
        "seed": seed,
    }


def _wall(model: WorldModel, store: Store, num_clips: int, seed: int, calibration: Calibration) -> dict[str, Any] | None:
    """Runs through the wall against the same runs through the door; None in other worlds, and where a step is too short to cross the wall."""
    if store.env.get("name") != "two-room" or model.observation_spec.num_views != 1:
        return None
    control, crossing = wall_crossings(num_clips, model.action_block, dict(store.env.get("options", {})), seed)
    spec = TwoRoomBatch(1, **dict(store.env.get("options", {}))).options
    if SPEED_PX * model.action_block < spec.wall_thickness_px + 2 * spec.agent_radius_px:
        return None
    return _compared(_signals(model, control), _signals(model, crossing), calibration)


def _chunks(model: WorldModel, store: Store, config: Config, num_clips: int, seed: int) -> Iterator[Clip[np.ndarray]]:
    sampler = ClipSampler(
        store,
        num_transitions=CLIP_STEPS,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=heldout_episodes(store, config)[1],
        batch_size=CLIPS_PER_CHUNK,
        seed=seed,
    )
    return sampler.fixed_chunks(seed, num_clips, max(2, min(CLIPS_PER_CHUNK, num_clips // 4)))


@torch.no_grad()
def _signals(model: WorldModel, clip: Clip[np.ndarray]) -> Signals:
    device = next(model.parameters()).device
    moved = clip.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))
    latents = model.encode(moved.observations).float()
    errors = [_error(model, latents, moved.blocks, step) for step in range(clip.blocks.shape[1])]
    frames = clip.observations.frames.astype(np.int16)
    change = np.abs(np.diff(frames, axis=1)).mean(axis=tuple(range(2, frames.ndim)))
    return Signals(
        prediction=_log(torch.stack(errors, dim=1).cpu().numpy()),
        persistence=_log(latents.diff(dim=1).square().mean(-1).cpu().numpy()),
        frame_difference=_log(change),
    )


def _error(model: WorldModel, latents: Float[Tensor, "B T D"], blocks: Tensor, step: int) -> Float[Tensor, " B"]:
    """Mean squared error of the latent after ``step``, predicted from as many steps before it as the model attends to."""
    first = max(0, step + 1 - model.history_model_steps)
    predicted = model.predict(latents[:, first : step + 1], blocks[:, first : step + 1])[:, -1]
    return (predicted.float() - latents[:, step + 1]).square().mean(-1)


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values.astype(np.float64), 1e-12))


def _joined(parts: list[Signals]) -> Signals:
    return Signals(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Signals.__dataclass_fields__})


def _compared(normal: Signals, changed: Signals, calibration: Calibration) -> dict[str, Any]:
    """A violation against the clips as they were, at its step."""
    step = VIOLATION_STEP
    aurocs = {}
    for name in Signals.__dataclass_fields__:
        before, after = getattr(normal, name)[:, step], getattr(changed, name)[:, step]
        is_violated = np.repeat([False, True], [len(before), len(after)])
        aurocs[name] = separation(np.concatenate([before, after]), is_violated)
    difference = (changed.prediction - normal.prediction)[:, step] / calibration.std
    alarms = changed.prediction[:, step:] > calibration.threshold
    is_noticed = alarms.any(1)
    floor = max(("persistence", "frame_difference"), key=lambda name: aurocs[name]["rate"])
    spread = float(difference.std())
    return {
        "n": len(difference),
        "auroc": aurocs["prediction"],
        "persistence_auroc": aurocs["persistence"],
        "frame_difference_auroc": aurocs["frame_difference"],
        "over_floor": aurocs["prediction"]["rate"] - aurocs[floor]["rate"],
        "floor": floor,
        "surprise": float((changed.prediction[:, step].mean() - calibration.mean) / calibration.std),
        "effect_size": float(difference.mean()) / spread if spread > 0 else math.copysign(math.inf, difference.mean()) if difference.any() else 0.0,
        "sign_test_p": mcnemar_p(difference > 0, difference < 0),
        "noticed": float(is_noticed.mean()),
        "delay_model_steps": float(alarms[is_noticed].argmax(1).mean()) if is_noticed.any() else None,
    }


def surprise_table(result: dict[str, Any]) -> str:
    """The result as plain text."""
    header = ("violation", "size", "n", "AUROC [95 %]", "persistence", "frame difference", "over floor", "effect", "sign test p", "noticed", "delay")
    rows = [header]
    for name, sizes in result["violations"].items():
        for size, found in sizes.items():
            auroc = found["auroc"]
            rows.append(
                (
                    name,
                    size,
                    str(found["n"]),
                    f"{auroc['rate']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}]",
                    f"{found['persistence_auroc']['rate']:.2f}",
                    f"{found['frame_difference_auroc']['rate']:.2f}",
                    f"{found['over_floor']:+.2f}",
                    f"{found['effect_size']:.2f}",
                    f"{found['sign_test_p']:.1g}",
                    f"{found['noticed']:.2f}",
                    "-" if found["delay_model_steps"] is None else f"{found['delay_model_steps']:.1f}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"false alarms: {result['false_alarms_per_1000_steps']:.1f} per 1,000 normal steps"])
