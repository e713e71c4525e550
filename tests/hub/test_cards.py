"""Cards: generated from what is on disk, never over a person's words, and covered by no hash."""

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from lewm.cards import CARD_FILE, card, is_generated, write_card
from lewm.checkpoint import checkpoint_sha256, find_checkpoint
from lewm.cli import main
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.evaluation.success import success_table
from lewm.report.evidence import read_evidence


@pytest.fixture
def own_dataset(dataset, tmp_path) -> Path:
    return shutil.copytree(dataset, tmp_path / "data")


@pytest.fixture
def own_run(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


@pytest.mark.parametrize("kind", ["run", "dataset"])
def test_the_hub_can_read_the_front_matter(kind, request):
    assert "lewm" in RepoCard(card(request.getfixturevalue(kind))).data.to_dict()["tags"]


def test_no_success_rate_stands_in_a_card_without_floors_and_interval(run):
    table = success_table(read_evidence(run).results["success"][0])
    results = card(run).split("## Results")[1].split("## Limits")[0]
    assert "random" in table
    assert not re.search(r"\d\.\d", results.replace(table, "", 1))


def test_a_result_of_another_checkpoint_is_named_as_not_shown(run):
    assert "results/old.json is not shown: it measures another checkpoint" in card(run)


def test_a_run_without_results_says_how_to_measure(own_run):
    shutil.rmtree(own_run / "results")
    assert "Not measured. `lewm eval success RUN" in card(own_run)


def test_a_result_that_somebody_broke_does_not_break_the_card(own_run):
    file = own_run / "results" / "success.json"
    file.write_text(file.read_text().replace('"by_distance"', '"by_distances"'))
    assert "cannot be shown: KeyError('by_distance')" in card(own_run)


def test_a_card_names_data_hash_and_command(run, dataset):
    text = card(run)
    assert EpisodeStore(dataset).dataset_sha256 in text
    assert "```text\nlewm train\n```" in text


def test_a_card_changes_no_hash(own_run, own_dataset):
    before = checkpoint_sha256(find_checkpoint(own_run)), EpisodeStore(own_dataset).dataset_sha256
    assert write_card(find_checkpoint(own_run))
    assert write_card(own_dataset)
    assert (checkpoint_sha256(find_checkpoint(own_run)), EpisodeStore(own_dataset).dataset_sha256) == before


def test_a_dataset_with_a_card_verifies_and_can_be_appended_to(own_dataset):
    write_card(own_dataset)
    assert main(["info", str(own_dataset), "--verify"]) == 0
    store = collect("two-room", own_dataset, episodes=26, max_env_steps=30, env_options={"size_px": 32}, resume=True)
    assert len(store) == 26


def test_a_generated_card_is_refreshed(own_run):
    write_card(own_run)
    shutil.rmtree(own_run / "results")
    assert write_card(own_run)
    assert (own_run / CARD_FILE).read_text() == card(own_run)


@pytest.mark.parametrize("change", [lambda text: "# My own words\n", lambda text: text.replace("## Limits", "## Limits, and my thanks")])
def test_a_card_that_a_person_wrote_or_changed_is_left_alone(change, own_run):
    words = change(card(own_run))
    (own_run / CARD_FILE).write_text(words)
    assert not write_card(own_run)
    assert (own_run / CARD_FILE).read_text() == words


def test_collecting_training_and_evaluating_keep_the_cards_fresh(tmp_path, capsys):
    data, out, settings = tmp_path / "data", tmp_path / "run", tmp_path / "small.toml"
    settings.write_text("[train]\nnum_steps = 2\nbatch_size = 4\n[planner]\nnum_candidates = 4\nnum_elites = 2\nnum_iterations = 1\n")
    main(["collect", "two-room", "--out", str(data), "--episodes", "20", "--max-env-steps", "30"])
    main(["train", "--data", str(data), "--out", str(out), "--preset", "laptop", "--config", str(settings)])
    assert is_generated((data / CARD_FILE).read_text())
    assert "Not measured" in (out / CARD_FILE).read_text()
    main(["eval", "success", str(out), "--episodes", "2", "--json", str(out / "results" / "success.json")])
    assert "Not measured" not in (out / CARD_FILE).read_text()
    capsys.readouterr()
