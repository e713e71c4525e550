"""Surprise over time: of many clips in short, and of every step of one recording, so that a person can look at where it is surprising.

Axes: B clip, T model step, n observation.
"""

from typing import Any

import numpy as np
import torch

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.data.splits import split_episodes
from lewm.errors import DataError
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.evaluation.surprise_signals import (
    FALSE_ALARM_RATE,
    Calibration,
    Signals,
    errors_of_recording,
    frame_changes,
    joined,
    known_blocks,
    log_of,
    measure,
)
from lewm.evaluation.violations import NUM_STEPS
from lewm.models.world_model import WorldModel
from lewm.schema import Observation

FORMAT = 2
BAND = (0.1, 0.9)
"""Quantiles of clips between which a timeline's band lies."""
OBSERVATIONS_PER_BATCH, CLIPS_PER_CHUNK = 64, 64
NUM_SHOWN = 5
"""The most surprising steps that a table lists and a figure shows."""
HELD_OUT, OTHERS, ITSELF = "the held-out episodes", "the other episodes", "this episode itself"


def timeline_of(signals: Signals, calibrating: Signals) -> dict[str, list[float]]:
    """Median surprise of clips at each step with the band of the middle 80 %, and median persistence, in standard deviations of normal steps."""
    surprise = Calibration.of(calibrating.prediction).standard(signals.prediction)
    persistence = Calibration.of(calibrating.persistence).standard(signals.persistence)
    low, high = np.quantile(surprise, BAND, axis=0)
    median = np.median(surprise, axis=0)
    return {
        "median": _plain(median),
        "low": _plain(low),
        "high": _plain(high),
        "persistence": _plain(np.median(persistence, axis=0)),
    }


def evaluate_episode(
    model: WorldModel, store: Store, *, config: Config, episode: int, num_clips: int, seed: int, batch_size: int = OBSERVATIONS_PER_BATCH
) -> dict[str, Any]:
    """The surprise of every model step of one episode, JSON-ready.

    ``calibrated_on`` says which episodes define what is normal: the held-out ones but this; if there are none, all others; if it is the only one,
    itself. ``DataError`` for an episode that is not there or has no model step.
    """
    if not 0 <= episode < len(store):
        raise DataError(f"dataset {str(store.path)!r} has episodes 0 to {len(store) - 1}, got {episode}")
    length = int(store.index["length"][episode])
    if length < model.action_block:
        raise DataError(f"episode {episode} has {length} env steps, a model step needs {model.action_block}: choose a longer one")
    heldout = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)[1]
    signals = _measure_recording(model, store, episode, length, batch_size)
    source, ids = _normal_episodes(store, heldout, episode, model.action_block)
    normal = signals if source == ITSELF else _normal_signals(model, store, ids, num_clips, seed)
    calibration = Calibration.of(normal.prediction)
    surprise = calibration.standard(signals.prediction[0])
    ends = (np.arange(len(surprise)) + 1) * model.action_block
    is_alarm = signals.prediction[0] > calibration.threshold
    return {
        "evaluation": "surprise",
        "format": FORMAT,
        "episode": episode,
        "is_heldout": episode in heldout.tolist(),
        "calibrated_on": source,
        "steps": {
            "end_env_step": ends.tolist(),
            "surprise": _plain(surprise),
            "persistence": _plain(Calibration.of(normal.persistence).standard(signals.persistence[0])),
            "frame_difference": _plain(Calibration.of(normal.frame_difference).standard(signals.frame_difference[0])),
        },
        "alarms_env_steps": ends[is_alarm].tolist(),
        "most_surprising_env_steps": ends[np.argsort(-surprise, kind="stable")[:NUM_SHOWN]].tolist(),
        "threshold": calibration.standard_threshold,
        "calibration": {"mean": calibration.mean, "std": calibration.std, "threshold": calibration.threshold, "false_alarm_rate": FALSE_ALARM_RATE},
        "num_normal_steps": int(normal.prediction.size),
        "action_block": model.action_block,
        "num_env_steps": length,
        "seed": seed,
    }


