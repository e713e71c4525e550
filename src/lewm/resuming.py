"""Going on where a run stopped: what a checkpoint keeps for that, and how it is taken over."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm.checkpoint import list_checkpoints, load_checkpoint, load_trainer, read_description
from lewm.config import Config
from lewm.config_files import to_dict
from lewm.errors import CheckpointError, ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective

OPTIMIZER = "optimizer."
"""Of the names of an optimizer's tensors."""
SHAPING_SECTIONS = ("data", "encoder", "model", "predictor", "objective", "train")
"""Whose settings shape the weights."""
MAY_CHANGE_ON_RESUME = {"device", "num_devices", "num_threads", "log_every_steps", "checkpoint_every_steps", "on_collapse", "use_compile"}
"""Settings of ``train`` that do not."""
Sections = Mapping[str, Mapping[str, Any]]
"""Settings by section and name."""


def trainer_state(
    objective: Objective, optimizer: torch.optim.Optimizer, step: int, looks: list[dict[str, float]], elapsed_s: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint keeps for resuming: tensors of the optimizer and of networks beside the world model, and plain values."""
    tensors = {f"objective.{name}": tensor for name, tensor in objective.state_dict().items() if not name.startswith("world_model.")}
    return tensors | optimizer_tensors(optimizer), {"step": step, "looks": looks, "train_seconds": elapsed_s}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer by name, for a file of tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{OPTIMIZER}{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What ``optimizer.load_state_dict`` takes, from the tensors of ``optimizer_tensors``; others are left alone."""
    restored: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            _, index, key = name.split(".", 2)
            restored.setdefault(int(index), {})[key] = tensor
    return {"state": restored, "param_groups": optimizer.state_dict()["param_groups"]}


def restore(
    out: Path, config: Config, objective: Objective, optimizer: torch.optim.Optimizer, dataset_sha256: str
) -> tuple[int, list[dict[str, float]], float]:
    """Continue from the newest checkpoint, if there is one; settings that shape the weights must not have changed."""
    saved = list_checkpoints(out)
    if not saved:
        return 0, [], 0.0
    checkpoint = load_checkpoint(saved[-1])
    before, asked = ({section: to_dict(each)[section] for section in SHAPING_SECTIONS} for each in (checkpoint.config, config))
    check_same_run(before, asked, {"train": MAY_CHANGE_ON_RESUME}, checkpoint.provenance, dataset_sha256)
    tensors, state = load_trainer(checkpoint.path)
    try:
        _take_over(objective, optimizer, checkpoint.model, tensors)
        return int(state["step"]), list(state["looks"]), float(state["train_seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {str(checkpoint.path)!r} cannot be resumed: its trainer state does not fit ({error})") from error


def check_same_run(
    before: Sections, asked: Sections, may_change: Mapping[str, Collection[str]], provenance: Mapping[str, Any], dataset_sha256: str
) -> None:
    """``ConfigError`` for the first setting that is not as it was when the run was started, but those that ``may_change``, and for other data."""
    for section, values in before.items():
        for key in sorted(values.keys() | asked[section].keys()):
            old, new = values.get(key), asked[section].get(key)
            if old != new and key not in may_change.get(section, ()):
                raise ConfigError(
                    f"--resume with {section}.{key} = {new!r}, but the run was started with {old!r}; keep it, or train to another --out"
                )
    trained_on = provenance.get("dataset_sha256")
    if trained_on != dataset_sha256:
        raise ConfigError(f"--resume with dataset {dataset_sha256[:12]}, but the run was started with {str(trained_on)[:12]}; train to another --out")


def base_of(out: Path) -> dict[str, Any] | None:
    """What an earlier part of a run took over from another one, None if nothing."""
    saved = list_checkpoints(out)
    found = read_description(saved[-1])["provenance"].get("base") if saved else None
    return None if found is None else dict(found)


def _take_over(objective: Objective, optimizer: torch.optim.Optimizer, model: WorldModel, tensors: dict[str, Tensor]) -> None:
    weights = {f"world_model.{name}": tensor for name, tensor in model.state_dict().items()}
    objective.load_state_dict(weights | {name.removeprefix("objective."): t for name, t in tensors.items() if name.startswith("objective.")})
    optimizer.load_state_dict(optimizer_state(optimizer, tensors))
