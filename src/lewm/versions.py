"""Which software and hardware made a file."""

import importlib.metadata
import os
import platform
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of lewm, Python and the packages that can change a number."""
    names = ("lewm", "torch", "numpy", "gymnasium")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def hardware() -> str:
    """The processor and how many cores there are."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
