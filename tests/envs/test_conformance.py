"""What every environment of the table promises, whichever world it is: a new one is tested by its line in the table.

Axes: N env step, E episode, a action, s label. By default a few environments of each family; the others are marked slow.
"""

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import lewm
from lewm.envs.base import GoalEnv, GoalEnvBatch
from lewm.errors import EnvError, MissingExtraError
from lewm.registry import ENVS

QUICK = (
    "two-room",
    "push-t",
    "push-t-absolute",
    "dmc/cartpole-swingup",
    "dmc/cheetah-run",
    "dmc/manipulator-bring_ball",
    "dmc/point_mass-easy",
    "dmc/reacher-easy",
    "atari/breakout",
    "atari/freeway",
    "atari/ms_pacman",
    "atari/pong",
    "ogbench/cube-single",
    "ogbench/pointmaze-medium",
    "stress/distractor/two-room",
)
"""Tested by default: one and several joints, contacts, objects; games with and without FIRE, x, y or both to reach."""
LENT = ("two-room", "push-t", "dmc/reacher-easy", "atari/pong", "ogbench/cube-single", "ogbench/pointmaze-medium")
"""One of each way to borrow from the operating system."""
OWN = [name for name in ENVS if ENVS.entry(name).target.startswith("lewm.")]
"""Names and families of lewm's table, without what other packages and other tests have added."""
NUM_UNREAD_BYTES = {"atari/pitfall2": 1, "atari/miniature_golf": 4}
"""Bytes of the emulator's states that ale-py does not restore; nothing that can be seen follows from them."""
CHECKSUM_BYTES = 16
OPTIONS = {"size_px": 32}
SEEDS = (7, 8, 9)


def marked(name: str, *marks: pytest.MarkDecorator) -> pytest.param:
    """A parameter with the marks that a name's extra asks for."""
    by_extra = {"dmc": [pytest.mark.mujoco], "ogbench": [pytest.mark.mujoco], "atari": [pytest.mark.atari]}
    return pytest.param(name, marks=[*by_extra.get(ENVS.entry(name).extra, []), *marks])


def environments() -> Iterator[pytest.param]:
    """One parameter for each environment; a family whose extra is missing stands for itself, and fails."""
    for own in OWN:
        try:
            names = [own + member for member in ENVS.members(own)] or [own]
        except MissingExtraError:
            yield marked(own)
            continue
        for name in names:
            yield marked(name) if name in QUICK else marked(name, pytest.mark.slow)


@dataclass(frozen=True, kw_only=True)
class World:
    """One environment, as Gymnasium has it and as a batch of three; each test starts its own episodes."""

    name: str
    env: GoalEnv
    batch: GoalEnvBatch


@pytest.fixture(scope="module", params=environments())
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    name = request.param
    spec = EnvSpec(
        id="Conformance-v0", entry_point=functools.partial(lewm.make_env, name), kwargs=OPTIONS, order_enforce=False, disable_env_checker=True
    )
    env = gymnasium.make(spec, render_mode="rgb_array").unwrapped
    batch = lewm.make_batch(name, len(SEEDS), **OPTIONS)
    yield World(name=name, env=env, batch=batch)
    env.close()
    batch.close()


def random_actions(batch: GoalEnvBatch, num_env_steps: int, seed: int = 0) -> np.ndarray:
    """[N, E], or [N, E, a] where actions are continuous."""
    spec, generator = batch.action_spec, np.random.default_rng(seed)
    if spec.kind == "discrete":
        return generator.integers(spec.num_choices, size=(num_env_steps, batch.num_envs))
    return generator.uniform(spec.low, spec.high, (num_env_steps, batch.num_envs, spec.dimension)).astype(np.float32)


def play(batch: GoalEnvBatch, actions: np.ndarray) -> list[tuple[bytes, ...]]:
    """All that can be seen of each env step."""
    trace = []
    for action in actions:
        rewards, terminated = batch.step(action)
        seen = (batch.observe().frames, batch.labels(), batch.is_solved(), batch.is_truncated())
        trace.append(tuple(array.tobytes() for array in (rewards, terminated, *seen)))
    return trace


