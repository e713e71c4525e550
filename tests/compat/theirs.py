"""stable-worldmodel where it is installed, small objects with its documented interfaces where it is not: the same tests run on both."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
import swm_like

from lewm.envs.two_room.env import TwoRoom

try:
    import stable_worldmodel
except ImportError:
    IS_REAL = False
    PlanConfig: Any = swm_like.PlanConfig
    CEMSolver: Any = swm_like.CEMSolver
    WorldModelPolicy: Any = swm_like.WorldModelPolicy
else:
    IS_REAL = True
    PlanConfig, WorldModelPolicy = stable_worldmodel.PlanConfig, stable_worldmodel.policy.WorldModelPolicy
    CEMSolver = (stable_worldmodel.planning if hasattr(stable_worldmodel, "planning") else stable_worldmodel.solver).CEMSolver

SIZE_PX = 32
ENV_ID = "lewm-tests/TwoRoom-v0"


class TwoRoomForTheirs(gymnasium.Env[Any, Any]):
    """Our world in the form that their ``World`` takes: a state observation, frames by ``render`` and the goal's frame in ``info``."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    has_info_of_its_own = not IS_REAL
    """Their wrappers add pixels, last action, step and end to ``info``; without them it must be complete."""

    def __init__(self, render_mode: str | None = "rgb_array", num_steps: int = 6) -> None:
        self.render_mode, self.num_steps = render_mode, num_steps
        self.world = TwoRoom(size_px=SIZE_PX, render_mode="rgb_array")
        self.action_space = self.world.action_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.world.reset(seed=seed)
        self.step_idx = 0
        return self._seen(np.full(2, np.nan, np.float32), False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.world.step(np.asarray(action, np.float32))
        self.step_idx += 1
        solved = self.world.is_solved()
        observation, info = self._seen(action, solved)
        return observation, 0.0, solved, self.step_idx >= self.num_steps, info

    def render(self) -> Any:
        return self.world.render()

    def _seen(self, action: np.ndarray, solved: bool) -> tuple[np.ndarray, dict[str, Any]]:
        info: dict[str, Any] = {"goal": self.world.goal_frame()[0]}
        if self.has_info_of_its_own:
            info |= {"pixels": self.render(), "action": np.asarray(action, np.float32), "step_idx": self.step_idx, "terminated": solved}
        return self.world.labels()[:2].astype(np.float32), info


def make_world(num_envs: int, num_steps: int) -> Any:
    """Their ``World`` over our two-room."""
    if not IS_REAL:
        return swm_like.World([TwoRoomForTheirs(num_steps=num_steps) for _ in range(num_envs)])
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, entry_point=TwoRoomForTheirs)
    return stable_worldmodel.World(ENV_ID, num_envs=num_envs, image_shape=(SIZE_PX, SIZE_PX), max_episode_steps=num_steps, num_steps=num_steps)
