"""Our planners searching with a model of stable-worldmodel: an agent for our evaluation.

Axes: E episode, T model step, A action block, a env action, V view, Y X image.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.compat.swm.costs import ActionScaler, CostFromSwm, SwmCostModel, imagenet_pixels
from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Planner
from lewm.registry import PLANNERS
from lewm.schema import Observation

FIXED = {
    "history_model_steps": 1,
    "use_warm_start": False,
    "cost": "last",
    "mean_weight": 0.0,
    "distance": "l2",
    "action_penalty": 0.0,
    "smoothness_penalty": 0.0,
    "proposals": "",
    "precision": "32-true",
    "use_compile": False,
    "use_cuda_graphs": False,
}
"""Planner settings that are the cost model's business, or that this agent does not have."""


@dataclass(frozen=True, kw_only=True)
class PlannedState:
    """What the episodes in flight need; row e belongs to one episode."""

    seeds: np.ndarray
    """int64 [E]."""
    goals: np.ndarray
    """uint8 [E, 1, Y, X, 3]."""
    env_step: np.ndarray
    """int64 [E]: env steps acted so far."""
    num_plans: np.ndarray
    """int64 [E]."""
    plan: Float[Tensor, "E T A"]


class AgentWithSwmCost:
    """Plan with one of our planners on a cost model of theirs (the ``Policy`` contract).

    ``space`` says what the actions are and how they were normalised when their model was trained; ``prepare`` turns uint8 frames [E, 1, Y, X, 3] into
    what it was trained on. The model sees one context frame. ``PlanningError`` for settings that have no meaning here.
    """

    def __init__(
        self,
        model: SwmCostModel,
        config: PlannerConfig,
        space: BlockSpace,
        *,
        prepare: Callable[[np.ndarray], Tensor] = imagenet_pixels,
        episodes_per_call: int = 1,
        device: str = "cpu",
    ) -> None:
        others = [f"planner.{name} = {getattr(config, name)!r}" for name, value in FIXED.items() if getattr(config, name) != value]
        if others or space.action_spec.kind != "continuous":
            wrong = others[0] if others else f"{space.action_spec.kind} actions"
            raise PlanningError(f"{wrong} has no meaning for a stable-worldmodel cost; use {', '.join(f'{k} {v!r}' for k, v in FIXED.items())}")
        self.model, self.config, self.space, self.prepare = model, config, space, prepare
        self.device, self.episodes_per_call = torch.device(device), episodes_per_call
        self.scaler = ActionScaler(space.mean, space.std)
        self.planner: Planner = PLANNERS.load(config.name)(config)

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> PlannedState:
        """A state for new episodes."""
        num = len(seeds)
        return PlannedState(
            seeds=np.asarray(seeds, dtype=np.int64),
            goals=goals.frames,
            env_step=np.zeros(num, dtype=np.int64),
            num_plans=np.zeros(num, dtype=np.int64),
            plan=torch.zeros(num, self.config.horizon_model_steps, self.space.block_dimension, device=self.device),
        )

    def needs_frame(self, state: PlannedState) -> bool:
        """Whether a plan ends here; all episodes plan in step."""
        return bool((self._within_plan(state) == 0).any())

    @torch.no_grad()
    def act(self, observations: Observation[np.ndarray] | None, state: PlannedState) -> tuple[np.ndarray, PlannedState]:
        """Actions float32 [E, a] within the world's bounds, and the next state."""
        planning = np.flatnonzero(self._within_plan(state) == 0)
        if len(planning):
            if observations is None:
                raise PlanningError("this env step needs an observation: ask `needs_frame` before skipping one")
            state = self._planned(observations, state, planning)
        step, block = self._within_plan(state), self.space.action_block
        current = self.space.executable(state.plan[torch.arange(len(step)), torch.from_numpy(step // block)])
        actions = self.space.action_spec.from_blocks(current.cpu().numpy(), block)[np.arange(len(step)), step % block]
        return actions, dataclasses.replace(state, env_step=state.env_step + 1)

    def select(self, state: PlannedState, episodes: np.ndarray) -> PlannedState:
        """The state of some of the episodes: a mask [E] or indices."""
        index = np.flatnonzero(episodes) if episodes.dtype == bool else episodes
        kept: dict[str, Any] = {field.name: getattr(state, field.name)[index] for field in dataclasses.fields(state)}
        return PlannedState(**kept)

    def _within_plan(self, state: PlannedState) -> np.ndarray:
        return np.asarray(state.env_step % (self.config.replan_every_model_steps * self.space.action_block))

    def _planned(self, observations: Observation[np.ndarray], state: PlannedState, rows: np.ndarray) -> PlannedState:
        info = {
            "pixels": self.prepare(observations.frames[rows]).to(self.device),
            "goal": self.prepare(state.goals[rows]).to(self.device),
            "action": torch.zeros(len(rows), 1, self.space.action_spec.dimension, device=self.device),
        }
        new = self.planner.plan(
            CostFromSwm(self.model, info, self.scaler, episodes_per_call=self.episodes_per_call),
            self.space,
            horizon_model_steps=self.config.horizon_model_steps,
            seeds=list(zip(state.seeds[rows].tolist(), state.num_plans[rows].tolist(), strict=True)),
            device=self.device,
        )
        plan, num_plans = state.plan.clone(), state.num_plans.copy()
        plan[torch.from_numpy(rows)] = new.blocks
        num_plans[rows] += 1
        return dataclasses.replace(state, plan=plan, num_plans=num_plans)
