"""Other people's weight files, read as tensors and nothing else: no code in them is run, and nothing is allocated that the file does not hold.

``.safetensors`` is data by design. The others are pickles in a zip archive: torch's restricted reader refuses everything but tensors in plain
containers, and the archive is looked at first, because a small compressed one could unfold into any amount of memory.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lewm.errors import CheckpointError

SAFE_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = (SAFE_SUFFIX, *PICKLE_SUFFIXES)
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which of these a training framework keeps the weights among other things."""
MOST_PICKLE_BYTES = 2**26
"""Of the part of an archive that is unpickled: names and shapes, about a hundred bytes per tensor."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The named tensors in a weight file, by its suffix; a state dict that lies in a checkpoint of Lightning or the like is taken out.

    ``CheckpointError`` for a file that is missing, damaged, holds anything but tensors, or claims to hold more than it does.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{str(file)!r} is no weight file: known are {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise CheckpointError(f"there is no weight file {str(file)!r}")
    tensors = _read_safetensors(file) if file.suffix.lower() == SAFE_SUFFIX else _unwrapped(file, _read_pickle(file))
    if not tensors:
        raise CheckpointError(f"{str(file)!r} holds no tensors")
    return tensors


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)  # refuses a header that does not fit the length of the file before it allocates
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged or no safetensors file: {error}") from error


def _read_pickle(file: Path) -> Any:
    _check_archive(file)
    try:
        # Mapped, so that a tensor is a view of the file: one that claims more than there is cannot be made.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise CheckpointError(
            f"{str(file)!r} is damaged or holds something other than tensors, which is never unpickled, because it could run code "
            f"({_reason(error)}); save the bare state dict, best as .safetensors"
        ) from error


def _reason(error: Exception) -> str:
    """What torch found, without its advice to trust the file."""
    found = re.search(r"WeightsUnpickler error:\s*([^\n]+?)(\.? Please|\.? was not|\n|$)", str(error))
    lines = str(error).strip().splitlines()
    return (found[1] if found else lines[0] if lines and "weights_only" not in lines[0] else type(error).__name__)[:200]


def _check_archive(file: Path) -> None:
    """Refuse what ``torch.save`` does not write, before anything of it is unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # so can a damaged directory of an archive
        raise CheckpointError(
            f"{str(file)!r} is cut off or no archive of torch 1.6 or later ({error}); older files and bare pickles are not read: "
            "load it where you trust it and save the state dict as .safetensors"
        ) from error
    total_bytes, file_bytes = sum(entry.file_size for entry in entries), file.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total_bytes > file_bytes:
        raise CheckpointError(
            f"{str(file)!r} has {file_bytes:,} bytes and would unpack to {total_bytes:,}: torch writes archives without compression, so it is refused"
        )
    pickle_bytes = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if pickle_bytes > MOST_PICKLE_BYTES:
        raise CheckpointError(f"{str(file)!r} has a pickle of {pickle_bytes:,} bytes, at most {MOST_PICKLE_BYTES:,} are read")


def _unwrapped(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in a file's content, every value of which must be an ordinary tensor."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{str(file)!r} must hold a dictionary of tensors, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{str(file)!r} must hold a dictionary of tensors by name; {str(name)[:80]!r} is {type(value).__name__}")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise CheckpointError(f"{str(file)!r}: {name[:80]!r} is not an ordinary tensor of real numbers on the CPU")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{str(file)!r}: {name[:80]!r} claims {value.numel():,} numbers of which the file holds fewer")
    return dict(content)
