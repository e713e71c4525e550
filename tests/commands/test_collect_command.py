"""``lewm collect`` with presets, estimates and policies, and what ``lewm list`` says of them."""

import json
import shutil
from collections import namedtuple

import pytest

from lewm.cli import main
from lewm.data.collection_presets import collection_names


@pytest.fixture
def tiny_collection(monkeypatch, tmp_path):
    """A package of presets with one collection that is made in no time."""
    package = tmp_path / "package" / "tiny_presets"
    (package / "collections").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "collections" / "tiny.toml").write_text(
        'env = "two-room"\nepisodes = 3\nmax_env_steps = 12\npolicy = "expert"\n[env_options]\nsize_px = 16\n[policy_options]\naction_noise = 0.5\n'
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr("lewm.data.collection_presets.PACKAGE", "tiny_presets")


def meta_of(path):
    return json.loads((path / "meta.json").read_text())


def test_a_preset_decides_what_no_flag_does(capsys, tiny_collection, tmp_path):
    assert main(["collect", "--preset", "tiny", "--out", f"{tmp_path}/a"]) == 0
    captured = capsys.readouterr()
    assert "collected" in captured.out
    assert "3 episodes of at most 12 env steps = 36 env steps" in captured.err
    meta = meta_of(tmp_path / "a")
    assert meta["env"]["options"] == {"size_px": 16}
    assert meta["policy"] == {"name": "expert", "options": {"action_noise": 0.5}}
    words = ["--episodes", "2", "--policy", "random", "--max-env-steps", "5", "--env-option", "size_px=20"]
    assert main(["collect", "two-room", "--preset", "tiny", "--out", f"{tmp_path}/b", *words]) == 0
    meta = meta_of(tmp_path / "b")
    assert meta["env"]["options"] == {"size_px": 20}
    assert meta["policy"] == {"name": "random", "options": {}}, "the preset's options are those of its own policy"
    assert meta["collection"]["max_env_steps"] == 5


def test_a_world_chooses_the_policy_when_nobody_else_does(capsys, tmp_path):
    assert main(["collect", "two-room", "--out", f"{tmp_path}/d", "--episodes", "1", "--max-env-steps", "5", "--env-option", "size_px=16"]) == 0
    assert meta_of(tmp_path / "d")["policy"]["name"] == "expert"


def test_a_dry_run_prints_the_estimate_and_writes_nothing(capsys, tmp_path):
    assert main(["collect", "two-room", "--out", f"{tmp_path}/d", "--episodes", "1000", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("two-room, policy expert: 1,000 episodes of at most 100 env steps = 100,000 env steps; at most 1.2 GB of ")
    assert "frames/s" in said
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--out", "{tmp}/d"), "`lewm collect` needs a world and --episodes"),
        (("two-room", "--out", "{tmp}/d"), "`lewm collect` needs a world and --episodes"),
        (("--out", "{tmp}/d", "--preset", "two-room-labtop"), "unknown collection 'two-room-labtop'. Did you mean 'two-room-laptop'?"),
        (("two-rooms", "--out", "{tmp}/d", "--preset", "two-room-laptop"), "is a collection of 'two-room', not of 'two-rooms'"),
    ],
)
def test_a_mistake_gets_one_sentence(capsys, tmp_path, words, sentence):
    assert main(["collect", *(word.format(tmp=tmp_path) for word in words)]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "d").exists()


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(capsys, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 10**6, 10**6))
    assert main(["collect", "--preset", "two-room-laptop", "--out", f"{tmp_path}/d"]) == 1
    assert "this collection may need 1.2 GB, and" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_list_shows_collections_with_sizes_and_policies(capsys, tiny_collection):
    assert main(["list", "collections"]) == 0
    assert "MB" in capsys.readouterr().out.replace("\n", " ").replace("kB", "MB")
    assert main(["list", "policies"]) == 0
    assert "block-random" in capsys.readouterr().out


def test_list_shows_every_collection(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in collection_names())


@pytest.mark.mujoco
def test_list_shows_the_members_of_a_family_when_asked_for_worlds(capsys):
    assert main(["list", "envs"]) == 0
    assert "dmc/reacher-easy" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "dmc/walker-run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--episodes", "0"), "episodes must be at least 1, got 0"),
        (("--workers", "0"), "workers must be at least 1, got 0"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--env-option", "size-px=24"), "--env-option size_px was given twice, the second time as 'size-px=24'"),
        (("--env-option", "name=x"), "env 'two-room' has no option 'name'"),
        (("--env-option", "num_envs=3"), "env 'two-room' has no option 'num_envs'"),
        (("--policy-option", "env=x"), "unknown option 'env' of policy 'expert'"),
        (("--policy-option", "name=x"), "unknown option 'name' of policy 'expert'"),
        (("--resume", "--seed", "1"), "was made with collection.seed 0, not 1"),
        (("--resume", "--episodes", "1"), "already has more than 1 episodes"),
    ],
)
@pytest.mark.parametrize("is_dry", [True, False])
def test_a_dry_run_refuses_what_the_run_would(capsys, tmp_path, words, sentence, is_dry):
    basics = ["collect", "two-room", "--out", f"{tmp_path}/d", "--max-env-steps", "5", "--env-option", "size_px=16"]
    if "--resume" in words:
        assert main([*basics, "--episodes", "2"]) == 0
        capsys.readouterr()
    dry = ["--dry-run"] if is_dry else []
    assert main([*basics, *([] if "--episodes" in words else ["--episodes", "2"]), *words, *dry]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.atari
def test_the_screen_itself_and_another_spelling_can_be_asked_for(capsys, tmp_path):
    words = ["atari/ms_pacman", "--preset", "mspacman-laptop", "--episodes", "1", "--max-env-steps", "2", "--env-option", "size_px=native"]
    assert main(["collect", *words, "--out", f"{tmp_path}/d"]) == 0
    meta = meta_of(tmp_path / "d")
    # The preset's other options stay.
    assert meta["env"]["options"] == {"size_px": None, "min_num_noops": 270, "max_num_noops": 300}
    assert meta["env"]["name"] == "atari/ms_pacman"
    assert meta["observation_spec"]["height_px"] == 210
