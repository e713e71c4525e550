"""``lewm bench``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from lewm.bench.suite import BENCHES, ON_DEVICES, ORDER, BenchOptions, bench_table, row_words, run_benches
from lewm.commands.parsing import command_line, console, parse, say, write_result

if TYPE_CHECKING:
    from lewm.bench.timing import Row


@dataclass(frozen=True)
class BenchArguments:
    """Measure speed against a plain reference in the same run: sigreg, render, clips, train, paper, plan, or all of them."""

    name: tyro.conf.Positional[str | None] = None
    """Only this one; default: all, in a few minutes, or all that have a meaning on the device."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks run: sigreg, train, paper and plan can run on cuda."""
    json: Path | None = None
    """Also write the figures, with hardware, versions and commit, to this file."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""
    compile: bool = False
    """Also measure compiled SIGReg and, on cuda, compiled networks in paper; imagine compiled in plan. Compiling takes minutes and a C++ compiler (on
    cuda: a C compiler)."""
    quick: bool = False
    """Tiny sizes, to see that everything runs: the figures mean nothing."""


def bench(words: Sequence[str]) -> None:
    """Run one benchmark or all of them and print a table of each as soon as it is there."""
    arguments = parse(BenchArguments, "bench", words)
    if arguments.name is not None:
        BENCHES.entry(arguments.name)
    everything = ORDER if arguments.device == "cpu" else ON_DEVICES
    names = everything if arguments.name is None else (arguments.name,)
    say(f"running {', '.join(names)}: figures are worth something only while nothing else runs")
    run_benches(
        names,
        BenchOptions(is_quick=arguments.quick, use_compile=arguments.compile, device=arguments.device),
        num_threads=arguments.num_threads,
        command=command_line("bench", words),
        measured=lambda row, result: _keep(row, result, arguments.json),
        done=lambda name, rows: console().print(bench_table(name, rows), markup=False),
    )


def _keep(row: "Row", result: dict[str, Any], file: Path | None) -> None:
    """Say that a row is there and write the file anew, so that an interruption loses nothing that was measured."""
    say(row_words(row))
    write_result(file, result)
