"""The Atari family: names, exact states, goals, labels and the loop that an env step stands for."""

import json
from importlib.resources import files

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import lewm
from lewm.envs.atari.batch import AtariBatch
from lewm.envs.atari.env import game_env, game_names
from lewm.envs.policies import BlockRandomPolicy
from lewm.errors import EnvError, UnknownNameError

pytestmark = pytest.mark.atari

EXACT_GAMES = ("pong", "breakout", "ms_pacman", "qbert", "amidar")
"""The last two continue wrongly, or start with another first frame, when ALE's own state is restored without preparing the console."""


def make(game: str, num_envs: int = 1, **options: object) -> AtariBatch:
    batch = lewm.make_batch(f"atari/{game}", num_envs, **options)
    assert isinstance(batch, AtariBatch)
    return batch


def play(batch: AtariBatch, actions: np.ndarray) -> list[tuple[bytes, ...]]:
    """What can be seen of each env step: frames, rewards, ends and labels."""
    trace = []
    for choices in actions:
        rewards, terminated = batch.step(choices)
        trace.append((batch.observe().frames.tobytes(), rewards.tobytes(), terminated.tobytes(), batch.labels().tobytes()))
    return trace


def choices(batch: AtariBatch, num_env_steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(batch.action_spec.num_choices, size=(num_env_steps, batch.num_envs))


def test_both_spellings_of_a_game_are_the_same_environment() -> None:
    assert game_env("mspacman") is game_env("ms_pacman")
    assert game_env("mspacman").NAME == "atari/ms_pacman"
    assert "ms_pacman" in game_names()
    assert "mspacman" not in game_names()


def test_an_unknown_game_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown env 'atari/pongg'\. Did you mean 'atari/pong'\?"):
        lewm.make_batch("atari/pongg", 1)


def test_a_game_that_needs_two_players_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="unknown env 'atari/combat'"):
        game_env("combat")


@pytest.mark.slow
def test_every_game_of_the_label_table_has_labels_and_lives() -> None:
    table = json.loads(files("lewm.envs").joinpath("atari_ram.json").read_text())["games"]
    spellings = {name.replace("_", ""): name for name in game_names()}
    assert set(table) <= set(spellings)
    for game in table:
        assert make(spellings[game]).label_names[-1] == "lives"


def test_the_gymnasium_environment_passes_gymnasiums_own_check() -> None:
    env = game_env("pong")(size_px=32)
    check_env(env, skip_render_check=True)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_spec.action_repeat == 4
    env.close()


@pytest.mark.parametrize("game", EXACT_GAMES)
@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_a_state_continues_exactly_in_a_fresh_console(game: str, probability: float) -> None:
    batch, fresh = (make(game, repeat_action_probability=probability) for _ in range(2))
    batch.reset([5])
    play(batch, choices(batch, 20))
    states = batch.get_states()
    fresh.set_states(states)
    assert fresh.observe().frames.tobytes() == batch.observe().frames.tobytes()
    actions = choices(batch, 20, seed=1)
    assert play(fresh, actions) == play(batch, actions)
    assert fresh.get_states() == batch.get_states()
    assert fresh.observe_goals().frames.tobytes() == batch.observe_goals().frames.tobytes()


@pytest.mark.parametrize("game", EXACT_GAMES)
def test_a_seed_gives_the_same_episode_whatever_the_console_did_before(game: str) -> None:
    used, fresh = (make(game, max_num_noops=0) for _ in range(2))
    used.reset([1])
    play(used, choices(used, 15))
    used.reset([2])
    fresh.reset([2])
    assert used.observe().frames.tobytes() == fresh.observe().frames.tobytes()
    actions = choices(fresh, 10, seed=1)
    assert play(used, actions) == play(fresh, actions)


def test_an_episode_does_not_depend_on_its_batch_mates() -> None:
    together, alone = make("breakout", 3, repeat_action_probability=0.25), make("breakout", 1, repeat_action_probability=0.25)
    together.reset([7, 8, 9])
    alone.reset([8])
    actions = choices(together, 25)
    for row in actions:
        together.step(row)
        alone.step(row[1:2])
        assert np.array_equal(together.observe().frames[1], alone.observe().frames[0])
    assert together.get_states()[1] == alone.get_states()[0]
    assert np.array_equal(together.observe_goals().frames[1], alone.observe_goals().frames[0])


