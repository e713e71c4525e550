"""The true future of candidate plans: the simulator in the predictor's place.

Axes: e episode, S candidate, T model step, A action block, V view, Y X image, s label, D latent, a env action.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace
from lewm.schema import Observation

FRAMES_PER_BATCH = 128
MAX_ROWS = 2048
"""Candidates that are carried out side by side. Speed only."""


class Simulator:
    """Carries out candidates from true states, those of several episodes side by side.

    One batch of worlds is kept for each number of rows that comes up, and episodes are taken in powers of two, so that there are few. Frames are
    drawn only if they are asked for.
    """

    def __init__(self, env: str, env_options: dict[str, Any], space: BlockSpace) -> None:
        self._env, self._options, self._space = env, env_options, space
        self._batches: dict[int, GoalEnvBatch] = {}

    def labels(self, states: Sequence[bytes], candidates: Tensor) -> Tensor:
        """float32 [e, S, T, s]: the labels after each block of candidates [e, S, T, A]."""
        block = self._space.action_block

        def carried_out(states: Sequence[bytes], candidates: Tensor) -> Tensor:
            found: list[np.ndarray] = []

            def look(envs: GoalEnvBatch, env_step: int) -> None:
                if env_step > 0 and env_step % block == 0:
                    found.append(envs.labels())

            self._carry_out(states, candidates, look)
            return torch.from_numpy(np.stack(found, axis=1))

        return self._in_groups(states, candidates, carried_out)

    def latents(self, states: Sequence[bytes], candidates: Tensor, model: WorldModel, *, only_last: bool = False) -> Tensor:
        """[e, S, T, D], or [e, S, 1, D] with ``only_last``: what the model's encoder makes of the frames after each block, or after the last.

        A stacked model sees the frames of the way there; before its start the world is taken to have stood still.
        """
        block, offsets = self._space.action_block, model.observation_spec.stack_offsets_env_steps
        ends = [block * (step + 1) for step in range(candidates.shape[2])][-1 if only_last else 0 :]
        wanted = {max(0, end + offset) for end in ends for offset in offsets}

        def carried_out(states: Sequence[bytes], candidates: Tensor) -> Tensor:
            frames: dict[int, np.ndarray] = {}
            found: list[Tensor] = []

            def look(envs: GoalEnvBatch, env_step: int) -> None:
                if env_step not in wanted:
                    return
                seen = envs.observe()
                frames[env_step] = seen.frames
                if env_step in ends:
                    stack = np.stack([frames[max(0, env_step + offset)] for offset in offsets], axis=2)  # rows cameras stack Y X 3
                    found.append(encode(model, Observation(stack.reshape(len(stack), -1, *stack.shape[3:]), seen.proprioception)))
                    for old in [step for step in frames if step < env_step + offsets[0]]:
                        del frames[old]

            self._carry_out(states, candidates, look)
            return torch.stack(found, dim=1)

        return self._in_groups(states, candidates, carried_out)

    def close(self) -> None:
        """Close the worlds."""
        for envs in self._batches.values():
            envs.close()
        self._batches.clear()

    def _in_groups(self, states: Sequence[bytes], candidates: Tensor, carried_out: Callable[[Sequence[bytes], Tensor], Tensor]) -> Tensor:
        """What ``carried_out`` makes of rows = episodes x candidates, for a few episodes at a time."""
        num_candidates, first, parts = candidates.shape[1], 0, []
        largest = 1 << max(0, (MAX_ROWS // num_candidates).bit_length() - 1)
        while first < len(states):
            count = min(largest, 1 << ((len(states) - first).bit_length() - 1))
            rows = [state for state in states[first : first + count] for _ in range(num_candidates)]
            found = carried_out(rows, candidates[first : first + count].flatten(0, 1))
            parts.append(found.view(count, num_candidates, *found.shape[1:]))
            first += count
        return torch.cat(parts)

    def _carry_out(self, states: Sequence[bytes], candidates: Tensor, look: Callable[[GoalEnvBatch, int], None]) -> None:
        """Step a row per state through its candidate [rows, T, A]; ``look`` is told the number of env steps taken."""
        count, spec, block = len(states), self._space.action_spec, self._space.action_block
        if count not in self._batches:
            self._batches[count] = make_batch(self._env, count, **self._options)
        envs = self._batches[count]
        envs.set_states(states)
        actions = spec.from_blocks(self._space.executable(candidates).float().cpu().numpy(), block)  # rows T block (a)
        look(envs, 0)
        for number in range(actions.shape[1] * block):
            envs.step(np.ascontiguousarray(actions[:, number // block, number % block]))
            look(envs, number + 1)


def encode(model: WorldModel, observation: Observation[np.ndarray]) -> Tensor:
    """Latents [n, D], in batches that stay in the processor's cache."""
    device, count = next(model.parameters()).device, len(observation.frames)
    parts = [observation[first : first + FRAMES_PER_BATCH] for first in range(0, count, FRAMES_PER_BATCH)]
    return torch.cat([model.encode(part.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))) for part in parts])
