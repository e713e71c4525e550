"""``lewm list`` and ``lewm info``: what there is."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.markup import escape
from rich.table import Table as RichTable

from lewm.commands.parsing import console, parse, show, write_result
from lewm.config_files import preset_names
from lewm.data.formats.recognition import recognise
from lewm.errors import ConfigError, DataError, LewmError, MissingExtraError
from lewm.registry import TABLES

Kind = Literal["envs", "policies", "planners", "objectives", "encoders", "heads", "learners", "formats", "presets", "collections", "evaluations"]


@dataclass(frozen=True)
class ListArguments:
    """What there is, by name."""

    kind: tyro.conf.Positional[Kind | None] = None
    """Only this table."""


@dataclass(frozen=True)
class InfoArguments:
    """What a dataset of any format, a run or a checkpoint holds."""

    path: tyro.conf.Positional[Path]
    """Directory or file of a dataset, run or checkpoint."""
    verify: bool = False
    """Check every hash of a dataset."""
    json: Path | None = None
    """Also write the description to this file."""


def list(words: Sequence[str]) -> None:
    """Print the tables."""
    arguments = parse(ListArguments, "list", words)
    grid = RichTable(box=None, show_header=False, pad_edge=False)
    for kind in (arguments.kind,) if arguments.kind else (*TABLES, "presets", "collections"):
        grid.add_row(f"[bold]{kind}[/bold]", "", "")
        for name, summary in _rows(kind, is_alone=arguments.kind is not None):
            grid.add_row("", name, escape(summary))
    console().print(grid)


def _rows(kind: str, *, is_alone: bool) -> Iterator[tuple[str, str]]:
    """Names and summaries of one table; more is said of a table that is shown alone, because it takes longer."""
    if kind == "presets":
        yield from ((name, "") for name in preset_names())
        return
    if kind == "collections":
        yield from _collections(with_sizes=is_alone)
        return
    table = TABLES[kind]
    for name in table:
        entry = table.entry(name)
        yield name, entry.summary + (f"  (pip install 'lewm[{entry.extra}]')" if entry.extra else "")
        if is_alone and name.endswith("/"):
            with contextlib.suppress(MissingExtraError):  # the line above says what is missing
                yield from ((f"  {name}{member}", "") for member in table.members(name))


def _collections(*, with_sizes: bool) -> Iterator[tuple[str, str]]:
    from lewm.data.collection_presets import collection_names, load_collection
    from lewm.data.estimates import format_bytes

    for name in collection_names():
        preset = load_collection(name)
        size = ""
        if with_sizes:
            try:
                size = f"; at most {format_bytes(preset.num_bytes())}"
            except LewmError as error:  # what it needs is not installed, or cannot draw here
                size = f"; size unknown: {error}"
        yield name, preset.summary + size


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
    is_trained = any((path / name).exists() for name in ("config.json", "config.toml", "checkpoints"))
    if not is_trained and recognise(path) is not None:
        from lewm.data.info import describe_dataset

        description: dict[str, Any] = describe_dataset(path, verify=verify)
        return {"kind": "dataset"} | description
    if verify:
        raise ConfigError(f"--verify checks the hashes of a dataset, and {str(path)!r} is none; leave it out")
    from lewm.checkpoint import checkpoint_sha256, find_checkpoint, list_checkpoints, read_description

    directory = find_checkpoint(path)
    checkpoints = [checkpoint.name for checkpoint in list_checkpoints(path)]
    description = read_description(directory)
    provenance = description.get("provenance", {})
    seeds = provenance.pop("episode_seeds", None)
    provenance.get("base", {}).pop("episode_seeds", None)
    about = {"kind": "run" if checkpoints else "checkpoint", "checkpoint": str(directory), "checkpoints": checkpoints}
    return about | {"sha256": checkpoint_sha256(directory), "num_training_episodes": None if seeds is None else len(seeds)} | description
