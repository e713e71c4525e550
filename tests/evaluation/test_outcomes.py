"""The batch of an evaluation: made once, closed at the end, and left alone by the policy where an episode is over."""

from typing import Any

import numpy as np
import pytest
from seeker import Seeker, SeekerState

from lewm.envs.two_room.env import TwoRoomBatch
from lewm.evaluation.outcomes import run_policy
from lewm.evaluation.protocol import Manifest
from lewm.evaluation.results import run_references
from lewm.schema import Observation


class Batches:
    """What happened to every batch of two-room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[TwoRoomBatch] = []
        self.closed: list[TwoRoomBatch] = []
        self.actions: list[np.ndarray] = []
        make, step = TwoRoomBatch.__init__, TwoRoomBatch.step

        def remember_made(batch: TwoRoomBatch, *arguments: Any, **options: Any) -> None:
            make(batch, *arguments, **options)
            self.made.append(batch)

        def remember_step(batch: TwoRoomBatch, actions: np.ndarray) -> Any:
            self.actions.append(actions.copy())
            return step(batch, actions)

        monkeypatch.setattr(TwoRoomBatch, "__init__", remember_made)
        monkeypatch.setattr(TwoRoomBatch, "step", remember_step)
        monkeypatch.setattr(TwoRoomBatch, "close", lambda batch: self.closed.append(batch))


def try_pairs(manifest: Manifest, policy: Seeker) -> list[Any]:
    pairs = manifest.at(50)
    starts, goals = [pair.start_state for pair in pairs], [pair.goal_state for pair in pairs]
    return run_policy(policy, "two-room", manifest.env_options, starts, goals, [manifest.policy_seed(pair) for pair in pairs], 100)


def test_one_batch_serves_all_pairs_however_many_are_over(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch)
    outcomes = try_pairs(manifest, Seeker())
    assert len({outcome.first_hit for outcome in outcomes}) > 3, "episodes end at different times"
    assert len(batches.made) == 1
    assert batches.closed == batches.made


def test_episodes_that_are_over_are_stepped_with_no_ops(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch)
    for row, outcome in enumerate(try_pairs(manifest, Seeker())):
        stepped = np.stack([actions[row] for actions in batches.actions])
        np.testing.assert_array_equal(stepped[: len(outcome.actions)], outcome.actions)
        assert not stepped[len(outcome.actions) :].any()


def test_the_batch_is_closed_when_the_policy_fails(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Seeker):
        def act(self, observations: Observation[np.ndarray] | None, state: SeekerState) -> tuple[np.ndarray, SeekerState]:
            raise ArithmeticError("the policy failed")

    batches = Batches(monkeypatch)
    with pytest.raises(ArithmeticError, match="the policy failed"):
        try_pairs(manifest, Failing())
    assert batches.closed == batches.made


def test_the_batches_of_floors_and_ceiling_are_closed(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch)
    run_references(manifest)
    assert len(batches.made) == 4 * len(manifest.distances)
    assert batches.closed == batches.made
