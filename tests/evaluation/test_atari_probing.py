"""AtariARI's protocol on a made-up game whose frames show its bytes: who is tested on what, and who beats whom."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.checkpoint import save_checkpoint
from lewm.cli import main
from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.splits import split_episodes
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.evaluation.atari_labels import category, relative_f1, score_labels, usable_labels
from lewm.evaluation.atari_probing import (
    DUPLICATE,
    TEST,
    TRAINING,
    VALIDATION,
    evaluate_atari_labels,
    mark_duplicates,
    not_comparable,
    split_frames,
)
from lewm.evaluation.classification import cross_entropies
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.evaluation.supervised import observations_of, train_supervised
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

SIDE_PX = 16
NAMES = ("player_x", "ball_y", "room_number", "lives", "speed")
SETTINGS = {
    "data": {"validation_fraction": 0.1},
    "encoder": {"channels": [16, 32], "kernel_sizes": [4, 4], "strides": [2, 2]},
    "model": {"latent_dimension": 24, "projector_width": 64},
}


@pytest.fixture(scope="module")
def config() -> Config:
    return from_dict(SETTINGS, load_preset("laptop"))


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EpisodeStore]:
    """Writes a game of ``num_episodes``, in which a dot stands at column ``player_x`` and row ``ball_y`` before noise that no two frames share."""

    def make(num_episodes: int = 20, num_env_steps: int = 40, noise: int = 40) -> EpisodeStore:
        meta = DatasetMeta(
            observation_spec=ObservationSpec(height_px=SIDE_PX, width_px=SIDE_PX),
            action_spec=ActionSpec(kind="discrete", num_choices=4, action_repeat=4),
            label_names=NAMES,
            env={"name": "atari/made-up", "version": 1, "options": {}},
            policy={"name": "random", "options": {}},
            episodes_per_shard=3,
        )
        directory = tmp_path_factory.mktemp("game") / "data"
        with EpisodeWriter(directory, meta) as writer:
            for number in range(num_episodes):
                generator = np.random.default_rng(number)
                rows = num_env_steps + 1
                x, y = generator.integers(0, SIDE_PX, (2, rows))
                frames = generator.integers(0, noise + 1, (rows, 1, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
                frames[np.arange(rows), 0, y, x] = 255
                labels = np.stack([x, y, np.full(rows, 7), np.arange(rows) % 4, x / 3], -1).astype(np.float32)
                actions = generator.integers(0, 4, num_env_steps)
                writer.append(Episode(observations=Observation(frames), actions=actions, labels=labels, seed=number))
        return EpisodeStore(directory)

    return make


@pytest.fixture(scope="module")
def store(new_store: Callable[..., EpisodeStore]) -> EpisodeStore:
    return new_store()


@pytest.fixture(scope="module")
def model(store: EpisodeStore, config: Config) -> WorldModel:
    torch.manual_seed(5)
    return WorldModel(config, store.observation_spec, store.action_spec)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seconds"}


class Oracle(torch.nn.Module):
    """Knows where the dot is: its latent is the column and the row, one-hot."""

    latent_dimension = 2 * SIDE_PX

    def __init__(self, store: EpisodeStore) -> None:
        super().__init__()
        self.observation_spec, self.action_spec = store.observation_spec, store.action_spec
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, observation: Observation[Tensor]) -> Tensor:
        is_dot = (observation.frames[:, -1] == 255).all(-1).float()  # n Y X
        return torch.cat([is_dot.amax(1), is_dot.amax(2)], 1)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("player_x", "agent_localization"),
        ("player_column", "agent_localization"),
        ("ball_y", "small_object_localization"),
        ("enemy_missile_x", "small_object_localization"),
        ("player_missile_y1", "small_object_localization"),
        ("enemy_blinky_x", "other_localization"),
        ("enemy_score", "score_clock_lives_display"),
        ("fuel_meter_low", "score_clock_lives_display"),
        ("frame_number_display", "score_clock_lives_display"),
        ("player_missile_direction", "misc"),
        ("dots_eaten_count", "misc"),
        ("tile_color_3", "misc"),
    ],
)
def test_categories_follow_the_names_of_the_labels(label: str, expected: str) -> None:
    assert category(label) == expected


def test_only_bytes_that_vary_are_asked_for() -> None:
    generator = np.random.default_rng(0)
    # Of two values with shares 0.3 and 0.7 the entropy is 0.61 nats, with 0.28 and 0.72 it is 0.593.
    columns = {
        "kept": np.arange(100) < 30,
        "too_rare": np.arange(100) < 28,
        "constant": np.full(100, 9),
        "lives": generator.integers(0, 5, 100),
        "ram_007": generator.integers(0, 200, 100),
        "fraction": generator.integers(0, 5, 100) / 2,
        "negative": generator.integers(-3, 3, 100),
        "large": generator.integers(200, 300, 100),
    }
    labels = np.concatenate([np.stack(list(columns.values()), 1), np.tile(np.arange(8), (50, 1))]).astype(np.float32)
    usable = usable_labels(tuple(columns), labels, np.arange(150) < 100)
    assert usable.names == ("kept",)
    assert usable.values.tolist() == labels[:, :1].tolist()
    assert usable.entropies_nats == pytest.approx({"kept": 0.6109, "too_rare": 0.5930, "constant": 0.0}, abs=1e-4)
    assert set(usable.dropped) == set(columns) - {"kept"}
    with pytest.raises(DataError, match="no label is a byte"):
        usable_labels(("constant",), np.full((9, 1), 3.0), np.full(9, True))


def test_the_mean_is_over_categories_as_in_the_paper() -> None:
    labels = np.array([[1, 1, 1], [2, 2, 2]])
    read = np.array([[1, 1, 2], [2, 2, 1]])  # both agent coordinates right, the ball always wrong
    scores = score_labels(read, labels, ("player_x", "player_y", "ball_x"))
    assert scores["mean_f1"] == 0.5
    assert scores["mean_f1_of_labels"] == pytest.approx(2 / 3)
    assert scores["categories"]["agent_localization"] == {"f1": 1.0, "accuracy": 1.0}
    assert list(scores["categories"]) == ["agent_localization", "small_object_localization"]


def test_the_relative_f1_runs_from_untrained_to_supervised() -> None:
    scores = {"lewm": {"mean_f1": 0.5}, "untrained": {"mean_f1": 0.2}}
    assert relative_f1(scores) is None
    assert relative_f1(scores | {"supervised": {"mean_f1": 0.8}}) == pytest.approx(0.5)
    assert relative_f1(scores | {"supervised": {"mean_f1": 0.1}}) is None


def test_whole_episodes_are_split_and_those_held_out_of_training_are_tested_on(store: EpisodeStore, config: Config) -> None:
    frames, parts = split_frames(store, config, (0,), 10_000)
    episodes = {part: set(frames.episode[parts == part].tolist()) for part in (TRAINING, VALIDATION, TEST)}
    assert [len(episodes[part]) for part in (TRAINING, VALIDATION, TEST)] == [14, 2, 4]
    assert not episodes[TRAINING] & episodes[VALIDATION]
    assert not episodes[TEST] & (episodes[TRAINING] | episodes[VALIDATION])
    heldout = split_episodes(store.episode_ids, config.data.validation_fraction, config.data.split_seed)[1]
    assert 0 < len(heldout) <= 4
    assert set(heldout.tolist()) <= episodes[TEST]


def test_no_more_frames_are_used_than_asked_for(store: EpisodeStore, config: Config) -> None:
    frames, parts = split_frames(store, config, (0,), 300)  # episodes have 41
    assert len(frames) == len(parts) == 300
    assert len(np.unique(frames.episode)) == 8
    with pytest.raises(DataError, match="an episode each, got 2 within 60 frames"):
        split_frames(store, config, (0,), 60)


def test_frames_come_with_their_own_labels_and_stacks_stop_at_the_start(store: EpisodeStore) -> None:
    frames = LabelledFrames(store, {2: 41, 4: 10, 3: 5}, (-2, 0))
    numbers = np.array([55, 0, 1, 41, 43, 47])  # shards 0 and 1, unsorted
    places = [(4, 9), (2, 0), (2, 1), (3, 0), (3, 2), (4, 1)]
    observations, labels = frames.observations(numbers), frames.labels()
    assert len(frames) == 56
    for frame, row, (episode_id, env_step) in zip(observations.frames, labels[numbers], places, strict=True):
        episode = store.episode(episode_id)
        assert episode.labels is not None
        np.testing.assert_array_equal(frame[0], episode.observations.frames[max(env_step - 2, 0), 0])
        np.testing.assert_array_equal(frame[1], episode.observations.frames[env_step, 0])
        np.testing.assert_array_equal(row, episode.labels[env_step])


def test_test_frames_that_were_fitted_on_are_left_out() -> None:
    parts = np.array([TRAINING, VALIDATION, TEST, TEST, TEST, TRAINING])
    marked = mark_duplicates(parts, [b"a", b"b", b"a", b"c", b"b", b"a"])
    assert marked.tolist() == [TRAINING, VALIDATION, DUPLICATE, TEST, DUPLICATE, TRAINING]


def test_a_game_without_new_test_frames_is_refused(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    few_frames = new_store(noise=0, num_env_steps=400, num_episodes=10)  # 256 different ones
    with pytest.raises(DataError, match="every test frame looks exactly like"):
        evaluate_atari_labels(model, few_frames, config=config)


def test_a_latent_that_holds_the_labels_scores_one(store: EpisodeStore, config: Config) -> None:
    oracle: Any = Oracle(store)
    result = evaluate_atari_labels(oracle, store, config=config)
    assert result["converged_mean_f1"] > 0.99
    assert set(result["encoders"]["lewm"]["labels"]) == {"player_x", "ball_y"}
    assert result["encoders"]["majority"]["mean_f1"] < 0.05
    assert result["encoders"]["untrained"]["mean_f1"] < 0.8
    assert set(result["dropped_labels"]) == {"room_number", "lives", "speed"}
    assert result["frames"]["num_training_frames"] == 14 * 41
    assert result["frames"]["num_duplicate_test_frames"] == 0
    assert result["frames"]["num_heldout_test_frames"] == 41 * result["frames"]["num_heldout_test_episodes"] < result["frames"]["num_test_frames"]


def test_the_supervised_reference_beats_the_untrained_networks(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    result = evaluate_atari_labels(model, new_store(num_episodes=50), config=config, supervised_steps=250)
    f1 = {name: scores["mean_f1"] for name, scores in result["encoders"].items()}
    converged = result["encoders"]["untrained"]["converged"]["mean_f1"]
    assert f1["supervised"] > 0.8
    assert f1["supervised"] > converged + 0.1
    assert converged > f1["majority"] + 0.1
    assert result["relative_f1"] == pytest.approx((f1["lewm"] - f1["untrained"]) / (f1["supervised"] - f1["untrained"]))


def test_a_result_is_a_function_of_its_seed_and_leaves_torchs_generator_alone(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    state = torch.get_rng_state()
    results = [evaluate_atari_labels(model, store, config=config, supervised_steps=5, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert without_times(results[0]) == without_times(results[1])
    for name in ("untrained", "supervised"):
        assert results[0]["encoders"][name] != results[2]["encoders"][name]
    assert results[0]["frames"] == results[2]["frames"], "the split is the run's, not the seed's"
    json.dumps(results[0])


def test_comparability_says_all_that_differs(store: EpisodeStore) -> None:
    assert not_comparable(store, 50_000, (0,)) == ["frames are 16x16, AtariARI's 210x160"]
    reasons = not_comparable(store, 820, (-1, 0))
    assert reasons[1:] == ["820 frames instead of 50,000", "2 frames are stacked"]
    assert "60,000 frames instead of 50,000" in not_comparable(store, 60_000, (0,))
    other = EpisodeStore(store.path)
    options = {"repeat_action_probability": 0.25, "full_action_space": True, "is_max_pooled": False, "frame_skip": 4}
    other.meta = replace(other.meta, env=other.env | {"options": options})
    assert not_comparable(other, 50_000, (0,))[1:] == [
        "actions are sticky (repeat_action_probability 0.25)",
        "the full action space is used instead of the minimal one",
        "frames are not the maximum of two emulator frames",
    ]


def test_the_supervised_reference_keeps_the_weights_with_the_lowest_validation_loss(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    frames, parts = split_frames(store, config, (0,), 10_000)
    training, validation = (np.flatnonzero(parts == part) for part in (TRAINING, VALIDATION))
    values = np.random.default_rng(0).integers(0, 8, (len(frames), 2))  # nothing to learn: the longer, the worse
    data = training[:128], values[training[:128]], validation, values[validation]
    reference = train_supervised(model, frames, *data, config=config, num_steps=30)
    steps, losses = zip(*reference.validation_curve, strict=True)
    assert steps == tuple(range(3, 31, 3))
    assert reference.kept_step == steps[int(np.argmin(losses))] < 30
    assert not reference.is_still_falling
    with torch.no_grad():
        logits = reference.heads(reference.model.encode(observations_of(frames, validation, reference.model)))
    codes = torch.from_numpy(reference.classes.encode(values[validation]))
    assert float(cross_entropies(logits, codes, reference.classes.sizes).mean()) == pytest.approx(min(losses), rel=1e-4)
    assert replace(reference, validation_curve=((1, 3.0), (2, 2.0))).is_still_falling
    assert not replace(reference, validation_curve=((1, 3.0), (2, 2.99))).is_still_falling


def test_settings_that_make_no_sense_are_refused(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    with pytest.raises(ConfigError, match="num_frames must be at least 3"):
        evaluate_atari_labels(model, store, config=config, num_frames=2)


def test_the_command_prints_a_table_and_writes_the_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: EpisodeStore, model: WorldModel, config: Config
) -> None:
    provenance = {"dataset_sha256": store.dataset_sha256}
    run = save_checkpoint(tmp_path / "step-00000001", model, config, step=1, env=store.env, provenance=provenance)
    words = ["eval", "atari-labels", str(run), "--data", str(store.path), "--num-frames", "500", "--supervised-steps", "3", "--seed", "4"]
    assert main([*words, "--json", str(tmp_path / "labels.json")]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "labels.json").read_text())
    assert written["settings"]["supervised"]["num_steps"] == 3
    assert [look["step"] for look in written["encoders"]["supervised"]["validation_curve"]] == [1, 2, 3]
    assert written["seed"] == 4
    assert written["frames"]["num_frames"] == 500
    assert written["is_training_dataset"] is True
    mean = next(line for line in shown.splitlines() if line.startswith("mean of the categories"))
    assert mean.split()[4:] == [f"{scores['mean_f1']:.3f}" for scores in written["encoders"].values()]
    assert "not comparable with AtariARI's published numbers: frames are 16x16" in shown
    assert "the run was trained, without labels, on this dataset" in shown
    assert (written["env"], written["action_repeat"]) == ("atari/made-up", 4)
    assert shown.rstrip().splitlines()[-1] == "atari/made-up, action repeat 4"


def test_a_peer_is_judged_on_the_same_frames_and_paired_with_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: EpisodeStore, model: WorldModel, config: Config
) -> None:
    torch.manual_seed(6)
    other = WorldModel(config, store.observation_spec, store.action_spec)
    places = [tmp_path / name / "step-00000001" for name in ("own", "peer")]
    runs = [save_checkpoint(path, each, config, step=1, env=store.env, provenance={}) for path, each in zip(places, (model, other), strict=True)]
    words = ["eval", "atari-labels", str(runs[0]), "--data", str(store.path), "--supervised-steps", "3", "--peer", str(runs[1])]
    assert main([*words, "--json", str(tmp_path / "labels.json")]) == 0
    written = json.loads((tmp_path / "labels.json").read_text())
    f1 = {name: scores["mean_f1"] for name, scores in written["encoders"].items()}
    assert written["peer_comparison"]["mean"]["difference"]["value"] == pytest.approx(f1["lewm"] - f1["peer"])
    assert set(written["peer_comparison"]["categories"]) == set(written["encoders"]["peer"]["categories"])
    assert written["peer"]["checkpoint_sha256"] != written["checkpoint_sha256"]
    assert written["peer"]["is_split_shared"]
    assert "paired with the peer on 4 test episodes, which the intervals resample:" in capsys.readouterr().out


def test_a_peer_of_other_observations_is_refused(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    stacked = WorldModel(config, replace(store.observation_spec, stack_offsets_env_steps=(-1, 0)), store.action_spec)
    with pytest.raises(ConfigError, match="a peer is judged on the very frames of the run"):
        evaluate_atari_labels(model, store, config=config, peer=stacked)
