"""The Control Suite family: exact states, the suite's own steps, goals and predicates, refusals."""

import dataclasses
import functools
import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lewm.envs.base import EpisodeError, make_batch, make_env
from lewm.envs.dmc.env import task_env, task_names
from lewm.envs.dmc.goals import FAR_TOLERANCES, GOALS, LabelTable, Predicate
from lewm.envs.dmc.simulator import Simulator, load_suite
from lewm.envs.dmc.states import pack
from lewm.errors import EnvError, UnknownNameError

pytestmark = pytest.mark.mujoco

VARIED = ["reacher-hard", "point_mass-hard", "quadruped-escape", "manipulator-bring_ball", "ball_in_cup-catch", "cheetah-run"]
"""Targets, gains, terrain and objects that differ by episode; contacts and warm starts."""
SUITE_TASKS = ["reacher-hard", "acrobot-swingup", "manipulator-insert_peg", "ball_in_cup-catch", "quadruped-walk", "lqr-lqr_2_1", "dog-walk"]
"""Both integrators, one and several physics steps, activations, bounds that differ by actuator, a random model."""


def random_actions(batch, num_env_steps, seed=0):
    low, high = (np.array(bound) for bound in (batch.action_spec.low, batch.action_spec.high))
    return np.random.default_rng(seed).uniform(low, high, (num_env_steps, batch.num_envs, len(low))).astype(np.float32)


def started(name, seeds=(1, 2), **options):
    batch = make_batch(f"dmc/{name}", len(seeds), **{"size_px": 32, **options})
    batch.reset(seeds)
    return batch


@pytest.mark.parametrize("name", VARIED)
def test_a_state_continues_exactly_in_a_fresh_batch(name):
    first = started(name)
    actions = random_actions(first, 25)
    for action in actions[:5]:
        first.step(action)
    second = make_batch(f"dmc/{name}", 2, size_px=32)
    second.set_states(first.get_states())
    for action in actions[5:]:
        for one, other in zip(first.step(action), second.step(action), strict=True):
            np.testing.assert_array_equal(one, other)
        assert first.get_states() == second.get_states()
    np.testing.assert_array_equal(first.labels(), second.labels())
    np.testing.assert_array_equal(first.observe().frames, second.observe().frames)
    np.testing.assert_array_equal(first.observe_goals().frames, second.observe_goals().frames)
    first.close()
    second.close()


@pytest.mark.parametrize("name", VARIED)
def test_an_episode_does_not_depend_on_its_batch_mates(name):
    together, alone = started(name, (7, 8, 9)), started(name, (8,))
    actions = random_actions(together, 10)
    for action in actions:
        rewards, _ = together.step(action)
        reward, _ = alone.step(action[1:2])
        assert rewards[1] == reward[0]
    assert together.get_states()[1] == alone.get_states()[0]
    np.testing.assert_array_equal(together.observe().frames[1], alone.observe().frames[0])
    together.close()
    alone.close()


@pytest.mark.parametrize("name", SUITE_TASKS)
def test_positions_velocities_and_rewards_are_those_of_the_suite(name):
    batch = started(name, (5,))
    env = load_suite().load(*name.split("-"), task_kwargs={"random": 0})
    env.task._random = np.random.RandomState(np.random.SeedSequence([5]).generate_state(8))
    env.reset()
    low, high = np.array(batch.action_spec.low), np.array(batch.action_spec.high)
    for action in random_actions(batch, 50):
        rewards, _ = batch.step(action)
        expected = sum(env.step(np.clip(action[0].astype(np.float64), low, high)).reward for _ in range(2))
        assert rewards[0] == np.float32(expected)
        qpos, qvel = (batch._simulator.part(batch._now[0], part) for part in ("qpos", "qvel"))
        np.testing.assert_array_equal(qpos, env.physics.data.qpos)
        np.testing.assert_array_equal(qvel, env.physics.data.qvel)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole-balance", "fish-swim", "swimmer-swimmer15", "dog-stand", "humanoid-walk", *VARIED])
def test_a_reset_puts_the_goal_elsewhere_at_rest_and_there_the_predicate_holds(name):
    batch = started(name, range(5))
    assert not batch.is_solved().any()
    assert (batch.strata(batch.labels(), batch.goal_labels()) >= 0).all()
    velocities = [column for column, label in enumerate(batch.label_names) if "velocity" in label]
    assert not batch.goal_labels()[:, velocities].any()
    batch.set_goals(batch.get_states())
    assert batch.is_solved().all()
    assert (batch.strata(batch.labels(), batch.goal_labels()) == -1).all()


