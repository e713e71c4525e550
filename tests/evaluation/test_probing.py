"""Linear probes where the answer is known: they recover a linear map, and find nothing in noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seeker import dot_px
from torch import Tensor

from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.evaluation.probing import angle_error, evaluate_probe, fit_probe, position_error, score_labels
from lewm.evaluation.workflow import latent_table
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

NAMES = ("agent_x_px", "agent_y_px")


def linear_data(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Latents [n, 8] and labels that are a linear function of them, with units of their own."""
    latents = np.random.default_rng(seed).standard_normal((n, 8))
    weights = np.random.default_rng(99).standard_normal((8, 2))
    return latents, 30 * latents @ weights + 112


def test_a_probe_recovers_a_linear_map_on_unseen_samples() -> None:
    probe = fit_probe(*linear_data(0))
    latents, labels = linear_data(1)
    scores = score_labels(probe, probe.read(latents), labels, NAMES)
    for name in NAMES:
        assert scores[name]["r2"] > 0.9999
        assert scores[name]["pearson_r"] > 0.9999
        assert scores[name]["mse_standardised"] < 1e-4


def test_a_probe_finds_nothing_in_noise() -> None:
    generator = np.random.default_rng(0)
    probe = fit_probe(generator.standard_normal((500, 8)), generator.standard_normal((500, 2)))
    latents, labels = generator.standard_normal((500, 8)), generator.standard_normal((500, 2))
    scores = score_labels(probe, probe.read(latents), labels, NAMES)
    for name in NAMES:
        assert abs(scores[name]["r2"]) < 0.1
        assert abs(scores[name]["pearson_r"]) < 0.2


def test_a_probe_solves_the_ridge_problem() -> None:
    # The gradient of |X w - y|^2 + ridge n |w|^2 vanishes at the solution, for standardised X and y.
    latents, labels = linear_data(0, n=40)
    labels = labels + np.random.default_rng(5).standard_normal(labels.shape)
    probe = fit_probe(latents, labels, ridge=0.3)
    features = (latents - latents.mean(0)) / latents.std(0)
    targets = (labels - labels.mean(0)) / labels.std(0)
    gradient = features.T @ (features @ probe.weights - targets) + 0.3 * 40 * probe.weights
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_scores_follow_their_formulas() -> None:
    probe = fit_probe(*linear_data(0))
    labels = np.array([[0.0, 1.0], [10.0, 1.5], [20.0, 2.5]])
    read = labels + np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    scores = score_labels(probe, read, labels, NAMES)
    assert scores["agent_x_px"]["r2"] == pytest.approx(1 - 3 / 200)
    assert scores["agent_x_px"]["rmse"] == pytest.approx(1)
    assert scores["agent_x_px"]["mse_standardised"] == pytest.approx(1 / probe.label_std[0] ** 2)
    assert scores["agent_x_px"]["pearson_r"] == pytest.approx(np.corrcoef(read[:, 0], labels[:, 0])[0, 1])
    assert scores["agent_y_px"]["r2"] == 1.0


def test_the_mean_predictor_scores_zero() -> None:
    latents, labels = linear_data(0)
    probe = fit_probe(latents, labels)
    scores = score_labels(probe, np.broadcast_to(labels.mean(0), labels.shape), labels, NAMES)
    assert scores["agent_x_px"]["r2"] == pytest.approx(0, abs=1e-9)
    assert scores["agent_x_px"]["pearson_r"] == 0.0


@pytest.mark.parametrize("value", [49.0, 0.1])
def test_a_label_that_never_varies_is_called_constant(value: float) -> None:
    latents, labels = linear_data(0)
    labels = np.concatenate([labels, np.full((len(labels), 1), value)], 1).astype(np.float32)
    probe = fit_probe(latents, labels)
    scores = score_labels(probe, probe.read(latents), labels, (*NAMES, "door_y_px"))
    assert scores["door_y_px"] == "constant"
    assert scores["agent_x_px"]["r2"] > 0.9999
    np.testing.assert_allclose(probe.read(latents)[:, 2], value, rtol=1e-6)


