"""Protocols whose pairs are rows of a dataset: which rows, which states, which rules, and what of it can be checked."""

import copy
import json
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import edit, leaves
from seeker import FRAME_PX, Seeker

import toy_world  # noqa: F401 - the conftest registers it
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError, EnvError, LewmError, VerificationError
from lewm.evaluation.dataset_pairs import make_dataset_manifest, make_pairs, replayed_states
from lewm.evaluation.dataset_protocols import protocol_options, protocol_planner, world_rules
from lewm.evaluation.protocol import Manifest, canonical_sha256
from lewm.evaluation.results import UNVERIFIED, content_sha256, pair_batch
from lewm.evaluation.success import evaluate, success_table
from lewm.evaluation.verify import verify_result

OPTIONS = {"size_px": FRAME_PX}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return collect("two-room", tmp_path_factory.mktemp("data") / "data", episodes=30, max_env_steps=60, env_options=OPTIONS)


@pytest.fixture(scope="module")
def official(store: EpisodeStore) -> Manifest:
    return make_dataset_manifest(store, "two-room", OPTIONS, protocol="official", distances=[25], num_pairs=50, seed=42)


@pytest.fixture(scope="module")
def official_result(official: Manifest) -> dict[str, Any]:
    about = {"planner": {}, "checkpoint_sha256": "c" * 64, "dataset_sha256": official.dataset["sha256"], "command": ""}
    return json.loads(json.dumps(evaluate(Seeker(), official, unverified=about)))


