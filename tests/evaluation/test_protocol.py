"""Pairs: where they come from, what they may not be, and that anybody can make them again."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError, LewmError
from lewm.evaluation.protocol import Manifest, check_disjoint, make_manifest
from lewm.evaluation.results import pair_batch, run_references
from lewm.seeds import episode_seed


def test_a_manifest_is_a_function_of_its_seed(manifest: Manifest) -> None:
    again = make_manifest("two-room", manifest.env_options, distances=[25, 50], num_pairs=6, seed=3)
    other = make_manifest("two-room", manifest.env_options, distances=[25, 50], num_pairs=6, seed=4)
    assert again == manifest
    assert again.sha256 == manifest.sha256 != other.sha256
    assert not {pair.episode_seed for pair in manifest.pairs} & {pair.episode_seed for pair in other.pairs}


def test_fewer_pairs_are_a_prefix_of_more_and_distances_do_not_matter_to_each_other(manifest: Manifest) -> None:
    fewer = make_manifest("two-room", manifest.env_options, distances=[50], num_pairs=2, seed=3)
    expected = [pair for pair in manifest.at(50) if int(pair.id.split("/")[-1]) < 2]
    assert list(fewer.pairs) == expected
    assert [fewer.policy_seed(pair) for pair in fewer.pairs] == [manifest.policy_seed(pair) for pair in expected]


def test_each_distance_and_stratum_has_its_number_of_pairs_and_an_episode_gives_one_per_distance(manifest: Manifest) -> None:
    counts = {key: len(list(group)) for key, group in itertools.groupby(manifest.pairs, lambda pair: (pair.distance_env_steps, pair.stratum))}
    assert counts == dict.fromkeys(itertools.product((25, 50), ("cross-room", "same-room")), 6)
    assert len({pair.id for pair in manifest.pairs}) == len(manifest.pairs)
    for distance in (25, 50):
        episodes = [pair.episode_index for pair in manifest.at(distance)]
        assert len(set(episodes)) == len(episodes)


def test_no_pair_is_solved_at_its_start_and_strata_say_which_rooms(manifest: Manifest) -> None:
    envs = pair_batch(manifest, manifest.pairs)
    assert not envs.is_solved().any()
    starts = envs.labels()
    envs.set_states([pair.goal_state for pair in manifest.pairs])
    crosses = (starts[:, 0] < 112) != (envs.labels()[:, 0] < 112)
    assert crosses.tolist() == [pair.stratum == "cross-room" for pair in manifest.pairs]


def test_start_and_goal_are_states_of_the_recorded_episode_the_distance_apart(manifest: Manifest) -> None:
    from lewm.evaluation.outcomes import scripted_policy

    pair = manifest.pairs[-1]
    envs, policy = make_batch("two-room", 1, **manifest.env_options), scripted_policy("two-room", "expert")
    envs.reset([pair.episode_seed])
    policy.reset(envs, [pair.episode_seed], 300)
    states = envs.get_states()
    for _ in range(300):
        envs.step(policy.act(envs))
        states += envs.get_states()
    assert states[pair.start_env_step] == pair.start_state
    assert states[pair.start_env_step + pair.distance_env_steps] == pair.goal_state


def test_evaluation_episodes_have_other_seeds_than_training_episodes(manifest: Manifest) -> None:
    training = np.array([episode_seed("training", seed, index) for seed in (0, 3) for index in range(2000)])
    check_disjoint(manifest, training)
    evaluation = [episode_seed("evaluation", 3, pair.episode_index) for pair in manifest.pairs]
    assert evaluation == [pair.episode_seed for pair in manifest.pairs]


def test_an_evaluation_episode_in_the_training_set_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        DataError, match=f"2 evaluation episodes have the seed of a training episode.*{min(p.episode_seed for p in manifest.at(25)[:2])}"
    ):
        check_disjoint(manifest, np.array([5, *(pair.episode_seed for pair in manifest.at(25)[:2])]))


def test_a_saved_manifest_loads_equal(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == manifest


def test_a_manifest_of_another_format_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_dict() | {"format": 2}))
    with pytest.raises(DataError, match="has format 2; this version of lewm reads format 1"):
        Manifest.load(tmp_path / "manifest.json")


@pytest.mark.parametrize(("content", "sentence"), [("{", "not valid JSON"), ("[]", "must hold a JSON object"), ('{"format": 1}', "damaged")])
def test_a_damaged_manifest_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=sentence):
        Manifest.load(tmp_path / "manifest.json")


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no manifest"):
        Manifest.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": "held-out"}, "unknown protocol 'held-out'. Did you mean 'heldout'"),
        ({"distances": []}, "distances must be one or more different"),
        ({"distances": [25, 25]}, "distances must be one or more different"),
        ({"distances": [300]}, r"distances must be in \[1, 299\]"),
        ({"num_pairs": 0}, "at least 1 pair"),
    ],
)
def test_an_impossible_request_is_refused(changes: dict[str, object], sentence: str) -> None:
    request = {"distances": [25], "num_pairs": 2, "seed": 0} | changes
    with pytest.raises(ConfigError, match=sentence):
        make_manifest("two-room", {"size_px": 32}, **request)  # type: ignore[arg-type]


def test_a_world_without_enough_pairs_says_how_many_it_gave() -> None:
    with pytest.raises(LewmError, match=r"gave 0 cross-room at D = 1, .* of 1 pairs each"):
        make_manifest("two-room", {"size_px": 32}, distances=[1], num_pairs=1, seed=0)


def test_floors_and_ceiling_are_a_function_of_the_manifest_and_nothing_else(manifest: Manifest) -> None:
    references = run_references(manifest)
    assert references == run_references(manifest)
    fewer = make_manifest("two-room", manifest.env_options, distances=[25], num_pairs=3, seed=3)
    alone = run_references(fewer)
    for name, hits in alone.floors.items():
        assert hits == {pair.id: references.floors[name][pair.id] for pair in fewer.pairs}


def test_doing_nothing_solves_nothing_and_the_expert_solves_everything(manifest: Manifest) -> None:
    references = run_references(manifest)
    assert set(references.floors["no_op"].values()) == {None}
    assert references.ceiling is not None
    assert None not in references.ceiling.values()
