"""A truthful result is accepted; any edit is refused, even by somebody who computes new hashes."""

import copy
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import edit, leaves
from seeker import Seeker

from lewm.errors import VerificationError
from lewm.evaluation.protocol import canonical_sha256, make_manifest
from lewm.evaluation.results import UNVERIFIED, content_sha256, encode_actions
from lewm.evaluation.success import evaluate
from lewm.evaluation.verify import verify_result

NUM_EDITS = 100


@pytest.fixture
def result(seeker_result: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(seeker_result))


@pytest.fixture(scope="module")
def small_result() -> dict[str, Any]:
    """Quick to verify: one short distance."""
    return json.loads(json.dumps(evaluate(Seeker(), make_manifest("two-room", {"size_px": 32}, distances=[15], num_pairs=5, seed=1))))


def rehash(result: dict[str, Any]) -> None:
    """What a careful cheat does after an edit."""
    result["protocol"]["manifest_sha256"] = canonical_sha256(result["manifest"])
    result["content_sha256"] = content_sha256(result)


def test_a_truthful_result_is_accepted_and_says_what_was_not_checked(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result, indent=1))
    report = verify_result(tmp_path / "result.json")
    assert report["is_verified"]
    assert report["num_episodes"] == 24
    assert report["unverified"] == list(UNVERIFIED)
    assert {"plan_ms", "versions", "command", "checkpoint_sha256"} <= set(report["unverified"])
    assert verify_result(str(tmp_path / "result.json")) == report == verify_result(result)


def test_a_hundred_of_a_hundred_random_edits_are_refused(small_result: dict[str, Any]) -> None:
    result = small_result
    dice = random.Random(0)
    paths = list(leaves(result))
    accepted = []
    for _ in range(NUM_EDITS):
        edited, path = copy.deepcopy(result), dice.choice(paths)
        edit(edited, path, dice)
        assert edited != result
        try:
            verify_result(edited)
            accepted.append(path)
        except VerificationError:
            pass
    assert accepted == []


def test_random_edits_of_each_section_are_refused_even_with_new_hashes(small_result: dict[str, Any]) -> None:
    result = small_result
    dice = random.Random(1)
    derivable = [path for path in leaves(result) if path[0] not in UNVERIFIED and path[-1] not in {"content_sha256", "manifest_sha256", "actions"}]
    accepted = []
    for section in sorted({str(path[0]) for path in derivable}):
        own = [path for path in derivable if str(path[0]) == section]
        for path in dice.sample(own, min(5, len(own))):
            edited = copy.deepcopy(result)
            edit(edited, path, dice)
            rehash(edited)
            try:
                verify_result(edited)
                accepted.append(path)
            except VerificationError:
                pass
    assert accepted == []


def test_a_refusal_names_the_field_and_both_values(result: dict[str, Any]) -> None:
    truth = result["by_distance"]["50"]["strata"]["same-room"]["random"]["rate"]
    result["by_distance"]["50"]["strata"]["same-room"]["random"]["rate"] = 0.01
    with pytest.raises(VerificationError, match=rf"by_distance\.50\.strata\.same-room\.random\.rate is 0\.01 in the file and {truth} recomputed"):
        verify_result(result)


def test_claiming_a_failed_episode_as_solved_is_refused_even_with_new_hashes(result: dict[str, Any]) -> None:
    index = next(i for i, episode in enumerate(result["episodes"]) if not episode["solved"])
    result["episodes"][index] |= {"solved": True, "first_hit": result["episodes"][index]["num_env_steps"]}
    rehash(result)
    with pytest.raises(VerificationError, match=rf"episodes\.{index}\.first_hit is \d+ in the file and None recomputed"):
        verify_result(result)


def test_actions_that_do_not_reach_the_goal_are_refused_even_with_new_hashes(result: dict[str, Any]) -> None:
    index = next(i for i, episode in enumerate(result["episodes"]) if episode["solved"])
    result["episodes"][index]["actions"] = encode_actions(np.zeros((result["episodes"][index]["num_env_steps"], 2), np.float32))
    rehash(result)
    with pytest.raises(VerificationError, match="it is over after 50 env steps"):
        verify_result(result)