@pytest.fixture
def result(official_result: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(official_result)


def rehash(result: dict[str, Any]) -> None:
    result["protocol"]["manifest_sha256"] = canonical_sha256(result["manifest"])
    result["content_sha256"] = content_sha256(result)


def labels_of(manifest: Manifest, which: str) -> np.ndarray:
    envs = make_batch(manifest.env, len(manifest.pairs), **manifest.env_options)
    envs.set_states([getattr(pair, which) for pair in manifest.pairs])
    return envs.labels()


def test_the_official_rows_are_those_that_the_official_code_draws(store: EpisodeStore, official: Manifest):
    # Written as the official code goes about it: every row of the data, a mask of valid ones, a choice among these, sorted.
    lengths = store.index["length"] + 1
    episode = np.repeat(np.arange(len(store)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    valid = np.nonzero(step <= (lengths - 25 - 1)[episode])[0]
    drawn = np.sort(valid[np.random.default_rng(42).choice(len(valid), size=50, replace=False)])
    assert [(pair.episode_index, pair.start_env_step) for pair in official.pairs] == list(zip(episode[drawn], step[drawn], strict=True))


def test_starts_and_goals_are_the_recorded_rows_a_distance_apart(store: EpisodeStore, official: Manifest):
    recorded = [store.episode(pair.episode_index).labels for pair in official.pairs]
    starts = [labels[pair.start_env_step] for labels, pair in zip(recorded, official.pairs, strict=True)]
    goals = [labels[pair.start_env_step + 25] for labels, pair in zip(recorded, official.pairs, strict=True)]
    np.testing.assert_array_equal(labels_of(official, "start_state"), starts)
    np.testing.assert_array_equal(labels_of(official, "goal_state"), goals)


def test_states_played_again_show_the_recorded_frames(store: EpisodeStore):
    states = replayed_states(store, {3: {0, 17}, 5: {40}})
    envs = make_batch("two-room", 3, **store.env["options"])
    envs.set_states([states[3, 0], states[3, 17], states[5, 40]])
    frames = envs.observe().frames
    expected = [store.episode(episode).observations.frames[step] for episode, step in ((3, 0), (3, 17), (5, 40))]
    np.testing.assert_array_equal(frames, expected)


def test_states_do_not_depend_on_what_else_is_wanted(store: EpisodeStore):
    assert replayed_states(store, {5: {40}})[5, 40] == replayed_states(store, {3: {0, 59}, 5: {40, 60}})[5, 40]


def test_discrete_actions_and_episodes_that_end_are_played_again(tmp_path: Path):
    store = collect("toy-walk", tmp_path / "data", episodes=8, max_env_steps=20)
    manifest = make_dataset_manifest(store, "toy-walk", {}, protocol="official", distances=[3], num_pairs=12, seed=0)
    recorded = [store.episode(pair.episode_index).labels[pair.start_env_step + 3] for pair in manifest.pairs]
    np.testing.assert_array_equal(labels_of(manifest, "goal_state"), recorded)


def test_starts_that_are_solved_already_are_marked_and_counted(official: Manifest, official_result: dict[str, Any]):
    envs = pair_batch(official, official.pairs)
    assert [pair.is_solved_at_start for pair in official.pairs] == envs.is_solved().tolist()
    assert official_result["by_distance"]["25"]["num_solved_at_start"] == envs.is_solved().sum() > 0


def test_the_table_says_that_nothing_is_held_out_and_what_was_solved_at_the_start(official_result: dict[str, Any]):
    table = success_table(official_result)
    assert "pairs from the training episodes: nothing here is held out" in table
    count = official_result["by_distance"]["25"]["num_solved_at_start"]
    assert f"D = 25: {count} of 50 starts were solved already and count as pairs" in table
    assert "protocol official v1" in table


def test_pairs_of_another_dataset_are_not_called_training_episodes(result: dict[str, Any]):
    result["dataset_sha256"] = "0" * 64
    assert "another dataset than the run was trained on" in success_table(result)


@pytest.mark.parametrize("protocol", ["clear-moderate", "clear-strict"])
def test_clear_pairs_cross_the_rooms_one_per_episode_and_none_is_solved_at_its_start(store: EpisodeStore, protocol: str):
    manifest = make_dataset_manifest(store, "two-room", OPTIONS, protocol=protocol, distances=[25], num_pairs=6, seed=0)
    assert len({pair.episode_index for pair in manifest.pairs}) == 6
    assert not pair_batch(manifest, manifest.pairs).is_solved().any()
    assert ((labels_of(manifest, "start_state")[:, 0] < 112) != (labels_of(manifest, "goal_state")[:, 0] < 112)).all()


def test_fewer_clear_pairs_are_a_prefix_of_more(store: EpisodeStore):
    few, many = (
        make_dataset_manifest(store, "two-room", OPTIONS, protocol="clear-moderate", distances=[25], num_pairs=number, seed=1) for number in (3, 6)
    )
    assert few.pairs == many.pairs[:3]


@pytest.mark.parametrize(
    ("protocol", "env", "options"),
    [
        ("official", "two-room", {"collision": "official", "success_radius_px": 16.0}),
        ("official", "push-t", {"success": "official", "is_target_clipped": False}),
        ("official", "dmc/reacher-easy", {"success": "qpos-match", "is_wrapped": False}),
        ("official", "ogbench/cube-single", {"success": "official"}),
        ("official", "toy-walk", {}),
        ("clear-moderate", "two-room", {"collision": "swept", "success_radius_px": 16.0}),
        ("clear-moderate", "push-t", {"success": "clear-moderate", "is_target_clipped": False}),
        ("clear-moderate", "dmc/reacher-hard", {"success": "qpos-match", "is_wrapped": True}),
        ("clear-moderate", "ogbench/cube-single", {"success": "clear-moderate"}),
        ("clear-strict", "two-room", {"collision": "swept", "success_radius_px": 8.0}),
        ("clear-strict", "push-t", {"success": "clear-strict", "is_target_clipped": False}),
        ("clear-strict", "ogbench/cube-single", {"success": "clear-strict"}),
        ("heldout", "two-room", {}),
    ],
)
def test_each_protocol_fixes_the_options_of_its_worlds(protocol: str, env: str, options: dict[str, Any]):
    assert protocol_options(protocol, env, {}) == options


def test_an_option_that_a_protocol_fixes_cannot_be_another():
    with pytest.raises(ConfigError, match=r"protocol 'official' has collision = 'official' in env 'two-room', got 'swept'"):
        protocol_options("official", "two-room", {"collision": "swept"})


@pytest.mark.parametrize(
    ("protocol", "env"), [("clear-strict", "dmc/reacher-easy"), ("clear-moderate", "ogbench/scene"), ("clear-strict", "toy-walk")]
)
def test_a_world_without_the_predicate_is_refused(protocol: str, env: str):
    with pytest.raises(ConfigError, match=f"protocol '{protocol}' has no success predicate for env '{env}', only for two-room"):
        world_rules(protocol, env)


@pytest.mark.mujoco
@pytest.mark.parametrize(
    ("protocol", "env"), [("official", "dmc/reacher-easy"), ("clear-moderate", "dmc/reacher-easy"), ("official", "ogbench/cube-single")]
)
def test_the_options_are_ones_that_the_simulated_worlds_have(protocol: str, env: str):
    options = protocol_options(protocol, env, {})
    with closing(make_batch(env, 1, **options)) as envs:
        assert envs.num_envs == 1
    with pytest.raises(EnvError, match="no_such_option"):  # a name that a world does not have would have been refused
        make_batch(env, 1, **options, no_such_option=1)


@pytest.mark.mujoco
def test_the_wrist_of_the_reacher_cannot_turn_so_far_that_wrapping_its_angle_mattered():
    from lewm.envs.dmc.simulator import Simulator

    model = Simulator("reacher", "easy", ()).model
    low, high = model.joint("wrist").range
    assert high - low < 2 * np.pi - 0.05


@pytest.mark.mujoco
def test_pairs_of_reacher_are_played_again_from_a_dataset(tmp_path: Path):
    store = collect("dmc/reacher-easy", tmp_path / "data", episodes=2, max_env_steps=12, env_options={"size_px": 16})
    manifest = make_dataset_manifest(store, "dmc/reacher-easy", {"size_px": 16}, protocol="official", distances=[5], num_pairs=4, seed=0)
    recorded = [store.episode(pair.episode_index).labels[pair.start_env_step + 5] for pair in manifest.pairs]
    np.testing.assert_allclose(labels_of(manifest, "goal_state"), recorded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("protocol", ["official", "clear-moderate", "clear-strict"])
def test_pairs_of_push_t_are_played_again_from_a_dataset(tmp_path: Path, protocol: str):
    store = collect("push-t", tmp_path / "data", episodes=6, max_env_steps=40, env_options={"size_px": 16})
    manifest = make_dataset_manifest(store, "push-t", {"size_px": 16}, protocol=protocol, distances=[25], num_pairs=2, seed=0)
    recorded = [store.episode(pair.episode_index).labels[pair.start_env_step + 25] for pair in manifest.pairs]
    np.testing.assert_array_equal(labels_of(manifest, "goal_state"), recorded)


def test_only_the_official_protocol_prescribes_the_search():
    from lewm.config_files import load_preset

    own = load_preset("laptop").planner
    assert protocol_planner("heldout", own) == protocol_planner("clear-moderate", own) == own
    official = protocol_planner("official", own)
    assert (official.num_candidates, official.num_elites, official.num_iterations, official.use_bounds) == (300, 30, 30, False)


def test_without_a_dataset_it_says_that_one_is_needed():
    with pytest.raises(ConfigError, match="takes its pairs from the rows of a dataset, usually the training set: give --data DIR"):
        make_pairs("two-room", OPTIONS, protocol="official", distances=[25], num_pairs=1, seed=0)


@pytest.mark.parametrize("setting", [{"is_stitched": True}, {"strata": ["same-room"]}, {"data_policy": "random"}, {"is_rest_start": True}])
def test_settings_of_other_protocols_are_refused(store: EpisodeStore, setting: dict[str, Any]):
    with pytest.raises(ConfigError, match="is a setting of protocol 'heldout'; 'official' takes pairs as they are in the dataset"):
        make_pairs("two-room", OPTIONS, protocol="official", data=store.path, distances=[25], num_pairs=1, seed=0, **setting)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"distances": [61]}, "gives 0 pairs at D = 61, 4 were asked for"),
        ({"num_pairs": 31, "protocol": "clear-moderate"}, r"pairs at D = 25 of protocol 'clear-moderate', one per episode, 31 were asked for"),
        ({"num_pairs": 0}, "at least 1 pair"),
        ({"distances": []}, "distances must be one or more"),
        ({"protocol": "oficial"}, "unknown protocol 'oficial'. Did you mean 'official'"),
    ],
)
def test_an_impossible_request_is_refused(store: EpisodeStore, request_: dict[str, Any], sentence: str):
    settings = {"protocol": "official", "distances": [25], "num_pairs": 4, "seed": 0} | request_
    with pytest.raises(LewmError, match=sentence):
        make_dataset_manifest(store, "two-room", OPTIONS, **settings)


