"""Checkpoints of learned policies: the same directory and rules as a world model's, another content, told apart by ``policy`` in ``config.json``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lewm.checkpoint import FORMAT, POLICY_KEY, check_shapes, checkpoint_sha256, find_checkpoint, read_description, with_tuples, write_checkpoint
from lewm.config import Config
from lewm.config_files import from_dict, settings_from_dict, to_dict
from lewm.devices import check_device
from lewm.errors import CheckpointError, ConfigError, LewmError
from lewm.learned_policies.networks import LearnedPolicy
from lewm.policy_config import POLICY_CONFIGS, PolicyConfig
from lewm.registry import LEARNERS
from lewm.schema import ActionSpec, ObservationSpec

CONFIG_SECTIONS = ("data", "encoder", "model")
"""What a policy has of a run's configuration: which frames, and the encoder."""
UNREAD_DATA_SETTINGS = ("clips_per_episode", "clips_per_env_step", "group_span_env_steps")
"""Settings of world models' batches."""


@dataclass(frozen=True, kw_only=True)
class PolicyCheckpoint:
    """A learned policy with everything that is needed to use it."""

    name: str
    """``gcbc``, ``gciql``."""
    model: LearnedPolicy
    config: Config
    settings: PolicyConfig
    step: int
    env: dict[str, Any]
    """The world that the data came from; empty for data without a simulator."""
    provenance: dict[str, Any]
    path: Path
    sha256: str

    def describe(self) -> dict[str, Any]:
        """What a result says of who acted."""
        return {"policy": self.name, "policy_options": declared(self.settings) | {"action_block": self.model.action_block}}


def kept_config(config: Config) -> dict[str, dict[str, Any]]:
    """The sections of a configuration that a policy's run keeps, without what it does not read, which could contradict a default."""
    sections = {section: dict(to_dict(config)[section]) for section in CONFIG_SECTIONS}
    for name in UNREAD_DATA_SETTINGS:
        sections["data"].pop(name, None)
    return sections


def build_policy(name: str, config: Config, settings: PolicyConfig, observation_spec: ObservationSpec, action_spec: ActionSpec) -> LearnedPolicy:
    """A freshly initialised policy; ``ConfigError`` if its settings are another's."""
    policy_class: type[LearnedPolicy] = LEARNERS.load(name)
    if not isinstance(settings, POLICY_CONFIGS[name]):
        raise ConfigError(f"policy {name!r} is set by {POLICY_CONFIGS[name].__name__}, got {type(settings).__name__}")
    return policy_class(config, settings, observation_spec, action_spec)


def declared(settings: PolicyConfig) -> dict[str, Any]:
    """Settings as plain values, None left out."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}


def save_policy(
    path: Path,
    name: str,
    model: LearnedPolicy,
    config: Config,
    settings: PolicyConfig,
    *,
    step: int,
    env: dict[str, Any],
    provenance: dict[str, Any],
    trainer_tensors: dict[str, Tensor],
    trainer_state: dict[str, Any],
) -> Path:
    """Write a policy's checkpoint, with what resuming needs."""
    description = {
        "format": FORMAT,
        POLICY_KEY: {"name": name, "settings": declared(settings)},
        "step": step,
        "config": kept_config(config),
        "observation_spec": dataclasses.asdict(model.observation_spec),
        "action_spec": dataclasses.asdict(model.action_spec),
        "env": env,
        "provenance": provenance,
    }
    return write_checkpoint(path, description, model.state_dict(), trainer_tensors, trainer_state)


def is_policy(path: Path | str) -> bool:
    """Whether a run or checkpoint is a learned policy's; ``CheckpointError`` if it is none at all."""
    return POLICY_KEY in read_description(find_checkpoint(Path(path)))


def load_policy_checkpoint(path: Path | str, device: str = "cpu") -> PolicyCheckpoint:
    """Load the policy of a run (its newest checkpoint) or checkpoint; ``CheckpointError`` says what is missing, damaged or not understood."""
    check_device(device)
    directory = find_checkpoint(Path(path))
    description = read_description(directory)
    if POLICY_KEY not in description:
        raise CheckpointError(f"{str(directory)!r} holds a world model, not a learned policy; `lewm train --policy gcbc` makes one")
    try:
        name, values = str(description[POLICY_KEY]["name"]), dict(description[POLICY_KEY]["settings"])
        LEARNERS.entry(name)
        settings = settings_from_dict(POLICY_CONFIGS[name](), values, name)
        config = from_dict(description["config"])
        specs = ObservationSpec(**with_tuples(description["observation_spec"])), ActionSpec(**with_tuples(description["action_spec"]))
        step, env, provenance = int(description["step"]), dict(description["env"]), dict(description["provenance"])
    except LewmError as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} has a configuration that this version cannot use: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} has an incomplete or malformed config.json: {error!r}") from error
    weights = directory / "model.safetensors"
    try:
        with torch.device("meta"):  # shapes first: a wrong configuration must not allocate anything
            shapes = build_policy(name, config, settings, *specs).state_dict()
    except (LewmError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} describes a policy that cannot be built: {error}") from error
    check_shapes(weights, {tensor_name: tuple(tensor.shape) for tensor_name, tensor in shapes.items()})
    model = build_policy(name, config, settings, *specs)
    model.load_state_dict(load_file(weights))
    return PolicyCheckpoint(
        name=name,
        model=model.to(device).eval(),
        config=config,
        settings=settings,
        step=step,
        env=env,
        provenance=provenance,
        path=directory,
        sha256=checkpoint_sha256(directory),
    )
