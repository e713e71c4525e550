"""Violation of expectation, ``lewm eval surprise``: does the model notice what the world does not do.

Surprise is the logarithm of the prediction error of the next latent, in standard deviations of normal steps. What a violation is compared with is the
same clip as it was, so every comparison is paired.

Axes: B clip, T model step.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.errors import ConfigError, DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.intervals import mcnemar_p, separation
from lewm.evaluation.surprise_signals import FALSE_ALARM_RATE, Calibration, Signals, joined, measure
from lewm.evaluation.surprise_timeline import episode_table, evaluate_episode, timeline_of
from lewm.evaluation.violations import (
    ACTION_FLIP,
    ACTION_SIZES,
    CLIP_STEPS,
    FRAME_VIOLATIONS,
    NUM_STEPS,
    VIOLATION_STEP,
    action_flip,
    shortened,
)
from lewm.evaluation.wall_crossings import MATCHED_PX, SIZES_PX, matched, wall_crossings, why_no_crossings
from lewm.models.world_model import WorldModel
from lewm.registry import did_you_mean
from lewm.schema import Clip

FORMAT = 2
NUM_CLIPS, CLIPS_PER_CHUNK = 512, 128
WALL, WALL_MATCHED = "wall", "wall-matched"
VIOLATIONS = (*FRAME_VIOLATIONS, ACTION_FLIP, WALL, WALL_MATCHED)
MIN_MATCHED = 8
"""Fewer pairs of matched runs are not compared."""
Chunks = list[Clip[np.ndarray]]


def evaluate_surprise(
    model: WorldModel,
    store: Store,
    *,
    config: Config,
    num_clips: int = NUM_CLIPS,
    violations: Sequence[str] | None = None,
    episode: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Violations of every kind and size on clips of held-out episodes, JSON-ready; with ``episode``, the surprise of every step of that one instead.

    Half of the clips say what is normal, the other half is scored. For each violation: AUROC of the surprise at its step against the same step of the
    same clips as they were, with interval; the same of frame difference and of latent persistence (floors); effect size, an exact sign test, how
    often and after how many steps the alarm is raised; ``timelines`` have every step of the largest size. In two-room, agents run through the wall as
    well. ``violations`` names those to make; ``ConfigError`` for one that cannot be made of these data. By default all that can are made,
    ``left_out`` says why others are not. ``DataError`` if no held-out episode is long enough.
    """
    if num_clips < 8:
        raise ConfigError(f"num_clips must be at least 8, got {num_clips}")
    model.eval()
    if episode is not None:
        if violations is not None:
            raise ConfigError("violations are made in clips, and the surprise of one episode is that of the episode as it is: ask for one of the two")
        return evaluate_episode(model, store, config=config, episode=episode, num_clips=num_clips, seed=seed)
    chunks, clip_steps = _chunks(model, store, config, num_clips, seed)
    wanted, left_out = _possible(violations, model, store, chunks, clip_steps)
    cut = max(1, len(chunks) // 2)
    comparison = _Comparison(model, store, chunks[:cut], chunks[cut:] or chunks, seed)
    for name in wanted:
        reasons = comparison.add(name, clip_steps)
        if violations is not None and name not in comparison.found:
            raise ConfigError(f"violation {name!r} cannot be made here: {'; '.join(reasons.values())}")
        left_out |= reasons
    normal, calibration = comparison.normal, comparison.calibration
    return {
        "evaluation": "surprise",
        "format": FORMAT,
        "violations": comparison.found,
        "left_out": left_out,
        "timelines": comparison.timelines,
        "calibration": {"mean": calibration.mean, "std": calibration.std, "threshold": calibration.threshold, "false_alarm_rate": FALSE_ALARM_RATE},
        "threshold": calibration.standard_threshold,
        "false_alarms_per_1000_steps": float(1000 * (normal.prediction > calibration.threshold).mean()),
        "num_clips": len(normal.prediction),
        "violation_step": VIOLATION_STEP,
        "num_model_steps": NUM_STEPS,
        "action_block": model.action_block,
        "seed": seed,
    }


class _Comparison:
    """Violations, each compared with the clips as they were."""

    def __init__(self, model: WorldModel, store: Store, calibrating: Chunks, scored: Chunks, seed: int) -> None:
        self._model, self._store, self._scored, self._seed = model, store, scored, seed
        self._calibrating = joined([measure(model, shortened(chunk)) for chunk in calibrating])
        self.calibration = Calibration.of(self._calibrating.prediction)
        self.normal = joined([measure(model, shortened(chunk)) for chunk in scored])
        self.found: dict[str, dict[str, Any]] = {}
        """By violation and size."""
        self.timelines: dict[str, dict[str, Any]] = {}
        """By violation: of its largest size, and of the clips that it is compared with."""

    def add(self, name: str, clip_steps: int) -> dict[str, str]:
        """Make a violation in all its sizes; why some of them could not be made, by name and size."""
        if name in FRAME_VIOLATIONS:
            return self._add_changes(name, clip_steps)
        if name == ACTION_FLIP:
            model = self._model
            mean = np.tile(model.action_mean.cpu().numpy(), model.action_block)
            for size in (1.0,) if model.action_spec.kind == "discrete" else ACTION_SIZES:
                self._add(
                    name, size, self.normal, joined([measure(model, action_flip(chunk, model.action_spec, mean, size)) for chunk in self._scored])
                )
            return {}
        return self._add_walls() if name == WALL else self._add_matched_walls()

    def _add_changes(self, name: str, clip_steps: int) -> dict[str, str]:
        change, sizes = FRAME_VIOLATIONS[name]
        generator_seed = list(FRAME_VIOLATIONS).index(name) + 1
        left_out = {}
        for size in sizes:
            if name == "teleport" and NUM_STEPS + size > clip_steps:
                left_out[f"{name} {size:g}"] = f"the longest held-out episode has {clip_steps} model steps, this needs {NUM_STEPS + size:g}"
                continue
            generator = np.random.default_rng([self._seed, generator_seed])
            self._add(name, size, self.normal, joined([measure(self._model, change(chunk, size, generator)) for chunk in self._scored]))
        return left_out

    def _add_walls(self) -> dict[str, str]:
        for size in SIZES_PX:
            control, crossing = self._runs(len(self.normal.prediction), (size, size))
            self._add(WALL, size, measure(self._model, control), measure(self._model, crossing))
        return {}

    def _add_matched_walls(self) -> dict[str, str]:
        """Of twice as many runs, those through the wall after which the latent has moved as far as after one through the door."""
        runs = self._runs(2 * len(self.normal.prediction), MATCHED_PX)
        control, crossing = (measure(self._model, run) for run in runs)
        is_to_the_right = runs[0].blocks[:, VIOLATION_STEP, 0] > 0
        pairs = matched(control.persistence[:, VIOLATION_STEP], crossing.persistence[:, VIOLATION_STEP], is_to_the_right)
        if len(pairs[0]) < MIN_MATCHED:
            return {
                WALL_MATCHED: f"of {len(control.prediction)} runs through the wall, {len(pairs[0])} move the latent as far as one through the door"
            }
        self._add(WALL_MATCHED, 1, _rows(control, pairs[0]), _rows(crossing, pairs[1]))
        return {}

    def _runs(self, num_runs: int, beside_px: tuple[float, float]) -> tuple[Clip[np.ndarray], Clip[np.ndarray]]:
        return wall_crossings(num_runs, self._model.action_block, dict(self._store.env.get("options", {})), beside_px, self._seed)

    def _add(self, name: str, size: float, normal: Signals, changed: Signals) -> None:
        self.found.setdefault(name, {})[f"{size:g}"] = _compared(normal, changed, self.calibration)
        lines = {"normal": timeline_of(normal, self._calibrating), "violated": timeline_of(changed, self._calibrating)}
        self.timelines[name] = {"size": f"{size:g}"} | lines  # sizes ascend


def _possible(
    asked: Sequence[str] | None, model: WorldModel, store: Store, chunks: Chunks, clip_steps: int
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The violations to make, and why the others cannot be made; ``ConfigError`` if one that was asked for is among these, or unknown."""
    for name in asked or ():
        if name not in VIOLATIONS:
            raise ConfigError(f"unknown violation {name!r}.{did_you_mean(name, VIOLATIONS)}")
    reasons = {name: _why_not(name, model, store, chunks, clip_steps) for name in VIOLATIONS}
    impossible = {name: reason for name, reason in reasons.items() if reason is not None}
    if asked is None:
        return tuple(name for name in VIOLATIONS if name not in impossible), impossible
    for name in asked:
        if name in impossible:
            possible = ", ".join(each for each in VIOLATIONS if each not in impossible)
            raise ConfigError(f"violation {name!r} cannot be made here: {impossible[name]}; ask for {possible}")
    return tuple(name for name in VIOLATIONS if name in asked), {}


def _why_not(name: str, model: WorldModel, store: Store, chunks: Chunks, clip_steps: int) -> str | None:
    if name == "teleport" and clip_steps <= NUM_STEPS:
        return f"the longest held-out episode has {clip_steps} model steps, this needs {NUM_STEPS + 1}"
    if name == "colour-change" and all(_is_grey(chunk.observations.frames) for chunk in chunks):
        return "the frames are grey, and turning colours changes no grey"
    if name == ACTION_FLIP and "none" in (model.action_spec.kind, store.action_spec.kind):
        return "the model takes no actions" if model.action_spec.kind == "none" else "the recordings have no actions"
    if name in (WALL, WALL_MATCHED):
        if store.env.get("name") != "two-room":
            return f"only two-room has such a wall, these data come from {store.env.get('name') or 'no known world'}"
        if model.observation_spec.num_views != 1:
            return "frames are stacked, and runs are drawn one frame at a time"
        return why_no_crossings(dict(store.env.get("options", {})), model.action_block)
    return None


def _chunks(model: WorldModel, store: Store, config: Config, num_clips: int, seed: int) -> tuple[Chunks, int]:
    """Clips of held-out episodes, and their model steps: enough for every teleport, or as many as the longest episode has."""
    episode_ids = heldout_episodes(store, config)[1]
    longest_env_steps = int(store.index["length"][episode_ids].max())
    clip_steps = min(CLIP_STEPS, longest_env_steps // model.action_block)
    if clip_steps < NUM_STEPS:
        raise DataError(
            f"no held-out episode is long enough for a violation: the longest has {longest_env_steps} env steps, and {NUM_STEPS} model steps are "
            f"{NUM_STEPS * model.action_block}; use longer episodes, or look at one with --episode N"
        )
    sampler = ClipSampler(
        store,
        num_transitions=clip_steps,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=CLIPS_PER_CHUNK,
        seed=seed,
    )
    size = max(2, min(CLIPS_PER_CHUNK, num_clips // 4))
    return list(sampler.fixed_chunks(seed, num_clips, size)), clip_steps


def _is_grey(frames: np.ndarray) -> bool:
    return bool((frames[..., :1] == frames[..., 1:]).all())


def _rows(signals: Signals, numbers: np.ndarray) -> Signals:
    return Signals(**{name: getattr(signals, name)[numbers] for name in Signals.__dataclass_fields__})


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
    if "episode" in result:
        return episode_table(result)
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
    lines += [f"not made: {name}: {reason}" for name, reason in result["left_out"].items()]
    return "\n".join([*lines, f"false alarms: {result['false_alarms_per_1000_steps']:.1f} per 1,000 normal steps"])
