"""What a scripted policy of an arm world is to do next: a block, a button, the drawer or the window, and where it should be."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lewm.envs.mujoco.simulator import Moment
from lewm.envs.ogbench.manipulation import ManipulationSimulator

NAMES = ("_target_task", "_target_block", "_target_button", "_target_button_states", "_target_drawer_pos", "_target_window_pos")
"""Where the package keeps a target, beside the pose of the (undrawn) mocap body of the block."""
ALIGNED_M = 0.02
"""From this near on, the package's oracles take a block to be where it should be."""
HANDLE_ALIGNED_M = 0.03
"""The same for handles, which slip a little when they are let go: short of the 4 cm that success allows."""


@dataclass(frozen=True)
class Target:
    """One target, in the package's own terms."""

    values: dict[str, Any]
    pose: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, -0.3, 1.0, 0.0, 0.0, 0.0]))
    """float64 [7]: where the block should be; elsewhere without meaning."""

    @property
    def task(self) -> str:
        """``cube``, ``button``, ``drawer`` or ``window``."""
        return str(self.values["_target_task"])

    @property
    def block(self) -> int:
        """Which block, where the task is ``cube``."""
        return int(self.values["_target_block"])

    def is_like(self, other: "Target") -> bool:
        """Whether both are about the same thing."""
        name = {"cube": "_target_block", "button": "_target_button"}.get(self.task, "_target_task")
        return self.task == other.task and self.values[name] == other.values[name]


def draw_target(simulator: ManipulationSimulator, moment: Moment, generator: np.random.Generator, stacking: float) -> Target:
    """A random target for a world as it is, drawn by the package."""
    env = simulator.env
    simulator.load(moment)
    env.np_random = generator
    env.set_new_target(return_info=False, p_stack=stacking)
    values = {name: copy.copy(getattr(env, name)) for name in NAMES if hasattr(env, name)}
    body = env._cube_target_mocap_ids[env._target_block]
    return Target(values, np.concatenate([simulator.data.mocap_pos[body], simulator.data.mocap_quat[body]]))


def info_of(simulator: ManipulationSimulator, moment: Moment, target: Target) -> dict[str, Any]:
    """What the package tells its oracles of a world with this target. The world itself is not changed."""
    env, model = simulator.env, simulator.model
    for name, value in target.values.items():
        setattr(env, name, copy.copy(value))
    if simulator.num_buttons:
        model.site("drawer_handle_center_target").pos[1] = target.values["_target_drawer_pos"]
        model.site("window_handle_center_target").pos[0] = target.values["_target_window_pos"]
    simulator.load(moment)
    body = env._cube_target_mocap_ids[target.block]
    simulator.data.mocap_pos[body], simulator.data.mocap_quat[body] = target.pose[:3], target.pose[3:]
    info: dict[str, Any] = env.compute_ob_info()
    return info


def next_target(simulator: ManipulationSimulator, moment: Moment, goal: Moment) -> Target | None:
    """The next thing to do on the way to a goal; None where nothing is left to do."""
    values: dict[str, Any] = {"_target_task": "cube", "_target_block": 0}
    block = _misplaced_block(simulator, moment, goal)
    pose = simulator.part_of_block(goal, 0 if block is None else block)
    if not simulator.num_buttons:
        return None if block is None else Target(values | {"_target_block": block}, pose)
    handles, goal_handles = (simulator.handles(one) for one in (moment, goal))
    buttons, goal_buttons = moment.variation["buttons"], goal.variation["buttons"]
    values |= {"_target_button": 0, "_target_drawer_pos": goal_handles[0], "_target_window_pos": goal_handles[1]}
    must_move = np.abs(handles - goal_handles) > HANDLE_ALIGNED_M
    for number in np.flatnonzero(must_move & (buttons == 0)).tolist():
        return _press(values, number, buttons)
    if block is not None:
        return Target(values, pose)
    for number in np.flatnonzero(must_move).tolist():
        return Target(values | {"_target_task": ("drawer", "window")[number]})
    for number in np.flatnonzero(buttons != goal_buttons).tolist():
        return _press(values, number, buttons)
    return None


def _press(values: dict[str, Any], number: int, buttons: np.ndarray) -> Target:
    states = buttons.astype(np.int64)
    states[number] = 1 - states[number]
    return Target(values | {"_target_task": "button", "_target_button": number, "_target_button_states": states})


def _misplaced_block(simulator: ManipulationSimulator, moment: Moment, goal: Moment) -> int | None:
    """The lowest in the goal of the blocks that are not where they should be."""
    blocks = range(simulator.num_blocks)
    places, goals = (np.stack([simulator.part_of_block(one, block)[:3] for block in blocks]) for one in (moment, goal))
    misplaced = np.flatnonzero(np.linalg.norm(places - goals, axis=-1) > ALIGNED_M)
    return None if len(misplaced) == 0 else int(misplaced[np.argmin(goals[misplaced, 2])])
