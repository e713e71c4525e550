"""Pairs and floors that are made once for several policies."""

import json
from pathlib import Path
from typing import Any

import pytest
from seeker import FRAME_PX, Seeker

from lewm.errors import ConfigError, DataError
from lewm.evaluation.prepared_pairs import PreparedPairs, prepare_pairs
from lewm.evaluation.success import evaluate_success

OPTIONS = {"size_px": FRAME_PX}


@pytest.fixture(scope="module")
def prepared() -> PreparedPairs:
    return prepare_pairs("two-room", OPTIONS, distances=(25,), num_pairs=3, seed=5)


def evaluated(*, seed: int = 5, **more: Any) -> dict[str, Any]:
    return evaluate_success(
        Seeker(),
        env="two-room",
        env_options=OPTIONS,
        distances=(25,),
        num_pairs=3,
        seed=seed,
        planner={},
        checkpoint_sha256="c",
        dataset_sha256="d",
        training_episode_seeds=None,
        command="",
        num_latency_episodes=0,
        **more,
    )


def test_a_result_on_prepared_pairs_from_a_file_is_that_on_pairs_made_for_it(prepared: PreparedPairs, tmp_path: Path) -> None:
    prepared.save(tmp_path / "pairs.json")
    results = [evaluated(), evaluated(prepared=PreparedPairs.load(tmp_path / "pairs.json"))]
    for result in results:
        del result["plan_ms"], result["content_sha256"]  # times are measured
    assert results[0] == results[1]


def test_prepared_pairs_of_other_settings_are_refused(prepared: PreparedPairs) -> None:
    with pytest.raises(ConfigError, match="the prepared pairs have seed 5, not 6"):
        evaluated(seed=6, prepared=prepared)


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [("strata", ("same-room",), r"\['cross-room', 'same-room'\]"), ("is_rest_start", True, "False"), ("data_policy", "random", "'.*'")],
)
def test_prepared_pairs_are_not_taken_for_pairs_of_another_kind(prepared: PreparedPairs, setting: str, value: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"the prepared pairs have {setting} {found}, not"):
        evaluated(prepared=prepared, **{setting: value})


def test_a_file_whose_pairs_are_not_those_of_its_hash_is_refused(prepared: PreparedPairs, tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    prepared.save(path)
    values = json.loads(path.read_text())
    values["manifest"]["pairs"][0]["start_env_step"] += 1
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="are damaged: the manifest's hash is"):
        PreparedPairs.load(path)


def test_pairs_of_another_version_of_the_world_are_refused(prepared: PreparedPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lewm.envs.two_room.env import TwoRoom

    prepared.save(tmp_path / "pairs.json")
    monkeypatch.setattr(TwoRoom, "VERSION", TwoRoom.VERSION + 1)
    with pytest.raises(DataError, match="of another version of env 'two-room'"):
        PreparedPairs.load(tmp_path / "pairs.json")
