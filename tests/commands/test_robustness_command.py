"""``lewm eval robustness`` as a user types it: on a run with a world, on recordings without one, and with what is not allowed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lewm.checkpoint import save_checkpoint
from lewm.cli import main
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.formats.store import open_store
from lewm.models.world_model import WorldModel

TINY = from_dict(
    {
        "data": {"action_block": 2, "validation_fraction": 0.3},
        "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
        "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 8},
        "predictor": {"width": 8, "num_layers": 1, "num_heads": 1, "head_width": 8, "mlp_width": 8},
        "planner": {"num_candidates": 4, "num_elites": 2, "num_iterations": 1, "horizon_model_steps": 2, "replan_every_model_steps": 2},
    }
)
QUICK = ("--episodes", "2", "--distances", "8", "--severities", "0.5,1")


def save_run(path: Path, data: Path, **provenance: object) -> Path:
    """A run of an untrained model on a dataset."""
    store = open_store(data)
    torch.manual_seed(0)
    model = WorldModel(TINY, store.observation_spec, store.action_spec)
    provenance |= {"dataset_sha256": store.dataset_sha256}
    return save_checkpoint(path / "checkpoints" / "step-00000001", model, TINY, step=1, env=store.env, provenance=provenance)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two-room with its data, and one on folders of images, which have no labels and no world."""
    root = tmp_path_factory.mktemp("robustness")
    collect("two-room", root / "data", episodes=30, max_env_steps=30, env_options={"size_px": 32})
    save_run(root / "run", root / "data")
    save_run(root / "tuned", root / "data", base={"step": 1})
    noise = np.random.default_rng(0)
    for episode in range(8):
        (root / "images" / f"episode-{episode}").mkdir(parents=True)
        for number in range(8):
            picture = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "images" / f"episode-{episode}" / f"{number:03}.png")
    save_run(root / "films", root / "images")
    return root


def evaluate(place: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["eval", "robustness", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["eval", "robustness", *words]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_a_run_gives_a_table_a_figure_and_a_result_that_verifies(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", f"{place}/data", "--perturbations", "door_y_px", "--corruptions", "noise", "--unseen", *QUICK)
    files = ("--json", f"{place}/run/results/robustness.json", "--figure", f"{place}/robustness.png")
    table = evaluate(place, capsys, f"{place}/run", *words, *files)
    assert "unseen door_y_px" in table
    assert "trained on 49, unseen 35 to 42 and 56 to 189, at least 7 apart" in table
    assert "R^2 agent_x_px" in table
    assert (place / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((place / "run/results/robustness.json").read_text())
    assert [entry["severity"] for entry in result["probe"]["conditions"]] == [0.5, 1.0]
    assert result["probe"]["is_training_dataset"]
    assert table.strip() in (place / "run" / "README.md").read_text()
    assert main(["verify", f"{place}/run/results/robustness.json"]) == 0
    assert "under 9 conditions replayed" in capsys.readouterr().out


def test_recordings_without_a_world_or_labels_give_what_is_left_and_say_what_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--json", f"{place}/films.json", "--figure", f"{place}/films.png")
    table = evaluate(place, capsys, f"{place}/films", "--data", f"{place}/images", "--corruptions", "noise,jpeg", "--severities", "0.5,1", *files)
    assert "no success: the run was trained on data without a simulator" in table
    assert "the dataset has no labels: R^2 is not known, only how far latents move" in table
    assert "R^2 of the mean" not in table
    result = json.loads((place / "films.json").read_text())
    assert result["probe"]["clean"] == {"displacement": 0.0, "neighbour_agreement": 1.0, "labels": None, "mean_r2": None}
    assert (place / "films.png").exists()
    assert main(["verify", f"{place}/films.json"]) == 1
    assert "a probe cannot be checked without the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("run", ("--corruptions", "blurr"), "unknown corruption 'blurr'. Did you mean 'blur'"),
        ("run", ("--perturbations", "agent_colour"), "env 'two-room' has no perturbation 'agent_colour'. Did you mean 'agent_color'"),
        ("run", ("--severities", "0.5,1.5"), "severities must be different numbers in (0, 1], ascending, got 0.5, 1.5"),
        ("run", ("--severities", "half"), "--severities takes numbers in (0, 1] with commas between"),
        ("run", ("--goals", "dirty"), "unknown kind of goal frames 'dirty'"),
        ("run", ("--figure", "figure.svg"), "--figure writes a PNG"),
        ("run", ("--figure", "f.png", "--perturbations", "none", "--corruptions", "none"), "--figure draws perturbations and corruptions"),
        ("run", ("--env-option", "size_px=64"), "the run was trained on frames of [1, 32, 32, 3]"),
        ("run", ("--env-option", 'vary=["door_y_px"]', "--unseen"), "has no layouts that training left out"),
        (
            "run",
            ("--env-option", "door_y_px=100", "--unseen"),
            "the run was trained with door_y_px in [(49.0, 49.0)], these options have [(100.0, 100.0)]",
        ),
        ("films", ("--data", "{place}/images", "--unseen"), "which layouts the run has seen is known only in the world"),
        ("run", ("--data", "{place}/images"), "the run was trained on ObservationSpec(height_px=32"),
        ("tuned", ("--unseen",), "which layouts those have seen is not recorded"),
        ("films", ("--corruptions", "noise"), "trained on data without a simulator: give --data DIR"),
        ("films", ("--data", "{place}/images", "--perturbations", "door_y_px"), "data without a simulator has no perturbations"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], run: str, words: tuple[str, ...], message: str
) -> None:
    assert message in refuse(capsys, f"{place}/{run}", *(word.format(place=place) if word.startswith("{place}") else word for word in words))
