"""Linear classifiers where the answer is known, and weighted F1 against its definition."""

import numpy as np
import pytest
import torch

from lewm.errors import DataError
from lewm.evaluation.classification import CONVERGED, ORIGINAL, UNSEEN, cross_entropies, find_classes, fit_softmax_probe, value_entropy, weighted_f1


def f1_by_definition(read: list[int], labels: list[int]) -> float:
    """Precision and recall of each value, counted one by one."""
    total = 0.0
    for value in set(labels):
        hits = sum(guess == truth == value for guess, truth in zip(read, labels, strict=True))
        precision = hits / read.count(value) if value in read else 0.0
        recall = hits / labels.count(value)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        total += f1 * labels.count(value) / len(labels)
    return total


def bytes_and_one_hot(seed: int, n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Latents [n, 30] in which each of two bytes is one-hot, and the bytes [n, 2]: 10 and 20 different values, neither contiguous nor from 0."""
    generator = np.random.default_rng(seed)
    numbers = np.stack([generator.integers(0, 10, n), generator.integers(0, 20, n)], -1)
    latents = np.concatenate([np.eye(10)[numbers[:, 0]], np.eye(20)[numbers[:, 1]]], 1).astype(np.float32)
    return latents, numbers * [7, 3] + [100, 5]


def test_weighted_f1_is_what_a_hand_computes() -> None:
    # Value 0: 2 hits of 3, 2 named: 4/5. Value 1: 1 of 2, 2 named: 1/2. Value 2: 1 of 1, 2 named: 2/3.
    assert weighted_f1(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2])) == pytest.approx((3 * 0.8 + 2 * 0.5 + 2 / 3) / 6)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_f1_follows_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.choice([3, 40, 41, 200, 255], 80, p=[0.4, 0.3, 0.2, 0.05, 0.05])
    read = np.where(generator.random(80) < 0.5, labels, generator.integers(0, 256, 80))  # also names values that never occur
    assert weighted_f1(read, labels) == pytest.approx(f1_by_definition(read.tolist(), labels.tolist()), abs=1e-12)


def test_entropy_is_in_nats_and_blind_to_the_values_themselves() -> None:
    assert value_entropy(np.array([0, 9, 200, 255])) == pytest.approx(np.log(4))
    assert value_entropy(np.array([7, 7, 7])) == 0
    assert value_entropy(np.array([1] * 9 + [2])) == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1))


def test_codes_name_classes_and_mark_values_never_seen() -> None:
    classes = find_classes(np.array([[5, 0], [9, 0], [9, 255]]))
    assert classes.sizes == [2, 2]
    assert classes.encode(np.array([[9, 255], [5, 1], [10, 0]])).tolist() == [[1, 1], [0, UNSEEN], [UNSEEN, 0]]
    assert classes.decode(torch.tensor([[0.0, 1.0, 3.0, 2.0]])).tolist() == [[9, 0]]


def test_cross_entropies_are_means_over_seen_values() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 5)))
    codes = torch.tensor([[0, 2], [1, UNSEEN], [1, 0], [UNSEEN, 1]])
    log_p = [torch.log(torch.exp(part) / torch.exp(part).sum(1, keepdim=True)) for part in (logits[:, :2], logits[:, 2:])]
    expected = [-(log_p[0][0, 0] + log_p[0][1, 1] + log_p[0][2, 1]) / 3, -(log_p[1][0, 2] + log_p[1][2, 0] + log_p[1][3, 1]) / 3]
    torch.testing.assert_close(cross_entropies(logits, codes, [2, 3]), torch.stack(expected))
    assert cross_entropies(logits, torch.full((4, 2), UNSEEN), [2, 3]).tolist() == [0.0, 0.0]


def test_a_probe_reads_one_hot_bytes_off_unseen_samples() -> None:
    probe = fit_softmax_probe(*bytes_and_one_hot(0), *bytes_and_one_hot(1))
    latents, labels = bytes_and_one_hot(2)
    read = probe.read(latents)
    for column in range(2):
        assert weighted_f1(read[:, column], labels[:, column]) > 0.99


def test_a_probe_finds_in_noise_no_more_than_the_most_frequent_value() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice([3, 200], (1500, 1), p=[0.7, 0.3])
    latents = generator.standard_normal((1500, 20)).astype(np.float32)
    probe = fit_softmax_probe(latents[:500], labels[:500], latents[500:1000], labels[500:1000])
    assert np.mean(probe.read(latents[1000:]) == 3) > 0.95


def test_a_label_that_cannot_be_read_does_not_stop_the_fit_of_another() -> None:
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((4000, 10)).astype(np.float32)
    labels = np.stack([generator.integers(0, 30, 4000), (latents[:, 0] > 0) * 50], -1)
    probe = fit_softmax_probe(latents[:2000], labels[:2000], latents[2000:3000], labels[2000:3000])
    features = torch.from_numpy(latents[3000:])
    assert np.mean(probe.read(features.numpy())[:, 1] == labels[3000:, 1]) > 0.97
    # And the one of noise was not overfitted while the other went on: it costs hardly more than knowing nothing.
    shares = torch.softmax(torch.addmm(probe.bias, (features - probe.mean) / probe.std, probe.weights)[:, :30], 1).numpy()
    assert -np.log(shares[np.arange(1000), labels[3000:, 0]]).mean() < 1.02 * np.log(30)


def test_a_value_that_only_validation_has_spoils_nothing() -> None:
    latents, labels = bytes_and_one_hot(1)
    labels = np.where(np.arange(len(labels))[:, None] % 7 == 0, 254, labels)
    probe = fit_softmax_probe(*bytes_and_one_hot(0), latents, labels)
    latents, labels = bytes_and_one_hot(2)
    assert np.mean(probe.read(latents) == labels) > 0.99


def test_a_fit_is_a_function_of_its_seed() -> None:
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((700, 5)).astype(np.float32)
    labels = (latents[:, :1] > 0).astype(int)
    fits = [fit_softmax_probe(latents, labels, latents[:50], labels[:50], seed=seed).weights for seed in (1, 1, 2)]
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])


def test_a_latent_dimension_that_never_varies_is_harmless() -> None:
    latents, labels = bytes_and_one_hot(0)
    latents = np.concatenate([latents, np.full((len(latents), 1), 3.0, np.float32)], 1)
    assert np.mean(fit_softmax_probe(latents, labels, latents, labels).read(latents) == labels) > 0.99


def test_arrays_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="the same n >= 1 and s >= 1"):
        fit_softmax_probe(np.zeros((3, 2), np.float32), np.zeros((4, 1), int), np.zeros((3, 2), np.float32), np.zeros((3, 1), int))


def test_the_original_recipe_hardly_reads_latents_that_hardly_vary() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 8, (1200, 1))
    latents = np.eye(8, dtype=np.float32)[labels[:, 0]] + 0.05 * generator.standard_normal((1200, 8)).astype(np.float32)
    accuracy = {}
    for name, recipe in {"original": ORIGINAL, "converged": CONVERGED}.items():
        for scale in (1.0, 1e-3):
            parts = (scale * latents[:900], labels[:900], scale * latents[900:1050], labels[900:1050])
            probe = fit_softmax_probe(*parts, recipe=recipe, seed=0)
            accuracy[name, scale] = float((probe.read(scale * latents[1050:]) == labels[1050:]).mean())
    assert accuracy["original", 1.0] > 0.95
    assert accuracy["original", 1e-3] < 0.5
    assert accuracy["converged", 1e-3] > 0.95
