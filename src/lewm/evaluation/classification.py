"""Linear classifiers of bytes, one per label and all fitted together, and the scores by which they are compared.

Axes: n sample, B batch, D latent, s label, K class (those of all labels, one label after the other).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from lewm.errors import DataError

UNSEEN = -1
"""Code of a value that was not among the fitted ones: it counts in no loss, and no classifier can name it."""
READ_BATCH_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """How classifiers are fitted by Adam, with early stopping on the validation loss as the only regulariser."""

    is_standardised: bool
    """Whether the classifiers see latents of zero mean and unit variance per dimension, or the latents as they are."""
    learning_rate: float
    batch_size: int
    max_epochs: int
    patience_epochs: int
    """Epochs in a row without improvement that end a learning rate."""
    improvement: float
    """Share by which the lowest validation losses, added up over the labels, must fall for an epoch to count."""
    num_rates: int
    """Learning rates in all, each ``RATE_DECAY`` times the one before and starting from the best weights so far."""


RATE_DECAY = 0.3
ORIGINAL = ProbeRecipe(is_standardised=False, learning_rate=3e-4, batch_size=64, max_epochs=100, patience_epochs=15, improvement=0.0, num_rates=1)
"""As AtariARI's: what varies little in the latents is hardly read, however exactly it is there."""
CONVERGED = ProbeRecipe(is_standardised=True, learning_rate=3e-2, batch_size=512, max_epochs=30, patience_epochs=1, improvement=5e-3, num_rates=4)
"""All that a linear map of standardised latents can read."""


