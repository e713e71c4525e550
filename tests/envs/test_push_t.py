"""Push-T: the same world as gym-pusht, exact states, goals, options. Frames are in ``test_push_t_drawing.py``."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pymunk
import pytest

import lewm
from lewm.envs.push_t.env import PushT, PushTAbsolute, PushTBatch
from lewm.envs.push_t.geometry import block_centers, distance_to_block
from lewm.envs.push_t.goals import LABEL_NAMES, PREDICATES
from lewm.envs.push_t.layout import PERTURBATIONS
from lewm.envs.push_t.physics import check_pymunk
from lewm.errors import EnvError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pygame's, about how it finds its own data
    import gym_pusht  # noqa: F401  (registers its environment)

ALL = tuple(PERTURBATIONS)
POSES = ("agent_px", "agent_velocity_px_s", "block_px", "block_rad", "block_velocity_px_s", "block_velocity_rad_s")


def gym_pusht_env(**options):
    return gymnasium.make("gym_pusht/PushT-v0", disable_env_checker=True, **({"obs_type": "state"} | options)).unwrapped


def gym_pusht_pose(env):
    agent, block = env.agent, env.block
    return np.array([*agent.position, *agent.velocity, *block.position, block.angle, *block.velocity, block.angular_velocity])


def pose(moment):
    return np.concatenate([np.ravel(moment[name]) for name in POSES])


def started(num_envs=1, name="push-t", **options):
    batch = PushTBatch(num_envs, is_absolute=name != "push-t", **({"size_px": 16} | options))
    batch.reset(range(num_envs))
    return batch


def put(batch, agent=(100.0, 100.0), block=(256.0, 256.0), angle=0.0):
    rows = batch.num_envs
    states = batch.states_at(agent_px=np.tile(agent, (rows, 1)), block_px=np.tile(block, (rows, 1)), block_rad=np.full(rows, angle))
    batch.set_states(states)
    return states


def chasing_targets(batch, step):
    """Targets that run at the block, from another side now and then: contacts at all its edges and with the walls."""
    moments = batch.moments
    aside = 60 * np.stack([np.cos(step // 7 * 2.0 + moments["seed"] % 97), np.sin(step // 7 * 2.0 + moments["seed"] % 97)], -1)
    return np.clip(block_centers(moments) + (aside if step % 7 < 3 else 0), 0, 512)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_thousand_random_actions_lead_where_gym_pusht_goes_to_the_last_bit(seed):
    theirs, ours = gym_pusht_env(), PushTBatch(1, is_absolute=True, size_px=16)
    theirs.reset(seed=seed)
    ours.reset([seed])
    np.testing.assert_array_equal(pose(ours.moments[0]), gym_pusht_pose(theirs))
    for step, action in enumerate(np.random.default_rng(seed).uniform(0, 512, (1000, 2))):
        action = action if step % 4 == 0 else np.array(chasing_targets(ours, step)[0])
        theirs.step(action)
        ours.step(action[None])
        np.testing.assert_array_equal(pose(ours.moments[0]), gym_pusht_pose(theirs))


def test_relative_actions_are_targets_around_the_pusher():
    relative, absolute = started(contacts="remembered"), started(name="absolute")
    put(relative)
    put(absolute)
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 1, 2)):
        target = np.clip(relative.moments["agent_px"] + 100 * action, 0, 512)
        relative.step(action)
        absolute.step(target)
        np.testing.assert_array_equal(pose(relative.moments[0]), pose(absolute.moments[0]))


def test_fresh_contacts_make_little_difference_to_the_env_steps_of_the_data_policy():
    fresh, remembered = started(8), started(8, contacts="remembered")
    policy = PushT.POLICIES["contact"]()
    policy.reset(remembered, range(8), 100)
    differences, moves = [], []
    for _ in range(100):
        actions, before = policy.act(remembered), remembered.moments["block_px"]
        fresh.set_states(remembered.get_states())
        fresh.step(actions)
        remembered.step(actions)
        differences.append(np.abs(fresh.moments["block_px"] - remembered.moments["block_px"]).max(-1))
        moves.append(np.abs(remembered.moments["block_px"] - before).max(-1))
    is_moved = np.array(moves) > 1
    assert is_moved.sum() > 100
    # Nine in ten moves differ by less than 0.1 px; half of the moves are of 8 px and more.
    assert np.quantile(np.array(differences)[is_moved], 0.9) < 0.1
    assert np.median(np.array(moves)[is_moved]) > 5


@pytest.mark.parametrize("contacts", ["fresh", "remembered"])
@pytest.mark.parametrize("name", ["push-t", "push-t-absolute"])
def test_a_state_amid_contacts_continues_exactly_in_a_fresh_batch(name, contacts):
    batch = started(6, name, contacts=contacts, vary=ALL)

    def action(step):
        targets = chasing_targets(batch, step)
        return targets if batch.is_absolute else np.clip((targets - batch.moments["agent_px"]) / 100, -1, 1)

    for step in range(40):
        batch.step(action(step))
    other = PushTBatch(6, is_absolute=batch.is_absolute, size_px=16, contacts=contacts)
    other.set_states(batch.get_states())
    for step in range(40, 60):
        actions = action(step)
        batch.step(actions)
        other.step(actions)
        assert batch.get_states() == other.get_states()
        np.testing.assert_array_equal(batch.observe().frames, other.observe().frames)


def test_a_state_of_one_kind_of_contacts_can_be_taken_up_by_the_other():
    remembered, fresh = started(contacts="remembered"), started(contacts="fresh")
    remembered.step(np.ones((1, 2)))
    fresh.set_states(remembered.get_states())
    np.testing.assert_array_equal(pose(fresh.moments[0]), pose(remembered.moments[0]))
    remembered.set_states(fresh.get_states())
    np.testing.assert_array_equal(pose(fresh.moments[0]), pose(remembered.moments[0]))


def test_an_env_step_of_three_control_steps_is_three_env_steps():
    once, thrice = started(contacts="remembered"), started(contacts="remembered", action_repeat=3)
    action = np.array([[0.5, -0.3]])
    thrice.step(action)
    for _ in range(3):
        once.step(action)
    np.testing.assert_array_equal(pose(once.moments[0]), pose(thrice.moments[0]))
    assert thrice.action_spec.action_repeat == 3


def test_starts_and_goals_are_on_the_table_and_apart_from_the_block():
    batch = started(300, vary=("agent_radius_px", "block_scale_px"))
    for moments in (batch.moments, batch.goal_moments):
        centers, reach = block_centers(moments), 2.55 * moments["block_scale_px"]
        assert (centers - reach[:, None] > 7).all()
        assert (centers + reach[:, None] < 504).all()
        assert (distance_to_block(moments["agent_px"][:, None], moments)[:, 0] > moments["agent_radius_px"] + 9).all()
    assert len(np.unique(batch.moments["block_rad"] // (np.pi / 4))) == 8


def test_the_pusher_stays_on_the_table_unless_targets_are_not_clipped():
    actions = np.tile(np.float32([-1, -1]), (1, 1))
    clipped, free = started(), started(is_target_clipped=False)
    for batch in (clipped, free):
        put(batch, agent=(50.0, 50.0))
        for _ in range(10):
            batch.step(actions)
    assert (clipped.moments["agent_px"] >= 0).all()
    assert (free.moments["agent_px"] < -100).all()


def test_labels_name_the_true_quantities():
    batch = started()
    put(batch, agent=(10.0, 20.0), block=(200.0, 300.0), angle=-np.pi / 2)
    values = dict(zip(batch.label_names, batch.labels()[0], strict=True))
    expected = {"agent_x_px": 10, "agent_y_px": 20, "block_x_px": 200, "block_y_px": 300, "block_rad": 1.5 * np.pi, "block_sin": -1, "block_cos": 0}
    for name in LABEL_NAMES:
        assert values[name] == pytest.approx(expected.get(name, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ("success", "agent", "block", "angle", "is_within"),
    [
        ("official", (112.0, 116.0), (256.0, 256.0), 0.0, False),  # 12, 16: exactly 20 px
        ("official", (111.9, 116.0), (256.0, 256.0), 0.0, True),
        ("official", (110.0, 110.0), (266.0, 266.0), 0.0, False),  # 10 px four times is 20 px
        ("official", (100.0, 100.0), (256.0, 256.0), 2 * np.pi - np.deg2rad(19.9), True),  # the short way round
        ("official", (100.0, 100.0), (256.0, 256.0), np.deg2rad(20.1), False),
        ("heldout", (100.0, 100.0), (256.0, 275.0), 0.0, True),
        ("clear-moderate", (100.0, 100.0), (256.0, 277.0), 0.0, False),
        ("clear-strict", (400.0, 400.0), (256.0, 265.9), np.deg2rad(9.9), True),  # the pusher does not count
        ("clear-strict", (100.0, 100.0), (256.0, 266.1), 0.0, False),
        ("clear-strict", (100.0, 100.0), (256.0, 256.0), np.deg2rad(10.1), False),
    ],
)
def test_predicates_have_the_tolerances_that_they_say(success, agent, block, angle, is_within):
    batch = started(success=success)
    goal = put(batch)
    put(batch, agent, block, angle)
    batch.set_goals(goal)
    assert bool(PREDICATES[success].is_within(batch.labels(), batch.labels())[0])
    hold = PREDICATES[success].hold_env_steps
    for _ in range(hold - 1):
        assert not batch.is_solved()[0]
        batch.step(np.zeros((1, 2)))
    assert batch.is_solved()[0] == is_within


def test_the_strict_predicate_counts_env_steps_on_end_and_its_state_knows_them():
    batch = started(success="clear-strict")
    batch.set_goals(put(batch))
    batch.step(np.zeros((1, 2)))
    other = started(success="clear-strict")
    other.set_states(batch.get_states())
    assert not other.is_solved()[0]
    other.step(np.zeros((1, 2)))
    assert other.is_solved()[0]


def test_the_headline_stratum_is_the_pairs_whose_block_must_move():
    batch = started()
    labels = np.zeros((6, len(LABEL_NAMES)), np.float32)
    labels[:, :4] = 200
    goals = labels.copy()
    angle = LABEL_NAMES.index("block_rad")
    goals[0, 2] += 30  # block elsewhere
    goals[1, angle] = 0.5  # block turned
    goals[2, 0] += 100  # only the pusher elsewhere
    goals[3, :4] += 5  # solved
    goals[4, 2] = 600  # off the table
    goals[5, angle] = 2 * np.pi - 0.1  # solved, the short way round
    np.testing.assert_array_equal(batch.strata(labels, goals), [0, 0, 1, -1, -1, -1])


def test_rest_takes_velocities_out_of_both_moments_and_the_past_out_of_the_state():
    batch = started(contacts="remembered")
    batch.step(np.ones((1, 2)))
    batch.set_goals(batch.get_states())
    (resting,) = batch.at_rest(batch.get_states())
    other = started(contacts="remembered")
    other.set_states([resting])
    for moments in (other.moments, other.goal_moments):
        np.testing.assert_array_equal(pose(moments[0])[[2, 3, 7, 8, 9]], 0)
    assert len(resting) < len(batch.get_states()[0])


@pytest.mark.parametrize("name", ALL)
def test_a_varied_perturbation_differs_between_episodes_and_stays_in_its_range(name):
    moments = started(100, vary=(name,)).moments
    values = moments[name].reshape(100, -1).astype(float)
    assert (values >= PERTURBATIONS[name].low).all()
    assert (values <= PERTURBATIONS[name].high).all()
    assert (values.std(0) > 0.2 * (np.array(PERTURBATIONS[name].high) - PERTURBATIONS[name].low)).all()
    assert all((moments[other] == moments[other][0]).all() for other in ALL if other != name)


def test_friction_drags_a_block_that_is_grazed_along():
    places = []
    for friction in (0.0, 1.0):
        batch = started(friction=friction)
        put(batch, agent=(160.0, 238.0), block=(256.0, 256.0))  # along the bar's outer edge, 3 px deep
        for _ in range(5):
            batch.step(np.array([[1.0, 0.05]]))
        places.append(batch.moments["block_px"][0, 0])
    assert places[1] > places[0] + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_px": 8}, r"size_px must be a whole number in \[16, 1024\], got 8"),
        ({"rendering": "fast"}, "rendering must be one of smooth, sampled; got 'fast'"),
        ({"contacts": None}, "contacts must be one of remembered, fresh; got None"),
        ({"success": "offical"}, "success must be one of official, heldout, clear-moderate, clear-strict; got 'offical'"),
        ({"with_goal_zone": 1}, "with_goal_zone must be True or False, got 1"),
        ({"action_repeat": 0}, r"action_repeat must be a whole number in \[1, 100\], got 0"),
        ({"supersampling": 2.0}, r"supersampling must be a whole number in \[1, 8\], got 2.0"),
        ({"vary": "friction"}, "vary must be a tuple of names"),
        ({"vary": ("frction",)}, "unknown perturbation 'frction'. Did you mean 'friction'"),
        ({"friction": 2.0}, r"friction must be in \[0, 1\], got 2"),
        ({"block_color": (250, 250, 250)}, "block_color .* cannot be told from background_color"),
        ({"dampng": 0}, "env 'push-t' has no option 'dampng'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_is_allowed(options, message):
    with pytest.raises(EnvError, match=message):
        PushT(**options)


@pytest.mark.parametrize(("agent", "block"), [((50.0, 50.0), (600.0, 256.0)), ((-3.0, 50.0), (300.0, 256.0))])
def test_a_goal_whose_block_or_pusher_is_off_the_table_is_refused_and_in_no_stratum(agent, block):
    batch = started()
    before, labels = batch.get_states(), batch.labels()
    outside = batch.states_at(agent_px=np.array([agent]), block_px=np.array([block]), block_rad=np.zeros(1))
    with pytest.raises(EnvError, match=r"a goal's pusher and block must be on the table, within \[0, 512\] px, got"):
        batch.set_goals(outside)
    assert batch.get_states() == before
    batch.set_states(outside)
    assert batch.strata(labels, batch.labels())[0] == batch.strata(batch.labels(), labels)[0] == -1


def test_poses_that_are_no_numbers_are_refused():
    with pytest.raises(EnvError, match=r"agent_px must be finite numbers of shape \(1, 2\), got \[\[nan, 0.0\]\]"):
        started().states_at(agent_px=np.array([[np.nan, 0.0]]), block_px=np.zeros((1, 2)), block_rad=np.zeros(1))


def test_a_state_of_another_version_is_refused():
    (state,) = started().get_states()
    with pytest.raises(EnvError, match="a state of 'push-t' must have version 1, got 2"):
        started().set_states([state[:16] + b"\x02\x00" + state[18:]])


def test_a_state_with_a_single_changed_byte_is_refused():
    (state,) = started().get_states()
    with pytest.raises(EnvError, match="damaged"):
        started().set_states([state[:40] + bytes([state[40] ^ 1]) + state[41:]])


def test_a_state_of_the_other_push_t_is_refused():
    with pytest.raises(EnvError, match="not a state of 'push-t'"):
        started().set_states(started(name="absolute").get_states())


@pytest.fixture
def unchecked():
    """What is known of the installed pymunk is forgotten, before and after."""
    check_pymunk.cache_clear()
    yield
    check_pymunk.cache_clear()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("env", [PushT, PushTAbsolute])
def test_a_pymunk_of_another_version_is_refused_by_name(env, monkeypatch):
    monkeypatch.setattr("lewm.envs.push_t.physics.pymunk.version", "8.1.0")
    with pytest.raises(EnvError, match=r"needs pymunk 6 or 7 and 8\.1\.0 is installed: pip install 'lewm\[push-t\]'"):
        env()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("env", [PushT, PushTAbsolute])
def test_a_pymunk_with_other_physics_is_refused_by_name_whatever_its_version(env, monkeypatch):
    step = pymunk.Space.step
    monkeypatch.setattr(pymunk.Space, "step", lambda space, duration_s: step(space, 0.999 * duration_s))
    with pytest.raises(EnvError, match=r"pymunk 6\..* has other physics than Push-T was made with: a push ends at"):
        env()


def test_without_pymunk_the_extra_is_named():
    program = "import sys; sys.modules['pymunk'] = None; import lewm; lewm.make_env('push-t')"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "env 'push-t' needs 'pymunk': pip install 'lewm[push-t]'" in found.stderr


def test_results_record_the_pymunk_that_simulated():
    from lewm.versions import other_simulators, versions

    assert versions()["pymunk"].startswith("6.")
    assert "pymunk 6.5 there" in other_simulators("push-t", {"pymunk": "6.5"})


def test_policies_refuse_another_world():
    with pytest.raises(EnvError, match="need a PushTBatch, got SimpleNamespace"):
        PushT.POLICIES["contact"]().reset(SimpleNamespace(num_envs=1), [0], 5)


def test_the_environment_is_made_by_its_name():
    assert isinstance(lewm.make_env("push-t-absolute", size_px=16), PushTAbsolute)
