"""The OGBench family: the package's own steps bit for bit, predicates, kinds of pair, ceilings, refusals."""

import functools
import itertools

import numpy as np
import pytest

from lewm.envs.base import make_batch, make_env
from lewm.envs.ogbench.env import MEMBERS, member_env
from lewm.envs.ogbench.goals import cube_turn_rad
from lewm.envs.ogbench.package import load_worlds, numpy_random
from lewm.errors import EnvError, UnknownNameError

pytestmark = pytest.mark.mujoco


@functools.cache
def shared_batch(name, num_envs, **options):
    """Compiling an arm takes half a second, and a reset forgets what was before."""
    return make_batch(f"ogbench/{name}", num_envs, **{"size_px": 32, **options})


def started(name, seeds=(1, 2), **options):
    batch = shared_batch(name, len(seeds), **options)
    batch.reset(seeds)
    return batch


def policy_of(batch, name, seeds, num_env_steps=500, **options):
    policy = member_env(batch.name.removeprefix("ogbench/")).POLICIES[name](**options)
    policy.reset(batch, seeds, num_env_steps)
    return policy


def first_hits(batch, policy, num_env_steps):
    """Env step of each episode's first success, 0 for none."""
    hits = np.zeros(batch.num_envs, int)
    for step in range(num_env_steps):
        batch.step(policy.act(batch))
        hits = np.where((hits == 0) & batch.is_solved(), step + 1, hits)
        if hits.all():
            break
    return hits


def labelled(batch, **changes):
    """The batch's labels with some of them changed."""
    labels = batch.labels()
    for name, change in changes.items():
        labels[:, batch.label_names.index(name)] += np.float32(change)
    return labels


@pytest.mark.parametrize("name", ["cube-single", "scene", pytest.param("cube-double", marks=pytest.mark.slow)])
def test_an_arm_moves_bit_for_bit_as_in_the_package(name):
    kind, variant = MEMBERS[name].kind, MEMBERS[name].variant
    worlds = load_worlds()
    env = (worlds.cube_env.CubeEnv if kind == "cube" else worlds.scene_env.SceneEnv)(variant, mode="data_collection", terminate_at_goal=False)
    env.np_random = np.random.default_rng([5])
    env.reset()
    batch = started(name, (5,))
    policy, noise = policy_of(batch, "play", (5,)), np.random.default_rng(0)
    for _ in range(100):
        action = np.clip(policy.act(batch) + noise.normal(0, 0.1, (1, 5)), -1, 1).astype(np.float32)
        batch.step(action)
        env.step(action[0].astype(np.float64))
        (now,), _ = batch.moments()
        np.testing.assert_array_equal(batch.simulator.part(now, "qpos"), env._data.qpos)
        np.testing.assert_array_equal(batch.simulator.part(now, "qvel"), env._data.qvel)
        np.testing.assert_array_equal(now.variation.get("buttons", []), getattr(env, "_cur_button_states", []))


@pytest.mark.parametrize("name", ["pointmaze-medium", "antmaze-medium"])
def test_a_body_moves_bit_for_bit_as_in_the_package(name):
    env = load_worlds().maze.make_maze_env(MEMBERS[name].kind, "maze", maze_type="medium", terminate_at_goal=False)
    env.reset(seed=0)
    batch = started(name, (5,))
    simulator, actions = batch.simulator, np.random.default_rng(0)
    simulator._mujoco.mj_resetData(env.model, env.data)
    env.set_state(*(simulator.part(batch._now[0], part) for part in ("qpos", "qvel")))
    for _ in range(100):
        action = actions.uniform(-0.2, 1, (1, env.model.nu)).astype(np.float32)  # against walls
        batch.step(action)
        env.step(action[0].astype(np.float64))
        np.testing.assert_array_equal(simulator.part(batch._now[0], "qpos"), env.data.qpos)
        np.testing.assert_array_equal(simulator.part(batch._now[0], "qvel"), env.data.qvel)


