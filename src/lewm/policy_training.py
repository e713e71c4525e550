"""Training a policy offline on the data of a world model, with an encoder of the same size: `lewm train --policy NAME`.

A run is a pure function of (configuration, settings, dataset): batch k depends on (seed, k) alone, so one that is resumed ends bit for bit where an
uninterrupted one does (on a CPU with the same number of threads).
"""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.checkpoint import checkpoint_path, list_checkpoints, load_trainer, provenance_of
from lewm.config import Config
from lewm.config_files import sections_to_toml
from lewm.data.formats.store import Store, open_store
from lewm.data.splits import split_episodes
from lewm.devices import check_device
from lewm.errors import CheckpointError, ConfigError, TrainingError
from lewm.head_fitting import schedule
from lewm.learned_policies.checkpoints import build_policy, declared, kept_config, load_policy_checkpoint, save_policy
from lewm.learned_policies.goals import GoalSampler
from lewm.learned_policies.networks import LearnedPolicy
from lewm.policy_config import POLICY_CONFIGS, PolicyConfig
from lewm.registry import LEARNERS
from lewm.resuming import check_same_run, optimizer_state, optimizer_tensors
from lewm.run_directory import MetricsLog, check_run, prepare_run
from lewm.training import Progress

MAY_CHANGE_ON_RESUME = {"device", "num_threads", "log_every_steps", "checkpoint_every_steps"}


@dataclass(kw_only=True)
class _Training:
    """A policy while it learns."""

    name: str
    policy: LearnedPolicy
    optimizer: torch.optim.Optimizer
    config: Config
    settings: PolicyConfig
    out: Path
    about: dict[str, Any]
    """``env`` and ``provenance`` of its checkpoints."""
    step: int = 0
    seconds_before: float = 0.0
    """Spent before it was resumed."""
    start_s: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return self.seconds_before + time.monotonic() - self.start_s


