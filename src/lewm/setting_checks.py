"""Refusals of single settings: which one, what is allowed, what was got; and what a setting that many have may be."""

from typing import Literal

from lewm.errors import ConfigError

Device = Literal["cpu", "cuda", "mps"]
"""Kinds of device that networks run on; ``lewm.devices.check_device`` says whether one is there."""


def require(condition: bool, message: str) -> None:
    """``ConfigError`` with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def at_least(low: float, **values: float) -> None:
    """Refuse values below ``low``."""
    for name, value in values.items():
        require(value >= low, f"{name} must be at least {low:g}, got {value:g}")


def at_most(high: float, **values: float) -> None:
    """Refuse values above ``high``."""
    for name, value in values.items():
        require(value <= high, f"{name} must be at most {high:g}, got {value:g}")


def seed(**values: int) -> None:
    """Refuse what is no seed."""
    for name, value in values.items():
        require(0 <= value < 2**63, f"{name} must be in [0, 2**63), got {value}")


def fraction(**values: float) -> None:
    """Refuse what is no share below 1."""
    for name, value in values.items():
        require(0.0 <= value < 1.0, f"{name} must be in [0, 1), got {value:g}")