def test_a_teleport_leads_to_the_same_exit_from_the_same_state():
    batch = started("pointmaze-teleport", range(8))
    entrance = np.array(batch.simulator.env._teleport_info["teleport_in_xys"][0], float)
    states = batch.states_at(np.tile(entrance, (8, 1)))
    exits = []
    for seed in (0, 1):
        np.random.seed(seed)
        batch.set_states(states)
        batch.step(np.zeros((8, 2)))
        exits.append(batch.places(batch.labels()))
    np.testing.assert_array_equal(exits[0], exits[1])
    assert len(np.unique(exits[0].round(), axis=0)) > 1


def test_the_package_draws_from_the_generator_that_it_is_lent_and_nobody_else_notices():
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    first = np.random.random()
    generator = np.random.RandomState(4)
    with numpy_random(generator):
        lent = [np.random.random(), np.random.random()]
    np.testing.assert_array_equal([first, np.random.random()], expected)
    np.testing.assert_array_equal(lent, np.random.RandomState(4).random(2))


@pytest.mark.parametrize(("shift_m", "is_solved"), [(0.0399, True), (0.0401, False)])
@pytest.mark.parametrize("name", ["cube-single", "scene"])
def test_a_block_is_where_it_should_be_within_4_cm(name, shift_m, is_solved):
    batch = started(name)
    moved = labelled(batch, block_0_x_m=shift_m * 0.6, block_0_y_m=-shift_m * 0.8)
    assert (batch._goal_predicate.is_solved(moved, batch.labels()) == is_solved).all()


@pytest.mark.parametrize("change", [{"drawer_m": 0.041}, {"window_m": 0.041}, {"button_1_state": 1.0}, {"block_0_z_m": 0.041}])
def test_a_scene_is_not_solved_while_one_thing_is_wrong(change):
    batch = started("scene")
    assert not batch._goal_predicate.is_solved(labelled(batch, **change), batch.labels()).any()


def test_strict_success_also_wants_the_cube_turned_right_up_to_its_symmetry():
    batch = started("cube-single", success="clear-strict")
    columns = [batch.label_names.index(f"block_0_q{part}") for part in "wxyz"]
    goals = np.repeat(batch.labels()[:1], 4, 0)
    worlds = goals.copy()
    goals[:, columns] = [1, 0, 0, 0]
    for row, turn_deg in enumerate((14, 16, 90 + 14, 90 + 16)):
        half = np.deg2rad(turn_deg) / 2
        worlds[row, columns] = [np.cos(half), 0, np.sin(half), 0]
    assert batch._goal_predicate.is_solved(worlds, goals).tolist() == [True, False, True, False]


def test_strict_success_counts_three_env_steps_in_a_row_and_the_count_is_part_of_the_state():
    batch = started("cube-single", (1,), success="clear-strict")
    batch.set_goals(batch.get_states())
    solved, still = [bool(batch.is_solved()[0])], np.zeros((1, 5))
    for _ in range(2):
        batch.step(still)
        solved.append(bool(batch.is_solved()[0]))
    other = make_batch("ogbench/cube-single", 1, success="clear-strict")
    other.set_states(batch.get_states())
    other.step(still)
    assert (solved, other.is_solved().tolist()) == ([False, False, False], [True])


def test_the_turn_between_two_cubes_is_the_smallest_over_all_24_rotations():
    quarter, rotations = np.array([np.sqrt(0.5), 0, 0]), {(1.0, 0.0, 0.0, 0.0)}
    axes = [np.array([quarter[0], *row]) for row in np.eye(3) * np.sqrt(0.5)]
    while True:  # all products of quarter turns
        products = {tuple(np.round(_product(np.array(one), axis), 6) + 0.0) for one, axis in itertools.product(rotations, axes)} | rotations
        if products == rotations:
            break
        rotations = products
    assert len(rotations) == 48  # each rotation as two quaternions
    ends = np.random.default_rng(0).normal(size=(2, 50, 4))
    one, other = ends / np.linalg.norm(ends, axis=-1, keepdims=True)
    turned = np.stack([_product(other.T, np.array(rotation)[:, None]).T for rotation in rotations])
    expected = 2 * np.arccos(np.clip((turned * one).sum(-1).max(0), -1, 1))
    np.testing.assert_allclose(cube_turn_rad(one, other), expected, atol=1e-5)