def train_policy(
    name: str,
    config: Config,
    settings: PolicyConfig | None = None,
    *,
    data: Path | str,
    out: Path | str,
    resume: bool = False,
    command: str = "",
    progress: Callable[[], Progress] | None = None,
) -> Path:
    """Train the policy called ``name`` on the training episodes of ``data`` and write the run directory ``out``, which is returned.

    Of ``config``, a world model's, three sections count: ``data`` (stack, action block, held-out episodes), ``encoder`` and ``model`` (latent,
    projector), so that a policy and a world model of one preset look at the same frames with the same network. Errors: ``ConfigError``, ``DataError``
    for data without actions or with too short episodes, ``TrainingError`` when the loss is not finite.
    """
    LEARNERS.entry(name)
    settings = settings or POLICY_CONFIGS[name]()
    out = Path(out)
    check_device(settings.device)
    check_run(out, resume=resume)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    store = open_store(data)
    train_ids, _ = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)
    policy, sampler = _begin(name, config, settings, store, train_ids)
    optimizer = torch.optim.AdamW(_trained(policy), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    about = {"env": store.env, "provenance": provenance_of(store, command, settings.device)}
    training = _Training(name=name, policy=policy, optimizer=optimizer, config=config, settings=settings, out=out, about=about)
    if resume:
        _restore(training)
    prepare_run(out, sections_to_toml(_sections(training.config, name, settings)), resume=resume)
    watcher = progress() if progress else None
    try:
        _fit(training, sampler, watcher)
    finally:
        if watcher is not None:
            watcher.close()
    return out


def _begin(name: str, config: Config, settings: PolicyConfig, store: Store, train_ids: np.ndarray) -> tuple[LearnedPolicy, GoalSampler]:
    """A fresh policy that fits the data, on its device, and what it learns from."""
    offsets, block = config.data.stack_offsets_env_steps, settings.action_block or config.data.action_block
    goals, value_goals = LEARNERS.load(name).mixtures(settings, block)
    sampler = GoalSampler(
        store,
        episode_ids=train_ids,
        action_block=block,
        stack_offsets_env_steps=offsets,
        batch_size=settings.batch_size,
        seed=settings.seed,
        goals=goals,
        value_goals=value_goals,
    )
    torch.manual_seed(settings.seed)
    spec = dataclasses.replace(store.observation_spec, stack_offsets_env_steps=offsets)
    policy = build_policy(name, config, settings, spec, store.action_spec)
    if store.action_spec.kind == "continuous":
        policy.set_action_statistics(*store.action_statistics(train_ids))
    return policy.to(settings.device), sampler


def _fit(training: _Training, sampler: GoalSampler, progress: Progress | None) -> None:
    settings, policy, optimizer = training.settings, training.policy, training.optimizer
    metrics = MetricsLog(training.out, first_step=training.step)
    policy.train()
    for step in range(training.step, settings.num_steps):
        batch = sampler.batch(step).map(lambda array: torch.from_numpy(array).to(settings.device))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(step, settings.num_steps)
        loss, terms = policy.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(_trained(policy), settings.gradient_clip)
        is_last = step + 1 == settings.num_steps
        is_logging, is_saving = step % settings.log_every_steps == 0 or is_last, (step + 1) % settings.checkpoint_every_steps == 0 or is_last
        if is_logging or is_saving or settings.device == "cpu":  # elsewhere, reading the loss waits for the device
            _check_finite(training, float(loss.detach()), float(norm), step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        policy.after_step()
        training.step = step + 1
        if is_logging:
            values = {"loss": float(loss.detach())} | {name: float(value) for name, value in terms.items()}
            values |= {"gradient_norm": float(norm), "seconds": round(training.elapsed_s, 3)}
            metrics.write(step, values)
            if progress is not None:
                progress.update(step + 1, settings.num_steps, values)
        if is_saving:
            _save(training)


def _trained(policy: LearnedPolicy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def _check_finite(training: _Training, loss: float, norm: float, step: int) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    saved = list_checkpoints(training.out)
    last_good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was written yet"
    raise TrainingError(
        f"the loss is {loss:g} at step {step} (gradient norm {norm:g}); {last_good}; lower {training.name}.learning_rate or "
        f"{training.name}.gradient_clip, or check the data with `lewm info DIR --verify`"
    )


def _save(training: _Training) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in training.policy.state_dict().values() if tensor.is_floating_point()):
        _check_finite(training, math.nan, math.nan, training.step - 1)  # the last update ruined the weights although its loss was finite
    elapsed_s = training.elapsed_s
    save_policy(
        checkpoint_path(training.out, training.step),
        training.name,
        training.policy,
        training.config,
        training.settings,
        step=training.step,
        env=training.about["env"],
        provenance=training.about["provenance"] | {"train_seconds": round(elapsed_s, 1)},
        trainer_tensors=optimizer_tensors(training.optimizer),
        trainer_state={"step": training.step, "train_seconds": elapsed_s},
    )


def _restore(training: _Training) -> None:
    """Continue from the newest checkpoint, if there is one; the policy, its settings and its data must be as they were."""
    saved = list_checkpoints(training.out)
    if not saved:
        return
    checkpoint = load_policy_checkpoint(saved[-1])
    name = training.name
    if checkpoint.name != name:
        raise ConfigError(f"--resume --policy {name}, but the run is one of {checkpoint.name}; keep it, or train to another --out")
    before, asked = (_sections(each.config, name, each.settings) for each in (checkpoint, training))
    check_same_run(before, asked, {name: MAY_CHANGE_ON_RESUME}, checkpoint.provenance, training.about["provenance"]["dataset_sha256"])
    tensors, state = load_trainer(saved[-1])
    try:
        training.policy.load_state_dict(checkpoint.model.state_dict())
        training.optimizer.load_state_dict(optimizer_state(training.optimizer, tensors))
        training.step, training.seconds_before = int(state["step"]), float(state["train_seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {str(saved[-1])!r} cannot be resumed: its trainer state does not fit ({error})") from error


def _sections(config: Config, name: str, settings: PolicyConfig) -> dict[str, dict[str, Any]]:
    """The settings of a run; those of the policy in a section of its name."""
    return kept_config(config) | {name: declared(settings)}
