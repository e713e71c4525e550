"""A learned policy as an agent: looks at a frame at the start of every decision and executes its block.

Axes: E episode, D latent, A action block, K kept frame, V view, Y X image, a env action.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.errors import PlanningError
from lewm.learned_policies.networks import LearnedPolicy
from lewm.planning.frame_stacks import empty_frames, stacked, still, with_newest
from lewm.schema import Observation


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """What the episodes in flight need; row e belongs to one episode."""

    goals: Float[Tensor, "E D"]
    env_step: np.ndarray
    """int64 [E]: env steps acted so far."""
    num_plans: np.ndarray
    """int64 [E]: decisions made so far."""
    blocks: Float[Tensor, "E A"]
    """The decision in force."""
    frames: np.ndarray | None
    """uint8 [E, K, cameras, Y, X, 3]: the last env steps' frames, newest last, when the policy sees stacked ones."""


class LearnedAgent:
    """Reaches goals given as frames without planning (the ``Policy`` contract)."""

    def __init__(self, policy: LearnedPolicy) -> None:
        self.policy = policy.eval()

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return next(self.policy.parameters()).device

    @torch.no_grad()
    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> AgentState:
        """A state for new episodes: goals uint8 [E, cameras, Y, X, 3]. Nothing is drawn at random, the seeds only say how many there are."""
        spec, num = self.policy.observation_spec, len(seeds)
        return AgentState(
            goals=self._encode(still(goals, spec)),
            env_step=np.zeros(num, dtype=np.int64),
            num_plans=np.zeros(num, dtype=np.int64),
            blocks=torch.zeros(num, self.policy.block_dimension, device=self.device),
            frames=empty_frames(spec, num),
        )

    def needs_frame(self, state: AgentState) -> bool:
        """Whether the next ``act`` looks at its observations."""
        return state.frames is not None or bool(self._decides(state).any())

    @torch.no_grad()
    def act(self, observations: Observation[np.ndarray] | None, state: AgentState) -> tuple[np.ndarray, AgentState]:
        """Actions float32 [E, a] (discrete: int64 [E]) for this env step, within the world's bounds, and the next state."""
        if self.needs_frame(state):
            if observations is None:
                raise PlanningError("this env step needs an observation: ask `needs_frame` before skipping one")
            state = self._look(observations, state)
        block = self.policy.action_block
        actions = self.policy.action_spec.from_blocks(state.blocks.cpu().numpy(), block)[np.arange(len(state.env_step)), state.env_step % block]
        return actions, dataclasses.replace(state, env_step=state.env_step + 1)

    def select(self, state: AgentState, episodes: np.ndarray) -> AgentState:
        """The state of some of the episodes: a mask [E] or indices."""
        index = np.flatnonzero(episodes) if episodes.dtype == bool else episodes
        rows = torch.from_numpy(index).to(self.device)
        return AgentState(
            goals=state.goals[rows],
            env_step=state.env_step[index],
            num_plans=state.num_plans[index],
            blocks=state.blocks[rows],
            frames=None if state.frames is None else state.frames[index],
        )

    def _decides(self, state: AgentState) -> np.ndarray:
        return np.asarray(state.env_step % self.policy.action_block == 0)

    def _look(self, observations: Observation[np.ndarray], state: AgentState) -> AgentState:
        """Keep the present frames, and decide anew for the episodes whose block is over."""
        if state.frames is not None:
            kept = with_newest(state.frames, observations.frames, state.env_step == 0)
            state = dataclasses.replace(state, frames=kept)
            observations = Observation(stacked(kept, self.policy.observation_spec), observations.proprioception)
        index = np.flatnonzero(self._decides(state))
        if len(index) == 0:
            return state
        rows, blocks = torch.from_numpy(index).to(self.device), state.blocks.clone()
        blocks[rows] = self.policy.decide(self._encode(observations[index]), state.goals[rows])
        return dataclasses.replace(state, blocks=blocks, num_plans=state.num_plans + self._decides(state))

    def _encode(self, observations: Observation[np.ndarray]) -> Float[Tensor, "E D"]:
        return self.policy.encoder.encode(observations.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)))
