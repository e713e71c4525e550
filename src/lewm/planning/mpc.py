"""Model-predictive control: plan in latent space, execute the first blocks, look again, plan again.

Axes: E episode, H context, T model step, A action block, K kept frame, D latent, V view, Y X image, a env action.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planning.actors import Actor, actor_of, check_heads, propose
from lewm.planning.base import BlockSpace, LinearReadout, Plan, Planner
from lewm.planning.costs import LabelGoalCost, LatentGoalCost
from lewm.planning.head_costs import DistanceGoalCost
from lewm.registry import PLANNERS
from lewm.schema import Observation

WARM_SHARE = 0.5
"""Probability that a warm start gives to the choices of the old plan; the rest goes to all choices alike, or nothing else would be tried."""


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """What the episodes in flight need; row e belongs to one episode, so states can be split and joined freely."""

    seeds: np.ndarray
    """int64 [E]."""
    goals: Float[Tensor, "E D"]
    env_step: np.ndarray
    """int64 [E]: env steps acted so far."""
    num_plans: np.ndarray
    """int64 [E]."""
    plan: Float[Tensor, "E T A"]
    """The plan in force."""
    plan_cost: Float[Tensor, " E"]
    plan_block: np.ndarray
    """int64 [E]: blocks of that plan executed so far; as many as are executed before replanning means: plan next."""
    latents: Float[Tensor, "E H D"]
    """The last observations, action_block env steps apart, newest last."""
    blocks: Float[Tensor, "E H-1 A"]
    """The blocks executed between them."""
    num_latents: np.ndarray
    """int64 [E]: how many of them are real so far."""
    frames: np.ndarray | None
    """uint8 [E, K, cameras, Y, X, 3]: the last env steps' frames, newest last, when the model sees stacked ones."""