def _product(one, other):
    (a, b, c, d), (w, x, y, z) = one, other
    return np.array([a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y, a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w])


def test_pairs_of_cubes_are_told_by_whether_the_arm_must_come_to_the_block():
    batch = started("cube-single", (1,))
    away, column = batch.labels(), functools.partial(batch.label_names.index)
    at_hand = away.copy()
    for axis in "xyz":
        at_hand[:, column(f"effector_{axis}_m")] = at_hand[:, column(f"block_0_{axis}_m")] + 0.02
    moved = labelled(batch, block_0_x_m=0.1)
    assert [int(batch.strata(start, moved)[0]) for start in (away, at_hand)] == [0, 1]


def test_a_pair_in_which_only_the_arm_moves_is_solved_at_the_start():
    batch = started("cube-single", (1,))
    assert batch.strata(batch.labels(), labelled(batch, effector_x_m=0.2, shoulder_pan_rad=1.0)).tolist() == [-1]


def test_pairs_in_a_maze_are_told_by_whether_a_wall_is_in_the_way():
    batch = started("pointmaze-medium", (1,))
    cells = [((1, 1), (1, 2)), ((1, 1), (3, 3)), ((1, 1), (6, 6))]
    ends = [np.repeat(batch.labels(), len(cells), 0) for _ in range(2)]
    for side, labels in enumerate(ends):
        labels[:, batch._place_columns] = [batch.map.centre(pair[side]) for pair in cells]
    assert batch.strata(*ends).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("shift_m", "is_solved"), [(0.99, True), (1.01, False)])
def test_a_point_is_at_its_goal_within_1_m(shift_m, is_solved):
    batch = started("pointmaze-medium", (1,))
    assert batch._goal_predicate.is_solved(labelled(batch, x_m=shift_m), batch.labels()).tolist() == [is_solved]


def test_the_shortest_way_turns_at_the_corners_of_the_walls():
    map_ = started("pointmaze-medium", (1,)).map
    start, goal = map_.centre((2, 2)), map_.centre((3, 3))
    corner = np.array([map_.centre((2, 3))[0] - 2 - map_.clearance_m, map_.centre((2, 3))[1] + 2 + map_.clearance_m])
    ways_m = map_.path_m(np.stack([start, start]), np.stack([goal, map_.centre((1, 2))]))
    np.testing.assert_allclose(ways_m, [np.linalg.norm(corner - start) + np.linalg.norm(goal - corner), 4], atol=1e-4)


@pytest.mark.parametrize("name", ["pointmaze-medium", "pointmaze-large", pytest.param("pointmaze-giant", marks=pytest.mark.slow)])
def test_every_free_cell_of_a_maze_can_be_reached_from_every_other(name):
    map_ = started(name, (1,)).map
    first, *others = map_.free_cells
    ways = map_.path_m(np.tile(map_.centre(first), (len(others), 1)), np.stack([map_.centre(cell) for cell in others]))
    steps = np.abs(np.array(others) - first).sum(-1) * 4
    assert np.isfinite(ways).all()
    assert (ways >= np.linalg.norm((np.array(others) - first) * 4, axis=-1) - 1e-6).all()
    assert (ways > steps).any()  # some ways lead around


def test_the_ceiling_of_cube_single_reaches_every_goal():
    batch = started("cube-single", range(8))
    assert first_hits(batch, policy_of(batch, "expert-noiseless", range(8)), 100).all()


