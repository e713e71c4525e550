"""A robot arm among cubes, buttons, a drawer and a window, as a function of explicit moments: the package's own models, controller and rules.

Beside MuJoCo's state an episode depends on ``effector`` (where the controller last saw the gripper: one physics step before the present, which the
next action starts from), ``pad_force`` (what scripted policies feel) and, in ``scene``, ``buttons`` (which lock drawer and window).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.mujoco.labels import Column, LabelTable, columns_of_joint
from lewm.envs.mujoco.simulator import Moment, MujocoSimulator
from lewm.envs.ogbench.package import make_manipulation

ARM = {f"ur5e/{name}_joint": name for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")}
CAMERAS = ("front_pixels", "front")
RAISED_M, AWAY_M = 0.28, 0.06
"""Above the window's handle, which is the highest; and out of reach of a block."""
HELD = "held_env_steps"
"""For how many env steps a predicate has held: a count beside the physics, where a predicate asks for one."""


class ManipulationSimulator(MujocoSimulator):
    """One ``cube-*`` or ``scene`` of the package, holding one moment at a time."""

    camera_names = CAMERAS

    def __init__(self, kind: str, variant: str, time_limit_control_steps: int) -> None:
        self.env = make_manipulation(kind, variant)
        self.model, self.data = self.env._model, self.env._data
        self.num_blocks: int = self.env._num_cubes
        self.num_buttons: int = getattr(self.env, "_num_buttons", 0)
        self.action_bounds = -np.ones(5), np.ones(5)
        self.control_step_s = float(self.env._control_timestep)
        self.time_limit_control_steps = time_limit_control_steps
        self._pinch: int = self.env._pinch_site_id
        self._pad: int = self.model.body("ur5e/robotiq/right_pad").id
        self._gripper = int(self.model.jnt_qposadr[self.env._gripper_opening_joint_id])
        self._measure_state()
        shapes = {"effector": 12, "pad_force": 6} | ({"buttons": self.num_buttons} if self.num_buttons else {})
        self._fields = {name: np.zeros(size) for name, size in shapes.items()}

    def initialise(self, seed_words: Sequence[int]) -> Moment:
        """The first moment of a new episode, as the package draws it when it makes data."""
        self.env.np_random = np.random.default_rng(list(seed_words))
        self.env.reset()
        return self.save(0)

    def load(self, moment: Moment) -> None:
        """Put a moment into the simulator: its physics, its buttons with the locks and colours that follow, and what the controller saw."""
        if self.num_buttons and not np.array_equal(moment.variation["buttons"], self.env._cur_button_states):
            self.env._cur_button_states = moment.variation["buttons"].astype(np.int64)
            self.env._apply_button_states()
        self._set_physics(moment)
        self._mujoco.mj_step1(self.model, self.data)
        effector = moment.variation["effector"]
        self.data.site_xpos[self._pinch], self.data.site_xmat[self._pinch] = effector[:3], effector[3:]
        self.data.cfrc_ext[self._pad] = moment.variation["pad_force"]

    def save(self, env_step: int) -> Moment:
        """The moment that the simulator holds."""
        variation = {"effector": self._effector(), "pad_force": self.data.cfrc_ext[self._pad].copy()}
        if self.num_buttons:
            variation["buttons"] = self.env._cur_button_states.astype(np.float64)
        return Moment(self._get_physics(), variation, env_step)

    def advance(self, action: np.ndarray, action_repeat: int) -> tuple[float, bool]:
        """What the package's own step does but observations, ``action_repeat`` times; rewards follow from goals, so here they are 0."""
        env, mujoco = self.env, self._mujoco
        with self._refusing_divergence():
            for _ in range(action_repeat):
                env.set_control(action)
                env.pre_step()
                mujoco.mj_step(self.model, self.data, nstep=env._n_steps)
                mujoco.mj_rnePostConstraint(self.model, self.data)
                env.post_step()
        return 0.0, False

    def at_rest(self, moment: Moment) -> Moment:
        """The moment with nothing moving and nothing driven; the controller sees the gripper where it is."""
        resting = super().at_rest(moment)
        self._set_physics(resting)
        self._mujoco.mj_kinematics(self.model, self.data)
        variation = moment.variation | {"effector": self._effector(), "pad_force": np.zeros(6)}
        return Moment(resting.physics, variation, resting.env_step)

    def field(self, name: str) -> np.ndarray | None:
        """The shape and type of a part of every moment's variation."""
        return np.zeros(1) if name == HELD else self._fields.get(name)

    def check(self, moment: Moment) -> None:
        """``ValueError`` for a moment without all that this world keeps beside MuJoCo, or with a button that is neither 0 nor 1."""
        missing = [name for name in self._fields if name not in moment.variation]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if not np.isin(moment.variation.get("buttons", np.zeros(0)), (0.0, 1.0)).all():
            raise ValueError("a button of it is neither 0 nor 1")

    def camera(self, number: int) -> int:
        """The model's number of camera ``number``."""
        return int(self.model.camera(CAMERAS[number]).id)

    def label_table(self) -> LabelTable:
        """Effector, arm, blocks and, in ``scene``, buttons, drawer and window."""
        measured = ["effector_x_m", "effector_y_m", "effector_z_m", "effector_yaw_sin", "effector_yaw_cos", "gripper_opening"]
        measured += [f"block_{block}_yaw4_{part}" for block in range(self.num_blocks) for part in ("sin", "cos")]
        measured += [f"button_{button}_state" for button in range(self.num_buttons)]
        names = ARM | {f"object_joint_{block}": f"block_{block}" for block in range(self.num_blocks)}
        if self.num_buttons:
            names |= {f"buttonbox_joint_{button}": f"button_{button}" for button in range(self.num_buttons)}
            names |= {"drawer_slide": "drawer", "window_slide": "window"}
        joints = [column for joint, name in names.items() for column in columns_of_joint(self.model, self.model.joint(joint).id, name)]
        return LabelTable([Column(name, "positions", index) for index, name in enumerate(measured)] + joints, self.model)

    def measured(self, moment: Moment) -> np.ndarray:
        """float64 [num_positions]: the labels of a moment that are no joints."""
        qpos, effector = self.part(moment, "qpos"), moment.variation["effector"]
        yaw = np.arctan2(effector[6], effector[3])
        opening = np.clip(qpos[self._gripper] / 0.8, 0, 1)
        parts = [effector[:3], [np.sin(yaw), np.cos(yaw), opening]]
        parts += [_fourfold(self.part_of_block(moment, block)[3:]) for block in range(self.num_blocks)]
        return np.concatenate([*parts, moment.variation.get("buttons", np.zeros(0))])

    def part_of_block(self, moment: Moment, block: int) -> np.ndarray:
        """float64 [7]: a block's place and quaternion."""
        start = int(self.model.jnt_qposadr[self.model.joint(f"object_joint_{block}").id])
        return self.part(moment, "qpos")[start : start + 7]

    def is_free_handed(self, moment: Moment) -> bool:
        """Whether the effector is high up and away from every block: a scripted policy may turn to something else."""
        place = moment.variation["effector"][:3]
        blocks = [self.part_of_block(moment, block)[:3] for block in range(self.num_blocks)]
        return bool(place[2] > RAISED_M and all(np.linalg.norm(place - block) > AWAY_M for block in blocks))

    def handles(self, moment: Moment) -> np.ndarray:
        """float64 [2]: how far drawer and window are open; ``scene`` only."""
        joints = [int(self.model.jnt_qposadr[self.model.joint(name).id]) for name in ("drawer_slide", "window_slide")]
        return self.part(moment, "qpos")[joints]

    def _effector(self) -> np.ndarray:
        return np.concatenate([self.data.site_xpos[self._pinch], self.data.site_xmat[self._pinch]])


def _fourfold(quaternion: Any) -> list[float]:
    """Sine and cosine of four times the yaw: what a picture shows of a plain cube, which looks the same after a quarter turn."""
    w, x, y, z = quaternion
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2))
    return [np.sin(4 * yaw), np.cos(4 * yaw)]
