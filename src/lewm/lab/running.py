"""Running the lab: data once per world, cells in processes of one thread each, nothing twice.

``<out>/data/<world>`` holds the datasets, ``pairs/<world>.json`` the start/goal pairs with their floors, ``cells/<cell>`` the runs with their
``cell.json``, ``tuned.json`` what the trials chose, ``lab.json`` and ``lab.png`` the result of all cells there (``sweep.json`` and
``sweep.png`` that of a sweep). Whatever is finished is not done again, so a lab that was killed goes on where it was.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lewm.data.collect import collect
from lewm.data.collection_presets import load_collection
from lewm.data.episodes import EpisodeStore
from lewm.devices import check_device
from lewm.envs.stress import FAMILY
from lewm.errors import ConfigError, DataError
from lewm.evaluation.prepared_pairs import PreparedPairs, prepare_pairs
from lewm.lab.cells import CELL_FILE, CellSize, read_cell, run_cell
from lewm.lab.grid import SEVEN, STRESSED_WORLDS, TUNED_WORLD, WORLDS, Cell, Settings, grid, lab_world, trials_of, tuning_cells
from lewm.lab.processes import run_apart
from lewm.lab.sweep import sweep_cells, sweep_settings
from lewm.registry import OBJECTIVES
from lewm.run_directory import write_json
from lewm.setting_checks import Device

FORMAT = 2
LAB_FILE, SWEEP_FILE, TUNED_FILE = "lab.json", "sweep.json", "tuned.json"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class LabPlan:
    """What a lab is to do."""

    objectives: tuple[str, ...] = SEVEN
    worlds: tuple[str, ...] = tuple(WORLDS)
    num_seeds: int = 3
    is_tuned: bool = False
    """Whether each objective first gets its eight trials on two-room."""
    episode_share: float = 1.0
    """Of the worlds' data."""
    size: CellSize = field(default_factory=CellSize)
    device: Device = "cpu"
    """Where cells train and are measured; those that are finished are finished on any device."""


def run_lab(plan: LabPlan, out: Path, *, workers: int = 2, say: Say) -> list[dict[str, Any]]:
    """Do what is not done yet and return the records of all cells that ``out`` holds, of earlier plans too; ``say`` is told what happens.

    ``ConfigError`` for names that are not known, and for a directory that holds a lab of another plan; ``DeviceError`` for a device
    that is not there.
    """
    cells = grid(plan.objectives, plan.worlds, plan.num_seeds)
    _check_place(plan, out, workers)
    worlds = dict.fromkeys([*([TUNED_WORLD] if plan.is_tuned else []), *plan.worlds])
    for world in worlds:
        _collect(plan, out, world, say)
    settings: dict[str, Settings] = {}
    if plan.is_tuned:
        trials = tuning_cells(plan.objectives)
        _run(trials, {cell: trials_of(cell.objective)[cell.trial] for cell in trials}, plan, out, workers, say)
        settings = _chosen(trials, out)
        write_json(out / TUNED_FILE, _tuned_before(out) | settings)
    _run(cells, {cell: settings.get(cell.objective, {}) for cell in cells}, plan, out, workers, say)
    return finished_records(out, plan.worlds)


def run_sweep(plan: LabPlan, out: Path, *, workers: int = 2, say: Say) -> list[dict[str, Any]]:
    """Every objective of the plan with every setting of its sweep, on two-room; the rest as ``run_lab``."""
    cells = sweep_cells(plan.objectives, plan.num_seeds)
    _check_place(plan, out, workers)
    _collect(plan, out, TUNED_WORLD, say)
    _run(cells, {cell: sweep_settings(cell.objective)[cell.trial] for cell in cells}, plan, out, workers, say)
    return _records(cells, out)


