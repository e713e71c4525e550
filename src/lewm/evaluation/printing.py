"""Any result as plain text, as its command prints it."""

import importlib
from typing import Any

PRINTERS = {
    "success": "lewm.evaluation.success:success_table",
    "comparison of methods": "lewm.evaluation.methods:methods_table",
    "success over training seeds": "lewm.evaluation.across_seeds:combined_table",
    "robustness": "lewm.evaluation.robustness_table:robustness_table",
    "why": "lewm.evaluation.why.table:why_table",
}
"""Functions that print a result, by its ``evaluation``; what is not here is a measurement of latents."""


def printed(result: dict[str, Any]) -> str:
    """The table of a result: its own ``table`` if it carries one."""
    if isinstance(result.get("table"), str):
        return str(result["table"])
    target = PRINTERS.get(result["evaluation"], "lewm.evaluation.workflow:latent_table")
    module, _, name = target.partition(":")
    return str(getattr(importlib.import_module(module), name)(result))
