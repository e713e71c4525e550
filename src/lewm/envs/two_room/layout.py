"""The two-room arena: its fixed measures, what may be varied and within which range, and the options of the environment.

Lengths are in px of the 224 x 224 arena whatever the rendered size; pixel i of a 224 px frame covers [i, i + 1).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lewm.envs.base import Perturbation
from lewm.envs.option_checks import as_tuple, check_values, check_whole
from lewm.errors import EnvError
from lewm.registry import did_you_mean

ARENA_PX = 224.0
BORDER_PX = 14.0
BORDER_LINE_PX = 4.0
WALL_X_PX = 112.0
SPEED_PX = 5.0
"""Distance that an action of 1 moves the agent along an axis in one env step."""
DOOR_MARGIN_PX = 7.0
"""A door counts as unseen if it is at least so far from every door of training: two pixels of a 64 px frame, half the default half-opening."""
DOOR_CLEARANCE = 1.1
"""The half-opening of the door is at least this many agent radii."""
MIN_CONTRAST = 128
"""Least summed difference of the three colour channels between the agent and the background."""
LEAST_CONTRAST = 32
"""The same for perturbed states, which may be hard to see but not invisible."""

PERTURBATIONS: dict[str, Perturbation] = {
    "agent_color": Perturbation(low=(0, 0, 0), high=(255, 255, 255), default=(255, 0, 0), unit="RGB", summary="colour of the dot"),
    "agent_radius_px": Perturbation(low=(4,), high=(12,), default=(7,), unit="px of 224", summary="std of the dot and radius for collisions"),
    "background_color": Perturbation(low=(96, 96, 96), high=(255, 255, 255), default=(255, 255, 255), unit="RGB", summary="colour of the floor"),
    "door_y_px": Perturbation(low=(35,), high=(189,), default=(49,), unit="px of 224", summary="centre of the door along the wall"),
    "door_half_size_px": Perturbation(low=(8,), high=(21,), default=(14,), unit="px of 224", summary="half the opening of the door"),
    "wall_thickness_px": Perturbation(low=(6,), high=(30,), default=(10,), unit="px of 224", summary="thickness of the central wall"),
    "pixel_noise_std": Perturbation(
        low=(0,), high=(0.2,), default=(0,), unit="share of 0..255", summary="Gaussian noise on every pixel, new each env step"
    ),
}

MOMENT = np.dtype(
    [
        ("position_px", "<f8", (2,)),
        ("agent_color", "u1", (3,)),
        ("background_color", "u1", (3,)),
        ("agent_radius_px", "<f8"),
        ("door_y_px", "<f8"),
        ("door_half_size_px", "<f8"),
        ("wall_thickness_px", "<f8"),
        ("pixel_noise_std", "<f8"),
        ("env_step", "<u4"),
        ("seed", "<u8"),
    ]
)
"""One world at one time: everything that its frame and its future depend on. Arrays of it are called moments."""

Band = tuple[float, float]
"""From, to: both included."""


@dataclass(frozen=True, kw_only=True)
class TwoRoomOptions:
    """What a two-room environment can be told; every value is checked, and ``EnvError`` states the allowed range."""

    size_px: int = 64
    """Side of the frames."""
    collision: Literal["swept", "official"] = "swept"
    """``swept``: no wall can be passed between two env steps. ``official``: only end points are checked, as in the paper's code."""
    success_radius_px: float = 16.0
    """The goal is reached nearer than this (strictly)."""
    max_env_steps: int | None = None
    """Env steps after which the Gymnasium environment truncates an episode; None: never."""
    is_terminated_on_success: bool = False
    """Whether reaching the goal ends the episode."""
    vary: tuple[str, ...] = ()
    """Perturbations that each episode draws from their range with its own seed, instead of taking the value given here."""
    door_bands_px: tuple[tuple[float, float], ...] = ()
    """Ranges from which ``vary`` draws ``door_y_px``, ascending, so that other doors are left for evaluation; empty: its whole range."""
    agent_color: tuple[int, int, int] = (255, 0, 0)
    agent_radius_px: float = 7.0
    background_color: tuple[int, int, int] = (255, 255, 255)
    door_y_px: float = 49.0
    door_half_size_px: float = 14.0
    wall_thickness_px: float = 10.0
    pixel_noise_std: float = 0.0

    def __post_init__(self) -> None:
        check_whole("size_px", self.size_px, 16, 1024)
        if self.collision not in ("swept", "official"):
            raise EnvError(f"collision must be 'swept' or 'official', got {self.collision!r}")
        check_values("success_radius_px", (self.success_radius_px,), (1.0,), (ARENA_PX,))
        if self.max_env_steps is not None:
            check_whole("max_env_steps", self.max_env_steps, 1, 2**31)
        if isinstance(self.vary, str):
            raise EnvError(f"vary must be a tuple of names such as ('door_y_px',), got the string {self.vary!r}")
        if not isinstance(self.vary, tuple | list) or not all(isinstance(name, str) for name in self.vary):
            raise EnvError(f"vary must be a tuple of names such as ('door_y_px',), got {self.vary!r}")
        for name in self.vary:
            if name not in PERTURBATIONS:
                raise EnvError(f"vary names an unknown perturbation {name!r}.{did_you_mean(str(name), PERTURBATIONS)}")
        for name, perturbation in PERTURBATIONS.items():
            check_values(name, as_tuple(getattr(self, name)), perturbation.low, perturbation.high)
        self._check_door_bands()
        self._check_combination()

    def _check_door_bands(self) -> None:
        if not isinstance(self.door_bands_px, tuple | list) or not all(
            isinstance(band, tuple | list) and len(band) == 2 for band in self.door_bands_px
        ):
            raise EnvError(f"door_bands_px must be ranges such as ((35, 77), (147, 189)), got {self.door_bands_px!r}")
        if not self.door_bands_px:
            return
        if "door_y_px" not in self.vary:
            raise EnvError("door_bands_px says where doors are drawn from: it needs vary=('door_y_px',)")
        ends = [end for band in self.door_bands_px for end in band]
        for end in ends:
            check_values("an end of door_bands_px", (end,), PERTURBATIONS["door_y_px"].low, PERTURBATIONS["door_y_px"].high)
        if any(low > high for low, high in itertools.pairwise(ends)):
            raise EnvError(f"door_bands_px must be ascending ranges that do not overlap, got {self.door_bands_px!r}")

    def _check_combination(self) -> None:
        radius = self.agent_radius_px
        smallest_half_px = DOOR_CLEARANCE * (PERTURBATIONS["agent_radius_px"].low[0] if "agent_radius_px" in self.vary else radius)
        largest_half_px = PERTURBATIONS["door_half_size_px"].high[0] if "door_half_size_px" in self.vary else self.door_half_size_px
        if largest_half_px < smallest_half_px:
            raise EnvError(
                f"door_half_size_px ({self.door_half_size_px:g}) must be at least {DOOR_CLEARANCE:g} x agent_radius_px ({radius:g}) "
                f"= {smallest_half_px:g}, or the agent cannot pass; widen the door or shrink the agent"
            )
        if not {"agent_color", "background_color"} & set(self.vary) and not _is_visible(self.agent_color, self.background_color):
            raise EnvError(
                f"agent_color {tuple(self.agent_color)} cannot be told from background_color {tuple(self.background_color)}: "
                f"their channels must differ by at least {MIN_CONTRAST} in sum"
            )

    def draw_layout(self, generator: np.random.Generator) -> np.ndarray:
        """One moment [] with this episode's layout and looks: fixed values, and those of ``vary`` drawn from ``generator`` in table order."""
        moment = np.zeros((), MOMENT)
        values: dict[str, np.ndarray] = {name: np.asarray(getattr(self, name), np.float64) for name in PERTURBATIONS}
        # The agent's colour comes after the background's and the door's size after the agent's, which they must suit.
        for name in sorted(set(self.vary), key=lambda name: (name in ("agent_color", "door_half_size_px"), list(PERTURBATIONS).index(name))):
            values[name] = self._draw_value(name, values, generator)
        for name, value in values.items():
            moment[name] = value
        return moment

    def _draw_value(self, name: str, values: Mapping[str, np.ndarray], generator: np.random.Generator) -> np.ndarray:
        low, high = np.array(PERTURBATIONS[name].low, np.float64), np.array(PERTURBATIONS[name].high, np.float64)
        if name == "agent_radius_px" and "door_half_size_px" not in self.vary:
            high = np.minimum(high, self.door_half_size_px / DOOR_CLEARANCE)
        if name == "door_half_size_px":
            low = np.maximum(low, DOOR_CLEARANCE * values["agent_radius_px"])
        if name == "door_y_px" and self.door_bands_px:
            return np.asarray(_drawn_from(self.door_bands_px, generator))
        if not name.endswith("_color"):
            return np.asarray(generator.uniform(low, high)[0])
        while True:
            color = generator.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True)
            others = values["agent_color"] if name == "background_color" else values["background_color"]
            # A varied agent's colour is drawn after this one and adapts to it.
            if (name == "background_color" and "agent_color" in self.vary) or _is_visible(color, others):
                return color


