"""What stands beside a linear probe: a network, pixel components, intervals over episodes."""

import numpy as np
import pytest
import torch

from lewm.errors import DataError
from lewm.evaluation.intervals import resampled_counts
from lewm.evaluation.probe_parts import NUM_RESAMPLES, add_intervals, fit_mlp_probe, pixel_cells, principal_components, r2_intervals
from lewm.evaluation.probing import fit_probe, score_labels


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_counts_of_a_resample_are_those_of_as_many_draws_as_there_are_items() -> None:
    counts = resampled_counts(3, 2000, 7)
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.08)
    np.testing.assert_array_equal(counts, resampled_counts(3, 2000, 7))


def test_an_interval_is_the_bootstrap_of_r2_over_whole_episodes() -> None:
    episodes = np.repeat([4, 9, 2, 7, 5], [3, 8, 5, 6, 4])
    labels = gaussian(26, 2) + 0.5 * gaussian(10, 2, seed=1)[episodes]
    read = labels + 0.4 * gaussian(26, 2, seed=2)
    low, high = r2_intervals(read, labels, episodes)
    names, resamples = np.unique(episodes), []
    for counts in resampled_counts(0, NUM_RESAMPLES, 5):
        rows = np.concatenate([np.tile(np.flatnonzero(episodes == name), count) for name, count in zip(names, counts, strict=True)])
        errors = ((read[rows] - labels[rows]) ** 2).mean(0)
        resamples.append(1 - errors / labels[rows].var(0))
    np.testing.assert_allclose(low, np.quantile(resamples, 0.025, axis=0), rtol=1e-6)
    np.testing.assert_allclose(high, np.quantile(resamples, 0.975, axis=0), rtol=1e-6)


def test_intervals_stand_beside_scores_and_constants_have_none() -> None:
    latents, episodes = gaussian(400, 3), np.arange(400) // 10
    labels = np.stack([latents @ [1.0, 2.0, 0.0] + 0.5 * gaussian(400, seed=1), np.full(400, 3.0)], axis=1)
    probe = fit_probe(latents, labels)
    scores = add_intervals(score_labels(probe, probe.read(latents), labels, ["x", "c"]), probe.read(latents), labels, episodes, ["x", "c"])
    assert scores["c"] == "constant"
    assert scores["x"]["r2_low"] < scores["x"]["r2"] < scores["x"]["r2_high"] < 1
    assert scores["x"]["r2_high"] - scores["x"]["r2_low"] < 0.05


def test_a_network_reads_what_no_line_can_and_is_a_function_of_its_seed() -> None:
    features = gaussian(3000, 4)
    labels = np.stack([np.sin(2 * features[:, 0]) * features[:, 1], 5 + 0 * features[:, 0]], axis=1)
    network, again = (fit_mlp_probe(features, labels, seed=1) for _ in range(2))
    fresh = gaussian(500, 4, seed=5)
    truth = np.sin(2 * fresh[:, 0]) * fresh[:, 1]
    read = network.read(fresh)
    assert 1 - ((read[:, 0] - truth) ** 2).mean() / truth.var() > 0.8
    assert 1 - ((fit_probe(features, labels).read(fresh)[:, 0] - truth) ** 2).mean() / truth.var() < 0.1
    np.testing.assert_array_equal(read, again.read(fresh))
    np.testing.assert_allclose(read[:, 1], 5)


def test_cells_are_means_of_the_pixels_that_they_cover() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 1, 32, 64, 3), np.uint8))
    cells = pixel_cells(frames)
    assert cells.shape == (2, 3, 3 * 16 * 16)
    expected = frames[1, 2, 0].double().reshape(16, 2, 16, 4, 3).mean((1, 3)).permute(2, 0, 1).flatten() / 255
    np.testing.assert_allclose(cells[1, 2], expected, rtol=1e-5)


def test_components_are_the_directions_of_largest_variance() -> None:
    samples = gaussian(200, 6) * [1.0, 5.0, 0.1, 2.0, 0.2, 0.3] + 4
    mean, components = principal_components(samples, 2)
    np.testing.assert_allclose(mean, samples.mean(0))
    singular = np.linalg.svd(samples - samples.mean(0), full_matrices=False)[2][:2]
    np.testing.assert_allclose(np.abs(singular @ components), np.eye(2), atol=1e-6)


def test_labels_that_are_no_numbers_are_named() -> None:
    labels = gaussian(20, 3)
    labels[4, 1] = np.nan
    with pytest.raises(DataError, match="labels must be finite, number 1 of them has 1 values that are not"):
        fit_probe(gaussian(20, 2), labels)