def test_the_ceiling_of_pointmaze_medium_reaches_every_goal():
    batch = started("pointmaze-medium", range(20))
    assert first_hits(batch, policy_of(batch, "expert-noiseless", range(20)), 300).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "success"), [("cube-single", "clear-strict"), ("cube-double", None), ("scene", None)])
def test_the_ceiling_of_harder_worlds_reaches_nearly_every_goal(name, success):
    batch = started(name, range(10), success=success)
    assert (first_hits(batch, policy_of(batch, "expert-noiseless", range(10)), 500) > 0).sum() >= 9


@pytest.mark.parametrize("name", ["play", "noisy", "expert"])
def test_an_oracle_picks_the_block_up_and_carries_it(name):
    batch = started("cube-single", range(3))
    policy, column = policy_of(batch, name, range(3)), batch.label_names.index("block_0_z_m")
    heights = []
    for _ in range(100):
        batch.step(policy.act(batch))
        heights.append(batch.labels()[:, column])
    assert (np.max(heights, axis=0) > 0.08).all()


ALONE = [("cube-single", "noisy"), ("scene", "play"), ("pointmaze-medium", "navigate"), ("pointmaze-medium", "explore")]


@pytest.mark.parametrize(("world", "name"), ALONE)
def test_a_policy_acts_the_same_alone_and_in_a_batch(world, name):
    traces = []
    for seeds in ((1, 2, 3), (2,)):
        batch = started(world, seeds)
        policy = policy_of(batch, name, seeds)
        actions = []
        for _ in range(30):
            actions.append(policy.act(batch))
            batch.step(actions[-1])
        traces.append(np.stack(actions))
    np.testing.assert_array_equal(traces[0][:, 1:2], traces[1])


def test_acting_changes_nothing_in_the_world():
    batch = started("scene")
    policy, before = policy_of(batch, "play", (1, 2)), batch.get_states()
    for _ in range(2):
        policy.act(batch)
    assert batch.get_states() == before


def test_stitching_leads_no_further_than_four_cells():
    batch = started("pointmaze-medium", range(20))
    starts, policy = batch.places(batch.labels()), policy_of(batch, "stitch", range(20))
    for _ in range(150):
        batch.step(policy.act(batch))
    ends = batch.places(batch.labels())
    ways = [batch.simulator.env.get_oracle_subgoal(start, end)[1] for start, end in zip(starts, ends, strict=True)]
    cells = [steps[batch.simulator.env.xy_to_ij(start)] for steps, start in zip(ways, starts, strict=True)]
    assert max(cells) <= 5  # a goal may lie at the edge of its cell
    assert np.median(cells) == 4


@pytest.mark.parametrize("name", ["expert", "navigate", "stitch", "explore"])
def test_the_ant_has_no_expert_and_a_refusal_says_why(name):
    batch = started("antmaze-medium", (1,))
    with pytest.raises(EnvError, match=r"'ogbench/antmaze-medium' has no expert .* it does not ship; use ou"):
        policy_of(batch, name, (1,))


def test_policies_refuse_worlds_that_they_cannot_drive():
    with pytest.raises(EnvError, match="drives ogbench/cube-\\* and ogbench/scene, not ogbench/pointmaze-medium"):
        member_env("cube-single").POLICIES["play"]().reset(started("pointmaze-medium", (1,)), (1,), 5)
    with pytest.raises(EnvError, match="drives ogbench/pointmaze-\\*, not ogbench/antmaze-medium"):
        member_env("pointmaze-medium").POLICIES["navigate"]().reset(started("antmaze-medium", (1,)), (1,), 5)


def test_a_goal_inside_a_wall_is_refused():
    batch = started("pointmaze-medium", (1,))
    with pytest.raises(EnvError, match=r"a place at \(8.00, 0.00\) lies in a wall of 'ogbench/pointmaze-medium'"):
        batch.states_at(np.array([[8.0, 0.0]]))
    state = batch.get_states()[0]
    walled = batch._state_format.pack(batch.name, batch.simulator.moment_at(np.array([8.0, 0.0]), batch._now[0]), batch._goals[0])
    with pytest.raises(EnvError, match=r"a goal at \(8.00, 0.00\) lies in a wall"):
        batch.set_goals([walled])
    assert batch.get_states() == [state]


