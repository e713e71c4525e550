"""``lewm lab --device``: cells of several devices in one lab and one table, and a cell on a GPU."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lewm.commands.lab import lab
from lewm.errors import DeviceError
from lewm.lab import running
from lewm.lab.cells import CELL_FILE, CellSize, read_cell, run_cell
from lewm.lab.grid import Cell, config_of
from lewm.lab.running import LabPlan, run_lab
from lewm.lab.summary import summarise, table
from lewm.training import train
from lewm.versions import hardware

TINY = LabPlan(objectives=("lewm",), worlds=("two-room",), num_seeds=1, episode_share=0.02, size=CellSize(step_share=0.02, num_pairs=2, num_clips=32))
FOUND = {
    "settings": {},
    "verdict": "healthy",
    "std_mean": 1.0,
    "effective_rank": 10.0,
    "probe_r2": 0.9,
    "imagined_r2": 0.8,
    "success": {"rate": 1.0, "low": 0.4, "high": 1.0},
    "outcomes": [True] * 6,
    "strongest_floor": {"name": "random", "rate": 0.2},
    "paired_difference": {"rate": 0.8, "low": 0.1, "high": 1.0},
    "early": {"score": 0.0, "step": 1, "verdict": "healthy"},
    "num_tunable_weights": 1,
}
ON_CPU = {"device": "cpu", "hardware": "a processor", "step_ms": 40.0, "peak_memory_mb": 700.0}
ON_GPU = {"device": "cuda", "hardware": "a GPU, a processor", "step_ms": 3.0, "peak_memory_mb": 90.0}


def found(seed: int, costs: dict[str, object]) -> dict[str, object]:
    return FOUND | {"cell": asdict(Cell("lewm", "two-room", seed))} | costs


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that it is not refused")
def test_a_lab_on_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"device cuda .* use the device cpu"):
        lab(["--out", str(tmp_path / "lab"), "--device", "cuda"])
    assert not (tmp_path / "lab").exists()


def test_a_cell_that_was_finished_on_one_device_is_kept_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_lab(replace(TINY, objectives=()), tmp_path, say=lambda text: None)  # the lab's place and data, and no cell
    record = found(0, ON_CPU)
    place = tmp_path / "cells" / Cell("lewm", "two-room", 0).key / CELL_FILE
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(record))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert run_lab(replace(TINY, device="cuda"), tmp_path, say=lambda text: None) == [record]


def test_a_cell_whose_training_was_finished_on_one_device_has_the_costs_of_that_one_on_another(tmp_path: Path) -> None:
    running._collect(TINY, tmp_path, "two-room", lambda text: None)
    cell = Cell("lewm", "two-room", 0)
    running._prepare(cell, TINY, tmp_path, lambda text: None)
    data, pairs, directory = running._places(tmp_path, cell)
    train(config_of(cell, {}, step_share=TINY.size.step_share), data=data, out=directory)
    (description,) = directory.glob("checkpoints/*/config.json")
    about = json.loads(description.read_text())
    about["config"]["train"]["device"], about["provenance"]["hardware"] = "cuda", "a GPU, a processor"
    description.write_text(json.dumps(about))
    run_cell(cell, {}, TINY.size, data, pairs, directory)
    record = read_cell(directory)
    assert record is not None
    costs = {name: record.get(name) for name in ("error", "device", "hardware", "peak_memory_mb")}
    assert costs == {"error": None, "device": "cuda", "hardware": "a GPU, a processor", "peak_memory_mb": None}


def test_a_peak_of_memory_that_is_not_known_is_left_out_of_the_mean_and_of_the_table() -> None:
    unknown = found(1, ON_GPU | {"peak_memory_mb": None})
    assert summarise([found(0, ON_GPU), unknown])["rows"][0]["costs"]["cuda"]["peak_memory_mb"] == 90.0
    assert "40 (cpu), 3 (cuda)  700 (cpu), - (cuda)" in table(summarise([found(0, ON_CPU), unknown]))


def test_costs_of_several_devices_are_told_apart(tmp_path: Path) -> None:
    result = summarise([found(0, ON_CPU), found(1, ON_GPU), found(2, ON_GPU | {"step_ms": 5.0})])
    text = table(result)
    assert "40 (cpu), 4 (cuda)" in text
    assert "700 (cpu), 90 (cuda)" in text
    assert "(cuda: of the GPU's memory) were measured on cpu: a processor; cuda: a GPU, a processor" in text
    assert result["rows"][0]["costs"]["cuda"] == {"step_ms": 4.0, "peak_memory_mb": 90.0, "num_cells": 2, "hardware": ["a GPU, a processor"]}


def test_a_table_of_one_gpu_names_it_and_one_of_a_cpu_is_as_it_was() -> None:
    assert "were measured on cuda: a GPU, a processor" in table(summarise([found(0, ON_GPU)]))
    old = {name: value for name, value in ON_CPU.items() if name not in ("device", "hardware")}
    assert "measured on" not in table(summarise([found(0, ON_CPU), found(1, old)]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cell_runs_on_a_gpu_and_is_measured_there(tmp_path: Path) -> None:
    plan = replace(TINY, objectives=("lewm", "vicreg"), device="cuda")
    records = run_lab(plan, tmp_path / "lab", workers=2, say=lambda text: None)
    for record in records:
        assert "error" not in record
        assert record["hardware"] == hardware("cuda")
        assert 0 < record["peak_memory_mb"] < 20_000
        assert record["step_ms"] > 0
    assert run_lab(replace(plan, device="cpu"), tmp_path / "lab", workers=2, say=lambda text: None) == records
