"""The same pairs under other conditions: what changes, what is compared, and that a result can be checked without the policy."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from edits import edit, leaves
from seeker import FRAME_PX, Seeker, SeekerState

from lewm.errors import ConfigError, LewmError, VerificationError
from lewm.evaluation.conditions import UNPERTURBED, Condition, make_conditions, pairs_under
from lewm.evaluation.outcomes import start_batch
from lewm.evaluation.protocol import canonical_sha256, make_manifest
from lewm.evaluation.results import content_sha256, encode_actions
from lewm.evaluation.robustness import UNVERIFIED, evaluate_robustness
from lewm.evaluation.robustness_table import robustness_table
from lewm.evaluation.verify import verify_result
from lewm.report.robustness_figure import draw_robustness
from lewm.schema import Observation

WORLD = {"size_px": FRAME_PX, "vary": ["door_y_px"], "door_bands_px": [[35, 77], [147, 189]]}
REQUEST: dict[str, Any] = {"distances": [15], "num_pairs": 4, "seed": 3, "strata": ["cross-room", "same-room"]}


class BoldSeeker(Seeker):
    """Stays where it is where it cannot find the dot: a grey square may cover it."""

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> SeekerState:
        with np.errstate(invalid="ignore"):
            return super().reset(goals, seeds)

    def act(self, observations: Observation[np.ndarray] | None, state: SeekerState) -> tuple[np.ndarray, SeekerState]:
        with np.errstate(invalid="ignore"):
            actions, state = super().act(observations, state)
        return np.nan_to_num(actions), state


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Half of what there is, on few pairs."""
    found = evaluate_robustness(
        BoldSeeker(),
        env="two-room",
        env_options=WORLD,
        perturbations=["door_y_px", "agent_radius_px:low", "background_color"],
        corruptions=["noise", "occlusion"],
        severities=[0.5, 1],
        is_unseen=True,
        **REQUEST,
    )
    return json.loads(json.dumps(found))


