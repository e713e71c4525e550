"""A dataset and two runs for comparisons of planners."""

from pathlib import Path

import pytest
from tiny_comparison import OPTIONS, TINY

from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.training import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planners") / "data"
    collect("two-room", place, episodes=12, max_env_steps=30, env_options=OPTIONS)
    return place


@pytest.fixture(scope="module")
def runs(data: Path) -> tuple[Path, ...]:
    """Two training seeds that have hardly begun to learn."""
    places = tuple(data.parent / f"seed{seed}" for seed in range(2))
    for seed, place in enumerate(places):
        train(from_dict(TINY | {"train": TINY["train"] | {"seed": seed}}), data=data, out=place)
    return places
