"""The agent of a run with some of its parts replaced by oracles.

Axes: E episode, e episodes of a chunk, S candidate, H context, T model step, A action block, D latent, G what is compared with the goal, s label,
a env action.

An oracle stands in for one part and leaves the others as they are:

- encoder: in place of latents of frames, true labels. The model's predictor needs latents: it starts from the latent that a state of these labels
  should have (``LabelEmbedding``), and the goal is such a latent too; the rest of the agent is as it was. Where the predictor is an oracle as well,
  no latent is needed, and the planner's distance compares labels, in standard deviations.
- predictor: candidates are carried out in the simulator from the true state; the encoder encodes the true future frames.
- cost: in place of the planner's distance the length of the shortest way to the goal, between labels: true ones where encoder and predictor are
  oracles, and otherwise those that are read off latents (``LocalReadout``). What of the horizon counts (``planner.cost``) stays as it is.
- search: ``coalitions.oracle_search``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.envs.base import GoalEnvBatch
from lewm.evaluation.outcomes import no_op_actions
from lewm.evaluation.why.coalitions import Coalition, oracle_search
from lewm.evaluation.why.paths import TrueDistance
from lewm.evaluation.why.simulation import Simulator
from lewm.evaluation.why.translation import LocalReadout, Maps, Translator
from lewm.models.world_model import WorldModel
from lewm.planning.base import LinearReadout
from lewm.planning.costs import ImaginedCost
from lewm.planning.frame_stacks import still
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.planning.terms import ActionTerm, Distance, GoalTerm, Term
from lewm.schema import Observation


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an agent is made of, as far as it can be swapped or broken."""

    model: WorldModel
    planner: PlannerConfig
    metric: Distance
    """How two vectors of the same space are compared, latents or labels."""
    readout: LinearReadout | None = None
    """Where goals are compared by labels (``planner.goal``): reads them off latents."""

    def distance(self, latents: Float[Tensor, "*E D"], goals: Float[Tensor, "*E G"]) -> Float[Tensor, "*E"]:
        """The planner's own distance between latents and goals, which are latents or, with a readout, labels."""
        return self.metric(latents if self.readout is None else self.readout.read(latents), goals.to(latents))


@dataclass(frozen=True, kw_only=True)
class World:
    """What the oracles know of the world."""

    envs: GoalEnvBatch
    """One world, to ask about ways."""
    simulator: Simulator
    translator: Translator
    true_distance: TrueDistance
    goal_columns: tuple[int, ...]
    """Which labels decide success."""

    def scaled(self, labels: Float[Tensor, "*E s"]) -> Float[Tensor, "*E G"]:
        """The labels that decide success, in standard deviations."""
        columns = list(self.goal_columns)
        mean, std = (torch.from_numpy(values[columns]).to(labels) for values in (self.translator.label_mean, self.translator.label_std))
        return (labels[..., columns] - mean) / std

    def close(self) -> None:
        """Close all worlds."""
        self.envs.close()
        self.simulator.close()


