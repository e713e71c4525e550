"""Weights of the official LeWorldModel as checkpoints of ours, and back: ``lewm convert`` for weights.

Axes: a env action, A action block. An official source is a folder with ``config.json`` and one weight file, a weight file alone, or a repository of
the Hugging Face hub. What it does not say (action statistics and bounds, pixel statistics, the world) is given beside it.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from lewm.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from lewm.data.durable import directory_written_atomically
from lewm.errors import CheckpointError, ConfigError, MissingExtraError
from lewm.models.official import names_of, official_names, transformers_4_name, transformers_5_name
from lewm.models.official_layout import (
    OfficialLayout,
    check_official_shapes,
    difference_from_official,
    is_official_description,
    official_description,
    official_shapes,
    read_layout,
)
from lewm.models.weight_files import SAFE_SUFFIX, SUFFIXES, read_tensors
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.schema import ActionSpec, ObservationSpec
from lewm.versions import versions

HUB_PREFIX = "hf://"
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*/[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""``owner/name`` as the hub allows it: no part begins with a dot or holds two."""
CONFIG_FILE = "config.json"
MOST_CONFIG_BYTES = 2**20
LOSS_CONSTANTS = ("sigreg.t", "sigreg.phi", "sigreg.weights")
"""Constants of the loss that Lightning saves beside the model's weights: they follow from its settings."""
_WRAPPERS = ("model.", "module.")
"""What frameworks put before every name."""

NamesStyle = Literal["transformers5", "transformers4"]


@dataclass(frozen=True, kw_only=True)
class OfficialSource:
    """Where official weights lie on this machine."""

    weights: Path
    description: dict[str, Any] | None
    """``config.json``, where there is one."""
    files: dict[str, str]
    """SHA-256 of each file that was read, by name."""
    revision: str | None = None
    """The commit of a repository of the hub."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What an official source does not say."""

    action_spec: ActionSpec
    action_mean: Sequence[float]
    """Per raw dimension [a], in env units."""
    action_std: Sequence[float]
    action_block: int = 5
    pixel_mean: Sequence[float] = IMAGENET_MEAN
    pixel_std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if any(len(values) != 3 for values in (self.pixel_mean, self.pixel_std)) or min(self.pixel_std) <= 0:
            raise ConfigError(f"pixel statistics are 3 means and 3 positive standard deviations, got {self.pixel_mean} and {self.pixel_std}")
        dimension = self.action_spec.dimension
        if not len(self.action_mean) == len(self.action_std) == dimension or min(self.action_std) <= 0:
            raise ConfigError(
                f"action statistics are {dimension} means and {dimension} positive standard deviations, got {self.action_mean} and {self.action_std}"
            )


def is_weights(source: str) -> bool:
    """Whether ``lewm convert`` should take ``source`` for weights: official ones, a run or checkpoint of ours, or a repository of the hub.

    An ``owner/name`` that is no local path may be a data set as well: a caller that knows better asks first.
    """
    path = Path(source)
    if source.startswith(HUB_PREFIX) or path.suffix.lower() in SUFFIXES:
        return True
    if path.is_dir():
        has_official_config = is_official_description(_peek(path / CONFIG_FILE))
        return has_official_config or is_own(path) or any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    return not path.exists() and REPOSITORY.fullmatch(source) is not None


def is_own(path: Path) -> bool:
    """Whether a directory is a run or a checkpoint of lewm."""
    try:
        description = _peek(find_checkpoint(path) / CONFIG_FILE)
    except CheckpointError:
        return False
    return isinstance(description, dict) and {"format", "config", "observation_spec", "action_spec"} <= set(description)


def import_official(
    source: str, out: Path, given: Preprocessing, *, env: dict[str, Any], revision: str | None = None, provenance: dict[str, Any] | None = None
) -> Path:
    """Write official weights as a checkpoint to ``out``; ``env`` is the world that they are for (name, version, options), or empty.

    ``CheckpointError`` for a source that is missing, damaged, hostile or of another architecture: every tensor that does not fit is listed.
    """
    _check_free(out)
    found = find_source(source, revision)
    tensors, style = official_tensors(read_tensors(found.weights), found.weights.name)
    layout = read_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, found.description)
    env = _fitting_world(env, layout.side_px)
    model = build_model(layout, tensors, given, found.weights.name)
    config = dataclasses.replace(layout.config, data=dataclasses.replace(layout.config.data, action_block=given.action_block))
    origin = {"source": source, "source_sha256": found.files, "revision": found.revision, "names": style, "versions": versions()}
    return save_checkpoint(out, model, config, step=0, env=env, provenance=origin | (provenance or {}))


