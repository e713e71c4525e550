"""Where networks run: what was asked for, or an error; nothing falls back."""

import gc

import torch

from lewm.errors import DeviceError


def check_device(device: str, count: int = 1) -> None:
    """``DeviceError`` unless ``count`` devices of the kind (cpu, cuda, mps) are there."""
    if device == "cuda" and torch.cuda.device_count() < count:
        found = torch.cuda.device_count()
        advice = "install a CUDA build of torch or use the device cpu"
        raise DeviceError(f"device cuda ({count} of it) was asked for and {found} were found; {advice}")
    if device == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for and is not available here; use the device cpu")


def free_memory(device: str) -> None:
    """Give back the memory of a GPU that nothing uses any more: other processes share it, and torch would keep it."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