def test_sticky_actions_change_the_game_and_depend_on_the_seed() -> None:
    batch = make("breakout", 3, repeat_action_probability=0.9, max_num_noops=0)
    batch.reset([1, 2, 1])
    actions = np.repeat(choices(batch, 40)[:, :1], 3, axis=1)
    play(batch, actions)
    first, second, third = batch.labels()
    assert np.array_equal(first, third)
    assert not np.array_equal(first, second)


def test_sticky_actions_repeat_at_the_asked_rate() -> None:
    batch = make("pong", repeat_action_probability=0.25)
    batch.reset([3])
    console = batch._consoles[0]
    assert np.mean([console._keeps_action(frame) for frame in range(20_000)]) == pytest.approx(0.25, abs=0.015)  # 5 standard deviations


def test_the_seed_decides_how_long_the_console_waits() -> None:
    batch = make("pong", 8, max_num_noops=30)
    batch.reset(range(8))
    frames = [console.emulator.ale.getEpisodeFrameNumber() for console in batch._consoles]
    batch._consoles[0].emulator.restart()
    waits = np.array(frames) - batch._consoles[0].emulator.ale.getEpisodeFrameNumber()
    assert waits.min() >= 0
    assert waits.max() <= 30
    assert len(set(waits.tolist())) > 3
    batch.close()


def test_states_of_another_game_option_or_version_and_damaged_ones_are_refused() -> None:
    pong, breakout, slow = make("pong"), make("breakout"), make("pong", frame_skip=2)
    pong.reset([0])
    (state,) = pong.get_states()
    with pytest.raises(EnvError, match="this state has game = 'pong', and this environment 'breakout'"):
        breakout.set_states([state])
    with pytest.raises(EnvError, match="this state has frame_skip = 4, and this environment 2"):
        slow.set_states([state])
    with pytest.raises(EnvError, match=r"this Atari state of \d+ bytes is damaged"):
        pong.set_states([state[:-1]])
    with pytest.raises(EnvError, match="must have version 1, got version 9"):
        pong.set_states([state[:8] + b"\x09\x00" + state[10:]])
    with pytest.raises(EnvError, match="not a state of an Atari environment"):
        pong.set_states([b"two-room" + state[8:]])
    with pytest.raises(EnvError, match="a state must be bytes"):
        pong.set_states([state.hex()])  # type: ignore[list-item]
    with pytest.raises(EnvError, match="states: got 2 for 1 episodes"):
        pong.set_states([state, state])


def test_a_state_does_not_depend_on_the_size_of_the_frames() -> None:
    small, native = make("pong", size_px=32), make("pong", size_px=None)
    small.reset([4])
    native.set_states(small.get_states())
    assert native.get_states() == small.get_states()
    assert native.observe().frames.shape == (1, 1, 210, 160, 3)


def test_a_goal_is_reached_in_its_own_state_and_not_far_from_it() -> None:
    batch = make("pong", 2)
    batch.reset([1, 2])
    play(batch, np.full((10, 2), 2))
    goals, goal_labels, goal_frames = batch.get_states(), batch.labels(), batch.observe().frames
    batch.set_goals(goals)
    assert batch.is_solved().all()
    play(batch, np.full((15, 2), 3))
    assert not batch.is_solved().any()
    assert np.array_equal(batch.observe_goals().frames, goal_frames)
    assert batch.strata(batch.labels(), goal_labels).tolist() == [0, 0]
    assert batch.strata(goal_labels, goal_labels).tolist() == [-1, -1]


def test_the_goal_travels_with_the_state() -> None:
    batch, fresh = make("pong"), make("pong")
    batch.reset([1])
    play(batch, np.full((10, 1), 2))
    goal_frame = batch.observe().frames
    batch.set_goals(batch.get_states())
    play(batch, np.full((5, 1), 3))
    fresh.set_states(batch.get_states())
    assert np.array_equal(fresh.observe_goals().frames, goal_frame)
    assert np.array_equal(fresh.is_solved(), batch.is_solved())


def test_strata_split_at_five_tolerances_and_refuse_solved_pairs() -> None:
    batch = make("ms_pacman", goal_tolerance=2.0)
    start = np.zeros((5, len(batch.label_names)), np.float32)
    goal = start.copy()
    goal[:, batch.label_names.index("player_y")] = [0, 2, 3, 9, 10]
    assert batch.strata(start, goal).tolist() == [-1, -1, 1, 1, 0]
    assert batch.goal_label_names == ("player_x", "player_y")


