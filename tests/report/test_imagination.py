"""The film of what a model imagines: shown where there is a decoder, and made without a look at the future."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lewm.checkpoint import load_checkpoint, save_checkpoint
from lewm.config_files import from_dict
from lewm.decoder_training import train_decoder
from lewm.envs.base import make_batch
from lewm.head_config import DecoderConfig
from lewm.models.heads import build_head
from lewm.models.world_model import WorldModel
from lewm.report import write_report
from lewm.report.imagination import HEADING_PX, NUM_FILMED, Imagination, imagination_film, imagination_words, imagine
from lewm.seeds import episode_seed
from toy_world import SEED_MODULUS


@pytest.fixture(scope="module")
def run(finished_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with a decoder of few steps."""
    out = tmp_path_factory.mktemp("decoder") / "run"
    return train_decoder(DecoderConfig(num_steps=3, batch_size=4), base=finished_demo, data=finished_demo / "data", out=out)


def test_the_report_of_a_run_with_a_decoder_shows_what_it_imagines_with_its_psnr(run: Path) -> None:
    text = write_report(run).read_text()
    assert '<section id="imagination"' in text
    assert "Right: drawn from what the model imagined from the first frame" in text
    assert "model steps; the first frame as a copy:" in text
    assert "of another run, kept as it was; the decoder was trained beside it" in text


def test_the_report_of_a_run_without_a_decoder_has_no_such_part(finished_demo: Path) -> None:
    assert "imagination" not in (finished_demo / "report.html").read_text()


def test_imagined_frames_begin_at_the_decoded_first_frame_and_real_ones_are_the_worlds(run: Path) -> None:
    imagination = imagine(load_checkpoint(run), horizon_model_steps=4, num_episodes=5)
    assert imagination is not None
    real, decoded, imagined = imagination.frames
    assert real.shape == (5, 5, 64, 64, 3)
    np.testing.assert_array_equal(imagined[:, 0], decoded[:, 0])
    assert real.reshape(-1, 3).max(0).tolist() == [255, 255, 255]  # white rooms
    assert imagination.psnr_db.shape == (2, 4)


def test_the_same_run_imagines_the_same_twice(run: Path) -> None:
    one, other = (imagine(load_checkpoint(run), horizon_model_steps=2, num_episodes=3) for _ in range(2))
    np.testing.assert_array_equal(one.frames, other.frames)


def test_frames_of_stacked_cameras_are_the_newest_of_the_first_one_a_block_apart_with_discrete_actions_and_proprioception(tmp_path: Path) -> None:
    config = from_dict(
        {
            "data": {"action_block": 3, "stack_offsets_env_steps": [-2, 0]},
            "encoder": {"name": "conv", "channels": [4], "kernel_sizes": [4], "strides": [4]},
            "model": {"latent_dimension": 4, "projector_width": 8, "action_embedding_width": 8},
            "predictor": {"width": 8, "num_layers": 1, "num_heads": 1, "head_width": 8, "mlp_width": 8},
        }
    )
    with closing(make_batch("toy-walk", 1)) as envs:
        spec = replace(envs.observation_spec, stack_offsets_env_steps=(-2, 0))
        model = WorldModel(config, spec, envs.action_spec)
    head = build_head("decoder", DecoderConfig(width=4, num_heads=1), model)
    env = {"name": "toy-walk", "options": {}}
    save_checkpoint(tmp_path / "run", model, config, step=1, env=env, provenance={}, heads={"decoder": head})
    imagination = imagine(load_checkpoint(tmp_path / "run"), horizon_model_steps=2, num_episodes=8)
    assert imagination is not None
    real = imagination.frames[0]
    assert (real[..., 1] == np.array([2, 5, 8])[:, None, None]).all()  # env steps: the first one with a whole stack, then a block apart
    first_camera = [episode_seed("report", 1, index) % SEED_MODULUS for index in range(8)]
    assert set(real[:, 0, 0, 0, 2].tolist()) <= set(first_camera)


def test_the_film_has_a_row_per_episode_and_a_column_for_what_is_real_decoded_and_imagined() -> None:
    frames = np.zeros((3, 7, 3, 8, 16, 3), np.uint8)
    images = imagination_film(Imagination(frames=frames, psnr_db=np.zeros((2, 2))), side_px=32, gutter=2)
    assert images[0].size == (3 * (32 + 2) + 2, HEADING_PX + NUM_FILMED * (16 + 2) + 2)
    assert len(images) == 3 * 4  # model steps, each held


def test_the_words_name_the_psnr_of_the_first_the_middle_and_the_last_step() -> None:
    psnr = np.array([[30.0, 28.0, 26.0, 24.0], [25.0, 24.0, 23.0, 22.0]])
    words = imagination_words(Imagination(frames=np.zeros((3, 7, 5, 8, 8, 3), np.uint8), psnr_db=psnr), 5)
    assert (
        "over 7 fresh episodes: 30.0 dB after 1, 28.0 dB after 2, 24.0 dB after 4 model steps; the first frame as a copy: 25.0, 24.0, 22.0" in words
    )
