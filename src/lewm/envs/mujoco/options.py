"""What a MuJoCo environment can be told."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lewm.envs.mujoco.rendering import HIDEABLE, PROFILES
from lewm.envs.option_checks import check_truth, check_whole
from lewm.errors import EnvError
from lewm.registry import did_you_mean

CAMERA_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class MujocoOptions:
    """The options that every MuJoCo world has. Each value is checked, and ``EnvError`` states the allowed range."""

    size_px: int = 64
    """Side of the frames."""
    cameras: tuple[str | int, ...] = (0,)
    """Cameras by name or number; number 0 is the one that pixel benchmarks of the world use."""
    action_repeat: int = 1
    """Control steps per env step: the env step's action is applied in each, and their rewards are added."""
    rendering: Literal["fast", "shipped"] = "fast"
    """``shipped``: as the models come; ``fast``: no shadows and no multisampling."""
    supersampling: int = 1
    """Draw with this many times as many pixels each way and average: thin limbs keep their place to a fraction of a pixel."""
    hide: tuple[str, ...] = ()
    """What else frames leave out: reflection, haze, skybox."""
    success: str | None = None
    """Name of the success predicate; None: the world's first."""
    tolerance_scale: float = 1.0
    """Multiplies every tolerance of the predicate."""
    max_env_steps: int | None = None
    """Env steps after which an episode is truncated; None: the world's own time limit."""
    is_terminated_on_success: bool = False
    """Whether reaching the goal ends the episode."""

    def __post_init__(self) -> None:
        check_whole("size_px", self.size_px, 16, 1024)
        check_whole("supersampling", self.supersampling, 1, 8)
        check_whole("action_repeat", self.action_repeat, 1, 1000)
        if self.max_env_steps is not None:
            check_whole("max_env_steps", self.max_env_steps, 1, 2**31)
        if self.rendering not in PROFILES:
            raise EnvError(f"rendering must be one of {', '.join(PROFILES)}; got {self.rendering!r}")
        check_tuple("cameras", self.cameras, "('fixed',) or (0,)")
        check_names("hide", self.hide, "('skybox',)")
        if self.success is not None and not isinstance(self.success, str):
            raise EnvError(f"success must be the name of a predicate, got {self.success!r}")
        for thing in self.hide:
            if thing not in HIDEABLE:
                raise EnvError(f"hide names an unknown thing {thing!r}.{did_you_mean(thing, HIDEABLE)}")
        check_truth("is_terminated_on_success", self.is_terminated_on_success)
        scale = self.tolerance_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.floating) or not 0 < scale <= 1000:
            raise EnvError(f"tolerance_scale must be a number in (0, 1000], got {scale!r}")

    def renderer_settings(self) -> dict[str, Any]:
        """How frames are drawn, as ``SceneRenderer`` takes it."""
        return {"profile": self.rendering, "hide": self.hide, "supersampling": self.supersampling}

    def camera_numbers(self, names: tuple[str, ...], env: str) -> tuple[int, ...]:
        """The cameras as numbers into ``names``, those of the model; ``EnvError`` for one that it does not have."""
        numbers = []
        for camera in self.cameras:
            if isinstance(camera, int | np.integer) and not isinstance(camera, bool) and 0 <= camera < len(names):
                numbers.append(int(camera))
            elif camera in names:
                numbers.append(names.index(str(camera)))
            else:
                raise EnvError(f"env {env!r} has no camera {camera!r}.{did_you_mean(str(camera), names)}, or their numbers from 0")
        bad = [names[number] for number in numbers if not CAMERA_NAME.fullmatch(names[number])]
        if bad or not numbers or len(set(numbers)) != len(numbers):
            raise EnvError(f"cameras must be one or more different ones of {', '.join(names)}, got {self.cameras}")
        return tuple(numbers)


def check_tuple(name: str, value: Any, example: str) -> None:
    """Refuse an option that is no tuple."""
    if not isinstance(value, tuple):
        raise EnvError(f"{name} must be a list or tuple such as {example}, got {value!r}")


def check_names(name: str, value: Any, example: str) -> None:
    """Refuse an option that is no tuple of names."""
    check_tuple(name, value, example)
    if not all(isinstance(thing, str) for thing in value):
        raise EnvError(f"{name} must hold names only, got {value!r}")