def test_every_domain_of_the_suite_has_a_predicate_and_every_predicate_labels():
    domains = {name.split("-")[0] for name in task_names()}
    assert set(GOALS) == domains
    for domain in sorted(domains - {"dog"}):
        task = next(name.split("-")[1] for name in task_names() if name.startswith(f"{domain}-"))
        labels = LabelTable(domain, Simulator(domain, task).model).names
        assert len(set(labels)) == len(labels)
        for success in GOALS[domain]:
            predicate = Predicate.of(domain, success, labels)
            assert predicate.names
            assert set(predicate.readable_names) <= set(labels)


@pytest.mark.parametrize(
    ("turn_rad", "is_wrapped", "is_solved"),
    [(0.049, True, True), (0.051, True, False), (2 * np.pi, True, True), (2 * np.pi, False, False), (-2 * np.pi - 0.049, True, True)],
)
def test_qpos_match_wants_every_joint_within_its_tolerance_up_to_full_turns_if_wrapped(turn_rad, is_wrapped, is_solved):
    predicate = Predicate.of("reacher", None, ("shoulder_rad", "wrist_rad", "wrist_velocity_rad_s"), is_wrapped=is_wrapped)
    goal = np.array([[3.1, -1.0, 0.0]])
    for joint in (0, 1):
        now = goal + turn_rad * np.eye(3)[joint] + np.array([0, 0, 5.0])
        assert (predicate.distance(now, goal)[0] < 1) == is_solved


def test_strata_tell_far_from_near_by_the_tolerance():
    batch = started("reacher-easy", (1,))
    shoulder = batch.label_names.index("shoulder_rad")
    starts = np.repeat(batch.labels(), 4, 0)
    goals = starts.copy()
    goals[:, shoulder] += [0.04, 0.06, 0.05 * FAR_TOLERANCES - 0.01, 0.05 * FAR_TOLERANCES + 0.01]
    np.testing.assert_array_equal(batch.strata(starts, goals), [-1, 1, 1, 0])


def test_labels_of_a_hinge_agree_with_each_other_and_with_the_place_of_the_finger():
    batch = started("reacher-easy", range(20))
    labels = dict(zip(batch.label_names, batch.labels().T, strict=True))
    np.testing.assert_allclose(
        np.arctan2(labels["shoulder_sin"], labels["shoulder_cos"]), (labels["shoulder_rad"] + np.pi) % (2 * np.pi) - np.pi, atol=1e-6
    )
    elbow, hand = labels["shoulder_rad"], labels["shoulder_rad"] + labels["wrist_rad"]
    np.testing.assert_allclose(labels["finger_x_m"], 0.12 * (np.cos(elbow) + np.cos(hand)), atol=1e-6)
    np.testing.assert_allclose(labels["finger_y_m"], 0.12 * (np.sin(elbow) + np.sin(hand)), atol=1e-6)


def test_setting_a_goal_takes_the_present_of_the_state_and_leaves_the_episode_alone():
    batch, other = started("point_mass-easy"), started("point_mass-easy", (3, 4))
    before = batch.labels()
    batch.set_goals(other.get_states())
    np.testing.assert_array_equal(batch.labels(), before)
    np.testing.assert_array_equal(batch.goal_labels(), other.labels())
    np.testing.assert_array_equal(batch.observe_goals().frames, other.observe().frames)


def test_at_rest_stops_everything_and_moves_nothing():
    batch = started("quadruped-walk")
    for action in random_actions(batch, 5):
        batch.step(action)
    still = make_batch("dmc/quadruped-walk", 2)
    still.set_states(batch.at_rest(batch.get_states()))
    for moving, resting in zip(batch._now, still._now, strict=True):
        part = batch._simulator.part
        assert all(part(moving, name).any() and not part(resting, name).any() for name in ("qvel", "act", "ctrl"))
        np.testing.assert_array_equal(part(moving, "qpos"), part(resting, "qpos"))
        assert moving.env_step == resting.env_step


def test_an_episode_is_truncated_at_the_suites_time_limit_or_where_told():
    assert started("cheetah-run").max_env_steps == 500
    assert started("cheetah-run", action_repeat=3).max_env_steps == 334
    assert started("lqr-lqr_2_1").max_env_steps is None
    batch = started("reacher-easy", max_env_steps=2)
    zero = np.zeros((2, 2))
    assert not (batch.step(zero), batch.is_truncated())[1].any()
    assert (batch.step(zero), batch.is_truncated())[1].all()


def test_an_episode_ends_on_success_only_if_asked():
    for is_terminated in (False, True):
        batch = started("reacher-easy", is_terminated_on_success=is_terminated)
        states = batch.at_rest(batch.get_states())
        batch.set_states(states)
        batch.set_goals(states)
        assert (batch.step(np.zeros((2, 2)))[1] == is_terminated).all()