def test_the_tolerance_is_inclusive() -> None:
    batch = make("pong", goal_labels=["ram_000"], with_ram=True, goal_tolerance=3.0)
    start = np.zeros((2, len(batch.label_names)), np.float32)
    goal = start.copy()
    goal[:, batch.label_names.index("ram_000")] = [3, 4]
    assert batch.strata(start, goal).tolist() == [-1, 1]


def test_the_default_goal_is_decided_by_the_seed_alone() -> None:
    first, second = make("ms_pacman", 2), make("ms_pacman", 1)
    first.reset([1, 2])
    play(first, choices(first, 5))
    second.reset([2])
    assert np.array_equal(first.observe_goals().frames[1], second.observe_goals().frames[0])


def test_a_game_without_a_label_table_needs_goal_labels_for_goals() -> None:
    batch = make("alien")
    batch.reset([0])
    assert batch.label_names == ("lives",)
    assert not batch.is_solved().any()
    with pytest.raises(EnvError, match="'atari/alien' has no goal labels"):
        batch.set_goals(batch.get_states())
    named = make("alien", with_ram=True, goal_labels=["ram_045"])
    named.reset([0])
    named.set_goals(named.get_states())
    assert named.is_solved().all()


def test_labels_are_the_bytes_of_ram_and_the_lives() -> None:
    batch = make("breakout", 2, with_ram=True)
    batch.reset([0, 1])
    play(batch, choices(batch, 10))
    table = json.loads(files("lewm.envs").joinpath("atari_ram.json").read_text())["games"]["breakout"]
    for row, console in zip(batch.labels(), batch._consoles, strict=True):
        ale = console.emulator.ale
        assert row[batch.label_names.index("player_x")] == ale.getRAM()[table["player_x"][0]]
        assert row[batch.label_names.index("lives")] == ale.lives() == 5
        assert np.array_equal(row[batch.label_names.index("ram_000") :], ale.getRAM())


def test_random_play_ends_when_the_game_is_over_and_then_stands_still() -> None:
    batch = make("breakout", size_px=16, frame_skip=20)
    batch.reset([0])
    policy = BlockRandomPolicy(hold_env_steps=1)
    policy.reset(batch, [0], 500)
    lives = []
    for _ in range(500):
        _, terminated = batch.step(policy.act(batch))
        lives.append(batch.labels()[0, batch.label_names.index("lives")])
        if terminated[0]:
            break
    assert terminated[0]
    assert lives[0] == 5
    assert lives[-1] == 0
    before = batch.get_states(), batch.observe().frames
    rewards, terminated = batch.step(np.array([1]))
    assert rewards[0] == 0
    assert terminated[0]
    assert batch.get_states() == before[0]
    batch.reset([1])
    assert not batch.step(np.array([0]))[1].any()


def test_losing_a_life_ends_the_episode_only_when_asked() -> None:
    forever, once = make("breakout", frame_skip=20), make("breakout", frame_skip=20, is_terminated_on_life_loss=True)
    for batch in (forever, once):
        batch.reset([0])
    for row in choices(forever, 60):
        has_ended = once.step(row)[1][0]
        forever_ended = forever.step(row)[1][0]
        if has_ended:
            break
    assert has_ended
    assert not forever_ended
    assert forever.labels()[0, forever.label_names.index("lives")] == 4


def test_an_episode_is_truncated_after_max_env_steps_and_not_before() -> None:
    batch = make("pong", max_env_steps=3, frame_skip=1)
    batch.reset([0])
    found = [batch.step(np.array([0])) is not None and bool(batch.is_truncated()[0]) for _ in range(3)]
    assert found == [False, False, True]