def check_layouts(moments: np.ndarray) -> None:
    """Refuse moments whose layout or looks are outside the documented ranges."""
    for name, perturbation in PERTURBATIONS.items():
        values = moments[name].reshape(len(moments), -1).astype(np.float64)
        bad = ~((values >= perturbation.low) & (values <= perturbation.high)).all(-1)
        if bad.any():
            check_values(name, tuple(values[bad][0].tolist()), perturbation.low, perturbation.high)
    if (moments["door_half_size_px"] <= moments["agent_radius_px"]).any():
        raise EnvError("a state has a door_half_size_px that does not exceed its agent_radius_px; take states from get_states")


def are_visible(moments: np.ndarray) -> np.ndarray:
    """Whether each moment's agent can be told from its background, bool [E]."""
    return np.array([_is_visible(moment["agent_color"], moment["background_color"], LEAST_CONTRAST) for moment in moments], bool)


def seen_doors(options: TwoRoomOptions) -> tuple[Band, ...]:
    """Where the doors of a world with these options are: one band of no width where they do not vary."""
    if "door_y_px" not in options.vary:
        return ((float(options.door_y_px), float(options.door_y_px)),)
    if options.door_bands_px:
        return tuple((float(low), float(high)) for low, high in options.door_bands_px)
    return ((PERTURBATIONS["door_y_px"].low[0], PERTURBATIONS["door_y_px"].high[0]),)


