"""A Gymnasium environment made of a batch of one: all that a world has to write is its batch.

Axes: V view, Y X image, a env action, s label.
"""

import dataclasses
from typing import Any, ClassVar

import gymnasium
import numpy as np

from lewm.envs.base import GoalEnv
from lewm.envs.stacking import FrameStack, world_state
from lewm.errors import EnvError
from lewm.schema import Observation


class BatchOfOne(GoalEnv):
    """``GoalEnv`` over ``make_batch(1, **options)``: subclasses give ``make_batch`` and the class variables.

    ``info`` holds ``is_solved`` and ``labels``; ``truncated`` is the world's own time limit. States are those of the batch.
    ``stack_offsets_env_steps`` such as (-1, 0) stacks earlier frames as further views, also in goal frames (the goal's own frame, repeated) and
    states (which then hold them). Batches and datasets hold single frames: there, clips and agents do the stacking.
    """

    NAME: ClassVar[str]
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, /, *, render_mode: str | None = None, stack_offsets_env_steps: tuple[int, ...] = (0,), **options: Any) -> None:
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._batch = self.make_batch(1, **options)
        single = self._batch.observation_spec
        self.observation_spec = dataclasses.replace(single, stack_offsets_env_steps=tuple(stack_offsets_env_steps))
        self.action_spec = self._batch.action_spec
        self._stack = FrameStack(self.observation_spec.stack_offsets_env_steps, single.frame_shape)
        self._is_stacked = self.observation_spec != single
        self.label_names = self._batch.label_names
        spaces: dict[str, gymnasium.Space[Any]] = {"frames": gymnasium.spaces.Box(0, 255, self.observation_spec.frame_shape, np.uint8)}
        if self.observation_spec.proprioception:
            spaces["proprioception"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.observation_spec.proprioception),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]  # spaces are invariant in what they hold
        self.action_space = self._action_space()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start a new episode; the same seed gives the same one, alone and in a batch. There are no reset options: use ``set_state``."""
        if options:
            raise EnvError(
                f"{self.NAME} takes no reset options, got {sorted(options)}; give options to the constructor, or use set_state and set_goal"
            )
        if seed is not None and seed < 0:
            raise EnvError(f"a seed must be in [0, 2**64), got {seed}")
        super().reset(seed=seed)
        self._batch.reset([int(self.np_random.integers(2**63)) if seed is None else seed])
        observation = self._batch.observe()
        self._stack.start(observation.frames[0])
        return self._observation(observation), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One env step; ``EnvError`` if the action is of another shape or type, not finite or out of bounds."""
        rewards, terminated = self._batch.step(np.asarray(action)[None])
        observation = self._batch.observe()
        self._stack.push(observation.frames[0])
        return self._observation(observation), float(rewards[0]), bool(terminated[0]), bool(self._batch.is_truncated()[0]), self._info()

    def render(self) -> np.ndarray | None:
        """uint8 [Y, X, 3], the first camera, with ``render_mode="rgb_array"``; otherwise None."""
        return None if self.render_mode is None else np.asarray(self._batch.observe().frames[0, 0])

    def close(self) -> None:
        """Free renderers and emulators."""
        self._batch.close()

    def get_state(self) -> bytes:
        """The complete state, versioned: world and goal."""
        state = self._batch.get_states()[0]
        return self._stack.pack(state) if self._is_stacked else state

    def set_state(self, state: bytes) -> None:
        """Take over a state of ``get_state``; ``EnvError`` if it is of another environment or version, or not legal here."""
        if not self._is_stacked:
            self._batch.set_states([state])
            return
        own_state, frames = self._stack.unpack(state)
        self._batch.set_states([own_state])
        self._stack.take_over(frames)

    def labels(self) -> np.ndarray:
        """float32 [s]: ``label_names``."""
        return np.asarray(self._batch.labels()[0])

    def set_goal(self, state: bytes) -> None:
        """Make the world of a state the goal."""
        self._batch.set_goals([world_state(state)])

    def goal_frame(self) -> np.ndarray:
        """uint8 [V, Y, X, 3]: what the world looks like in the goal state."""
        return self._stack.repeated(self._batch.observe_goals().frames[0])

    def is_solved(self) -> bool:
        """Whether the present state satisfies the success predicate for the goal."""
        return bool(self._batch.is_solved()[0])

    def _action_space(self) -> gymnasium.Space[Any]:
        spec = self.action_spec
        if spec.kind == "discrete":
            return gymnasium.spaces.Discrete(spec.num_choices)
        return gymnasium.spaces.Box(np.array(spec.low, np.float32), np.array(spec.high, np.float32))

    def _observation(self, observation: Observation[np.ndarray]) -> dict[str, np.ndarray]:
        found = {"frames": self._stack.views()}
        return found if observation.proprioception is None else found | {"proprioception": observation.proprioception[0]}

    def _info(self) -> dict[str, Any]:
        return {"is_solved": self.is_solved(), "labels": self.labels()}