def export_official(source: str, out: Path, names: NamesStyle = "transformers5") -> Path:
    """Write a run or checkpoint of ours in the official layout: ``model.safetensors`` and ``config.json``.

    ``CheckpointError`` says in what a model differs from the official architecture. The action and pixel statistics have no place there.
    """
    _check_free(out)
    checkpoint = load_checkpoint(Path(source))
    model, config = checkpoint.model, checkpoint.config
    difference = difference_from_official(config, model)
    if difference:
        raise CheckpointError(f"{source!r} is not of the official architecture: {difference}")
    state = model.state_dict()
    rename = transformers_4_name if names == "transformers4" else str
    tensors = {rename(official): state[ours].contiguous().clone() for ours, official in names_of(state).items()}
    block = model.action_spec.block_dimension(model.action_block)
    description = official_description(config, model.observation_spec.width_px, block)
    with directory_written_atomically(out) as temporary:
        (temporary / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        for file in temporary.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    return out


def find_source(source: str, revision: str | None = None) -> OfficialSource:
    """The files behind a name: a local path if there is one, a repository of the hub otherwise."""
    path = Path(source)
    if path.exists() and not source.startswith(HUB_PREFIX):
        if revision is not None:
            raise ConfigError(f"--revision is for repositories of the hub, and {source!r} is a local path")
        return _local_source(path)
    if path.suffix.lower() in SUFFIXES and not source.startswith(HUB_PREFIX):
        raise CheckpointError(f"there is no weight file {source!r}")
    folder = _download(source.removeprefix(HUB_PREFIX), revision)
    return dataclasses.replace(_local_source(folder), revision=folder.name)


def official_tensors(tensors: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], NamesStyle]:
    """The tensors under their official names as transformers 5 writes them, without what frameworks add, and which way they were written.

    The weights as float32. ``CheckpointError`` for names that become the same, and for numbers that are not finite.
    """
    renamed: dict[str, Tensor] = {}
    style: NamesStyle = "transformers5"
    for name, tensor in tensors.items():
        plain = name.replace("_orig_mod.", "")
        while plain.startswith(_WRAPPERS):
            plain = plain.partition(".")[2]
        if plain in LOSS_CONSTANTS:
            continue
        new = transformers_5_name(plain)
        style = "transformers4" if new != plain else style
        if new in renamed:
            raise CheckpointError(f"{source} holds {new} twice, the second time as {name[:200]}")
        is_count = new.endswith("num_batches_tracked")
        if tensor.is_floating_point() == is_count:
            raise CheckpointError(f"{source}: {name[:200]} holds {str(tensor.dtype).removeprefix('torch.')} numbers, which it cannot")
        renamed[new] = tensor
    return renamed, style


def build_model(layout: OfficialLayout, tensors: dict[str, Tensor], given: Preprocessing, source: str) -> WorldModel:
    """A world model with these tensors, of which every one must fit; shapes are compared before anything is allocated."""
    block = given.action_spec.block_dimension(given.action_block)
    if layout.block_dimension != block:
        raise ConfigError(
            f"{source} takes blocks of {layout.block_dimension} numbers; actions of {given.action_spec.dimension} and --action-block "
            f"{given.action_block} make {block}"
        )
    config = dataclasses.replace(layout.config, data=dataclasses.replace(layout.config.data, action_block=given.action_block))
    specs = ObservationSpec(height_px=layout.side_px, width_px=layout.side_px), given.action_spec
    with torch.device("meta"):
        blueprint = WorldModel(config, *specs)
    check_official_shapes(official_shapes(blueprint), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    not_finite = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if not_finite:
        raise CheckpointError(f"{source} has numbers that are not finite in {', '.join(not_finite)}")
    model = WorldModel(config, *specs)
    model.load_state_dict({ours: tensors[official] for ours, official in official_names(model).items()}, strict=False)
    model.set_action_statistics(given.action_mean, given.action_std)
    model.pixel_mean.copy_(torch.tensor(given.pixel_mean))
    model.pixel_std.copy_(torch.tensor(given.pixel_std))
    return model.eval()


def _fitting_world(env: dict[str, Any], side_px: int) -> dict[str, Any]:
    """The world with frames of the model's size; ``ConfigError`` if its options say another."""
    if not env:
        return {}
    size_px = env.get("options", {}).get("size_px", side_px)
    if size_px != side_px:
        raise ConfigError(f"the model sees frames of {side_px} px and env {env['name']!r} has size_px {size_px}: give --env-option size_px={side_px}")
    return env | {"options": env.get("options", {}) | {"size_px": side_px}}


def _local_source(path: Path) -> OfficialSource:
    weights = _weight_file(path) if path.is_dir() else path
    config = weights.parent / CONFIG_FILE
    description = _read_description(config) if config.is_file() else None
    read = [weights] if description is None else [weights, config]
    return OfficialSource(weights=weights, description=description, files={file.name: _sha256(file) for file in read})


def _weight_file(folder: Path) -> Path:
    """The one weight file of a folder: safetensors before pickles, ``model`` and ``weights`` before others."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    safe = [file for file in files if file.suffix.lower() == SAFE_SUFFIX]
    chosen = safe or files
    usual = [file for file in chosen if file.stem in ("model", "weights")]
    if len(chosen) == 1 or len(usual) == 1:
        return usual[0] if len(usual) == 1 else chosen[0]
    if not files:
        raise CheckpointError(f"{str(folder)!r} holds no weights: no file ends in {', '.join(SUFFIXES)}")
    raise CheckpointError(f"{str(folder)!r} holds several weight files ({', '.join(file.name for file in chosen)}): give the one that you mean")


def _download(repository: str, revision: str | None) -> Path:
    """The folder of a repository's snapshot, from the local cache where it is there."""
    if not REPOSITORY.fullmatch(repository):
        raise CheckpointError(f"{repository[:200]!r} is neither a local path nor a repository of the hub, which is called owner/name")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(f"repository {repository!r} needs 'huggingface-hub': pip install 'lewm[hub]'") from error
    patterns = [CONFIG_FILE, *(f"*{suffix}" for suffix in SUFFIXES)]
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{repository!r} is no local path and cannot be fetched from the Hugging Face hub: {reason[0]}") from error


def _read_description(file: Path) -> dict[str, Any]:
    description = _peek(file)
    if not isinstance(description, dict):
        raise CheckpointError(f"{str(file)!r} must be a JSON object of at most {MOST_CONFIG_BYTES:,} bytes")
    return description


def _peek(file: Path) -> Any:
    """The JSON in a file; None where there is none."""
    try:
        return json.loads(file.read_text()) if file.stat().st_size <= MOST_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_free(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"{str(out)!r} exists already; choose another place, nothing is overwritten")
