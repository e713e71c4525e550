"""The heads that methods need: found in the runs, found where an earlier comparison trained them, or trained now.

``<out>/heads/<run>/<head>`` is a complete run: the world model bit for bit, and the head. The latents that it was trained on are kept in the run.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from lewm.checkpoint import find_checkpoint, read_description
from lewm.devices import free_memory
from lewm.errors import CheckpointError, LewmError
from lewm.head_config import HeadConfig
from lewm.planner_lab.methods import RECIPES
from lewm.planner_lab.plan import RunFacts
from lewm.run_directory import write_json
from lewm.setting_checks import Device


def run_with_head(run: RunFacts, head: str, out: Path, num_steps: int | None) -> Path | None:
    """The run itself if it has the head, or the one that was trained from it for so many steps (None: the stage's own); None if there is neither."""
    recipe = RECIPES[head]
    if recipe.fits(run.heads):
        return run.path
    trained = head_path(run, head, out)
    with suppress(CheckpointError):
        description = read_description(find_checkpoint(trained))
        origin = description.get("provenance", {}).get("heads", {}).get(recipe.stage, {})
        found = description.get("heads", {}).get(recipe.stage, {})
        wanted = json.loads(json.dumps(asdict(_settings(head, num_steps))))  # a checkpoint has lists where settings have tuples
        del wanted["device"]  # it changes the rounding alone
        if all(found.get(name) == value for name, value in wanted.items()) and origin.get("base_checkpoint_sha256") == run.sha256:
            return trained
    return None


def head_path(run: RunFacts, head: str, out: Path) -> Path:
    """Where a head is trained."""
    return out / "heads" / run.name / head


def train_heads(run: RunFacts, heads: Sequence[str], data: Path, out: Path, num_steps: int | None, device: Device = "cpu") -> None:
    """Train heads of a run, one after another, on one thread; a training that was cut off begins anew. What goes wrong is kept as the reason."""
    from lewm.head_config import LatentHeadConfig
    from lewm.head_training import train_head
    from lewm.planner_lab.cells import COMMAND

    for head in heads:
        place, reason = head_path(run, head, out), _reason_path(run, head, out)
        shutil.rmtree(place, ignore_errors=True)
        settings = _settings(head, num_steps, device)
        assert isinstance(settings, LatentHeadConfig)
        try:
            train_head(settings, base=run.path, data=data, out=place, command=COMMAND)
            reason.unlink(missing_ok=True)
        except (LewmError, torch.OutOfMemoryError) as error:
            write_json(reason, {"head": head, "error": str(error)})
        finally:
            free_memory(device)


def why_missing(run: RunFacts, head: str, out: Path) -> str:
    """Why a run has no head, and what to do."""
    reason = _reason_path(run, head, out)
    if reason.is_file():
        return f"training the head {head!r} failed: {json.loads(reason.read_text())['error']}"
    return f"the run has no head {head!r}: --train-heads trains it"


def keep_latents(run: Path, data: Path, device: Device = "cpu") -> str | None:
    """Encode the training set for a run, unless that is done: once, before several processes ask for it.

    Returns why a GPU's memory was not enough, if it was not: cells that need the latents try again, and say so themselves.
    """
    try:
        _encode(run, data, device)
    except torch.OutOfMemoryError as error:
        return str(error)
    finally:
        free_memory(device)
    return None


def _encode(run: Path, data: Path, device: Device) -> None:
    from lewm.checkpoint import load_checkpoint
    from lewm.evaluation.label_goals import matching_store
    from lewm.evaluation.run_latents import run_latents

    checkpoint = load_checkpoint(run, device)
    run_latents(checkpoint, matching_store(checkpoint, data), device=device)


def _settings(head: str, num_steps: int | None, device: Device = "cpu") -> HeadConfig:
    return RECIPES[head].settings(num_threads=1, device=device, **({} if num_steps is None else {"num_steps": num_steps}))


def _reason_path(run: RunFacts, head: str, out: Path) -> Path:
    return out / "heads" / run.name / f"{head}.error.json"
