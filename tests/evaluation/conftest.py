"""A frozen set of pairs and a truthful result on it."""

from typing import Any

import pytest
from seeker import FRAME_PX, Seeker

from lewm.evaluation.protocol import Manifest, make_manifest
from lewm.evaluation.success import evaluate
from lewm.registry import ENVS, Entry

if "toy-walk" not in ENVS:
    ENVS.add("toy-walk", Entry(target="toy_world:ToyWalk", summary="the tests' own world"))


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return make_manifest("two-room", {"size_px": FRAME_PX}, distances=[25, 50], num_pairs=6, seed=3)


@pytest.fixture(scope="session")
def seeker_result(manifest: Manifest) -> dict[str, Any]:
    about = {"planner": {"name": "seeker", "block": 2}, "checkpoint_sha256": "c" * 64, "dataset_sha256": "d" * 64, "command": "lewm eval success"}
    return evaluate(Seeker(), manifest, unverified=about, num_latency_episodes=2)
