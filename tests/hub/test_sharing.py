"""Pushing to and pulling from a hub: what arrives is what was sent, and nothing else is ever taken."""

import filecmp
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_config import TINY
from stub_hub import READER, TOKEN, StubHub

import lewm
from lewm.cards import CARD_FILE
from lewm.checkpoint import checkpoint_sha256, find_checkpoint, list_checkpoints
from lewm.cli import main
from lewm.errors import CheckpointError, DataError, HubError, MissingExtraError
from lewm.hub import HubAddress, contents_of, pull, push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub's own, about how it hands a large file to its HTTP client."""


def files_of(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_a_pulled_dataset_is_the_pushed_one_byte_for_byte(dataset, address, tmp_path):
    push(dataset, "me/data", address=address)
    copy = pull("me/data", tmp_path / "copy", address=address)
    names = files_of(dataset) - {".lock", CARD_FILE}
    assert names | {CARD_FILE} == files_of(copy)
    assert filecmp.cmpfiles(dataset, copy, names, shallow=False)[0] == sorted(names, key=list(names).index)


def test_a_pulled_run_is_a_run_with_the_same_hash_and_its_results(run, address, tmp_path):
    push(run, "me/model", address=address)
    copy = pull("me/model", tmp_path / "copy", address=address)
    assert [path.name for path in list_checkpoints(copy)] == ["step-00000004"]
    assert lewm.load_checkpoint(copy).sha256 == checkpoint_sha256(find_checkpoint(run))
    assert json.loads((copy / "results" / "success.json").read_text()) == json.loads((run / "results" / "success.json").read_text())


def test_a_pushed_checkpoint_stands_at_the_top_of_its_repository(run, stub, address):
    push(find_checkpoint(run), "me/model", address=address)
    assert set(stub.files("models", "me/model")) == {".gitattributes", "README.md", "lewm.json", "config.json", "model.safetensors"}


def test_results_of_another_checkpoint_and_trainer_state_are_not_pushed(run, stub, address):
    pushed = push(run, "me/model", address=address)
    assert "results/old.json is not shown: it measures another checkpoint" in pushed.contents.notes[0]
    assert not {"results/old.json", "trainer.json", "trainer.safetensors"} & set(stub.files("models", "me/model"))


def test_an_interrupted_run_pushed_with_its_trainer_state_goes_on_where_it_was_pulled_bit_for_bit(run, dataset, address, tmp_path):
    interrupted = shutil.copytree(run, tmp_path / "interrupted", ignore=shutil.ignore_patterns("step-00000004", "results"))
    push(interrupted, "me/model", with_trainer=True, address=address)
    copy = pull("me/model", tmp_path / "copy", address=address)
    lewm.train(TINY, data=dataset, out=copy, resume=True)
    first, second = (find_checkpoint(each) / "model.safetensors" for each in (run, copy))
    assert first.read_bytes() == second.read_bytes()


def test_a_second_push_deletes_what_the_first_one_left(run, stub, address):
    push(run, "me/model", with_trainer=True, address=address)
    push(run, "me/model", address=address)
    assert not {"trainer.json", "trainer.safetensors"} & set(stub.files("models", "me/model"))


def test_a_branch_is_pushed_to_and_pulled_from_by_its_name(run, stub, address, tmp_path):
    push(run, "me/model", revision="v2", address=address)
    assert set(stub.files("models", "me/model")) == {".gitattributes"}
    assert lewm.load_checkpoint(pull("me/model", tmp_path / "copy", revision="v2", address=address)).step == 4


def test_the_pushed_card_names_the_repository(run, stub, address):
    push(run, "me/model", address=address)
    assert "lewm pull me/model DIR" in stub.files("models", "me/model")["README.md"].decode()


def test_a_persons_card_is_pushed_as_it_stands(dataset, stub, address, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "data")
    (copy / CARD_FILE).write_text("# Mine\n")
    push(copy, "me/data", address=address)
    assert stub.files("datasets", "me/data")["README.md"] == b"# Mine\n"


def test_a_private_push_makes_a_private_repository(run, stub, address):
    push(run, "me/model", private=True, address=address)
    assert stub.repositories["models", "me/model"].is_private


def test_a_private_push_to_a_public_repository_is_refused_before_anything_is_sent(run, stub, address):
    push(find_checkpoint(run), "me/model", address=address)
    before = dict(stub.files("models", "me/model"))
    with pytest.raises(HubError, match="exists and is public"):
        push(run, "me/model", private=True, address=address)
    assert stub.files("models", "me/model") == before


def test_a_push_to_a_repository_with_other_peoples_files_is_refused(run, stub, address):
    push(run, "me/model", address=address)
    stub.change("models", "me/model", {"modeling.py": b"print()"})
    with pytest.raises(HubError, match=r"'modeling.py' is in repository 'me/model'"):
        push(run, "me/model", address=address)


def test_a_damaged_dataset_is_not_pushed(dataset, stub, address, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "data")
    column = copy / "shards" / "00000" / "actions.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match="is damaged"):
        push(copy, "me/data", address=address)
    assert stub.writes == []


def test_a_checkpoint_without_trainer_state_cannot_be_pushed_with_it(run, tmp_path):
    copy = shutil.copytree(find_checkpoint(run), tmp_path / "checkpoint", ignore=shutil.ignore_patterns("trainer.*"))
    with pytest.raises(CheckpointError, match="push it without --trainer"):
        contents_of(copy, with_trainer=True)


def test_pull_refuses_an_existing_target(run, address, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(HubError, match="already exists"):
        pull("me/model", tmp_path / "there", address=address)


@pytest.mark.parametrize(
    "name", ["weights.pt", "model.py", "results/../../escape.json", "results/.hidden.json", "shards/00000/actions.npy", "data.pkl"]
)
def test_pull_refuses_a_repository_with_anything_else_in_it_and_writes_nothing(name, run, stub, address, tmp_path):
    push(run, "me/model", address=address)
    stub.change("models", "me/model", {name: b"0"})
    with pytest.raises(HubError, match="therefore not pulled"):
        pull("me/model", tmp_path / "copy", address=address)
    assert not (tmp_path / "copy").exists()


def test_pull_refuses_a_manifest_that_names_a_path_outside(run, stub, address, tmp_path):
    push(run, "me/model", address=address)
    manifest = json.loads(stub.files("models", "me/model")["lewm.json"])
    manifest["files"]["../escape.json"] = {"bytes": 1, "sha256": "0" * 64}
    stub.change("models", "me/model", {"lewm.json": json.dumps(manifest).encode()})
    with pytest.raises(HubError, match=r"'../escape.json' may not be in a repository"):
        pull("me/model", tmp_path / "copy", address=address)


def test_pull_refuses_a_file_that_was_changed_on_the_hub(run, stub, address, tmp_path):
    push(run, "me/model", address=address)
    stub.change("models", "me/model", {"metrics.jsonl": b"{}\n"})
    with pytest.raises(HubError, match=r"'metrics.jsonl' has 3 bytes"):
        pull("me/model", tmp_path / "copy", address=address)
    assert not (tmp_path / "copy").exists()


def test_pull_refuses_a_pickle_that_is_called_safetensors_even_if_the_manifest_agrees(run, stub, address, tmp_path):
    push(run, "me/model", with_trainer=True, address=address)
    payload = pickle.dumps({"weights": 0})
    manifest = json.loads(stub.files("models", "me/model")["lewm.json"])
    manifest["files"]["trainer.safetensors"] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    stub.change("models", "me/model", {"trainer.safetensors": payload, "lewm.json": json.dumps(manifest).encode()})
    with pytest.raises(HubError, match=r"'trainer.safetensors' is not what its name says"):
        pull("me/model", tmp_path / "copy", address=address)


def test_pull_refuses_a_dataset_that_has_lost_a_shards_file(dataset, stub, address, tmp_path):
    push(dataset, "me/data", address=address)
    stub.change("datasets", "me/data", {"shards/00000/labels.npy": None})
    with pytest.raises(HubError, match=r"has no 'shards/00000/labels.npy'"):
        pull("me/data", tmp_path / "copy", address=address)


def test_pull_refuses_a_repository_that_was_not_pushed_by_lewm(stub, address, run, tmp_path):
    push(run, "me/model", address=address)
    stub.change("models", "me/model", {"lewm.json": None})
    with pytest.raises(HubError, match=r"has no lewm.json"):
        pull("me/model", tmp_path / "copy", address=address)


def test_a_cached_file_that_is_a_link_out_of_the_cache_is_refused(run, address, tmp_path, monkeypatch):
    push(run, "me/model", address=address)
    pull("me/model", tmp_path / "copy", address=address)
    secret = tmp_path / "secret"
    secret.write_text("{}")
    cached = next((tmp_path / "cache").rglob("snapshots/*/metrics.jsonl"))
    cached.unlink()
    cached.symlink_to(secret)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="a link that leads elsewhere"):
        pull("me/model", tmp_path / "again", address=address)


def test_what_was_pulled_once_can_be_pulled_offline(dataset, stub, address, tmp_path, monkeypatch):
    push(dataset, "me/data", address=address)
    pull("me/data", tmp_path / "copy", address=address)
    stub.close()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert files_of(pull("me/data", tmp_path / "again", address=address)) == files_of(tmp_path / "copy")


def test_offline_without_the_cache_is_an_error_that_says_so(address, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="pull it once while online"):
        pull("me/data", tmp_path / "copy", address=address)


@pytest.mark.parametrize("repo_id", ["me/a/b", "me/..", "-me/x", "me/a--b", "me/a b"])
def test_a_wrong_repository_id_is_refused(repo_id, address, tmp_path):
    with pytest.raises(HubError, match="is no repository id"):
        pull(repo_id, tmp_path / "copy", address=address)


def test_a_repository_that_does_not_exist_is_an_error_that_mentions_tokens(address, tmp_path):
    with pytest.raises(HubError, match="there is no model or dataset 'me/nothing'"):
        pull("me/nothing", tmp_path / "copy", address=address)


def test_a_revision_that_does_not_exist_is_named(run, address, tmp_path):
    push(find_checkpoint(run), "me/model", address=address)
    with pytest.raises(HubError, match="has no revision 'v9'"):
        pull("me/model", tmp_path / "copy", revision="v9", address=address)


def test_a_name_of_both_a_model_and_a_dataset_is_refused(run, dataset, address, tmp_path):
    push(find_checkpoint(run), "me/both", address=address)
    push(dataset, "me/both", address=address)
    with pytest.raises(HubError, match="both a model and a dataset"):
        pull("me/both", tmp_path / "copy", address=address)


def test_without_the_extra_the_sentence_names_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lewm\[hub\]'"):
        pull("me/model", tmp_path / "copy")


def test_a_push_without_a_token_says_how_to_get_one(run, stub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HubError, match="hf auth login"):
        push(run, "me/model", address=HubAddress(endpoint=stub.endpoint))


def test_a_token_that_the_hub_does_not_know_is_refused(run, stub, address):
    with pytest.raises(HubError, match="does not know this token"):
        push(find_checkpoint(run), "me/model", address=replace(address, token="hf_wrong"))


def test_a_token_that_may_not_write_is_refused(run, stub, address):
    with pytest.raises(HubError, match="use one with write access"):
        push(find_checkpoint(run), "me/model", address=replace(address, token=READER))


def test_no_network_is_one_sentence_that_proposes_the_cache(stub, address, tmp_path):
    stub.close()
    with pytest.raises(HubError, match="HF_HUB_OFFLINE=1"):
        pull("me/model", tmp_path / "copy", address=address)


def test_a_dry_run_lists_every_file_and_asks_no_hub(run, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "me/model", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert {name for name in contents_of(run).sizes if name in printed} == set(contents_of(run).sizes)


def test_the_two_verbs_work_together_from_the_command_line(dataset, stub: StubHub, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": stub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for words in (["push", str(dataset), "me/data"], ["pull", "me/data", str(tmp_path / "copy")]):
        subprocess.run([sys.executable, "-m", "lewm.cli", *words], env=environment, check=True, timeout=60)
    assert lewm.EpisodeStore(tmp_path / "copy").dataset_sha256 == lewm.EpisodeStore(dataset).dataset_sha256
