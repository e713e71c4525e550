"""A small dataset, a small run with results, and a hub to send them to."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_config import TINY
from stub_hub import TOKEN, StubHub

from lewm.data.collect import collect
from lewm.evaluation.workflow import evaluate
from lewm.hub import HubAddress
from lewm.training import train


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "two-room"
    collect("two-room", path, episodes=24, max_env_steps=30, env_options={"size_px": 32}, command="lewm collect two-room")
    return path


@pytest.fixture(scope="session")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, a result of the newest and a result of nobody's."""
    out = train(TINY, data=dataset, out=tmp_path_factory.mktemp("runs") / "tiny", command="lewm train")
    (out / "results").mkdir()
    result = evaluate(out, distances=(25,), episodes=2, command="lewm eval success")
    (out / "results" / "success.json").write_text(json.dumps(result))
    (out / "results" / "old.json").write_text(json.dumps(result | {"checkpoint_sha256": "0" * 64}))
    return out


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """An empty hub; large files go the git-LFS way, because the stub does not speak Xet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub = StubHub()
    yield hub
    hub.close()


@pytest.fixture
def address(stub: StubHub, tmp_path: Path) -> HubAddress:
    return HubAddress(endpoint=stub.endpoint, token=TOKEN, cache=tmp_path / "cache")