def test_a_body_put_at_a_place_is_there():
    batch = started("antmaze-medium", (1,))
    batch.set_states(batch.states_at(np.array([[4.0, 0.5]])))
    np.testing.assert_allclose(batch.places(batch.labels()), [[4.0, 0.5]])


def test_states_of_other_worlds_and_versions_are_refused():
    batch = started("cube-single", (1,))
    state = batch.get_states()[0]
    cases = [
        (started("scene", (1,)).get_states()[0], "'ogbench/cube-single' version 1 is needed, got one of 'ogbench/scene'"),
        (state[:8] + b"\x09" + state[9:], "got one of 'ogbench/cube-single' version 9"),
        (b"lewm-dmc" + state[8:], "not a state of 'ogbench/cube-single'"),
    ]
    for bad, message in cases:
        with pytest.raises(EnvError, match=message):
            batch.set_states([bad])
    assert batch.get_states() == [state]


def test_a_state_without_its_buttons_or_with_half_a_button_is_refused():
    batch = started("scene", (1,))
    (now,), (goal,) = batch.moments()
    for buttons, message in (({}, "it lacks buttons"), ({"buttons": np.array([0.5, 0.0])}, "neither 0 nor 1")):
        kept = {name: value for name, value in now.variation.items() if name != "buttons"}
        damaged = type(now)(now.physics, kept | buttons, now.env_step)
        with pytest.raises(EnvError, match=message):
            batch.set_states([batch._state_format.pack(batch.name, damaged, goal)])


def test_an_unknown_member_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'ogbench/cube-single'"):
        make_env("ogbench/cube-singel")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cube-single", {"success": "strict"}, "success of ogbench/cube-single cannot be 'strict'. Did you mean 'clear-strict'"),
        ("scene", {"success": "clear-strict"}, "success of ogbench/scene cannot be 'clear-strict'. Known: official"),
        ("pointmaze-medium", {"cameras": ("back",)}, "no camera 'back'. Known: top"),
        ("cube-single", {"mesh_grid_m": 1.0}, r"mesh_grid_m must be 0 or in \[0.0005, 0.1\] metres, got 1.0"),
        ("cube-single", {"hide_geoms": ("floor",)}, "no option 'hide_geoms'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(EnvError, match=message):
        make_batch(f"ogbench/{name}", 1, **options)


def test_the_reward_is_1_at_the_goal_and_0_elsewhere():
    batch = started("pointmaze-medium")
    states = batch.get_states()
    batch.set_goals([states[0], states[0]])
    rewards, _ = batch.step(np.zeros((2, 2)))
    assert rewards.tolist() == [1.0, 0.0]


def test_an_episode_is_truncated_at_the_packages_limit_or_where_told():
    assert started("cube-single", (1,)).max_env_steps == 200
    assert started("pointmaze-medium", (1,), action_repeat=4).max_env_steps == 250
    assert started("pointmaze-medium", (1,), max_env_steps=7).max_env_steps == 7


def test_coarser_meshes_change_a_picture_little_and_the_world_not_at_all():
    fine, coarse = started("cube-single", size_px=64, mesh_grid_m=0), started("cube-single", size_px=64)
    assert fine.get_states() == coarse.get_states()
    apart = np.abs(fine.observe().frames.astype(int) - coarse.observe().frames)
    assert 0 < apart.mean() < 1.5  # of 255
    assert np.median(apart) == 0


def test_what_draws_is_told_also_after_it_has_drawn():
    batch = started("cube-single")
    batch.observe()
    described = batch.rendering_description()
    assert described.items() >= {"profile": "fast", "hide": [], "supersampling": 1, "mesh_grid_m": 0.01}.items()
    assert described["gl_renderer"]
