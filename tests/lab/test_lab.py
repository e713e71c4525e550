"""The lab: what it runs, that nothing is run twice, and what it makes of its cells."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.commands import lab as lab_command
from lewm.commands.lab import LabArguments
from lewm.config_files import load_preset
from lewm.errors import ConfigError, LewmError
from lewm.evaluation.intervals import separation
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.lab import running
from lewm.lab.cells import CELL_FILE, CellSize, read_cell, run_cell
from lewm.lab.figures import draw, draw_sweep
from lewm.lab.grid import SEVEN, STRESSED_WORLDS, TRIALS, TUNING_SEED, WORLDS, Cell, config_of, grid, trials_of, tuning_cells
from lewm.lab.running import TUNED_FILE, LabPlan, choose, finished_records, run_lab
from lewm.lab.summary import early_warning, first_look, summarise, table
from lewm.lab.sweep import SWEPT, WEIGHTS, summarise_sweep, sweep_cells, sweep_settings, sweep_table
from lewm.registry import OBJECTIVES
from lewm.run_directory import write_json

TINY = LabPlan(
    objectives=("none", "lewm"), worlds=("two-room",), num_seeds=1, episode_share=0.02, size=CellSize(step_share=0.02, num_pairs=2, num_clips=32)
)


def test_every_objective_has_eight_trials_of_settings_that_it_knows() -> None:
    for name in OBJECTIVES:
        settings = trials_of(name)
        assert len(settings) == 8
        assert len({json.dumps(each) for each in settings}) == 8
        for trial in settings:
            config_of(Cell(name, "two-room", 0), trial)
    assert set(TRIALS) <= set(OBJECTIVES)
    assert len(tuning_cells(SEVEN)) == 8 * len(SEVEN)


def test_cells_of_a_world_differ_in_objective_and_seed_only() -> None:
    cells = grid(("none", "lewm"), ("atari/pong",), 2)
    assert len({cell.key for cell in cells}) == 4
    configs = [config_of(cell, {}) for cell in cells]
    base = load_preset(WORLDS["atari/pong"].preset)
    for config in configs:
        assert (config.encoder, config.predictor, config.model, config.data, config.planner) == (
            base.encoder,
            base.predictor,
            base.model,
            base.data,
            base.planner,
        )
        assert config.train.num_steps == configs[0].train.num_steps
        assert config.train.batch_size == base.train.batch_size
    assert {(config.objective.name, config.train.seed) for config in configs} == {("none", 0), ("lewm", 0), ("none", 1), ("lewm", 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("lemw",), ("two-room",), 1), "unknown objective 'lemw'. Did you mean 'lewm'?"),
        ((("lewm",), ("two-rom",), 1), "the lab has no world 'two-rom'. Did you mean 'two-room'?"),
        ((("lewm",), ("two-room/corner-tg",), 1), "the lab has no world 'two-room/corner-tg'. Did you mean 'two-room/corner-tag'?"),
        ((("lewm",), ("two-room",), 0), "num_seeds must be at least 1, got 0"),
    ],
)
def test_names_that_the_lab_does_not_know_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(LewmError, match=message):
        grid(*arguments)


def test_a_lab_that_was_stopped_goes_on_without_repeating_a_finished_cell(tmp_path: Path) -> None:
    out = tmp_path / "lab"

    def stop_after_one(text: str) -> None:
        if text.startswith("[1/2]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lab(TINY, out, workers=1, say=stop_after_one)
    finished = {path: path.read_bytes() for path in out.glob("cells/*/cell.json")}
    assert len(finished) == 1
    records = run_lab(TINY, out, workers=1, say=lambda text: None)
    assert len(records) == 2
    assert all(path.read_bytes() == content for path, content in finished.items())
    said: list[str] = []
    assert run_lab(TINY, out, workers=1, say=said.append) == records
    assert "2 of 2 cells are there; running 0 in 1 processes" in said
    for record in records:
        assert "error" not in record
        assert record["num_steps"] == 14
        assert record["early"]["step"] < 2
        assert record["peak_memory_mb"] > 100
    result = summarise(records)
    assert {row["objective"] for row in result["rows"]} == {"none", "lewm"}
    assert "two-room" in table(result)
    draw(result, tmp_path / "lab.png")
    assert (tmp_path / "lab.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match=r"holds a lab with episode_share 0\.02, not 1\.0"):
        run_lab(LabPlan(objectives=("lewm",), worlds=("two-room",), size=TINY.size), out, say=said.append)


def test_a_trial_is_run_on_pairs_of_its_own(tmp_path: Path) -> None:
    out, hashes = tmp_path / "lab", []
    running._collect(TINY, out, "two-room", lambda text: None)
    for cell in (Cell("none", "two-room", TUNING_SEED, trial=0), Cell("none", "two-room", 0)):
        running._prepare(cell, TINY, out, lambda text: None)
        data, pairs, directory = running._places(out, cell)
        run_cell(cell, {}, TINY.size, data, pairs, directory)
        record = read_cell(directory)
        assert record is not None
        assert "error" not in record
        assert record["manifest_sha256"] == PreparedPairs.load(pairs).manifest.sha256
        hashes.append(record["manifest_sha256"])
    assert hashes[0] != hashes[1]


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already exists and holds no lab"):
        run_lab(TINY, tmp_path, say=lambda text: None)


def record(
    objective: str, seed: int, rate: float, *, world: str = "atari/pong", score: float = 0.0, low: float = 0.1, **values: Any
) -> dict[str, Any]:
    outcomes = [True] * round(10 * rate) + [False] * round(10 * (1 - rate))
    return {
        "cell": {"objective": objective, "world": world, "seed": seed, "trial": -1},
        "settings": {"weight": rate},
        "verdict": "healthy" if rate > 0.5 else "collapsed",
        "std_mean": rate,
        "effective_rank": 10 * rate,
        "probe_r2": rate,
        "imagined_r2": None,
        "success": {"rate": rate, "low": 0.0, "high": 1.0},
        "outcomes": outcomes,
        "strongest_floor": {"name": "random", "rate": 0.2},
        "paired_difference": {"rate": rate - 0.2, "low": low, "high": 1.0},
        "early": {"score": score, "step": 1, "verdict": "healthy"},
        "step_ms": 10.0,
        "peak_memory_mb": 500.0,
        "num_tunable_weights": 1,
        **values,
    }


def lab_with(out: Path, *cells: Cell, is_tuned: bool = False, **values: Any) -> None:
    """A lab's place with finished cells, as if they had been run."""
    run_lab(replace(TINY, objectives=(), is_tuned=is_tuned), out, say=lambda text: None)
    for cell in cells:
        write_json(out / "cells" / cell.key / CELL_FILE, record(cell.objective, cell.seed, 0.8, **values) | {"cell": asdict(cell)})


