"""Model-predictive control: plan in latent space, execute the first blocks, look again, plan again.

Axes: E episode, H context, T model step, A action block, K kept frame or elite, D latent, G what is compared with the goal
(latents, or labels read off them), P proposal, R episodes that decide now, V view, Y X image, a env action.
"""

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace, LinearReadout, Plan, Planner, check_kind
from lewm.planning.costs import ImaginedCost, Rollout
from lewm.planning.cuda_graphs import GraphedRollout
from lewm.planning.distributions import search_dtype
from lewm.planning.frame_stacks import empty_frames, stacked, still, with_newest
from lewm.planning.proposing import ProposalRequest, distance_of, proposer_of
from lewm.planning.sampling import num_kept
from lewm.planning.terms import ActionTerm, GoalTerm, LabelDistance, Term
from lewm.registry import PLANNERS
from lewm.schema import Observation

NetworkT = TypeVar("NetworkT", bound=nn.Module)
WARM_SHARE = 0.5
"""Probability that a warm start gives to the choices of the old plan; the rest goes to all choices alike, or nothing else would be tried."""


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """What the episodes in flight need; row e belongs to one episode, so states can be split and joined freely."""

    seeds: np.ndarray
    """int64 [E]."""
    goals: Float[Tensor, "E G"]
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
    elites: Float[Tensor, "E K T A"] | None = None
    """What the planner wants back from the plan in force, NaN before the first."""


class PlanWatch(Protocol):
    """Is shown every plan that an agent makes, and changes nothing."""

    def __call__(
        self, policy: "MPCPolicy", state: PolicyState, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], plan: Plan
    ) -> None:
        """One plan per episode of ``state``, and what it was made from."""

    def note(self, pair_of_seed: Mapping[int, str]) -> dict[str, Any]:
        """What it saw, for the ``planner`` of a result; JSON-ready."""


