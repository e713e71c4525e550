"""AtariARI label probes: which bytes of a game's memory can be named from the latent of one observation (Anand et al. 2019, arXiv 1906.08226).

Axes: n frame, D latent, s label.

Protocol: of episodes of a random policy up to 50,000 frames; whole episodes are split 70 % training, 10 % validation, 20 % test; test frames that
look exactly like a training or validation frame are left out; a label is kept if the histogram of its values has an entropy of at least 0.6 nats; a
linear softmax classifier per label reads frozen latents; its weighted F1 on the test frames is averaged over the labels of a category, and
these means over the categories, as in the tables of the paper.

What differs from the original:
- frames are RGB, theirs grey; they come from a dataset, whose size, policy, action repeat and episode ends are its own (``comparable`` says);
- entropies are taken over the training frames instead of over all;
- the split follows the run's ``data.split_seed``, so that episodes held out of its training are tested on first, instead of chance;
- the classifiers have a class per value that occurs in training instead of 256 and start from the frequencies of the values; they are fitted twice:
  as there (``ORIGINAL``), and until they have converged on standardised latents (``converged``), which is kinder to encoders whose latents hardly
  vary: random ones above all;
- their random agent never plays NOOP (choice 0), a ``random`` policy here plays every choice alike;
- labels that their table puts in no category (``tile_color_*`` and the like) count as miscellaneous;
- their supervised and untrained encoders are NatureCNNs, here they are the networks of the run.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lewm.config import Config
from lewm.data.formats.store import Store
from lewm.data.splits import split_episodes
from lewm.errors import ConfigError, DataError
from lewm.evaluation import supervised
from lewm.evaluation.atari_labels import ENTROPY_THRESHOLD_NATS, UsableLabels, category, relative_f1, score_labels, usable_labels
from lewm.evaluation.atari_peer import CEILING, FLOOR, OWN, PEER, compare_peer
from lewm.evaluation.classification import CONVERGED, ORIGINAL, fit_softmax_probe
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.evaluation.supervised import FRAMES_PER_BATCH, device_of, fresh_model, observations_of, train_supervised
from lewm.models.world_model import WorldModel
from lewm.seeds import hash64

FORMAT = 1
NUM_FRAMES = 50_000
VALIDATION_FRACTION, TEST_FRACTION = 0.1, 0.2
NATIVE_PX = (210, 160)
ACTION_REPEAT = 4
TRAINING, VALIDATION, TEST, DUPLICATE = range(4)


def evaluate_atari_labels(
    model: WorldModel,
    store: Store,
    *,
    config: Config,
    num_frames: int = NUM_FRAMES,
    supervised_steps: int = 0,
    peer: WorldModel | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Weighted F1 and accuracy per label of the run's frozen encoder and of what it is compared with, JSON-ready.

    Beside it (``lewm``): the same networks with fresh weights (``untrained``), always the most frequent value (``majority``) and, if
    ``supervised_steps`` > 0, the same networks trained end to end to name the labels (``supervised``). ``relative_f1`` is 0 for the untrained and 1
    for the supervised networks. ``peer`` is the model of another run that takes the same observations: it is judged on the very same frames and
    splits, and ``peer_comparison`` is the run's paired difference to it (``compare_peer``). ``seed`` draws the fresh weights and the batches.
    ``DataError`` for a dataset without usable labels, ``ConfigError`` for a peer of other observations.
    """
    if num_frames < 3 or supervised_steps < 0:
        raise ConfigError(f"num_frames must be at least 3 and supervised_steps at least 0, got {num_frames} and {supervised_steps}")
    if not store.label_names:
        raise DataError("this dataset has no labels to probe; use one of an Atari game that has them")
    if peer is not None and peer.observation_spec != model.observation_spec:
        raise ConfigError(
            f"a peer is judged on the very frames of the run, which takes {model.observation_spec}; the peer takes {peer.observation_spec}: "
            "train one on the same observations"
        )
    offsets = model.observation_spec.stack_offsets_env_steps
    frames, parts = split_frames(store, config, offsets, num_frames)
    usable = usable_labels(store.label_names, frames.labels(), parts == TRAINING)
    comparison = _Comparison(model, peer, config, frames, parts, usable, seed, progress or (lambda text: None))
    encoders = comparison.compare(supervised_steps)
    converged = {name: scores.get("converged", scores) for name, scores in encoders.items()}
    why = not_comparable(store, len(frames), offsets)
    return {
        "evaluation": "atari-labels",
        "format": FORMAT,
        "comparable": not why,
        "why": "; ".join(why) or f"{NUM_FRAMES:,} native {NATIVE_PX[0]}x{NATIVE_PX[1]} frames of a random policy",
        "mean_f1": encoders["lewm"]["mean_f1"],
        "relative_f1": relative_f1(encoders),
        "converged_mean_f1": converged["lewm"]["mean_f1"],
        "converged_relative_f1": relative_f1(converged),
        "encoders": encoders,
        "peer_comparison": None if peer is None else comparison.peer_differences(),
        "labels": {name: {"entropy_nats": usable.entropies_nats[name], "category": category(name)} for name in usable.names},
        "dropped_labels": usable.dropped,
        "frames": _count(comparison.parts, frames, store, config),
        "settings": _settings(config, offsets, supervised_steps),
        "seconds": comparison.seconds,
        "seed": seed,
    }


