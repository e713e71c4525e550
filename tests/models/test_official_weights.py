"""Official weights in and out: what is read, that it is the same, and what is refused."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_official import SHAPES, recipe
from torch import Tensor

from lewm.checkpoint import load_checkpoint
from lewm.cli import main
from lewm.errors import CheckpointError, LewmError
from lewm.official_weights import TO_TRANSFORMERS_4, ActionFacts, _renamed, export_official, import_official, looks_like_weights, read_tensors

FACTS = ActionFacts(mean=(0.1, -0.2), std=(0.5, 0.6), low=(-1.0,), high=(1.0,))


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    """The published layout, filled with weights that anyone can make."""
    tensors = {name: torch.from_numpy(recipe(name, shape)) for name, shape in SHAPES.items() if "num_batches" not in name}
    return tensors | {name: torch.tensor(7) for name in SHAPES if "num_batches" in name}


@pytest.fixture(scope="module")
def folder(official: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    save_file(official, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"_target_": "os.system", "path": "../../etc/passwd"}))
    return path


def small(**changes: Tensor) -> dict[str, Tensor]:
    """What is looked at first, and nothing else."""
    tensors = {"action_encoder.patch_embed.weight": torch.zeros(10, 10, 1), "encoder.embeddings.position_embeddings": torch.zeros(1, 257, 192)}
    return tensors | changes


def test_weights_become_a_checkpoint_with_every_tensor_as_it_was(official: dict[str, Tensor], folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(import_official(str(folder), tmp_path / "out", actions=FACTS, env={"name": "push-t", "options": {}}))
    export_official(tmp_path / "out", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert set(back) == set(SHAPES)
    assert all(torch.equal(back[name], official[name]) for name in SHAPES)
    np.testing.assert_allclose(checkpoint.model.action_statistics(), [FACTS.mean, FACTS.std], rtol=1e-6)
    assert checkpoint.model.action_spec.low == (-1.0, -1.0)
    assert checkpoint.env["name"] == "push-t"
    assert checkpoint.provenance["official_config"]["_target_"] == "os.system", "kept as text, never acted on"


def test_names_of_transformers_4_prefixes_and_wrappers_are_understood_both_ways(official: dict[str, Tensor], folder: Path, tmp_path: Path) -> None:
    old = {f"model.module.{_renamed(name, TO_TRANSFORMERS_4)}": tensor for name, tensor in official.items()}
    assert "model.module.encoder.encoder.layer.3.attention.attention.query.weight" in old
    torch.save({"state_dict": old, "epoch": 3}, tmp_path / "weights.pt")
    found = read_tensors(tmp_path / "weights.pt")
    assert set(found) == set(SHAPES)
    assert all(torch.equal(found[name], official[name]) for name in SHAPES)
    export_official(import_official(str(folder), tmp_path / "out", actions=FACTS), tmp_path / "four", transformers=4)
    names = set(load_file(tmp_path / "four" / "model.safetensors"))
    assert names == {name.removeprefix("model.module.") for name in old}
    assert set(read_tensors(tmp_path / "four" / "model.safetensors")) == set(SHAPES)


def test_other_action_dimensions_are_read_off_the_tensors(official: dict[str, Tensor], tmp_path: Path) -> None:
    five = official | {"action_encoder.patch_embed.weight": torch.randn(10, 25, 1, generator=torch.Generator().manual_seed(0))}
    save_file(five, tmp_path / "cube.safetensors")
    facts = ActionFacts(mean=(0.0,), std=(1.0,), low=(-1.0,), high=(1.0,))
    model = load_checkpoint(import_official(str(tmp_path / "cube.safetensors"), tmp_path / "out", actions=facts)).model
    assert model.action_spec.dimension == 5
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_478 + 10 * 15
    with pytest.raises(LewmError, match=r"the weights have 5 numbers per action, got 2 values"):
        import_official(str(tmp_path / "cube.safetensors"), tmp_path / "out2", actions=FACTS)


def test_everything_that_does_not_fit_is_listed(official: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {name: tensor for name, tensor in official.items() if name != "predictor.pos_embedding"}
    wrong |= {"encoder.pooler.dense.weight": torch.zeros(3), "projector.net.0.bias": torch.zeros(5)}
    wrong["encoder.layernorm.bias"] = torch.full((192,), torch.nan)
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError) as refused:
        import_official(str(tmp_path / "wrong.safetensors"), tmp_path / "out", actions=FACTS)
    for part in (
        "missing predictor.pos_embedding",
        "unknown encoder.pooler.dense.weight [3]",
        "projector.net.0.bias is [5], not [2048]",
        "encoder.layernorm.bias is not finite",
    ):
        assert part in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2)}, "are not the official LeWorldModel's: there is no action_encoder.patch_embed.weight"),
        (small(**{"action_encoder.patch_embed.weight": torch.zeros(10, 7, 1)}), "has action blocks of 7 numbers, which are no 5 actions"),
        (small(**{"encoder.embeddings.position_embeddings": torch.zeros(1, 200, 192)}), "has positions for 199 patches, which are no square"),
        (small(**{"encoder.embeddings.position_embeddings": torch.zeros(1, 1 + 65**2, 1)}), "which are no square of at most 64 x 64"),
        (small(), "missing encoder.embeddings.cls_token"),
    ],
)
def test_tensors_of_something_else_are_refused_before_a_model_is_made(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message):
        import_official(str(tmp_path / "w.safetensors"), tmp_path / "out", actions=FACTS)


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/lewm-was-here",)


def test_files_with_code_are_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="holds more than plain tensors"):
        read_tensors(tmp_path / "evil.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="a pickle of an old kind, which may hold code"):
        read_tensors(tmp_path / "old.pt")
    assert not Path("/tmp/lewm-was-here").exists()


def test_bombs_and_absurd_shapes_are_refused_unopened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 10**7)
    with pytest.raises(CheckpointError, match="is compressed or says it holds more"):
        read_tensors(tmp_path / "bomb.pt")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "absurd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match="are damaged or no safetensors"):
        read_tensors(tmp_path / "absurd.safetensors")
    torch.save({"w": "text"}, tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="is no state dict"):
        read_tensors(tmp_path / "text.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    tensors = {"a": torch.arange(300.0), "b": torch.ones(4, 5)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 25).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_tensors(path)


def test_a_repository_is_read_from_the_hubs_cache_without_a_network(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models--someone--lewm-pusht"
    revision = "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(revision)
    (cache / "snapshots" / revision).mkdir(parents=True)
    (cache / "snapshots" / revision / "model.safetensors").symlink_to(folder / "model.safetensors")
    words = ["someone/lewm-pusht", str(tmp_path / "out"), "--action-mean", "0", "--action-std", "1", "--action-low", "-1", "--action-high", "1"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-m", "lewm.cli", "convert"]
    done = subprocess.run([*run, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "out").provenance["converted_from"]["source"] == "someone/lewm-pusht"
    other = subprocess.run([*run, "someone/other", str(tmp_path / "out2"), *words[2:]], env=environment, capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "is not in the hub's cache and there is no network" in other.stderr


def test_what_counts_as_weights(folder: Path, tmp_path: Path) -> None:
    assert looks_like_weights(str(folder))
    assert looks_like_weights("quentinll/lewm-pusht")
    assert looks_like_weights("hf://quentinll/lewm-pusht")
    for source in ("../../etc/passwd", "a/b/c", "owner/..", "nothing", str(tmp_path)):
        assert not looks_like_weights(source)


def test_the_command_says_what_it_needs_and_takes_statistics_from_a_dataset(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(folder), str(tmp_path / "out"), "--action-mean", "0"]) == 1
    assert "give --data DIR, or --action-std, --action-low, --action-high" in capsys.readouterr().err
    assert (
        main(["collect", "two-room", "--out", str(tmp_path / "data"), "--episodes", "2", "--max-env-steps", "10", "--env-option", "size_px=16"]) == 0
    )
    assert main(["convert", str(folder), str(tmp_path / "out"), "--data", str(tmp_path / "data"), "--env", "two-room"]) == 0
    assert max(load_checkpoint(tmp_path / "out").model.action_statistics()[1]) < 1
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "official"]) == 0
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == ["config.json", "model.safetensors"]


def test_a_run_of_another_architecture_has_no_official_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["collect", "two-room", "--out", str(tmp_path / "data"), "--episodes", "12", "--max-env-steps", "30"])
    main(["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--preset", "laptop", "--train.num-steps", "1"])
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "official"]) == 1
    assert "only the official architecture has an official layout: encoder." in capsys.readouterr().err
