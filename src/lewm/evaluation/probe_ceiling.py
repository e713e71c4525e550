"""The ceiling of a probe: the run's own networks with new weights, trained for nothing but to tell the labels.

Axes: n frame, s label.
"""

from collections.abc import Callable

import numpy as np

from lewm.config import Config
from lewm.data.formats.store import Store
from lewm.errors import DataError
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.evaluation.probe_labels import ProbedLabels
from lewm.evaluation.supervised import SupervisedRegression, train_regression
from lewm.models.world_model import WorldModel
from lewm.seeds import hash64

VALIDATION_FRACTION = 0.1
"""Share of the training episodes whose loss decides which weights are kept; at least one."""


def train_ceiling(
    model: WorldModel,
    store: Store,
    train_ids: np.ndarray,
    probed: ProbedLabels,
    *,
    config: Config,
    num_steps: int,
    seed: int,
    progress: Callable[[str], None] | None,
) -> SupervisedRegression:
    """Train on every frame of the training episodes, but those of a tenth of them; ``DataError`` for a single training episode."""
    if len(train_ids) < 2:
        raise DataError("a supervised ceiling needs two training episodes, one of them to stop at the best weights; got 1: collect more")
    shuffled = train_ids[np.argsort(hash64(train_ids, seed), kind="stable")]
    num_validation = max(1, round(VALIDATION_FRACTION * len(train_ids)))
    frames = LabelledFrames(
        store, {int(number): int(store.index["length"][number]) + 1 for number in train_ids}, model.observation_spec.stack_offsets_env_steps
    )
    labels = probed.read(frames.labels()[:, None], frames.episode)[:, 0]  # n 1 s -> n s
    is_validation = np.isin(frames.episode, shuffled[:num_validation])
    training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    return train_regression(
        model,
        frames,
        training,
        labels[training],
        validation,
        labels[validation],
        config=config,
        num_steps=num_steps,
        seed=seed,
        progress=progress,
    )
