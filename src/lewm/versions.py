"""Which software and hardware made a file."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIMULATORS = {"dmc/": ("mujoco", "dm-control"), "atari/": ("ale-py",), "ogbench/": ("ogbench", "mujoco", "dm-control"), "push-t": ("pymunk",)}
"""The packages that simulate the worlds whose names begin so: with another version of them the same actions may lead elsewhere."""


def versions() -> dict[str, str]:
    """Versions of lewm, Python, the packages that can change a number and, where they are installed, the simulators; imports none of them."""
    names = ("lewm", "torch", "numpy", "gymnasium")
    found = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
    return found | _installed([name for names in SIMULATORS.values() for name in names])


def other_simulators(env: str, recorded: Mapping[str, Any]) -> str:
    """How the simulators of a world differ from those that a file records, in words; empty where they do not, or where it records none."""
    env = env.split("/", 2)[-1] if env.startswith("stress/") else env
    names = [name for family, needs in SIMULATORS.items() if env.startswith(family) for name in needs]
    here = _installed(names)
    return ", ".join(
        f"{name} {recorded[name]} there and {here.get(name, 'none')} here" for name in names if name in recorded and recorded[name] != here.get(name)
    )


def _installed(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware(device: str = "cpu") -> str:
    """What computes: the processor and how many cores there are and, for the device ``cuda``, before them the GPU."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    processor = f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return f"{gpu_name(device)}, {processor}" if device.startswith("cuda") else processor


def gpu_name(device: str = "cuda") -> str:
    """What a GPU calls itself."""
    import torch

    return torch.cuda.get_device_name(torch.device(device))
