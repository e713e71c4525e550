"""The comparison of planners from end to end, on a tiny world model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_comparison import OPTIONS, plan_of

from lewm.commands.planners import planners
from lewm.data.collect import collect
from lewm.errors import ConfigError, DataError
from lewm.evaluation.across_seeds import outcomes_of, rate_over_seeds, read_success
from lewm.evaluation.arrivals import claims_of, hallucination_rate
from lewm.evaluation.results import content_sha256
from lewm.evaluation.verify import verify_result
from lewm.planner_lab.cells import Cell, CellPlace, error_of, finished, run_cell
from lewm.planner_lab.figure import draw
from lewm.planner_lab.heads import keep_latents, run_with_head, train_heads, why_missing
from lewm.planner_lab.latency import measure
from lewm.planner_lab.plan import PLAN_FILE, ComparisonPlan, Ground, RunFacts
from lewm.planner_lab.running import _place, list_cells, run_comparison
from lewm.planner_lab.summary import summarise
from lewm.planner_lab.table import _hallucination, markdown_tables, text_tables
from lewm.versions import hardware


@pytest.fixture(scope="module")
def stopped_and_done(runs: tuple[Path, ...], data: Path) -> tuple[ComparisonPlan, Path, dict[Path, bytes], list[str]]:
    """A comparison that was stopped after its first cell and then done; what was finished at first, and what the second time said."""
    out, plan = data.parent / "out", plan_of(runs, data, policies={"learned": (runs[1],)})

    def stop_after_one(text: str) -> None:
        if text.startswith("[1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_comparison(plan, out, workers=1, say=stop_after_one)
    before = {path: path.read_bytes() for path in out.glob("cells/*.json")}
    said: list[str] = []
    run_comparison(plan, out, workers=1, say=said.append)
    return plan, out, before, said


def test_a_comparison_that_was_stopped_goes_on_without_repeating_a_finished_cell(stopped_and_done) -> None:
    _, out, before, said = stopped_and_done
    assert 1 <= len(before) < 3
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(out.glob("cells/*.json"))) == 3
    (there,) = [int(text.split()[0]) for text in said if "cells are there" in text]
    assert len(before) <= there  # the one that was being run when it was stopped may have been finished since
    assert len([text for text in said if text.startswith("[")]) == 3 - there


def test_all_methods_and_runs_are_tried_on_the_same_pairs(stopped_and_done) -> None:
    _, out, _, _ = stopped_and_done
    results = [read_success(path) for path in out.glob("cells/*.json")]
    assert len({result["protocol"]["manifest_sha256"] for result in results}) == 1
    assert len({result["checkpoint_sha256"] for result in results}) == 2


def test_a_cell_is_an_ordinary_result_that_can_be_verified(stopped_and_done) -> None:
    _, out, _, _ = stopped_and_done
    assert verify_result(out / "cells" / "cem--seed0--D8.json")["is_verified"]


def test_a_method_whose_head_is_missing_is_left_out_and_the_table_says_why(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    result = summarise(plan, out)
    assert "direct-intent" not in {row["method"] for row in result["rows"]}
    assert "left out: direct-intent, seed1: the run has no head 'intent': --train-heads trains it" in text_tables(result)


def test_a_row_has_the_interval_over_seeds_and_episodes(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    row = next(row for row in summarise(plan, out)["rows"] if row["method"] == "cem")["by_distance"]["8"]
    outcomes = [outcomes_of(read_success(out / "cells" / f"cem--seed{seed}--D8.json"), 8, "same-room") for seed in range(2)]
    assert row["success"] == rate_over_seeds(outcomes)
    assert (row["n"], row["num_seeds"], row["difference"]) == (4, 2, None)


def test_plans_are_watched_for_arrivals(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    rows = {row["method"]: row["by_distance"]["8"]["hallucination"] for row in summarise(plan, out)["rows"]}
    results = [read_success(out / "cells" / f"cem--seed{seed}--D8.json") for seed in range(2)]
    claims = [claims_of(result, 8, "same-room") for result in results]
    assert rows["cem"] == hallucination_rate(claims, [outcomes_of(result, 8, "same-room") for result in results])
    assert rows["cem"]["num_seeds"] == 2
    assert [rows[name] for name in ("random", "expert")] == [None] * 2


def test_a_table_says_of_how_many_runs_plans_were_watched() -> None:
    found = {"rate": {"rate": 0.25, "low": 0.1, "high": 0.5}, "n": 20, "num_failed": 5, "num_seeds": 1}
    assert _hallucination({"num_seeds": 3, "hallucination": found}) == "0.25 [0.10, 0.50] n=20 (1 of 3 runs)"
    assert _hallucination({"num_seeds": 1, "hallucination": found | {"rate": None, "n": 0}}) == "n=0"
    assert _hallucination({"num_seeds": 1, "hallucination": None}) == "-"


def test_floors_methods_policies_and_ceilings_are_in_the_table_and_what_is_missing_is_named(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    wider = plan_of(plan.runs, plan.data, policies=plan.policies, distances=(8, 12))
    result = summarise(wider, out)
    text = markdown_tables(result)
    assert [row["method"] for row in result["rows"]] == ["random", "no_op", "block_random", "cem", "learned", "expert"]
    assert "| cem | search | 4 |" in text
    assert "*.26 (re-run; D 25, 50 steps)*" in text
    assert "3 cells are not measured yet: cem--seed0--D12, cem--seed1--D12, learned--policy-seed1--D12" in text
    assert all(
        len(line.split("|")) == 12 for line in text.splitlines() if line.startswith("| ") and "kind" in text.splitlines()[0] and "D 25" in line
    )


def test_decisions_are_timed_once_per_method(stopped_and_done) -> None:
    plan, out, _, said = stopped_and_done
    assert [text.split(":")[0] for text in said if text.startswith("timed")] == ["timed cem", "timed learned"]
    row = next(row for row in summarise(plan, out)["rows"] if row["method"] == "cem")
    assert 0 < row["latency"]["ms_per_env_step"] < row["latency"]["p95_ms"]
    again: list[str] = []
    run_comparison(plan, out, workers=1, say=again.append)
    assert not [text for text in again if text.startswith("timed")]


def test_the_figure_has_a_point_for_each_timed_method_and_lines_for_floor_and_ceiling(stopped_and_done, tmp_path: Path, monkeypatch) -> None:
    import matplotlib.pyplot as plt

    plan, out, _, _ = stopped_and_done
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    draw(summarise(plan, out), tmp_path / "planners.png")
    labels = set(drawn[0].axes[0].get_legend_handles_labels()[1])
    monkeypatch.undo()
    plt.close(drawn[0])
    assert labels == {"cem", "learned", "strongest blind floor", "ceiling: expert"}
    assert (tmp_path / "planners.png").stat().st_size > 5000


def test_a_comparison_that_is_older_than_rest_starts_and_stitched_pairs_goes_on_without_repeating_anything(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    about = json.loads((out / PLAN_FILE).read_text())
    (out / PLAN_FILE).write_text(json.dumps({name: value for name, value in about.items() if name not in ("is_rest_start", "is_stitched")}))
    before = {path: path.read_bytes() for path in (*out.glob("cells/*.json"), *out.glob("pairs/*.json"), out / "latency.json")}
    said: list[str] = []
    run_comparison(plan, out, workers=1, say=said.append)
    assert said == ["3 of 3 cells are there; running 0"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_cells_are_told_the_kind_of_their_pairs(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    ground = Ground.of(plan)
    cell = list_cells(plan, ground, out).cells[0]
    for flags in ({"is_rest_start": True, "is_stitched": False}, {"is_rest_start": False, "is_stitched": True}):
        settings = _place(cell, replace(plan, **flags), ground, out).pair_settings
        assert {name: settings[name] for name in flags} == flags


def test_the_table_says_the_kind_of_the_pairs_and_on_what_the_cells_ran(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    result = summarise(plan, out)
    assert result["hardware"] == [hardware()]
    assert "two-room, same-room pairs of protocol heldout, budget 2 D" in text_tables(result)
    resting = result | {"is_rest_start": True, "is_stitched": True}
    assert "two-room, same-room pairs of protocol heldout, rest start, stitched pairs, budget 2 D" in text_tables(resting)


def test_a_result_names_each_hardware_that_a_cell_was_measured_on_and_leaves_out_cells_that_do_not_say(stopped_and_done, tmp_path: Path) -> None:
    plan, out, _, _ = stopped_and_done
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    first, second, _ = sorted(copy.glob("cells/*.json"))
    for file, change in ((first, {"hardware": "a GPU"}), (second, {})):
        cell = json.loads(file.read_text())
        del cell["plan_ms"]["hardware"]
        cell["plan_ms"] |= change
        file.write_text(json.dumps(cell | {"content_sha256": content_sha256(cell)}))
    found = summarise(plan, copy)
    assert (found["hardware"], found["not_measured"]) == (sorted(["a GPU", hardware()]), [])


def test_a_directory_with_a_comparison_on_other_pairs_is_refused(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    with pytest.raises(ConfigError, match="holds a comparison with num_pairs 4, not 6"):
        run_comparison(plan_of(plan.runs, plan.data, num_pairs=6), out, say=lambda text: None)
    with pytest.raises(ConfigError, match="holds a comparison with is_stitched False, not True"):
        run_comparison(plan_of(plan.runs, plan.data, is_stitched=True), out, say=lambda text: None)


def test_the_kind_of_pairs_reaches_those_who_make_them(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    """Two-room has no ways to stitch, and says so."""
    with pytest.raises(ConfigError, match="stitched"):
        run_comparison(plan_of(runs, data, is_stitched=True), tmp_path / "out", say=lambda text: None)
    assert not (tmp_path / "out").exists()


def test_a_table_of_nothing_is_refused(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no comparison of planners yet; leave --only-table out"):
        planners([str(runs[0]), "--data", str(data), "--out", str(tmp_path / "none"), "--only-table"])


def test_the_command_writes_the_table_of_what_is_there(stopped_and_done, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out, _, _ = stopped_and_done
    words = ["--data", str(plan.data), "--out", str(out), "--distances", "8", "--episodes", "4", "--strata", "same-room", "--methods", "cem"]
    planners([*map(str, plan.runs), *words, "--only-table"])
    assert "ms/env step" in capsys.readouterr().out
    assert json.loads((out / "planners.json").read_text())["baseline"] == "cem"
    assert (out / "planners.md").read_text().startswith("| method | kind |")


def test_a_head_that_was_trained_for_a_comparison_is_found_for_its_run_alone(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    first, second = (RunFacts.of(run) for run in runs)
    assert run_with_head(first, "bc", tmp_path, 2) is None
    train_heads(first, ["bc"], data, tmp_path, 2)
    found = run_with_head(first, "bc", tmp_path, 2)
    assert found == tmp_path / "heads" / "seed0" / "bc"
    assert run_with_head(first, "inverse-goal", tmp_path, 2) is None
    assert run_with_head(first, "bc", tmp_path, 3) is None  # it was trained for fewer steps
    (tmp_path / "heads" / "seed1").symlink_to(tmp_path / "heads" / "seed0")
    assert run_with_head(second, "bc", tmp_path, 2) is None  # it is of another world model
    plan = plan_of((runs[0],), data, methods=("direct-bc", "direct-inverse-goal"), head_steps=2)
    listing = list_cells(plan, Ground.of(plan), tmp_path)
    assert [(cell.method, cell.run) for cell in listing.cells] == [("direct-bc", found)]
    assert list(listing.left_out) == ["direct-inverse-goal, seed0"]


def test_a_head_that_could_not_be_trained_is_the_reason_why_its_method_is_left_out(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    (tmp_path / "heads" / "seed0").mkdir(parents=True)
    (tmp_path / "heads" / "seed0" / "intent").write_text("in the way")
    plan = plan_of((runs[0],), data)
    train_heads(RunFacts.of(runs[0]), ["intent"], data, tmp_path, 2)
    left_out = list_cells(plan, Ground.of(plan), tmp_path).left_out
    assert left_out["direct-intent, seed0"].startswith("training the head 'intent' failed: cannot write to")


def out_of_memory(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_head_for_which_a_gpu_has_not_enough_memory_is_left_out_with_the_reason_and_the_next_is_trained(
    runs: tuple[Path, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = RunFacts.of(runs[0]), torch.optim.AdamW.step

    def first_fails(*arguments: object) -> None:
        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        out_of_memory()

    monkeypatch.setattr(torch.optim.AdamW, "step", first_fails)
    train_heads(run, ["bc", "inverse-goal"], data, tmp_path, 2)
    assert why_missing(run, "bc", tmp_path) == "training the head 'bc' failed: CUDA out of memory"
    assert run_with_head(run, "inverse-goal", tmp_path, 2) is not None


def test_latents_for_which_a_gpu_has_not_enough_memory_are_no_end_of_the_comparison(
    runs: tuple[Path, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    shutil.rmtree(run / "latents", ignore_errors=True)
    monkeypatch.setattr(torch.nn.Linear, "forward", out_of_memory)
    assert keep_latents(run, data) == "CUDA out of memory"
    monkeypatch.undo()
    assert keep_latents(run, data) is None


def test_an_agent_for_which_a_gpu_has_not_enough_memory_has_that_in_the_place_of_its_times(stopped_and_done, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, out, _, _ = stopped_and_done
    ground = Ground.of(plan)
    cell = list_cells(plan, ground, out).cells[0]
    monkeypatch.setattr(torch.nn.Linear, "forward", out_of_memory)
    found = measure(cell, _place(cell, plan, ground, out), 1)
    assert (found["error"], found["identity"]["method"]) == ("CUDA out of memory", "cem")


def test_a_result_of_other_settings_is_not_taken_for_the_cells(stopped_and_done) -> None:
    plan, out, _, _ = stopped_and_done
    cell = list_cells(plan, Ground.of(plan), out).cells[0]
    sha256 = read_success(out / "cells" / f"{cell.key}.json")["protocol"]["manifest_sha256"]
    assert finished(cell, out, sha256) is not None
    assert cell.planner is not None
    for other in (cell.planner.switched("cem", num_iterations=2), cell.planner.switched("icem")):
        changed = Cell(**{name: getattr(cell, name) for name in cell.__dataclass_fields__} | {"planner": other})
        assert finished(changed, out, sha256) is None
    assert finished(cell, out, "other pairs") is None


def test_what_goes_wrong_in_a_cell_is_kept_and_forgotten_when_it_succeeds(stopped_and_done, tmp_path: Path) -> None:
    plan, out, _, _ = stopped_and_done
    settings = {"strata": ("same-room",), "seed": 0}
    place = CellPlace(env="two-room", env_options=OPTIONS, pair_settings=settings, data=plan.data, pairs=out / "pairs" / "D8.json", out=tmp_path)
    wrong = Cell(method="serach", run_name="simulator", distance=8, num_pairs=2)
    run_cell(wrong, place)
    assert "Did you mean 'search'?" in (error_of(wrong, tmp_path) or "")
    right = Cell(method="random", run_name="simulator", distance=8, num_pairs=2)
    run_cell(right, place)
    assert error_of(right, tmp_path) is None
    result = read_success(tmp_path / "cells" / "random--simulator--D8.json")
    assert np.array_equal(outcomes_of(result, 8, "same-room"), [episode["floors_first_hit"]["random"] is not None for episode in result["episodes"]])


def test_runs_that_do_not_belong_together_are_refused(runs: tuple[Path, ...], data: Path, tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(runs[0])
    copy = tmp_path / "copy"
    copy.symlink_to(runs[1] / "checkpoints" / "step-00000002")
    with pytest.raises(ConfigError, match="two of the runs are the same checkpoint"):
        Ground.of(plan_of((runs[1], copy), data))
    with pytest.raises(ConfigError, match="two runs are called 'seed0'"):
        plan_of((runs[0], tmp_path / "again"), data)
    other = tmp_path / "other-data"
    collect("two-room", other, episodes=8, max_env_steps=10, env_options=OPTIONS)
    with pytest.raises(ConfigError, match="run 'seed0' was not trained on"):
        Ground.of(plan_of(runs, other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("cem", "cem")}, "methods must be one or more different names, got cem, cem"),
        ({"distances": (25, 25)}, r"distances must be one or more different numbers of env steps, got \[25, 25\]"),
        ({"runs": ()}, "needs at least one run"),
        ({"num_pairs": 1}, "at least 2 pairs"),
        ({"policies": {"icem": (Path("gcbc"),)}}, "policy 'icem' has the name of a method"),
    ],
)
def test_plans_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(**{"runs": (Path("run"),), "data": Path("data")} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["gcbc", "gcbc=", "=runs/a"])
def test_policies_without_name_or_run_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"--policies takes NAME=RUN,RUN,..., got '{word}'"):
        planners(["run", "--data", "data", "--policies", word])


def test_pairs_of_a_training_episode_are_refused(runs: tuple[Path, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lewm.planner_lab import running

    plan = plan_of((runs[0],), data, num_latency_episodes=0)
    ground = Ground.of(plan)
    pairs = running._prepare(plan, ground, 8, tmp_path / "out", lambda text: None)
    leaked = np.array([pairs.manifest.pairs[0].episode_seed])
    monkeypatch.setattr(running, "training_seeds", lambda checkpoint: leaked)
    with pytest.raises(DataError, match="evaluation episodes have the seed of a training episode"):
        run_comparison(plan, tmp_path / "fresh", workers=1, say=lambda text: None)
