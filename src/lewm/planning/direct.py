"""No search: the actions of an actor, such as a head on the latents, as they are.

Axes: E episode, P proposal, T model step, A action block, N env step of a block, a env action.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, LinearReadout, Plan, Trace
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.planning.proposing import Actor
from lewm.schema import Observation


class Direct:
    """The first proposal is the plan. Its cost is looked up, not minimised."""

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config

    def plan(
        self,
        cost: Cost,
        space: BlockSpace,
        *,
        horizon_model_steps: int,
        seeds: Sequence[tuple[int, int]],
        initial: Float[Tensor, "E T A"] | None = None,
        proposals: Float[Tensor, "E P T A"] | None = None,
        deadline_s: float | None = None,
        trace: Trace | None = None,
        device: torch.device | None = None,
    ) -> Plan:
        """See ``Planner.plan``. ``PlanningError`` without proposals."""
        if proposals is None:
            raise PlanningError("planner 'direct' executes proposals and was given none: set planner.proposals, or use planner 'cem'")
        return Plan(blocks=proposals[:, 0], cost=cost(proposals[:, :1])[:, 0], num_iterations=0)


class DirectPolicy(MPCPolicy):
    """The agent of planner ``direct``: looks every ``act_every_env_steps`` and does what the actor says, without imagining anything.

    Where an actor knows only the next block, that is at most ``action_block`` env steps. ``num_plans`` counts the looks.
    """

    def __init__(self, model: Any, config: PlannerConfig, readout: LinearReadout | None = None, *, heads: Mapping[str, Any] | None = None) -> None:
        super().__init__(model, config, readout, heads=heads)
        actor = self.heads.get(config.proposals)
        if not isinstance(actor, Actor):
            raise PlanningError(
                f"planner 'direct' does what planner.proposals says at every look, and {config.proposals!r} does not act: use a head that does"
            )
        self.actor = actor
        if config.act_every_env_steps > self.space.action_block:
            raise PlanningError(
                f"planner.act_every_env_steps must be at most the action block, {self.space.action_block} env steps; got {config.act_every_env_steps}"
            )

    @torch.no_grad()
    def reset_to(self, goals: Float[Tensor, "E D"], seeds: Sequence[int]) -> PolicyState:
        """A state for new episodes whose goals are latents."""
        state = super().reset_to(goals, seeds)
        nothing = state.plan.new_zeros(len(seeds), 1, self.space.block_dimension)
        unused = state.plan.new_zeros(len(seeds), 2, self.model.latent_dimension)  # one block lies between two latents
        return dataclasses.replace(state, plan=nothing, blocks=nothing.clone(), latents=unused)

    def needs_frame(self, state: PolicyState) -> bool:
        """Whether the next ``act`` looks at its observations."""
        return state.frames is not None or bool(self._decides(state).any())

    @torch.no_grad()
    def act(self, observations: Observation[np.ndarray] | None, state: PolicyState) -> tuple[np.ndarray, PolicyState]:
        """Actions float32 [E, a] (discrete: int64 [E]) for this env step, within the world's bounds, and the next state."""
        if self.needs_frame(state):
            if observations is None:
                raise PlanningError("this env step needs an observation: ask `needs_frame` before skipping one")
            state = self._decide(observations, state)
        return self._execute(state)

    def _decides(self, state: PolicyState) -> np.ndarray:
        return np.asarray(state.env_step % self.config.act_every_env_steps == 0)

    def _decide(self, observations: Observation[np.ndarray], state: PolicyState) -> PolicyState:
        """Ask the actor, for the episodes whose turn it is."""
        observations, state = self._with_stack(observations, state)
        decides = self._decides(state)
        rows = np.flatnonzero(decides)
        if len(rows) == 0:
            return state
        index, latents = torch.from_numpy(rows).to(self.device), self._encode(observations[rows])
        state = self._aim(state, rows, latents)
        chosen = self.actor.act(latents, self._aims(state)[index], state.blocks[index, 0], steps_to_goal=self.config.steps_to_goal)
        plan = state.plan.clone()
        plan[index, 0] = self.space.executable(chosen)
        return dataclasses.replace(state, plan=plan, num_plans=state.num_plans + decides)

    def _execute(self, state: PolicyState) -> tuple[np.ndarray, PolicyState]:
        """The action of this env step; ``blocks`` holds the actions of the last ``action_block`` env steps, zeros before the start."""
        block = self.model.action_block
        per_step = state.plan[:, 0].view(len(state.seeds), block, -1)  # E A -> E N a
        rows = torch.arange(len(per_step), device=self.device)
        current = per_step[rows, torch.from_numpy(state.env_step % self.config.act_every_env_steps).to(self.device)]
        previous = state.blocks[:, 0].view(len(state.seeds), block, -1)
        blocks = torch.cat([previous[:, 1:], current[:, None]], dim=1).flatten(1)[:, None]
        actions = self.space.action_spec.from_blocks(current.cpu().numpy(), 1)[:, 0]
        return actions, dataclasses.replace(state, blocks=blocks, env_step=state.env_step + 1)


def policy_of(model: Any, config: PlannerConfig, readout: LinearReadout | None = None, *, heads: Mapping[str, Any] | None = None) -> MPCPolicy:
    """The agent that the settings describe: planner ``direct`` acts at every env step, all others plan."""
    return (DirectPolicy if config.name == "direct" else MPCPolicy)(model, config, readout, heads=heads)