def test_hidden_geoms_are_not_drawn_and_change_nothing_else():
    seen, hidden = started("reacher-easy", size_px=64), started("reacher-easy", size_px=64, hide_geoms=("target",))
    np.testing.assert_array_equal(seen.labels(), hidden.labels())
    is_red = [(batch.observe().frames[..., 0].astype(int) - batch.observe().frames[..., 2] > 60).sum() for batch in (seen, hidden)]
    assert is_red[0] > is_red[1] + 50


def test_cameras_are_views_by_name_or_number():
    batch = started("cheetah-run", cameras=("back", 0))
    assert batch.observation_spec.cameras == ("back", "side")
    frames = batch.observe().frames
    assert frames.shape == (2, 2, 32, 32, 3)
    np.testing.assert_array_equal(frames[:, 1], started("cheetah-run").observe().frames[:, 0])


def test_the_gymnasium_environment_passes_gymnasiums_own_check():
    task = task_env("reacher-easy")
    gymnasium.register("reacher-easy-v1", entry_point=lambda **options: task(size_px=32, **options))
    try:
        env = gymnasium.make("reacher-easy-v1", render_mode="rgb_array").unwrapped
        check_env(env)
        env.close()
    finally:
        del gymnasium.registry["reacher-easy-v1"]
    assert type(make_env("dmc/reacher-easy")) is task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise_px": 64}, "no option 'sise_px'. Did you mean 'size_px'"),
        ({"size_px": 4}, r"size_px must be a whole number in \[16, 1024\], got 4"),
        ({"cameras": ("hnad",)}, "no camera 'hnad'. Did you mean 'hand'"),
        ({"cameras": (2,)}, "no camera 2"),
        ({"cameras": "fixed"}, "cameras must be a list or tuple"),
        ({"cameras": ()}, "cameras must be one or more different ones"),
        ({"rendering": "quick"}, "rendering must be one of fast, shipped"),
        ({"hide": [["haze"]]}, "hide must hold names only"),
        ({"hide_geoms": [1]}, "hide_geoms must hold names only"),
        ({"success": {}}, "success must be the name of a predicate, got {}"),
        ({"hide": ("hase",)}, "unknown thing 'hase'. Did you mean 'haze'"),
        ({"hide_geoms": ("tarket",)}, "no geom 'tarket' to hide. Did you mean 'target'"),
        ({"success": "qpos"}, "cannot be 'qpos'. Did you mean 'qpos-match'"),
        ({"tolerance_scale": 0}, r"tolerance_scale must be a number in \(0, 1000\]"),
        ({"action_repeat": 0}, "action_repeat must be a whole number"),
        ({"is_wrapped": 1}, "is_wrapped must be True or False"),
        ({"max_env_steps": 0}, "max_env_steps must be a whole number"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_is_allowed(options, message):
    with pytest.raises(EnvError, match=message):
        make_batch("dmc/reacher-easy", 1, **options)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 2\), got float64 \(2, 3\)"),
        (np.full((2, 2), "a"), "actions must be numbers"),
        (np.array([[0, 0], [np.nan, 0]]), r"within \[-1, 1\], got \[nan, 0.0\] for episode 1; clip them"),
        (np.array([[0, 1.001], [0, 0]]), "for episode 0"),
    ],
)
def test_an_action_that_cannot_be_taken_is_refused_and_names_its_episode(actions, message):
    batch = started("reacher-easy")
    before = batch.get_states()
    with pytest.raises(EnvError, match=message):
        batch.step(actions)
    assert batch.get_states() == before


def test_an_action_at_a_bound_that_float32_rounds_up_is_taken():
    batch = started("quadruped-walk", (1,))
    before = batch.get_states()
    batch.step(np.array([batch.action_spec.high], np.float32))
    assert batch.get_states() != before


def test_states_of_other_worlds_versions_and_sizes_are_refused():
    batch = started("reacher-easy", (1,))
    state = batch.get_states()[0]
    cases = [
        (started("reacher-hard", (1,)).get_states()[0], "'dmc/reacher-easy' version 1 is needed, got one of 'dmc/reacher-hard'"),
        (state[:8] + b"\x09" + state[9:], "got one of 'dmc/reacher-easy' version 9"),
        (b"two-room" + state[8:], "not a state of 'dmc/reacher-easy': it begins with b'two-room'"),
        (state[:-1], "damaged"),
        (state + b"x", "damaged: it has"),
        (b"", "not a state"),
        (state.hex(), "must be bytes"),
    ]
    for bad, message in cases:
        with pytest.raises(EnvError, match=message):
            batch.set_states([bad])
    with pytest.raises(EnvError, match="got 2 for 1 episodes"):
        batch.set_goals([state, state])
    assert batch.get_states() == [state]


