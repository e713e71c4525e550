"""Crossing between lewm and stable-worldmodel changes no cost, no plan and no outcome."""

import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_model import ACTIONS, PLANNER, make_model
from theirs import IS_REAL, SIZE_PX, CEMSolver, PlanConfig, WorldModelPolicy, make_world

from lewm.compat.swm import ActionScaler, AgentWithSwmCost, CostForSwm, CostFromSwm, PolicyForSwm, PolicyFromSwm, imagenet_pixels
from lewm.config import PlannerConfig
from lewm.envs.base import make_batch
from lewm.errors import PlanningError
from lewm.evaluation.protocol import make_manifest
from lewm.evaluation.success import evaluate
from lewm.evaluation.verify import verify_result
from lewm.models.official import official_names
from lewm.planning.base import BlockSpace
from lewm.planning.costs import LatentGoalCost
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_CANDIDATES = 5


def repeated(frames):
    return frames[:, None].expand(-1, NUM_CANDIDATES, *frames.shape[1:])


def scores(num_steps=3, seed=2):
    return torch.randn(2, NUM_CANDIDATES, num_steps, 4, generator=torch.Generator().manual_seed(seed))


def reference_cost(model, frames, past=None):
    """The cost that our own agent would use, for candidates in env units."""
    latents = model.encode(Observation(frames[:, :, None]))
    return LatentGoalCost(model, latents[:, :-1], torch.zeros(2, 0, 4) if past is None else past, latents[:, -1])


def space_of(model):
    mean, std = model.action_statistics()
    return BlockSpace(action_spec=model.action_spec, action_block=model.action_block, mean=mean, std=std)


def solver(cost, seed=0):
    return CEMSolver(cost, num_samples=16, n_steps=3, topk=4, seed=seed)


def their_policy(cost):
    return WorldModelPolicy(solver(cost), PlanConfig(horizon=3, receding_horizon=2, action_block=2), process=cost.process)


def test_the_bridge_imports_nothing_of_theirs():
    code = "import sys, lewm.compat.swm; assert not [name for name in sys.modules if name.startswith(('stable_worldmodel', 'torchvision'))]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_our_model_costs_the_same_in_their_solver_as_in_our_planner(model, frames):
    cost = CostForSwm(model)
    theirs = cost.get_cost({"pixels": repeated(frames[:, :1]), "goal": repeated(frames[:, 3:])}, scores())
    ours = reference_cost(model, frames[:, [0, 3]])(cost.scaler.blocks_from_scores(scores()))
    assert torch.allclose(theirs, ours, rtol=1e-5)


def test_their_history_is_our_context(model, frames):
    cost, past = CostForSwm(model), scores(num_steps=2, seed=3)
    info = {"pixels": repeated(frames[:, :3]), "goal": repeated(frames[:, 3:]), "action_history": past[:, :1].expand(-1, NUM_CANDIDATES, -1, -1)}
    ours = reference_cost(model, frames, cost.scaler.blocks_from_scores(past[:, 0]))(cost.scaler.blocks_from_scores(scores()))
    assert torch.allclose(cost.get_cost(info, scores()), ours, rtol=1e-5)


def test_channels_may_come_first_or_last(model, frames):
    first, last = ({"pixels": repeated(each[:, :1]), "goal": repeated(each[:, 3:])} for each in (frames.permute(0, 1, 4, 2, 3), frames))
    assert torch.equal(CostForSwm(model).get_cost(first, scores()), CostForSwm(model).get_cost(last, scores()))


def test_a_gradient_solver_of_theirs_gets_a_gradient(model, frames):
    candidates = scores().requires_grad_()
    CostForSwm(model).get_cost({"pixels": repeated(frames[:, :1]), "goal": repeated(frames[:, 3:])}, candidates).sum().backward()
    assert (candidates.grad.abs().amax((-1, -2)) > 0).all()


def test_their_dictionary_is_not_written_into(model, frames):
    info = {"pixels": repeated(frames[:, :1]), "goal": repeated(frames[:, 3:])}
    CostForSwm(model).get_cost(info, scores())
    assert set(info) == {"pixels", "goal"}


