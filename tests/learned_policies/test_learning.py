"""What the policies learn of a line of sixteen places, where the best action is known: towards the goal."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.data.episodes import EpisodeStore
from lewm.envs.base import make_batch
from lewm.learned_policies.agent import LearnedAgent
from lewm.learned_policies.checkpoints import PolicyCheckpoint, load_policy_checkpoint
from lewm.policy_config import GcbcConfig, GciqlConfig, PolicyConfig
from lewm.policy_training import train_policy
from lewm.schema import Observation

PLACES = range(1, 12)
PAIRS = [(start, goal) for start, goal in itertools.product(PLACES, PLACES) if 0 < abs(start - goal) <= 6]
QUICK = {"batch_size": 64, "hidden_width": 64, "learning_rate": 1e-2}
SETTINGS: dict[str, PolicyConfig] = {
    "gcbc": GcbcConfig(num_steps=150, max_goal_env_steps=8, **QUICK),
    "gciql": GciqlConfig(num_steps=250, discount=0.9, target_rate=0.1, max_goal_env_steps=8, **QUICK),
}


def observed(store: EpisodeStore, places: list[int]) -> Observation[np.ndarray]:
    """What the world shows of places."""
    envs = make_batch("toy-walk", len(places), **store.env["options"])
    envs.reset([5] * len(places))
    envs._now["place"] = places  # type: ignore[attr-defined]
    seen = envs.observe()
    envs.close()
    return seen


@pytest.fixture(scope="session")
def trained(small, tmp_path_factory):
    """Trains a policy once, however many tests ask for it."""

    @functools.cache
    def train(name: str, path: Path) -> PolicyCheckpoint:
        return load_policy_checkpoint(train_policy(name, small, SETTINGS[name], data=path, out=tmp_path_factory.mktemp("learning") / "run"))

    return train


def share_towards_goal(checkpoint: PolicyCheckpoint, store: EpisodeStore) -> float:
    """Of all pairs of places, how often the first action goes the right way."""
    agent = LearnedAgent(checkpoint.model)
    state = agent.reset(observed(store, [goal for _, goal in PAIRS]), range(len(PAIRS)))
    actions, _ = agent.act(observed(store, [start for start, _ in PAIRS]), state)
    moves = actions - 1 if actions.ndim == 1 else actions[:, 0]
    return float(np.mean(np.sign(moves) == [np.sign(goal - start) for start, goal in PAIRS]))


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("name", ["gcbc", "gciql"])
def test_a_policy_of_random_walks_goes_towards_the_goal(name, kind, trained, request):
    store = request.getfixturevalue(f"{kind}_walks")
    assert share_towards_goal(trained(name, store.path), store) > 0.85  # random actions: 0.33 or 0.5


def test_the_value_falls_with_the_distance_to_the_goal(trained, discrete_walks):
    model = trained("gciql", discrete_walks.path).model
    goal, places = 6, list(PLACES)
    with torch.no_grad():
        latents = model.encoder.encode(observed(discrete_walks, places).map(torch.from_numpy))
        goals = latents[[places.index(goal)] * len(places)]
        values = model.value(latents, goals)[:, 0].numpy()
    distances = np.abs(np.array(places) - goal)
    assert values[distances == 0] > values[distances == 1].max()
    assert values[distances == 1].min() > values[distances >= 3].max()
