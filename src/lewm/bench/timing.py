"""Fair timing of two or more ways to do the same thing, and the row of a table that comes out of it.

The contenders take turns (A B A B ...) in one process, after a warm-up, so that a machine that slows down slows all of them down. A GPU has done all
that a contender asked of it before the clock is read.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Contender:
    """One way to do something."""

    function: Callable[[], object]
    """Does it once."""
    amount: float = 1.0
    """How much one call does, in the unit of the row: frames, bytes, plans, ..."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several measurements of one quantity."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median and quartiles of measurements, at least one."""
        if len(values) == 1:
            return cls(median=values[0], low=values[0], high=values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: a figure of ours beside that of a plain reference, and what it should reach."""

    case: str
    """What was done, with its sizes."""
    unit: str
    better: Literal["lower", "higher"]
    """Which values of ours are good ones."""
    ours: Spread
    reference: Spread
    reference_is: str
    """What ours is compared with."""
    target_of: Literal["ratio", "ours"] = "ratio"
    """What the targets are about."""
    target_must: float | None = None
    target_aim: float | None = None
    max_difference: float | None = None
    """Largest difference between the results of the two, relative to the largest value, where both compute the same thing."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Other figures from the same measurement."""

    @property
    def ratio(self) -> float:
        """How many times better ours is: the ratio of the medians."""
        ours, reference = self.ours.median, self.reference.median
        return reference / ours if self.better == "lower" else ours / reference

    def reaches(self, target: float) -> bool:
        """Whether a target is met; one about the value itself (not the ratio) is a bound from the good side."""
        if self.target_of == "ratio":
            return self.ratio >= target
        return self.ours.median <= target if self.better == "lower" else self.ours.median >= target

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("case", "unit", "better")}
        row |= {"ours": _spread_json(self.ours), "reference": {"is": self.reference_is} | _spread_json(self.reference), "ratio": self.ratio}
        row |= {name: getattr(self, name) for name in ("target_of", "target_must", "target_aim", "max_difference")}
        return row | {"details": dict(self.details)}


def take_turns(contenders: Mapping[str, Contender], *, num_rounds: int, num_warmups: int = 1, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds per unit of amount for each contender and round: every round runs each of them once, in the order given, on ``device``."""
    for _ in range(num_warmups):
        for contender in contenders.values():
            contender.function()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_rounds):
        for name, contender in contenders.items():
            wait_for(device)
            start_s = time.perf_counter()
            contender.function()
            wait_for(device)
            seconds[name].append((time.perf_counter() - start_s) / contender.amount)
    return seconds


def repeat(step: Callable[[], object], count: int) -> Callable[[], None]:
    """Several calls as one."""

    def run() -> None:
        for _ in range(count):
            step()

    return run


def wait_for(device: str) -> None:
    """Return when a device has done all that was asked of it; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(seconds: Sequence[float]) -> Spread:
    """What ``take_turns`` measured, as a duration."""
    return Spread.of([1e3 * value for value in seconds])


def per_second(seconds: Sequence[float]) -> Spread:
    """What ``take_turns`` measured, as a rate."""
    return Spread.of([1 / value for value in seconds])


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    largest = float(second.detach().abs().max())
    difference = float((first.detach() - second.detach()).abs().max())
    return difference / largest if largest else difference


def _spread_json(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "low": spread.low, "high": spread.high}
