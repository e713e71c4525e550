"""When what decisions cost is measured again, and when not."""

from typing import Any

import pytest

from lewm.planner_config import PlannerConfig
from lewm.planner_lab.cells import Cell
from lewm.planner_lab.latency import identity, is_measured

SETTINGS = {"method": "cem", "run_name": "seed0", "distance": 25, "num_pairs": 4, "sha256": "a checkpoint"}
CELL = Cell(**SETTINGS, planner=PlannerConfig())
POLICY = Cell(**SETTINGS)


def measured(cell: Cell, *, without: str | None = None, **more: Any) -> dict[str, Any]:
    """An entry of ``latency.json``, as a version of lewm wrote it whose planners had one setting less."""
    found = identity(cell, 5)
    if without is not None:
        del found["planner"][without]
    return {"identity": found, "p50_ms": 7.0, **more}


def test_a_measurement_that_is_older_than_a_setting_of_the_planner_is_of_the_settings_default() -> None:
    older = measured(CELL, without="use_cuda_graphs")
    graphs = Cell(**SETTINGS, planner=PlannerConfig(use_cuda_graphs=True))
    assert is_measured(older, CELL, 5, "cpu")
    assert not is_measured(older, graphs, 5, "cpu")


@pytest.mark.parametrize("cell", [CELL, POLICY])
def test_what_was_measured_of_the_same_cell_is_not_measured_again(cell: Cell) -> None:
    assert is_measured(measured(cell), cell, 5, "cpu")


@pytest.mark.parametrize(
    ("before", "cell", "num_episodes", "device"),
    [
        (measured(CELL), CELL, 6, "cpu"),
        (measured(CELL), CELL, 5, "cuda"),
        (measured(CELL), Cell(**SETTINGS | {"sha256": "another"}, planner=PlannerConfig()), 5, "cpu"),
        (measured(CELL), Cell(**SETTINGS, planner=PlannerConfig(num_iterations=2)), 5, "cpu"),
        (measured(CELL), Cell(**SETTINGS, planner=PlannerConfig(goal="labels")), 5, "cpu"),
        (measured(CELL), POLICY, 5, "cpu"),
        (measured(POLICY), CELL, 5, "cpu"),
        (measured(CELL, error="out of memory"), CELL, 5, "cpu"),
        ({}, CELL, 5, "cpu"),
    ],
    ids=["episodes", "device", "checkpoint", "search", "goal", "policy", "planner", "error", "nothing"],
)
def test_what_was_measured_of_something_else_or_went_wrong_is_measured_again(
    before: dict[str, Any], cell: Cell, num_episodes: int, device: str
) -> None:
    assert not is_measured(before, cell, num_episodes, device)
