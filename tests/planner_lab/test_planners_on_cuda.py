"""``lewm planners --device``: what another device changes, what it leaves, and that everything runs on a GPU."""

import json
from pathlib import Path

import pytest
import torch
from tiny_comparison import plan_of

from lewm.commands.planners import planners
from lewm.errors import DeviceError
from lewm.evaluation.across_seeds import read_success
from lewm.planner_lab.cells import result_path, run_cell
from lewm.planner_lab.heads import run_with_head, train_heads
from lewm.planner_lab.latency import identity, latency_path, read_latency
from lewm.planner_lab.methods import METHODS, RECIPES
from lewm.planner_lab.plan import ComparisonPlan, Ground, RunFacts
from lewm.planner_lab.running import _place, _prepare, list_cells, run_comparison
from lewm.planner_lab.summary import find, summarise
from lewm.planner_lab.table import text_tables
from lewm.run_directory import write_json
from lewm.versions import hardware

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that it is not refused")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def on_cpu(runs: tuple[Path, ...], data: Path) -> tuple[ComparisonPlan, Path]:
    """A comparison of one method with one run that was done on a CPU, and whose decisions were timed there."""
    out, plan = data.parent / "on-cpu", plan_of((runs[0],), data, methods=("cem",), num_pairs=2)
    ground = Ground.of(plan)
    _prepare(plan, ground, 8, out, lambda text: None)
    (cell,) = list_cells(plan, ground, out).cells
    run_cell(cell, _place(cell, plan, ground, out))
    timed = {"identity": identity(cell, 1), "hardware": "a CPU", "p50_ms": 7.0, "p95_ms": 9.0, "ms_per_env_step": 1.5, "load_average": 0.5}
    write_json(latency_path(out, "cpu"), {"cem": timed})
    return plan, out


@needs_no_gpu
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        DeviceError, match=r"device cuda \(1 of it\) was asked for and 0 were found; install a CUDA build of torch or use the device cpu"
    ):
        planners([str(runs[0]), "--data", str(data), "--out", str(out), "--device", "cuda"])
    assert not out.exists()


@pytest.mark.parametrize("head", ["bc", "intent"])
def test_a_head_counts_as_the_same_whatever_device_it_was_trained_on(head: str, runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    run = RunFacts.of(runs[0])
    train_heads(run, [head], data, tmp_path, 2)
    (description,) = (tmp_path / "heads" / run.name / head).glob("checkpoints/*/config.json")
    text = description.read_text()
    assert text.count('"device": "cpu"') == 2  # of the world model's training and of the head's
    description.write_text(text.replace('"device": "cpu"', '"device": "cuda"'))
    assert run_with_head(run, head, tmp_path, 2) == tmp_path / "heads" / run.name / head


def test_a_cell_that_was_finished_on_one_device_is_finished_on_another(on_cpu: tuple[ComparisonPlan, Path]) -> None:
    plan, out = on_cpu
    elsewhere = plan_of(plan.runs, plan.data, methods=("cem",), num_pairs=2, device="cuda")
    assert find(elsewhere, Ground.of(elsewhere), out).not_measured == ()


def test_a_result_says_on_which_hardware_it_was_made(on_cpu: tuple[ComparisonPlan, Path]) -> None:
    plan, out = on_cpu
    (cell,) = list_cells(plan, Ground.of(plan), out).cells
    assert read_success(result_path(out, cell))["plan_ms"]["hardware"] == hardware()


def test_a_table_has_the_times_of_one_device_alone(on_cpu: tuple[ComparisonPlan, Path]) -> None:
    plan, out = on_cpu
    assert "decisions timed alone on one thread of a CPU, load" in text_tables(summarise(plan, out))
    elsewhere = plan_of(plan.runs, plan.data, methods=("cem",), num_pairs=2, device="cuda")
    (row,) = [row for row in summarise(elsewhere, out)["rows"] if row["method"] == "cem"]
    assert row["latency"] is None
    timed = read_latency(out)["cem"] | {"hardware": "a GPU", "p50_ms": 2.0}
    write_json(latency_path(out, "cuda"), {"cem": timed})
    assert "decisions timed alone on the device a GPU, load" in text_tables(summarise(elsewhere, out))
    assert read_latency(out)["cem"]["p50_ms"] == 7.0


def test_a_time_on_one_device_is_not_taken_for_one_on_another(on_cpu: tuple[ComparisonPlan, Path]) -> None:
    plan, out = on_cpu
    (cell,) = list_cells(plan, Ground.of(plan), out).cells
    assert identity(cell, 1, "cuda") != identity(cell, 1, "cpu")
    assert "device" not in identity(cell, 1, "cpu")  # what was timed before there was a choice is still of the CPU


@pytest.mark.gpu
@needs_gpu
def test_every_method_runs_on_a_gpu_and_its_heads_train_there(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    plan = plan_of((runs[0],), data, methods=tuple(METHODS), num_pairs=2, is_training_heads=True, head_steps=2, device="cuda")
    run_comparison(plan, tmp_path / "out", workers=4, say=lambda text: None)
    found = find(plan, Ground.of(plan), tmp_path / "out")
    assert (found.left_out, found.errors, found.not_measured) == ({}, {}, ())
    for head in RECIPES:
        (file,) = (tmp_path / "out" / "heads" / "seed0" / head).glob("checkpoints/*/config.json")
        description = json.loads(file.read_text())
        assert description["heads"][RECIPES[head].stage]["device"] == "cuda"
    latency = read_latency(tmp_path / "out", "cuda")
    assert set(latency) == set(METHODS)
    assert all(each["hardware"] == hardware("cuda") and each["p50_ms"] > 0 for each in latency.values())
    for file in (tmp_path / "out" / "cells").glob("*.json"):
        assert torch.cuda.get_device_name() in read_success(file)["plan_ms"]["hardware"]


@pytest.mark.gpu
@needs_gpu
def test_what_was_done_on_a_gpu_is_not_done_again_on_a_cpu(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    settings = {"methods": ("cem", "direct-intent"), "num_pairs": 2, "is_training_heads": True, "head_steps": 2, "num_latency_episodes": 0}
    run_comparison(plan_of((runs[0],), data, **settings, device="cuda"), tmp_path / "out", workers=1, say=lambda text: None)
    said: list[str] = []
    run_comparison(plan_of((runs[0],), data, **settings), tmp_path / "out", workers=1, say=said.append)
    assert "2 of 2 cells are there; running 0" in said
    assert not [text for text in said if text.startswith("done: heads")]