def test_the_table_has_a_row_for_all_finished_cells_of_earlier_plans_but_none_for_trials_and_sweeps(tmp_path: Path) -> None:
    earlier = (*grid(("none", "lewm"), ("atari/pong",), 2), Cell("inverse", "two-room", 0), Cell("mine", "two-room", 0))
    lab_with(tmp_path, Cell("lewm", "two-room", 0), *earlier, *tuning_cells(("ema",)), *sweep_cells(("vicreg",), 1))
    rows = summarise(run_lab(replace(TINY, objectives=("lewm",)), tmp_path, say=lambda text: None))["rows"]
    expected = [("two-room", "lewm", 1), ("two-room", "inverse", 1), ("two-room", "mine", 1), ("atari/pong", "none", 2), ("atari/pong", "lewm", 2)]
    assert [(row["world"], row["objective"], row["num_seeds"]) for row in rows] == expected


def test_the_worlds_of_the_plan_come_first_in_the_table(tmp_path: Path) -> None:
    lab_with(tmp_path, *(Cell("lewm", world, 0) for world in ("two-room", "two-room/video", "atari/pong", "dmc/reacher-easy")))
    worlds = [found["cell"]["world"] for found in finished_records(tmp_path, ["two-room/video", "atari/pong"])]
    assert worlds == ["two-room/video", "atari/pong", "two-room", "dmc/reacher-easy"]


def test_tuning_one_more_objective_keeps_what_was_chosen_for_the_others(tmp_path: Path) -> None:
    chosen = {"lewm": {"weight": 0.3}, "none": {"learning_rate": 2e-3}}
    for objective, settings in chosen.items():
        lab_with(tmp_path, *tuning_cells((objective,)), Cell(objective, "two-room", 0), is_tuned=True, settings=settings)
        run_lab(replace(TINY, objectives=(objective,), is_tuned=True), tmp_path, say=lambda text: None)
    assert json.loads((tmp_path / TUNED_FILE).read_text()) == chosen