def test_a_solver_of_theirs_finds_better_plans_than_its_first_guess(model, frames):
    cost = CostForSwm(model)
    planner = solver(cost)
    planner.configure(action_space=spaces.Box(-1, 1, (2, 2)), n_envs=2, config=PlanConfig(horizon=3, receding_horizon=2, action_block=2))
    plan = planner.solve({"pixels": frames[:, :1], "goal": frames[:, 3:]})["actions"]
    ours = reference_cost(model, frames[:, [0, 3]])
    assert (ours(cost.scaler.blocks_from_scores(plan[:, None])) < ours(cost.scaler.blocks_from_scores(torch.zeros_like(plan)[:, None]))).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda info: info | {"pixels": info["pixels"].float()}, "must be uint8 frames"),
        (lambda info: {"pixels": info["pixels"]}, "info has no 'goal'"),
        (lambda info: info | {"pixels": info["pixels"].expand(-1, -1, 2, -1, -1, -1)}, "need the blocks between them"),
    ],
)
def test_an_info_dictionary_that_cannot_be_used_is_refused(change, complaint, model, frames):
    info = {"pixels": repeated(frames[:, :1]), "goal": repeated(frames[:, 3:])}
    with pytest.raises(PlanningError, match=complaint):
        CostForSwm(model).get_cost(change(info), scores())


def test_candidates_of_another_action_block_are_refused(model, frames):
    with pytest.raises(PlanningError, match="check action_block"):
        CostForSwm(model).get_cost({"pixels": repeated(frames[:, :1]), "goal": repeated(frames[:, 3:])}, torch.zeros(2, NUM_CANDIDATES, 3, 5))


@pytest.mark.parametrize(
    ("spec", "actions", "complaint"),
    [
        (ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, stack_offsets_env_steps=(-1, 0)), ACTIONS, "sees 2 views"),
        (ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX), ActionSpec(kind="discrete", num_choices=3), "this model's are discrete"),
    ],
)
def test_models_that_their_dictionaries_cannot_feed_are_refused(spec, actions, complaint):
    with pytest.raises(PlanningError, match=complaint):
        CostForSwm(make_model(spec, actions))


@pytest.mark.parametrize("episodes_per_call", [1, 2])
def test_a_cost_that_goes_there_and_back_is_the_same(episodes_per_call, model, frames):
    cost = CostForSwm(model)
    back = CostFromSwm(cost, {"pixels": frames[:, :1], "goal": frames[:, 3:]}, cost.scaler, episodes_per_call=episodes_per_call)
    assert torch.allclose(back(scores()), reference_cost(model, frames[:, [0, 3]])(scores()), rtol=1e-4)


def test_a_cost_of_the_wrong_shape_is_refused(model, frames):
    wrong = SimpleNamespace(get_cost=lambda info, candidates: candidates.sum((1, 2, 3)))
    with pytest.raises(PlanningError, match=r"get_cost must return \[2, 5\]"):
        CostFromSwm(wrong, {"pixels": frames[:, :1]}, ActionScaler((0, 0), (1, 1)), episodes_per_call=2)(scores())


def test_our_planner_does_the_same_with_their_cost_as_with_our_model(model, agent):
    """Where their cost is our own model behind their interface."""
    crossed = AgentWithSwmCost(CostForSwm(model), PLANNER, space_of(model), prepare=torch.from_numpy)
    with make_closing_batch(3) as envs:
        states = [each.reset(envs.observe_goals(), [1, 2, 3]) for each in (agent, crossed)]
        for _ in range(9):
            observation = envs.observe()
            actions, states[0] = agent.act(observation, states[0])
            others, states[1] = crossed.act(observation if crossed.needs_frame(states[1]) else None, states[1])
            np.testing.assert_allclose(actions, others, atol=1e-4)  # z-scores and back round
            envs.step(actions)


@pytest.mark.parametrize("setting", [{"use_warm_start": True}, {"cost": "min"}, {"history_model_steps": 2}, {"mean_weight": 0.1}])
def test_settings_that_mean_nothing_for_their_cost_are_refused(setting, model):
    with pytest.raises(PlanningError, match="has no meaning"):
        AgentWithSwmCost(CostForSwm(model), PlannerConfig(**setting), space_of(model))


def test_imagenet_pixels_are_those_that_our_model_makes_inside(model, frames):
    inside = model._normalised_pixels(frames[:, :1])
    assert torch.allclose(imagenet_pixels(frames[:, :1].numpy())[:, 0], inside, atol=1e-5)


def test_imagenet_pixels_are_resized_to_what_was_asked_for(frames):
    assert imagenet_pixels(frames[:, :1].numpy(), size_px=56).shape == (2, 1, 3, 56, 56)


def test_our_agent_plays_in_their_world_as_it_does_in_ours(agent):
    world = make_world(num_envs=2, num_steps=4)
    bridge = Recorded(PolicyForSwm(agent, seed=5))
    world.set_policy(bridge)
    world.evaluate(episodes=2, seed=11)
    first = bridge.infos[0]
    state = agent.reset(Observation(first["goal"]), [int(seed) for seed in bridge.policy._state_seeds])
    for info, given in zip(bridge.infos[:4], bridge.actions[:4], strict=True):
        actions, state = agent.act(Observation(info["pixels"]), state)
        np.testing.assert_array_equal(actions, given)


