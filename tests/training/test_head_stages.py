"""Heads that act, as stages: what they are trained on, what is kept beside them, and the commands around them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.checkpoint import load_checkpoint
from lewm.cli import main
from lewm.data.episodes import EpisodeStore
from lewm.data.latent_spans import SpanSampler
from lewm.data.latents import latent_cache
from lewm.data.splits import split_episodes
from lewm.decoder_training import train_decoder
from lewm.evaluation.run_latents import latents_directory, run_latents, training_episodes
from lewm.head_config import DecoderConfig, DistanceConfig, IntentConfig, InverseGoalConfig
from lewm.head_training import LOSSES, train_head
from lewm.models.heads import build_head
from lewm.models.world_model import WorldModel
from lewm.training import train

SMALL = {"width": 16, "num_layers": 1, "num_steps": 3, "batch_size": 16}
INVERSE, INTENT, DISTANCE = InverseGoalConfig(**SMALL, most_env_steps=20), IntentConfig(**SMALL), DistanceConfig(**SMALL, imagined_model_steps=3)


@pytest.fixture(scope="module")
def base(dataset, tiny, tmp_path_factory) -> Path:
    return train(tiny, data=dataset, out=tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("latents")


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).heads[name].network.state_dict()


def test_heads_are_trained_one_after_another_and_all_are_kept(base, dataset, latents, tmp_path):
    run = train_decoder(DecoderConfig(num_steps=1, batch_size=4, width=8, num_heads=1), base=base, data=dataset, out=tmp_path / "decoder")
    for settings in (INVERSE, INTENT, DISTANCE):
        run = train_head(settings, base=run, data=dataset, out=tmp_path / settings.NAME, latents=latents)
    checkpoint, before = load_checkpoint(run), load_checkpoint(base)
    assert set(checkpoint.heads) == set(checkpoint.provenance["heads"]) == {"decoder", "inverse-goal", "intent", "distance"}
    assert all(torch.equal(tensor, checkpoint.model.state_dict()[name]) for name, tensor in before.model.state_dict().items())
    first = weights(tmp_path / "inverse-goal", "inverse-goal")
    assert all(torch.equal(tensor, first[name]) for name, tensor in checkpoint.heads["inverse-goal"].network.state_dict().items())
    assert len(list(latents.glob("*/meta.json"))) == 1  # one cache for all stages: heads do not change latents


def test_the_checkpoint_knows_what_a_head_came_from(base, dataset, latents, tmp_path):
    run = train_head(dataclasses.replace(INVERSE, seed=5), base=base, data=dataset, out=tmp_path / "run", latents=latents)
    origin = load_checkpoint(run).provenance["heads"]["inverse-goal"]
    assert origin["base_checkpoint_sha256"] == load_checkpoint(base).sha256
    assert origin["dataset_sha256"] == EpisodeStore(dataset).dataset_sha256
    assert (origin["seed"], origin["split_seed"]) == (5, 0)
    assert load_checkpoint(run).heads["inverse-goal"].settings.seed == 5


@pytest.mark.parametrize("settings", [INVERSE, INTENT, DISTANCE])
def test_a_head_is_a_function_of_its_settings_and_seed(base, dataset, latents, tmp_path, settings):
    first, again, other = (
        weights(train_head(each, base=base, data=dataset, out=tmp_path / name, latents=latents), settings.NAME)
        for name, each in (("a", settings), ("b", settings), ("c", dataclasses.replace(settings, seed=1)))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize("settings", [INVERSE, INTENT, DISTANCE])
def test_heads_see_the_runs_own_training_episodes_only(base, dataset, latents, settings, monkeypatch):
    checkpoint, store, seen = load_checkpoint(base), EpisodeStore(dataset), set()
    cache, ids = run_latents(checkpoint, store, latents), training_episodes(checkpoint, store)
    data = checkpoint.config.data
    np.testing.assert_array_equal(ids, split_episodes(store.episode_ids, data.validation_fraction, data.split_seed)[0])
    for name in ("latents", "goals"):
        read = getattr(SpanSampler, name)
        monkeypatch.setattr(SpanSampler, name, lambda self, episode, step, read=read: (seen.update(episode.tolist()), read(self, episode, step))[1])
    head = build_head(settings.NAME, settings, checkpoint.model)
    loss_at = LOSSES[settings.NAME](head, checkpoint.model, cache, ids)
    for step in range(40):
        loss_at(step)
    assert seen == set(ids.tolist())
    assert len(ids) < len(store)


@pytest.mark.parametrize("settings", [INVERSE, INTENT, DISTANCE])
def test_heads_learn_from_goals_that_look_as_an_agent_is_shown_them(dataset, tiny, tmp_path, settings):
    """Where frames are stacked an agent's present is a moving stack, and its goal a still one."""
    store = EpisodeStore(dataset)
    spec = dataclasses.replace(store.observation_spec, stack_offsets_env_steps=(-3, 0))
    model, seen = WorldModel(tiny, spec, store.action_spec).eval(), []
    cache = latent_cache(model, store, tmp_path, checkpoint_sha256="c" * 64)
    settings = dataclasses.replace(settings, **({"imagined_fraction": 0.0} if settings.NAME == "distance" else {}))
    head = build_head(settings.NAME, settings, model)
    head.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))
    LOSSES[settings.NAME](head, model, cache, np.arange(len(store)))(0)
    moving, still = ({row.tobytes() for row in rows} for rows in (cache.latents, cache.goals))
    here, goals = ([row.tobytes() for part in parts for row in part.numpy()] for parts in zip(*seen, strict=True))
    assert set(here) <= moving
    assert set(goals) <= still
    assert not set(goals) <= moving