def test_a_damaged_number_in_a_state_is_found():
    batch = started("pendulum-swingup", (1,))
    state = batch.get_states()[0]
    for place in range(len(state) - 8 * batch._simulator.num_physics, len(state), 64):
        with pytest.raises(EnvError, match="its physics is not finite"):
            batch.set_states([state[:place] + np.array(np.nan).tobytes() + state[place + 8 :]])


def test_a_simulation_that_diverges_is_an_error_and_leaves_the_batch_as_it_was():
    batch = started("cheetah-run")
    simulator = batch._simulator
    fast = simulator.with_part(batch._now[1], qvel=9e9)
    batch._take_over([batch._now[0], fast], batch._goals)
    before = batch.get_states()
    with pytest.raises(EpisodeError, match=r"the simulation diverged: .* \(episode 1 of 0 to 1\)"):
        batch.step(np.zeros((2, 6)))
    assert batch.get_states() == before


def test_an_episode_that_is_over_stays_as_it_is_and_cannot_spoil_the_others():
    batch, alone = started("reacher-easy", is_terminated_on_success=True), started("reacher-easy", (1,))
    states = batch.at_rest(batch.get_states())
    batch.set_states(states)
    batch.set_goals([states[0], states[0]])
    alone.set_states(states[:1])
    batch._goal_labels[0] += 1.0  # not solved
    batch._goal_labels[1] = batch.labels()[1]
    terminated = batch.step(np.zeros((2, 2)))[1]
    assert terminated.tolist() == [False, True]
    alone.step(np.zeros((1, 2)))
    batch._now[1] = batch._simulator.with_part(batch._now[1], qvel=9e9)  # would diverge
    over = batch.get_states()[1]
    for action in random_actions(batch, 3):
        rewards, terminated = batch.step(action)
        alone.step(action[:1])
        assert (rewards[1], terminated.tolist()) == (0, [False, True])
    assert batch.get_states()[1] == over
    np.testing.assert_array_equal(batch.labels()[0], alone.labels()[0])
    batch.set_states(states)
    batch.step(random_actions(batch, 1)[0])
    assert batch.get_states()[1] != over


def test_a_field_that_no_reset_varies_and_one_that_is_not_finite_are_refused_in_a_state():
    batch = started("reacher-easy", (1,))
    now, (state,) = batch._now[0], batch.get_states()
    indices = batch._simulator.field("geom_bodyid")
    infinite = {"geom_pos": np.full_like(now.variation["geom_pos"], np.inf)}
    for variation, message in (({"geom_bodyid": indices + 10**6}, "'geom_bodyid' is none that differs"), (infinite, "'geom_pos' is not finite")):
        foreign = pack(batch.name, dataclasses.replace(now, variation=variation), now)
        with pytest.raises(EnvError, match=message):
            batch.set_states([foreign])
        with pytest.raises(EnvError, match=message):
            batch.set_goals([foreign])
    assert batch.get_states() == [state]


def test_nothing_can_be_asked_of_a_closed_environment():
    batch = started("reacher-easy", (1,))
    states = batch.get_states()
    batch.close()
    asks = (batch.labels, batch.goal_labels, batch.observe, batch.observe_goals, batch.get_states, batch.is_truncated, batch.is_solved)
    takes = (batch.set_states, batch.set_goals, batch.at_rest)
    for ask in (*asks, batch.rendering_description, *(functools.partial(take, states) for take in takes), functools.partial(batch.reset, [1])):
        with pytest.raises(EnvError, match="was closed"):
            ask()
    with pytest.raises(EnvError, match="was closed"):
        batch.step(np.zeros((1, 2)))


def test_nothing_can_be_asked_before_the_first_reset():
    batch = make_batch("dmc/reacher-easy", 1)
    for ask in (batch.labels, batch.observe, batch.get_states, batch.is_truncated, batch.is_solved):
        with pytest.raises(EnvError, match="no episode yet"):
            ask()


@pytest.mark.parametrize("name", ["dmc/reachr-easy", "dmc/reacher", "dmc/reacher/easy"])
def test_an_unknown_task_is_refused_with_the_nearest_one(name):
    with pytest.raises(UnknownNameError, match=r"unknown env .* Known: dmc/acrobot-swingup"):
        make_env(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'dmc/reacher-easy'"):
        make_env("dmc/reachr-easy")


def test_seeds_decide_the_episode():
    states = [started("reacher-easy", (seed,)).get_states()[0] for seed in (1, 2, 2**64 - 1, 1)]
    assert states[0] == states[3]
    assert all(one != other for one, other in itertools.combinations(states[:3], 2))
