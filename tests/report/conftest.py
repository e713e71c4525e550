"""A finished demo, tiny but made by the same code as a real one."""

import shutil
from pathlib import Path

import pytest

from lewm.demo import DemoSize, run_demo
from lewm.registry import ENVS, Entry
from lewm.report.evidence import Evidence, read_evidence

if "toy-walk" not in ENVS:
    ENVS.add("toy-walk", Entry(target="toy_world:ToyWalk", summary="the tests' own world"))


@pytest.fixture(scope="session")
def tiny() -> DemoSize:
    """Seconds instead of minutes."""
    return DemoSize(
        num_episodes=12,
        num_pairs=2,
        num_far_pairs=1,
        num_control_pairs=1,
        control_share=0.5,
        changes={
            "train": {"num_steps": 20, "batch_size": 8, "monitor_every_steps": 10, "log_every_steps": 5},
            "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1, "replan_every_model_steps": 5},
        },
    )


@pytest.fixture(scope="session")
def finished_demo(tiny: DemoSize, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a finished demo; read only."""
    out = tmp_path_factory.mktemp("demo") / "run"
    run_demo(out, say=lambda text: None, size=tiny)
    return out


@pytest.fixture(scope="session")
def evidence(finished_demo: Path) -> Evidence:
    """What a report knows about it."""
    return read_evidence(finished_demo)


@pytest.fixture
def copied_run(finished_demo: Path, tmp_path: Path) -> Path:
    """A run to spoil: the demo's without its data."""
    return Path(shutil.copytree(finished_demo, tmp_path / "copy", ignore=shutil.ignore_patterns("data", "control", "report.html", "rollout.gif")))