def finished_records(out: Path, first_worlds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Those of every finished cell in ``out`` but trials and sweeps, world by world and objective by objective.

    After ``first_worlds`` come the lab's others, after the seven objectives of every lab those of their table, and last what neither knows.
    """
    worlds, objectives = (list(dict.fromkeys(names)) for names in ([*first_worlds, *WORLDS, *STRESSED_WORLDS], [*SEVEN, *OBJECTIVES]))

    def place(record: dict[str, Any]) -> tuple[int, str, int, str, int]:
        cell = Cell(**record["cell"])
        return _rank(worlds, cell.world), cell.world, _rank(objectives, cell.objective), cell.objective, cell.seed

    records = [record for file in out.glob(f"cells/*/{CELL_FILE}") if (record := read_cell(file.parent)) is not None]
    return sorted((record for record in records if record["cell"]["trial"] < 0), key=place)


def choose(records: Sequence[dict[str, Any]]) -> Settings:
    """The settings of the trial that reached most goals; of equal ones, of the one whose latents the state is read off best; then of the first."""
    usable = [record for record in records if "error" not in record]
    if not usable:
        return {}
    best = max(usable, key=lambda record: (record["success"]["rate"], record["probe_r2"] if record["probe_r2"] is not None else float("-inf")))
    return dict(best["settings"])


def _records(cells: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    return [record for cell in cells if (record := read_cell(_directory(out, cell))) is not None]


def _rank(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _tuned_before(out: Path) -> dict[str, Settings]:
    """What earlier trials chose there, by objective."""
    path = out / TUNED_FILE
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _chosen(trials: Sequence[Cell], out: Path) -> dict[str, Settings]:
    by_objective: dict[str, list[dict[str, Any]]] = {}
    for cell in trials:
        record = read_cell(_directory(out, cell))
        if record is not None:
            by_objective.setdefault(cell.objective, []).append(record)
    return {objective: choose(records) for objective, records in by_objective.items()}


def _check_place(plan: LabPlan, out: Path, workers: int) -> None:
    """Refuse to mix plans whose cells would not be alike; more objectives, worlds or seeds may be added."""
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    check_device(plan.device)
    identity = {"format": FORMAT, "is_tuned": plan.is_tuned, "episode_share": plan.episode_share, "size": asdict(plan.size)}
    path = out / "plan.json"
    if path.is_file():
        before = json.loads(path.read_text())
        for name, value in identity.items():
            if before.get(name) != value:
                raise ConfigError(
                    f"{str(out)!r} holds a lab with {name} {before.get(name)!r}, not {value!r}; continue it as it was, or choose another --out"
                )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{str(out)!r} already exists and holds no lab; choose another --out")
    write_json(path, identity)


def _collect(plan: LabPlan, out: Path, world: str, say: Say) -> None:
    about = lab_world(world)
    preset = load_collection(about.collection)
    num_episodes = max(8, round(about.num_episodes * plan.episode_share))
    env = preset.env if about.nuisance is None else f"{FAMILY}{about.nuisance}/{preset.env}"
    say(f"collecting {num_episodes} episodes of {env}")
    place = _data(out, world)
    collect(
        env,
        place,
        episodes=num_episodes,
        policy=preset.policy,
        max_env_steps=preset.max_env_steps,
        env_options=preset.env_options,
        policy_options=preset.policy_options,
        resume=place.exists(),
        command="lewm lab",
    )


def _prepare(cell: Cell, plan: LabPlan, out: Path, say: Say) -> None:
    """Make the pairs of a cell and try the scripted policies on them, unless that is done: no cell's model has a part in it."""
    path = _pairs(out, cell)
    if path.is_file():
        try:
            PreparedPairs.load(path)
            return
        except DataError as error:
            say(f"{error}; making them again")
    env = EpisodeStore(_data(out, cell.world)).env
    say(f"making {plan.size.num_pairs} pairs per stratum of {env['name']} and their floors")
    distances = (lab_world(cell.world).distance_env_steps,)
    prepare_pairs(env["name"], dict(env["options"]), distances=distances, num_pairs=plan.size.num_pairs, seed=cell.pair_seed).save(path)


def _run(cells: Sequence[Cell], settings: dict[Cell, Settings], plan: LabPlan, out: Path, workers: int, say: Say) -> None:
    missing = [cell for cell in cells if read_cell(_directory(out, cell)) is None]
    say(f"{len(cells) - len(missing)} of {len(cells)} cells are there; running {len(missing)} in {workers} processes")
    if not missing:
        return
    for cell in {_pairs(out, cell): cell for cell in missing}.values():
        _prepare(cell, plan, out, say)
    by_key = {cell.key: cell for cell in missing}
    jobs = {key: (cell, settings[cell], plan.size, *_places(out, cell), plan.device) for key, cell in by_key.items()}
    with closing(run_apart(run_cell, jobs, workers)) as finished:
        for number, key in enumerate(finished, start=1):
            record = read_cell(_directory(out, by_key[key])) or {}
            words = record.get("error") or f"{record.get('verdict')}, success {record['success']['rate']:.2f}"
            say(f"[{number}/{len(missing)}] {key}: {words} ({record.get('seconds', 0):.0f} s)")


def _places(out: Path, cell: Cell) -> tuple[Path, Path, Path]:
    """Of a cell's data, pairs and results."""
    return _data(out, cell.world), _pairs(out, cell), _directory(out, cell)


def _directory(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.key


def _data(out: Path, world: str) -> Path:
    return out / "data" / world.replace("/", "_")


def _pairs(out: Path, cell: Cell) -> Path:
    return out / "pairs" / f"{cell.world.replace('/', '_')}{'-trials' if cell.is_tuning else ''}.json"


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each in the table; ``UnknownNameError`` otherwise."""
    for name in names:
        OBJECTIVES.entry(name)
    return tuple(names)
