"""Weights in the official LeWorldModel's layout: read into a checkpoint of ours, and written from one.

What is read is data, never code: safetensors, or PyTorch's zip archives through the loader that knows tensors only. Every tensor must have the name
and the shape that the architecture gives it; all that do not are listed, none is skipped.
"""

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lewm.checkpoint import load_checkpoint, save_checkpoint
from lewm.config import Config
from lewm.config_files import load_preset, to_dict
from lewm.data.durable import directory_written_atomically
from lewm.errors import CheckpointError, ConfigError, MissingExtraError
from lewm.models.official import official_names
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.schema import ActionSpec, ObservationSpec
from lewm.versions import versions

SAFE_SUFFIX, TORCH_SUFFIXES = ".safetensors", (".pt", ".pth", ".ckpt", ".bin")
MAX_BYTES = 4 * 2**30
"""The architecture has 72 MB; a file that says it holds more than this is refused before anything is allocated."""
MAX_LISTED = 12
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("_orig_mod.", "module.", "model.", "jepa.")
PATCH_PX = 14
TRANSFORMERS_4 = (
    (r"encoder\.encoder\.layer\.(\d+)\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.(\w+)", r"encoder.layers.\1.attention.\2_proj.\3"),
    (r"encoder\.encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"encoder.layers.\1.attention.o_proj.\2"),
    (r"encoder\.encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"encoder.layers.\1.mlp.fc1.\2"),
    (r"encoder\.encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"encoder.layers.\1.mlp.fc2.\2"),
    (r"encoder\.encoder\.layer\.(\d+)\.(layernorm_\w+)\.(\w+)", r"encoder.layers.\1.\2.\3"),
)
"""Names of the encoder as transformers 4 writes them -> as transformers 5 does."""
TO_TRANSFORMERS_4 = (
    (r"encoder\.layers\.(\d+)\.attention\.q_proj\.(\w+)", r"encoder.encoder.layer.\1.attention.attention.query.\2"),
    (r"encoder\.layers\.(\d+)\.attention\.k_proj\.(\w+)", r"encoder.encoder.layer.\1.attention.attention.key.\2"),
    (r"encoder\.layers\.(\d+)\.attention\.v_proj\.(\w+)", r"encoder.encoder.layer.\1.attention.attention.value.\2"),
    (r"encoder\.layers\.(\d+)\.attention\.o_proj\.(\w+)", r"encoder.encoder.layer.\1.attention.output.dense.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"encoder.encoder.layer.\1.intermediate.dense.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"encoder.encoder.layer.\1.output.dense.\2"),
    (r"encoder\.layers\.(\d+)\.(layernorm_\w+)\.(\w+)", r"encoder.encoder.layer.\1.\2.\3"),
)


@dataclass(frozen=True, kw_only=True)
class ActionFacts:
    """What weights do not tell of the actions, per raw dimension [a], in env units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def import_official(
    source: str,
    out: Path | str,
    *,
    actions: ActionFacts,
    action_block: int = 5,
    pixel_mean: Sequence[float] = IMAGENET_MEAN,
    pixel_std: Sequence[float] = IMAGENET_STD,
    env: dict[str, Any] | None = None,
    revision: str | None = None,
    command: str = "",
) -> Path:
    """Write the checkpoint directory ``out`` from official weights, and return it.

    ``source`` is a folder, a file, or a repository on the Hugging Face hub (``owner/name``; its cache is used where there is no network). ``actions``
    of one number each count for every dimension. ``CheckpointError`` for files that cannot be trusted, are damaged, or do not fit the architecture.
    """
    out = Path(out)
    if out.exists():
        raise CheckpointError(f"{str(out)!r} already exists; choose another place")
    folder, weights = locate(source, revision)
    tensors = read_tensors(weights)
    config, model = _fitting_model(tensors, weights, actions, action_block)
    names = official_names(model)
    state = model.state_dict()
    model.load_state_dict({ours: tensors[name].to(state[ours].dtype) for ours, name in names.items()}, strict=False)
    dimension = model.action_spec.dimension
    model.set_action_statistics(_spread(actions.mean, dimension), _spread(actions.std, dimension))
    model.pixel_mean.copy_(torch.tensor(tuple(pixel_mean)))
    model.pixel_std.copy_(torch.tensor(tuple(pixel_std)))
    provenance = {
        "converted_from": {
            "source": Path(source).name if folder is not None else source,
            "file": weights.name,
            "sha256": _sha256(weights),
            "revision": revision,
        },
        "official_config": _official_config(weights.parent),
        "command": command,
        "versions": versions(),
    }
    return save_checkpoint(out, model, config, step=0, env=env or {}, provenance=provenance)


def export_official(run: Path | str, out: Path | str, *, transformers: int = 5) -> Path:
    """Write the folder ``out`` in the official layout, ``config.json`` and ``model.safetensors``, and return it.

    ``transformers`` 4 or 5 says how the encoder's tensors are named. ``CheckpointError`` for a run of another architecture.
    """
    out = Path(out)
    if out.exists():
        raise CheckpointError(f"{str(out)!r} already exists; choose another place")
    if transformers not in (4, 5):
        raise ConfigError(f"names are those of transformers 4 or 5, got {transformers}")
    checkpoint = load_checkpoint(run)
    _check_architecture(checkpoint.config, checkpoint.model)
    names, state = official_names(checkpoint.model), checkpoint.model.state_dict()
    renamed = {_renamed(name, TO_TRANSFORMERS_4) if transformers == 4 else name: state[ours].contiguous().clone() for ours, name in names.items()}
    mean, std = checkpoint.model.action_statistics()
    spec = checkpoint.model.action_spec
    description = {
        "model_type": "lewm",
        "transformers_names": transformers,
        "action_dimension": spec.dimension,
        "action_block": checkpoint.model.action_block,
        "action_mean": mean,
        "action_std": std,
        "action_low": spec.low,
        "action_high": spec.high,
        "pixel_mean": checkpoint.model.pixel_mean.tolist(),
        "pixel_std": checkpoint.model.pixel_std.tolist(),
        "image_size_px": checkpoint.model.observation_spec.height_px,
        "converted_from": {"checkpoint_sha256": checkpoint.sha256, "step": checkpoint.step},
    }
    with directory_written_atomically(out) as temporary:
        (temporary / "config.json").write_text(json.dumps(description, indent=1) + "\n")
        save_file(renamed, temporary / "model.safetensors")
    return out


def looks_like_weights(source: str) -> bool:
    """Whether weights are meant, and no dataset: a weight file, a folder with one or with a checkpoint, or a repository id that is no path."""
    path = Path(source)
    if path.is_file():
        return path.suffix in (SAFE_SUFFIX, *TORCH_SUFFIXES)
    if path.is_dir():
        has_weights = any(file.suffix in (SAFE_SUFFIX, *TORCH_SUFFIXES) for file in path.iterdir() if file.is_file())
        return has_weights or (path / "config.json").is_file() or (path / "checkpoints").is_dir()
    return _repository(source) is not None


def locate(source: str, revision: str | None = None) -> tuple[Path | None, Path]:
    """The local folder (None for a repository) and the one weight file in it, safetensors preferred."""
    path = Path(source)
    if path.is_file():
        return path.parent, path
    if path.is_dir():
        return path, _weight_file(path)
    repository = _repository(source)
    if repository is None:
        raise CheckpointError(f"there is nothing at {source!r}; give a folder, a weight file, or a repository as owner/name")
    return None, _weight_file(_downloaded(repository, revision))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by their official names, transformers 5's; ``CheckpointError`` for anything but plain tensors."""
    tensors = _read_safetensors(file) if file.suffix == SAFE_SUFFIX else _read_torch(file)
    while tensors and (prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in tensors)), None)):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = _renamed(name, TRANSFORMERS_4)
        if new in renamed:
            raise CheckpointError(f"{str(file)!r} has {new!r} twice, under names of transformers 4 and 5")
        renamed[new] = tensor
    return renamed


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """The library checks that shapes, offsets and the size of the file agree before anything is read."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{str(file)!r} has {file.stat().st_size:,} bytes; the architecture has 72 MB")
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"weights {str(file)!r} are damaged or no safetensors: {error}") from None


def _read_torch(file: Path) -> dict[str, Tensor]:
    """A zip archive of PyTorch's, whose members are stored plainly and together no larger than the file; older pickles are refused."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(member.file_size for member in members) > MAX_BYTES:
            raise CheckpointError(
                f"{str(file)!r} is compressed or says it holds more than {MAX_BYTES:,} bytes, which no weights of this model are; not opened"
            )
        content = torch.load(file, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{str(file)!r} is damaged, or a pickle of an old kind, which may hold code: save it anew as safetensors") from None
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - the loader raises whatever a hostile file makes it raise, and nothing of it may pass
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{str(file)!r} holds more than plain tensors, or is damaged: {first[:200]}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise CheckpointError(f"{str(file)!r} is no state dict: names with tensors are meant")
    return dict(content)


def _fitting_model(tensors: dict[str, Tensor], file: Path, actions: ActionFacts, action_block: int) -> tuple[Config, WorldModel]:
    """The configuration and an empty model for the tensors; ``CheckpointError`` lists every one that is missing, unknown or of another shape."""
    channels = _shape_of(tensors, "action_encoder.patch_embed.weight", 3, file)
    positions = _shape_of(tensors, "encoder.embeddings.position_embeddings", 3, file)
    side = round(max(0, positions[1] - 1) ** 0.5)
    if channels[1] % action_block or channels[1] < action_block:
        raise CheckpointError(f"{str(file)!r} has action blocks of {channels[1]} numbers, which are no {action_block} actions: give --action-block")
    dimension = channels[1] // action_block
    if side * side + 1 != positions[1] or not 1 <= side <= 64:
        raise CheckpointError(f"{str(file)!r} has positions for {positions[1] - 1} patches, which are no square of at most 64 x 64")
    base = load_preset("paper")
    config = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, action_block=action_block),
        model=dataclasses.replace(base.model, action_channels=min(channels[0], 4096)),
    )
    spec = ActionSpec(kind="continuous", low=_spread(actions.low, dimension), high=_spread(actions.high, dimension))
    size = ObservationSpec(height_px=PATCH_PX * side, width_px=PATCH_PX * side)
    with torch.device("meta"):
        blueprint = WorldModel(config, size, spec)
    expected = {name: tuple(blueprint.state_dict()[ours].shape) for ours, name in official_names(blueprint).items()}
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name} {list(tensors[name].shape)}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [f"{name} is not finite" for name in expected if name in tensors and not bool(torch.isfinite(tensors[name].float()).all())]
    if problems:
        shown = "; ".join(problems[:MAX_LISTED]) + (f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else "")
        raise CheckpointError(f"weights {str(file)!r} are not those of the official architecture: {shown}")
    return config, WorldModel(config, size, spec)


