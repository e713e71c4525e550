"""Running the comparison: pairs and floors once per distance, cells in processes of one thread each, nothing twice, decisions timed at the end.

``<out>/pairs/D<distance>.json`` holds the pairs with floors and expert, ``heads/`` the heads that were trained, ``cells/`` one result of
``lewm eval success`` per method, run and distance, ``latency.json`` what decisions cost (``latency-cuda.json``: on a GPU). Whatever is finished is
not done again, on whichever device it was done.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lewm.checkpoint import checkpoint_sha256, find_checkpoint, load_checkpoint
from lewm.devices import check_device
from lewm.errors import ConfigError, DataError
from lewm.evaluation.prepared_pairs import PreparedPairs, prepare_pairs
from lewm.evaluation.protocol import check_disjoint
from lewm.evaluation.workflow import training_seeds
from lewm.planner_lab.cells import SIMULATOR, Cell, CellPlace, error_of, finished, run_cell
from lewm.planner_lab.heads import keep_latents, run_with_head, train_heads, why_missing
from lewm.planner_lab.latency import is_measured, latency_path, measure, read_latency
from lewm.planner_lab.methods import CEILINGS, METHODS, is_for
from lewm.planner_lab.plan import ComparisonPlan, Ground, RunFacts, check_place, write_plan
from lewm.planning.proposing import uses_training_data
from lewm.run_directory import write_json

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The cells of a comparison, and why some are not among them."""

    cells: tuple[Cell, ...]
    left_out: dict[str, str]
    """Method, or method and run -> reason."""


def list_cells(plan: ComparisonPlan, ground: Ground, out: Path) -> Listing:
    """Every cell that can be run now: distance by distance, and in each run by run, so that what is stopped has all methods on the same pairs."""
    cells: list[Cell] = []
    left_out: dict[str, str] = {}
    for distance in plan.distances:
        ceilings = [name for name in plan.methods if name in CEILINGS]
        cells += [Cell(method=name, run_name=SIMULATOR, distance=distance, num_pairs=plan.num_pairs) for name in ceilings]
        for run in ground.runs:
            for name in plan.methods:
                if name in CEILINGS:
                    continue
                try:
                    cells.append(_cell(name, run, plan, distance, out))
                except ConfigError as error:
                    left_out[f"{name}, {run.name}"] = str(error)
        cells += [_policy_cell(name, path, plan, distance) for name, paths in plan.policies.items() for path in paths]
    return Listing(cells=tuple(cells), left_out=left_out)