def test_a_cell_below_a_nuisance_differs_from_the_plain_one_in_its_data_alone() -> None:
    plain = config_of(Cell("lewm", "two-room", 0), {})
    assert len(STRESSED_WORLDS) == 5
    assert all(config_of(Cell("lewm", world, 0), {}) == plain for world in STRESSED_WORLDS)


@pytest.mark.slow
def test_a_stressed_cell_is_recorded_and_tried_in_the_stressed_world_and_says_the_nuisances_share(tmp_path: Path) -> None:
    plan = replace(TINY, objectives=("lewm",), worlds=("two-room/corner-tag",))
    (found,) = run_lab(plan, tmp_path / "lab", workers=1, say=lambda text: None)
    assert "error" not in found
    assert 0 <= found["nuisance_share"] <= 1
    pairs = PreparedPairs.load(tmp_path / "lab" / "pairs" / "two-room_corner-tag.json")
    assert pairs.manifest.env == "stress/corner-tag/two-room"
    assert pairs.manifest.sha256 == found["manifest_sha256"]


def test_a_captured_row_says_by_what() -> None:
    words = "92% of the latents' variance follows from which episode it is"
    captured = record("lewm", 0, 0.3, world="two-room/corner-tag", verdict="captured by a nuisance", reasons=[words], nuisance_share=0.9)
    result = summarise([captured, record("none", 0, 0.3, world="two-room/corner-tag")])
    assert [row["captures"] for row in result["rows"]] == [[words], []]
    assert result["rows"][0]["nuisance_share"] == 0.9
    assert f"two-room/corner-tag, lewm: {words}" in table(result)
    assert [result[name]["num_cells"] for name in ("early_warning", "early_warning_stressed", "early_warning_all")] == [0, 2, 2]


def test_the_first_look_is_counted_against_the_last_verdict_and_against_planning() -> None:
    healthy, collapsed = ({"score": 0.0, "step": 1, "verdict": name} for name in ("healthy", "collapsed"))
    cells = [
        record("lewm", 0, 0.9, early=healthy),
        record("lewm", 1, 0.9, early=collapsed),
        record("none", 0, 0.1, low=-0.1, early=collapsed),
        record("none", 1, 0.1, low=0.05, early=collapsed),
        {**record("none", 2, 0.1), "error": "a loss of nan"},
    ]
    assert first_look(cells) == {
        "num_cells": 4,
        "num_as_at_the_end": 3,
        "num_right_about_planning": 2,
        "num_right_about_planning_at_the_end": 3,
    }


def test_a_sweep_has_the_same_number_of_settings_of_every_objective_over_two_decades_and_three_batch_sizes() -> None:
    for name in SWEPT:
        settings = sweep_settings(name)
        assert len(settings) == 15
        assert len({setting["batch_size"] for setting in settings}) == 3
        varying = [weight for weight in WEIGHTS[name] if settings[0][weight] > 0]
        assert {round(max(s[weight] for s in settings) / min(s[weight] for s in settings)) for weight in varying} == {100}
        for trial, setting in enumerate(settings):
            config = config_of(Cell(name, "two-room", 0, trial, is_sweep=True), setting)
            assert config.train.batch_size == setting["batch_size"]
    plain = config_of(Cell("lewm", "two-room", 0), {})
    assert config_of(Cell("lewm", "two-room", 0), sweep_settings("lewm")[7]) == plain, "the middle is the objective as it is"
    keys = {cell.key for cell in (*sweep_cells(SWEPT, 2), *tuning_cells(SWEPT), *grid(SWEPT, ("two-room",), 2))}
    assert len(keys) == 3 * (2 * 15 + 8 + 2)
    with pytest.raises(ConfigError, match="there is no sweep for objective 'ema'"):
        sweep_cells(("ema",), 1)


def swept(objective: str, trial: int, rate: float, **values: Any) -> dict[str, Any]:
    settings = sweep_settings(objective)[trial]
    cell = {"objective": objective, "world": "two-room", "seed": 0, "trial": trial, "is_sweep": True}
    return record(objective, 0, rate, **values) | {"cell": cell, "settings": settings}