def test_a_dataset_of_another_world_is_refused(store: EpisodeStore):
    with pytest.raises(DataError, match="is of env 'two-room', the evaluation is in 'toy-walk'"):
        make_dataset_manifest(store, "toy-walk", {}, protocol="official", distances=[3], num_pairs=1, seed=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda meta: meta.update(env={}), "has no simulator, actions and labels"),
        (lambda meta: meta["env"].update(version=0), "is of version 0 of 'two-room', this is version 1"),
        (lambda meta: meta["action_spec"].update(action_repeat=2), "give data with the same actions"),
    ],
)
def test_a_dataset_that_cannot_be_played_again_is_refused(store: EpisodeStore, tmp_path: Path, change: Callable, sentence: str):
    shutil.copytree(store.path, tmp_path / "data")
    meta = json.loads((tmp_path / "data" / "meta.json").read_text())
    change(meta)
    (tmp_path / "data" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=sentence):
        make_pairs("two-room", OPTIONS, protocol="official", data=tmp_path / "data", distances=[25], num_pairs=4, seed=0)


def test_actions_that_lead_elsewhere_than_the_labels_say_are_found_out(store: EpisodeStore, tmp_path: Path):
    shutil.copytree(store.path, tmp_path / "data")
    file = next((tmp_path / "data").glob("shards/*/actions.npy"))
    content = bytearray(file.read_bytes())
    content[128 : 128 + 8] = np.array([1, -1], "<f4").tobytes()  # the first action of episode 0
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"episode 0 of dataset .*, played again from its seed, has agent_\w_px = .* at env step 1, not"):
        replayed_states(EpisodeStore(tmp_path / "data"), {0: {10}})


