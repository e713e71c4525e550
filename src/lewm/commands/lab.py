"""``lewm lab``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lewm.commands.parsing import parse, say, show
from lewm.errors import ConfigError
from lewm.lab.grid import SEVEN, WORLDS


@dataclass(frozen=True)
class LabArguments:
    """Train every objective on the same worlds, data, networks, steps and seeds, and show what became of each."""

    out: Path = Path("runs/lab")
    """Where the lab works; a lab that was stopped there goes on."""
    objectives: str = ",".join(SEVEN)
    """Names with commas between (`lewm list objectives`)."""
    worlds: str = ",".join(WORLDS)
    """Worlds with commas between."""
    seeds: int = 3
    """Training seeds of each objective on each world."""
    tune: bool = False
    """First give each objective eight trials on a seed of two-room, and keep the best of them for all worlds."""
    workers: int = 2
    """Cells at a time, one thread each."""
    step_share: float = 1.0
    """Share of the worlds' training steps: a cell trains for 75 s at most where 1 was measured."""
    episode_share: float = 1.0
    """Share of the worlds' data."""
    episodes: int = 24
    """Start/goal pairs per cell and stratum."""


def lab(words: Sequence[str]) -> None:
    """Run what is missing and print the table."""
    arguments = parse(LabArguments, "lab", words)
    for name in ("step_share", "episode_share", "episodes"):
        if getattr(arguments, name) <= 0:
            raise ConfigError(f"{name} must be above 0, got {getattr(arguments, name)}")
    from lewm.lab.cells import CellSize
    from lewm.lab.figures import draw
    from lewm.lab.running import LAB_FILE, LabPlan, check_objectives, run_lab
    from lewm.lab.summary import summarise, table
    from lewm.run_directory import write_json

    plan = LabPlan(
        objectives=check_objectives(_names(arguments.objectives)),
        worlds=_names(arguments.worlds),
        num_seeds=arguments.seeds,
        is_tuned=arguments.tune,
        episode_share=arguments.episode_share,
        size=CellSize(step_share=arguments.step_share, num_pairs=arguments.episodes),
    )
    result = summarise(run_lab(plan, arguments.out, workers=arguments.workers, say=say))
    write_json(arguments.out / LAB_FILE, result)
    draw(result, arguments.out / "lab.png")
    show(table(result))
    say(f"wrote {arguments.out / LAB_FILE} and {arguments.out / 'lab.png'}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