def assert_equal_states(name: str, env: GoalEnv, other: GoalEnv) -> None:
    """The same bytes, but for the few that are known to mean nothing."""
    states = [np.frombuffer(one.get_state(), np.uint8) for one in (env, other)]
    num_unread = NUM_UNREAD_BYTES.get(name, 0)
    assert len(states[0]) == len(states[1])
    assert (states[0] != states[1]).sum() <= (num_unread + CHECKSUM_BYTES if num_unread else 0)


@functools.cache
def state_of(name: str) -> bytes:
    """A state of the environment called ``name``, made for others to refuse."""
    env = lewm.make_env(name, **OPTIONS)
    env.reset(seed=0)
    state = env.get_state()
    env.close()
    return state


def foreign_states(name: str) -> dict[str, bytes]:
    """States of other environments: another world's and, in a family, a sibling's."""
    family = name[: name.find("/") + 1]
    siblings = [f"{family}{member}" for member in (ENVS.members(family)[:2] if family else [])]
    return {other: state_of(other) for other in ("two-room", *siblings) if other != name}


def test_gymnasium_finds_nothing_to_complain_about(world: World, recwarn: pytest.WarningsRecorder) -> None:
    check_env(world.env)
    # Actions are in the world's own units, and nothing bounds what a body feels: Gymnasium would have both within [-1, 1].
    unavoidable = re.compile("For Box action spaces, we recommend|A Box observation space m(in|ax)imum value is -?infinity")
    assert [str(warning.message) for warning in recwarn if not unavoidable.search(str(warning.message))] == []


def test_the_same_seeds_and_actions_give_the_same_episodes_whatever_was_played_before(world: World) -> None:
    batch, traces = world.batch, []
    for _ in range(2):
        batch.reset(SEEDS)
        start = batch.observe().frames.tobytes(), batch.labels().tobytes(), batch.observe_goals().frames.tobytes()
        traces.append((start, play(batch, random_actions(batch, 8)), batch.get_states()))
    assert traces[0] == traces[1]


def test_another_seed_gives_another_episode(world: World) -> None:
    world.batch.reset(SEEDS)
    assert len(set(world.batch.get_states())) == len(SEEDS)


def test_an_episode_alone_is_the_same_as_in_a_batch(world: World) -> None:
    env, batch, row = world.env, world.batch, 1
    batch.reset(SEEDS)
    observation, _ = env.reset(seed=SEEDS[row])
    np.testing.assert_array_equal(observation["frames"], batch.observe().frames[row])
    np.testing.assert_array_equal(env.goal_frame(), batch.observe_goals().frames[row])
    for actions in random_actions(batch, 8):
        rewards, terminated = batch.step(actions)
        observation, reward, is_terminated, is_truncated, info = env.step(actions[row])
        np.testing.assert_array_equal(observation["frames"], batch.observe().frames[row])
        np.testing.assert_array_equal(info["labels"], batch.labels()[row])
        assert (reward, is_terminated, is_truncated) == (rewards[row], terminated[row], batch.is_truncated()[row])
        assert info["is_solved"] == env.is_solved() == batch.is_solved()[row]
    assert env.get_state() == batch.get_states()[row]


def test_a_state_continues_exactly_in_a_fresh_environment(world: World) -> None:
    env, actions = world.env, random_actions(world.batch, 25)[:, 0]
    env.reset(seed=SEEDS[0])
    for action in actions[:5]:
        env.step(action)
    fresh = lewm.make_env(world.name, **OPTIONS)
    fresh.set_state(env.get_state())
    assert_equal_states(world.name, env, fresh)
    np.testing.assert_array_equal(fresh.goal_frame(), env.goal_frame())
    for action in actions[5:]:
        (one, *ends, _), (other, *other_ends, _) = env.step(action), fresh.step(action)
        np.testing.assert_array_equal(one["frames"], other["frames"])
        np.testing.assert_array_equal(env.labels(), fresh.labels())
        assert ends == other_ends
        assert_equal_states(world.name, env, fresh)
    fresh.close()