def test_an_edited_action_that_changes_no_outcome_is_caught_by_the_content_hash(result: dict[str, Any]) -> None:
    episode = next(episode for episode in result["episodes"] if not episode["solved"])
    episode["actions"] = encode_actions(np.zeros((episode["num_env_steps"], 2), np.float32))
    with pytest.raises(VerificationError, match=r"content_sha256 is .* recomputed: an action that changes no outcome"):
        verify_result(result)


def test_an_edited_latency_is_caught_by_the_content_hash(result: dict[str, Any]) -> None:
    result["plan_ms"]["p50"] = 0.1
    with pytest.raises(VerificationError, match="content_sha256"):
        verify_result(result)


def test_an_easier_start_is_refused_even_with_new_hashes(result: dict[str, Any]) -> None:
    pairs = result["manifest"]["pairs"]
    pairs[0]["start_state"] = pairs[1]["start_state"]
    rehash(result)
    with pytest.raises(VerificationError, match=r"manifest\.pairs\.0\.start_state"):
        verify_result(result)


def test_an_edited_pair_is_refused_by_the_manifest_hash(result: dict[str, Any]) -> None:
    result["manifest"]["pairs"][3]["start_env_step"] += 1
    with pytest.raises(VerificationError, match=r"protocol\.manifest_sha256"):
        verify_result(result)


def test_episodes_left_out_are_refused(result: dict[str, Any]) -> None:
    del result["episodes"][0]
    rehash(result)
    with pytest.raises(VerificationError, match="one entry for each of the 24 pairs"):
        verify_result(result)


def test_pairs_left_out_are_refused(result: dict[str, Any]) -> None:
    del result["manifest"]["pairs"][0]
    del result["episodes"][0]
    rehash(result)
    with pytest.raises(VerificationError, match="23 pairs' in the file and '24 pairs' recomputed"):
        verify_result(result)


def test_a_number_nobody_asked_for_is_refused(result: dict[str, Any]) -> None:
    result["by_distance"]["25"]["success_adjusted"] = 1.0
    rehash(result)
    with pytest.raises(VerificationError, match=r"by_distance\.25\.success_adjusted .* no such field follows"):
        verify_result(result)


def test_a_missing_field_is_refused(result: dict[str, Any]) -> None:
    del result["by_distance"]["25"]["random"]
    rehash(result)
    with pytest.raises(VerificationError, match=r"by_distance\.25\.random is missing"):
        verify_result(result)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("manifest",), None),
        (("manifest", "seed"), "3"),
        (("manifest", "num_pairs"), 10**12),
        (("manifest", "distances"), [25, "50"]),
        (("manifest", "env"), "no-such-world"),
        (("manifest", "env_options"), {"size_px": -1}),
        (("manifest", "pairs", 0), "x"),
        (("manifest", "strata"), None),
        (("episodes",), {}),
        (("episodes", 0), None),
        (("episodes", 0, "actions"), "not base64!"),
        (("episodes", 0, "actions"), 5),
        (("episodes", 0, "actions"), "AADAfwAAwH8="),  # NaN
        (("by_distance",), []),
        (("format",), 2),
        (("evaluation",), "probe"),
        (("format",), True),
    ],
)
def test_hostile_values_are_refused_with_a_sentence_not_a_crash(result: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    owner = result
    for name in path[:-1]:
        owner = owner[name]
    owner[path[-1]] = value
    if isinstance(result["manifest"], dict):
        rehash(result)
    with pytest.raises(VerificationError, match=r" \w+"):
        verify_result(result)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not a valid result"),
        ("[]", "must hold a JSON object"),
        ('{"n": NaN}', "NaN is not a number"),
        ('{"n": 1, "n": 2}', "names the same field twice"),
        ("{}", "evaluation is None in the file and 'success' recomputed"),
    ],
)
def test_a_file_that_is_no_result_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(VerificationError, match=sentence):
        verify_result(tmp_path / "result.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="cannot read"):
        verify_result(tmp_path / "none.json")


def test_verification_imports_no_torch(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    code = "import sys; from lewm.evaluation.verify import verify_result; verify_result(sys.argv[1]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "result.json")], check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_five_hundred_episodes_are_verified_within_seconds() -> None:
    import time

    manifest = make_manifest("two-room", {"size_px": 32}, distances=[25], num_pairs=250, seed=0)
    result = evaluate(Seeker(block=5), manifest)
    start_s = time.monotonic()
    verify_result(result)
    assert time.monotonic() - start_s < 20
