"""Hallucinations, on an agent that needs no training and does not know that there are walls."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dot_model import SCALE_PX, DotModel
from torch import Tensor

from lewm.checkpoint import Checkpoint
from lewm.config import PlannerConfig
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.formats.store import Store, open_store
from lewm.data.splits import split_episodes
from lewm.evaluation.arrivals import NOTE, ArrivalWatch, arrival_threshold, claims_of, hallucination_rate, watch_arrivals
from lewm.evaluation.intervals import wilson
from lewm.evaluation.protocol import Manifest, make_manifest
from lewm.evaluation.success import evaluate, run_episodes
from lewm.planning.base import Plan
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.planning.terms import squared_l2
from lewm.schema import Observation

OPTIONS = {"size_px": 32}
PLANNER = PlannerConfig(
    num_candidates=24, num_elites=4, num_iterations=3, horizon_model_steps=4, replan_every_model_steps=4, noise_smoothing=0.7, std_floor=0.1
)
ONE_STEP = (25 / SCALE_PX) ** 2
"""The squared distance of latents a model step apart at full speed."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("arrivals") / "data"
    collect("two-room", path, episodes=4, max_env_steps=20, env_options=OPTIONS)
    return open_store(path)


@pytest.fixture
def agent(store: Store) -> Callable[..., MPCPolicy]:
    def make(kind: type[MPCPolicy] = MPCPolicy, *, is_watched: bool = True) -> MPCPolicy:
        policy = kind(DotModel(store.observation_spec, store.action_spec, 5).eval(), PLANNER)
        policy.watch = ArrivalWatch(squared_l2, ONE_STEP) if is_watched else None
        return policy

    return make


def pairs_of(stratum: str) -> Manifest:
    return make_manifest("two-room", OPTIONS, distances=[20], num_pairs=8, seed=0, strata=[stratum])


def rate(policy: MPCPolicy, stratum: str) -> dict[str, Any]:
    result = evaluate(policy, pairs_of(stratum))
    claims = claims_of(result, 20, stratum)
    assert claims is not None
    return hallucination_rate([claims], [np.array([one["solved"] for one in result["episodes"]])])


def test_who_plans_through_walls_hallucinates_where_there_are_walls_and_only_there(agent) -> None:
    in_one_room, behind_the_wall = rate(agent(), "same-room"), rate(agent(), "cross-room")
    assert (in_one_room["n"], in_one_room["num_failed"]) == (8, 0)
    assert behind_the_wall["num_failed"] >= 2


def test_being_watched_for_arrivals_does_not_change_what_an_agent_does(agent) -> None:
    manifest = pairs_of("cross-room")
    watched, _ = run_episodes(agent(), manifest)
    plain, _ = run_episodes(agent(is_watched=False), manifest)
    assert all(np.array_equal(watched[pair.id].actions, plain[pair.id].actions) for pair in manifest.pairs)


def test_coming_to_a_landmark_is_not_coming_to_the_goal(agent) -> None:
    class Lazy(MPCPolicy):
        """Aims at where it is."""

        def _aims(self, state: PolicyState) -> Tensor:
            return state.latents[:, -1]

    assert rate(agent(Lazy), "same-room")["n"] < 8  # to its aim, which it never left, every plan comes


def test_an_agent_that_nobody_watches_says_nothing_of_arrivals(agent) -> None:
    result = evaluate(agent(is_watched=False), pairs_of("same-room"))
    assert NOTE not in result["planner"]
    assert claims_of(result, 20, "same-room") is None


def test_arriving_is_coming_as_near_as_frames_one_model_step_apart_are_in_the_median() -> None:
    now, later = torch.zeros(5, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 0.0], [0.0, 9.0], [0.5, 0.0]])
    assert arrival_threshold(squared_l2, None, now, later) == 4.0


def test_how_near_that_is_comes_from_the_frames_of_the_training_episodes(agent, store: Store, tmp_path: Path) -> None:
    config = from_dict({"data": {"action_block": 5, "validation_fraction": 0.3}})
    policy = agent(is_watched=False)
    checkpoint = Checkpoint(path=tmp_path, step=0, sha256="", config=config, model=policy.model, env={}, provenance={}, heads={})
    watch = watch_arrivals(policy, checkpoint, store)
    apart = []
    for episode in split_episodes(store.episode_ids, 0.3, 0)[0]:
        frames = store.episode(int(episode)).observations.frames
        latents = policy.model.encode(Observation(torch.from_numpy(frames), None)).detach()
        apart.append((latents[5:] - latents[:-5]).square().sum(-1))
    assert policy.watch is watch
    assert watch.threshold == pytest.approx(float(torch.quantile(torch.cat(apart), 0.5)), rel=1e-5)


@pytest.mark.parametrize(("cost", "n"), [("last", 0), ("min", 8)])
def test_a_plan_for_its_last_step_is_asked_about_that_step_alone(cost: str, n: int, agent) -> None:
    class Circling(MPCPolicy):
        """Imagines to come to the goal after one model step and to be far from it after all."""

        def plan_from(self, context: Tensor, past_blocks: Tensor, goals: Tensor, **others: Any) -> Plan:
            self.rollout = lambda context, past_blocks, blocks: torch.stack([goals, goals + 9, goals + 9, goals + 9], 1)[:, None]
            return Plan(blocks=torch.zeros(len(goals), 4, 10), cost=torch.zeros(len(goals)), num_iterations=0)

    policy = agent(Circling)
    policy.config = replace(PLANNER, cost=cost)
    assert rate(policy, "same-room")["n"] == n


def test_the_rate_counts_failures_among_claims_alone() -> None:
    claims = [np.array([True, True, False, False]), np.array([True, False, False, False])]
    solved = [np.array([True, False, False, True]), np.array([True, False, True, False])]
    found = hallucination_rate(claims, solved)
    assert (found["n"], found["num_failed"], found["num_seeds"]) == (3, 1, 2)
    assert found["rate"]["rate"] == pytest.approx(1 / 3)
    assert hallucination_rate([~np.ones(4, bool)], [solved[0]]) == {"rate": None, "n": 0, "num_failed": 0, "num_seeds": 1}


def test_more_training_seeds_are_not_more_claims() -> None:
    claims, solved = np.arange(40) < 24, np.arange(40) % 2 == 0
    one, three = hallucination_rate([claims], [solved]), hallucination_rate([claims] * 3, [solved] * 3)
    assert three["n"] == 3 * one["n"]
    assert three["rate"]["high"] - three["rate"]["low"] >= one["rate"]["high"] - one["rate"]["low"]


def test_a_bootstrap_without_a_failure_is_no_certainty() -> None:
    claims = np.ones(40, bool)
    assert hallucination_rate([claims] * 3, [claims] * 3)["rate"] == wilson(0, 40)