def test_looking_changes_nothing(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    play(batch, random_actions(batch, 2))
    batch.reset(SEEDS)
    before = batch.get_states()
    for look in (batch.observe, batch.observe_goals, batch.labels, batch.is_solved, batch.is_truncated):
        first, again = look(), look()
        assert getattr(first, "frames", first).tobytes() == getattr(again, "frames", again).tobytes()
    assert batch.get_states() == before


def test_a_goal_is_solved_in_its_own_state_and_looks_like_it_or_is_refused_where_no_label_decides(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    play(batch, random_actions(batch, 5))
    if not batch.goal_label_names:
        with pytest.raises(EnvError, match=f"{world.name!r} has no goal labels"):
            batch.set_goals(batch.get_states())
        assert not batch.is_solved().any()
        return
    batch.set_goals(batch.get_states())
    assert batch.is_solved().all()
    np.testing.assert_array_equal(batch.observe_goals().frames, batch.observe().frames)


def test_the_goal_that_a_reset_draws_is_not_where_episodes_start(world: World) -> None:
    world.batch.reset(SEEDS)
    is_solved = world.batch.is_solved()
    # In a game the goal is where chance leads, which now and then is no way off.
    assert not (is_solved.all() if world.name.startswith("atari/") else is_solved.any())


def test_a_pair_of_equal_labels_is_in_no_stratum_and_a_solved_pair_neither(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    starts, states = batch.labels(), batch.get_states()
    np.testing.assert_array_equal(batch.strata(starts, starts), np.full(len(SEEDS), -1))
    play(batch, random_actions(batch, 8))
    strata = batch.strata(batch.labels(), starts)
    assert strata.shape == (len(SEEDS),)
    assert strata.dtype == np.int64
    assert ((strata >= -1) & (strata < max(len(type(world.env).STRATA), 1))).all()
    if batch.goal_label_names:
        batch.set_goals(states)
        assert (strata[batch.is_solved()] == -1).all()


def test_rest_is_the_same_twice_or_has_no_meaning(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    play(batch, random_actions(batch, 5))
    resting, refusal = None, ""
    try:
        resting = batch.at_rest(batch.get_states())
    except EnvError as error:
        refusal = str(error)
    if resting is None:
        assert f"{world.name!r} has no state at rest" in refusal
        return
    assert batch.at_rest(resting) == resting
    batch.set_states(resting)
    assert batch.get_states() == resting


def test_labels_are_finite_numbers_with_a_name_each(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    for actions in random_actions(batch, 5):
        batch.step(actions)
        labels = batch.labels()
        assert labels.shape == (len(SEEDS), len(batch.label_names))
        assert labels.dtype == np.float32
        assert np.isfinite(labels).all()
    assert world.env.label_names == batch.label_names


def test_label_names_differ_and_goals_are_told_by_some_of_them(world: World) -> None:
    names = world.batch.label_names
    assert names
    assert len(set(names)) == len(names)
    assert set(world.batch.goal_label_names) <= set(names)


def test_frames_are_pictures_of_the_promised_shape_and_can_be_drawn_into_a_given_array(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    play(batch, random_actions(batch, 5))
    shape = (len(SEEDS), *batch.observation_spec.frame_shape)
    for frames in (batch.observe().frames, batch.observe_goals().frames):
        assert frames.shape == shape
        assert frames.dtype == np.uint8
        # A game may show nothing for a while.
        assert any(len(np.unique(frame)) > 1 for frame in frames)
    out = np.zeros(shape, np.uint8)
    assert batch.observe(out=out).frames is out
    np.testing.assert_array_equal(out, batch.observe().frames)
    with pytest.raises(EnvError, match="out must be"):
        batch.observe(out=np.zeros(shape, np.float32))


def test_a_step_gives_one_reward_and_two_ends_for_each_episode(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    rewards, terminated = batch.step(random_actions(batch, 1)[0])
    for array, dtype in ((rewards, np.float32), (terminated, np.bool_), (batch.is_truncated(), np.bool_), (batch.is_solved(), np.bool_)):
        assert array.shape == (len(SEEDS),)
        assert array.dtype == dtype
    assert np.isfinite(rewards).all()


def test_an_action_that_cannot_be_taken_is_refused_and_changes_nothing(world: World) -> None:
    batch, spec = world.batch, world.batch.action_spec
    batch.reset(SEEDS)
    good, before = random_actions(batch, 1)[0], batch.get_states()
    bad = [good[:1], good[..., None], np.full(good.shape, "a"), np.zeros(good.shape, bool), np.full(good.shape, np.nan)]
    if spec.kind == "discrete":
        places, values = (1,), (-1, spec.num_choices)
        bad.append(good.astype(np.float32))
    else:
        places, values = (1, 0), (spec.low[0] - 0.01, spec.high[0] + 0.01, np.nan, np.inf)
    for value in values:
        bad.append(good.copy())
        bad[-1][places] = value
    for actions in bad:
        with pytest.raises(EnvError, match="actions must be"):
            batch.step(actions)
        assert batch.get_states() == before


def test_a_state_of_another_environment_is_refused_and_changes_nothing(world: World) -> None:
    env = world.env
    env.reset(seed=SEEDS[0])
    before = env.get_state()
    for state in foreign_states(world.name).values():
        for take in (env.set_state, env.set_goal) if world.batch.goal_label_names else (env.set_state,):
            with pytest.raises(EnvError, match=r"not a state of|is needed, got one of|this state has game"):
                take(state)
            assert env.get_state() == before


def test_damaged_states_are_refused_and_change_nothing(world: World) -> None:
    env = world.env
    env.reset(seed=SEEDS[0])
    state = env.get_state()
    noise = np.random.default_rng(0).bytes(len(state))
    cut = [state[:length] for length in (0, 1, 8, 10, 16, 40, len(state) // 2, len(state) - 1)]
    for damaged in (*cut, noise, state + b"x", state[: len(state) // 2] + noise[len(state) // 2 :], state.hex()):
        with pytest.raises(EnvError, match=r"state|position|must be in"):
            env.set_state(damaged)
    assert env.get_state() == state


def test_counts_seeds_and_options_that_make_no_sense_are_refused(world: World) -> None:
    batch = world.batch
    batch.reset(SEEDS)
    before = batch.get_states()
    for seed in (-1, 2**64):
        with pytest.raises(EnvError, match=r"a seed must be in \[0, 2\*\*64\)"):
            batch.reset([1, seed, 2])
    with pytest.raises(EnvError, match="seeds: got 2 for 3 episodes"):
        batch.reset(SEEDS[:2])
    with pytest.raises(EnvError, match="states: got 2 for 3 episodes"):
        batch.set_states(before[:2])
    assert batch.get_states() == before
    with pytest.raises(EnvError, match="num_envs must be at least 1, got 0"):
        lewm.make_batch(world.name, 0, **OPTIONS)
    with pytest.raises(EnvError, match="Did you mean 'size_px'"):
        lewm.make_env(world.name, sise_px=32)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists a process's files and threads")
@pytest.mark.parametrize("name", [marked(name) for name in LENT])
def test_a_closed_environment_leaves_no_file_and_no_thread_behind(name: str) -> None:
    counts = []
    for _ in range(6):
        batch = lewm.make_batch(name, 2, **OPTIONS)
        batch.reset(SEEDS[:2])
        batch.step(random_actions(batch, 1)[0])
        batch.observe()
        batch.observe_goals()
        batch.close()
        batch.close()
        counts.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
    # What the first one opens for good, such as a display, may stay.
    assert counts[-1] <= counts[1]
