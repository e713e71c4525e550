"""The official architecture, checked against what the official code computed from weights that anyone can regenerate."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from golden_recipe import GOLDEN, SHAPES, fill
from lewm.config_files import load_preset
from lewm.models.official import official_names
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Observation, ObservationSpec


@pytest.fixture(scope="module")
def model() -> WorldModel:
    config = load_preset("paper")
    specs = ObservationSpec(height_px=224, width_px=224), ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
    model = WorldModel(replace(config, data=replace(config.data, action_block=5)), *specs)
    fill(model)
    return model.double().eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "lewm_golden.npz"))


@pytest.fixture(scope="module")
def latents(model: WorldModel) -> torch.Tensor:
    frames = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (2, 4, 224, 224, 3), np.uint8))
    with torch.no_grad():
        return model.encode(Observation(frames[:, :, None]))


def blocks() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(8).standard_normal((2, 4, 10)).astype(np.float32))


def relative_error(got: torch.Tensor, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got.numpy() - expected).max() / np.abs(expected).max())


def test_every_official_weight_has_one_of_ours_of_the_same_shape(model: WorldModel):
    names = official_names(model)
    assert sorted(names.values()) == sorted(SHAPES)
    state = model.state_dict()
    assert {names[ours]: list(state[ours].shape) for ours in names} == SHAPES
    assert set(state) - set(names) == {"action_mean", "action_std", "pixel_mean", "pixel_std"}


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_paper_preset_has_the_official_number_of_parameters(dimension: int):
    """Only the first map of the action encoder, 10 x A with A = 5 a, knows the actions: 18,034,378 + 50 a, which is 18,034,478 for a = 2."""
    action_spec = ActionSpec(kind="continuous", low=(-1.0,) * dimension, high=(1.0,) * dimension)
    with torch.device("meta"):
        model = WorldModel(load_preset("paper"), ObservationSpec(height_px=224, width_px=224), action_spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_378 + 50 * dimension


# The fixture is float32: float64 arithmetic of the same weights differs from it by about 3e-6 of the largest value.


def test_latents_are_the_official_ones(latents: torch.Tensor, golden: dict[str, np.ndarray]):
    assert relative_error(latents, golden["emb"]) < 1e-5


def test_action_embeddings_are_the_official_ones(model: WorldModel, golden: dict[str, np.ndarray]):
    with torch.no_grad():
        assert relative_error(model.embed_blocks(blocks()), golden["act_emb"]) < 1e-5


def test_predictions_are_the_official_ones(model: WorldModel, latents: torch.Tensor, golden: dict[str, np.ndarray]):
    with torch.no_grad():
        assert relative_error(model.predict(latents[:, :3], blocks()[:, :3]), golden["pred"]) < 1e-5


def test_a_rollout_from_one_frame_and_its_cost_are_the_official_ones(model: WorldModel, latents: torch.Tensor, golden: dict[str, np.ndarray]):
    candidates = torch.from_numpy(np.random.default_rng(9).standard_normal((2, 8, 5, 10)).astype(np.float32))
    with torch.no_grad():
        imagined = model.rollout(latents[:, :1], blocks()[:, :0], candidates)
    assert relative_error(imagined, golden["rollout"][:, :, 1:]) < 1e-5
    cost = (imagined[:, :, -1] - latents[:, None, 3]).square().sum(-1)
    assert relative_error(cost, golden["cost"]) < 1e-5