def test_the_position_error_is_euclidean_and_only_for_worlds_with_a_position() -> None:
    labels = np.zeros((3, 3))
    read = np.array([[9.0, 3.0, 4.0], [9.0, 0.0, 0.0], [9.0, 6.0, 8.0]])
    error = position_error(read, labels, ("door_y_px", *NAMES))
    assert error is not None
    assert error["median_px"] == 5.0
    assert position_error(read, labels, ("a", "b", "c")) is None


def test_an_angle_error_wraps_and_ignores_the_length_of_the_vector() -> None:
    names = ("hip_cos", "height", "knee_sin", "hip_sin", "knee_cos", "toe_sin")
    true, read = np.array([3.1, -3.1, 0.2, 0.0]), np.array([-3.1, 3.1, 0.1, 0.0])  # hip: across the seam, twice; knee: exact
    labels = np.stack([np.cos(true), 0 * true, np.sin(true), np.sin(true), np.cos(true), 0 * true], -1)
    answers = np.stack([2 * np.cos(read), 9 + 0 * true, np.sin(true), 2 * np.sin(read), np.cos(true), 0 * true], -1)
    error = angle_error(answers, labels, names)
    assert error is not None
    assert set(error["joints"]) == {"hip", "knee"}, "toe has no cosine"
    seam = 2 * np.pi - 6.2
    assert error["joints"]["hip"]["median_rad"] == pytest.approx((seam + seam) / 2, abs=1e-12)
    assert error["joints"]["knee"]["p90_rad"] == pytest.approx(0, abs=1e-12)
    assert error["median_rad"] == pytest.approx(np.median([seam, seam, 0.1, 0, 0, 0, 0, 0]), abs=1e-12)
    assert angle_error(answers, labels, ("a", "b", "c", "d", "e", "f")) is None