def test_the_width_of_a_region_is_the_share_of_settings_that_end_healthy_or_near_the_best(tmp_path: Path) -> None:
    cells = [swept("lewm", trial, rate) for trial, rate in enumerate((0.2, 0.8, 0.9, 1.0))]
    cells += [swept("vicreg", 0, 0.6), swept("vicreg", 1, 0.5), {**swept("vicreg", 2, 0.6), "error": "a loss of nan"}]
    result = summarise_sweep(cells)
    lewm, vicreg = (result["objectives"][name] for name in ("lewm", "vicreg"))
    assert (lewm["share_healthy"], lewm["share_near_own_best"], lewm["share_near_best"]) == (0.75, 0.5, 0.5)
    assert (vicreg["share_healthy"], vicreg["share_near_own_best"], vicreg["share_near_best"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 0.0)
    text = sweep_table(result)
    assert "lewm: 4 of 15 settings run; healthy 0.75" in text
    assert "failed" in text
    draw_sweep(result, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000


def test_a_row_is_the_mean_of_its_seeds_with_an_interval_over_them() -> None:
    result = summarise([record("lewm", 0, 0.6), record("lewm", 1, 0.8), record("none", 0, 0.0), {**record("none", 1, 0.0), "error": "a loss of nan"}])
    lewm, none = result["rows"]
    assert lewm["verdicts"] == {"healthy": 2}
    assert lewm["success"]["rate"] == pytest.approx(0.7)
    assert lewm["success"]["low"] < 0.6 < 0.8 < lewm["success"]["high"]
    assert lewm["rate_per_seed"] == [0.6, 0.8]
    assert none["errors"] == ["a loss of nan"]
    assert none["num_seeds"] == 2
    assert len(none["rate_per_seed"]) == 1
    assert "a loss of nan" in table(result)


def test_trials_are_chosen_by_goals_reached_then_by_what_can_be_read_off() -> None:
    failed = {**record("lewm", 0, 1.0), "error": "diverged"}
    tied = {**record("lewm", 0, 0.6), "probe_r2": 0.9, "settings": {"weight": 5.0}}
    assert choose([record("lewm", 0, 0.2), record("lewm", 0, 0.6), tied, failed]) == {"weight": 5.0}
    assert choose([failed]) == {}


def test_separation_is_how_often_a_positive_scores_above_a_negative() -> None:
    scores, is_positive = np.array([0.9, 0.5, 0.5, 0.1, 0.7]), np.array([True, True, False, False, False])
    wins = sum((p > n) + 0.5 * (p == n) for p in (0.9, 0.5) for n in (0.5, 0.1, 0.7)) / 6
    found = separation(scores, is_positive)
    assert found["rate"] == pytest.approx(wins)
    assert found["low"] <= wins <= found["high"] <= 1
    assert separation(-scores, is_positive)["rate"] == pytest.approx(1 - wins)
    assert found == separation(scores, is_positive), "the same resamples at every call"
    with pytest.raises(ConfigError, match="separation needs scores of both classes, got 0 positives and 2 negatives"):
        separation(np.array([1.0, 2.0]), np.array([False, False]))


def test_the_early_warning_is_judged_on_worlds_that_its_thresholds_do_not_come_from() -> None:
    cells = [record("none", seed, 0.1, score=1.0 + seed, low=-0.1) for seed in range(3)]
    cells += [record("lewm", seed, 0.9, score=-2.0 + seed) for seed in range(3)]
    elsewhere = [record("lewm", 0, 0.9, world="two-room", score=99.0)]
    found = early_warning(cells + elsewhere)
    assert found["auroc"]["rate"] == 1.0
    assert (found["num_cells"], found["num_without_plan"]) == (6, 3)
    assert early_warning(cells[:3])["auroc"] is None


def test_the_command_runs_the_same_lab_by_default() -> None:
    arguments = LabArguments()
    assert (arguments.objectives, arguments.seeds, arguments.sweep) == (None, None, False)
    assert tuple(arguments.worlds.split(",")) == tuple(WORLDS)
    assert f"default: {','.join(SEVEN)}" in Path(lab_command.__file__).read_text()
    assert all(name in Path(lab_command.__file__).read_text() for name in STRESSED_WORLDS)