def test_imagined_latents_are_the_models_rollout_of_the_actions_that_were_taken(base, dataset, latents, monkeypatch):
    checkpoint, store = load_checkpoint(base), EpisodeStore(dataset)
    cache, ids = run_latents(checkpoint, store, latents), training_episodes(checkpoint, store)
    settings = dataclasses.replace(DISTANCE, imagined_fraction=1.0, negative_fraction=0.0, batch_size=64)
    head, seen = build_head("distance", settings, checkpoint.model), []
    monkeypatch.setattr(head.network, "loss", lambda *values: seen.append(values) or values[0].sum())
    LOSSES["distance"](head, checkpoint.model, cache, ids)(0)
    spans = SpanSampler(cache, ids, least_env_steps=0, batch_size=64, seed=0).draw(0, settings.most_env_steps)
    here, found = seen[0][0], 0
    for row, (episode, start) in enumerate(zip(spans.episode, spans.start, strict=True)):
        for steps in range(1, 1 + min(3, start // 5)):
            first = cache.rows(episode, start - 5 * steps)
            blocks = torch.from_numpy(cache.actions[first : first + 5 * steps].copy()).view(1, 1, steps, 10)
            context = torch.from_numpy(cache.latents[first].copy())[None, None]
            with torch.no_grad():
                imagined = checkpoint.model.rollout(context, torch.zeros(1, 0, 10), blocks)[0, 0, -1]
            found += torch.allclose(imagined, here[row], atol=1e-5)
    assert found == int((spans.start >= 5).sum())


def test_pairs_of_different_episodes_are_as_far_apart_as_can_be(base, dataset, latents, monkeypatch):
    checkpoint, store = load_checkpoint(base), EpisodeStore(dataset)
    cache, ids = run_latents(checkpoint, store, latents), training_episodes(checkpoint, store)
    settings = dataclasses.replace(DISTANCE, negative_fraction=1.0, batch_size=64)
    head, seen = build_head("distance", settings, checkpoint.model), []
    monkeypatch.setattr(head.network, "loss", lambda *values: seen.append(values) or values[0].sum())
    LOSSES["distance"](head, checkpoint.model, cache, ids)(0)
    assert float((seen[0][2] == settings.most_env_steps).float().mean()) > 0.9  # the others drew their own episode


def test_latents_are_kept_in_the_run_unless_another_place_is_named(base, dataset, tmp_path):
    train_head(INVERSE, base=base, data=dataset, out=tmp_path / "run")
    assert latents_directory(load_checkpoint(base)) == base / "latents"
    assert len(list((base / "latents").glob("*/latents.npy"))) == 1


def test_the_commands_train_heads_and_act_with_them(base, dataset, latents, tmp_path, capsys):
    small = ["--data", str(dataset), "--latents", str(latents)]
    words = ["train", "--from", str(base), "--stage", "inverse-goal", *small, "--out", str(tmp_path / "a"), "--inverse-goal.num-steps", "2"]
    assert main(words) == 0
    assert "next: lewm eval success" in capsys.readouterr().out
    words = ["train", "--from", str(tmp_path / "a"), "--stage", "distance", *small, "--out", str(tmp_path / "b"), "--distance.num-steps", "2"]
    assert main(words) == 0
    run, file = str(tmp_path / "b"), tmp_path / "result.json"
    for planner in ("direct", "guarded"):
        words = ["eval", "success", run, "--episodes", "1", "--distances", "5", "--strata", "same-room", "--planner.name", planner]
        words = [*words, "--planner.proposals", "inverse-goal", "--planner.distance", "distance"]
        assert main([*words, "--json", str(file)]) == 0
        assert json.loads(file.read_text())["planner"]["name"] == planner
    words = ["eval", "success", run, "--episodes", "1", "--distances", "5", "--strata", "same-room", "--planner.name", "direct"]
    assert main([*words, "--planner.proposals", "retrieval", "--data", str(dataset)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--planner.name", "direct", "--planner.proposals", "inverse-goal"], "has no inverse-goal: `lewm train --from"),
        (["--planner.name", "guarded", "--planner.proposals", "intent"], "has no intent: `lewm train --from"),
        (["--planner.distance", "distance"], "--stage distance --data DIR --out RUN` trains one"),
        (["--planner.name", "direct", "--planner.proposals", "retrieval"], "give --data DIR"),
    ],
)
def test_a_head_that_the_run_does_not_have_is_named_with_the_command_that_trains_it(base, words, message, capsys):
    assert main(["eval", "success", str(base), "--episodes", "1", *words]) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_settings_of_another_stage_are_refused(base, dataset, tmp_path, capsys):
    words = ["train", "--from", str(base), "--data", str(dataset), "--out", str(tmp_path / "run"), "--stage"]
    assert main([*words, "intent", "--distance.width", "8"]) == 1
    assert "--distance.width is for another stage than 'intent'" in capsys.readouterr().err
    assert main([*words, "decoder", "--latents", str(tmp_path)]) == 1
    assert "--latents is not for the stage 'decoder'" in capsys.readouterr().err
