"""Several methods on the same pairs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeker import Seeker

from lewm.errors import ConfigError, DataError
from lewm.evaluation.intervals import hierarchical_difference, mcnemar_p, paired_difference, wilson
from lewm.evaluation.methods import compare_methods, methods_table, parse_methods
from lewm.evaluation.protocol import make_manifest
from lewm.evaluation.success import evaluate
from lewm.report.methods_figure import draw_methods

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, seeker_result: dict[str, Any]) -> Write:
    """Writes the truthful result as that of another checkpoint, with given outcomes, into a run of that name."""

    def make(name: str, solved: Callable[[int], bool]) -> Path:
        result = json.loads(json.dumps(seeker_result)) | {"checkpoint_sha256": name}
        for index, episode in enumerate(result["episodes"]):
            episode["solved"] = bool(solved(index))
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "results" / "success-25.json").write_text(json.dumps(result))
        return tmp_path / name

    return make


def test_files_alone_are_seeds_of_one_method_and_runs_or_names_are_methods(write: Write, tmp_path: Path) -> None:
    run = write("a", lambda i: True)
    file = run / "results" / "success-25.json"
    assert parse_methods([str(file), str(file)]) is None
    assert parse_methods([str(run), f"b={file},{run}"]) == {"a": [run], "b": [file, run]}
    with pytest.raises(ConfigError, match="two methods are called 'a'"):
        parse_methods([str(run), str(run)])
    with pytest.raises(ConfigError, match="a method is NAME=PATH"):
        parse_methods([str(run), "b="])


def test_each_method_has_its_rate_n_floor_and_the_paired_difference_to_the_first(write: Write) -> None:
    compared = compare_methods({"half": [write("a", lambda i: i % 2 == 0)], "all": [write("b", lambda i: True)]})
    methods = compared["comparisons"][0]["by_distance"]["25"]["cross-room"]["methods"]
    half, everything = methods["half"], methods["all"]
    assert everything["success"] == wilson(6, 6)
    assert half["n"] == 6
    assert "difference" not in half
    outcomes = np.arange(6) % 2 == 0
    assert everything["difference"] == paired_difference(np.ones(6, bool), outcomes)
    assert everything["difference"]["mcnemar_p"] == mcnemar_p(np.ones(6, bool), outcomes)
    assert everything["strongest_floor"]["rate"] >= 0
    text = methods_table(compared)
    assert "+0.500" in text
    assert "manifest" in text


def test_several_seeds_per_method_widen_the_interval_of_the_difference(write: Write, tmp_path: Path) -> None:
    methods = {
        "steady": [write("a", lambda i: i % 2 == 0), write("b", lambda i: i % 2 == 0)],
        "uneven": [write("c", lambda i: True), write("d", lambda i: False)],
    }
    compared = compare_methods(methods)
    fields = compared["comparisons"][0]["by_distance"]["25"]["same-room"]["methods"]["uneven"]
    assert fields["rate_per_seed"] == [1.0, 0.0]
    assert fields["difference"]["mcnemar_p"] is None
    assert fields["difference"]["low"] < -0.3 < 0.3 < fields["difference"]["high"]
    draw_methods(compared, tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 5000


def test_with_one_seed_the_hierarchical_difference_is_the_paired_one() -> None:
    first, second = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool), np.array([0, 1, 0, 0, 1, 0, 0, 1], bool)
    hierarchical, paired = hierarchical_difference([first], [second]), paired_difference(first, second)
    assert {name: hierarchical[name] for name in ("rate", "low", "high")} == pytest.approx({name: paired[name] for name in ("rate", "low", "high")})
    with pytest.raises(ConfigError, match="outcomes for the same pairs"):
        hierarchical_difference([first], [second[:3]])


def test_methods_on_different_pairs_are_refused_with_both_hashes(write: Write, tmp_path: Path, manifest: Any) -> None:
    other = make_manifest("two-room", {"size_px": 16}, distances=[25, 50], num_pairs=6, seed=4)
    (tmp_path / "other.json").write_text(json.dumps(evaluate(Seeker(), other)))
    with pytest.raises(ConfigError, match=f"different pairs .manifests {manifest.sha256[:12]} and {other.sha256[:12]}"):
        compare_methods({"a": [write("a", bool)], "b": [tmp_path / "other.json"]})


def test_what_only_some_methods_have_is_left_out_by_name(write: Write, tmp_path: Path) -> None:
    first, second = write("a", bool), write("b", bool)
    alone = make_manifest("two-room", {"size_px": 16}, distances=[10], num_pairs=2, seed=4)
    (first / "results" / "success-10.json").write_text(json.dumps(evaluate(Seeker(), alone)))
    compared = compare_methods({"a": [first], "b": [second]})
    assert compared["left_out"] == ["two-room, protocol heldout, D = 10"]
    assert "not compared, for not every method has it: two-room, protocol heldout, D = 10" in methods_table(compared)


def test_a_run_without_results_a_lone_method_and_a_checkpoint_twice_are_refused(write: Write, tmp_path: Path) -> None:
    run = write("a", bool)
    with pytest.raises(DataError, match=r"has no results/success\*\.json"):
        compare_methods({"a": [run], "b": [tmp_path]})
    with pytest.raises(ConfigError, match="at least two methods, got 1"):
        compare_methods({"a": [run]})
    with pytest.raises(ConfigError, match="two results of method 'b' are of the same checkpoint"):
        compare_methods({"a": [run], "b": [run, run]})
