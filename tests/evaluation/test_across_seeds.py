"""Results of several training seeds, put together."""

import json

import numpy as np
import pytest
from seeker import Seeker

from lewm.errors import ConfigError, DataError
from lewm.evaluation.across_seeds import combine_results, combined_table
from lewm.evaluation.intervals import wilson
from lewm.evaluation.protocol import make_manifest
from lewm.evaluation.success import evaluate


@pytest.fixture
def write(tmp_path, manifest, seeker_result):
    """Writes the truthful result as that of another checkpoint, with given outcomes."""

    def make(name: str, solved=None, **changes):
        result = json.loads(json.dumps(seeker_result)) | {"checkpoint_sha256": name} | changes
        for index, episode in enumerate(result["episodes"]):
            episode["solved"] = bool(episode["solved"] if solved is None else solved(index))
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
        return tmp_path / f"{name}.json"

    return make


def test_the_rate_is_the_mean_of_the_seeds_and_the_interval_covers_their_spread(write):
    combined = combine_results([write("a", lambda i: True), write("b", lambda i: False), write("c", lambda i: True)])
    for strata in combined["by_distance"].values():
        for fields in strata.values():
            assert fields["rate_per_seed"] == [1.0, 0.0, 1.0]
            assert fields["success"]["rate"] == pytest.approx(2 / 3)
            pooled = wilson(2 * fields["n_per_seed"], 3 * fields["n_per_seed"])
            assert fields["success"]["low"] == 0.0 < pooled["low"]


def test_successes_alone_do_not_make_an_interval_without_width(write):
    combined = combine_results([write("a", lambda i: True), write("b", lambda i: True)])
    fields = combined["by_distance"]["25"]["cross-room"]
    n = fields["n_per_seed"]
    assert fields["success"]["low"] == pytest.approx(wilson(n, n)["low"])
    assert "1.000 [" in combined_table(combined)


def test_results_on_different_pairs_are_refused_with_both_hashes(write, tmp_path, manifest):
    other = make_manifest("two-room", {"size_px": 16}, distances=[25, 50], num_pairs=6, seed=4)
    (tmp_path / "other.json").write_text(json.dumps(evaluate(Seeker(), other)))
    with pytest.raises(ConfigError, match=f"different pairs .manifests {manifest.sha256[:12]} and {other.sha256[:12]}"):
        combine_results([write("a"), tmp_path / "other.json"])


def test_one_checkpoint_counts_once(write):
    with pytest.raises(ConfigError, match="of the same checkpoint"):
        combine_results([write("a"), write("a")])


def test_one_result_is_no_comparison(write):
    with pytest.raises(ConfigError, match="at least two results, got 1"):
        combine_results([write("a")])


def test_a_file_that_is_no_result_is_refused(write, tmp_path):
    (tmp_path / "probe.json").write_text(json.dumps({"evaluation": "probe", "format": 1}))
    with pytest.raises(DataError, match="is no result of `lewm eval success`"):
        combine_results([write("a"), tmp_path / "probe.json"])
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be read as a result"):
        combine_results([write("a"), tmp_path / "array.npy"])
