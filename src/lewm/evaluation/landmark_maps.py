"""The map of a run: made of the latents of its training episodes, and kept in the run.

Axes: M landmark, s label, F edge, D latent.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lewm.checkpoint import Checkpoint
from lewm.config import PlannerConfig
from lewm.data.durable import reported_as_data_error, write_atomically
from lewm.data.formats.store import Store
from lewm.data.latents import encoder_sha256
from lewm.errors import DataError
from lewm.evaluation.run_latents import latents_directory, run_latents, training_episodes, training_set
from lewm.planning.landmark_map import LandmarkMap, build_map
from lewm.planning.terms import Distance

FORMAT = 1
SETTINGS = ("num_landmarks", "landmark_edge_env_steps", "landmark_seed", "landmark_distance")
"""What the map depends on; the rest is about its use."""
ARRAYS = ("latents", "std", "rows", "starts", "ends", "env_steps")
STILL = "still"
"""One more array where frames are stacked."""


def map_of(checkpoint: Checkpoint, planner: PlannerConfig, data: Path | str | None, distance: Distance | None = None) -> LandmarkMap:
    """The map that the settings describe, from the run's ``landmarks/``, made now if it is not there yet.

    ``ConfigError`` without the training set, ``DataError`` for another dataset or a damaged map.
    """
    store = training_set(checkpoint, data, "planner 'landmarks' makes its map")
    weights = "" if distance is None else checkpoint.sha256
    identity = {
        "format": FORMAT,
        "encoder_sha256": encoder_sha256(checkpoint.model),
        "dataset_sha256": store.dataset_sha256,
        "distance_sha256": weights,
        "split": [checkpoint.config.data.split_seed, checkpoint.config.data.validation_fraction],
    } | {name: getattr(planner, name) for name in SETTINGS}
    if checkpoint.model.observation_spec.is_stacked:
        identity["goals"] = STILL  # a map from before goals were placed so is made anew
    file = maps_directory(checkpoint) / f"{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
    if not file.is_file():
        found = _built(checkpoint, store, planner, distance)
        with reported_as_data_error(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _as_bytes(found, identity, store))
    return open_map(file, identity)


def maps_directory(checkpoint: Checkpoint) -> Path:
    """``landmarks/`` beside the run's latents."""
    return latents_directory(checkpoint).with_name("landmarks")


def open_map(file: Path, identity: dict[str, Any] | None = None) -> LandmarkMap:
    """Read a map; ``DataError`` unless it is whole and, where ``identity`` is given, of it."""
    meta, arrays = _read(file)
    if identity is not None and meta["identity"] != json.loads(json.dumps(identity)):
        raise _damaged(file, f"it is of {meta['identity']}")
    found = LandmarkMap(
        latents=torch.from_numpy(arrays["latents"]),
        std=torch.from_numpy(arrays["std"]),
        **{name: arrays[name] for name in ("rows", "starts", "ends", "env_steps")},
        still=torch.from_numpy(arrays[STILL]) if STILL in arrays else None,
    )
    if found.sha256 != meta["sha256"]:
        raise _damaged(file, "it is not what was written")
    return found


def map_labels(file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of a map's landmarks, float32 [M, s], and their names; none if the data had none."""
    meta, arrays = _read(file)
    return arrays["labels"], tuple(meta["label_names"])


def position_columns(names: tuple[str, ...]) -> tuple[int, int] | None:
    """Which two labels are a place in the plane, such as ``x_m`` and ``y_m`` or ``agent_x_px`` and ``agent_y_px``: the first such pair."""
    for column, name in enumerate(names):
        other = re.sub(r"(^|_)x(?=_|$)", r"\1y", name, count=1)
        if other != name and other in names and "velocity" not in name:
            return column, names.index(other)
    return None


def row_places(store: Store, rows: np.ndarray) -> list[tuple[int, int]]:
    """The episode and env step of rows of the latents."""
    ends = np.cumsum(store.index["length"].astype(np.int64) + 1)
    episodes = np.searchsorted(ends, rows, side="right")
    first = ends[episodes] - store.index["length"][episodes] - 1
    return [(int(episode), int(step)) for episode, step in zip(episodes, rows - first, strict=True)]


def landmark_labels(store: Store, rows: np.ndarray) -> np.ndarray:
    """float32 [M, s]: the labels of rows of the latents; s is 0 for a dataset without any."""
    if not store.label_names:
        return np.zeros((len(rows), 0), np.float32)
    places, episodes = row_places(store, rows), {}
    for episode, _step in places:
        if episode not in episodes:
            episodes[episode] = np.asarray(store.episode(episode).labels, dtype=np.float32)
    return np.stack([episodes[episode][step] for episode, step in places])


def _built(checkpoint: Checkpoint, store: Store, planner: PlannerConfig, distance: Distance | None) -> LandmarkMap:
    """The map of the run's own training episodes; its rows are those of the whole dataset."""
    device = next(checkpoint.model.parameters()).device
    cache = run_latents(checkpoint, store, device=str(device))
    episodes = training_episodes(checkpoint, store)
    rows = cache.rows_of(episodes)
    found = build_map(
        torch.from_numpy(cache.latents[rows].astype(np.float32)),
        cache.length[episodes] + 1,
        num_landmarks=planner.num_landmarks,
        most_env_steps=planner.landmark_edge_env_steps,
        seed=planner.landmark_seed,
        distance=None if distance is None else lambda latents, goals: distance(latents.to(device), goals.to(device)),
        still=None if cache.still is None else torch.from_numpy(cache.still[rows].astype(np.float32)),
    )
    return dataclasses.replace(found, rows=rows[found.rows])


def _as_bytes(found: LandmarkMap, identity: dict[str, Any], store: Store) -> bytes:
    names = ARRAYS if found.still is None else (*ARRAYS, STILL)
    arrays = {name: torch.as_tensor(getattr(found, name)).contiguous() for name in names}
    labels = landmark_labels(store, found.rows)
    meta = {"identity": identity, "sha256": found.sha256, "label_names": list(store.label_names)}
    return bytes(save(arrays | {"labels": torch.from_numpy(labels)}, metadata={"landmarks": json.dumps(meta)}))


def _read(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError), safe_open(file, framework="np") as content:
        meta = json.loads(content.metadata()["landmarks"])
        names = {*ARRAYS, "labels", *({STILL} & set(content.keys()))}
        return {name: meta[name] for name in ("identity", "sha256", "label_names")}, {name: content.get_tensor(name) for name in names}
    raise _damaged(file, "it cannot be read")


def _damaged(file: Path, what: str) -> DataError:
    return DataError(f"the map at {str(file)!r} is damaged: {what}; delete that file, and it is made again")
