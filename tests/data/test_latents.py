"""The latents of a dataset on disk: what they are, that they are computed once, and what happens to builds and files that are cut off."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.config import Config, ConvEncoderConfig, DataConfig, ModelConfig, PredictorConfig
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.latent_spans import SpanSampler
from lewm.data.latents import ACTIONS_FILE, LATENTS_FILE, META_FILE, STILL_FILE, encoder_sha256, latent_cache
from lewm.errors import DataError
from lewm.models.world_model import WorldModel
from lewm.schema import Observation

CONFIG = Config(
    data=DataConfig(stack_offsets_env_steps=(-2, 0)),
    encoder=ConvEncoderConfig(channels=(4,), kernel_sizes=(8,), strides=(8,)),
    model=ModelConfig(latent_dimension=6, projector_width=8, action_embedding_width=8),
    predictor=PredictorConfig(width=8, num_layers=1, num_heads=1, head_width=8, mlp_width=8),
)


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("latents") / "two-room"
    collect("two-room", path, episodes=60, max_env_steps=90, env_options={"size_px": 16})
    return EpisodeStore(path)


def model_of(store: EpisodeStore, seed: int = 0) -> WorldModel:
    torch.manual_seed(seed)
    spec = store.observation_spec
    stacked = type(spec)(height_px=spec.height_px, width_px=spec.width_px, cameras=spec.cameras, stack_offsets_env_steps=(-2, 0))
    return WorldModel(CONFIG, stacked, store.action_spec).eval()


def cache_of(store: EpisodeStore, parent: Path, seed: int = 0, progress=None):
    return latent_cache(model_of(store, seed), store, parent, checkpoint_sha256="c" * 64, progress=progress)


@pytest.mark.parametrize("episode", [0, 7, 59])
def test_every_row_is_the_latent_of_its_stacked_frames_and_the_action_after_it(store, tmp_path, episode):
    cache, recorded = cache_of(store, tmp_path), store.episode(episode)
    frames = recorded.observations.frames
    stacked = np.concatenate([frames[np.maximum(np.arange(len(frames)) - 2, 0)], frames], axis=1)
    with torch.no_grad():
        expected = model_of(store).encode(Observation(torch.from_numpy(stacked)))
    rows = cache.rows(np.full(len(frames), episode), np.arange(len(frames)))
    np.testing.assert_allclose(cache.latents[rows], expected, atol=1e-5)
    np.testing.assert_array_equal(cache.actions[rows], np.concatenate([recorded.actions, np.zeros((1, 2), np.float32)]))


@pytest.mark.parametrize("episode", [0, 7, 59])
def test_goals_are_the_latents_of_the_newest_frame_in_every_place_of_the_stack(store, tmp_path, episode):
    cache, frames = cache_of(store, tmp_path), store.episode(episode).observations.frames
    with torch.no_grad():
        expected = model_of(store).encode(Observation(torch.from_numpy(np.concatenate([frames, frames], axis=1))))
    rows = cache.rows_of(np.array([episode]))
    np.testing.assert_allclose(cache.goals[rows], expected, atol=1e-5)
    assert np.abs(cache.goals[rows] - cache.latents[rows])[2:].max() > 0.01  # what moves looks different


def test_without_stacks_a_cache_is_what_it_always_was_and_goals_look_like_anything_else(store, tmp_path):
    torch.manual_seed(0)
    model = WorldModel(CONFIG, store.observation_spec, store.action_spec).eval()
    cache = latent_cache(model, store, tmp_path, checkpoint_sha256="c" * 64)
    assert cache.goals is cache.latents
    (directory,) = tmp_path.iterdir()
    assert directory.name == f"{encoder_sha256(model)[:16]}-{store.dataset_sha256[:16]}"
    assert {LATENTS_FILE, ACTIONS_FILE, META_FILE} == {file.name for file in directory.iterdir()} - {".lock"}
    assert json.loads((directory / META_FILE).read_text())["format"] == 1


def test_a_cache_of_stacks_from_before_it_had_goals_is_left_alone_and_another_one_built(store, tmp_path):
    whole = cache_of(store, tmp_path)
    (directory,) = tmp_path.iterdir()
    old = directory.rename(tmp_path / directory.name.removesuffix("-still"))
    (old / STILL_FILE).unlink()
    (old / META_FILE).write_text(json.dumps(json.loads((old / META_FILE).read_text()) | {"format": 1}))
    assert cache_of(store, tmp_path).sha256 == whole.sha256
    assert (old / LATENTS_FILE).is_file()


def test_latents_are_computed_once(store, tmp_path):
    cache_of(store, tmp_path)
    told = []
    cache_of(store, tmp_path, progress=lambda *done: told.append(done))
    assert told == []


def test_other_weights_have_another_cache_beside_the_first(store, tmp_path):
    first, other = cache_of(store, tmp_path), cache_of(store, tmp_path, seed=1)
    assert first.sha256 != other.sha256
    assert cache_of(store, tmp_path).sha256 == first.sha256


def test_a_build_that_was_cut_off_goes_on_where_it_noted_its_progress_and_ends_the_same(store, tmp_path):
    whole, told = cache_of(store, tmp_path / "whole"), []

    def stop(done: int, total: int) -> None:
        if done > 0.9 * total:
            raise StoppedError

    with pytest.raises(StoppedError):
        cache_of(store, tmp_path / "cut", progress=stop)
    resumed = cache_of(store, tmp_path / "cut", progress=lambda done, total: told.append(done / total))
    assert min(told) > 0.7
    assert resumed.sha256 == whole.sha256


@pytest.mark.parametrize("name", [LATENTS_FILE, ACTIONS_FILE, STILL_FILE])
def test_a_cache_that_was_changed_is_refused_with_what_to_do(store, tmp_path, name):
    cache_of(store, tmp_path)
    file = next(tmp_path.rglob(name))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="its arrays are not what was written; delete that directory, and they are computed again"):
        cache_of(store, tmp_path)


def test_spans_lie_within_their_episodes_and_within_the_longest_length(store, tmp_path):
    cache = cache_of(store, tmp_path)
    sampler = SpanSampler(cache, np.array([3, 5]), least_env_steps=1, batch_size=500, seed=0)
    spans = sampler.draw(4, 30)
    assert set(spans.episode) == {3, 5}
    assert spans.length.min() == 1
    assert spans.length.max() == 30
    assert (spans.start + spans.length <= cache.length[spans.episode]).all()
    assert spans.start.min() == 0


def test_a_batch_of_spans_is_a_function_of_seed_and_number(store, tmp_path):
    cache = cache_of(store, tmp_path)
    drawn = [
        SpanSampler(cache, np.arange(60), least_env_steps=1, batch_size=8, seed=seed).draw(k, 30) for seed, k in ((0, 2), (0, 2), (0, 3), (1, 2))
    ]
    starts = [spans.start.tolist() for spans in drawn]
    assert starts[0] == starts[1]
    assert starts[0] != starts[2]
    assert starts[0] != starts[3]


def test_actions_from_before_the_start_and_after_the_end_are_raw_zeros(store, tmp_path):
    sampler = SpanSampler(cache_of(store, tmp_path), np.arange(60), least_env_steps=1, batch_size=8, seed=0)
    recorded = store.episode(4).actions
    actions = sampler.actions(np.array([4, 4]), np.array([-3, len(recorded) - 2]), 5)
    np.testing.assert_array_equal(actions[0], np.concatenate([np.zeros((3, 2)), recorded[:2]]))
    np.testing.assert_array_equal(actions[1], np.concatenate([recorded[-2:], np.zeros((3, 2))]))


def test_episodes_that_are_too_short_for_a_span_are_refused(store, tmp_path):
    with pytest.raises(DataError, match="no training episode has 1000 env steps"):
        SpanSampler(cache_of(store, tmp_path), np.arange(60), least_env_steps=1000, batch_size=8, seed=0)
