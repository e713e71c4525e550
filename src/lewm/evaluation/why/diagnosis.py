"""The measurement itself: the agent as it is, then with every coalition of its parts swapped, on the same pairs.

Axes: C coalition, n pair.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lewm.envs.base import make_batch
from lewm.errors import ConfigError
from lewm.evaluation.arrivals import arrival_threshold
from lewm.evaluation.intervals import wilson
from lewm.evaluation.outcomes import Outcome, run_policy, run_scripted
from lewm.evaluation.protocol import Manifest, Pair
from lewm.evaluation.results import pair_batch
from lewm.evaluation.why.coalitions import COALITIONS, PARTS, Coalition
from lewm.evaluation.why.oracles import Parts, SwappedAgent, SwappedPolicy, World
from lewm.evaluation.why.shapley import attribution
from lewm.evaluation.why.trust import hallucination, trust
from lewm.evaluation.why.watching import Promise, WatchedPolicy

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The pairs that are asked about."""

    manifest: Manifest
    pairs: tuple[Pair, ...]
    """Of one distance: what the agent as it is tries."""
    swapped: tuple[int, ...]
    """Which of them are tried again with parts swapped."""

    @classmethod
    def of(cls, manifest: Manifest, *, num_swapped: int, num_tried: int | None = None, distance_env_steps: int | None = None) -> "Question":
        """The pairs of a distance (default: the manifest's first), and of these the first ``num_swapped`` per stratum to be swapped.

        ``num_tried`` asks about the first so many per stratum alone.
        """
        distance = manifest.distances[0] if distance_env_steps is None else distance_env_steps
        if distance not in manifest.distances:
            raise ConfigError(
                f"these pairs are D = {', '.join(map(str, manifest.distances))} env steps apart, not {distance}: leave --distance out or choose one"
            )
        pairs = manifest.at(distance) if num_tried is None else _first_of_strata(manifest, distance, num_tried)
        of_strata = [[row for row, pair in enumerate(pairs) if pair.stratum == stratum] for stratum in manifest.strata]
        return cls(manifest=manifest, pairs=tuple(pairs), swapped=tuple(row for rows in of_strata for row in rows[:num_swapped]))


def _first_of_strata(manifest: Manifest, distance: int, num_tried: int) -> list[Pair]:
    of_strata = [[pair for pair in manifest.at(distance) if pair.stratum == stratum] for stratum in manifest.strata]
    most = max(map(len, of_strata))
    if not 1 <= num_tried <= most:
        raise ConfigError(
            f"--episodes {num_tried}, but at D = {distance} there are 1 to {most} pairs per stratum to try: leave --episodes out for all"
        )
    return [pair for pairs in of_strata for pair in pairs[:num_tried]]


def diagnose(parts: Parts, world: World, question: Question, progress: Progress | None = None) -> dict[str, Any]:
    """Who is to blame for the failures, and what the agent's promises are worth: JSON-ready. Without failures nothing is swapped."""
    say = progress or (lambda _text: None)
    outcomes, promises = run_agent(parts, question, say)
    is_solved = np.array([outcome.solved for outcome in outcomes])
    own = is_solved[list(question.swapped)]
    values = None if own.all() else np.concatenate([own[None], _swap_parts(parts, world, question, say)])
    return {
        "distance_env_steps": question.pairs[0].distance_env_steps,
        "budget_env_steps": question.pairs[0].budget_env_steps,
        "n": len(is_solved),
        "success": wilson(int(is_solved.sum()), len(is_solved)),
        "num_swapped_pairs": len(own),
        **_blamed(values, question),
        "hallucination": hallucination(promises, is_solved, arrival_threshold(parts.distance, parts.readout, *world.translator.steps)),
        **trust(promises, is_solved),
        "episodes": [
            {"pair": pair.id, "solved": outcome.solved, "first_hit": outcome.first_hit, "plans": [asdict(plan) for plan in plans]}
            for pair, outcome, plans in zip(question.pairs, outcomes, promises, strict=True)
        ],
    }