def test_fire_on_reset_starts_the_ball() -> None:
    still, fired = make("breakout", max_num_noops=0), make("breakout", max_num_noops=0, is_fired_on_reset=True)
    moved = []
    for batch in (still, fired):
        batch.reset([0])
        play(batch, np.zeros((8, 1), int))
        moved.append(batch.labels()[0, batch.label_names.index("ball_y")])
    assert moved[0] != moved[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 84}, r"env 'atari/pong' has no option 'size'\. Did you mean 'size_px'\?"),
        ({"size_px": 8}, r"size_px must be a whole number in \[16, 1024\], got 8"),
        ({"resampler": "are"}, r"unknown resampler 'are'\. Did you mean 'area'\?"),
        ({"frame_skip": 0}, "frame_skip must be a whole number"),
        ({"frame_skip": True}, "frame_skip must be a whole number"),
        ({"is_max_pooled": 1}, "is_max_pooled must be True or False, got 1"),
        ({"repeat_action_probability": 1.0}, r"repeat_action_probability must be a number in \[0, 0.99\]"),
        ({"repeat_action_probability": float("nan")}, "repeat_action_probability must be a number"),
        ({"max_num_noops": -1}, "max_num_noops must be a whole number"),
        ({"max_env_steps": 0}, "max_env_steps must be a whole number"),
        ({"mode": 77}, r"mode of env 'atari/pong' must be one of \[0, 1\], got 77"),
        ({"difficulty": 9}, r"difficulty of env 'atari/pong' must be one of \[0, 1, 2, 3\], got 9"),
        ({"goal_labels": ["player_yy"]}, r"has no label 'player_yy'\. Did you mean 'player_y'\?.*with_ram=true"),
        ({"goal_labels": "player_y"}, "goal_labels must be a list"),
        ({"goal_tolerance": 0}, "goal_tolerance must be a number"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        make("pong", **options)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3, int), r"whole numbers of shape \(2,\), got int64 \(3,\)"),
        (np.zeros(2), r"whole numbers of shape \(2,\), got float64"),
        (np.array([0, 6]), r"actions must be in \[0, 5\], got 6 for episode 1"),
        (np.array([-1, 0]), r"actions must be in \[0, 5\], got -1 for episode 0"),
    ],
)
def test_actions_of_another_shape_type_or_range_are_refused(actions: np.ndarray, message: str) -> None:
    batch = make("pong", 2)
    batch.reset([0, 1])
    with pytest.raises(EnvError, match=message):
        batch.step(actions)


def test_the_full_action_space_has_18_actions_and_the_first_does_nothing() -> None:
    batch = make("pong", full_action_space=True)
    assert batch.action_spec.num_choices == 18
    assert batch._actions[0] == 0


def test_a_mode_changes_the_game_and_its_states_are_kept_apart() -> None:
    usual, other = make("pong"), make("pong", mode=1)
    usual.reset([0])
    with pytest.raises(EnvError, match="this state has mode = None, and this environment 1"):
        other.set_states(usual.get_states())


def test_an_environment_without_an_episode_or_closed_says_so() -> None:
    batch = make("pong")
    with pytest.raises(EnvError, match="no episode yet"):
        batch.observe()
    batch.reset([0])
    with pytest.raises(EnvError, match="has no state at rest"):
        batch.at_rest(batch.get_states())
    with pytest.raises(EnvError, match=r"a seed must be in \[0, 2\*\*64\)"):
        batch.reset([-1])
    batch.close()
    batch.close()
    with pytest.raises(EnvError, match="was closed"):
        batch.reset([0])


def test_native_is_a_word_for_the_screen_itself() -> None:
    assert make("pong", size_px="native").observation_spec == make("pong", size_px=None).observation_spec


@pytest.mark.parametrize("goal_labels", [5, None, "player_x", [1]])
def test_goal_labels_that_are_no_names_are_refused(goal_labels: object) -> None:
    with pytest.raises(EnvError, match="goal_labels must be a list of label names"):
        make("pong", goal_labels=goal_labels)


def test_waiting_out_the_opening_tune_leaves_a_player_who_moves_at_once() -> None:
    moved = []
    for waits in ({}, {"min_num_noops": 270, "max_num_noops": 300}):
        batch = make("ms_pacman", **waits)
        batch.reset([3])
        columns = [batch.label_names.index(name) for name in ("player_x", "player_y")]
        before = batch.labels()[0, columns]
        for _ in range(6):
            batch.step(np.array([3]))
        moved.append(not np.array_equal(batch.labels()[0, columns], before))
    assert moved == [False, True]


def test_a_shortest_wait_above_the_longest_is_refused() -> None:
    with pytest.raises(EnvError, match=r"min_num_noops must be a whole number in \[0, 30\], got 31"):
        make("ms_pacman", min_num_noops=31)
