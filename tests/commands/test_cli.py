"""The command line as a user meets it: what it prints, its exit codes, and one clear sentence for every mistake."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lewm.cli import VERBS, main

TINY = """
[encoder]
name = "conv"
channels = [4, 8]
kernel_sizes = [8, 4]
strides = [4, 2]
[model]
latent_dimension = 8
projector_width = 16
action_embedding_width = 8
[predictor]
width = 16
num_layers = 1
num_heads = 2
head_width = 8
mlp_width = 16
[objective]
num_directions = 16
[train]
num_steps = 4
batch_size = 4
log_every_steps = 1
monitor_every_steps = 2
checkpoint_every_steps = 2
[planner]
num_candidates = 4
num_elites = 2
num_iterations = 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, a configuration and a run made by the commands that a user types."""
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.toml").write_text(TINY)
    assert main(["collect", "two-room", "--out", f"{root}/data", "--episodes", "24", "--max-env-steps", "30", "--env-option", "size_px=32"]) == 0
    assert main(["train", "--data", f"{root}/data", "--out", f"{root}/run", "--config", f"{root}/tiny.toml"]) == 0
    return root


def refuse(capsys, *words: str) -> str:
    """Run a command that must fail with exit code 1, and return its one sentence."""
    assert main(list(words)) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_help_lists_every_verb_without_importing_torch():
    code = "import sys; from lewm.cli import main; main(['--help']); assert not {'torch', 'numpy', 'tyro'} & set(sys.modules), sys.modules.keys()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize(
    "verb", [["collect"], ["train"], ["eval", "success"], ["eval", "probe"], ["verify"], ["info"], ["list"], ["report"], ["demo"], ["bench"]]
)
def test_a_verbs_help_imports_no_torch(verb):
    code = f"import sys; from lewm.cli import main; code = main([*{verb!r}, '--help']); assert code == 0 and 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: lewm " + " ".join(verb))


def test_an_unknown_verb_is_refused_with_a_suggestion(capsys):
    assert main(["trian"]) == 2
    assert "unknown verb 'trian'. Did you mean 'train'?" in capsys.readouterr().err


def test_an_unknown_flag_is_refused_by_the_parser_with_a_suggestion(capsys, place):
    assert main(["train", "--data", f"{place}/data", "--out", f"{place}/x", "--train.num-step", "3"]) == 2
    captured = capsys.readouterr()
    assert "--train.num-steps" in captured.out + captured.err


def test_list_shows_every_table(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("two-room", "cem", "lewm", "conv", "vit", "native", "laptop", "paper", "success"))


def test_info_recognises_datasets_runs_and_checkpoints(capsys, place):
    for path, kind in ((place / "data", "dataset"), (place / "run", "run"), (place / "run" / "checkpoints" / "step-00000004", "checkpoint")):
        assert main(["info", str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind


def test_success_is_evaluated_written_and_verified(capsys, place):
    result = place / "results" / "success.json"
    assert main(["eval", "success", f"{place}/run", "--distances", "25,50", "--episodes", "2", "--json", str(result)]) == 0
    captured = capsys.readouterr()
    assert "cross-room" in captured.out
    assert "wrote" in captured.err
    written = json.loads(result.read_text())
    assert sorted(written["by_distance"]) == ["25", "50"]
    assert written["planner"]["num_candidates"] == 4, "the planner's defaults are the run's own"
    assert written["command"].startswith("lewm eval success")
    assert main(["verify", str(result)]) == 0
    assert "every outcome, floor, rate and interval follows" in capsys.readouterr().out


def test_a_scripted_policy_is_evaluated_on_the_same_pairs_and_verified(capsys, tmp_path):
    options = ["--policy-option", "num_candidates=8", "--policy-option", "num_elites=2", "--policy-option", "num_iterations=1"]
    written = {}
    for name, words in (("search", options), ("expert-noiseless", [])):
        result = tmp_path / f"{name}.json"
        assert main(["eval", "success", name, "--env", "two-room", "--episodes", "2", *words, "--json", str(result)]) == 0
        assert main(["verify", str(result)]) == 0
        written[name] = json.loads(result.read_text())
    assert written["search"]["planner"] == {"policy": "search", "policy_options": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1}}
    assert written["search"]["checkpoint_sha256"] is None
    assert written["search"]["protocol"] == written["expert-noiseless"]["protocol"]
    assert written["expert-noiseless"]["success"] == written["expert-noiseless"]["by_distance"]["25"]["expert"]


def test_flags_change_the_runs_planner(capsys, place):
    result = place / "other.json"
    assert main(["eval", "success", f"{place}/run", "--episodes", "1", "--planner.num-candidates", "6", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["planner"]["num_candidates"] == 6


def test_a_doctored_result_is_refused_with_exit_code_1(capsys, place):
    result = place / "honest.json"
    main(["eval", "success", f"{place}/run", "--episodes", "2", "--json", str(result)])
    doctored = json.loads(result.read_text())
    doctored["success"]["rate"] = 1.0
    result.write_text(json.dumps(doctored))
    capsys.readouterr()
    assert "success.rate" in refuse(capsys, "verify", str(result))


@pytest.mark.parametrize("name", ["probe", "collapse"])
def test_latents_are_evaluated(capsys, place, name):
    assert main(["eval", name, f"{place}/run", "--data", f"{place}/data", "--json", f"{place}/{name}.json"]) == 0
    assert capsys.readouterr().out.startswith({"probe": "linear probe", "collapse": "verdict:"}[name])
    assert json.loads((place / f"{name}.json").read_text())["evaluation"] == name


def test_a_dry_run_prints_the_configuration_and_writes_nothing(capsys, place):
    words = [
        "train",
        "--data",
        f"{place}/data",
        "--out",
        f"{place}/dry",
        "--preset",
        "laptop",
        "--seed",
        "5",
        "--encoder.channels",
        "4",
        "8",
        "16",
        "--dry-run",
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "seed = 5" in shown
    assert "channels = [4, 8, 16]" in shown
    assert not (place / "dry").exists()


def test_the_preset_comes_first_then_the_file_then_the_flags(capsys, place):
    (place / "half.toml").write_text("[train]\nbatch_size = 6\nnum_steps = 9\n")
    words = ["--preset", "laptop", "--config", f"{place}/half.toml", "--train.num-steps", "7", "--dry-run"]
    assert main(["train", "--data", f"{place}/data", "--out", f"{place}/dry", *words]) == 0
    shown = capsys.readouterr().out
    assert "batch_size = 6" in shown
    assert "num_steps = 7" in shown
    assert "latent_dimension = 192" not in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("collect", "two-rom", "--out", "{tmp}/d", "--episodes", "1"), "unknown env 'two-rom'. Did you mean 'two-room'?"),
        (
            ("collect", "two-room", "--out", "{tmp}/d", "--episodes", "1", "--policy", "expret"),
            "unknown policy 'expret' for env 'two-room'. Did you mean 'expert'?",
        ),
        (("collect", "two-room", "--out", "{tmp}/d", "--episodes", "0"), "episodes must be at least 1, got 0"),
        (("collect", "two-room", "--out", "{tmp}/d", "--episodes", "1", "--env-option", "size_px"), "--env-option takes KEY=VALUE, got 'size_px'"),
        (("collect", "two-room", "--out", "{tmp}/d", "--episodes", "1", "--env-option", "door_y_px=500"), "door_y_px must be"),
        (("collect", "two-room", "--out", "{place}/data", "--episodes", "1"), "--resume"),
        (("train", "--data", "{tmp}/nothing", "--out", "{tmp}/r"), "there is no dataset at"),
        (("train", "--data", "{place}/data", "--out", "{place}/run"), "already holds a run; continue it with --resume or choose another --out"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--preset", "labtop"), "unknown preset 'labtop'. Did you mean 'laptop'?"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--config", "{tmp}/no.toml"), "there is no configuration file"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--encoder.name", "convv"), "unknown encoder 'convv'. Did you mean 'conv'?"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--preset", "laptop", "--objective.name", "vicrex"), "unknown objective 'vicrex'"),
        (
            ("train", "--data", "{place}/data", "--out", "{tmp}/r", "--preset", "laptop", "--train.learning-rate", "-1"),
            "train.learning_rate must be positive",
        ),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r"), "encoder.patch_px (14) must divide the frame size, got 32 x 32 px"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--preset", "laptop", "--data.action-block", "31"), "30"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--preset", "laptop", "--planner.name", "cemm"), "unknown planner 'cemm'"),
        (("train", "--data", "{place}/data", "--out", "{tmp}/r", "--config", "{tmp}"), "cannot be read"),
        (("eval", "success", "{place}/run", "--json", "{tmp}"), "it is a directory"),
        (("info", "{place}/run", "--verify"), "--verify checks the hashes of a dataset"),
        (("eval",), "`lewm eval` needs the name of an evaluation"),
        (("eval", "sucess", "{place}/run"), "unknown evaluation 'sucess'. Did you mean 'success'?"),
        (("eval", "success", "{tmp}/nothing"), "there is no run or checkpoint at"),
        (("eval", "success", "search"), "'search' is a scripted policy: say in which world with --env"),
        (("eval", "success", "serch", "--env", "two-room"), "unknown policy 'serch' for env 'two-room'. Did you mean 'search'?"),
        (("eval", "success", "search", "--env", "two-room", "--planner.num-iterations", "2"), "--planner.num-iterations is for runs"),
        (("eval", "success", "search", "--env", "two-room", "--policy-option", "horizon=2"), "unknown option 'horizon' of policy 'search'"),
        (("eval", "success", "{place}/run", "--policy-option", "a=2"), "--policy-option is for a scripted policy"),
        (("eval", "success", "{place}/run", "--distances", "near"), "--distances takes whole numbers"),
        (("eval", "success", "{place}/run", "--planner.num-elites", "1"), "planner.num_elites must be in [2, num_candidates = 4], got 1"),
        (("eval", "success", "{place}/run", "--planner.name", "cemm"), "unknown planner 'cemm'. Did you mean 'cem'? Known: cem"),
        (
            ("eval", "success", "{place}/run", "--planner.history-model-steps", "4"),
            "planner.history_model_steps is 4; this model attends to 3 at most",
        ),
        (("eval", "probe", "{place}/run", "--data", "{place}/run"), "there is no dataset at"),
        (("verify", "{tmp}/nothing.json"), "nothing.json"),
        (("info", "{tmp}/nothing"), "there is nothing at"),
        (("report", "{tmp}/nothing"), "there is no run"),
        (("bench", "sigregg"), "Did you mean 'sigreg'?"),
    ],
)
def test_a_mistake_gets_one_sentence_with_advice(capsys, place, tmp_path, words, sentence):
    said = refuse(capsys, *(word.format(tmp=tmp_path, place=place) for word in words))
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_an_unknown_key_in_a_configuration_file_is_refused(capsys, place, tmp_path):
    (tmp_path / "bad.toml").write_text("[train]\nnum_stepz = 4\n")
    said = refuse(capsys, "train", "--data", f"{place}/data", "--out", f"{tmp_path}/r", "--config", f"{tmp_path}/bad.toml")
    assert "unknown setting train.num_stepz. Did you mean 'num_steps'?" in said


def test_a_truncated_shard_is_named_and_resume_mends_it(capsys, place, tmp_path):
    data = shutil.copytree(place / "data", tmp_path / "data")
    frames = next(data.glob("shards/*/frames.*.npy"))
    frames.write_bytes(frames.read_bytes()[:5000])
    said = refuse(capsys, "info", str(data))
    assert re.search(r"dataset .* is damaged: shards/00000/frames.\w+.npy has 5,000 of [\d,]+ bytes; `lewm collect --resume` rewrites it", said)
    assert (
        main(["collect", "two-room", "--out", str(data), "--episodes", "24", "--max-env-steps", "30", "--env-option", "size_px=32", "--resume"]) == 0
    )
    capsys.readouterr()
    hashes = []
    for path in (data, place / "data"):
        main(["info", str(path), "--verify"])
        hashes.append(json.loads(capsys.readouterr().out)["dataset_sha256"])
    assert hashes[0] == hashes[1]


def test_frames_of_another_size_than_the_runs_are_refused(capsys, place, tmp_path):
    main(["collect", "two-room", "--out", f"{tmp_path}/big", "--episodes", "12", "--max-env-steps", "30", "--env-option", "size_px=64"])
    capsys.readouterr()
    assert "evaluate on data of the same kind" in refuse(capsys, "eval", "probe", f"{place}/run", "--data", f"{tmp_path}/big")


def test_an_output_that_cannot_be_written_is_an_error(capsys, place, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in refuse(capsys, "train", "--data", f"{place}/data", "--out", f"{tmp_path}/file/run", "--config", f"{place}/tiny.toml")


@pytest.mark.faults
def test_ctrl_c_ends_training_with_130_and_keeps_the_checkpoints(place, tmp_path):
    words = ["train", "--data", f"{place}/data", "--out", f"{tmp_path}/run", "--config", f"{place}/tiny.toml", "--train.num-steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lewm.cli", *words], stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "interrupted; what was finished is kept" in said
    assert main(["info", f"{tmp_path}/run"]) == 0


@pytest.mark.faults
def test_a_disk_that_is_full_stops_training_with_advice(place, tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    words = ["train", "--data", f"{place}/data", "--out", f"{tmp_path}/run", "--config", f"{place}/tiny.toml"]
    done = subprocess.run([sys.executable, "-m", "lewm.cli", *words], capture_output=True, text=True, preexec_fn=small_files, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot write checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir()), "no half-written checkpoint stays"


def test_a_dataset_whose_seeds_are_the_evaluations_is_refused(place):
    """The proof that no evaluation episode was trained on is made from the seeds kept with the checkpoint."""
    description = json.loads((place / "run" / "checkpoints" / "step-00000004" / "config.json").read_text())
    seeds = description["provenance"]["episode_seeds"]
    assert len(seeds) == len(np.unique(seeds)) == 24
