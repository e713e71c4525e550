"""Which software made a file."""

import importlib.metadata
import platform


def versions() -> dict[str, str]:
    """Versions of lewm, Python and the packages that can change a number."""
    names = ("lewm", "torch", "numpy", "gymnasium")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
