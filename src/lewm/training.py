"""The training loop, top to bottom: batches in, optimiser steps, metrics, collapse monitor, checkpoints.

A run is a pure function of (configuration, dataset): batch k, its directions and its noise depend on (seed, k) alone, dropout on the process as
well, so an interrupted run that is resumed ends bit for bit where an uninterrupted one does (on a CPU with the same number of threads), and several
processes train what one would but for rounding and dropout.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lewm.checkpoint import checkpoint_path, list_checkpoints, provenance_of, save_checkpoint
from lewm.config import Config
from lewm.config_files import to_toml
from lewm.data.clips import ClipSampler, Prefetcher
from lewm.data.formats.store import Store, open_store
from lewm.data.splits import split_episodes
from lewm.devices import check_device
from lewm.distributed import all_reduce_sum, synchronise_batch_norm
from lewm.errors import DataError, TrainingError
from lewm.evaluation.collapse import judge_training, measure_collapse
from lewm.fine_tuning import check_base, freeze, take_over, to_training
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective
from lewm.registry import OBJECTIVES, PLANNERS
from lewm.resuming import base_of, restore, trainer_state
from lewm.run_directory import MetricsLog, check_run, prepare_run
from lewm.schema import Clip, Observation

logger = logging.getLogger(__name__)

EXPLODED_LOSS = 1e6
DROPOUT_STREAM = 2**32
"""Of the random streams of a step: far from those of the rows' pixel noise."""
NUM_MONITOR_CLIPS = 128


class Progress(Protocol):
    """Somebody who watches a run: the command line's progress bar, a notebook, a test."""

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        """Called when metrics are logged."""

    def message(self, text: str) -> None:
        """Called when something happens that a person should know at once."""

    def close(self) -> None:
        """Called when the run ends, however it ends."""


def train(
    config: Config,
    *,
    data: Path | str,
    out: Path | str,
    base: Path | str | None = None,
    resume: bool = False,
    command: str = "",
    progress: Callable[[], Progress] | None = None,
) -> Path:
    """Train a world model on the episodes at ``data`` and write a run directory to ``out``, which is returned.

    ``base`` is a run or checkpoint whose weights training starts from (``fine_tuning.py``). Such a run has a checkpoint of step 0, so that it is
    resumed without the base, and can be measured as it began.
    ``progress`` makes the watcher (in the process that reports, hence a factory). Errors: ``ConfigError`` if ``out`` exists without ``resume`` or
    the configuration does not fit the data, ``DeviceError``, ``DataError``, ``TrainingError`` when the loss is not finite or on a collapse that
    should stop the run.
    """
    check_device(config.train.device, config.train.num_devices)
    options = config.train
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    is_launched_outside = "LOCAL_RANK" in os.environ  # torchrun or fabric run started the processes
    strategy = "auto" if options.num_devices == 1 else ("ddp" if is_launched_outside else "ddp_spawn")
    fabric = Fabric(accelerator=options.device, devices=options.num_devices, strategy=strategy, precision=options.precision)
    if not is_launched_outside:
        check_run(Path(out), resume=resume)  # before the work of opening the data
    check_base(config, base, Path(out) if resume else None)
    # Bound as a partial, because Fabric refuses frozen dataclasses among the arguments that it passes to new processes.
    settings: dict[str, Any] = {
        "data": Path(data),
        "base": None if base is None or resume else Path(base),
        "out": Path(out),
        "resume": resume,
        "command": command,
    }
    fabric.launch(functools.partial(_train_on_rank, config=config, make_progress=progress, **settings))
    return Path(out)


class _Closed:
    """A clip that Fabric does not look into: it cannot rebuild frozen dataclasses, and the clip is on its device already."""

    def __init__(self, clip: Clip[Tensor]) -> None:
        self.clip = clip


