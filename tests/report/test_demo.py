import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lewm.checkpoint import checkpoint_sha256, find_checkpoint
from lewm.cli import main
from lewm.config_files import to_dict
from lewm.demo import Demo, DemoSize, run_demo
from lewm.errors import ConfigError
from lewm.report.evidence import read_evidence
from lewm.training import learning_rate


def ignore(text: str) -> None:
    """Nobody listens."""


def test_a_demo_leaves_a_run_with_data_control_results_report_and_film(finished_demo: Path) -> None:
    for name in ("data/meta.json", "control/config.toml", "results/success-25.json", "results/success-50.json", "results/probe.json"):
        assert (finished_demo / name).exists()
    for name in ("report.html", "rollout.gif", "control/results/success-25.json"):
        assert (finished_demo / name).exists()


def test_the_control_differs_by_its_weight_and_its_length_only(tiny: DemoSize, tmp_path: Path) -> None:
    demo = Demo(tmp_path / "run", 3, tiny, ignore, None)
    own, control = to_dict(demo.config), to_dict(demo.control_config)
    changed = {(section, key) for section in control for key in control[section] if control[section][key] != own[section].get(key)}
    assert changed == {("objective", "weight"), ("train", "num_steps"), ("train", "schedule_num_steps"), ("train", "monitor_every_steps")}
    assert control["objective"]["weight"] == 0
    rates = [(learning_rate(demo.config, step), learning_rate(demo.control_config, step)) for step in range(control["train"]["num_steps"])]
    assert all(own_rate == control_rate for own_rate, control_rate in rates)


def test_every_training_command_of_a_demo_gives_the_same_settings(finished_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [command.split() for command in json.loads((finished_demo / "demo.json").read_text())["commands"]]
    for words in (words for words in commands if words[1] == "train"):
        out = Path(words[words.index("--out") + 1])
        assert main([*words[1:], "--dry-run"]) == 0
        assert capsys.readouterr().out.strip() == (out / "config.toml").read_text().strip()


def test_a_finished_demo_is_left_as_it_is_and_says_where_to_look(tiny: DemoSize, finished_demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_demo.rglob("*") if path.is_file()}
    said: list[str] = []
    page = run_demo(finished_demo, say=said.append, size=tiny)
    assert page == finished_demo / "report.html"
    assert len(said) == 1
    assert f"finished: open {page}" in said[0]
    assert {path: path.stat().st_mtime_ns for path in finished_demo.rglob("*") if path.is_file()} == before


def test_an_interrupted_demo_goes_on_where_it_stopped(tiny: DemoSize, finished_demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupt(text: str) -> None:
        if text.startswith("[3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(out, say=interrupt, size=tiny)
    before = find_checkpoint(out).stat().st_mtime_ns
    shutil.copytree(finished_demo / "control", out / "control")
    said: list[str] = []

    def interrupt_later(text: str) -> None:
        said.append(text)
        if text.startswith("[4/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(out, say=interrupt_later, size=tiny)
    assert [text for text in said if "done before" in text and text.startswith(("[1/", "[2/"))] == said[:2]
    assert find_checkpoint(out).stat().st_mtime_ns == before
    assert json.loads((out / "demo.json").read_text())["is_finished"] is False


def test_a_demo_with_another_seed_does_not_mix_with_the_first(tiny: DemoSize, finished_demo: Path) -> None:
    with pytest.raises(ConfigError, match="holds a demo with seed 0, not 1; continue it as it was or choose another --out"):
        run_demo(finished_demo, seed=1, say=ignore, size=tiny)
    with pytest.raises(ConfigError, match="holds a demo with num_episodes 12, not 13"):
        run_demo(finished_demo, say=ignore, size=replace(tiny, num_episodes=13))


def test_a_directory_with_other_things_in_it_is_refused_untouched(tiny: DemoSize, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="already exists and holds no demo; choose another --out"):
        run_demo(tmp_path, say=ignore, size=tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_damaged_record_is_refused_with_advice(tiny: DemoSize, tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read .*choose another --out"):
        run_demo(tmp_path, say=ignore, size=tiny)


def test_the_results_of_a_demo_are_those_of_its_checkpoints(finished_demo: Path) -> None:
    evidence = read_evidence(finished_demo)
    assert evidence.notes == ()
    assert evidence.checkpoint_sha256 == checkpoint_sha256(find_checkpoint(finished_demo))
    assert set(evidence.results) == {"success", "probe"}


def test_report_on_nothing_exits_1_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("lewm report: there is no run at")