def episode_table(result: dict[str, Any]) -> str:
    """The result of ``evaluate_episode`` as plain text."""
    steps, block = result["steps"], result["action_block"]
    side = "held out" if result["is_heldout"] else "in the training part of the split"
    lines = [
        f"episode {result['episode']} ({side}): {len(steps['surprise'])} model steps of {block} env steps",
        f"normal is what {result['calibrated_on']} show{'s' if result['calibrated_on'] == ITSELF else ''}; surprise in standard deviations of that",
        f"alarms (above {result['threshold']:.2f}, the 99 % quantile of normal steps): {len(result['alarms_env_steps'])}",
    ]
    for end in result["most_surprising_env_steps"]:
        row = end // block - 1
        floors = f"latent persistence {steps['persistence'][row]:+.2f}, frame difference {steps['frame_difference'][row]:+.2f}"
        lines.append(f"  env steps {end - block} to {end}: surprise {steps['surprise'][row]:+.2f} ({floors})")
    return "\n".join(lines)


def observed(store: Store, episode: int, env_steps: np.ndarray, offsets: tuple[int, ...] = (0,)) -> Observation[np.ndarray]:
    """The observations of an episode at some env steps, ascending: frames uint8 [n, V, Y, X, 3]."""
    return LabelledFrames(store, {episode: int(env_steps.max()) + 1}, offsets).observations(env_steps)


def _normal_episodes(store: Store, heldout: np.ndarray, episode: int, action_block: int) -> tuple[str, np.ndarray]:
    """Which episodes say what is normal, in words and by id."""
    for name, ids in ((HELD_OUT, heldout), (OTHERS, store.episode_ids)):
        chosen = ids[(ids != episode) & (store.index["length"][ids] >= action_block)]
        if len(chosen):
            return name, chosen
    return ITSELF, np.array([episode])


def _normal_signals(model: WorldModel, store: Store, ids: np.ndarray, num_clips: int, seed: int) -> Signals:
    longest = int(store.index["length"][ids].max())
    sampler = ClipSampler(
        store,
        num_transitions=min(NUM_STEPS, longest // model.action_block),
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=ids,
        batch_size=CLIPS_PER_CHUNK,
        seed=seed,
    )
    return joined([measure(model, chunk) for chunk in sampler.fixed_chunks(seed, num_clips, CLIPS_PER_CHUNK)])


@torch.no_grad()
def _measure_recording(model: WorldModel, store: Store, episode: int, length: int, batch_size: int) -> Signals:
    """Signals [1, T] of a whole episode; frames are read and encoded in parts."""
    device, block = next(model.parameters()).device, model.action_block
    env_steps = np.arange(0, length + 1, block)  # of the T + 1 observations
    latents, changes, last = [], [], None
    for part in np.split(env_steps, range(batch_size, len(env_steps), batch_size)):
        seen = observed(store, episode, part, model.observation_spec.stack_offsets_env_steps)
        latents.append(model.encode(seen.map(lambda array: torch.from_numpy(array).to(device))).float())
        frames = seen.frames if last is None else np.concatenate([last, seen.frames])
        changes.append(frame_changes(frames[None])[0])
        last = seen.frames[-1:]
    all_latents = torch.cat(latents)
    blocks = torch.from_numpy(_blocks_of(model, store, episode, len(env_steps) - 1)).to(device)
    return Signals(
        prediction=errors_of_recording(model, all_latents, blocks)[None],
        persistence=log_of(all_latents.diff(dim=0).square().mean(-1).cpu().numpy())[None],
        frame_difference=log_of(np.concatenate(changes))[None],
    )


def _blocks_of(model: WorldModel, store: Store, episode: int, num_model_steps: int) -> np.ndarray:
    """float32 [T, A]: the actions of an episode, or what stands for them in a recording without."""
    spec, block = store.action_spec, model.action_block
    blocks = np.zeros((num_model_steps, 0), np.float32)
    if spec.kind != "none":
        first = int(store.index["offset"][episode])
        column = store.columns("actions", [int(store.index["shard"][episode])])[0]
        blocks = spec.as_blocks(np.asarray(column.take(np.arange(first, first + num_model_steps * block), axis=0)), block)
    return known_blocks(model, blocks)


def _plain(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
