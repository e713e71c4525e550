"""All benchmarks by name, what a run of some of them looks like as JSON, and as a table.

Nothing here imports torch until a benchmark runs.
"""

import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

import lewm
from lewm.errors import ConfigError
from lewm.registry import Entry, Table
from lewm.versions import gpu_name, hardware, versions

if TYPE_CHECKING:
    from lewm.bench.timing import Row

FORMAT = 1
_ENTRIES = {
    "sigreg": Entry(target="lewm.bench.sigreg:measure", summary="SIGReg forward + backward against its formula as written"),
    "render": Entry(target="lewm.bench.render:measure", summary="two-room in a batch against one frame at a time"),
    "mujoco": Entry(
        target="lewm.bench.mujoco:measure", summary="Control Suite frames: profile fast against shipped", extra="dmc", needs=("dm-control",)
    ),
    "push-t": Entry(
        target="lewm.bench.push_t:measure",
        summary="Push-T frames in a batch against the gym-pusht package",
        extra="dev",
        needs=("gym-pusht", "pymunk"),
    ),
    "collect": Entry(
        target="lewm.bench.collect:measure", summary="collections: two workers against one, Atari against the raw emulators", extra="atari"
    ),
    "clips": Entry(target="lewm.bench.clips:measure", summary="shuffled training clips against memcpy"),
    "formats": Entry(
        target="lewm.bench.formats:measure",
        summary="clips against the official reading of HDF5, and conversions",
        extra="hdf5",
        needs=("h5py", "hdf5plugin"),
    ),
    "train": Entry(target="lewm.bench.train:measure", summary="optimiser steps of the laptop preset against a straight-line loop"),
    "paper": Entry(target="lewm.bench.paper:measure", summary="optimiser steps of the paper preset against the official model written plainly"),
    "plan": Entry(target="lewm.bench.plan:measure", summary="plans of the laptop preset against a straight rollout"),
}
BENCHES = Table("bench", _ENTRIES)
"""Name -> a function ``measure(options: BenchOptions) -> Iterable[Row]``; one that takes minutes yields its rows as they come. To add one, write its
file and add its line here."""
ORDER = tuple(_ENTRIES)
"""In which they run when all of them do."""
ON_DEVICES = ("sigreg", "train", "paper", "plan")
"""Those that have a meaning on a GPU: all that run on one when no name is given."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What every benchmark is told."""

    is_quick: bool = False
    """Tiny sizes, to see that everything runs: the figures mean nothing."""
    use_compile: bool = False
    """Also measure compiled code."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks run."""


def run_benches(
    names: Sequence[str],
    options: BenchOptions,
    *,
    num_threads: int | None = None,
    command: str = "",
    measured: "Callable[[Row, dict[str, Any]], None] | None" = None,
    done: "Callable[[str, list[Row]], None] | None" = None,
) -> dict[str, Any]:
    """Run benchmarks one after the other and return the result, ready for JSON.

    ``num_threads`` is torch's (default: as it is). ``measured`` is told each row and the result so far as soon as the row is there, ``done`` each
    benchmark's name and all its rows.
    ``UnknownNameError`` for a name that is in no table, before any is run, and ``ConfigError`` for one that has no meaning on the device.
    """
    for name in names:
        BENCHES.entry(name)
    _check_device(names, options.device)
    if num_threads is not None and num_threads < 1:
        raise ConfigError(f"num_threads must be at least 1, got {num_threads}")
    start_s = time.perf_counter()
    gpu = {} if options.device == "cpu" else {"device": gpu_name(options.device)}
    benches: list[dict[str, Any]] = []
    with _threads(num_threads) as threads:
        result = {
            "format": FORMAT,
            "command": command,
            "is_quick": options.is_quick,
            "benches": benches,
            "hardware": {"processor": hardware(), "num_cores": os.cpu_count(), "num_threads": threads} | gpu,
            "versions": versions(),
            "commit": commit(),
            "duration_s": 0.0,
        }
        for name in names:
            bench_start_s, rows = time.perf_counter(), []
            bench: dict[str, Any] = {"name": name, "rows": [], "duration_s": 0.0}
            benches.append(bench)
            for row in BENCHES.load(name)(options):
                rows.append(row)
                bench["rows"].append(row.as_json())
                now_s = time.perf_counter()
                bench["duration_s"], result["duration_s"] = round(now_s - bench_start_s, 2), round(now_s - start_s, 2)
                if measured is not None:
                    measured(row, result)
            if done is not None:
                done(name, rows)
    return result


def row_words(row: "Row") -> str:
    """One row for people, in a line."""
    return f"{row.case}: {_number(row.ours.median)} {row.unit}, {row.ratio:.2f}x the reference"


def bench_table(name: str, rows: "Sequence[Row]") -> RichTable:
    """The rows of one benchmark for people."""
    table = RichTable(title=f"{name}: {BENCHES.entry(name).summary}", title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("case", "ours", "reference", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=heading != "case")
    for row in rows:
        spread = f" ±{(row.ours.high - row.ours.low) / 2 / row.ours.median:.0%}" if row.ours.high > row.ours.low else ""  # measured once: no spread
        ours = f"{_number(row.ours.median)} {row.unit}{spread}"
        targets = [_target(row, word, target) for word, target in (("must", row.target_must), ("aim", row.target_aim)) if target is not None]
        table.add_row(row.case, ours, f"{_number(row.reference.median)} {row.unit}", f"{row.ratio:.2f}x", "\n".join(targets) or "-")
    notes = [f"reference: {what}" for what in dict.fromkeys(row.reference_is for row in rows)]
    for row in rows:
        if row.details:
            details = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in row.details.items())
            notes.append(f"{row.case}: {details}")
    table.caption = "\n".join(["median ± half the distance between the quartiles; ratio: how many times better ours is", *notes])
    return table


def commit() -> str | None:
    """The git commit of the checkout that lewm runs from, ``-dirty`` if it has changes; None when it is installed elsewhere."""
    package = Path(lewm.__file__).parent
    git = functools.partial(subprocess.run, cwd=package, capture_output=True, text=True, check=True, timeout=10)
    try:
        # An installed package may lie inside somebody else's checkout: only one that tracks it counts.
        git(["git", "ls-files", "--error-unmatch", "__init__.py"])
        return git(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _check_device(names: Sequence[str], device: str) -> None:
    if device == "cpu":
        return
    others = [name for name in names if name not in ON_DEVICES]
    if others:
        raise ConfigError(f"bench {others[0]!r} runs on the device cpu only, and {device} was asked for: {', '.join(ON_DEVICES)} run on a device")
    from lewm.devices import check_device

    check_device(device)


@contextmanager
def _threads(num_threads: int | None) -> Iterator[int]:
    """Torch with that many threads, and as it was afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _target(row: "Row", word: str, target: float) -> str:
    return f"{word} {_number(target)}{'x' if row.target_of == 'ratio' else ''} {'met' if row.reaches(target) else 'missed'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