def test_without_the_dataset_a_result_is_accepted_with_its_rows_on_trust(result: dict[str, Any]):
    report = verify_result(result)
    *known, rows = report["unverified"]
    assert known == list(UNVERIFIED)
    assert rows.startswith("manifest.pairs: that the seed draws these rows from dataset ")
    assert "the pairs follow from their seeds" not in report["checked"]


def test_with_the_dataset_its_rows_are_checked_too(result: dict[str, Any], store: EpisodeStore):
    report = verify_result(result, store.path)
    assert report["unverified"] == list(UNVERIFIED)
    assert "the pairs follow from their seeds" in report["checked"]


def test_another_dataset_than_the_pairs_come_from_is_refused(result: dict[str, Any], tmp_path: Path):
    collect("two-room", tmp_path / "other", episodes=2, max_env_steps=60, env_options=OPTIONS)
    with pytest.raises(VerificationError, match=r"the pairs are from dataset .* give that one"):
        verify_result(result, tmp_path / "other")


def test_rows_that_the_seed_does_not_draw_are_refused_with_the_dataset(result: dict[str, Any], store: EpisodeStore):
    result["manifest"]["seed"] = 43
    rehash(result)
    with pytest.raises(VerificationError, match=r"manifest\.pairs\.\d+\."):
        verify_result(result, store.path)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda m: m["pairs"][0].update(start_state=m["pairs"][1]["start_state"]), r"manifest\.pairs\.0\.start_state"),
        (lambda m: m["pairs"][0].update(goal_state=m["pairs"][0]["start_state"]), r"manifest\.pairs\.0\.goal_state"),
        (lambda m: m["pairs"][2].update(is_solved_at_start=not m["pairs"][2]["is_solved_at_start"]), r"manifest\.pairs\.2\.is_solved_at_start"),
        (lambda m: m["pairs"][2].pop("is_solved_at_start"), r"manifest\.pairs\.2\.is_solved_at_start is missing"),
        (lambda m: m["pairs"][4].update(m["pairs"][3] | {"id": "25/all/4"}), r"the rows at D = 25 are not different ones in their order"),
        (lambda m: m["pairs"][1].update(goal_env_step=3), r"manifest\.pairs\.1\.goal"),
        (lambda m: m["pairs"][1].update(distance_env_steps=1), r"manifest\.pairs\.1\."),
        (lambda m: m["pairs"][1].update(start_env_step=-1), r"manifest\.pairs"),
        (lambda m: m["pairs"][1].update(id="25/all/77"), r"manifest\.pairs\.1\.id"),
        (lambda m: m["env_options"].update(collision="swept"), r"manifest\.env_options\.collision"),
        (lambda m: m["env_options"].update(success_radius_px=32.0), r"manifest\.env_options\.success_radius_px"),
        (lambda m: m.update(seed_namespace="evaluation"), r"manifest\.seed_namespace"),
        (lambda m: m.update(protocol_version=2), r"manifest\.protocol_version"),
        (lambda m: m.update(protocol="heldout"), r"manifest\.dataset belongs to no result of protocol 'heldout'"),
        (lambda m: m.update(protocol="clear-moderate"), r"manifest\."),
        (lambda m: m.update(dataset=[]), r"manifest\.dataset must be an object"),
        (lambda m: m["dataset"].update(max_env_steps=10**9), r"manifest\.dataset\.max_env_steps is 1000000000; episodes of at most 100000"),
        (lambda m: m["dataset"].pop("policy_options"), r"its pairs cannot be made again"),
        (lambda m: m["dataset"].update(policy_options={"cheat": 1}), r"its pairs cannot be made again: unknown option 'cheat'"),
    ],
)
def test_an_edit_of_the_pairs_is_refused_without_the_dataset_even_with_new_hashes(result: dict[str, Any], edit: Callable, sentence: str):
    edit(result["manifest"])
    rehash(result)
    with pytest.raises(VerificationError, match=sentence):
        verify_result(result)


