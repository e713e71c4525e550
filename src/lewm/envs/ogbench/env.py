"""OGBench's worlds: ``ogbench/<env>``, an arm among objects and bodies in mazes, from pixels.

The package's own models, controller, rules and scripted policies (Park et al., arXiv 2410.20092).
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from lewm.envs.base import ScriptedPolicy
from lewm.envs.ogbench.batch import VERSION, ManipulationBatch, MazeBatch, OgbenchBatch
from lewm.envs.ogbench.goals import CUBE_STRATA, MAZE_STRATA
from lewm.envs.ogbench.manipulation import ManipulationSimulator
from lewm.envs.ogbench.maze import MazeSimulator
from lewm.envs.ogbench.navigation import MAZE_POLICIES
from lewm.envs.ogbench.oracles import ORACLES
from lewm.envs.single import BatchOfOne
from lewm.registry import unknown_member

__all__ = ["ManipulationBatch", "MazeBatch", "OgbenchBatch", "OgbenchEnv", "member_env", "member_names"]


@dataclass(frozen=True)
class Member:
    """One world of the family."""

    kind: str
    """``cube``, ``scene``, ``point`` or ``ant``."""
    variant: str
    """How many cubes, or which maze: as the package calls them."""
    time_limit_control_steps: int
    """Of the package's evaluation."""


MEMBERS = {
    "cube-single": Member("cube", "single", 200),
    "cube-double": Member("cube", "double", 500),
    "cube-triple": Member("cube", "triple", 1000),
    "cube-quadruple": Member("cube", "quadruple", 1000),
    "scene": Member("scene", "scene", 750),
    **{f"{body}maze-{maze}": Member(body, maze, 1000) for body in ("point", "ant") for maze in ("medium", "large", "giant", "teleport")},
}
STRATA: dict[str, tuple[str, ...]] = {"cube": CUBE_STRATA, "point": MAZE_STRATA}
"""The ant has one kind of pair only: noise, the one policy for it here, never takes it around a wall."""
DATA_POLICIES = {"cube": "play", "scene": "play", "point": "navigate", "ant": "ou"}


class OgbenchEnv(BatchOfOne):
    """Bring blocks, or a body, to where they are in the goal. Observations: ``{"frames": uint8 [V, Y, X, 3]}``; actions in [-1, 1].

    The options are the fields of ``OgbenchOptions``.
    """

    MEMBER: ClassVar[Member]
    VERSION: ClassVar[int] = VERSION

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> OgbenchBatch:
        """The same world for ``num_envs`` episodes at once, with the fields of ``OgbenchOptions``."""
        member = cls.MEMBER
        if member.kind in ("cube", "scene"):
            simulator = ManipulationSimulator(member.kind, member.variant, member.time_limit_control_steps)
            return ManipulationBatch(num_envs, cls.NAME, simulator, **options)
        return MazeBatch(num_envs, cls.NAME, MazeSimulator(member.kind, member.variant, member.time_limit_control_steps), **options)


def member_names() -> list[str]:
    """Every world of the family, sorted."""
    return sorted(MEMBERS)


@functools.cache
def member_env(member: str) -> type[OgbenchEnv]:
    """The environment called ``ogbench/<member>``; ``UnknownNameError`` with a suggestion if there is none."""
    if member not in MEMBERS:
        raise unknown_member("env", "ogbench/", member, MEMBERS)
    kind = MEMBERS[member].kind
    policies: dict[str, type[ScriptedPolicy]] = ORACLES if kind in ("cube", "scene") else MAZE_POLICIES[kind]
    attributes = {
        "NAME": f"ogbench/{member}",
        "MEMBER": MEMBERS[member],
        "STRATA": STRATA.get(kind, ()),
        "DATA_POLICY": DATA_POLICIES[kind],
        "POLICIES": policies,
        "__doc__": OgbenchEnv.__doc__,
    }
    return type(f"Ogbench_{member.replace('-', '_')}", (OgbenchEnv,), attributes)