def test_an_environment_that_begins_again_gets_a_new_plan_and_the_others_keep_theirs(agent):
    policy = PolicyForSwm(agent)
    policy.set_env(SimpleNamespace(num_envs=2, single_action_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Box(-1, 1, (2, 2))))
    pixels = np.zeros((2, 1, SIZE_PX, SIZE_PX, 3), np.uint8)
    info = {"pixels": pixels, "goal": pixels}
    policy.get_action(info)
    policy.get_action(info | {"_needs_flush": np.array([False, True])})
    np.testing.assert_array_equal(policy._state.env_step, [2, 1])


def test_a_world_that_was_reset_as_a_whole_begins_again(agent):
    policy = PolicyForSwm(agent)
    policy.set_env(SimpleNamespace(num_envs=2, single_action_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Box(-1, 1, (2, 2))))
    pixels = np.zeros((2, 1, SIZE_PX, SIZE_PX, 3), np.uint8)
    for step in (0, 1, 0):
        policy.get_action({"pixels": pixels, "goal": pixels, "step_idx": np.full((2, 1), step)})
    np.testing.assert_array_equal(policy._state.env_step, [1, 1])


def test_an_environment_that_is_over_does_nothing(agent):
    policy = PolicyForSwm(agent)
    policy.set_env(SimpleNamespace(num_envs=2, single_action_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Box(-1, 1, (2, 2))))
    pixels = np.full((2, 1, SIZE_PX, SIZE_PX, 3), 9, np.uint8)
    actions = policy.get_action({"pixels": pixels, "goal": pixels, "terminated": np.array([[True], [False]])})
    assert (actions[0] == 0).all()
    assert (actions[1] != 0).any()


def test_a_world_with_other_actions_is_refused(agent):
    with pytest.raises(PlanningError, match="they mean something else"):
        PolicyForSwm(agent).set_env(SimpleNamespace(single_action_space=spaces.Box(0, 512, (2,))))


def test_transformed_pixels_are_refused_by_our_agent(agent):
    policy = PolicyForSwm(agent)
    policy.set_env(SimpleNamespace(num_envs=1, single_action_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Box(-1, 1, (1, 2))))
    with pytest.raises(PlanningError, match="without image_transform"):
        policy.get_action({"pixels": np.zeros((1, 1, 3, SIZE_PX, SIZE_PX), np.float32)})


def test_their_policy_is_evaluated_on_our_pairs_and_the_result_verifies(model):
    manifest = make_manifest("two-room", {"size_px": SIZE_PX}, distances=[25], num_pairs=2, seed=3)
    result = evaluate(PolicyFromSwm(lambda: their_policy(CostForSwm(model)), ACTIONS), manifest, num_latency_episodes=1)
    assert verify_result(result)["is_verified"]


def test_a_policy_that_crosses_the_bridge_solves_what_it_solved_before():
    manifest = make_manifest("two-room", {"size_px": SIZE_PX}, distances=[25], num_pairs=4, seed=3)
    ours, theirs = (evaluate(policy, manifest)["episodes"] for policy in (Towards(), PolicyFromSwm(TowardsForSwm, ACTIONS)))
    assert any(episode["solved"] for episode in ours)
    assert [episode["actions"] for episode in ours] == [episode["actions"] for episode in theirs]


def test_actions_outside_the_bounds_are_clipped():
    policy = SimpleNamespace(set_env=lambda env: None, get_action=lambda info: np.full((1, 2), 7.0))
    actions, _ = act_once(policy)
    np.testing.assert_array_equal(actions, [[1.0, 1.0]])


def test_choices_of_a_discrete_world_stay_whole_numbers():
    given = []
    policy = SimpleNamespace(set_env=given.append, get_action=lambda info: np.array([2]))
    actions, _ = act_once(policy, ActionSpec(kind="discrete", num_choices=3))
    assert (actions.dtype, actions.tolist(), given[0].action_space) == (np.int64, [2], spaces.MultiDiscrete([3]))


@pytest.mark.parametrize(("given", "complaint"), [(np.full((1, 2), np.nan), "NaN or infinity"), (np.zeros((1, 3)), r"must return \[1, 2\]")])
def test_actions_that_are_none_are_refused(given, complaint):
    with pytest.raises(PlanningError, match=complaint):
        act_once(SimpleNamespace(set_env=lambda env: None, get_action=lambda info: given))


