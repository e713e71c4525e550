"""The latents of a dataset as a run sees them, kept in the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lewm.checkpoint import Checkpoint
from lewm.data.formats.store import Store
from lewm.data.latents import LatentCache, latent_cache
from lewm.data.splits import split_episodes
from lewm.errors import ConfigError, DataError
from lewm.evaluation.label_goals import matching_store


def run_latents(
    checkpoint: Checkpoint, store: Store, parent: Path | None = None, *, device: str = "cpu", progress: Callable[[int, int], None] | None = None
) -> LatentCache:
    """The cache for a checkpoint and a dataset below ``parent`` (default: ``latents/`` in the run), built if need be; ``progress`` is told rows."""
    parent = latents_directory(checkpoint) if parent is None else parent
    return latent_cache(checkpoint.model, store, parent, checkpoint_sha256=checkpoint.sha256, device=device, progress=progress)


def latents_directory(checkpoint: Checkpoint) -> Path:
    """``latents/`` in the checkpoint's run; beside a checkpoint that is in none."""
    above = checkpoint.path.parent
    return (above.parent if above.name == "checkpoints" else above) / "latents"


def training_episodes(checkpoint: Checkpoint, store: Store) -> np.ndarray:
    """Ids of the episodes that the run's own split has in training, int64."""
    data = checkpoint.config.data
    return split_episodes(store.episode_ids, data.validation_fraction, data.split_seed)[0]


def training_set(checkpoint: Checkpoint, data: Path | str | None, purpose: str) -> Store:
    """The dataset that the run was trained on; ``ConfigError`` if none is given, ``DataError`` if it is another: ``purpose`` says who needs it.

    The run's split of another dataset would not be its training episodes, and goals could be among what is looked up.
    """
    if data is None:
        raise ConfigError(f"{purpose} of the training data: give --data DIR (the training set)")
    store, trained_on = matching_store(checkpoint, data), checkpoint.provenance.get("dataset_sha256")
    if store.dataset_sha256 != trained_on:
        raise DataError(
            f"dataset {str(data)!r} has SHA-256 {store.dataset_sha256[:12]}, the run was trained on {str(trained_on)[:12]}: {purpose} "
            "of the run's own training episodes, so give that dataset"
        )
    return store