def _shape_of(tensors: dict[str, Tensor], name: str, num_axes: int, file: Path) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != num_axes:
        first = ", ".join(list(tensors)[:4])
        raise CheckpointError(
            f"weights {str(file)!r} are not the official LeWorldModel's: there is no {name} of {num_axes} axes (the first are {first})"
        )
    return tuple(tensors[name].shape)


def _spread(values: tuple[float, ...], dimension: int) -> tuple[float, ...]:
    if len(values) not in (1, dimension):
        raise ConfigError(f"the weights have {dimension} numbers per action, got {len(values)} values: {list(values)}")
    return tuple(float(value) for value in values) * (dimension if len(values) == 1 else 1)


def _check_architecture(config: Config, model: WorldModel) -> None:
    """``CheckpointError`` that names the first setting in which a run's architecture is not the official one."""
    found, paper = to_dict(config), to_dict(load_preset("paper"))
    for section in ("encoder", "model", "predictor"):
        for key in paper[section].keys() | found[section].keys():
            got, meant = found[section].get(key), paper[section].get(key)
            if got != meant and (section, key) not in (("predictor", "dropout"), ("model", "action_channels")):
                raise CheckpointError(f"only the official architecture has an official layout: {section}.{key} is {got!r}, not {meant!r}")
    spec = model.observation_spec
    if spec.num_views != 1 or spec.proprioception or spec.height_px != spec.width_px or model.action_spec.kind != "continuous":
        raise CheckpointError("the official layout has one square frame, no proprioception and continuous actions, this run has others")


