"""Checkpoints: data, never code. A directory with ``config.json`` and ``model.safetensors``, and for resuming ``trainer.*``.

A checkpoint is complete: configuration, observation and action spec, action and pixel statistics (buffers), environment, provenance. Loading one
looks names up in lewm's own tables and checks every tensor's shape before it is read.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lewm.config import Config
from lewm.config_files import from_dict, to_dict
from lewm.data.durable import directory_written_atomically
from lewm.data.formats.store import Store
from lewm.devices import check_device
from lewm.errors import CheckpointError, DataError, LewmError
from lewm.models.heads import PREFIX, Head, build_heads, declare_heads, head_tensors, load_head_tensors
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, ObservationSpec
from lewm.versions import hardware, versions

FORMAT = 1
_PREFIX = "step-"
POLICY_KEY = "policy"
"""In ``config.json``: the checkpoint is a learned policy's (``lewm.learned_policies``), not a world model's."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A world model with everything that is needed to use it."""

    model: WorldModel
    config: Config
    step: int
    env: dict[str, Any]
    """The world that the data came from: name, version, options; empty for data without a simulator."""
    provenance: dict[str, Any]
    """What the weights came from: dataset hash, command, versions, hardware."""
    path: Path
    sha256: str
    """Hash of ``config.json`` and ``model.safetensors``."""
    heads: dict[str, Head] = field(default_factory=dict)
    """Networks that were trained on its frozen latents, such as ``decoder``."""

    @property
    def head_networks(self) -> dict[str, nn.Module]:
        """The networks alone, by name."""
        return {name: head.network for name, head in self.heads.items()}


def save_checkpoint(
    path: Path,
    model: WorldModel,
    config: Config,
    *,
    step: int,
    env: dict[str, Any],
    provenance: dict[str, Any],
    heads: Mapping[str, Head] | None = None,
    trainer_tensors: dict[str, Tensor] | None = None,
    trainer_state: dict[str, Any] | None = None,
) -> Path:
    """Write a world model's checkpoint; ``trainer_tensors`` and ``trainer_state`` are what resuming needs."""
    description = {
        "format": FORMAT,
        "step": step,
        "config": to_dict(config),
        "observation_spec": dataclasses.asdict(model.observation_spec),
        "action_spec": dataclasses.asdict(model.action_spec),
        "env": env,
        "provenance": provenance,
    } | ({"heads": declare_heads(heads)} if heads else {})
    return write_checkpoint(path, description, model.state_dict() | head_tensors(heads or {}), trainer_tensors, trainer_state)