class _Comparison:
    """Encoders, each judged by what the same linear classifiers read off its latents."""

    def __init__(
        self,
        model: WorldModel,
        peer: WorldModel | None,
        config: Config,
        frames: LabelledFrames,
        parts: np.ndarray,
        usable: UsableLabels,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._config, self._frames, self._usable, self._seed, self._say = model.eval(), config, frames, usable, seed, say
        self.seconds: dict[str, float] = {}
        models = {OWN: self._model, FLOOR: fresh_model(model, config, seed).eval()} | ({} if peer is None else {PEER: peer.eval()})
        self._reads: dict[str, np.ndarray] = {}
        """Of the test frames int [n, s], by encoder."""
        self._converged_reads: dict[str, np.ndarray] = {}
        self._say(f"encoding {len(frames):,} frames")
        latents, digests = self._timed("encode", lambda: _encode(list(models.values()), frames))
        self._latents = dict(zip(models, latents, strict=True))
        self.parts = mark_duplicates(parts, digests)
        """int [n], without the test frames that are also training or validation frames."""
        self._training, self._validation, self._test = (np.flatnonzero(self.parts == part) for part in (TRAINING, VALIDATION, TEST))
        if len(self._test) == 0:
            raise DataError("every test frame looks exactly like a training or validation frame: collect episodes that differ")

    def compare(self, supervised_steps: int) -> dict[str, Any]:
        """Scores by encoder."""
        encoders = {name: self._timed(f"probe_{name}", functools.partial(self._probe, name)) for name in self._latents}
        frequent = _most_frequent(self._usable.values[self._training])
        encoders["majority"] = self._score(np.broadcast_to(frequent, (len(self._test), len(frequent))))
        if supervised_steps > 0:
            encoders[CEILING] = self._timed("supervised", lambda: self._supervise(supervised_steps))
        return encoders

    def peer_differences(self) -> dict[str, Any]:
        """The run minus its peer, once ``compare`` has judged both; ``converged``: by the converged classifiers."""
        test = self._test
        common = self._usable.values[test], self._usable.names, self._frames.episode[test]
        original, converged = (compare_peer(reads, *common, seed=self._seed) for reads in (self._reads, self._converged_reads))
        return original | {"converged": converged}

    def _probe(self, name: str) -> dict[str, Any]:
        self._say(f"fitting {len(self._usable.names)} classifiers to the latents of encoder {name!r}")
        latents, values, device = self._latents[name], self._usable.values, str(device_of(self._model))
        training, validation = self._training, self._validation
        parts = latents[training], values[training], latents[validation], values[validation]
        original, converged = (fit_softmax_probe(*parts, recipe=recipe, seed=self._seed, device=device) for recipe in (ORIGINAL, CONVERGED))
        self._reads[name], self._converged_reads[name] = original.read(latents[self._test]), converged.read(latents[self._test])
        return self._score(self._reads[name]) | {
            "num_epochs": original.num_epochs,
            "converged": self._score(self._converged_reads[name]) | {"num_epochs": converged.num_epochs},
        }

    def _supervise(self, num_steps: int) -> dict[str, Any]:
        values = self._usable.values
        reference = train_supervised(
            self._model,
            self._frames,
            self._training,
            values[self._training],
            self._validation,
            values[self._validation],
            config=self._config,
            num_steps=num_steps,
            seed=self._seed,
            progress=self._say,
        )
        self._reads[CEILING] = self._converged_reads[CEILING] = reference.read(self._frames, self._test)
        return self._score(self._reads[CEILING]) | {
            "num_steps": num_steps,
            "kept_step": reference.kept_step,
            "validation_curve": [{"step": step, "cross_entropy_nats": loss} for step, loss in reference.validation_curve],
            "is_still_falling": reference.is_still_falling,
        }

    def _score(self, read: np.ndarray) -> dict[str, Any]:
        return score_labels(read, self._usable.values[self._test], self._usable.names)

    def _timed(self, what: str, function: Callable[[], Any]) -> Any:
        start_s = time.perf_counter()
        value = function()
        self.seconds[what] = time.perf_counter() - start_s
        return value


def not_comparable(store: Store, num_frames: int, stack_offsets_env_steps: tuple[int, ...]) -> list[str]:
    """Why numbers on this dataset cannot stand beside AtariARI's published ones; empty if they can."""
    spec, reasons = store.observation_spec, []
    if not str(store.env.get("name", "")).startswith("atari/"):
        reasons.append(f"the data comes from {store.env.get('name') or 'no known world'}, not from an Atari game")
    if (spec.height_px, spec.width_px) != NATIVE_PX:
        reasons.append(f"frames are {spec.height_px}x{spec.width_px}, AtariARI's {NATIVE_PX[0]}x{NATIVE_PX[1]}")
    if num_frames != NUM_FRAMES:
        reasons.append(f"{num_frames:,} frames instead of {NUM_FRAMES:,}")
    if store.action_spec.action_repeat != ACTION_REPEAT:
        reasons.append(f"actions are repeated for {store.action_spec.action_repeat} emulator frames instead of {ACTION_REPEAT}")
    options = store.env.get("options", {})
    if options.get("repeat_action_probability", 0) != 0:
        reasons.append(f"actions are sticky (repeat_action_probability {options['repeat_action_probability']})")
    if options.get("full_action_space", False):
        reasons.append("the full action space is used instead of the minimal one")
    if not options.get("is_max_pooled", True):
        reasons.append("frames are not the maximum of two emulator frames")
    if store.meta.policy.get("name") != "random":
        reasons.append(f"the policy is {store.meta.policy.get('name') or 'unknown'} instead of random")
    if len(stack_offsets_env_steps) > 1:
        reasons.append(f"{len(stack_offsets_env_steps)} frames are stacked")
    return reasons


def split_frames(store: Store, config: Config, stack_offsets_env_steps: tuple[int, ...], num_frames: int) -> tuple[LabelledFrames, np.ndarray]:
    """Up to ``num_frames`` frames of whole episodes (the last one may be cut short), and the part of each, int [n].

    Episodes are taken in the order of the hash by which the run's held-out episodes were chosen, these first: first for testing, then for
    validation, the rest for training; at least one each. ``DataError`` if there are fewer than three.
    """
    ids = store.episode_ids
    ids = ids[np.argsort(hash64(ids, config.data.split_seed), kind="stable")]
    lengths = store.index["length"][ids] + 1
    before = np.cumsum(lengths) - lengths
    chosen = before < num_frames
    ids, lengths = ids[chosen], np.minimum(lengths, num_frames - before)[chosen]
    if len(ids) < 3:
        raise DataError(
            f"training, validation and test need an episode each, got {len(ids)} within {num_frames:,} frames: "
            "collect more episodes, or raise num_frames"
        )
    num_test, num_validation = (max(1, round(fraction * len(ids))) for fraction in (TEST_FRACTION, VALIDATION_FRACTION))
    part_of = np.full(len(store), TRAINING)
    part_of[ids[:num_test]], part_of[ids[num_test : num_test + num_validation]] = TEST, VALIDATION
    frames = LabelledFrames(store, dict(zip(ids.tolist(), lengths.tolist(), strict=True)), stack_offsets_env_steps)
    return frames, part_of[frames.episode]


def mark_duplicates(parts: np.ndarray, digests: Sequence[bytes]) -> np.ndarray:
    """The parts [n] with ``DUPLICATE`` for each test frame that looks exactly like a training or validation frame."""
    known = {digest for digest, part in zip(digests, parts.tolist(), strict=True) if part != TEST}
    is_duplicate = np.array([digest in known for digest in digests]) & (parts == TEST)
    return np.where(is_duplicate, DUPLICATE, parts)


@torch.inference_mode()
def _encode(models: Sequence[WorldModel], frames: LabelledFrames) -> tuple[list[np.ndarray], list[bytes]]:
    """Latents float32 [n, D] of all frames by each model, and the frames' digests, in one pass over the dataset."""
    latents = [np.empty((len(frames), model.latent_dimension), np.float32) for model in models]
    digests: list[bytes] = []
    for numbers in frames.batches(FRAMES_PER_BATCH):
        observations = observations_of(frames, numbers, models[0])
        for encoded, model in zip(latents, models, strict=True):
            encoded[numbers] = model.encode(observations).float().cpu().numpy()
        digests += frames.digests(numbers)
    return latents, digests


def _most_frequent(values: np.ndarray) -> np.ndarray:
    """int64 [s] of int64 [n, s] in 0..255; of equally frequent values the smallest."""
    return np.array([np.bincount(column).argmax() for column in values.T])


def _count(parts: np.ndarray, frames: LabelledFrames, store: Store, config: Config) -> dict[str, int]:
    """Frames and episodes of each part, and how much of the test part the run held out of its training, had it been trained on this dataset."""
    names = {"training": (TRAINING,), "validation": (VALIDATION,), "test": (TEST, DUPLICATE)}
    episodes = {name: np.unique(frames.episode[np.isin(parts, part)]) for name, part in names.items()}
    heldout = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)[1]
    return {
        "num_frames": len(frames),
        **{f"num_{name}_frames": int((parts == part[0]).sum()) for name, part in names.items()},
        "num_duplicate_test_frames": int((parts == DUPLICATE).sum()),
        **{f"num_{name}_episodes": len(ids) for name, ids in episodes.items()},
        "num_heldout_test_episodes": int(np.isin(episodes["test"], heldout).sum()),
        "num_heldout_test_frames": int(((parts == TEST) & np.isin(frames.episode, heldout)).sum()),
    }


def _settings(config: Config, stack_offsets_env_steps: tuple[int, ...], supervised_steps: int) -> dict[str, Any]:
    return {
        "entropy_threshold_nats": ENTROPY_THRESHOLD_NATS,
        "split_seed": config.data.split_seed,
        "stack_offsets_env_steps": list(stack_offsets_env_steps),
        "probe": {"optimiser": "Adam", **dataclasses.asdict(ORIGINAL)},
        "converged_probe": {"optimiser": "Adam", **dataclasses.asdict(CONVERGED)},
        "supervised": {
            "optimiser": "AdamW",
            "learning_rate": supervised.LEARNING_RATE,
            "weight_decay": supervised.WEIGHT_DECAY,
            "batch_size": supervised.BATCH_SIZE,
            "num_steps": supervised_steps,
        },
    }
