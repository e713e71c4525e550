"""``lewm demo`` and ``lewm report``: everything at once, and the page about a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lewm.commands.parsing import parse, refresh_card, say, show


@dataclass(frozen=True)
class DemoArguments:
    """Collect, train, evaluate and report on the two-room world, in minutes. Interrupt it freely: the same command goes on where it stopped."""

    out: Path = Path("runs/demo")
    """Where everything goes: a run, with its data in DIR/data and a control run in DIR/control."""
    seed: int = 0
    """Seed of the data, the training and the evaluation."""


@dataclass(frozen=True)
class ReportArguments:
    """Write one self-contained HTML page about a run from whatever was measured so far."""

    run: tyro.conf.Positional[Path]
    """Run directory."""


def demo(words: Sequence[str]) -> None:
    """Run the demo and say where its report is."""
    arguments = parse(DemoArguments, "demo", words)
    from lewm.commands.train import TrainingBar
    from lewm.demo import run_demo

    page = run_demo(arguments.out, seed=arguments.seed, say=say, training_progress=TrainingBar)
    refresh_card(arguments.out)
    if (arguments.out / "data").exists():  # a finished demo may have been relieved of it
        refresh_card(arguments.out / "data")
    show(f"report: {page}")


def report(words: Sequence[str]) -> None:
    """Write the report and say where it is."""
    arguments = parse(ReportArguments, "report", words)
    from lewm.report import write_report

    show(f"report: {write_report(arguments.run)}")
