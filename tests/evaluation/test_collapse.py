"""Metrics and verdicts of collapse, on latents whose answer is known."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.errors import DataError
from lewm.evaluation.collapse import evaluate_collapse, judge, judge_training, measure_collapse, measure_latents
from lewm.models.world_model import WorldModel
from lewm.schema import Clip, Observation

D = 16


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_gaussian_scores_the_floor_and_a_point_at_the_origin_the_ceiling() -> None:
    healthy, point = measure_latents(gaussian(4, 128, D)), measure_latents(torch.zeros(4, 128, D))
    assert healthy["sigreg"] == pytest.approx(1.05, abs=0.25)
    assert point["sigreg"] == pytest.approx(point["sigreg_collapsed"], rel=1e-5)
    assert point["sigreg_collapsed"] == pytest.approx(51.46, abs=0.01)  # 0.402 B
    assert healthy["std_mean"] == pytest.approx(1, abs=0.03)
    assert point["dead_fraction"] == 1.0


def look(latents: Tensor, **values: float) -> dict[str, float]:
    return measure_latents(latents) | {"action_sensitivity": 3.0} | values


RANK_2 = gaussian(4, 128, 2) @ torch.linalg.qr(gaussian(64, 2, seed=1))[0].T * math.sqrt(64 / 2)
HALF_DEAD = gaussian(4, 128, D) * torch.tensor([1.0, 0.01]).repeat(D // 2)


@pytest.mark.parametrize(
    ("latents", "values", "name"),
    [
        (gaussian(4, 128, D), {}, "healthy"),
        (0.8 * gaussian(4, 128, D) + 0.1, {}, "healthy"),
        (1e-3 * gaussian(4, 128, D), {}, "collapsed"),  # full rank, but shrunk to a point
        (torch.zeros(4, 128, D) + 3, {}, "collapsed"),  # a point elsewhere
        (HALF_DEAD, {}, "partial collapse"),
        (RANK_2, {}, "partial collapse"),
        (gaussian(4, 128, D), {"action_sensitivity": 1.0}, "action-blind"),
        (gaussian(4, 128, D), {"time_share": 0.6}, "captured by a nuisance"),
        (gaussian(4, 128, D), {"episode_share": 0.97}, "captured by a nuisance"),
        (gaussian(4, 128, D), {"nuisance_share": 0.8, "action_sensitivity": 1.0}, "captured by a nuisance"),
        (gaussian(4, 128, D), {"time_share": 0.3, "episode_share": 0.8, "nuisance_share": 0.2}, "healthy"),
        (1e-3 * gaussian(4, 128, D), {"action_sensitivity": 1.0}, "collapsed"),
    ],
)
def test_the_verdict_on_latents_with_a_known_answer(latents: Tensor, values: dict[str, float], name: str) -> None:
    verdict = judge(look(latents, **values))
    assert verdict.name == name
    assert bool(verdict.reasons) == (name != "healthy")
    assert verdict.is_alarm == (name in {"collapsed", "partial collapse"})


def test_a_low_rank_alone_is_no_collapse() -> None:
    assert judge(look(gaussian(4, 128, D), effective_rank=0.5)).name == "healthy"


def cloud(kind: str, n: int, dimension: int) -> Tensor:
    """Latents [1, n, dimension] whose verdict is known."""
    x = gaussian(n, dimension, seed=n)
    direction = torch.nn.functional.normalize(gaussian(dimension, seed=1), dim=0)
    shapes = {
        "point": torch.zeros(n, dimension) + 0.3,
        "line": x[:, :1] * direction * math.sqrt(dimension),
        "two tight clusters": (x[:, :1] > 0).float() * direction * 2 * math.sqrt(dimension) + 1e-3 * x,
        "shrunken": 1e-2 * x,
        "half shrunken": x * torch.tensor([1.0, 1e-2]).repeat(dimension // 2),
        "Gaussian": x,
        "rank half": x @ torch.diag((torch.arange(dimension) < dimension // 2).float()) @ torch.linalg.qr(gaussian(dimension, dimension))[0],
        "mildly shrunken": 0.6 * x,
        "anisotropic": x * torch.logspace(-0.5, 0.5, dimension),
        "heavy tails": x / (gaussian(n, 3, seed=2).square().mean(1, keepdim=True)).sqrt(),
        "two wide clusters": x + 2.5 * (x[:, :1] > 0).float() * direction,
    }
    return shapes[kind][None]


KNOWN = {
    "point": "collapsed",
    "shrunken": "collapsed",
    "line": "partial collapse",
    "two tight clusters": "partial collapse",
    "half shrunken": "partial collapse",
    "Gaussian": "healthy",
    "rank half": "healthy",
    "mildly shrunken": "healthy",
    "anisotropic": "healthy",
    "heavy tails": "healthy",
    "two wide clusters": "healthy",
}


@pytest.mark.parametrize("dimension", [16, 64])
@pytest.mark.parametrize("n", [128, 1000, 50_000])
@pytest.mark.parametrize("kind", KNOWN)
def test_a_known_cloud_gets_its_verdict_whatever_its_size(kind: str, n: int, dimension: int) -> None:
    assert judge(look(cloud(kind, n, dimension))).name == KNOWN[kind]


def looks(std_means: list[float], sigregs: list[float], every: int = 10, **values: float) -> list[dict[str, float]]:
    base = look(gaussian(4, 128, D)) | values
    steps = range(every - 1, every * len(std_means), every)
    return [base | {"step": step, "std_mean": std, "sigreg": value} for step, std, value in zip(steps, std_means, sigregs, strict=True)]


# As measured on two-room with the laptop preset, every 10 steps: weight 0, and weight 0.3 (which overshoots before it settles), two seeds.
COLLAPSING = looks([0.006, 0.009, 0.017, 0.028, 0.038, 0.047, 0.044, 0.038], [53.3, 52.7, 52.5, 52.9, 52.3, 53.5, 53.0, 52.4])
SLOW_START = looks([0.049, 0.069, 0.128, 0.276, 0.457, 0.721], [52.4, 55.9, 65.0, 77.4, 71.4, 55.4])
HEALTHY_START = looks([0.041, 0.101, 0.129, 0.265, 0.456, 0.684, 1.013, 0.883], [51.8, 52.3, 61.0, 76.2, 78.2, 84.4, 102.3, 88.1])


def names(history: list[dict[str, float]], num_steps: int) -> list[str]:
    return [judge_training(history[: k + 1], num_steps=num_steps).name for k in range(len(history))]


def test_a_run_without_sigreg_is_flagged_within_the_first_fifth() -> None:
    assert "collapsed" in [name for name, entry in zip(names(COLLAPSING, 300), COLLAPSING, strict=True) if entry["step"] + 1 <= 300 / 5]


@pytest.mark.parametrize("num_steps", [20, 80, 150, 300, 2800])
def test_a_healthy_run_that_begins_near_one_point_is_not_flagged(num_steps: int) -> None:
    assert set(names(HEALTHY_START, num_steps)) == {"healthy"}
    assert set(names(SLOW_START, num_steps)) == {"healthy"}


def test_one_bad_look_is_no_alarm() -> None:
    assert judge_training(looks([1.0, 1.0, 0.01], [1.5, 1.4, 51.0], every=100), num_steps=1000).name == "healthy"


def test_a_run_that_collapses_late_is_flagged() -> None:
    assert judge_training(looks([1.0, 1.0, 0.01, 0.01], [1.5, 1.4, 51.0, 51.0], every=100), num_steps=1000).name == "collapsed"


def test_nothing_is_judged_during_warm_up() -> None:
    assert judge_training(looks([0.01] * 4, [51.0] * 4), num_steps=1000).name == "healthy"


def test_an_action_blind_predictor_is_named_in_the_second_half_only() -> None:
    blind = looks([1.0] * 8, [1.5] * 8, every=100, action_sensitivity=1.0)
    assert judge_training(blind[:3], num_steps=800).name == "healthy"
    verdict = judge_training(blind, num_steps=800)
    assert verdict.name == "action-blind"
    assert not verdict.is_alarm


class LinearWorld:
    """Latents are two pixels, and the next latent is the present one plus ``gain`` times the action: everything is known."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def encode(self, observation: Observation[Tensor]) -> Tensor:
        return observation.frames[..., 0, 0, :, 0].float() / 255

    def predict(self, latents: Tensor, blocks: Tensor) -> Tensor:
        return latents + self.gain * blocks