ON_TRUST = {"episode_index", "data_policy", "episode_env_steps", "size_px"}
"""What no check without the dataset can see, beside ``manifest.dataset``: which of its episodes a seed belongs to, who made it, how long it is; and
the size of frames, on which no outcome depends."""


def test_random_edits_of_pairs_and_settings_are_refused_even_with_new_hashes(result: dict[str, Any]):
    dice = random.Random(0)
    hashes = {"content_sha256", "manifest_sha256", "actions"}
    paths = [path for path in leaves(result) if path[0] not in UNVERIFIED and path[-1] not in ON_TRUST | hashes and path[1:2] != ("dataset",)]
    settings = [path for path in paths if path[0] == "manifest" and path[1] != "pairs"]
    pairs, others = [path for path in paths if path[1:2] == ("pairs",)], [path for path in paths if path[0] != "manifest"]
    accepted = []
    for path in settings + dice.sample(pairs, 15) + dice.sample(others, 10):
        edited = copy.deepcopy(result)
        edit(edited, path, dice)
        rehash(edited)
        try:
            verify_result(edited)
            accepted.append(path)
        except VerificationError:
            pass
    assert accepted == []


def test_a_dataset_for_a_result_that_has_none_is_refused(seeker_result: dict[str, Any], store: EpisodeStore):
    with pytest.raises(VerificationError, match="the pairs of protocol 'heldout' follow from seeds alone, not from a dataset: leave --data out"):
        verify_result(seeker_result, store.path)


def test_a_better_count_of_solved_starts_is_refused(result: dict[str, Any]):
    result["by_distance"]["25"]["num_solved_at_start"] = result["by_distance"]["25"]["strata"]["all"]["num_solved_at_start"] = 0
    rehash(result)
    with pytest.raises(VerificationError, match=r"by_distance\.25\.num_solved_at_start is 0 in the file"):
        verify_result(result)


def test_clear_pairs_are_verified_without_the_dataset_and_with_it(store: EpisodeStore):
    manifest = make_dataset_manifest(store, "two-room", OPTIONS, protocol="clear-moderate", distances=[25], num_pairs=6, seed=0)
    result = evaluate(Seeker(), manifest)
    assert verify_result(result)["is_verified"]
    assert verify_result(result, store.path)["is_verified"]


def test_a_clear_pair_of_an_episode_that_has_one_already_is_refused(store: EpisodeStore):
    manifest = make_dataset_manifest(store, "two-room", OPTIONS, protocol="clear-moderate", distances=[25], num_pairs=3, seed=0)
    result = json.loads(json.dumps(evaluate(Seeker(), manifest)))
    result["manifest"]["pairs"][1].update(result["manifest"]["pairs"][0] | {"id": "25/cross-room/1"})
    rehash(result)
    with pytest.raises(VerificationError, match="gives more than one pair at D = 25"):
        verify_result(result)


def test_a_clear_pair_that_is_solved_at_its_start_is_refused(store: EpisodeStore):
    manifest = make_dataset_manifest(store, "two-room", OPTIONS, protocol="clear-moderate", distances=[25], num_pairs=3, seed=0)
    result = json.loads(json.dumps(evaluate(Seeker(), manifest)))
    result["manifest"]["data_policy"] = "run"  # so that states are taken from the file
    result["manifest"]["pairs"][1]["goal_state"] = result["manifest"]["pairs"][1]["start_state"]
    rehash(result)
    with pytest.raises(VerificationError, match="25/cross-room/1 is solved at its start or not of the kind 'cross-room'"):
        verify_result(result)


def test_states_that_no_scripted_policy_recorded_are_taken_on_trust_and_said_to_be(result: dict[str, Any]):
    result["manifest"]["data_policy"] = "run"
    rehash(result)
    assert "which no scripted policy recorded" in verify_result(result)["unverified"][-1]


def test_a_manifest_of_a_dataset_loads_equal(official: Manifest, tmp_path: Path):
    official.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == official