class SwappedPolicy(MPCPolicy):
    """The agent with the parts of a coalition swapped. With the encoder among them its observations are labels [E, s] in the place of frames.

    ``present_states`` has to be set to the true states of the episodes before each ``act`` that plans.
    """

    def __init__(self, parts: Parts, world: World, coalition: Coalition) -> None:
        super().__init__(parts.model, oracle_search(parts.planner) if coalition.has("search") else parts.planner, parts.readout)
        self.parts, self.world, self.coalition = parts, world, coalition
        self.distance = parts.distance
        self.present_states: list[bytes] = []

    @property
    def sees_labels(self) -> bool:
        """Whether observations are labels."""
        return self.coalition.has("encoder")

    @property
    def compares_labels(self) -> bool:
        """Whether futures are true labels, so that no latent is needed."""
        return self.coalition.has("encoder") and self.coalition.has("predictor")

    @torch.no_grad()
    def begin(self, goal_frames: Observation[np.ndarray] | None, goal_labels: np.ndarray, seeds: Sequence[int]) -> PolicyState:
        """A state for new episodes, from what the goals look like (not needed where labels are seen) and their true labels float32 [E, s]."""
        if self.compares_labels:
            labels = torch.from_numpy(np.asarray(goal_labels, np.float32)).to(self.device)
            goals = labels if self.coalition.has("cost") else self.world.scaled(labels)
        else:
            maps = self.world.translator.goals
            if self.sees_labels:
                latents = maps.embed(goal_labels, self.device)
            else:
                assert goal_frames is not None
                latents = self._encode(still(goal_frames, self.model.observation_spec))
            reads = self._reads(maps).read if self.coalition.has("cost") else None if self.readout is None else self.readout.read
            goals = latents if reads is None else reads(latents)
        state = self.reset_to(goals, seeds)
        return replace(state, frames=None) if self.sees_labels else state

    def _reads(self, maps: Maps) -> LocalReadout:
        """Reads labels off this agent's latents."""
        return maps.embedded if self.sees_labels else maps.real

    def _encode(self, observation: Observation[np.ndarray]) -> Float[Tensor, "E D"]:
        if self.sees_labels:
            return self.world.translator.present.embed(observation.frames, self.device)
        return super()._encode(observation)

    def cost(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], goals: Float[Tensor, "E G"], others: Sequence[Term] = ()
    ) -> ImaginedCost:
        """See ``MPCPolicy.cost``."""
        terms: list[Term] = [self._goal_term(goals), *self._action_terms(), *others]
        config = self.config
        if not self.coalition.has("predictor"):
            return ImaginedCost(self.rollout, context, past_blocks, terms, max_batch_rows=config.max_batch_rows, precision=config.precision)
        assert len(self.present_states) == len(context), "set present_states before planning"
        numbers = torch.arange(len(context), device=context.device, dtype=context.dtype)[:, None, None]  # so that a chunk knows its episodes
        return ImaginedCost(self._carried_out, numbers, past_blocks[:, :0], terms, max_batch_rows=config.max_batch_rows)

    def _carried_out(
        self, numbers: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], candidates: Float[Tensor, "E S T A"]
    ) -> Float[Tensor, "E S T D"]:
        """True futures of the episodes of these numbers: latents of their frames or, where labels are seen, labels."""
        states = [self.present_states[int(number)] for number in numbers[:, 0, 0].tolist()]
        simulator, is_last_enough = self.world.simulator, self.config.cost == "last" and self.config.mean_weight == 0
        if self.compares_labels:
            return simulator.labels(states, candidates).to(candidates)
        futures = simulator.latents(states, candidates, self.model, only_last=is_last_enough).to(candidates)
        return futures.expand(-1, -1, candidates.shape[2], -1)  # where only the end counts, it stands for all model steps

    def _goal_term(self, goals: Float[Tensor, "E G"]) -> Term:
        config = self.config
        distance = self._way if self.coalition.has("cost") else self._label_distance if self.compares_labels else self.distance
        return GoalTerm(goals=goals, distance=distance, kind=config.cost, mean_weight=config.mean_weight, prefix_power=config.prefix_power)

    def _action_terms(self) -> list[Term]:
        """Penalties on actions, a part of the agent's own cost."""
        config = self.config
        if self.coalition.has("cost") or (config.action_penalty == 0 and config.smoothness_penalty == 0):
            return []
        return [ActionTerm(space=self.space, action_penalty=config.action_penalty, smoothness_penalty=config.smoothness_penalty)]

    def _label_distance(self, futures: Float[Tensor, "*E D"], goals: Float[Tensor, "*E G"]) -> Float[Tensor, "*E"]:
        return self.parts.metric(self.world.scaled(futures), goals.to(futures))

    def _way(self, futures: Float[Tensor, "*E D"], goals: Float[Tensor, "*E s"]) -> Float[Tensor, "*E"]:
        labels, leading = futures if self.compares_labels else self._reads(self.world.translator.present).read(futures), futures.shape[:-1]
        places, ends = (values.reshape(-1, labels.shape[-1]).cpu().double().numpy() for values in (labels, goals.expand(*leading, -1)))
        return torch.from_numpy(self.world.true_distance.measure(places, ends)).to(futures).reshape(leading)


class SwappedAgent:
    """Lets a swapped policy act in a world whose true states it may look at (the ``ScriptedPolicy`` contract); solved episodes are left alone."""

    def __init__(self, policy: SwappedPolicy, goal_labels: np.ndarray) -> None:
        self._policy, self._goal_labels = policy, goal_labels
        self._rows = np.arange(0)
        self._state: Any = None

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes towards the environment's goals."""
        self._rows = np.arange(envs.num_envs)
        goals = None if self._policy.sees_labels else envs.observe_goals()
        self._state = self._policy.begin(goals, self._goal_labels, seeds)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """Actions [E, a] of the next env step."""
        policy, actions = self._policy, no_op_actions(envs.action_spec, envs.num_envs)
        running = np.flatnonzero(~envs.is_solved()[self._rows])
        if len(running) < len(self._rows):
            self._rows, self._state = self._rows[running], policy.select(self._state, running)
        if len(self._rows) == 0:
            return actions
        observation = None
        if policy.needs_frame(self._state):
            observation = Observation(envs.labels()[self._rows]) if policy.sees_labels else envs.observe()[self._rows]
            states = envs.get_states()
            policy.present_states = [states[row] for row in self._rows]
        actions[self._rows], self._state = policy.act(observation, self._state)
        return actions
