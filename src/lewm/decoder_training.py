"""Training a decoder on the frozen latents of a run: `lewm train --from RUN --stage decoder`.

The world model is in evaluation mode and gets no gradient: the new checkpoint holds its weights bit for bit, and the decoder beside them. A stage
takes minutes and is a pure function of (settings, base, dataset); one that was stopped is started again.

Axes: B clip, T time in a clip (two), D latent, V view, Y X image.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config_files import to_toml
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.data.splits import split_episodes
from lewm.evaluation.label_goals import matching_store
from lewm.head_config import DecoderConfig
from lewm.head_fitting import fit_head, save_with_head
from lewm.models.decoder import LatentDecoder
from lewm.models.heads import Head, build_head
from lewm.run_directory import MetricsLog, check_run, prepare_run
from lewm.schema import Observation
from lewm.training import Progress

NUM_MEAN_BATCHES = 8
"""The mean frame that the decoder draws upon at first is that of so many batches."""


def train_decoder(
    settings: DecoderConfig,
    *,
    base: Path | str,
    data: Path | str,
    out: Path | str,
    command: str = "",
    progress: Callable[[], Progress] | None = None,
) -> Path:
    """Train a decoder of the latents of the run or checkpoint ``base`` on the training episodes of ``data``; writes and returns the run ``out``.

    Another head of the base is kept, an older decoder replaced. ``DataError`` if the frames are not of the kind that the base was trained on.
    """
    out = Path(out)
    check_run(out, resume=False)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    checkpoint = load_checkpoint(base, settings.device)
    store = matching_store(checkpoint, data)
    sampler = _sampler(checkpoint, store, settings)
    head = _fresh_decoder(checkpoint, settings, sampler)
    prepare_run(out, to_toml(checkpoint.config), resume=False)
    start_s = time.monotonic()

    def loss_at(step: int) -> Tensor:
        clip = sampler.batch(step).map(lambda array: torch.from_numpy(array).to(settings.device))
        return reconstruction_loss(head, checkpoint, clip.observations)

    fit_head(head, loss_at, MetricsLog(out, first_step=0), progress() if progress else None, describe=_describe)
    origin = {"dataset_sha256": store.dataset_sha256, "command": command, "train_seconds": round(time.monotonic() - start_s, 1)}
    save_with_head(out, checkpoint, head, origin)
    return out


def reconstruction_loss(head: Head, checkpoint: Checkpoint, observations: Observation[Tensor]) -> Tensor:
    """Mean squared error of the decoded frames, 0 to 1; its gradient ends at the latents."""
    with torch.no_grad():
        latents = checkpoint.model.encode(observations)
    drawn: Tensor = head.network(latents.float())
    return (drawn - observations.frames.float() / 255).square().mean()


def _fresh_decoder(checkpoint: Checkpoint, settings: DecoderConfig, sampler: ClipSampler) -> Head:
    """A decoder that draws upon the mean frame of some training batches."""
    torch.manual_seed(settings.seed)
    head = build_head(settings.NAME, settings, checkpoint.model)
    assert isinstance(head.network, LatentDecoder)
    assert head.network.background is not None
    means = [sampler.batch(step).observations.frames.mean((0, 1), dtype=np.float64) for step in range(NUM_MEAN_BATCHES)]  # B T V Y X 3
    with torch.no_grad():
        head.network.background.copy_(torch.from_numpy(np.mean(means, axis=0) / 255))
    head.network.to(settings.device)
    return head


def _sampler(checkpoint: Checkpoint, store: Store, settings: DecoderConfig) -> ClipSampler:
    data = checkpoint.config.data
    train_ids, _ = split_episodes(store.episode_ids, data.validation_fraction, data.split_seed)
    return ClipSampler(
        store,
        num_transitions=1,
        action_block=checkpoint.model.action_block,
        stack_offsets_env_steps=checkpoint.model.observation_spec.stack_offsets_env_steps,
        episode_ids=train_ids,
        batch_size=settings.batch_size // 2,
        seed=settings.seed,
    )


def _describe(loss: float) -> dict[str, float]:
    return {"reconstruction_loss": loss, "psnr_db": -10 * math.log10(max(loss, 1e-12))}
