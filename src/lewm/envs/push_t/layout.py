"""The Push-T table: its fixed measures, what may be varied and within which range, and the options of the environment.

Lengths are in px of the 512 x 512 table whatever the rendered size, y downwards; pixel i of a 512 px frame is centred at i. Measures: Chi et al.,
Diffusion Policy, arXiv 2303.04137, and the ``gym-pusht`` package.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lewm.envs.base import Perturbation
from lewm.envs.option_checks import as_tuple, check_values, check_whole
from lewm.envs.push_t.goals import PREDICATES
from lewm.errors import EnvError
from lewm.registry import did_you_mean

TABLE_PX = 512.0
WALL_LOW_PX, WALL_HIGH_PX, WALL_RADIUS_PX = 5.0, 506.0, 2.0
ACTION_SCALE_PX = 100.0
"""How far from the pusher a relative action of 1 puts the target, along an axis."""
MIN_CONTRAST = 128
"""Least summed difference of the three colour channels between the background and what lies on it."""
LEAST_CONTRAST = 32
"""The same for perturbed states, which may be hard to see but not invisible."""
RENDERINGS = ("smooth", "sampled")
CONTACTS = ("remembered", "fresh")
COLORS = ("agent_color", "background_color", "block_color")

PERTURBATIONS: dict[str, Perturbation] = {
    "agent_color": Perturbation(low=(0, 0, 0), high=(255, 255, 255), default=(65, 105, 225), unit="RGB", summary="colour of the pusher"),
    "agent_radius_px": Perturbation(low=(8,), high=(25,), default=(15,), unit="px of 512", summary="radius of the pusher"),
    "background_color": Perturbation(low=(96, 96, 96), high=(255, 255, 255), default=(255, 255, 255), unit="RGB", summary="colour of the table"),
    "block_color": Perturbation(low=(0, 0, 0), high=(255, 255, 255), default=(119, 136, 153), unit="RGB", summary="colour of the block"),
    "block_scale_px": Perturbation(low=(20,), high=(40,), default=(30,), unit="px of 512", summary="thickness of the block, a quarter of its length"),
    "friction": Perturbation(low=(0,), high=(1,), default=(0,), unit="coefficient", summary="friction of the block against pusher and walls"),
    "pixel_noise_std": Perturbation(
        low=(0,), high=(0.2,), default=(0,), unit="share of 0..255", summary="Gaussian noise on every pixel, new each env step"
    ),
}

MOMENT = np.dtype(
    [
        ("agent_px", "<f8", (2,)),
        ("agent_velocity_px_s", "<f8", (2,)),
        ("block_px", "<f8", (2,)),
        ("block_rad", "<f8"),
        ("block_velocity_px_s", "<f8", (2,)),
        ("block_velocity_rad_s", "<f8"),
        ("agent_color", "u1", (3,)),
        ("background_color", "u1", (3,)),
        ("block_color", "u1", (3,)),
        ("agent_radius_px", "<f8"),
        ("block_scale_px", "<f8"),
        ("friction", "<f8"),
        ("pixel_noise_std", "<f8"),
        ("held_env_steps", "<u4"),
        ("env_step", "<u4"),
        ("seed", "<u8"),
    ]
)
"""One world at one time: everything that its frame depends on, and with fresh contacts its future too. Arrays of it are called moments."""
VELOCITIES = ("agent_velocity_px_s", "block_velocity_px_s", "block_velocity_rad_s")


@dataclass(frozen=True, kw_only=True)
class PushTOptions:
    """What a Push-T environment can be told; every value is checked, and ``EnvError`` states the allowed range."""

    size_px: int = 64
    """Side of the frames."""
    rendering: Literal["smooth", "sampled"] = "smooth"
    """``smooth``: each pixel is what its area shows. ``sampled``: edges as sharp as in a 512 px picture that is sampled, as in gym-pusht."""
    supersampling: int = 1
    """Draw with this many times as many pixels each way and average."""
    with_goal_zone: bool = False
    """Whether frames show, in green, where the goal wants the block."""
    contacts: Literal["remembered", "fresh"] = "fresh"
    """What the simulator knows of contacts when an env step begins. ``fresh``: nothing, so that poses and velocities are the whole state.
    ``remembered``: as in gym-pusht; a state then holds how it came about, and taking one up repeats that."""
    is_target_clipped: bool = True
    """Whether a relative action that points out of the table ends at its edge, so that the pusher stays in the picture."""
    action_repeat: int = 1
    """Control steps of 0.1 s per env step; each applies the env step's action anew."""
    success: str = "official"
    """Name of the success predicate in ``lewm.envs.push_t.goals.PREDICATES``."""
    max_env_steps: int | None = None
    """Env steps after which an episode is truncated; None: never."""
    is_terminated_on_success: bool = False
    """Whether reaching the goal ends the episode."""
    vary: tuple[str, ...] = ()
    """Perturbations that each episode draws from their range with its own seed, instead of taking the value given here."""
    agent_color: tuple[int, int, int] = (65, 105, 225)
    agent_radius_px: float = 15.0
    background_color: tuple[int, int, int] = (255, 255, 255)
    block_color: tuple[int, int, int] = (119, 136, 153)
    block_scale_px: float = 30.0
    friction: float = 0.0
    pixel_noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_whole("size_px", self.size_px, 16, 1024)
        check_whole("supersampling", self.supersampling, 1, 8)
        check_whole("action_repeat", self.action_repeat, 1, 100)
        if self.max_env_steps is not None:
            check_whole("max_env_steps", self.max_env_steps, 1, 2**31)
        for name, known in (("rendering", RENDERINGS), ("contacts", CONTACTS), ("success", tuple(PREDICATES))):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise EnvError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        for name in ("with_goal_zone", "is_target_clipped", "is_terminated_on_success"):
            if not isinstance(getattr(self, name), bool):
                raise EnvError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.vary, tuple) or not all(isinstance(name, str) for name in self.vary):
            raise EnvError(f"vary must be a tuple of names such as ('block_color',), got {self.vary!r}")
        for name in self.vary:
            if name not in PERTURBATIONS:
                raise EnvError(f"vary names an unknown perturbation {name!r}.{did_you_mean(name, PERTURBATIONS)}")
        for name, perturbation in PERTURBATIONS.items():
            check_values(name, as_tuple(getattr(self, name)), perturbation.low, perturbation.high)
        for name in ("agent_color", "block_color"):
            if not {name, "background_color"} & set(self.vary) and not _is_visible(getattr(self, name), self.background_color):
                raise EnvError(
                    f"{name} {tuple(getattr(self, name))} cannot be told from background_color {tuple(self.background_color)}: "
                    f"their channels must differ by at least {MIN_CONTRAST} in sum"
                )

    def draw_layout(self, generator: np.random.Generator) -> np.ndarray:
        """One moment [] with this episode's looks and measures: fixed values, and those of ``vary`` drawn from ``generator``, background first."""
        moment = np.zeros((), MOMENT)
        for name in PERTURBATIONS:
            moment[name] = getattr(self, name)
        for name in sorted(set(self.vary), key=lambda name: (name != "background_color", list(PERTURBATIONS).index(name))):
            low, high = np.array(PERTURBATIONS[name].low), np.array(PERTURBATIONS[name].high)
            if name not in COLORS:
                moment[name] = generator.uniform(low, high)[0]
                continue
            # A varied colour keeps clear of the background's; the background of what has a colour of its own already.
            others = [other for other in COLORS if other not in self.vary] if name == "background_color" else ["background_color"]
            while True:
                moment[name] = generator.integers(low, high, endpoint=True)
                if all(_is_visible(moment[name], moment[other]) for other in others if other != name):
                    break
        return moment


def are_visible(moments: np.ndarray) -> np.ndarray:
    """Whether each moment's pusher and block can be told from the background, bool [E]."""
    return np.array(
        [all(_is_visible(moment[name], moment["background_color"], LEAST_CONTRAST) for name in ("agent_color", "block_color")) for moment in moments],
        bool,
    )


def check_moments(moments: np.ndarray) -> None:
    """``EnvError`` for moments that are not finite or whose looks or measures are outside the documented ranges."""
    for name in ("agent_px", "block_px", "block_rad", *VELOCITIES):
        if not np.isfinite(moments[name]).all():
            raise EnvError(f"a state has a {name} that is not finite; take states from get_states")
    for name, perturbation in PERTURBATIONS.items():
        values = moments[name].reshape(len(moments), -1).astype(np.float64)
        bad = ~((values >= perturbation.low) & (values <= perturbation.high)).all(-1)
        if bad.any():
            check_values(name, tuple(values[bad][0].tolist()), perturbation.low, perturbation.high)


def _is_visible(color: Any, background: Any, least: int = MIN_CONTRAST) -> bool:
    return bool(np.abs(np.asarray(color, np.float64) - np.asarray(background, np.float64)).sum() >= least)