class _Opened(nn.Module):
    """The objective as Fabric calls it."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, closed: _Closed, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = self.objective(closed.clip, step)
        return loss, terms


def dry_run(config: Config, *, data: Path | str, base: Path | str | None = None) -> None:
    """Everything that a run checks before its first step: device, dataset, clip length, model and frame size. Raises what ``train`` would."""
    check_device(config.train.device, config.train.num_devices)
    check_base(config, base)
    store = open_store(data)
    train_ids, validation_ids = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)
    _monitor_clip(store, _windows(config), validation_ids, train_ids)
    build_objective(config, store, train_ids, base=base)


def learning_rate(config: Config, step: int) -> float:
    """Linear warm-up, then a cosine to zero over the schedule, as a pure function of the step."""
    length = config.train.schedule_num_steps or config.train.num_steps
    warmup = max(1, round(config.train.warmup_fraction * length))
    if step < warmup:
        return config.train.learning_rate * (step + 1) / warmup
    return config.train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, length - warmup)))


def build_objective(
    config: Config, store: Store, train_ids: np.ndarray, reduce: Callable[[Tensor], Tensor] | None = None, base: Path | str | None = None
) -> tuple[Objective, dict[str, Any] | None]:
    """The objective with a world model that fits the data, and what it took over from ``base``.

    Without a base the model is freshly initialised, its action statistics taken from the training episodes.
    """
    PLANNERS.entry(config.planner.name)  # an unknown planner is better known now than after training
    torch.manual_seed(config.train.seed)
    observation_spec = dataclasses.replace(store.observation_spec, stack_offsets_env_steps=config.data.stack_offsets_env_steps)
    model = WorldModel(config, observation_spec, store.action_spec)
    if store.action_spec.kind == "continuous":
        mean, std = store.action_statistics(train_ids)
        model.set_action_statistics(mean, std)
    origin = None if base is None else take_over(model, config, base)
    objective: Objective = OBJECTIVES.load(config.objective.name)(config, model, seed=config.train.seed, reduce=reduce)
    freeze(objective)
    there = {"frames", "blocks"} | {name for name in ("rewards", "labels", "proprioception") if name in store.meta.columns}
    missing = set(objective.clip_columns) - there
    if missing:
        raise DataError(f"objective {config.objective.name!r} needs {', '.join(sorted(missing))}, which dataset {str(store.path)!r} does not have")
    return objective, origin


def _train_on_rank(
    fabric: Fabric,
    config: Config,
    data: Path,
    base: Path | None,
    out: Path,
    resume: bool,
    command: str,
    make_progress: Callable[[], Progress] | None,
) -> None:
    store = open_store(data)
    train_ids, validation_ids = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)
    sampler = _training_sampler(config, store, train_ids, fabric)
    monitor_clip = _monitor_clip(store, _windows(config), validation_ids, train_ids).map(lambda tensor: tensor.to(fabric.device))
    run = _Run(fabric, config, store, train_ids, base=base, out=out, resume=resume, command=command)
    if base is not None:
        run.save(0)  # before the run has a configuration: one that can be resumed has its base's weights
    if fabric.is_global_zero:
        prepare_run(out, to_toml(config), resume=resume)  # only now: a run that is refused leaves nothing behind
    run.report(make_progress)
    num_steps, options = config.train.num_steps, config.train
    with contextlib.closing(run), Prefetcher(sampler, run.start_step, num_batches=config.data.num_prefetched_batches) as batches:
        to_training(run.objective)
        for step in range(run.start_step, num_steps):
            is_last = step + 1 == num_steps
            is_logging = step % options.log_every_steps == 0 or is_last
            is_saving = (step + 1) % options.checkpoint_every_steps == 0 or is_last
            clip = next(batches).map(lambda array: torch.from_numpy(array).to(fabric.device, non_blocking=True))
            clip = add_pixel_noise(clip, options.pixel_noise_std, options.seed, step, sampler.first_row)
            values = run.optimise(clip, step, is_checked=is_logging or is_saving)
            if is_logging:
                run.log(step, values)
            if (step + 1) % options.monitor_every_steps == 0 or is_last:
                run.look(monitor_clip, step)
            if is_saving:
                run.save(step + 1)
    fabric.barrier()


class _Run:
    """A run on one process: the objective with its optimizer, and what is written down about it."""

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        store: Store,
        train_ids: np.ndarray,
        *,
        base: Path | None,
        out: Path,
        resume: bool,
        command: str,
    ) -> None:
        self.fabric, self.config, self.store, self.out = fabric, config, store, out
        is_parallel, options = fabric.world_size > 1, config.train
        self.objective, origin = build_objective(config, store, train_ids, all_reduce_sum if is_parallel else None, base)
        if is_parallel:
            synchronise_batch_norm(self.objective)
        self.objective.to(fabric.device)  # before the optimizer, whose restored state goes where its parameters are
        self.model = self.objective.world_model
        trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        self.start_step, self.looks, self._seconds_before = (
            restore(out, config, self.objective, optimizer, store.dataset_sha256) if resume else (0, [], 0.0)
        )
        if options.use_compile:
            for network in (self.model.encoder, self.model.predictor):
                network.compile()
        self._wrapped, self.optimizer = fabric.setup(_Opened(self.objective), optimizer)
        origin = origin or base_of(out)
        self._provenance = ({} if origin is None else {"base": origin}) | provenance_of(store, command, options.device)
        self._start_s, self._last_verdict = time.monotonic(), ""
        self._metrics: MetricsLog | None = None
        self._progress: Progress | None = None

    def report(self, make_progress: Callable[[], Progress] | None) -> None:
        """From now on write metrics and show progress, on the first process."""
        if self.fabric.is_global_zero:
            self._progress = make_progress() if make_progress else None
            self._metrics = MetricsLog(self.out, first_step=self.start_step)

    def close(self) -> None:
        """Show no more progress."""
        if self._progress is not None:
            self._progress.close()

    def optimise(self, clip: Clip[Tensor], step: int, *, is_checked: bool) -> dict[str, Any]:
        """One step of the optimizer; what it saw, by name. ``TrainingError`` for a loss that is not finite, where it is checked (always on a CPU)."""
        options = self.config.train
        torch.manual_seed(_step_seed(options.seed, step, DROPOUT_STREAM + self.fabric.global_rank))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        loss, terms = self._wrapped(_Closed(clip), step)
        self.fabric.backward(loss)
        gradient_norm = self.fabric.clip_gradients(self._wrapped, self.optimizer, max_norm=options.gradient_clip, error_if_nonfinite=False)
        assert gradient_norm is not None  # clipping by norm returns it
        if is_checked or self.fabric.device.type == "cpu":  # elsewhere, reading the loss waits for the device
            _check_finite(float(loss.detach()), float(gradient_norm), step, self.out)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step()
        return {"loss": loss.detach(), **terms, "gradient_norm": gradient_norm}

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write down what ``optimise`` saw."""
        if self._metrics is None:
            return
        options = self.config.train
        entry = {name: float(value) for name, value in values.items()} | {"learning_rate": learning_rate(self.config, step)}
        entry |= {"weight_times_batch": self.config.objective.weight * options.batch_size, "seconds": round(self._elapsed_s(), 3)}
        self._metrics.write(step, entry)
        if self._progress is not None:
            self._progress.update(step + 1, options.num_steps, entry)

    def look(self, clip: Clip[Tensor], step: int) -> None:
        """Look at the latents of a clip for signs of collapse; ``TrainingError`` if that is an alarm and the settings say to stop at one."""
        _check_weights(self.objective, step, self.out)
        self.looks.append(_look(self.model, self.objective, clip, step))
        verdict = judge_training(self.looks, num_steps=self.config.train.num_steps)
        if self._metrics is not None:
            self._metrics.write(step, {"monitor": self.looks[-1] | {"verdict": verdict.name, "reasons": list(verdict.reasons)}})
        if verdict.is_alarm and self.config.train.on_collapse == "stop":
            self.save(step + 1)
            raise TrainingError(f"step {step}: {verdict.text}. Raise objective.weight, or use --on-collapse warn to go on all the same")
        if verdict.is_alarm and self._progress is not None and verdict.name != self._last_verdict:
            self._progress.message(f"step {step}: {verdict.text}")
        self._last_verdict = verdict.name

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, on the first process."""
        _check_weights(self.objective, step - 1, self.out)
        if not self.fabric.is_global_zero:
            return
        elapsed_s = self._elapsed_s()
        tensors, state = trainer_state(self.objective, self.optimizer, step, self.looks, elapsed_s)
        save_checkpoint(
            checkpoint_path(self.out, step),
            self.model,
            self.config,
            step=step,
            env=self.store.env,
            provenance=self._provenance | {"train_seconds": round(elapsed_s, 1)},
            trainer_tensors=tensors,
            trainer_state=state,
        )

    def _elapsed_s(self) -> float:
        return self._seconds_before + time.monotonic() - self._start_s


def add_pixel_noise(clip: Clip[Tensor], std: float, seed: int, step: int, first_row: int = 0) -> Clip[Tensor]:
    """The clip with Gaussian noise on its frames (std as a share of 0..1), a function of (seed, step, row in the global batch)."""
    if std == 0:
        return clip
    frames = clip.observations.frames
    noisy = torch.empty_like(frames)
    for row in range(len(frames)):
        generator = torch.Generator(frames.device).manual_seed(_step_seed(seed, step, 1 + first_row + row))
        noise = torch.randn(frames.shape[1:], generator=generator, device=frames.device).mul_(255 * std)
        noisy[row] = noise.add_(frames[row]).round_().clamp_(0, 255).to(torch.uint8)
    return Clip(Observation(noisy, clip.observations.proprioception), clip.blocks, clip.rewards, clip.labels, clip.episode, clip.start_env_step)


def _windows(config: Config) -> dict[str, Any]:
    names = ("num_transitions", "action_block", "stack_offsets_env_steps")
    return {name: getattr(config.data, name) for name in names}


def _training_sampler(config: Config, store: Store, train_ids: np.ndarray, fabric: Fabric) -> ClipSampler:
    """Cuts the slice of every batch that belongs to this process."""
    return ClipSampler(
        store,
        **_windows(config),
        episode_ids=train_ids,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        clips_per_episode=config.data.clips_per_episode,
        clips_per_env_step=config.data.clips_per_env_step,
        group_span_env_steps=config.data.group_span_env_steps,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


def _monitor_clip(store: Store, windows: dict[str, Any], validation_ids: np.ndarray, train_ids: np.ndarray) -> Clip[Tensor]:
    """A fixed batch of held-out clips."""
    if len(validation_ids) == 0:
        logger.warning(
            "no episode is held out (data.validation_fraction is 0 or there are few episodes): the collapse monitor looks at training clips"
        )
    ids = validation_ids if len(validation_ids) else train_ids
    sampler = ClipSampler(store, **windows, episode_ids=ids, batch_size=NUM_MONITOR_CLIPS, seed=0)
    return sampler.batch(0).map(torch.from_numpy)


@torch.no_grad()
def _look(model: WorldModel, objective: Objective, clip: Clip[Tensor], step: int) -> dict[str, float]:
    """One look of the collapse monitor at held-out clips, in evaluation mode."""
    objective.eval()
    try:
        return {"step": step} | measure_collapse(model, clip)
    finally:
        to_training(objective)


def _check_finite(loss: float, gradient_norm: float, step: int, out: Path) -> None:
    if math.isfinite(loss) and loss < EXPLODED_LOSS and math.isfinite(gradient_norm):
        return
    saved = list_checkpoints(out)
    last_good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was written yet"
    advice = "lower train.learning_rate or train.gradient_clip, or check the data with `lewm info DIR --verify`"
    raise TrainingError(f"the loss is {loss:g} at step {step} (gradient norm {gradient_norm:g}); {last_good}; {advice}")


def _check_weights(objective: Objective, step: int, out: Path) -> None:
    """A last update may have ruined the weights although the loss before it was finite: they must not be saved as good ones."""
    if not all(bool(parameter.isfinite().all()) for parameter in objective.parameters()):
        _check_finite(math.nan, math.nan, step, out)


def _step_seed(seed: int, step: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
