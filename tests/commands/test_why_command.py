"""``lewm eval why`` as a user types it: on a run with a world, and where it has no answer."""

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
from lewm.report import write_report

TINY = from_dict(
    {
        "data": {"action_block": 2, "validation_fraction": 0.3},
        "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
        "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 8},
        "predictor": {"width": 8, "num_layers": 1, "num_heads": 1, "head_width": 8, "mlp_width": 8},
        "planner": {"num_candidates": 4, "num_elites": 2, "num_iterations": 1, "horizon_model_steps": 2, "replan_every_model_steps": 2},
    }
)
QUICK = ("--episodes", "8", "--pairs", "2", "--distance", "8", "--seed", "1", "--strata", "same-room")


def save_run(path: Path, data: Path) -> None:
    store = open_store(data)
    torch.manual_seed(0)
    model = WorldModel(TINY, store.observation_spec, store.action_spec)
    save_checkpoint(path / "checkpoints" / "step-00000001", model, TINY, step=1, env=store.env, provenance={"dataset_sha256": store.dataset_sha256})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two-room with its data, and one on folders of images, which have no labels and no world."""
    root = tmp_path_factory.mktemp("why")
    collect("two-room", root / "data", episodes=30, max_env_steps=20, env_options={"size_px": 32})
    save_run(root / "run", root / "data")
    noise = np.random.default_rng(0)
    for episode in range(8):
        (root / "images" / f"episode-{episode}").mkdir(parents=True)
        for number in range(8):
            picture = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "images" / f"episode-{episode}" / f"{number:03}.png")
    save_run(root / "films", root / "images")
    return root


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["eval", "why", *words]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_a_run_gives_a_table_a_figure_a_result_and_a_part_of_the_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(place / "run")
    assert f"lewm eval why {place}/run --data DATA --json {place}/run/results/why.json" in (place / "run/report.html").read_text()
    files = ("--json", f"{place}/run/results/why.json", "--figure", f"{place}/run/results/why.png")
    assert main(["eval", "why", f"{place}/run", "--data", f"{place}/data", *QUICK, *files]) == 0
    captured = capsys.readouterr()
    assert "takes at most" in captured.err
    assert "encoder+predictor+cost+search" in captured.out
    assert "cost's oracle: shortest way, in px" in captured.out
    assert (place / "run/results/why.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((place / "run/results/why.json").read_text())
    assert result["n"] == 8
    assert len(result["swapped"]) == result["num_swapped_pairs"] == 2
    write_report(place / "run")
    page = (place / "run/report.html").read_text()
    assert "Why plans fail" in page
    assert "data:image/png" in page


def test_the_pairs_of_a_success_result_can_be_asked_about(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "success.json"
    assert main(["eval", "success", f"{place}/run", "--episodes", "2", "--distances", "8", "--strata", "same-room", "--json", str(file)]) == 0
    asked = (f"{place}/run", "--data", f"{place}/data", "--pairs-of", str(file), "--pairs", "1")
    assert main(["eval", "why", *asked, "--json", f"{place}/why.json"]) == 0
    capsys.readouterr()
    success, why = (json.loads((place / name).read_text()) for name in ("success.json", "why.json"))
    assert why["protocol"]["manifest_sha256"] == success["protocol"]["manifest_sha256"]
    assert [episode["solved"] for episode in why["episodes"]] == [episode["solved"] for episode in success["episodes"]]
    assert "leave --env and --env-option out" in refuse(capsys, *asked, "--env", "two-room")
    assert "is no result with pairs" in refuse(capsys, *asked[:4], f"{place}/run/checkpoints/step-00000001/config.json", "--pairs", "1")


def test_of_the_pairs_of_a_result_the_first_can_be_asked_about_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "three.json"
    assert main(["eval", "success", f"{place}/run", "--episodes", "3", "--distances", "8", "--strata", "same-room", "--json", str(file)]) == 0
    asked = (f"{place}/run", "--data", f"{place}/data", "--pairs-of", str(file), "--pairs", "1", "--episodes", "2")
    assert main(["eval", "why", *asked, "--json", f"{place}/why-two.json"]) == 0
    capsys.readouterr()
    success, why = (json.loads((place / name).read_text()) for name in ("three.json", "why-two.json"))
    assert why["protocol"]["manifest_sha256"] == success["protocol"]["manifest_sha256"]
    assert [episode["pair"] for episode in why["episodes"]] == [episode["pair"] for episode in success["episodes"]][:2]
    assert [episode["solved"] for episode in why["episodes"]] == [episode["solved"] for episode in success["episodes"]][:2]


def test_a_run_without_a_world_or_without_labels_is_told_what_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = (f"{place}/films", "--data", f"{place}/images", *QUICK)
    assert "trained on data without a simulator; name a world with --env" in refuse(capsys, *films)


def test_what_cannot_be_asked_is_refused_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = (f"{place}/run", "--data", f"{place}/data", *QUICK)
    assert "--figure writes a PNG" in refuse(capsys, *run, "--figure", f"{place}/why.svg")
    assert "follows the model's gradient" in refuse(capsys, *run, "--planner.name", "gradient")
    assert "would judge latents by a head" in refuse(capsys, *run, "--planner.distance", "temporal")
    assert "at least 1 pair per stratum, got 0" in refuse(capsys, *run, "--pairs", "0")