def write_checkpoint(
    path: Path,
    description: dict[str, Any],
    tensors: Mapping[str, Tensor],
    trainer_tensors: Mapping[str, Tensor] | None = None,
    trainer_state: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint beside its final name and rename it there, so that a reader sees all of it or nothing."""
    try:
        with directory_written_atomically(path) as temporary:
            (temporary / "config.json").write_text(json.dumps(description, indent=1) + "\n")
            save_file(contiguous(tensors), temporary / "model.safetensors")
            if trainer_tensors is not None:
                save_file(contiguous(trainer_tensors), temporary / "trainer.safetensors")
                (temporary / "trainer.json").write_text(json.dumps(trainer_state) + "\n")
            for file in temporary.iterdir():
                flush_to_disk(file)
    except (DataError, SafetensorError) as error:
        raise CheckpointError(f"cannot write checkpoint {str(path)!r}: {error}; free some space or choose another --out, then `--resume`") from error
    return path


def provenance_of(store: Store, command: str, device: str) -> dict[str, Any]:
    """What weights come from that are trained on a dataset now."""
    return {
        "dataset_sha256": store.dataset_sha256,
        "episode_seeds": store.index["seed"].tolist(),
        "command": command,
        "versions": versions(),
        "hardware": hardware(device),
    }


def load_checkpoint(path: Path | str, device: str = "cpu") -> Checkpoint:
    """Load a run (its newest checkpoint) or a checkpoint; ``CheckpointError`` says what is missing, damaged or not understood."""
    check_device(device)
    directory = find_checkpoint(Path(path))
    description = read_description(directory)
    _check_world_model(directory, description)
    try:
        config = from_dict(description["config"])
        observation_spec = ObservationSpec(**with_tuples(description["observation_spec"]))
        action_spec = ActionSpec(**with_tuples(description["action_spec"]))
        step, env, provenance = int(description["step"]), dict(description["env"]), dict(description["provenance"])
        declared = dict(description.get("heads", {}))
    except LewmError as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} has a configuration that this version cannot use: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} has an incomplete or malformed config.json: {error!r}") from error
    weights = directory / "model.safetensors"
    try:
        with torch.device("meta"):  # shapes first: a wrong configuration must not allocate anything
            blueprint = WorldModel(config, observation_spec, action_spec)
            shapes = blueprint.state_dict() | head_tensors(build_heads(declared, blueprint))
    except (LewmError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} describes a model that cannot be built: {error}") from error
    check_shapes(weights, {name: tuple(tensor.shape) for name, tensor in shapes.items()})
    model, tensors = WorldModel(config, observation_spec, action_spec), load_file(weights)
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)})
    heads = build_heads(declared, model)
    load_head_tensors(heads, tensors)
    for network in (model, *(head.network for head in heads.values())):
        network.to(device).eval()
    return Checkpoint(
        model=model,
        config=config,
        step=step,
        env=env,
        provenance=provenance,
        path=directory,
        sha256=checkpoint_sha256(directory),
        heads=heads,
    )


def find_checkpoint(path: Path) -> Path:
    """The checkpoint directory meant by a checkpoint or by a run."""
    if (path / "config.json").is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"there is no run or checkpoint at {str(path)!r}; `lewm train --data DIR --out {path}` makes one")
    found = list_checkpoints(path)
    if not found:
        raise CheckpointError(f"{str(path)!r} holds no finished checkpoint (looked for checkpoints/{_PREFIX}*/config.json)")
    return found[-1]


def list_checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(directory for directory in (run / "checkpoints").glob(f"{_PREFIX}*") if (directory / "config.json").is_file())


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / "checkpoints" / f"{_PREFIX}{step:08d}"


def read_description(directory: Path) -> dict[str, Any]:
    """The content of ``config.json``, refused unless it is of a format that this version knows."""
    file = directory / "config.json"
    try:
        description = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{str(directory)!r} is no checkpoint: it has no config.json") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as JSON: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        got = description.get("format") if isinstance(description, dict) else None
        raise CheckpointError(f"{str(file)!r} has format {got!r}; this version of lewm reads format {FORMAT}; use the version that wrote it")
    return description


def load_trainer(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What training needs to go on from a checkpoint: tensors (optimiser, extra networks) and plain values."""
    try:
        tensors = load_file(directory / "trainer.safetensors")
        state = json.loads((directory / "trainer.json").read_text())
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {str(directory)!r} cannot be resumed: its trainer state is missing or damaged ({error})") from None
    return tensors, state


def checkpoint_sha256(directory: Path) -> str:
    """Hash of what a checkpoint means: its ``config.json`` and ``model.safetensors``."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_shapes(file: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse a weights file that lacks a tensor, has one too many, or has one of another shape: all of them are listed."""
    try:
        with safe_open(file, framework="pt") as weights:
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 - not a dictionary
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise CheckpointError(f"weights {str(file)!r} are missing or damaged: {error}") from None
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [f"{name} is {found[name]}, expected {shape}" for name, shape in expected.items() if name in found and found[name] != shape]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"weights {str(file)!r} do not fit the configuration beside them: {shown}")


def _check_world_model(directory: Path, description: dict[str, Any]) -> None:
    if POLICY_KEY in description:
        about = description[POLICY_KEY]
        name = about.get("name") if isinstance(about, dict) else about
        raise CheckpointError(
            f"{str(directory)!r} holds a learned policy ({name}), and this needs a world model (`lewm train` without --policy): a policy's run is "
            "for `lewm eval success`, `lewm verify`, `lewm compare` and `lewm info`"
        )


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: copies in the machine's memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def flush_to_disk(file: Path) -> None:
    """Wait until a written file is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