class MPCPolicy:
    """An agent that reaches goals by planning with a world model (the ``Policy`` contract).

    The planner's settings come from the run and can be overridden by name. Planning happens every ``replan_every_model_steps``; in between the
    plan's blocks are executed without looking, unless the model uses a history, whose observations are taken every ``action_block`` env steps.
    With a ``readout`` the goals are compared by the labels that it reads off the latents (unless ``config.goal`` is ``latent``), without one as
    whole latents. ``heads`` are networks on the model's latents by name, for settings that need them.
    """

    def __init__(
        self, model: WorldModel, config: PlannerConfig, readout: LinearReadout | None = None, *, heads: Mapping[str, nn.Module | Actor] | None = None
    ) -> None:
        if config.history_model_steps > model.history_model_steps:
            raise PlanningError(
                f"planner.history_model_steps is {config.history_model_steps}; this model attends to {model.history_model_steps} at most"
            )
        if config.goal == "labels" and readout is None:
            raise PlanningError("planner.goal is 'labels', which a readout of labels must be given for: fit one on labelled data, or use 'latent'")
        if readout is not None and len(readout.weights) != model.latent_dimension:
            raise PlanningError(f"the readout is for latents of {len(readout.weights)} dimensions, this model's have {model.latent_dimension}")
        self.model = model.eval()
        self.config = config
        self.readout = None if config.goal == "latent" else readout
        self.heads = check_heads(config, heads or {})
        self.actor = actor_of(config, self.heads)
        self.planner: Planner = PLANNERS.load(config.name)(config)
        mean, std = model.action_statistics()
        self.space = BlockSpace(action_spec=model.action_spec, action_block=model.action_block, mean=mean, std=std)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> PolicyState:
        """A state for new episodes: goals uint8 [E, V, Y, X, 3], one seed each."""
        num, history, device = len(seeds), self.config.history_model_steps, self.device
        offsets = self.model.observation_spec.stack_offsets_env_steps
        goal_frames = np.repeat(goals.frames, len(offsets), axis=1) if len(offsets) > 1 else goals.frames  # V = cameras -> cameras x stack
        latent, block = self.model.latent_dimension, self.space.block_dimension
        return PolicyState(
            seeds=np.asarray(seeds, dtype=np.int64),
            goals=self._encode(Observation(goal_frames, goals.proprioception)),
            env_step=np.zeros(num, dtype=np.int64),
            num_plans=np.zeros(num, dtype=np.int64),
            plan=torch.zeros(num, self.config.horizon_model_steps, block, device=device),
            plan_cost=torch.zeros(num, device=device),
            plan_block=np.full(num, self.config.replan_every_model_steps),
            latents=torch.zeros(num, history, latent, device=device),
            blocks=torch.zeros(num, history - 1, block, device=device),
            num_latents=np.zeros(num, dtype=np.int64),
            frames=None if len(offsets) == 1 else np.zeros((num, 1 - offsets[0], *goals.frames.shape[1:]), dtype=np.uint8),
        )

    def needs_frame(self, state: PolicyState) -> bool:
        """Whether the next ``act`` looks at its observations."""
        return state.frames is not None or bool(self._looks(state).any())

    @torch.no_grad()
    def act(self, observations: Observation[np.ndarray] | None, state: PolicyState) -> tuple[np.ndarray, PolicyState]:
        """Actions float32 [E, a] (discrete: int64 [E]) for this env step, within the world's bounds, and the next state."""
        if self.needs_frame(state):
            if observations is None:
                raise PlanningError("this env step needs an observation: ask `needs_frame` before skipping one")
            state = self._look(observations, state)
        replan = state.plan_block == self.config.replan_every_model_steps
        if (replan & self._starts_block(state)).any():
            state = self._plan(state, replan & self._starts_block(state))
        return self._execute(state)

    def select(self, state: PolicyState, episodes: np.ndarray) -> PolicyState:
        """The state of some of the episodes: a mask [E] or indices."""
        index = np.flatnonzero(episodes) if episodes.dtype == bool else episodes
        rows: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        return PolicyState(**{name: _rows(value, index) for name, value in rows.items()})

    def join(self, states: Sequence[PolicyState]) -> PolicyState:
        """One state from several, in order: the inverse of splitting with ``select``."""
        return PolicyState(
            **{field.name: _concatenate([getattr(state, field.name) for state in states]) for field in dataclasses.fields(PolicyState)}
        )

    def _starts_block(self, state: PolicyState) -> np.ndarray:
        return np.asarray(state.env_step % self.model.action_block == 0)

    def _looks(self, state: PolicyState) -> np.ndarray:
        is_planning = state.plan_block == self.config.replan_every_model_steps
        return self._starts_block(state) & (is_planning if self.config.history_model_steps == 1 else True)

    def _encode(self, observation: Observation[np.ndarray]) -> Float[Tensor, "E D"]:
        return self.model.encode(observation.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)))

    def _look(self, observations: Observation[np.ndarray], state: PolicyState) -> PolicyState:
        """Encode the present observations of the episodes that start a block, and append them to the history."""
        if state.frames is not None:
            state = self._keep_frames(observations, state)
            observations = Observation(self._stacked(state), observations.proprioception)
        looks = np.flatnonzero(self._looks(state))
        if len(looks) == 0:
            return state
        rows = torch.from_numpy(looks).to(self.device)
        latents = state.latents.clone()
        latents[rows] = torch.cat([latents[rows, 1:], self._encode(observations[looks])[:, None]], dim=1)
        num_latents = state.num_latents.copy()
        num_latents[looks] = np.minimum(num_latents[looks] + 1, self.config.history_model_steps)
        return dataclasses.replace(state, latents=latents, num_latents=num_latents)

    def _keep_frames(self, observations: Observation[np.ndarray], state: PolicyState) -> PolicyState:
        assert state.frames is not None
        frames = np.concatenate([state.frames[:, 1:], observations.frames[:, None]], axis=1)
        is_first = state.env_step == 0
        frames[is_first] = observations.frames[is_first, None]  # before the first frame there is only the first frame
        return dataclasses.replace(state, frames=frames)

    def _stacked(self, state: PolicyState) -> np.ndarray:
        assert state.frames is not None
        picked = state.frames[:, [offset - 1 for offset in self.model.observation_spec.stack_offsets_env_steps]]
        return picked.swapaxes(1, 2).reshape(len(picked), -1, *picked.shape[3:])  # E stack cameras Y X 3 -> E V Y X 3

    def _plan(self, state: PolicyState, planning: np.ndarray) -> PolicyState:
        """New plans for the marked episodes; those with the same length of history are planned together."""
        plan, plan_cost = state.plan.clone(), state.plan_cost.clone()
        for length in np.unique(state.num_latents[planning]):
            index = np.flatnonzero(planning & (state.num_latents == length))
            new = self._plan_group(self.select(state, index), int(length))
            rows = torch.from_numpy(index).to(self.device)
            plan[rows], plan_cost[rows] = new.blocks, new.cost
        return dataclasses.replace(
            state,
            plan=plan,
            plan_cost=plan_cost,
            plan_block=np.where(planning, 0, state.plan_block),
            num_plans=state.num_plans + planning,
        )

    def _plan_group(self, state: PolicyState, length: int) -> Plan:
        past_blocks = state.blocks[:, state.blocks.shape[1] - (length - 1) :]
        latents = state.latents[:, -length:]
        settings: dict[str, Any] = {"kind": self.config.cost, "mean_weight": self.config.mean_weight, "max_batch_rows": self.config.max_batch_rows}
        if self.config.cost == "distance":
            settings |= {"kind": "last", "head": self.heads["distance"]}
            cost: LatentGoalCost = DistanceGoalCost(self.model, latents, past_blocks, state.goals, **settings)
        elif self.readout is None:
            cost = LatentGoalCost(self.model, latents, past_blocks, state.goals, **settings)
        else:
            cost = LabelGoalCost(self.model, latents, past_blocks, state.goals, readout=self.readout, **settings)
        return self.planner.plan(
            cost,
            self.space,
            horizon_model_steps=self.config.horizon_model_steps,
            seeds=list(zip(state.seeds.tolist(), state.num_plans.tolist(), strict=True)),
            initial=self._rest_of_plan(state) if self.config.use_warm_start else None,
            proposals=None if self.actor is None else self._proposals(self.actor, state, latents, past_blocks),
            device=self.device,
        )

    def _proposals(
        self, actor: Actor, state: PolicyState, latents: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"]
    ) -> Float[Tensor, "E 1 T A"]:
        """What the actor would do from here on, in the model's imagination; before an episode's first plan it has done nothing."""
        has_plan = torch.from_numpy(state.num_plans > 0).to(self.device)[:, None]
        executed = self.space.executable(state.plan[:, self.config.replan_every_model_steps - 1])
        return propose(
            actor,
            self.model.rollout,
            latents,
            past_blocks,
            state.goals,
            torch.where(has_plan, executed, torch.zeros_like(executed)),
            self.space,
            num_steps=self.config.horizon_model_steps,
            most_history=self.model.history_model_steps,
            steps_to_goal=self.config.steps_to_goal,
        )

    def _rest_of_plan(self, state: PolicyState) -> Float[Tensor, "E T A"]:
        """What is left of each old plan, continued with typical actions; an episode without one gets typical actions alone.

        Discrete actions get probabilities: ``WARM_SHARE`` for the old plan's choices and the rest for all alike.
        """
        executed = self.config.replan_every_model_steps
        typical = self.space.typical(self.device).expand_as(state.plan)
        rest = torch.cat([state.plan[:, executed:], typical[:, :executed]], dim=1)
        if self.space.action_spec.kind == "discrete":
            rest = WARM_SHARE * rest + (1 - WARM_SHARE) * typical
        has_plan = torch.from_numpy(state.num_plans > 0).to(self.device)
        return torch.where(has_plan[:, None, None], rest, typical)

    def _execute(self, state: PolicyState) -> tuple[np.ndarray, PolicyState]:
        block = self.model.action_block
        rows = torch.arange(len(state.seeds), device=self.device)
        current = state.plan[rows, torch.from_numpy(state.plan_block).to(self.device)]  # E A
        current = self.space.executable(current)  # a planner without bounds may leave them; a world refuses that
        actions = self.space.action_spec.from_blocks(current.cpu().numpy(), block)[np.arange(len(rows)), state.env_step % block]
        ends_block = (state.env_step + 1) % block == 0
        blocks = state.blocks
        if blocks.shape[1] and ends_block.any():
            ended = torch.from_numpy(np.flatnonzero(ends_block)).to(self.device)
            blocks = blocks.clone()
            blocks[ended] = torch.cat([blocks[ended, 1:], current[ended, None]], dim=1)
        return actions, dataclasses.replace(state, blocks=blocks, env_step=state.env_step + 1, plan_block=state.plan_block + ends_block)


def _rows(value: Any, index: np.ndarray) -> Any:
    if value is None:
        return None
    return value[torch.from_numpy(index).to(value.device)] if isinstance(value, Tensor) else value[index]


def _concatenate(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    return torch.cat(values) if isinstance(values[0], Tensor) else np.concatenate(values)
