"""What corruptions do to latents: measured on latents whose answer is known."""

import dataclasses

import numpy as np
import pytest
import torch
from seeker import dot_px
from torch import nn

from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.evaluation.corruptions import corrupt
from lewm.evaluation.robustness_probe import displacement, neighbour_agreement, probe_corruptions
from lewm.schema import Observation, ObservationSpec

CONFIG = from_dict({"data": {"action_block": 2, "validation_fraction": 0.3}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("probe") / "data"
    collect("two-room", path, episodes=30, max_env_steps=30, env_options={"size_px": 32})
    return EpisodeStore(path)


class Looker(nn.Module):
    """In a model's place: its latents are where the dot of each view seems to be, and it keeps what it was shown."""

    action_block = 2

    def __init__(self, spec: ObservationSpec) -> None:
        super().__init__()
        self.observation_spec, self.shown = spec, []
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, observations: Observation[torch.Tensor]) -> torch.Tensor:
        self.shown.append(observations.frames.numpy())
        views = observations.frames.numpy().reshape(-1, 1, *observations.frames.shape[-3:])
        return torch.from_numpy(dot_px(views)).reshape(*observations.frames.shape[:-4], -1)


def test_a_probe_reads_clean_latents_and_less_the_more_noise_there_is(store: EpisodeStore) -> None:
    looks = probe_corruptions(Looker(store.observation_spec), store, config=CONFIG, corruptions=["noise"], severities=[0.25, 0.5, 1.0])
    entries = [looks["clean"], *looks["conditions"]]
    assert entries[0]["mean_r2"] > 0.999
    assert entries[0]["labels"]["door_y_px"] == "constant"
    for name, is_falling in (("mean_r2", True), ("neighbour_agreement", True), ("displacement", False)):
        values = [entry[name] for entry in entries]
        assert values == sorted(values, reverse=is_falling)
        assert len(set(values)) == 4


def test_without_labels_only_how_far_latents_move_is_known_and_that_is_said(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpisodeStore, "label_names", ())
    looks = probe_corruptions(Looker(store.observation_spec), store, config=CONFIG, corruptions=["noise"], severities=[1.0])
    assert looks["missing"].startswith("the dataset has no labels")
    assert looks["conditions"][0]["labels"] is None
    assert looks["conditions"][0]["displacement"] > 0


def test_every_stacked_frame_is_damaged_as_its_episode_and_its_own_env_step_say(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpisodeStore, "label_names", ())  # nothing to fit
    looker = Looker(dataclasses.replace(store.observation_spec, stack_offsets_env_steps=(-1, 0)))
    probe_corruptions(looker, store, config=CONFIG, corruptions=["noise"], severities=[1.0], num_clips=16)
    expected = {
        corrupt("noise", frames, 1.0, seed=episode, frame_index=step)[0].tobytes()
        for episode in store.episode_ids.tolist()
        for step, frames in enumerate(store.episode(episode).observations.frames)
    }
    clean, noisy = looker.shown
    assert noisy.shape == clean.shape == (16, 2, 32, 32, 3)
    assert all(view.tobytes() in expected for stack in noisy for view in stack)


def test_displacement_is_in_units_of_the_spread() -> None:
    generator = np.random.default_rng(0)
    clean, others = generator.standard_normal((2, 20000, 4)) * 3
    assert displacement(clean, clean) == 0
    assert displacement(clean, clean + np.array([6.0, 0, 0, 0])) == pytest.approx(1, rel=0.02)
    assert displacement(clean, others) == pytest.approx(np.sqrt(2), rel=0.02)
    assert displacement(np.ones((3, 2)), np.ones((3, 2)) * 2) == 1


def test_neighbours_agree_as_if_by_counting() -> None:
    line = np.arange(30, dtype=np.float64)[:, None]
    assert neighbour_agreement(line, line, count=2) == 1
    assert neighbour_agreement(line, -line + 1000, count=2) == pytest.approx((0.5 + 1 + 1) / 30)
