"""The protocol in a world that two-room is not like: discrete actions, episodes that end, velocities, two cameras and proprioception."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.errors import ConfigError, EnvError, LewmError, VerificationError
from lewm.evaluation.across_seeds import combine_results, combined_table
from lewm.evaluation.outcomes import scripted_policy
from lewm.evaluation.protocol import Manifest, Pair, canonical_sha256, make_manifest
from lewm.evaluation.results import content_sha256, pair_batch, settings_words, unusual_settings
from lewm.evaluation.success import evaluate, success_table
from lewm.evaluation.verify import verify_result
from lewm.schema import Observation
from toy_world import ToyWalkBatch

DISTANCES = [5, 25]


class Walker:
    """Steps towards the place that the goal's proprioception names, until its own frame shows it."""

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> np.ndarray:
        assert goals.proprioception is not None
        np.testing.assert_array_equal(goals.proprioception[:, 0], goals.frames[:, 0, 0, 0, 0])
        return goals.proprioception[:, 0]

    def needs_frame(self, state: np.ndarray) -> bool:
        return True

    def act(self, observations: Observation[np.ndarray] | None, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert observations is not None
        places = observations.frames[:, 1, 0, 0, 0].astype(float)
        return (np.sign(state - places) + 1).astype(np.int64), state

    def select(self, state: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        return state[episodes]


def make(**changes: Any) -> Manifest:
    return make_manifest("toy-walk", changes.pop("options", {}), **({"distances": DISTANCES, "num_pairs": 20, "seed": 0} | changes))


@pytest.fixture(scope="module")
def walk() -> Manifest:
    return make()


@pytest.fixture(scope="module")
def rested() -> Manifest:
    return make(is_rest_start=True)


@pytest.fixture
def rested_result(rested: Manifest) -> dict[str, Any]:
    return json.loads(json.dumps(evaluate(Walker(), rested)))


def rehash(result: dict[str, Any]) -> None:
    result["protocol"]["manifest_sha256"] = canonical_sha256(result["manifest"])
    result["content_sha256"] = content_sha256(result)


def whole_episode(manifest: Manifest, pair: Pair) -> tuple[list[bytes], int]:
    """All states of the episode of a pair, recorded alone and in one go, and the env step at which it was over."""
    envs, policy = make_batch(manifest.env, 1, **manifest.env_options), scripted_policy(manifest.env, manifest.data_policy)
    envs.reset([pair.episode_seed])
    policy.reset(envs, [pair.episode_seed], manifest.episode_env_steps)
    states, end = envs.get_states(), None
    for step in range(manifest.episode_env_steps):
        _, terminated = envs.step(policy.act(envs))
        states += envs.get_states()
        if end is None and (terminated[0] or envs.is_truncated()[0]):
            end = step + 1
    return states, manifest.episode_env_steps if end is None else end


def test_the_states_of_a_pair_are_those_of_its_episode_recorded_in_one_go(walk: Manifest) -> None:
    for pair in walk.pairs:
        states, _ = whole_episode(walk, pair)
        assert pair.start_state == states[pair.start_env_step]
        assert pair.goal_state == states[pair.start_env_step + pair.distance_env_steps]


def test_how_many_episodes_are_simulated_together_changes_no_pair(walk: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.evaluation.sources.MAX_EPISODES_PER_STATE_BATCH", 3)
    monkeypatch.setattr("lewm.evaluation.protocol.MAX_EPISODES_PER_BATCH", 7)
    assert make() == walk


def test_the_manifests_of_published_results_are_made_again_to_the_byte() -> None:
    published = json.loads((Path(__file__).parents[2] / "docs" / "results" / "two-room-seed-0-100.json").read_text())
    manifest = make_manifest("two-room", {}, distances=[100], num_pairs=100, seed=0)
    assert manifest.sha256 == published["protocol"]["manifest_sha256"]
    assert manifest.to_dict() == published["manifest"]


def test_no_pair_reaches_beyond_the_end_of_its_episode() -> None:
    manifest = make(distances=[25], num_pairs=40)
    ends = [whole_episode(manifest, pair)[1] for pair in manifest.pairs]
    assert min(ends) < 150, "without short episodes this test would say nothing"
    assert all(pair.start_env_step + 25 <= end for pair, end in zip(manifest.pairs, ends, strict=True))
    goals = make_batch("toy-walk", len(manifest.pairs))
    goals.set_states([pair.goal_state for pair in manifest.pairs])
    terminal = goals.labels()[:, 0] == 15
    assert [bool(is_end) for is_end in terminal] == [pair.start_env_step + 25 == end < 300 for pair, end in zip(manifest.pairs, ends, strict=True)]


def test_the_worlds_own_time_limit_ends_an_episode() -> None:
    manifest = make(options={"max_env_steps": 30}, distances=[20], num_pairs=5)
    assert all(pair.start_env_step + 20 <= 30 for pair in manifest.pairs)
    with pytest.raises(LewmError, match="gave 0 far at D = 31, 0 near at D = 31 of 5 pairs each; ask for fewer pairs, another distance or another"):
        make(options={"max_env_steps": 30}, distances=[31], num_pairs=5)


def test_a_rest_start_changes_the_velocities_of_the_same_pairs_and_nothing_else(walk: Manifest, rested: Manifest) -> None:
    assert [pair.id for pair in rested.pairs] == [pair.id for pair in walk.pairs]
    assert walk.sha256 != rested.sha256
    for side in ("start_state", "goal_state"):
        moving, resting = (make_batch("toy-walk", len(walk.pairs)) for _ in range(2))
        moving.set_states([getattr(pair, side) for pair in walk.pairs])
        resting.set_states([getattr(pair, side) for pair in rested.pairs])
        np.testing.assert_array_equal(moving.observe().frames, resting.observe().frames)
        np.testing.assert_array_equal(moving.labels(), resting.labels())
        assert (moving.observe().proprioception[:, 1] != 0).any()
        assert (resting.observe().proprioception[:, 1] == 0).all()


def test_unusual_settings_are_in_the_file_and_usual_ones_are_not(walk: Manifest, rested: Manifest, tmp_path: Path) -> None:
    assert {"is_rest_start", "action_repeat"} & set(walk.to_dict()) == set()
    assert rested.to_dict()["is_rest_start"] is True
    twice = make(options={"action_repeat": 2})
    assert twice.to_dict()["action_repeat"] == 2
    for manifest in (rested, twice):
        manifest.save(tmp_path / "manifest.json")
        assert Manifest.load(tmp_path / "manifest.json") == manifest


def test_the_worlds_data_policy_is_used_unless_another_is_named(walk: Manifest) -> None:
    assert walk.data_policy == "random"
    held = make(data_policy="block-random", distances=[5])
    assert held.data_policy == "block-random"
    assert {pair.start_state for pair in held.pairs} != {pair.start_state for pair in walk.at(5)}


@pytest.mark.parametrize("name", ["block-randm", "run", "."])
def test_pairs_come_from_scripted_policies_only(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown data policy .* for env 'toy-walk'.*Known: .*random"):
        make(data_policy=name)


def test_strata_can_be_chosen_and_the_first_is_the_headline() -> None:
    near = make(distances=[2], num_pairs=3, strata=["near"])
    assert near.strata == ("near",)
    assert {pair.stratum for pair in near.pairs} == {"near"}
    result = evaluate(Walker(), make(distances=[25], num_pairs=3, strata=["near", "far"]))
    assert result["by_distance"]["25"]["stratum"] == "near"
    for pair in result["manifest"]["pairs"]:
        starts, goals = (make_batch("toy-walk", 1) for _ in range(2))
        manifest = Manifest.from_dict(result["manifest"])
        own = next(known for known in manifest.pairs if known.id == pair["id"])
        starts.set_states([own.start_state])
        goals.set_states([own.goal_state])
        is_far = abs(starts.labels()[0, 0] - goals.labels()[0, 0]) >= 4
        assert own.stratum == ("far" if is_far else "near")
    assert verify_result(result)["is_verified"]


@pytest.mark.parametrize(
    ("strata", "sentence"),
    [
        (["nar"], "unknown stratum 'nar' of env 'toy-walk'. Did you mean 'near'"),
        (["near", "near"], "strata must be one or more different ones of far, near"),
        ([], "strata must be one or more different ones of far, near"),
    ],
)
def test_impossible_strata_are_refused(strata: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(strata=strata)


def test_a_stratum_without_pairs_is_named_with_the_flag_that_leaves_it_out() -> None:
    with pytest.raises(LewmError, match=r"gave 0 far at D = 2, 3 near at D = 2 of 3 pairs each; .*or leave out far: --strata near"):
        make(distances=[2], num_pairs=3)


def test_a_stratum_that_never_occurs_is_given_up_before_all_episodes_are_recorded() -> None:
    for num_pairs in (50, 47):  # whatever the size of a batch
        with pytest.raises(LewmError, match=r"^1024 episodes of 'toy-walk' gave 0 far"):
            make(distances=[2], num_pairs=num_pairs)


def test_a_world_without_rest_refuses_a_rest_start_before_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ToyWalkBatch, states: Sequence[bytes]) -> list[bytes]:
        assert len(states) == 1
        raise EnvError("this world never rests")

    monkeypatch.setattr(ToyWalkBatch, "at_rest", refuse)
    with pytest.raises(EnvError, match="this world never rests"):
        make(is_rest_start=True)


def test_a_result_of_a_discrete_world_is_right_and_verified(rested_result: dict[str, Any]) -> None:
    assert rested_result["by_distance"]["25"]["expert"] is None
    assert rested_result["success"]["rate"] == 1.0
    assert rested_result["by_distance"]["5"]["strata"]["near"]["no_op"]["rate"] < 1.0
    assert verify_result(rested_result)["is_verified"]


@pytest.mark.parametrize("value", [None, False, "yes", 1])
def test_an_edited_rest_start_is_refused_even_with_new_hashes(rested_result: dict[str, Any], value: Any) -> None:
    if value is None:
        del rested_result["manifest"]["is_rest_start"]
    else:
        rested_result["manifest"]["is_rest_start"] = value
    rehash(rested_result)
    with pytest.raises(VerificationError, match=r"^(manifest|protocol)\."):
        verify_result(rested_result)


def test_a_claimed_rest_start_is_refused_even_with_new_hashes(walk: Manifest) -> None:
    result = json.loads(json.dumps(evaluate(Walker(), walk)))
    result["manifest"]["is_rest_start"] = True
    rehash(result)
    with pytest.raises(VerificationError, match=r"manifest\.pairs\.\d+\.(start|goal)_state"):
        verify_result(result)


@pytest.mark.parametrize(
    ("name", "value"), [("action_repeat", 2), ("action_repeat", 1), ("data_policy", "block-random"), ("strata", ["near", "far"])]
)
def test_edited_settings_of_the_pairs_are_refused_even_with_new_hashes(rested_result: dict[str, Any], name: str, value: Any) -> None:
    rested_result["manifest"][name] = value
    rehash(rested_result)
    with pytest.raises(VerificationError, match=r"^(manifest|protocol)"):
        verify_result(rested_result)


@pytest.mark.parametrize("strata", [[["far"], "near"], [{}, "near"], ["far", None]])
def test_hostile_strata_are_refused_with_a_sentence(rested_result: dict[str, Any], strata: list[Any]) -> None:
    rested_result["manifest"]["strata"] = strata
    rehash(rested_result)
    with pytest.raises(VerificationError, match=r"manifest\.strata must be names"):
        verify_result(rested_result)


def test_a_refused_state_names_a_simulator_of_another_version(walk: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.versions.SIMULATORS", {"toy-": ("numpy",), "dmc/": ("mujoco",)})
    result = json.loads(json.dumps(evaluate(Walker(), walk)))
    result["manifest"]["pairs"][0]["start_state"] = result["manifest"]["pairs"][1]["start_state"]
    result["versions"]["mujoco"] = "0.1"
    rehash(result)
    with pytest.raises(VerificationError, match=r"manifest\.pairs\.0\.start_state") as refusal:
        verify_result(result)
    assert "the simulator" not in str(refusal.value)
    result["versions"]["numpy"] = "0.1"
    rehash(result)
    with pytest.raises(VerificationError, match=rf"start_state.*the simulator is another one, .*: numpy 0\.1 there and {np.__version__} here$"):
        verify_result(result)


def test_versions_of_installed_simulators_are_recorded_without_importing_them() -> None:
    code = (
        "import json, sys; from lewm.versions import versions; print(json.dumps(versions())); "
        "sys.exit(bool({'mujoco', 'dm_control', 'ale_py', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    simulators = ("mujoco", "dm-control", "ale-py")
    assert {name: found[name] for name in simulators if name in found} == {
        name: installed.get(name, installed.get(name.replace("-", "_"))) for name in simulators if {name, name.replace("-", "_")} & set(installed)
    }


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"env": "two-room", "env_options": {"size_px": 32}, "data_policy": "expert"}, ""),
        ({"env": "two-room", "env_options": {"success_radius_px": 30}, "data_policy": "expert"}, ", success_radius_px=30"),
        ({"env": "toy-walk", "env_options": {}, "data_policy": "block-random"}, ", pairs of policy block-random"),
        (
            {"env": "nowhere", "env_options": {"goal_labels": ["ram_012"], "is_wrapped": False, "success": "pose"}, "action_repeat": 2},
            ', action repeat 2, goal_labels=["ram_012"], is_wrapped=false, success=pose',
        ),
    ],
)
def test_tables_name_what_decides_success(manifest: dict[str, Any], words: str) -> None:
    assert settings_words(manifest) == settings_words(unusual_settings(manifest)) == words


def test_tables_of_the_published_results_say_nothing_unusual() -> None:
    for file in (Path(__file__).parents[2] / "docs" / "results").glob("two-room-*.json"):
        assert settings_words(json.loads(file.read_text())["manifest"]) == ""


def test_tables_name_the_action_repeat_and_the_rest_start(tmp_path: Path) -> None:
    result = evaluate(Walker(), make(options={"action_repeat": 2}, is_rest_start=True, num_pairs=2))
    assert success_table(result).splitlines()[-1].endswith("rest start, action repeat 2")
    for name in ("a", "b"):
        (tmp_path / name).write_text(json.dumps(result | {"checkpoint_sha256": name}))
    combined = combine_results([tmp_path / "a", tmp_path / "b"])
    assert combined["pair_settings"] == {"is_rest_start": True, "action_repeat": 2}
    assert combined_table(combined).splitlines()[0].endswith("rest start, action repeat 2")
    assert verify_result(result)["is_verified"]


def test_tables_of_usual_pairs_say_nothing_more(seeker_result: dict[str, Any]) -> None:
    assert success_table(seeker_result).endswith(seeker_result["protocol"]["manifest_sha256"][:12])


def test_every_batch_is_closed_after_use() -> None:
    before = ToyWalkBatch.num_open
    manifest = make(num_pairs=3, is_rest_start=True)
    assert ToyWalkBatch.num_open == before
    result = evaluate(Walker(), manifest, num_latency_episodes=2)
    assert ToyWalkBatch.num_open == before
    verify_result(result)
    assert ToyWalkBatch.num_open == before


def test_episodes_that_end_without_the_goal_count_as_failures(walk: Manifest) -> None:
    class Runaway(Walker):
        def act(self, observations: Observation[np.ndarray] | None, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(state), 2), state

    result = evaluate(Runaway(), walk)
    starts = pair_batch(walk, walk.pairs)
    places, goals = starts.labels()[:, 0], starts.observe_goals().proprioception
    assert goals is not None
    for episode, place, goal in zip(result["episodes"], places, goals[:, 0], strict=True):
        assert episode["solved"] == (place < goal <= place + 2 * episode["distance"])
        assert episode["num_env_steps"] == min(15 - place, 2 * episode["distance"]) if not episode["solved"] else goal - place
    assert verify_result(result)["is_verified"]


@pytest.mark.mujoco
def test_a_rest_start_in_mujoco_changes_velocities_only() -> None:
    request: dict[str, Any] = {"distances": [10], "num_pairs": 4, "seed": 0, "strata": ["near"], "data_policy": "block-random"}
    moving, resting = (make_manifest("dmc/point_mass-easy", {}, is_rest_start=is_rest, **request) for is_rest in (False, True))
    assert resting.action_repeat == 2
    labels = []
    for manifest in (moving, resting):
        envs = pair_batch(manifest, manifest.pairs)
        names = list(envs.label_names)
        labels.append(envs.labels())
        envs.close()
    is_velocity = np.array(["vel" in name for name in names])
    assert is_velocity.any()
    np.testing.assert_array_equal(labels[0][:, ~is_velocity], labels[1][:, ~is_velocity])
    assert (labels[0][:, is_velocity] != 0).any()
    assert (labels[1][:, is_velocity] == 0).all()
