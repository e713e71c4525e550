"""What happened when a policy tried to reach goals: the one loop that model policies, floors, ceilings and replays all go through.

Axes: E episode, N env step, a action.

An episode is solved when it first satisfies the world's predicate after an env step within its budget (latched), and over when it is solved,
terminated or out of budget. Rows of a batch do not influence each other, so replaying the executed actions gives the same outcomes.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm.data import collect
from lewm.envs.base import GoalEnv, GoalEnvBatch, ScriptedPolicy, make_batch
from lewm.errors import EnvError
from lewm.registry import ENVS
from lewm.schema import ActionSpec

if TYPE_CHECKING:  # importing it would import torch, which a verification does not need
    from lewm.planning.base import Policy

FLOORS = {"random": "random", "no_op": "no-op", "block_random": "block-random"}
"""Name in a result -> scripted policy: what blind policies achieve."""
CEILING = "expert-noiseless"
"""The scripted policy, where a world has it, that shows what can be reached."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one episode."""

    first_hit: int | None
    """Env steps until the goal was first reached, None if it was not."""
    actions: np.ndarray
    """Executed actions up to the first hit or the end of the budget: float32 [N, a] in env units, int64 [N] if discrete."""

    @property
    def solved(self) -> bool:
        """Whether the goal was reached within the budget."""
        return self.first_hit is not None


@dataclass(kw_only=True)
class PlanTimes:
    """How long the calls that made plans took: one entry per call."""

    seconds: list[float] = field(default_factory=list)
    num_episodes: list[int] = field(default_factory=list)
    """Plans made by that call."""

    def add(self, seconds: float, num_plans: int) -> None:
        """Count a call, if it made plans."""
        if num_plans > 0:
            self.seconds.append(seconds)
            self.num_episodes.append(num_plans)

    def per_plan_ms(self) -> np.ndarray:
        """float64 [calls]: time of a call divided by its plans."""
        per_plan: np.ndarray = 1e3 * np.array(self.seconds) / np.array(self.num_episodes)
        return per_plan