def _repository(source: str) -> str | None:
    """``owner/name`` if the source can be one."""
    name = source.removeprefix("hf://")
    part = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    return name if re.fullmatch(f"{part}/{part}", name) and ".." not in name and not Path(source).exists() else None


def _downloaded(repository: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading {repository!r} from the hub needs 'huggingface-hub': pip install 'lewm[hub]'") from error
    patterns = ["*.json", f"*{SAFE_SUFFIX}", *(f"*{suffix}" for suffix in TORCH_SUFFIXES)]
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(f"{repository!r} is not in the hub's cache and there is no network; download it once with a network") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no folder and no repository {repository!r} that can be read; check the name, or log in") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{repository!r} cannot be downloaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def _weight_file(folder: Path) -> Path:
    for suffixes in ((SAFE_SUFFIX,), TORCH_SUFFIXES):
        found = sorted(file for file in folder.iterdir() if file.suffix in suffixes and file.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(f"{str(folder)!r} has several weight files, name one: {', '.join(file.name for file in found)}")
    raise CheckpointError(f"{str(folder)!r} has no weights: a file ending in {', '.join((SAFE_SUFFIX, *TORCH_SUFFIXES))} is meant")


def _official_config(folder: Path) -> Any:
    """The ``config.json`` beside the weights, kept as it is for provenance: nothing in it is acted on."""
    file = folder / "config.json"
    if not file.is_file() or file.stat().st_size > 2**20:
        return None
    try:
        return json.loads(file.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as JSON: {error}") from None


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
