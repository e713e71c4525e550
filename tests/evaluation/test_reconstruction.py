"""PSNR of drawn frames: the formula, the floors, and what imagination may see."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError
from lewm.evaluation.reconstruction import draw_clips, evaluate_reconstruction, psnr_db
from lewm.models.world_model import WorldModel
from lewm.schema import Clip, Observation

CONFIG = from_dict(
    {
        "data": {"action_block": 2, "validation_fraction": 0.3},
        "encoder": {"name": "conv", "channels": [4], "kernel_sizes": [8], "strides": [8]},
        "model": {"latent_dimension": 4, "projector_width": 8, "action_embedding_width": 8},
        "predictor": {"width": 8, "num_layers": 1, "num_heads": 1, "head_width": 8, "mlp_width": 8},
    }
)


class Constant(nn.Module):
    """Draws one frame whatever the latent."""

    def __init__(self, frame: torch.Tensor) -> None:
        super().__init__()
        self.frame = frame

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.frame.expand(*latents.shape[:-1], *self.frame.shape)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "two-room"
    collect("two-room", path, episodes=30, max_env_steps=30, env_options={"size_px": 16})
    return open_store(path)


@pytest.fixture(scope="module")
def model(store):
    torch.manual_seed(0)
    return WorldModel(CONFIG, store.observation_spec, store.action_spec).eval()


def mean_training_frame(store) -> torch.Tensor:
    frames = np.concatenate([store.episode(number).observations.frames for number in store.episode_ids.tolist()])
    return torch.from_numpy(frames.mean(0) / 255).float()


def test_psnr_is_ten_decibels_per_power_of_ten_and_at_most_100():
    np.testing.assert_allclose(psnr_db(np.array([1.0, 0.1, 0.001, 0.0])), [0, 10, 30, 100])


def test_a_decoder_that_draws_the_mean_frame_scores_the_floor(store, model):
    result = evaluate_reconstruction(model, store, config=CONFIG, decoder=Constant(mean_training_frame(store)), horizon_model_steps=3)
    floor = result["floors"]["mean_frame"]["psnr_db"]
    assert result["decoded"]["psnr_db"] == pytest.approx(floor, abs=0.3)  # the mean is of training clips, here of all frames
    assert result["imagined"][2]["psnr_db"] == pytest.approx(result["imagined"][2]["floors"]["mean_frame"]["psnr_db"], abs=0.3)
    assert result["decoded"]["low"] < result["decoded"]["psnr_db"] < result["decoded"]["high"]


def test_copying_the_context_becomes_worse_the_further_ahead(store, model):
    result = evaluate_reconstruction(model, store, config=CONFIG, decoder=Constant(mean_training_frame(store)), horizon_model_steps=5)
    copies = [entry["floors"]["copy"]["psnr_db"] for entry in result["imagined"]]
    assert copies == sorted(copies, reverse=True)
    assert [entry["env_steps"] for entry in result["imagined"]] == [2, 4, 6, 8, 10]


def test_a_decoder_that_is_always_off_by_a_tenth_scores_twenty_decibels(model):
    frames = torch.full((2, 4, 1, 16, 16, 3), 128, dtype=torch.uint8)
    clip = Clip(Observation(frames), torch.zeros(2, 3, 4), None, None, torch.zeros(2), torch.zeros(2))
    drawn = draw_clips(model, Constant(torch.full((1, 16, 16, 3), 128 / 255 + 0.1)), clip)
    assert float(psnr_db(float((drawn.decoded - drawn.real).square().mean()))) == pytest.approx(20, abs=1e-3)


def test_what_is_imagined_does_not_depend_on_the_frames_after_the_context(model):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 6, 1, 16, 16, 3), dtype=torch.uint8, generator=generator)
    clip = Clip(Observation(frames), torch.randn(3, 5, 4, generator=generator), None, None, torch.zeros(3), torch.zeros(3))
    later = frames.clone()
    later[:, 2:] = 255 - later[:, 2:]
    decoder = nn.Sequential(nn.Linear(4, 16 * 16 * 3), nn.Unflatten(-1, (1, 16, 16, 3)))
    same = draw_clips(model, decoder, clip, 2).imagined
    assert torch.equal(draw_clips(model, decoder, dataclasses.replace(clip, observations=Observation(later)), 2).imagined, same)
    assert same.shape == (3, 4, 1, 16, 16, 3)


def test_a_horizon_of_nothing_is_refused(store, model):
    with pytest.raises(ConfigError, match="horizon_model_steps and context_model_steps must be at least 1, got 0 and 1"):
        evaluate_reconstruction(model, store, config=CONFIG, decoder=nn.Identity(), horizon_model_steps=0)
