"""The paper's navigation task: a dot in two rooms that are joined by a door.

Axes: V view, Y X image, a action, s label. Lengths in px of the 224 x 224 arena whatever the size of the frames. Geometry: LeWorldModel, arXiv
2603.19312, and its public code; unlike there, no wall can be crossed between two env steps unless ``collision="official"`` asks for it.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np

from lewm.envs.base import GoalEnv, Perturbation, ScriptedPolicy
from lewm.envs.two_room_batch import LABEL_NAMES, STRATA, VERSION, TwoRoomBatch
from lewm.envs.two_room_layout import PERTURBATIONS, TwoRoomOptions
from lewm.envs.two_room_policies import ExpertPolicy, NoiselessExpertPolicy
from lewm.errors import EnvError

__all__ = ["TwoRoom", "TwoRoomBatch", "TwoRoomOptions"]


class TwoRoom(GoalEnv):
    """Reach a place in either room. Observations: ``{"frames": uint8 [1, Y, X, 3]}``; actions: [-1, 1]^2, 5 px per env step and axis.

    The options are the fields of ``TwoRoomOptions``. The reward is 1 at every env step that ends within ``success_radius_px`` of the goal. ``info``
    holds ``is_solved`` and ``labels``.
    """

    VERSION: ClassVar[int] = VERSION
    STRATA: ClassVar[tuple[str, ...]] = STRATA
    PERTURBATIONS: ClassVar[dict[str, Perturbation]] = PERTURBATIONS
    POLICIES: ClassVar[dict[str, type[ScriptedPolicy]]] = {"expert": ExpertPolicy, "expert-noiseless": NoiselessExpertPolicy}
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._batch = self.make_batch(1, **options)
        self.observation_spec = self._batch.observation_spec
        self.action_spec = self._batch.action_spec
        self.label_names = LABEL_NAMES
        frames = gymnasium.spaces.Box(0, 255, self.observation_spec.frame_shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"frames": frames})  # type: ignore[assignment]  # spaces are invariant in what they hold
        self.action_space = gymnasium.spaces.Box(np.array(self.action_spec.low, np.float32), np.array(self.action_spec.high, np.float32))

    @classmethod
    def make_batch(cls, num_envs: int, **options: Any) -> TwoRoomBatch:
        """The same world for ``num_envs`` episodes at once, with the fields of ``TwoRoomOptions``."""
        return TwoRoomBatch(num_envs, **options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start a new episode; the same seed gives the same one, alone and in a batch. There are no reset options: use ``set_state``."""
        if options:
            raise EnvError(f"two-room takes no reset options, got {sorted(options)}; give options to the constructor, or use set_state and set_goal")
        if seed is not None and seed < 0:
            raise EnvError(f"a seed must be in [0, 2**64), got {seed}")
        super().reset(seed=seed)
        self._batch.reset([int(self.np_random.integers(2**63)) if seed is None else seed])
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move the agent by 5 px times ``action`` [2]; ``EnvError`` if it is of another shape, not finite or outside [-1, 1]."""
        rewards, terminated = self._batch.step(np.asarray(action)[None])
        limit = self._batch.options.max_env_steps
        is_truncated = limit is not None and int(self._batch.moments["env_step"][0]) >= limit
        return self._observation(), float(rewards[0]), bool(terminated[0]), is_truncated, self._info()

    def render(self) -> np.ndarray | None:
        """uint8 [Y, X, 3] with ``render_mode="rgb_array"``, otherwise None."""
        return None if self.render_mode is None else np.asarray(self._observation()["frames"][0])

    def get_state(self) -> bytes:
        """The complete state, versioned: world and goal."""
        return self._batch.get_states()[0]

    def set_state(self, state: bytes) -> None:
        """Take over a state of ``get_state``; ``EnvError`` if it is of another environment or version, or not legal here."""
        self._batch.set_states([state])

    def labels(self) -> np.ndarray:
        """float32 [3]: ``label_names``."""
        return np.asarray(self._batch.labels()[0])

    def set_goal(self, state: bytes) -> None:
        """Make the world of a state the goal."""
        self._batch.set_goals([state])

    def goal_frame(self) -> np.ndarray:
        """uint8 [1, Y, X, 3]: what the world looks like in the goal state."""
        return np.asarray(self._batch.observe_goals().frames[0])

    def is_solved(self) -> bool:
        """Whether the agent is within the success radius of the goal."""
        return bool(self._batch.is_solved()[0])

    def _observation(self) -> dict[str, np.ndarray]:
        return {"frames": self._batch.observe().frames[0]}

    def _info(self) -> dict[str, Any]:
        return {"is_solved": self.is_solved(), "labels": self.labels()}
