"""Which planner settings the flags of a command change."""

import json
from pathlib import Path

import pytest

from lewm.cli import main
from lewm.commands.planner_flags import planner_of
from lewm.config import PlannerConfig
from lewm.config_files import from_dict, load_preset, to_dict


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As much of a checkpoint as the flags look at."""
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "config": to_dict(load_preset("laptop"))}))
    return tmp_path


def test_without_flags_the_settings_are_the_runs_own(run: Path) -> None:
    assert planner_of(["success", str(run)]) == load_preset("laptop").planner


@pytest.mark.parametrize("flag", [["--planner.name", "mppi"], ["--planner.name=mppi"]])
def test_another_planner_starts_from_what_it_knows_of_the_runs_settings(run: Path, flag) -> None:
    found, own = planner_of(["success", str(run), *flag]), load_preset("laptop").planner
    assert (found.name, found.num_candidates, found.std_floor) == ("mppi", own.num_candidates, own.std_floor)
    assert found.num_elites == PlannerConfig().num_elites


def test_an_unknown_planner_is_left_to_the_table(run: Path) -> None:
    assert planner_of(["success", str(run), "--planner.name", "mppy"]).name == "cem"


def test_training_can_choose_a_planner_too() -> None:
    from lewm.commands.train import _with_base

    arguments = _with_base(["--preset", "laptop", "--planner.name", "gradient"])
    assert arguments.settings.planner == from_dict({"planner": {"name": "gradient"}}, load_preset("laptop")).planner


def test_every_planner_is_listed(capsys) -> None:
    assert main(["list", "planners"]) == 0
    listed = capsys.readouterr().out
    for name in ("cem", "icem", "mppi", "predictive-sampling", "gradient", "cem-gradient"):
        assert name in listed