def test_an_episode_that_is_over_is_terminated_to_their_policy():
    seen = []
    policy = SimpleNamespace(set_env=lambda env: None, get_action=lambda info: seen.append(info["terminated"]) or np.zeros((3, 2)))
    frames = Observation(np.zeros((3, 1, 4, 4, 3), np.uint8))
    bridge = PolicyFromSwm(lambda: policy, ACTIONS)
    state = bridge.select(bridge.reset(frames, [0, 1, 2]), np.array([True, False, True]))
    bridge.act(frames[np.array([0, 2])], state)
    np.testing.assert_array_equal(seen[0], [[False], [True], [False]])


@pytest.mark.skipif(not IS_REAL, reason="needs stable-worldmodel's own LeWM")
def test_their_lewm_with_our_weights_costs_the_same(model, frames):
    theirs = their_lewm(model)
    mean, std = model.action_statistics()
    info = {"pixels": imagenet_pixels(frames[:, :1].numpy()), "goal": imagenet_pixels(frames[:, 3:].numpy()), "action": torch.zeros(2, 1, 2)}
    candidates = scores()
    with torch.no_grad():
        found = CostFromSwm(theirs, info, ActionScaler(mean, std))(candidates)
        assert torch.allclose(found, reference_cost(model, frames[:, [0, 3]])(candidates), rtol=1e-3)


class Recorded:
    """A policy in their world, with everything that it was told and did."""

    def __init__(self, policy):
        self.policy, self.infos, self.actions = policy, [], []

    def set_env(self, env):
        self.policy.set_env(env)

    def get_action(self, info):
        self.infos.append({name: np.copy(info[name]) for name in ("pixels", "goal")})
        self.actions.append(self.policy.get_action(info))
        if len(self.actions) == 1:
            self.policy._state_seeds = self.policy._state.seeds.copy()
        return self.actions[-1]


class TowardsForSwm:
    """A policy of their kind: straight towards where the goal shows the red dot."""

    def set_env(self, env):
        self.env = env

    def get_action(self, info):
        way = dot_px(info["goal"]) - dot_px(info["pixels"])
        return np.clip(way, -1, 1).astype(np.float32)


class Towards:
    """The same with our contract."""

    def reset(self, goals, seeds):
        return goals.frames

    def needs_frame(self, state):
        return True

    def act(self, observations, state):
        return np.clip(dot_px(state) - dot_px(observations.frames), -1, 1).astype(np.float32), state

    def select(self, state, episodes):
        return state[episodes]


def dot_px(frames):
    """float64 [E, 2]: centre of what is red, in frames uint8 [E, 1, Y, X, 3]; frames that are black have it at 0."""
    redness = np.clip(frames[:, 0, :, :, 0].astype(float) - frames[:, 0, :, :, 1], 0, None)
    total, centres = redness.sum((1, 2)) + 1e-9, np.arange(SIZE_PX)
    return np.stack([(redness.sum(1) * centres).sum(1) / total, (redness.sum(2) * centres).sum(1) / total], -1)


def act_once(policy, spec=ACTIONS):
    frames = Observation(np.zeros((1, 1, 4, 4, 3), np.uint8))
    bridge = PolicyFromSwm(lambda: policy, spec)
    return bridge.act(frames, bridge.reset(frames, [0]))


def make_closing_batch(num):
    envs = make_batch("two-room", num, size_px=SIZE_PX)
    envs.reset(range(num))
    return closing(envs)


def their_lewm(model):
    """Their LeWM class and modules, filled with our weights; the encoder, which is not theirs either, stays ours."""
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.encoder

        def forward(self, pixels, **_):
            return SimpleNamespace(last_hidden_state=self.inner(pixels)[:, None])

    lewm = LeWM(
        encoder=Encoder(),
        predictor=Predictor(num_frames=3, depth=2, heads=2, mlp_dim=32, input_dim=16, hidden_dim=16, output_dim=16, dim_head=8, dropout=0.0),
        action_encoder=Embedder(input_dim=4, smoothed_dim=10, emb_dim=16, mlp_scale=2),
        projector=model.projector,
        pred_proj=MLP(input_dim=16, hidden_dim=32, output_dim=16, norm_fn=torch.nn.BatchNorm1d),
    )
    names = official_names(model)
    ours = model.state_dict()
    weights = {theirs: ours[mine] for mine, theirs in names.items() if not theirs.startswith(("encoder.", "projector."))}
    missing, unexpected = lewm.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith(("encoder.", "projector.")) or name.endswith("num_batches_tracked") for name in missing)
    lewm = lewm.eval()
    if hasattr(lewm, "get_cost"):
        return lewm
    from stable_worldmodel.planning import GoalMSE, ShootingCostEvaluator

    return ShootingCostEvaluator(lewm, GoalMSE())