def test_arrays_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="the same n >= 2"):
        fit_probe(np.zeros((3, 2)), np.zeros((4, 2)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    directory: Path = tmp_path_factory.mktemp("probing") / "data"
    return collect("two-room", directory, episodes=20, max_env_steps=40, env_options={"size_px": 32})


def test_a_model_is_probed_beside_its_floors_on_held_out_episodes_only(store: EpisodeStore) -> None:
    config: Config = from_dict(
        {"data": {"validation_fraction": 0.3}, "encoder": {"channels": [8, 16], "kernel_sizes": [4, 4], "strides": [2, 2]}}, load_preset("laptop")
    )
    torch.manual_seed(1)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    state = torch.get_rng_state()
    result = evaluate_probe(model, store, config=config, num_fit_clips=200, num_score_clips=50)
    assert torch.equal(state, torch.get_rng_state())
    assert result["num_fit_episodes"] + result["num_heldout_episodes"] == 20
    assert result["num_heldout_frames"] == 50 * 6
    assert result["labels"]["door_y_px"] == "constant"
    assert result["floors"]["mean"]["labels"]["agent_x_px"]["r2"] <= 0
    assert set(result["floors"]["untrained"]["labels"]) == set(result["labels"])
    assert [entry["model_steps"] for entry in result["imagined"]] == [1, 2, 3, 4, 5]
    assert [entry["env_steps"] for entry in result["imagined"]] == [5, 10, 15, 20, 25]
    assert {"median_px", "p90_px"} == set(result["imagined"][4]["position_error"])
    assert result == evaluate_probe(model, store, config=config, num_fit_clips=200, num_score_clips=50)


class Oracle(torch.nn.Module):
    """Sees where the dot is, and moves it by 5 px times each action: what happens away from walls."""

    action_block = 5

    def __init__(self, store: EpisodeStore) -> None:
        super().__init__()
        self.observation_spec, self.action_spec = store.observation_spec, store.action_spec
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, observation: Observation[Tensor]) -> Tensor:
        frames = observation.frames
        return torch.from_numpy(dot_px(frames.flatten(0, -5).numpy())).reshape(*frames.shape[:-4], 2)

    def rollout(self, context: Tensor, past_blocks: Tensor, candidates: Tensor) -> Tensor:
        assert past_blocks.shape[1] == context.shape[1] - 1
        moves = 5 * candidates.unflatten(-1, (5, 2)).sum(-2)
        return context[:, None, -1:] + moves.cumsum(2)


@pytest.mark.parametrize("context_model_steps", [1, 3])
def test_imagination_starts_at_the_end_of_its_context_and_uses_the_actions_that_follow(store: EpisodeStore, context_model_steps: int) -> None:
    config: Config = from_dict(
        {"data": {"validation_fraction": 0.3}, "encoder": {"channels": [8, 16], "kernel_sizes": [4, 4], "strides": [2, 2]}}, load_preset("laptop")
    )
    oracle: Any = Oracle(store)
    result = evaluate_probe(oracle, store, config=config, context_model_steps=context_model_steps, horizon_model_steps=3)
    assert result["labels"]["agent_x_px"]["r2"] > 0.999
    assert result["floors"]["untrained"]["position_error"]["median_px"] > 2 * result["position_error"]["median_px"]
    for entry in result["imagined"]:
        # Exact but for walls and the resolution of the frames; one block off would cost about 10 px.
        assert entry["position_error"]["median_px"] < 2
        assert entry["copy_position_error"]["median_px"] > 8


def test_joints_and_velocities_are_reported_apart(tmp_path: Path) -> None:
    meta = DatasetMeta(
        observation_spec=ObservationSpec(height_px=16, width_px=16),
        action_spec=ActionSpec(kind="none"),
        label_names=("hip_velocity", "hip_sin", "hip_cos"),
    )
    with EpisodeWriter(tmp_path / "data", meta) as writer:
        for number in range(12):
            generator = np.random.default_rng(number)
            angle, velocity = generator.uniform(-np.pi, np.pi, 31), generator.uniform(-1, 1, 31)
            frames = np.zeros((31, 1, 16, 16, 3), np.uint8)
            for row, (sine, cosine) in enumerate(zip(np.sin(angle), np.cos(angle), strict=True)):
                frames[row, 0, round(7 + 6 * sine), round(7 + 6 * cosine)] = 255
            labels = np.stack([velocity, np.sin(angle), np.cos(angle)], -1).astype(np.float32)
            writer.append(Episode(observations=Observation(frames), actions=None, labels=labels, seed=number))
    store = EpisodeStore(tmp_path / "data")
    config: Config = from_dict(
        {"data": {"validation_fraction": 0.3}, "encoder": {"channels": [8, 16], "kernel_sizes": [4, 4], "strides": [2, 2]}}, load_preset("laptop")
    )
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    result = evaluate_probe(model, store, config=config, num_fit_clips=200, num_score_clips=50, horizon_model_steps=2)
    assert result["velocity_labels"] == ["hip_velocity"]
    # Where the dot is can be read off random features, how fast it moves cannot.
    assert result["angle_error"]["median_rad"] < 0.3 < result["floors"]["mean"]["angle_error"]["median_rad"]
    assert result["labels"]["hip_velocity"]["r2"] < 0.2 < 0.4 < result["labels"]["hip_sin"]["r2"]
    assert set(result["imagined"][1]["copy_angle_error"]) == {"median_rad", "p90_rad", "joints"}
    lines = latent_table(result).splitlines()
    assert lines[1].split() == ["hip_sin", "hip_cos", "hip_velocity", "(negative", "control)", "angle", "error,", "median"]
    assert lines[-1].startswith("negative control: one frame (data.stack_offsets_env_steps = (0,)) shows no velocity")


@pytest.mark.parametrize("steps", [{"horizon_model_steps": 0}, {"context_model_steps": 0}])
def test_imagining_nothing_or_from_nothing_is_refused(store: EpisodeStore, steps: dict[str, int]) -> None:
    config: Config = load_preset("laptop")
    oracle: Any = Oracle(store)
    with pytest.raises(ConfigError, match="must be at least 1"):
        evaluate_probe(oracle, store, config=config, **steps)
