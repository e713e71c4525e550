"""Which episodes a plan imagined to arrive in: what hallucinations are counted from.

Axes: E episode, H context, A action block, T model step, D latent, G what is compared with the goal, n model step of the data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.checkpoint import Checkpoint
from lewm.data.formats.store import Store
from lewm.evaluation.intervals import hierarchical_ratio, not_narrower, wilson
from lewm.evaluation.single_plan import data_latents
from lewm.planning.base import LinearReadout, Plan
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.planning.terms import Distance, LabelDistance, distances_to, reduce_over_horizon, squared_l2

MEANING = "failures among episodes in which a plan imagined to come as near to the goal as frames one model step apart are (median)"
"""A plan whose cost looks at its last model step alone is asked about that step, every other one about its nearest."""
NEIGHBOUR_QUANTILE = 0.5
NUM_CLIPS = 1024
"""So many model steps of the data decide how near that is."""
NOTE = "imagined_arrivals"
"""Under which an agent's notes have them."""


class ArrivalWatch:
    """Notes in which episodes a plan imagined to arrive: ``MPCPolicy.watch`` calls it after each plan.

    Plans are compared with the episode's goal, not with a landmark on the way, by the squared distance of latents or, where goals are compared by
    labels, of those, whatever distance the planner uses itself. Seeds name the episodes.
    """

    def __init__(self, distance: Distance, threshold: float) -> None:
        self.distance, self.threshold = distance, threshold
        self.seeds: set[int] = set()

    def __call__(
        self, policy: MPCPolicy, state: PolicyState, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], plan: Plan
    ) -> None:
        """Look at the plans that were just made for the episodes of ``state``."""
        ends = imagined_ends(policy, context, past_blocks, plan, state.goals, self.distance)
        self.seeds |= set(state.seeds[(ends <= self.threshold).cpu().numpy()].tolist())

    def note(self, pair_of_seed: Mapping[int, str]) -> dict[str, Any]:
        """For the ``planner`` of a result: the pairs in which a plan imagined to arrive. JSON-ready."""
        return {NOTE: {"threshold": self.threshold, "pairs": [pair for seed, pair in pair_of_seed.items() if seed in self.seeds]}}


def watch_arrivals(policy: MPCPolicy, checkpoint: Checkpoint, store: Store) -> ArrivalWatch:
    """Have a checkpoint's agent watched from now on; frames of its training episodes say how near is near."""
    distance = squared_l2 if policy.readout is None else LabelDistance(readout=policy.readout)
    steps = data_latents(checkpoint, store, 1, num_clips=NUM_CLIPS)  # n 2 D
    policy.watch = ArrivalWatch(distance, arrival_threshold(distance, policy.readout, steps.goals[:, 0], steps.latents[:, 1]))
    return policy.watch


@torch.no_grad()
def imagined_ends(
    policy: MPCPolicy,
    context: Float[Tensor, "E H D"],
    past_blocks: Float[Tensor, "E H-1 A"],
    plan: Plan,
    goals: Float[Tensor, "E G"],
    distance: Distance,
) -> Float[Tensor, " E"]:
    """How near to its goal each plan imagines to come: at its last model step for cost ``last``, else at the nearest."""
    imagined = policy.rollout(context, past_blocks, plan.blocks[:, None])  # E 1 T D
    return reduce_over_horizon(distances_to(goals, imagined, distance), "last" if policy.config.cost == "last" else "min")[:, 0]


@torch.no_grad()
def arrival_threshold(distance: Distance, readout: LinearReadout | None, now: Float[Tensor, "n D"], later: Float[Tensor, "n D"]) -> float:
    """The distance below which an imagined latent counts as arrived: the median between frames that are one model step apart."""
    goals = now if readout is None else readout.read(now)
    return float(torch.quantile(distance(later, goals)[: 1 << 20], NEIGHBOUR_QUANTILE))


def claims_of(result: Mapping[str, Any], distance: int, stratum: str) -> np.ndarray | None:
    """In which pairs of a distance and stratum a plan imagined to arrive, bool [pairs], in the order of the manifest; None if nobody watched."""
    note = result["planner"].get(NOTE)
    if note is None:
        return None
    claimed = set(note["pairs"])
    return np.array([one["pair"] in claimed for one in result["episodes"] if one["distance"] == distance and one["stratum"] == stratum])


def hallucination_rate(claims: Sequence[np.ndarray], solved: Sequence[np.ndarray]) -> dict[str, Any]:
    """How often an episode fails although one of its plans imagined to arrive, over training seeds: bool [pairs] each.

    JSON-ready: ``rate`` with its interval (None where no plan did), ``n`` episodes with such a plan, ``num_failed`` and ``num_seeds``. The interval
    is Wilson's for one training seed, for several a bootstrap over seeds and pairs that is never narrower than Wilson's for the claims of one seed.
    """
    failed = [claimed & ~hits for claimed, hits in zip(claims, solved, strict=True)]
    n, num_failed = int(sum(each.sum() for each in claims)), int(sum(each.sum() for each in failed))
    counts = {"n": n, "num_failed": num_failed, "num_seeds": len(claims)}
    if n == 0:
        return {"rate": None, **counts}
    per_seed = max(1, round(n / len(claims)))
    estimate = wilson(round(per_seed * num_failed / n), per_seed)
    if len(claims) > 1:
        estimate = not_narrower(hierarchical_ratio(failed, claims), estimate)
    return {"rate": estimate, **counts}
