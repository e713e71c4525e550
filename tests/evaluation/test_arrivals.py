"""Hallucinations, on an agent that needs no training and does not know that there are walls."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from dot_model import ARENA_PX, SCALE_PX, DotModel
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.data.collect import collect
from lewm.data.formats.store import Store, open_store
from lewm.evaluation.arrivals import NOTE, ArrivalWatch, arrival_threshold, claims_of, hallucination_rate
from lewm.evaluation.protocol import Manifest, make_manifest
from lewm.evaluation.success import evaluate, run_episodes
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.planning.terms import squared_l2

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


def rate(policy: MPCPolicy, stratum: str) -> dict[str, float] | None:
    result = evaluate(policy, pairs_of(stratum))
    claims = claims_of(result, 20, stratum)
    assert claims is not None
    return hallucination_rate([claims], [np.array([one["solved"] for one in result["episodes"]])])


def test_who_plans_through_walls_hallucinates_where_there_are_walls_and_only_there(agent) -> None:
    in_one_room, behind_the_wall = rate(agent(), "same-room"), rate(agent(), "cross-room")
    assert in_one_room is not None
    assert behind_the_wall is not None
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

    found = rate(agent(Lazy), "same-room")
    assert found is None or found["n"] < 8  # to its aim, which it never left, every plan comes


def test_an_agent_that_nobody_watches_says_nothing_of_arrivals(agent) -> None:
    result = evaluate(agent(is_watched=False), pairs_of("same-room"))
    assert NOTE not in result["planner"]
    assert claims_of(result, 20, "same-room") is None


def test_arriving_is_coming_as_near_as_frames_one_model_step_apart_are_in_the_median() -> None:
    now, later = torch.zeros(5, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 0.0], [0.0, 9.0], [0.5, 0.0]])
    assert arrival_threshold(squared_l2, None, now, later) == 4.0
    assert ARENA_PX / SCALE_PX > 2 * ONE_STEP**0.5  # the world is larger than what counts as arrived


def test_the_rate_counts_failures_among_claims_alone() -> None:
    claims = [np.array([True, True, False, False]), np.array([True, False, False, False])]
    solved = [np.array([True, False, False, True]), np.array([True, False, True, False])]
    found = hallucination_rate(claims, solved)
    assert found is not None
    assert (found["n"], found["num_failed"], found["rate"]) == (3, 1, pytest.approx(1 / 3))
    assert hallucination_rate([~np.ones(4, bool)], [solved[0]]) is None


def test_more_training_seeds_are_not_more_claims() -> None:
    claims, solved = np.arange(40) < 24, np.arange(40) % 2 == 0
    one, three = hallucination_rate([claims], [solved]), hallucination_rate([claims] * 3, [solved] * 3)
    assert one is not None
    assert three is not None
    assert three["n"] == 3 * one["n"]
    assert three["high"] - three["low"] >= one["high"] - one["low"]
