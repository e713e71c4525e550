"""Shapes and types in signatures are enforced while testing."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
install_import_hook(["lewm.models", "lewm.objectives", "lewm.planning", "lewm.distributed"], "beartype.beartype")