def linear_clip() -> Clip[Tensor]:
    frames = torch.randint(0, 200, (64, 2, 1, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    latents = frames[..., 0, 0, :, 0].float() / 255
    return Clip(Observation(frames), latents[:, 1:] - latents[:, :-1] + 0.01, None, None, torch.zeros(64), torch.zeros(64))


def test_a_predictor_that_uses_its_actions_is_sensitive_to_them_and_a_blind_one_is_not() -> None:
    seeing: Any = LinearWorld(gain=1.0)
    blind: Any = LinearWorld(gain=0.0)
    assert measure_collapse(seeing, linear_clip())["prediction_error"] == pytest.approx(1e-4, rel=0.01)
    assert measure_collapse(seeing, linear_clip())["action_sensitivity"] > 100
    assert measure_collapse(blind, linear_clip())["action_sensitivity"] == 1.0
    assert measure_collapse(blind, linear_clip())["prediction_error"] == measure_collapse(blind, linear_clip())["copy_error"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    directory: Path = tmp_path_factory.mktemp("collapse") / "data"
    return collect("two-room", directory, episodes=20, max_env_steps=30, env_options={"size_px": 32})


@pytest.fixture(scope="module")
def config() -> Config:
    return from_dict(
        {"data": {"validation_fraction": 0.3}, "encoder": {"channels": [4, 8], "kernel_sizes": [4, 4], "strides": [2, 2]}}, load_preset("laptop")
    )


def test_a_model_on_held_out_episodes_gets_a_verdict_that_is_a_function_of_the_seed(store: EpisodeStore, config: Config) -> None:
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    result = evaluate_collapse(model, store, config=config, num_clips=32)
    assert result == evaluate_collapse(model, store, config=config, num_clips=32)
    assert result["verdict"] in {"healthy", "collapsed", "partial collapse", "action-blind"}
    assert 0 < result["num_episodes"] < 20
    with torch.no_grad():
        model.projector.requires_grad_(False)
        for parameter in model.projector.parameters():
            parameter.mul_(1e-3)
    assert evaluate_collapse(model, store, config=config, num_clips=32)["verdict"] == "collapsed"


def test_a_dataset_without_held_out_episodes_is_refused(store: EpisodeStore, config: Config) -> None:
    model = WorldModel(config, store.observation_spec, store.action_spec)
    with pytest.raises(DataError, match="of 20 episodes 0 are held out"):
        evaluate_collapse(model, store, config=from_dict({"data": {"validation_fraction": 0.0}}, config))