def run_comparison(plan: ComparisonPlan, out: Path, *, workers: int = 2, say: Say) -> None:
    """Do what is not done yet; ``say`` is told what happens.

    ``ConfigError`` for runs that do not belong together and for a directory that holds another comparison, ``DeviceError`` for a device that is not
    there, ``DataError`` if a run was trained on an episode of the pairs.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    check_device(plan.device)
    ground = Ground.of(plan)
    check_place(plan, ground, out)
    pairs = {distance: _prepare(plan, ground, distance, out, say) for distance in plan.distances}
    for run in ground.runs:
        seeds = training_seeds(load_checkpoint(run.path))
        if seeds is not None:
            for prepared in pairs.values():
                check_disjoint(prepared.manifest, seeds)
    with _pool(workers) as pool:
        _prepare_runs(plan, ground, out, pool, say)
        _run_cells(list_cells(plan, ground, out).cells, plan, ground, pairs, out, pool, say)
    _measure_latency(plan, ground, out, say)


def load_pairs(plan: ComparisonPlan, out: Path) -> dict[int, PreparedPairs]:
    """The pairs that are there, by distance."""
    return {distance: PreparedPairs.load(path) for distance in plan.distances if (path := _pairs_path(out, distance)).is_file()}


def _cell(name: str, run: RunFacts, plan: ComparisonPlan, distance: int, out: Path) -> Cell:
    """``ConfigError`` with the reason why a method cannot act with a run."""
    method = METHODS[name]
    planner = method.settings(run.planner)
    if not is_for(planner, run.action_kind):
        raise ConfigError(f"planner {planner.name!r} is for continuous actions")
    path: Path | None = run.path
    if method.head is not None:
        path = run_with_head(run, method.head, out, plan.head_steps)
    if path is None:
        raise ConfigError(why_missing(run, str(method.head), out))
    sha256 = run.sha256 if path == run.path else checkpoint_sha256(find_checkpoint(path))
    num_pairs = max(2, round(plan.num_pairs * method.pair_share))
    return Cell(method=name, run_name=run.name, distance=distance, num_pairs=num_pairs, run=path, sha256=sha256, planner=planner)


def _policy_cell(name: str, path: Path, plan: ComparisonPlan, distance: int) -> Cell:
    sha256 = checkpoint_sha256(find_checkpoint(path))
    return Cell(method=name, run_name=f"policy-{path.resolve().name}", distance=distance, num_pairs=plan.num_pairs, run=path, sha256=sha256)


def _prepare(plan: ComparisonPlan, ground: Ground, distance: int, out: Path, say: Say) -> PreparedPairs:
    """The pairs of a distance with floors and expert, made unless they are there: no method has a part in them."""
    path = _pairs_path(out, distance)
    if path.is_file():
        try:
            return PreparedPairs.load(path)
        except DataError as error:
            say(f"{error}; making them again")
    say(f"making {plan.num_pairs} pairs per stratum of {ground.env} at D = {distance}, and their floors")
    prepared = prepare_pairs(ground.env, ground.env_options, distances=(distance,), num_pairs=plan.num_pairs, **_pair_settings(plan, ground))
    write_plan(plan, ground, out)
    prepared.save(path)
    return prepared


def _prepare_runs(plan: ComparisonPlan, ground: Ground, out: Path, pool: ProcessPoolExecutor, say: Say) -> None:
    """Train the heads that are missing, if that is asked for, and encode the data for whatever looks things up there while acting."""
    methods = [METHODS[name] for name in plan.methods if name in METHODS]
    wanted = list(dict.fromkeys(method.head for method in methods if method.head is not None)) if plan.is_training_heads else []
    futures: dict[Future[None], str] = {}
    for run in ground.runs:
        missing = [head for head in wanted if run_with_head(run, head, out, plan.head_steps) is None]
        if missing:
            futures[pool.submit(train_heads, run, missing, plan.data, out, plan.head_steps, plan.device)] = (
                f"heads of {run.name}: {', '.join(missing)}"
            )
    _wait(futures, say)
    cells = list_cells(plan, ground, out).cells
    looking = dict.fromkeys(cell.run for cell in cells if cell.run is not None and cell.planner is not None and uses_training_data(cell.planner))
    _wait({pool.submit(keep_latents, run, plan.data, plan.device): f"latents of {run}" for run in looking}, say)


def _wait(futures: Mapping[Future[Any], str], say: Say) -> None:
    """Until all are done; one that returns something returns what went wrong."""
    for future in as_completed(futures):
        error = future.result()
        say(f"done: {futures[future]}" if error is None else f"failed: {futures[future]}: {error}")


def _run_cells(
    cells: Sequence[Cell],
    plan: ComparisonPlan,
    ground: Ground,
    pairs: dict[int, PreparedPairs],
    out: Path,
    pool: ProcessPoolExecutor,
    say: Say,
) -> None:
    sizes = {(cell.distance, cell.num_pairs) for cell in cells}
    hashes = {(distance, num_pairs): pairs[distance].first(num_pairs).manifest.sha256 for distance, num_pairs in sizes}
    missing = [cell for cell in cells if finished(cell, out, hashes[cell.distance, cell.num_pairs]) is None]
    say(f"{len(cells) - len(missing)} of {len(cells)} cells are there; running {len(missing)}")
    start_s = time.monotonic()
    futures = {pool.submit(run_cell, cell, _place(cell, plan, ground, out)): cell for cell in missing}
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            future.result()
            cell = futures[future]
            result = finished(cell, out, hashes[cell.distance, cell.num_pairs])
            words = error_of(cell, out) if result is None else f"success {result['success']['rate']:.2f}"
            say(f"[{number}/{len(missing)}] {cell.key}: {words} ({time.monotonic() - start_s:.0f} s)")
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _measure_latency(plan: ComparisonPlan, ground: Ground, out: Path, say: Say) -> None:
    """Of every method with its first run, on the pairs of the largest distance."""
    if plan.num_latency_episodes == 0:
        return
    num_episodes, distance = min(plan.num_latency_episodes, plan.num_pairs), max(plan.distances)
    firsts: dict[str, Cell] = {}
    for cell in list_cells(plan, ground, out).cells:
        if cell.run is not None and cell.distance == distance:
            firsts.setdefault(cell.method, cell)
    measured = read_latency(out, plan.device)
    with _pool(1) as pool:
        for name, cell in firsts.items():
            if is_measured(measured.get(name, {}), cell, num_episodes, plan.device):
                continue
            measured[name] = pool.submit(measure, cell, _place(cell, plan, ground, out), num_episodes).result()
            write_json(latency_path(out, plan.device), measured)
            say(f"timed {name}: {measured[name].get('error') or '{p50_ms:.1f} ms a decision'.format(**measured[name])}")


def _pair_settings(plan: ComparisonPlan, ground: Ground) -> dict[str, Any]:
    return {"seed": plan.seed, "strata": ground.strata, **plan.kind_of_pairs}


def _place(cell: Cell, plan: ComparisonPlan, ground: Ground, out: Path) -> CellPlace:
    return CellPlace(
        env=ground.env,
        env_options=ground.env_options,
        pair_settings=_pair_settings(plan, ground),
        data=plan.data,
        pairs=_pairs_path(out, cell.distance),
        out=out,
        device=plan.device,
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_use_one_thread)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _pairs_path(out: Path, distance: int) -> Path:
    return out / "pairs" / f"D{distance}.json"
