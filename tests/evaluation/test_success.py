"""The episode loop and the result it leads to, with a policy that needs no model."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from seeker import FRAME_PX, Seeker, SeekerState

from lewm.errors import EnvError
from lewm.evaluation.outcomes import PlanTimes, replay, run_policy, scripted_policy
from lewm.evaluation.protocol import Manifest, make_manifest
from lewm.evaluation.results import decode_actions, encode_actions, pair_batch, run_references
from lewm.evaluation.success import evaluate_success, run_episodes, success_table
from lewm.schema import ActionSpec, Observation


def test_a_result_has_the_fields_that_scripts_rely_on(seeker_result: dict[str, Any]) -> None:
    assert {"evaluation", "format", "env", "protocol", "checkpoint_sha256", "dataset_sha256", "planner", "plan_ms"} <= set(seeker_result)
    assert {"by_distance", "n", "success", "random", "episodes", "versions", "command"} <= set(seeker_result)
    assert set(seeker_result["protocol"]) == {"name", "version", "manifest_sha256"}
    for distance, entry in seeker_result["by_distance"].items():
        assert entry["budget_env_steps"] == 2 * int(distance)
        assert {"n", "success", "random", "no_op", "block_random", "expert", "steps_to_success"} <= set(entry)
        assert set(entry["strata"]) == {"cross-room", "same-room"}
    json.dumps(seeker_result, allow_nan=False)


def test_plain_fields_are_those_of_the_headline_stratum_and_the_top_repeats_the_first_distance(seeker_result: dict[str, Any]) -> None:
    for entry in seeker_result["by_distance"].values():
        headline = entry["strata"]["cross-room"]
        assert {name: entry[name] for name in headline} == headline
    first = seeker_result["by_distance"]["25"]
    for name in ("n", "success", "random"):
        assert seeker_result[name] == first[name]


def test_rates_count_the_episodes_of_their_stratum_and_distance(seeker_result: dict[str, Any]) -> None:
    for distance, entry in seeker_result["by_distance"].items():
        for stratum, fields in entry["strata"].items():
            episodes = [e for e in seeker_result["episodes"] if e["distance"] == int(distance) and e["stratum"] == stratum]
            assert fields["n"] == len(episodes) == 6
            assert fields["success"]["rate"] == pytest.approx(np.mean([e["solved"] for e in episodes]))
            hits = [e["first_hit"] for e in episodes if e["solved"]]
            assert fields["steps_to_success"]["median"] == (np.median(hits) if hits else None)


def test_the_headline_is_compared_with_the_strongest_floor(seeker_result: dict[str, Any]) -> None:
    for entry in seeker_result["by_distance"].values():
        for fields in entry["strata"].values():
            rates = {name: fields[name]["rate"] for name in ("random", "no_op", "block_random")}
            assert fields["strongest_floor"]["rate"] == max(rates.values()) == rates[fields["strongest_floor"]["name"]]
            difference = fields["paired_difference"]
            assert difference["rate"] == pytest.approx(fields["success"]["rate"] - max(rates.values()))
            assert difference["low"] <= difference["rate"] <= difference["high"]


def test_a_policy_that_goes_straight_solves_rooms_and_beats_the_floors_there(seeker_result: dict[str, Any]) -> None:
    same_room = seeker_result["by_distance"]["25"]["strata"]["same-room"]
    assert same_room["success"]["rate"] == 1.0
    assert same_room["random"]["rate"] < 0.7


def test_finished_episodes_drop_out_of_the_batch_before_the_next_plan(manifest: Manifest) -> None:
    policy = Seeker()
    outcomes, times = run_episodes(policy, manifest)
    assert policy.batch_sizes == times.num_episodes
    assert sum(policy.batch_sizes) == sum(-(-len(outcome.actions) // policy.block) for outcome in outcomes.values())


def test_an_episode_goes_the_same_alone_as_in_a_batch(manifest: Manifest) -> None:
    together, _ = run_episodes(Seeker(), manifest)
    for pair in manifest.pairs[::5]:
        (alone,) = run_policy(
            Seeker(), "two-room", manifest.env_options, [pair.start_state], [pair.goal_state], [manifest.policy_seed(pair)], pair.budget_env_steps
        )
        assert alone.first_hit == together[pair.id].first_hit
        np.testing.assert_array_equal(alone.actions, together[pair.id].actions)


def test_success_is_the_first_hit_and_recording_stops_there(manifest: Manifest) -> None:
    outcomes, _ = run_episodes(Seeker(), manifest)
    for pair in manifest.pairs:
        envs, outcome = pair_batch(manifest, [pair]), outcomes[pair.id]
        solved = []
        for action in outcome.actions:
            envs.step(action[None])
            solved.append(bool(envs.is_solved()[0]))
        assert solved == [False] * (len(solved) - 1) + [outcome.solved]
        assert outcome.first_hit == (len(solved) if outcome.solved else None)
        assert outcome.solved or len(solved) == pair.budget_env_steps


def test_frames_are_drawn_only_when_the_policy_looks(manifest: Manifest) -> None:
    class Blind(Seeker):
        def act(self, observations: Observation[np.ndarray] | None, state: SeekerState) -> tuple[np.ndarray, SeekerState]:
            assert (observations is not None) == self.needs_frame(state)
            return super().act(observations, state)

    run_episodes(Blind(block=5), manifest)


def test_planning_time_is_divided_by_the_plans_of_a_call() -> None:
    times = PlanTimes(seconds=[1.0, 0.5], num_episodes=[10, 1])
    assert times.per_plan_ms().tolist() == [100.0, 500.0]


def test_replaying_executed_actions_gives_the_same_outcomes(manifest: Manifest) -> None:
    outcomes, _ = run_episodes(Seeker(), manifest)
    pairs = manifest.at(50)
    again = replay(pair_batch(manifest, pairs), [outcomes[pair.id].actions for pair in pairs], 100)
    assert [outcome.first_hit for outcome in again] == [outcomes[pair.id].first_hit for pair in pairs]


@pytest.mark.parametrize(("change", "sentence"), [(lambda a: a[:-1], "it is over after"), (lambda a: np.repeat(a, 99, 0), "more than its budget")])
def test_a_replay_with_too_few_or_too_many_actions_is_refused(manifest: Manifest, change: Any, sentence: str) -> None:
    pairs = manifest.at(25)[:1]
    outcomes, _ = run_episodes(Seeker(), manifest)
    with pytest.raises(EnvError, match=sentence):
        replay(pair_batch(manifest, pairs), [change(outcomes[pairs[0].id].actions)], 50)


def test_actions_survive_their_encoding_exactly() -> None:
    continuous = ActionSpec(kind="continuous", low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0))
    actions = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    decoded = decode_actions(encode_actions(actions), continuous, "actions")
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, actions)
    choices = np.array([3, 0, 2**40])
    np.testing.assert_array_equal(decode_actions(encode_actions(choices), ActionSpec(kind="discrete", num_choices=4), "actions"), choices)


@pytest.mark.parametrize("name", ["random", "block-random", "no-op", "expert-noiseless"])
def test_scripted_policies_depend_on_their_own_seed_only(manifest: Manifest, name: str) -> None:
    def actions(rows: Sequence[int]) -> np.ndarray:
        envs, policy = pair_batch(manifest, [manifest.pairs[row] for row in rows]), scripted_policy("two-room", name)
        policy.reset(envs, [100 + row for row in rows], 5)
        return policy.act(envs)

    np.testing.assert_array_equal(actions([0, 1, 2])[2:], actions([2]))


def test_the_random_floor_is_near_its_known_rate() -> None:
    manifest = make_manifest("two-room", {"size_px": FRAME_PX}, distances=[25], num_pairs=200, seed=0)
    hits = run_references(manifest).floors["random"]
    cross = np.mean([hits[pair.id] is not None for pair in manifest.pairs if pair.stratum == "cross-room"])
    assert 0.0 <= cross < 0.08  # 0.02 in trials


def test_evaluate_success_checks_the_training_seeds_and_says_how_many(manifest: Manifest) -> None:
    result = evaluate_success(
        Seeker(),
        env="two-room",
        env_options={"size_px": FRAME_PX},
        distances=[25],
        num_pairs=2,
        seed=3,
        planner={"name": "seeker"},
        checkpoint_sha256="",
        dataset_sha256="",
        training_episode_seeds=np.array([1, 2, 3]),
        command="",
        num_latency_episodes=1,
    )
    assert result["num_training_episodes"] == 3
    assert result["plan_ms"]["single_episode"]["num_calls"] == 1


def test_the_table_shows_each_rate_with_its_interval_floor_and_n(seeker_result: dict[str, Any]) -> None:
    table = success_table(seeker_result)
    rate = seeker_result["by_distance"]["50"]["strata"]["same-room"]["success"]
    line = next(line for line in table.splitlines() if line.split()[:3] == ["50", "same-room", "6"])
    assert f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" in line
    assert seeker_result["protocol"]["manifest_sha256"][:12] in table