def run_agent(parts: Parts, question: Question, say: Progress) -> tuple[list[Outcome], list[list[Promise]]]:
    """What the agent as it is does with each pair, and what its plans promised."""
    manifest, pairs = question.manifest, question.pairs
    seeds = [manifest.policy_seed(pair) for pair in pairs]
    starts, goals = [pair.start_state for pair in pairs], [pair.goal_state for pair in pairs]
    say(f"trying {len(pairs)} pairs with the agent as it is")
    policy, begun_s = WatchedPolicy(parts), time.monotonic()
    outcomes = run_policy(policy, manifest.env, manifest.env_options, starts, goals, seeds, pairs[0].budget_env_steps)
    say(f"the agent as it is: {sum(outcome.solved for outcome in outcomes)} of {len(pairs)} solved, {time.monotonic() - begun_s:.0f} s")
    return outcomes, [policy.promises[seed] for seed in seeds]


def solve_with(
    parts: Parts, world: World, coalition: Coalition, manifest: Manifest, pairs: Sequence[Pair], *, budget_env_steps: int | None = None
) -> np.ndarray:
    """Which pairs the agent solves with a coalition of parts swapped, bool [n]."""
    with closing(make_batch(manifest.env, len(pairs), **manifest.env_options)) as envs:
        envs.set_states([pair.goal_state for pair in pairs])
        goal_labels = envs.labels()
    agent = SwappedAgent(SwappedPolicy(parts, world, coalition), goal_labels)
    with closing(pair_batch(manifest, pairs)) as envs:
        outcomes = run_scripted(envs, agent, [manifest.policy_seed(pair) for pair in pairs], budget_env_steps or pairs[0].budget_env_steps)
    return np.array([outcome.solved for outcome in outcomes])


def _swap_parts(parts: Parts, world: World, question: Question, say: Progress) -> np.ndarray:
    """Which pairs each coalition but the empty one solves, bool [C-1, n]."""
    pairs = [question.pairs[number] for number in question.swapped]
    say(_estimated_time(parts, world, question, pairs))
    rows = []
    for coalition in COALITIONS[1:]:
        begun_s = time.monotonic()
        rows.append(solve_with(parts, world, coalition, question.manifest, pairs))
        say(f"{coalition.name}: {int(rows[-1].sum())} of {len(pairs)} solved, {time.monotonic() - begun_s:.0f} s")
    return np.stack(rows)


def _blamed(values: np.ndarray | None, question: Question) -> dict[str, Any]:
    """The part of the result that follows from what each coalition solves, bool [C, n]; None where there was nothing to swap for."""
    if values is None:
        sentence = f"nothing to explain: all {len(question.swapped)} pairs were solved (a larger --distance or more --pairs may hold failures)"
        nothing: dict[str, Any] = {"gap": None, "parts": {}, "verdict": "nothing to explain", "part": None, "sentence": sentence}
        return {"attribution": nothing, "values": {}, "swapped": []}
    solved_by = [[one.name for one, solved in zip(COALITIONS, column, strict=True) if solved] for column in values.T]
    return {
        "attribution": attribution(values, PARTS),
        "values": {one.name: wilson(int(row.sum()), len(row)) for one, row in zip(COALITIONS, values, strict=True)},
        "swapped": [{"pair": question.pairs[row].id, "solved_by": names} for row, names in zip(question.swapped, solved_by, strict=True)],
    }


def _estimated_time(parts: Parts, world: World, question: Question, pairs: Sequence[Pair]) -> str:
    """At most how long the swaps take, from one plan of each coalition."""
    begun_s = time.monotonic()
    for coalition in COALITIONS[1:]:
        solve_with(parts, world, coalition, question.manifest, pairs[:1], budget_env_steps=1)
    seconds = time.monotonic() - begun_s
    num_plans = len(pairs) * -(-pairs[0].budget_env_steps // (parts.planner.replan_every_model_steps * parts.model.action_block))
    minutes = seconds * num_plans / 60
    return f"swapping parts of {len(pairs)} pairs takes at most {minutes:.1f} minutes, less where pairs are solved early (fewer --pairs take less)"
