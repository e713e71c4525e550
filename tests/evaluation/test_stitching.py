"""Stitched pairs: start and goal from different episodes of a maze, with the shortest way between them."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError, VerificationError
from lewm.evaluation.outcomes import run_scripted, scripted_policy
from lewm.evaluation.protocol import Manifest, check_disjoint, make_manifest
from lewm.evaluation.results import UNVERIFIED, assemble, pair_batch, run_references, settings_words
from lewm.evaluation.verify import verify_result

pytestmark = pytest.mark.mujoco
ENV = "ogbench/pointmaze-medium"


def make(num_pairs: int = 3, **settings: Any) -> Manifest:
    request = {"distances": [80], "seed": 0, "is_stitched": True, "strata": ["around-walls"], "num_pairs": num_pairs}
    return make_manifest(ENV, {"size_px": 32}, **(request | settings))


@pytest.fixture(scope="module", autouse=True)
def short_episodes() -> Iterator[None]:
    """A third of the usual length: where an episode leads matters little, for goals come from another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lewm.evaluation.protocol.EPISODE_ENV_STEPS", 100)
        yield


@pytest.fixture(scope="module")
def stitched() -> Manifest:
    return make()


@pytest.fixture(scope="module")
def result(stitched: Manifest) -> dict[str, Any]:
    """What the world's ceiling makes of the pairs."""
    pairs = stitched.at(80)
    envs = pair_batch(stitched, pairs)
    found = run_scripted(envs, scripted_policy(ENV, "expert-noiseless"), [0] * len(pairs), pairs[0].budget_env_steps)
    outcomes = {pair.id: outcome for pair, outcome in zip(pairs, found, strict=True)}
    return assemble(stitched, outcomes, run_references(stitched), {name: {} for name in UNVERIFIED})


def test_start_and_goal_come_from_different_episodes(stitched: Manifest) -> None:
    seeds = [seed for pair in stitched.pairs for seed, _ in pair.ends]
    assert len(set(seeds)) == 2 * len(stitched.pairs)


def test_a_pair_is_as_far_apart_as_it_says(stitched: Manifest) -> None:
    batch = make_batch(ENV, len(stitched.pairs))
    batch.set_states([pair.start_state for pair in stitched.pairs])
    batch.set_goals([pair.goal_state for pair in stitched.pairs])
    ways = batch.shortest_env_steps(batch.labels(), batch.goal_labels())
    np.testing.assert_allclose([pair.shortest_env_steps for pair in stitched.pairs], ways)
    assert ((ways > 40) & (ways <= 80)).all()


def test_fewer_pairs_are_a_prefix_of_more(stitched: Manifest) -> None:
    assert make(2).pairs == stitched.pairs[:2]


def test_a_manifest_says_that_it_is_stitched_and_survives_its_file(stitched: Manifest) -> None:
    values = json.loads(json.dumps(stitched.to_dict()))
    assert values["is_stitched"] is True
    assert Manifest.from_dict(values) == stitched
    assert settings_words(values) == ", stitched pairs"


def test_a_pair_of_one_episode_has_no_new_field_in_its_manifest() -> None:
    pair = make(1, is_stitched=False, distances=[25]).to_dict()["pairs"][0]
    assert {"goal_episode_seed", "goal_env_step", "shortest_env_steps"} & set(pair) == set()


def test_a_training_episode_that_a_goal_comes_from_is_found(stitched: Manifest) -> None:
    with pytest.raises(DataError, match="1 evaluation episodes have the seed of a training episode"):
        check_disjoint(stitched, np.array([stitched.pairs[0].goal_episode_seed]))


def test_a_stitched_result_can_be_verified(result: dict[str, Any]) -> None:
    assert verify_result(result)["num_episodes"] == 3


def test_pairs_that_only_claim_to_be_stitched_are_refused(result: dict[str, Any]) -> None:
    claimed = json.loads(json.dumps(result))
    del claimed["manifest"]["is_stitched"]
    with pytest.raises(VerificationError, match="manifest_sha256"):
        verify_result(claimed)


@pytest.mark.parametrize(("env", "message"), [("two-room", "does not know its shortest ways"), ("ogbench/antmaze-medium", "no stitched pairs")])
def test_a_world_that_does_not_know_its_ways_is_refused_before_recording(env: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_manifest(env, {}, distances=[25], num_pairs=1, seed=0, is_stitched=True)
