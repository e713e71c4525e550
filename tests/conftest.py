"""Shapes in signatures are enforced while testing, and tests that run side by side do not fight for cores."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, also for the processes that tests start

import pytest
from jaxtyping import install_import_hook

install_import_hook(["lewm.models", "lewm.objectives", "lewm.planning", "lewm.distributed"], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: the last one to start would be waited for by all others."""
    items.sort(key=lambda item: not item.path.name.startswith("test_documentation"))