@pytest.fixture
def edited(result: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(result)


def condition(result: dict[str, Any], name: str, severity: float = 1.0, goals: str = "same") -> dict[str, Any]:
    return next(entry for entry in result["conditions"] if (entry["name"], entry["severity"], entry["goals"]) == (name, severity, goals))


def test_every_condition_is_there_once_and_in_order(result: dict[str, Any]) -> None:
    found = [(entry["name"], entry["severity"], entry["goals"]) for entry in result["conditions"]]
    names = ("door_y_px", "agent_radius_px:low", "background_color", "noise", "occlusion")
    assert found == [(name, severity, goals) for name in names for severity in (0.5, 1.0) for goals in ("same", "clean")]


def test_differences_are_between_the_same_pairs(result: dict[str, Any]) -> None:
    before = {episode["pair"]: episode["solved"] for episode in result["unperturbed"]["episodes"]}
    for entry in result["conditions"]:
        for stratum, fields in entry["by_distance"]["15"]["strata"].items():
            own = [(episode["solved"], before[episode["pair"]]) for episode in entry["episodes"] if episode["stratum"] == stratum]
            assert fields["n"] == len(own)
            assert fields["difference_to_unperturbed"]["rate"] == pytest.approx(np.mean([float(now) - float(then) for now, then in own]))


def test_corruptions_leave_the_world_and_its_floors_as_they_are(result: dict[str, Any]) -> None:
    for entry in result["conditions"]:
        if entry["kind"] == "corruption":
            assert entry["manifest_sha256"] == result["protocol"]["manifest_sha256"]
            assert entry["random"] == result["unperturbed"]["random"]


def test_looks_change_what_the_agent_does_but_not_what_blind_policies_do(result: dict[str, Any]) -> None:
    entry = condition(result, "background_color")
    for name in ("random", "block_random", "expert"):
        assert entry["by_distance"]["15"][name] == result["unperturbed"]["by_distance"]["15"][name]
    assert [episode["actions"] for episode in entry["episodes"]] != [episode["actions"] for episode in result["unperturbed"]["episodes"]]


def test_floors_and_expert_are_run_in_the_perturbed_world(result: dict[str, Any]) -> None:
    def hits(entry: dict[str, Any]) -> list[int | None]:
        return [episode["expert_first_hit"] for episode in entry["episodes"] if episode["stratum"] == "cross-room"]

    assert hits(condition(result, "door_y_px")) != hits(result["unperturbed"])


def test_clean_goals_show_the_unperturbed_world_and_the_start_the_perturbed_one() -> None:
    manifest = make_manifest("two-room", WORLD, **REQUEST)
    frames = {}
    for goals in ("same", "clean"):
        changed, _ = pairs_under(manifest, Condition(kind="perturbation", name="background_color", severity=1.0, goals=goals))
        envs = start_batch(
            manifest.env, manifest.env_options, [pair.start_state for pair in changed.pairs], [pair.goal_state for pair in changed.pairs]
        )
        frames[goals] = (envs.observe().frames.max(), envs.observe_goals().frames[:, 0, FRAME_PX // 4, 4].max())
    assert frames["same"][1] < frames["clean"][1]


def test_pairs_that_are_not_legal_any_more_are_left_out_and_counted() -> None:
    manifest = make_manifest("two-room", WORLD, **(REQUEST | {"num_pairs": 20}))
    found = [pairs_under(manifest, Condition(kind="perturbation", name="wall_thickness_px", severity=severity)) for severity in (0.25, 1.0)]
    assert all(len(changed.pairs) + num_left_out == 40 for changed, num_left_out in found)
    assert 0 <= found[0][1] < found[1][1]
    assert {pair.id for pair in found[1][0].pairs} < {pair.id for pair in manifest.pairs}


def test_a_condition_that_leaves_no_pair_is_refused() -> None:
    world = {"size_px": FRAME_PX, "background_color": [112, 112, 112], "agent_color": [0, 0, 0]}
    manifest = make_manifest("two-room", world, **REQUEST)
    with pytest.raises(LewmError, match=r"agent_color:high at severity 0\.45, goals same leaves no legal pair of stratum 'cross-room' at D = 15"):
        pairs_under(manifest, Condition(kind="perturbation", name="agent_color:high", severity=0.45))


def test_unperturbed_pairs_are_the_manifest_itself() -> None:
    manifest = make_manifest("two-room", WORLD, **REQUEST)
    assert pairs_under(manifest, UNPERTURBED) == (manifest, 0)


def test_unseen_doors_are_stated_and_every_pair_has_one(result: dict[str, Any]) -> None:
    unseen = result["unseen"]
    assert (unseen["seen"], unseen["unseen"], unseen["margin"]) == ([[35, 77], [147, 189]], [[84, 140]], 7)
    assert unseen["manifest"]["env_options"]["door_bands_px"] == [[84, 140]]
    assert unseen["strongest_floor"]["name"] in ("random", "no_op", "block_random")
    assert unseen["n"] == 4


def test_a_truthful_result_is_accepted_and_says_what_was_not_checked(result: dict[str, Any]) -> None:
    report = verify_result(result)
    assert report["is_verified"]
    assert report["num_conditions"] == 20
    # What a smaller agent or a moved door does to a pair is always legal, so every condition has all eight.
    assert report["num_episodes"] == 8 * (1 + 20 + 1)
    assert set(UNVERIFIED) < set(report["unverified"])


def test_random_edits_are_refused(result: dict[str, Any]) -> None:
    dice, paths, accepted = random.Random(0), list(leaves(result)), []
    for path in dice.sample(paths, 4):
        changed = copy.deepcopy(result)
        edit(changed, path, dice)
        try:
            verify_result(changed)
            accepted.append(path)
        except VerificationError:
            pass
    assert accepted == []


def test_a_success_that_was_not_is_refused_even_with_new_hashes(edited: dict[str, Any]) -> None:
    entry = condition(edited, "door_y_px")
    episode = next(episode for episode in entry["episodes"] if not episode["solved"])
    episode |= {"solved": True, "first_hit": episode["num_env_steps"]}
    edited["content_sha256"] = content_sha256(edited)
    with pytest.raises(VerificationError, match=r"conditions\.2\.episodes\.\d+\.first_hit"):
        verify_result(edited)


def test_actions_of_another_condition_are_refused_even_with_new_hashes(edited: dict[str, Any]) -> None:
    entry = condition(edited, "noise")
    episode = next(episode for episode in entry["episodes"] if episode["solved"])
    episode["actions"] = encode_actions(np.zeros((episode["num_env_steps"], 2), np.float32))
    edited["content_sha256"] = content_sha256(edited)
    with pytest.raises(VerificationError, match=r"conditions\.\d+\.episodes: replaying the actions"):
        verify_result(edited)


def test_another_severity_is_refused_even_with_new_hashes(edited: dict[str, Any]) -> None:
    condition(edited, "door_y_px", 0.5)["severity"] = 0.75
    edited["content_sha256"] = content_sha256(edited)
    with pytest.raises(VerificationError, match=r"conditions\.0"):
        verify_result(edited)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"severity": 1.5}, r"conditions\.0\.severity must be a number in \(0, 1\]"),
        ({"severity": True}, r"conditions\.0\.severity must be"),
        ({"name": "door_y"}, r"conditions\.0\.name: env 'two-room' has no perturbation 'door_y'"),
        ({"name": "none"}, r"conditions\.0\.name must be that of a perturbation"),
        ({"kind": "corruption"}, r"conditions\.0\.name: unknown corruption 'door_y_px'"),
        ({"goals": "easy"}, r"conditions\.0 must have a kind"),
    ],
)
def test_conditions_that_nobody_can_ask_for_are_refused(edited: dict[str, Any], change: dict[str, Any], message: str) -> None:
    edited["conditions"][0] |= change
    with pytest.raises(VerificationError, match=message):
        verify_result(edited)


