"""The true future of candidate plans: the simulator in the predictor's place.

Axes: S candidate, T model step, A action block, V view, Y X image, s label, D latent, a env action.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace
from lewm.schema import Observation

FRAMES_PER_BATCH = 128


class Simulator:
    """Carries out the candidates of one episode side by side, from its true state.

    One batch of worlds is kept for each number of candidates that comes up. Frames are drawn only if they are asked for.
    """

    def __init__(self, env: str, env_options: dict[str, Any], space: BlockSpace) -> None:
        self._env, self._options, self._space = env, env_options, space
        self._batches: dict[int, GoalEnvBatch] = {}

    def labels(self, state: bytes, candidates: Tensor) -> np.ndarray:
        """float32 [S, T, s]: the labels after each block of candidates [S, T, A]."""
        block = self._space.action_block
        found: list[np.ndarray] = []

        def look(envs: GoalEnvBatch, env_step: int) -> None:
            if env_step > 0 and env_step % block == 0:
                found.append(envs.labels())

        self._carry_out(state, candidates, look)
        return np.stack(found, axis=1)

    def latents(self, state: bytes, candidates: Tensor, model: WorldModel) -> Tensor:
        """[S, T, D]: what the model's encoder makes of the frames after each block.

        A stacked model sees the frames of the way there; before its start the world is taken to have stood still.
        """
        block, offsets = self._space.action_block, model.observation_spec.stack_offsets_env_steps
        ends = [block * (step + 1) for step in range(candidates.shape[1])]
        wanted = {max(0, end + offset) for end in ends for offset in offsets}
        frames: dict[int, np.ndarray] = {}
        found: list[Tensor] = []

        def look(envs: GoalEnvBatch, env_step: int) -> None:
            if env_step not in wanted:
                return
            seen = envs.observe()
            frames[env_step] = seen.frames
            if env_step in ends:
                stack = np.stack([frames[max(0, env_step + offset)] for offset in offsets], axis=2)  # S cameras stack Y X 3
                found.append(encode(model, Observation(stack.reshape(len(stack), -1, *stack.shape[3:]), seen.proprioception)))
                for old in [step for step in frames if step < env_step + offsets[0]]:
                    del frames[old]

        self._carry_out(state, candidates, look)
        return torch.stack(found, dim=1)

    def close(self) -> None:
        """Close the worlds."""
        for envs in self._batches.values():
            envs.close()
        self._batches.clear()

    def _carry_out(self, state: bytes, candidates: Tensor, look: Callable[[GoalEnvBatch, int], None]) -> None:
        count, spec, block = len(candidates), self._space.action_spec, self._space.action_block
        if count not in self._batches:
            self._batches[count] = make_batch(self._env, count, **self._options)
        envs = self._batches[count]
        envs.set_states([state] * count)
        actions = spec.from_blocks(self._space.executable(candidates).float().cpu().numpy(), block)  # S T block (a)
        look(envs, 0)
        for number in range(actions.shape[1] * block):
            envs.step(np.ascontiguousarray(actions[:, number // block, number % block]))
            look(envs, number + 1)


def encode(model: WorldModel, observation: Observation[np.ndarray]) -> Tensor:
    """Latents [n, D], in batches that stay in the processor's cache."""
    device, count = next(model.parameters()).device, len(observation.frames)
    parts = [observation[first : first + FRAMES_PER_BATCH] for first in range(0, count, FRAMES_PER_BATCH)]
    return torch.cat([model.encode(part.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))) for part in parts])
