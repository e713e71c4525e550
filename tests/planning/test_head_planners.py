"""Planners on heads: what an actor is shown, what is done with its proposals, and a head's distance as the cost."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.config_files import load_preset
from lewm.errors import ConfigError, PlanningError
from lewm.models.world_model import WorldModel
from lewm.planning.base import BlockSpace, LinearReadout
from lewm.planning.direct import Direct, DirectPolicy, policy_of
from lewm.planning.guarded import Guarded
from lewm.planning.mpc import MPCPolicy
from lewm.planning.proposing import ProposalRequest, imagined_acting
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_EPISODES, BLOCK, SIZE_PX = 4, 5, 32
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
SPACE = BlockSpace(action_spec=CONTINUOUS, action_block=2, mean=(0.0, 0.0), std=(0.5, 0.5))


class Counter:
    """An actor that counts: env step n of call c is the action (c + n) / 100; it remembers what it was shown."""

    def __init__(self, action_block: int = BLOCK) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, int]] = []
        self.action_block = action_block

    def act(self, latents, goals, previous, *, steps_to_goal):
        self.calls.append((latents, goals, previous, steps_to_goal))
        steps = (len(self.calls) + torch.arange(self.action_block)) / 100
        return steps[None, :, None].expand(len(latents), -1, 2).flatten(1)


class L1(torch.nn.Module):
    """A distance that is easy to check."""

    def distance(self, latents, goals):
        return (latents - goals).abs().sum(-1)


def make_model(stack=(0,)) -> tuple[Config, WorldModel]:
    config = load_preset("laptop")
    torch.manual_seed(0)
    spec = ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, stack_offsets_env_steps=stack)
    return config, WorldModel(config, spec, CONTINUOUS).eval()


def make_policy(actor, stack=(0,), **planner) -> MPCPolicy:
    config, model = make_model(stack)
    settings = {"horizon_model_steps": 3, "replan_every_model_steps": 1} | planner
    name = settings.pop("name", "cem")
    if name == "guarded":
        settings |= {"guard_num_candidates": 8, "guard_num_iterations": 2}
    proposals = {} if name == "cem" else {"proposals": "inverse-goal"}
    return policy_of(model, config.planner.switched(name, **proposals | settings), heads={"inverse-goal": actor, "distance": L1()})


def frames(seed: int) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(seed).integers(0, 256, (NUM_EPISODES, 1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def act(policy: MPCPolicy, num_env_steps: int) -> np.ndarray:
    state, actions = policy.reset(frames(7), seeds=range(NUM_EPISODES)), []
    for env_step in range(num_env_steps):
        action, state = policy.act(frames(100 + env_step) if policy.needs_frame(state) else None, state)
        actions.append(action)
    return np.stack(actions, 1)


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (3, [1, 2, 3, 2, 3, 4])])
def test_direct_looks_as_often_as_it_is_told_and_does_what_the_actor_says_until_then(every, expected):
    policy = make_policy(Counter(), name="direct", act_every_env_steps=every)
    assert isinstance(policy, DirectPolicy)
    np.testing.assert_allclose(act(policy, 6), np.tile(np.array(expected)[None, :, None] / 100, (NUM_EPISODES, 1, 2)), rtol=1e-6)


def test_the_actor_sees_the_present_the_goal_and_the_actions_before_which_are_zeros_at_first():
    actor = Counter()
    policy = make_policy(actor, name="direct", steps_to_goal=9)
    act(policy, 3)
    latents, goals, previous, steps = actor.calls[2]
    encode = policy.model.encode
    torch.testing.assert_close(latents, encode(frames(102).map(torch.from_numpy)).detach())
    torch.testing.assert_close(goals, encode(frames(7).map(torch.from_numpy)).detach())
    assert not actor.calls[0][2].any()
    torch.testing.assert_close(previous[0], torch.tensor([0, 0, 0, 1, 2.0]).repeat_interleave(2) / 100)
    assert steps == 9


def test_episodes_that_act_directly_can_be_split_and_joined():
    policy = make_policy(Counter(), name="direct")
    state = policy.reset(frames(7), seeds=range(NUM_EPISODES))
    _, state = policy.act(frames(1), state)
    halves = [policy.select(state, np.array([0, 1])), policy.select(state, np.array([2, 3]))]
    joined = policy.join(halves)
    assert torch.equal(joined.blocks, state.blocks)
    np.testing.assert_array_equal(policy.act(frames(2), joined)[0].shape, (NUM_EPISODES, 2))


def test_stacked_frames_are_kept_between_looks():
    actor = Counter()
    policy = make_policy(actor, stack=(-2, 0), name="direct", act_every_env_steps=2)
    act(policy, 3)
    stacked = np.concatenate([frames(100).frames, frames(102).frames], axis=1)
    torch.testing.assert_close(actor.calls[1][0], policy.model.encode(Observation(torch.from_numpy(stacked))).detach())


def test_an_action_beyond_the_worlds_bounds_is_brought_back():
    actor = Counter()
    actor.act = lambda latents, *_, **__: torch.full((len(latents), 2 * BLOCK), 3.0)
    assert (act(make_policy(actor, name="direct"), 1) == 1).all()


def test_looking_less_often_than_every_block_is_refused():
    with pytest.raises(PlanningError, match="must be at most the action block, 5 env steps; got 6"):
        make_policy(Counter(), name="direct", act_every_env_steps=6)


def test_proposals_are_what_the_actor_does_in_the_models_imagination():
    actor, seen = Counter(action_block=2), []

    def rollout(context, past_blocks, candidates):
        seen.append((context.shape[1], past_blocks.shape[1]))
        return context[:, None, -1:] + candidates.sum(-1, keepdim=True)

    start, goals = torch.zeros(3, 1, 4), torch.ones(3, 4)
    request = ProposalRequest(lambda blocks: blocks, SPACE, 4, [], None, start, torch.zeros(3, 0, 4), goals, torch.full((3, 4), 0.5), rollout, 2)
    plans = imagined_acting(actor, request, steps_to_goal=5)
    assert plans.shape == (3, 1, 4, 4)
    assert seen == [(1, 0), (2, 1), (2, 1), (2, 1)]  # the context grows to the model's history and then slides
    latents, _, previous, _ = actor.calls[2]
    torch.testing.assert_close(latents, plans[:, 0, :2].sum((1, 2))[:, None].expand(3, 4))
    torch.testing.assert_close(previous, plans[:, 0, 1])
    assert [call[3] for call in actor.calls] == [5, 3, 2, 2]
    assert bool((actor.calls[0][2] == 0.5).all())


def test_direct_as_a_planner_returns_the_first_proposal_with_its_cost():
    proposals = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    config = load_preset("laptop").planner.switched("direct")
    plan = Direct(config).plan(lambda blocks: blocks.sum((2, 3)), SPACE, horizon_model_steps=4, seeds=[(0, 0), (1, 0)], proposals=proposals)
    assert torch.equal(plan.blocks, proposals[:, 0])
    torch.testing.assert_close(plan.cost, proposals[:, 0].sum((1, 2)))


def test_guarded_keeps_a_perfect_proposal_and_mends_a_poor_one():
    target = torch.full((2, 4, 4), 0.6)

    def cost(blocks):
        return (blocks - target[:, None]).square().sum((2, 3))

    config = load_preset("laptop").planner.switched("guarded", std_floor=0.0, guard_std=0.4)
    found = {
        name: Guarded(config).plan(cost, SPACE, horizon_model_steps=4, seeds=[(0, 0), (1, 0)], proposals=proposals[:, None])
        for name, proposals in {"perfect": target, "poor": target - 0.4}.items()
    }
    assert float(found["perfect"].cost.max()) < 0.15  # of 16 numbers: a mean over elites, so not exactly 0
    assert float(found["poor"].cost.max()) < 0.5 * 16 * 0.4**2
    assert found["poor"].num_iterations == 3


def test_guarded_searches_in_the_size_of_its_own_settings():
    sizes = []

    def cost(blocks):
        sizes.append(blocks.shape[1])
        return blocks.square().sum((2, 3))

    config = load_preset("laptop").planner.switched("guarded", guard_num_candidates=24, guard_num_iterations=2)
    Guarded(config).plan(cost, SPACE, horizon_model_steps=4, seeds=[(0, 0)], proposals=torch.zeros(1, 1, 4, 4))
    assert sizes[:2] == [24, 24]


@pytest.mark.parametrize(("name", "planner"), [("direct", Direct), ("guarded", Guarded)])
def test_planners_on_proposals_say_so_when_they_get_none(name, planner):
    with pytest.raises(PlanningError, match=r"and was given none: set planner\.proposals, or use planner 'cem'"):
        planner(load_preset("laptop").planner.switched(name)).plan(lambda blocks: blocks.sum((2, 3)), SPACE, horizon_model_steps=4, seeds=[(0, 0)])


@pytest.mark.parametrize("mean_weight", [0.0, 0.1])
def test_the_distance_cost_is_what_the_head_says_of_the_last_imagined_latent(mean_weight):
    _, model = make_model()
    generator = torch.Generator().manual_seed(1)
    context, goals = torch.randn(2, 1, model.latent_dimension, generator=generator), torch.randn(2, model.latent_dimension, generator=generator)
    candidates = torch.rand(2, 3, 4, 10, generator=generator)
    policy = make_policy(Counter(), distance="distance", cost="last", mean_weight=mean_weight)
    cost = policy.cost(context, torch.zeros(2, 0, 10), goals)
    with torch.no_grad():
        imagined = model.rollout(context, torch.zeros(2, 0, 10), candidates)
        distances = (imagined - goals[:, None, None]).abs().sum(-1)
        torch.testing.assert_close(cost(candidates), distances[..., -1] + mean_weight * distances.mean(-1))


@pytest.mark.parametrize("name", ["cem", "guarded"])
def test_any_planner_can_minimise_a_heads_distance(name):
    found = []
    sizes = {"num_candidates": 16, "num_elites": 4, "num_iterations": 2} if name == "cem" else {}
    for distance in ("l2", "distance"):
        policy = make_policy(Counter(), name=name, distance=distance, **sizes)
        for block in policy.model.predictor.blocks:  # a fresh predictor ignores actions
            torch.nn.init.normal_(block.modulation.weight, generator=torch.Generator().manual_seed(0))
        found.append(act(policy, 2))
    assert not np.array_equal(*found)


@pytest.mark.parametrize("name", ["direct", "guarded"])
def test_a_planner_on_proposals_whose_agent_has_none_says_who_can_make_them(name):
    config, model = make_model()
    with pytest.raises(PlanningError, match=f"planner '{name}' needs planner.proposals: name a head of the run that acts"):
        policy_of(model, config.planner.switched(name))


def test_direct_needs_somebody_who_acts_at_every_look():
    with pytest.raises(PlanningError, match="'cem' does not act: use a head that does"):
        make_policy(Counter(), name="direct", proposals="cem")


def test_a_head_that_acts_towards_latents_has_no_use_for_labels():
    config, model = make_model()
    readout = LinearReadout(weights=torch.eye(model.latent_dimension)[:, :2], bias=torch.zeros(2))
    planner = config.planner.switched("guarded", proposals="inverse-goal", goal="labels")
    with pytest.raises(PlanningError, match=r"acts towards latents, and goals are compared by labels here: set planner\.goal to 'latent'"):
        MPCPolicy(model, planner, readout, heads={"inverse-goal": Counter()})


def test_any_search_can_try_what_a_head_would_do():
    policy, seen = make_policy(Counter(), proposals="inverse-goal"), []
    plan = policy.planner.plan
    policy.planner.plan = lambda *positional, **named: seen.append(named["proposals"]) or plan(*positional, **named)
    act(policy, BLOCK + 1)
    assert [tuple(proposals.shape) for proposals in seen] == [(NUM_EPISODES, 1, 3, 2 * BLOCK)] * 2
    torch.testing.assert_close(seen[0][0, 0, 0, :2], torch.full((2,), 0.01))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guard_std": 0.0}, "guard_std must be positive"),
        ({"steps_to_goal": 0}, "steps_to_goal must be at least 1"),
        ({"guard_num_candidates": 1}, "guard_num_candidates must be at least 2"),
    ],
)
def test_settings_of_planners_on_heads_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_preset("laptop").planner.switched("guarded", **settings)