class MPCPolicy:
    """An agent that reaches goals by planning with a world model (the ``Policy`` contract).

    The planner's settings come from the run and can be overridden by name. Planning happens every ``replan_every_model_steps``; in between the
    plan's blocks are executed without looking, unless the model uses a history, whose observations are taken every ``action_block`` env steps.
    With a ``readout`` the goals are compared by the labels that it reads off the latents (unless ``config.goal`` is ``latent``), without one as
    whole latents. ``heads`` are the run's networks on latents (or others who act on them), by name, for ``planner.distance`` and
    ``planner.proposals``.
    """

    def __init__(
        self, model: WorldModel, config: PlannerConfig, readout: LinearReadout | None = None, *, heads: Mapping[str, Any] | None = None
    ) -> None:
        if config.history_model_steps > model.history_model_steps:
            raise PlanningError(
                f"planner.history_model_steps is {config.history_model_steps}; this model attends to {model.history_model_steps} at most"
            )
        if config.goal == "labels" and readout is None:
            raise PlanningError("planner.goal is 'labels', which a readout of labels must be given for: fit one on labelled data, or use 'latent'")
        if readout is not None and len(readout.weights) != model.latent_dimension:
            raise PlanningError(f"the readout is for latents of {len(readout.weights)} dimensions, this model's have {model.latent_dimension}")
        check_kind(config.name, model.action_spec)
        if config.action_penalty > 0 and model.action_spec.kind == "discrete":
            raise PlanningError("planner.action_penalty has no meaning for choices: every one is as large as the others; set it to 0")
        self.model = as_precise(model, config.precision)
        self.config = config
        self.rollout = rollout_of(self.model, config)
        self.readout = None if config.goal == "latent" or readout is None else readout.on(self.device)
        self.planner: Planner = PLANNERS.load(config.name)(config)
        self.heads = {name: as_precise(head, config.precision) if isinstance(head, nn.Module) else head for name, head in (heads or {}).items()}
        self.distance = LabelDistance(readout=self.readout) if self.readout is not None else distance_of(config, self.heads)
        if self.readout is not None and config.distance != "l2":
            raise PlanningError(
                f"planner.distance {config.distance!r} compares latents, and goals are compared by labels here: set planner.goal to 'latent'"
            )
        if self.readout is not None and config.proposals in self.heads:
            raise PlanningError(
                f"planner.proposals {config.proposals!r} acts towards latents, and goals are compared by labels here: set planner.goal to 'latent'"
            )
        self.propose = proposer_of(config, self.heads)
        mean, std = model.action_statistics()
        self.space = BlockSpace(action_spec=model.action_spec, action_block=model.action_block, mean=mean, std=std)
        self.watch: PlanWatch | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> PolicyState:
        """A state for new episodes: goals uint8 [E, V, Y, X, 3], one seed each."""
        latents = self._encode(still(goals, self.model.observation_spec))
        return self.reset_to(latents if self.readout is None else self.readout.read(latents), seeds)

    @torch.no_grad()
    def reset_to(self, goals: Float[Tensor, "E G"], seeds: Sequence[int]) -> PolicyState:
        """A state for new episodes whose goals are latents or, with a readout, labels in its unit."""
        num, history, device, dtype = len(seeds), self.config.history_model_steps, self.device, search_dtype(self.config)
        latent, block, steps = self.model.latent_dimension, self.space.block_dimension, self.config.horizon_model_steps
        num_elites = num_kept(self.config) if self.config.name == "icem" else 0
        return PolicyState(
            seeds=np.asarray(seeds, dtype=np.int64),
            goals=goals.to(device, dtype),
            env_step=np.zeros(num, dtype=np.int64),
            num_plans=np.zeros(num, dtype=np.int64),
            plan=torch.zeros(num, steps, block, device=device, dtype=dtype),
            plan_cost=torch.zeros(num, device=device, dtype=dtype),
            plan_block=np.full(num, self.config.replan_every_model_steps),
            latents=torch.zeros(num, history, latent, device=device, dtype=dtype),
            blocks=torch.zeros(num, history - 1, block, device=device, dtype=dtype),
            num_latents=np.zeros(num, dtype=np.int64),
            frames=empty_frames(self.model.observation_spec, num),
            elites=torch.full((num, num_elites, steps, block), torch.nan, device=device, dtype=dtype) if num_elites else None,
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
        return dataclasses.replace(state, **{name: _rows(value, index) for name, value in rows.items()})

    def join(self, states: Sequence[PolicyState]) -> PolicyState:
        """One state from several, in order: the inverse of splitting with ``select``."""
        names = [field.name for field in dataclasses.fields(states[0])]
        return dataclasses.replace(states[0], **{name: _concatenate([getattr(state, name) for state in states]) for name in names})

    def _starts_block(self, state: PolicyState) -> np.ndarray:
        return np.asarray(state.env_step % self.model.action_block == 0)

    def _looks(self, state: PolicyState) -> np.ndarray:
        is_planning = state.plan_block == self.config.replan_every_model_steps
        return self._starts_block(state) & (is_planning if self.config.history_model_steps == 1 else True)

    def _encode(self, observation: Observation[np.ndarray]) -> Float[Tensor, "E D"]:
        return self.model.encode(observation.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)))

    def _look(self, observations: Observation[np.ndarray], state: PolicyState) -> PolicyState:
        """Encode the present observations of the episodes that start a block, and append them to the history."""
        observations, state = self._with_stack(observations, state)
        looks = np.flatnonzero(self._looks(state))
        if len(looks) == 0:
            return state
        rows = torch.from_numpy(looks).to(self.device)
        latents = state.latents.clone()
        latents[rows] = torch.cat([latents[rows, 1:], self._encode(observations[looks])[:, None]], dim=1)
        num_latents = state.num_latents.copy()
        num_latents[looks] = np.minimum(num_latents[looks] + 1, self.config.history_model_steps)
        return dataclasses.replace(state, latents=latents, num_latents=num_latents)

    def _with_stack(self, observations: Observation[np.ndarray], state: PolicyState) -> tuple[Observation[np.ndarray], PolicyState]:
        """The observations as the model is shown them, and the state that keeps their frames."""
        if state.frames is None:
            return observations, state
        kept = with_newest(state.frames, observations.frames, state.env_step == 0)
        shown = Observation(stacked(kept, self.model.observation_spec), observations.proprioception)
        return shown, dataclasses.replace(state, frames=kept)

    def _plan(self, state: PolicyState, planning: np.ndarray) -> PolicyState:
        """New plans for the marked episodes; those with the same length of history are planned together."""
        rows = np.flatnonzero(planning)
        state = self._aim(state, rows, state.latents[torch.from_numpy(rows).to(self.device), -1])
        plan, plan_cost = state.plan.clone(), state.plan_cost.clone()
        elites = None if state.elites is None else state.elites.clone()
        for length in np.unique(state.num_latents[planning]):
            group = np.flatnonzero(planning & (state.num_latents == length))
            new = self._plan_group(self.select(state, group), int(length))
            index = torch.from_numpy(group).to(self.device)
            plan[index], plan_cost[index] = new.blocks, new.cost
            if elites is not None and new.elites is not None:
                elites[index] = new.elites
        return dataclasses.replace(
            state,
            plan=plan,
            plan_cost=plan_cost,
            elites=elites,
            plan_block=np.where(planning, 0, state.plan_block),
            num_plans=state.num_plans + planning,
        )

    def _aim(self, state: PolicyState, rows: np.ndarray, latents: Float[Tensor, "R D"]) -> PolicyState:
        """Before a decision of some episodes, whose present latents are given: where agents with aims besides their goals choose them."""
        return state

    def _aims(self, state: PolicyState) -> Float[Tensor, "E G"]:
        """What each episode plans for."""
        return state.goals

    def _plan_group(self, state: PolicyState, length: int) -> Plan:
        context, past_blocks = state.latents[:, -length:], state.blocks[:, state.blocks.shape[1] - (length - 1) :]
        plan = self.plan_from(
            context,
            past_blocks,
            self._aims(state),
            seeds=list(zip(state.seeds.tolist(), state.num_plans.tolist(), strict=True)),
            initial=self._rest_of_plan(state) if self.config.use_warm_start else None,
            previous=self._executed(state),
            elites=None if state.elites is None else self._rest_of_elites(state.elites),
        )
        if self.watch is not None:
            self.watch(self, state, context, past_blocks, plan)
        return plan

    @torch.no_grad()
    def plan_from(
        self,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E G"],
        *,
        seeds: Sequence[tuple[int, int]],
        initial: Float[Tensor, "E T A"] | None = None,
        previous: Float[Tensor, "E A"] | None = None,
        elites: Float[Tensor, "E K T A"] | None = None,
    ) -> Plan:
        """One plan per episode from past latents and the blocks between them; ``seeds`` and ``initial`` as in ``Planner.plan``.

        ``previous`` is the block executed before, for those who propose; without one the episode begins here.
        """
        begun_s, deadline_s = time.monotonic(), self.config.deadline_s
        cost, steps = self.cost(context, past_blocks, goals), self.config.horizon_model_steps
        proposals = [] if elites is None else [elites]
        if self.propose is not None:
            before = context.new_zeros(len(context), self.space.block_dimension) if previous is None else previous
            request = ProposalRequest(
                cost, self.space, steps, seeds, initial, context, past_blocks, goals, before, self.rollout, self.model.history_model_steps
            )
            proposals.append(self.propose(request))
        return self.planner.plan(
            cost,
            self.space,
            horizon_model_steps=steps,
            seeds=seeds,
            initial=initial,
            proposals=torch.cat(proposals, dim=1) if proposals else None,
            deadline_s=None if deadline_s is None else max(0.0, deadline_s - (time.monotonic() - begun_s)),
            device=self.device,
        )

    def cost(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], goals: Float[Tensor, "E G"], others: Sequence[Term] = ()
    ) -> ImaginedCost:
        """What the planner minimises from a context towards goals, as the settings say, and any ``others`` terms besides."""
        config = self.config
        goal = GoalTerm(goals=goals, distance=self.distance, kind=config.cost, mean_weight=config.mean_weight, prefix_power=config.prefix_power)
        terms: list[Term] = [goal, *others]
        if config.action_penalty > 0 or config.smoothness_penalty > 0:
            terms.append(ActionTerm(space=self.space, action_penalty=config.action_penalty, smoothness_penalty=config.smoothness_penalty))
        return ImaginedCost(self.rollout, context, past_blocks, terms, max_batch_rows=config.max_batch_rows, precision=config.precision)

    def _executed(self, state: PolicyState) -> Float[Tensor, "E A"]:
        """The last block of each old plan that was executed; zeros before an episode's first plan."""
        has_plan = torch.from_numpy(state.num_plans > 0).to(self.device)[:, None]
        executed = self.space.executable(state.plan[:, self.config.replan_every_model_steps - 1])
        return torch.where(has_plan, executed, torch.zeros_like(executed))

    def _rest_of_elites(self, elites: Float[Tensor, "E K T A"]) -> Float[Tensor, "E K T A"]:
        """The elites of the old plan, shifted like the plan itself; NaN stays NaN throughout."""
        executed = self.config.replan_every_model_steps
        rest = elites[:, :, executed:]
        typical = self.space.typical(self.device).to(elites).expand_as(elites[:, :, :executed])
        ends = torch.where(elites[:, :, :executed].isnan(), elites[:, :, :executed], typical)
        return torch.cat([rest, ends], dim=2)

    def _rest_of_plan(self, state: PolicyState) -> Float[Tensor, "E T A"]:
        """What is left of each old plan, continued with typical actions; an episode without one gets typical actions alone.

        Discrete actions get probabilities: ``WARM_SHARE`` for the old plan's choices and the rest for all alike.
        """
        executed = self.config.replan_every_model_steps
        typical = self.space.typical(self.device).to(state.plan).expand_as(state.plan)
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
        actions = self.space.action_spec.from_blocks(current.float().cpu().numpy(), block)[np.arange(len(rows)), state.env_step % block]
        ends_block = (state.env_step + 1) % block == 0
        blocks = state.blocks
        if blocks.shape[1] and ends_block.any():
            ended = torch.from_numpy(np.flatnonzero(ends_block)).to(self.device)
            blocks = blocks.clone()
            blocks[ended] = torch.cat([blocks[ended, 1:], current[ended, None]], dim=1)
        return actions, dataclasses.replace(state, blocks=blocks, env_step=state.env_step + 1, plan_block=state.plan_block + ends_block)


def rollout_of(model: WorldModel, config: PlannerConfig) -> Rollout:
    """The model's imagination as the settings want it run; ``PlanningError`` for CUDA graphs of a model that is on no such device."""
    rollout: Rollout = torch.compile(model.rollout) if config.use_compile else model.rollout
    if not config.use_cuda_graphs:
        return rollout
    device = next(model.parameters()).device.type
    if device != "cuda":
        raise PlanningError(
            f"planner.use_cuda_graphs needs a model on the device cuda, and this one is on {device}: move it there, or set it to false"
        )
    return GraphedRollout(rollout)


def as_precise(network: NetworkT, precision: str) -> NetworkT:
    """The network in eval mode; for 64-true a copy of it in double precision."""
    network = network.eval()
    return copy.deepcopy(network).double() if precision == "64-true" else network


def _rows(value: Any, index: np.ndarray) -> Any:
    if value is None:
        return None
    return value[torch.from_numpy(index).to(value.device)] if isinstance(value, Tensor) else value[index]


def _concatenate(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    return torch.cat(values) if isinstance(values[0], Tensor) else np.concatenate(values)
