"""What an Atari environment can be told, checked.

Lengths in px of the drawn frame; an env step is ``frame_skip`` emulator frames.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lewm.envs.option_checks import check_truth, check_whole
from lewm.envs.option_checks import parse_options as parse_fields
from lewm.errors import EnvError
from lewm.registry import did_you_mean

Resampler = Literal["area", "bilinear", "nearest"]
NATIVE = "native"
"""Another word for a ``size_px`` of None."""


@dataclass(frozen=True, kw_only=True)
class AtariOptions:
    """The options of every ``atari/<game>``; each value is checked, and ``EnvError`` states the allowed range."""

    size_px: int | None = 84
    """Side of the square frames; None: the emulator's own screen (mostly 210 x 160)."""
    resampler: Resampler = "area"
    """How the screen is resized. ``area``: the exact mean over the area that a pixel covers, rounded to the nearest whole number."""
    frame_skip: int = 4
    """Emulator frames per env step, all with the same action."""
    is_max_pooled: bool = True
    """Draw the brighter of the last two emulator frames, channel by channel: sprites that are shown every second frame stay visible."""
    repeat_action_probability: float = 0.0
    """Sticky actions: the probability, at each emulator frame, that the console keeps the previous action (Machado et al. 2018 use 0.25)."""
    full_action_space: bool = False
    """All 18 actions instead of those that the game reacts to; choice 0 does nothing either way."""
    min_num_noops: int = 0
    """At the reset the console waits at least this many emulator frames: past the tune that some games begin with (Ms. Pac-Man: 270)."""
    max_num_noops: int = 30
    """At the reset the console waits a number of emulator frames that the seed draws from min_num_noops..max_num_noops."""
    is_fired_on_reset: bool = False
    """Press FIRE for one emulator frame after the waiting. Off, because random policies press it themselves."""
    difficulty: int | None = None
    """One of the game's difficulties; None: its default."""
    mode: int | None = None
    """One of the game's modes; None: its default."""
    is_terminated_on_life_loss: bool = False
    """Whether losing a life ends the episode; the end of the game always does."""
    max_env_steps: int = 27_000
    """Env steps after which the episode is truncated."""
    goal_labels: tuple[str, ...] = ()
    """The labels that decide success; default: where the agent is, as far as the game's table knows."""
    goal_tolerance: float = 4.0
    """Success: no goal label is further from its goal than this, in RAM units (0..255)."""
    with_ram: bool = False
    """Add the 128 bytes of RAM to the labels, ram_000 to ram_127."""

    def __post_init__(self) -> None:
        if self.size_px is not None:
            check_whole("size_px", self.size_px, 16, 1024)
        if self.resampler not in get_args(Resampler):
            raise EnvError(f"unknown resampler {self.resampler!r}.{did_you_mean(str(self.resampler), get_args(Resampler))}")
        check_whole("frame_skip", self.frame_skip, 1, 60)
        check_whole("max_num_noops", self.max_num_noops, 0, 10_000)
        check_whole("min_num_noops", self.min_num_noops, 0, self.max_num_noops)
        check_whole("max_env_steps", self.max_env_steps, 1, 2**31)
        for name in ("difficulty", "mode"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 0, 255)
        for name in ("is_max_pooled", "full_action_space", "is_fired_on_reset", "is_terminated_on_life_loss", "with_ram"):
            check_truth(name, getattr(self, name))
        _check_number("repeat_action_probability", self.repeat_action_probability, 0.0, 0.99)
        _check_number("goal_tolerance", self.goal_tolerance, 0.5, 255.0)
        if not isinstance(self.goal_labels, tuple | list) or not all(isinstance(name, str) for name in self.goal_labels):
            raise EnvError(f"goal_labels must be a list of label names such as ['player_x'], got {self.goal_labels!r}")

    @property
    def num_screens(self) -> int:
        """Emulator frames that make one drawn frame: 2 with max-pooling, else 1."""
        return 2 if self.is_max_pooled and self.frame_skip > 1 else 1

    def dynamics(self) -> dict[str, Any]:
        """The options that a state's future and frames depend on: a state of other ones is refused."""
        return {
            "difficulty": self.difficulty,
            "frame_skip": self.frame_skip,
            "is_max_pooled": self.num_screens == 2,
            "is_terminated_on_life_loss": self.is_terminated_on_life_loss,
            "mode": self.mode,
            "repeat_action_probability": float(self.repeat_action_probability),
        }


def parse_options(name: str, options: Mapping[str, Any]) -> AtariOptions:
    """The options of env ``name`` as one checked value; an unknown option is refused with a suggestion."""
    is_native = options.get("size_px") == NATIVE
    return parse_fields(AtariOptions, name, {**options, "size_px": None} if is_native else options)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise EnvError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