class NoOpPolicy:
    """Does nothing: the action nearest to zero, or choice 0."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Nothing to prepare."""

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a], or int64 [E] for discrete actions."""
        return no_op_actions(envs.action_spec, envs.num_envs)


def scripted_policy(env: str, name: str, **options: Any) -> ScriptedPolicy:
    """A scripted policy: one that collects data in this world, or ``no-op``, which has no options."""
    return NoOpPolicy() if name == "no-op" and not options else collect.scripted_policy(env, name, **options)


def has_ceiling(env: str) -> bool:
    """Whether the world knows an expert that goes for a goal without noise."""
    env_class: type[GoalEnv] = ENVS.load(env)
    return CEILING in env_class.POLICIES


def no_op_actions(spec: ActionSpec, num_envs: int) -> np.ndarray:
    """Actions that do nothing, for each episode."""
    if spec.kind == "discrete":
        return np.zeros(num_envs, dtype=np.int64)
    zero = np.clip(np.zeros(spec.dimension), spec.low, spec.high).astype(np.float32)
    return np.tile(zero, (num_envs, 1))


def start_batch(env: str, env_options: dict[str, Any], start_states: Sequence[bytes], goal_states: Sequence[bytes]) -> GoalEnvBatch:
    """Episodes that begin in the given states with the given goals."""
    envs = make_batch(env, len(start_states), **env_options)
    envs.set_states(start_states)
    envs.set_goals(goal_states)
    return envs


def run_scripted(envs: GoalEnvBatch, policy: ScriptedPolicy, seeds: Sequence[int], budget_env_steps: int) -> list[Outcome]:
    """Let a scripted policy try for ``budget_env_steps``."""
    policy.reset(envs, seeds, budget_env_steps)
    return _step_through(envs, budget_env_steps, lambda _step: policy.act(envs))


def replay(envs: GoalEnvBatch, actions: Sequence[np.ndarray], budget_env_steps: int) -> list[Outcome]:
    """Execute recorded actions, one array [N, a] per episode; ``EnvError`` if an episode has not as many as it needs, or more."""
    padded = no_op_actions(envs.action_spec, envs.num_envs)
    table = np.repeat(padded[None], budget_env_steps, axis=0)  # N E a
    for row, episode_actions in enumerate(actions):
        if len(episode_actions) > budget_env_steps:
            raise EnvError(f"episode {row} has {len(episode_actions)} actions, more than its budget of {budget_env_steps} env steps")
        table[: len(episode_actions), row] = episode_actions
    outcomes = _step_through(envs, budget_env_steps, lambda step: table[step])
    for row, (outcome, episode_actions) in enumerate(zip(outcomes, actions, strict=True)):
        if len(outcome.actions) != len(episode_actions):
            raise EnvError(f"episode {row} has {len(episode_actions)} actions; it is over after {len(outcome.actions)} env steps")
    return outcomes


def _step_through(envs: GoalEnvBatch, budget_env_steps: int, choose: Callable[[int], np.ndarray]) -> list[Outcome]:
    """The loop: episodes that are over go on being stepped, but nothing of them is recorded."""
    ends = np.full(envs.num_envs, budget_env_steps)
    first_hits = np.zeros(envs.num_envs, dtype=np.int64)
    is_running = np.ones(envs.num_envs, dtype=bool)
    executed = []
    for step in range(budget_env_steps):
        actions = choose(step)
        executed.append(actions)
        _, terminated = envs.step(actions)
        hits = is_running & envs.is_solved()
        first_hits[hits] = step + 1
        over = hits | (is_running & terminated)
        ends[over] = step + 1
        is_running &= ~over
        if not is_running.any():
            break
    history = np.stack(executed)  # N E a
    return [
        Outcome(first_hit=int(hit) or None, actions=np.ascontiguousarray(history[:end, row]))
        for row, (hit, end) in enumerate(zip(first_hits, ends, strict=True))
    ]


def run_policy(
    policy: "Policy",
    env: str,
    env_options: dict[str, Any],
    start_states: Sequence[bytes],
    goal_states: Sequence[bytes],
    seeds: Sequence[int],
    budget_env_steps: int,
    *,
    times: PlanTimes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Let a policy that sees only frames try all pairs in one batch; the policy is not asked about episodes that are over any more.

    The batch stays as it is: building another costs more than stepping finished episodes with no-ops. Goals are drawn once, frames only when the
    policy asks. ``times`` collects what plans cost; ``progress`` is told (env step, episodes running).
    """
    with contextlib.closing(start_batch(env, env_options, start_states, goal_states)) as envs:
        state = policy.reset(envs.observe_goals(), list(seeds))
        record = _Record(len(goal_states))
        for step in range(budget_env_steps):
            is_running = ~record.is_over[record.rows]
            if not is_running.all():
                state = policy.select(state, np.flatnonzero(is_running))
                record.rows = record.rows[is_running]
            looks = policy.needs_frame(state)
            observation = envs.observe()[record.rows] if looks else None
            plans_before, start_s = _num_plans(state), time.perf_counter()
            chosen, state = policy.act(observation, state)
            if times is not None and looks:
                times.add(time.perf_counter() - start_s, len(record.rows) if plans_before is None else _num_plans(state) - plans_before)
            actions = no_op_actions(envs.action_spec, envs.num_envs)
            actions[record.rows] = chosen
            _, terminated = envs.step(actions)
            record.add(step, actions, envs.is_solved(), terminated)
            if progress is not None:
                progress(step + 1, int((~record.is_over).sum()))
            if record.is_over.all():
                break
        return record.outcomes()


class _Record:
    """What the episodes of a batch have done so far; ``rows`` are those that the policy is still asked about."""

    def __init__(self, num_episodes: int) -> None:
        self.rows = np.arange(num_episodes)
        self.is_over = np.zeros(num_episodes, dtype=bool)
        self._first_hits: list[int | None] = [None] * num_episodes
        self._executed: list[list[np.ndarray]] = [[] for _ in range(num_episodes)]

    def add(self, step: int, actions: np.ndarray, solved: np.ndarray, terminated: np.ndarray) -> None:
        """One env step of every episode; those that are over are not recorded any more."""
        for row in self.rows:
            self._executed[row].append(actions[row])
            self._first_hits[row] = step + 1 if solved[row] else None
            self.is_over[row] = solved[row] or terminated[row]

    def outcomes(self) -> list[Outcome]:
        """Of all episodes, in their order."""
        return [Outcome(first_hit=hit, actions=np.stack(actions)) for hit, actions in zip(self._first_hits, self._executed, strict=True)]


def _num_plans(state: Any) -> Any:
    """Plans made so far, over all episodes, by policies that count them (None: each look at a frame counts as a plan)."""
    num_plans = getattr(state, "num_plans", None)
    return None if num_plans is None else int(np.sum(num_plans))