def unseen_doors(seen: Sequence[Band]) -> tuple[Band, ...]:
    """The rest of the range of ``door_y_px``, ``DOOR_MARGIN_PX`` away from the bands ``seen``; may be empty."""
    low, last = PERTURBATIONS["door_y_px"].low[0], PERTURBATIONS["door_y_px"].high[0]
    unseen = []
    for first, end in seen:
        if first - DOOR_MARGIN_PX > low:
            unseen.append((low, first - DOOR_MARGIN_PX))
        low = max(low, end + DOOR_MARGIN_PX)
    return (*unseen, (low, last)) if low < last else tuple(unseen)


def _drawn_from(bands: Sequence[Band], generator: np.random.Generator) -> float:
    """Uniform over the bands together; bands of no width are as likely as each other."""
    widths = np.array([high - low for low, high in bands], np.float64)
    if widths.sum() == 0:
        return float(bands[int(generator.integers(len(bands)))][0])
    place, ends = generator.random() * widths.sum(), np.cumsum(widths)
    which = min(int(np.searchsorted(ends, place, side="right")), len(bands) - 1)
    return float(bands[which][0] + place - (ends[which] - widths[which]))


def _is_visible(agent: Any, background: Any, least: int = MIN_CONTRAST) -> bool:
    return bool(np.abs(np.asarray(agent, np.float64) - np.asarray(background, np.float64)).sum() >= least)
