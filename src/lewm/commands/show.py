"""``lewm list`` and ``lewm info``: what there is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.markup import escape
from rich.table import Table as RichTable

from lewm.commands.parsing import console, parse, show, write_result
from lewm.config_files import preset_names
from lewm.errors import ConfigError, DataError
from lewm.registry import TABLES

Kind = Literal["envs", "planners", "objectives", "encoders", "formats", "presets", "evaluations"]


@dataclass(frozen=True)
class ListArguments:
    """What there is, by name."""

    kind: tyro.conf.Positional[Kind | None] = None
    """Only this table."""


@dataclass(frozen=True)
class InfoArguments:
    """What a dataset, run or checkpoint holds."""

    path: tyro.conf.Positional[Path]
    """Directory of a dataset, run or checkpoint."""
    verify: bool = False
    """Check every hash of a dataset."""
    json: Path | None = None
    """Also write the description to this file."""


def list(words: Sequence[str]) -> None:
    """Print the tables."""
    arguments = parse(ListArguments, "list", words)
    grid = RichTable(box=None, show_header=False, pad_edge=False)
    for kind in (arguments.kind,) if arguments.kind else (*TABLES, "presets"):
        grid.add_row(f"[bold]{kind}[/bold]", "", "")
        if kind == "presets":
            for name in preset_names():
                grid.add_row("", name, "")
            continue
        for name in TABLES[kind]:
            entry = TABLES[kind].entry(name)
            grid.add_row("", name, escape(entry.summary + (f"  (pip install 'lewm[{entry.extra}]')" if entry.extra else "")))
    console().print(grid)


def info(words: Sequence[str]) -> None:
    """Describe a dataset, run or checkpoint."""
    arguments = parse(InfoArguments, "info", words)
    description = describe(arguments.path, verify=arguments.verify)
    show(json.dumps(description, indent=2))
    write_result(arguments.json, description)


def describe(path: Path, *, verify: bool) -> dict[str, Any]:
    """What the directory at ``path`` holds, recognised by its files."""
    if not path.exists():
        raise DataError(f"there is nothing at {str(path)!r}")
    if (path / "meta.json").exists():
        from lewm.data.info import describe_dataset

        description: dict[str, Any] = describe_dataset(path, verify=verify)
        return {"kind": "dataset"} | description
    if verify:
        raise ConfigError(f"--verify checks the hashes of a dataset, and {str(path)!r} is none; leave it out")
    from lewm.checkpoint import checkpoint_sha256, find_checkpoint, list_checkpoints, read_description

    directory = find_checkpoint(path)
    checkpoints = [checkpoint.name for checkpoint in list_checkpoints(path)]
    description = read_description(directory)
    seeds = description.get("provenance", {}).pop("episode_seeds", None)
    about = {"kind": "run" if checkpoints else "checkpoint", "checkpoint": str(directory), "checkpoints": checkpoints}
    return about | {"sha256": checkpoint_sha256(directory), "num_training_episodes": None if seeds is None else len(seeds)} | description
