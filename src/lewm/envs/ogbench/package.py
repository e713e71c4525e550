"""The ogbench package's own worlds, made without windows, GL contexts or files that stay behind (Park et al., arXiv 2410.20092)."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import ogbench  # noqa: F401  # says early that the extra is missing; its worlds are imported without their own GL

from lewm.envs.mujoco.rendering import without_gl


@functools.cache
def load_worlds() -> SimpleNamespace:
    """The package's modules ``cube_env``, ``scene_env`` and ``maze``; ``EnvError`` if ``MUJOCO_GL`` names no backend."""
    with without_gl():
        from ogbench.locomaze import maze
        from ogbench.manipspace.envs import cube_env, scene_env
    return SimpleNamespace(cube_env=cube_env, scene_env=scene_env, maze=maze)


@functools.cache
def load_oracles() -> dict[str, dict[str, Any]]:
    """The package's scripted policies: ``plan`` and ``markov``, each by the thing that they handle."""
    with without_gl():
        from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
        from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan
    return {
        "plan": {
            "cube": cube_plan.CubePlanOracle,
            "button": button_plan.ButtonPlanOracle,
            "drawer": drawer_plan.DrawerPlanOracle,
            "window": window_plan.WindowPlanOracle,
        },
        "markov": {
            "cube": cube_markov.CubeMarkovOracle,
            "button": button_markov.ButtonMarkovOracle,
            "drawer": drawer_markov.DrawerMarkovOracle,
            "window": window_markov.WindowMarkovOracle,
        },
    }


def make_manipulation(kind: str, variant: str) -> Any:
    """``cube`` or ``scene`` as the package makes its data, coloured as its visual variants, with a compiled model."""
    worlds = load_worlds()
    make = worlds.cube_env.CubeEnv if kind == "cube" else worlds.scene_env.SceneEnv
    env = make(variant, ob_type="pixels", mode="data_collection", visualize_info=False, terminate_at_goal=False)
    # The package would draw a frame at every reset and step: lewm draws when asked.
    env.compute_observation = lambda: None
    env.reset()
    return env


def make_maze(body: str, maze_type: str) -> Any:
    """A maze for ``point`` or ``ant``, coloured as the package's visual variants."""
    maze = load_worlds().maze
    with _without_traces(maze):
        return maze.make_maze_env(body, "maze", maze_type=maze_type, ob_type="pixels", terminate_at_goal=False)


class _NoRenderer:
    """Stands in for ``mujoco.Renderer``, which the package makes and uses as soon as it makes a world."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def update_scene(self, *_: Any, **__: Any) -> None:
        """Draw nothing."""

    def render(self) -> None:
        """Draw nothing."""


@contextlib.contextmanager
def _without_traces(maze: ModuleType) -> Iterator[None]:
    """Keep the package from opening a GL context, and from leaving its model in a temporary file that stays open."""
    import mujoco

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "maze.xml")
        stand_ins: dict[str, Any] = {
            "tempfile": SimpleNamespace(mkstemp=lambda **_: (None, path)),
            "mujoco": SimpleNamespace(MjvCamera=mujoco.MjvCamera, Renderer=_NoRenderer),
        }
        own = {name: getattr(maze, name) for name in stand_ins}
        try:
            vars(maze).update(stand_ins)
            yield
        finally:
            vars(maze).update(own)


@contextlib.contextmanager
def numpy_random(generator: np.random.RandomState) -> Iterator[None]:
    """Let the package's calls of ``numpy.random`` draw from ``generator``, which goes on from there; nobody else's numbers change."""
    others = np.random.get_state()
    np.random.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(np.random.get_state())
        np.random.set_state(others)
