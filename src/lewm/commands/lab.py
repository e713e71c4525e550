"""``lewm lab``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lewm.commands.parsing import parse, say, show
from lewm.errors import ConfigError
from lewm.lab.grid import SEVEN, WORLDS
from lewm.run_directory import write_json
from lewm.setting_checks import Device

if TYPE_CHECKING:  # reading the arguments needs no more of the lab than its tables
    from lewm.lab.running import LabPlan


@dataclass(frozen=True)
class LabArguments:
    """Train every objective on the same worlds, data, networks, steps and seeds, and show what became of each."""

    out: Path = Path("runs/lab")
    """Where the lab works; a lab that was stopped there goes on."""
    objectives: str | None = None
    """Names with commas between (`lewm list objectives`); default: none,stopgrad,ema,vicreg,pldm,reconstruct,lewm, for a sweep lewm,vicreg,pldm."""
    worlds: str = ",".join(WORLDS)
    """Worlds with commas between; below a nuisance: two-room/corner-tag, two-room/distractor, two-room/video, two-room/pixel-noise,
    two-room/low-dimension."""
    seeds: int | None = None
    """Training seeds of each objective on each world, or of each setting of a sweep; default: 3, for a sweep 1."""
    sweep: bool = False
    """Instead measure, on two-room, over which weights (two decades) and batch sizes (three) each objective works."""
    tune: bool = False
    """First give each objective eight trials on a seed of two-room, and keep the best of them for all worlds."""
    workers: int = 2
    """Cells at a time, one thread each."""
    device: Device = "cpu"
    """Where cells train, are looked at and plan. Cells that are finished are kept, whatever it was."""
    step_share: float = 1.0
    """Share of the worlds' training steps: a cell trains for 75 s at most where 1 was measured."""
    episode_share: float = 1.0
    """Share of the worlds' data."""
    episodes: int = 24
    """Start/goal pairs per cell and stratum."""


def lab(words: Sequence[str]) -> None:
    """Run what is missing and print the table of all that ``--out`` holds."""
    arguments = parse(LabArguments, "lab", words)
    for name in ("step_share", "episode_share", "episodes"):
        if getattr(arguments, name) <= 0:
            raise ConfigError(f"{name} must be above 0, got {getattr(arguments, name)}")
    from lewm.lab.cells import CellSize
    from lewm.lab.running import LabPlan, check_objectives
    from lewm.lab.sweep import SWEPT

    if arguments.sweep and (arguments.tune or arguments.worlds != LabArguments.worlds):
        raise ConfigError("--sweep runs every setting on two-room; leave --tune and --worlds out")
    objectives = _names(arguments.objectives) if arguments.objectives is not None else SWEPT if arguments.sweep else SEVEN
    plan = LabPlan(
        objectives=check_objectives(objectives),
        worlds=_names(arguments.worlds),
        num_seeds=arguments.seeds if arguments.seeds is not None else 1 if arguments.sweep else 3,
        is_tuned=arguments.tune,
        episode_share=arguments.episode_share,
        size=CellSize(step_share=arguments.step_share, num_pairs=arguments.episodes),
        device=arguments.device,
    )
    (_sweep if arguments.sweep else _grid)(plan, arguments.out, arguments.workers)


def _grid(plan: "LabPlan", out: Path, workers: int) -> None:
    from lewm.lab.figures import draw
    from lewm.lab.running import LAB_FILE, run_lab
    from lewm.lab.summary import summarise, table

    result = summarise(run_lab(plan, out, workers=workers, say=say))
    draw(result, out / "lab.png")
    _write(result, table(result), out / LAB_FILE)


def _sweep(plan: "LabPlan", out: Path, workers: int) -> None:
    from lewm.lab.figures import draw_sweep
    from lewm.lab.running import SWEEP_FILE, run_sweep
    from lewm.lab.sweep import summarise_sweep, sweep_table

    result = summarise_sweep(run_sweep(plan, out, workers=workers, say=say))
    draw_sweep(result, out / "sweep.png")
    _write(result, sweep_table(result), out / SWEEP_FILE)


def _write(result: dict[str, Any], text: str, file: Path) -> None:
    write_json(file, result | {"table": text})
    show(text)
    say(f"wrote {file} and {file.with_suffix('.png')}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