@dataclass(frozen=True)
class LabelClasses:
    """Which values each label takes: the classes. A classifier of all 256 bytes learns to rule out the others, so it needs no weights for them."""

    values: tuple[np.ndarray, ...]
    """int64 [K of the label] each, ascending."""

    @property
    def sizes(self) -> list[int]:
        """Number of classes of each label; they add up to K."""
        return [len(values) for values in self.values]

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Codes int64 [n, s] of labels [n, s]: the number of the class within its label, or ``UNSEEN``."""
        codes = np.empty(labels.shape, np.int64)
        for column, values in enumerate(self.values):
            places = np.minimum(np.searchsorted(values, labels[:, column]), len(values) - 1)
            codes[:, column] = np.where(values[places] == labels[:, column], places, UNSEEN)
        return codes

    def decode(self, logits: Float[Tensor, "n K"]) -> np.ndarray:
        """The likeliest value of each label, int64 [n, s]."""
        parts = zip(self.values, torch.split(logits, self.sizes, dim=1), strict=True)
        return np.stack([values[part.argmax(1).cpu().numpy()] for values, part in parts], axis=1)


def find_classes(labels: np.ndarray) -> LabelClasses:
    """The values in labels [n, s], per label."""
    return LabelClasses(tuple(np.unique(column).astype(np.int64) for column in labels.T))


def cross_entropies(logits: Float[Tensor, "B K"], codes: Int[Tensor, "B s"], sizes: list[int]) -> Float[Tensor, " s"]:
    """Mean cross-entropy in nats of each label over its samples that are not ``UNSEEN``; 0 where there are none."""
    sums = [
        functional.cross_entropy(part, codes[:, column], ignore_index=UNSEEN, reduction="sum")
        for column, part in enumerate(torch.split(logits, sizes, dim=1))
    ]
    return torch.stack(sums) / (codes != UNSEEN).sum(0).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class SoftmaxProbe:
    """A linear map from standardised latents to the logits of every label."""

    classes: LabelClasses
    mean: Tensor
    std: Tensor
    """float32 [D]."""
    weights: Tensor
    """float32 [D, K]."""
    bias: Tensor
    """float32 [K]."""
    num_epochs: int
    """Passes over the samples that the fit took."""

    def read(self, latents: np.ndarray) -> np.ndarray:
        """The likeliest value of each label, int64 [n, s], of latents [n, D]."""
        features = (torch.from_numpy(latents).to(self.mean) - self.mean) / self.std
        return np.concatenate([self.classes.decode(torch.addmm(self.bias, part, self.weights)) for part in torch.split(features, READ_BATCH_SIZE)])


def fit_softmax_probe(
    latents: np.ndarray,
    labels: np.ndarray,
    validation_latents: np.ndarray,
    validation_labels: np.ndarray,
    *,
    recipe: ProbeRecipe = CONVERGED,
    seed: int = 0,
    device: str = "cpu",
) -> SoftmaxProbe:
    """Multinomial logistic regression of each of the labels int [n, s] on latents [n, D], by Adam from the frequencies of the values.

    When the validation losses stop falling, every label goes back to the weights with its own lowest one and on at a lower learning rate, until that
    helps no more: early stopping is the only regulariser, and a label that cannot be read stays at its frequencies. ``seed`` orders the samples.
    ``DataError`` for arrays that do not match.
    """
    _check(latents, labels)
    _check(validation_latents, validation_labels)
    classes = find_classes(labels)
    features = torch.from_numpy(latents).to(device, torch.float32)
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    if not recipe.is_standardised:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    codes, validation_codes = (torch.from_numpy(classes.encode(part)).to(device) for part in (labels, validation_labels))
    validation = (torch.from_numpy(validation_latents).to(features) - mean) / std
    weights, bias, num_epochs = _descend((features - mean) / std, codes, validation, validation_codes, classes.sizes, recipe, seed)
    return SoftmaxProbe(classes=classes, mean=mean, std=std, weights=weights, bias=bias, num_epochs=num_epochs)


def _descend(
    features: Tensor, codes: Tensor, validation: Tensor, validation_codes: Tensor, sizes: list[int], recipe: ProbeRecipe, seed: int
) -> tuple[Tensor, Tensor, int]:
    """Weights, bias and the number of epochs."""
    best = torch.zeros(features.shape[1] + 1, sum(sizes), device=features.device)  # the last row is the bias
    best[-1] = torch.cat([(codes[:, [column]] == torch.arange(size, device=codes.device)).sum(0) for column, size in enumerate(sizes)]).log()
    best_losses = _losses(best, validation, validation_codes, sizes)
    label_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(features.device)
    generator, epoch = torch.Generator().manual_seed(seed), 0
    for rate in range(recipe.num_rates):
        parameters = best.clone().requires_grad_()
        optimiser = torch.optim.Adam([parameters], lr=recipe.learning_rate * RATE_DECAY**rate)
        num_idle = 0
        while num_idle < recipe.patience_epochs and epoch < recipe.max_epochs:
            for batch in torch.split(torch.randperm(len(features), generator=generator).to(features.device), recipe.batch_size):
                loss = cross_entropies(torch.addmm(parameters[-1], features[batch], parameters[:-1]), codes[batch], sizes).sum()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            epoch += 1
            losses = _losses(parameters.detach(), validation, validation_codes, sizes)
            best = torch.where((losses < best_losses)[label_of], parameters.detach(), best)
            lowest = torch.minimum(losses, best_losses)
            num_idle = 0 if bool(lowest.sum() < (1 - recipe.improvement) * best_losses.sum()) else num_idle + 1
            best_losses = lowest
    return best[:-1], best[-1], epoch


@torch.no_grad()
def _losses(parameters: Tensor, features: Tensor, codes: Tensor, sizes: list[int]) -> Tensor:
    """``cross_entropies`` [s] over all samples, in parts that fit in memory."""
    parts = zip(torch.split(features, READ_BATCH_SIZE), torch.split(codes, READ_BATCH_SIZE), strict=True)
    counts = (codes != UNSEEN).sum(0).clamp(min=1)
    sums = [cross_entropies(torch.addmm(parameters[-1], x, parameters[:-1]), y, sizes) * (y != UNSEEN).sum(0) for x, y in parts]
    return torch.stack(sums).sum(0) / counts


def weighted_f1(read: np.ndarray, labels: np.ndarray) -> float:
    """F1 of each value of ``labels`` [n] (harmonic mean of precision and recall), averaged by how often the value occurs in ``labels``.

    What scikit-learn calls ``f1_score(labels, read, average="weighted")`` with ``zero_division=0``; 0..1.
    """
    classes = np.union1d(read, labels)
    size = len(classes)
    read, labels = np.searchsorted(classes, read), np.searchsorted(classes, labels)
    support, predicted = np.bincount(labels, minlength=size), np.bincount(read, minlength=size)
    hits = np.bincount(labels[read == labels], minlength=size)
    f1 = 2 * hits / (support + predicted)  # a class is in one of the two, so this never divides by 0
    return float((f1 * support).sum() / support.sum())


def value_entropy(labels: np.ndarray) -> float:
    """Entropy in nats of the histogram of the values in ``labels`` [n]."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return abs(float((shares * np.log(shares)).sum()))


def _check(latents: np.ndarray, labels: np.ndarray) -> None:
    if latents.ndim != 2 or labels.ndim != 2 or len(latents) != len(labels) or len(latents) < 1 or labels.shape[1] < 1:
        raise DataError(f"a probe needs latents [n, D] and labels [n, s] with the same n >= 1 and s >= 1, got {latents.shape} and {labels.shape}")
