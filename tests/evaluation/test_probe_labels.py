"""What is probed of a dataset's labels, and what is refused: every refusal names what is wrong and what to do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm.checkpoint import save_checkpoint
from lewm.cli import main
from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.evaluation.probe_labels import ProbedLabels
from lewm.evaluation.probing import evaluate_probe
from lewm.evaluation.workflow import latent_table
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

SIDE_PX, NUM_ENV_STEPS = 16, 30
NAMES = ("hand_deg", "size_px", "hand_velocity")


def test_angles_give_way_to_sine_and_cosine_in_their_own_unit() -> None:
    probed = ProbedLabels.of(("x_m", "hip_deg", "knee_rad", "hip_velocity_rad_s"))
    assert probed.names == ("x_m", "hip_sin", "hip_cos", "knee_sin", "knee_cos", "hip_velocity_rad_s")
    assert probed.angles == {"hip_deg": ("hip_sin", "hip_cos"), "knee_rad": ("knee_sin", "knee_cos")}
    read = probed.read(np.array([[[3.0, 450.0, np.pi / 6, 8.0]]], np.float32), np.zeros(1, np.int64))
    np.testing.assert_allclose(read[0, 0], [3, 1, 0, 0.5, np.sqrt(0.75), 8], atol=1e-5)


def test_an_angle_whose_sine_and_cosine_are_there_already_is_read_by_those() -> None:
    probed = ProbedLabels.of(("hip_rad", "hip_sin", "hip_cos", "hip_deg"))
    assert probed.names == ("hip_sin", "hip_cos")
    assert set(probed.angles) == {"hip_rad", "hip_deg"}
    np.testing.assert_array_equal(probed.read(np.array([[[9.0, 0.6, 0.8, 7.0]]]), np.zeros(1, np.int64)), np.array([[[0.6, 0.8]]], np.float32))


def test_a_value_that_is_not_finite_is_refused_with_its_column_and_episode() -> None:
    labels = np.zeros((3, 2, 2))
    labels[1:, 0, 1] = np.nan, np.inf
    with pytest.raises(DataError, match="label 'hip_rad' has 2 values that are not finite among those looked at, the first in episode 7: mend"):
        ProbedLabels.of(("x", "hip_rad")).read(labels, np.array([4, 7, 9]))


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EpisodeStore]:
    """Writes recordings of a hand that stands in all directions, jumping from one to the next."""

    def make(num_episodes: int = 14, names: tuple[str, ...] = NAMES, change: Callable[[np.ndarray], None] = lambda labels: None) -> EpisodeStore:
        meta = DatasetMeta(
            observation_spec=ObservationSpec(height_px=SIDE_PX, width_px=SIDE_PX), action_spec=ActionSpec(kind="none"), label_names=names
        )
        path = tmp_path_factory.mktemp("hand") / "data"
        with EpisodeWriter(path, meta) as writer:
            for number in range(num_episodes):
                generator = np.random.default_rng(number)
                angle, velocity = generator.uniform(-540, 540, NUM_ENV_STEPS + 1), generator.uniform(-1, 1, NUM_ENV_STEPS + 1)
                frames = np.zeros((NUM_ENV_STEPS + 1, 1, SIDE_PX, SIDE_PX, 3), np.uint8)
                for row, turn in enumerate(np.deg2rad(angle)):
                    y, x = round(7 + 5 * np.sin(turn)), round(7 + 5 * np.cos(turn))
                    frames[row, 0, y : y + 2, x : x + 2] = 255
                labels = np.stack([angle, np.full_like(angle, 3.0), velocity], -1).astype(np.float32)
                change(labels)
                writer.append(Episode(observations=Observation(frames), actions=None, labels=labels[:, : len(names)] if names else None, seed=number))
        return EpisodeStore(path)

    return make


@pytest.fixture(scope="module")
def store(new_store: Callable[..., EpisodeStore]) -> EpisodeStore:
    return new_store()


@pytest.fixture(scope="module")
def config() -> Config:
    settings = {"data": {"validation_fraction": 0.3, "action_block": 3}, "encoder": {"channels": [8, 16], "kernel_sizes": [4, 4], "strides": [2, 2]}}
    return from_dict(settings, load_preset("laptop"))


@pytest.fixture(scope="module")
def model(store: EpisodeStore, config: Config) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config, store.observation_spec, store.action_spec)


@pytest.fixture(scope="module")
def result(store: EpisodeStore, model: WorldModel, config: Config) -> dict[str, Any]:
    return evaluate_probe(model, store, config=config, num_fit_clips=200, num_score_clips=60, horizon_model_steps=2, supervised_steps=100)


def test_a_column_of_degrees_is_probed_as_sine_and_cosine_and_its_error_as_an_angle(result: dict[str, Any]) -> None:
    assert list(result["labels"]) == ["hand_sin", "hand_cos", "size_px", "hand_velocity"]
    assert result["labels"]["hand_sin"]["r2"] > 0.5, "a raw angle over three turns could not be read"
    assert result["angle_error"]["joints"]["hand"]["median_rad"] < 0.5
    assert "angles are read as their sine and cosine: hand_deg" in latent_table(result)


def test_a_column_that_never_varies_is_called_constant(result: dict[str, Any]) -> None:
    assert result["labels"]["size_px"] == result["ceilings"]["supervised"]["labels"]["size_px"] == "constant"


def test_velocities_of_single_frames_are_called_a_negative_control_with_their_r2(result: dict[str, Any]) -> None:
    control = result["velocity_control"]
    assert control["kind"] == "negative"
    assert control["mean_r2"] == control["labels"]["hand_velocity"]["r2"] == result["labels"]["hand_velocity"]["r2"] < 0.2
    table = latent_table(result)
    assert "hand_velocity (negative control)" in table.splitlines()[1]
    assert f"so R^2 should be near 0. R^2: hand_velocity {control['mean_r2']:.4f} [" in table


def test_networks_trained_on_the_labels_are_a_ceiling_beside_the_floors(result: dict[str, Any]) -> None:
    ceiling = result["ceilings"]["supervised"]
    assert ceiling["labels"]["hand_sin"]["r2"] > 0.95
    assert ceiling["labels"]["hand_velocity"]["r2"] < 0.2
    assert 0 < ceiling["kept_step"] <= ceiling["num_steps"] == 100
    row = next(line for line in latent_table(result).splitlines() if line.startswith("ceiling: supervised, 100 steps"))
    assert f"{ceiling['labels']['hand_sin']['r2']:.4f}" in row


def test_velocities_are_a_positive_control_where_frames_are_stacked(store: EpisodeStore, config: Config) -> None:
    stacked = replace(config, data=replace(config.data, stack_offsets_env_steps=(-1, 0)))
    model = WorldModel(stacked, replace(store.observation_spec, stack_offsets_env_steps=(-1, 0)), store.action_spec)
    result = evaluate_probe(model, store, config=stacked, num_fit_clips=40, num_score_clips=20, horizon_model_steps=1)
    assert result["velocity_control"]["kind"] == "positive"
    assert "positive control: the frames of env steps (-1, 0) are stacked" in latent_table(result)


def test_latents_are_imagined_ten_steps_ahead_where_episodes_are_long_enough(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    ten = evaluate_probe(model, store, config=config, num_fit_clips=40, num_score_clips=20, horizon_model_steps=10)["imagined"]
    assert [(entry["model_steps"], entry["env_steps"]) for entry in ten] == [(step, 3 * step) for step in range(1, 11)]
    assert all(np.isfinite(entry["labels"]["hand_sin"]["r2"]) for entry in ten)
    with pytest.raises(
        DataError, match=r"11 model steps of 3 env steps .* need an episode of 33 env steps, the longest that is scored has 30: .*most 10"
    ):
        evaluate_probe(model, store, config=config, horizon_model_steps=11)


def test_data_without_labels_are_refused_with_what_can_be_done_instead(
    new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config
) -> None:
    with pytest.raises(
        DataError, match=r"has no labels.*--option labels=NAME.*`lewm eval collapse`, `surprise` and, with a decoder, `reconstruction`"
    ):
        evaluate_probe(model, new_store(num_episodes=4, names=()), config=config)


def test_labels_that_never_vary_are_refused_if_there_are_no_others(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    def stop(labels: np.ndarray) -> None:
        labels[:] = 2.5

    with pytest.raises(DataError, match="none of the labels hand_sin, hand_cos, size_px, hand_velocity varies in the training episodes"):
        evaluate_probe(model, new_store(change=stop), config=config, horizon_model_steps=1, num_fit_clips=20, num_score_clips=10)


def test_a_missing_label_is_refused_before_anything_is_fitted(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    store = new_store()
    for column in store.path.glob("shards/*/labels.npy"):  # no writer of ours would take it, other people's files may hold it
        np.load(column, mmap_mode="r+")[::4, 2] = np.nan
    with pytest.raises(DataError, match=r"label 'hand_velocity' has \d+ values that are not finite among those looked at, the first in episode"):
        evaluate_probe(model, EpisodeStore(store.path), config=config, horizon_model_steps=1)


def test_too_few_episodes_to_hold_one_out_are_refused(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    with pytest.raises(DataError, match=r"of 1 episodes . are held out .* both parts need at least one: collect more episodes"):
        evaluate_probe(model, new_store(num_episodes=1), config=config)


def test_a_ceiling_needs_two_training_episodes(new_store: Callable[..., EpisodeStore], model: WorldModel, config: Config) -> None:
    few = replace(config, data=replace(config.data, validation_fraction=0.5))
    with pytest.raises(DataError, match="a supervised ceiling needs two training episodes"):
        evaluate_probe(model, new_store(num_episodes=2), config=few, horizon_model_steps=1, supervised_steps=2)


def test_a_negative_number_of_supervised_steps_is_refused(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    with pytest.raises(ConfigError, match="supervised_steps at least 0, got 5, 1 and -1"):
        evaluate_probe(model, store, config=config, supervised_steps=-1)


def test_a_run_whose_encoder_takes_other_frames_is_refused_by_the_command(
    store: EpisodeStore, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = WorldModel(config, replace(store.observation_spec, height_px=32, width_px=32), store.action_spec)
    run = save_checkpoint(tmp_path / "step-00000001", larger, config, step=1, env={}, provenance={})
    assert main(["eval", "probe", str(run), "--data", str(store.path)]) == 1
    assert "the run was trained on ObservationSpec(height_px=32, width_px=32" in capsys.readouterr().err