def test_doors_of_training_sold_as_unseen_are_refused_even_with_new_hashes(edited: dict[str, Any]) -> None:
    edited["unseen"]["manifest"] = edited["manifest"]
    edited["unseen"]["manifest_sha256"] = canonical_sha256(edited["manifest"])
    edited["unseen"]["episodes"] = edited["unperturbed"]["episodes"]
    edited["content_sha256"] = content_sha256(edited)
    with pytest.raises(VerificationError, match=r"unseen\.manifest\.env_options"):
        verify_result(edited)


def test_the_table_has_a_line_per_condition_and_states_the_doors(result: dict[str, Any]) -> None:
    table = robustness_table(result)
    assert sum(line.startswith("agent_radius_px:low ") for line in table.splitlines()) == 8
    assert "trained on 35 to 77 and 147 to 189, unseen 84 to 140, at least 7 apart" in table
    assert "no probe: give --data DIR" in table


def test_the_figure_is_a_png_of_its_own_result_alone(result: dict[str, Any], tmp_path) -> None:
    for name in ("one.png", "two.png"):
        draw_robustness(result, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_pairs_from_training_episodes_are_refused() -> None:
    seeds = np.array([make_manifest("two-room", WORLD, **REQUEST).pairs[0].episode_seed])
    with pytest.raises(LewmError, match="have the seed of a training episode"):
        evaluate_robustness(Seeker(), env="two-room", env_options=WORLD, training_episode_seeds=seeds, **REQUEST)


def test_all_there_is_is_tried_unless_names_are_given() -> None:
    everything = make_conditions("two-room", None, None, [1.0], ["same"])
    assert len(everything) == 7 + 6
    assert make_conditions("two-room", ["none"], ["none"], [1.0], ["same"]) == []
    assert {one.kind for one in make_conditions("toy-walk", None, ["blur"], [1], ["same"])} == {"corruption"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbations": ["dor_y_px"]}, "env 'two-room' has no perturbation 'dor_y_px'. Did you mean 'door_y_px'"),
        ({"perturbations": ["door_y_px:hi"]}, "the end of its range is one of low, high, far, got 'hi'"),
        ({"perturbations": ["door_y_px", "door_y_px"]}, "perturbations must be one or more different names"),
        ({"env": "toy-walk", "perturbations": ["x"]}, "env 'toy-walk' has no perturbations, got 'x'; corruptions of frames work everywhere"),
        ({"env": None, "perturbations": ["x"]}, "data without a simulator has no perturbations"),
        ({"corruptions": ["nose"]}, "unknown corruption 'nose'. Did you mean 'noise'"),
        ({"severities": [0.0, 1.0]}, r"severities must be different numbers in \(0, 1\], ascending, got 0.0, 1.0"),
        ({"severities": [1.5]}, r"must be different numbers in \(0, 1\]"),
        ({"severities": [1.0, 0.5]}, "ascending"),
        ({"severities": []}, "got none"),
        ({"goals": ["samey"]}, "unknown kind of goal frames 'samey'. Did you mean 'same'"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_what_can(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"env": "two-room", "perturbations": None, "corruptions": None, "severities": [1.0], "goals": ["same"]} | changes
    with pytest.raises(ConfigError, match=message):
        make_conditions(*arguments.values())


class Idler(Seeker):
    """Does nothing, in any world of continuous actions."""

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> SeekerState:
        return SeekerState(np.zeros((len(seeds), 2)), np.zeros((len(seeds), 2), np.float32), 0, np.zeros(len(seeds), np.int64))

    def act(self, observations: Observation[np.ndarray] | None, state: SeekerState) -> tuple[np.ndarray, SeekerState]:
        return state.actions, state


@pytest.mark.parametrize(("env", "distance"), [pytest.param("push-t", 6, marks=pytest.mark.slow), ("stress/distractor/two-room", 25)])
def test_all_perturbations_of_other_worlds_can_be_tried_and_verified(env: str, distance: int) -> None:
    request: dict[str, Any] = {"distances": [distance], "num_pairs": 2, "seed": 0}
    found = evaluate_robustness(Idler(), env=env, env_options={"size_px": 32}, corruptions=["none"], severities=[0.5, 1], goals=["clean"], **request)
    assert len(found["conditions"]) == 2 * 7
    assert verify_result(json.loads(json.dumps(found)))["is_verified"]


def test_a_world_without_unseen_layouts_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="has no layouts that training left out"):
        evaluate_robustness(Seeker(), env="two-room", env_options={"size_px": FRAME_PX, "vary": ["door_y_px"]}, is_unseen=True, **REQUEST)
