"""``lewm bench``: every benchmark in its quick form, what it prints and writes, and its exit codes."""

import json
import re
import subprocess
import sys

import pytest
import torch

from lewm.bench import memory
from lewm.bench.compiler import require_compiler
from lewm.bench.references import literal_sigreg, straight_rollout
from lewm.bench.suite import BENCHES, FORMAT, ORDER, BenchOptions, bench_table, commit, run_benches
from lewm.bench.timing import Row, Spread
from lewm.cli import main
from lewm.errors import ConfigError, MissingExtraError, UnknownNameError

QUICK = BenchOptions(is_quick=True)
# Largest difference relative to the largest value. Frames: one grey level of 255. The others are float32 sums in different orders.
TOLERANCES = {"sigreg": 1e-5, "render": 1 / 255, "train": 1e-5, "paper": 1e-5, "plan": 1e-4, "push-t": 0.0}


@pytest.fixture(scope="module", params=ORDER)
def quick(request: pytest.FixtureRequest) -> tuple[str, list[Row], dict]:
    measured = {}
    result = run_benches([request.param], QUICK, num_threads=1, command="a test", done=lambda name, rows: measured.update({name: rows}))
    return request.param, measured[request.param], result


def test_every_row_has_two_positive_sides_with_ordered_quartiles(quick):
    _, rows, _ = quick
    assert rows
    for row in rows:
        for side in (row.ours, row.reference):
            assert 0 < side.low <= side.median <= side.high
        assert row.reference_is


def test_both_sides_compute_the_same_thing(quick):
    name, rows, _ = quick
    differences = [row.max_difference for row in rows if row.max_difference is not None]
    assert (name in TOLERANCES) == bool(differences)
    assert all(difference <= TOLERANCES[name] for difference in differences)


def test_the_result_is_plain_json_with_its_origin(quick):
    name, rows, result = quick
    read = json.loads(json.dumps(result))
    assert read == result
    assert (read["format"], read["is_quick"], read["command"]) == (FORMAT, True, "a test")
    assert read["hardware"]["num_threads"] == 1
    assert read["versions"]["torch"] == torch.__version__.split("+")[0] or read["versions"]["torch"] == torch.__version__
    (bench,) = read["benches"]
    assert bench["name"] == name
    assert 0 < bench["duration_s"] <= read["duration_s"]
    for written, row in zip(bench["rows"], rows, strict=True):
        better = written["reference"]["median"] / written["ours"]["median"]
        assert written["ratio"] == pytest.approx(better if written["better"] == "lower" else 1 / better)
        assert written["reference"]["is"] == row.reference_is
        assert {"case", "unit", "target_of", "target_must", "target_aim", "max_difference", "details"} < set(written)


def test_quick_figures_are_held_to_no_target(quick):
    _, rows, _ = quick
    assert all(row.target_must is None and row.target_aim is None for row in rows)


def test_all_benchmarks_are_in_the_table_that_names_are_looked_up_in():
    assert sorted(ORDER) == list(BENCHES)


@pytest.mark.slow
def test_compiled_sigreg_is_a_row_of_its_own_that_agrees(tmp_path):
    # In a process of its own: the checks of shapes that the tests install cannot be compiled.
    file = tmp_path / "bench.json"
    words = [sys.executable, "-m", "lewm.cli", "bench", "sigreg", "--quick", "--compile", "--json", str(file)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    rows = {row["case"].split(",")[0]: row for row in json.loads(file.read_text())["benches"][0]["rows"] if row["unit"] == "ms"}
    assert set(rows) == {"eager", "compiled"}
    assert rows["compiled"]["max_difference"] < 1e-5


def test_compiling_without_a_compiler_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for name in ("sigreg", "plan"):
        with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler .* or omit --compile"):
            run_benches([name], BenchOptions(use_compile=True))


def test_compiling_for_a_gpu_without_a_c_compiler_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    message = "compiling for a GPU needs a C compiler (gcc, clang): install one, name it in CC, or omit --compile"
    with pytest.raises(ConfigError, match=re.escape(message)):
        require_compiler("cuda")


def test_the_threads_of_torch_are_as_before_afterwards():
    before = torch.get_num_threads()
    run_benches(["plan"], QUICK, num_threads=before + 1)
    assert torch.get_num_threads() == before


def test_an_unknown_name_is_refused_before_anything_is_measured():
    done = []
    with pytest.raises(
        UnknownNameError,
        match=r"unknown bench 'clip'\. Did you mean 'clips'\? Known: clips, collect, formats, mujoco, paper, plan, push-t, render, sigreg, train",
    ):
        run_benches(["plan", "clip"], QUICK, done=lambda *arguments: done.append(arguments))
    assert not done


def test_no_threads_at_all_are_refused():
    with pytest.raises(ConfigError, match="num_threads must be at least 1, got 0"):
        run_benches(["plan"], QUICK, num_threads=0)


def test_what_was_measured_before_a_failure_has_been_handed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lewm.bench.render.measure", lambda options: 1 / 0)
    seen = []
    with pytest.raises(ZeroDivisionError, match="division"):
        run_benches(["plan", "render"], QUICK, num_threads=1, measured=lambda row, result: seen.append(json.dumps(result)))
    results = [json.loads(each) for each in seen]
    assert len(results) > 1
    assert [[bench["name"] for bench in result["benches"]] for result in results] == [["plan"]] * len(results)
    assert [len(result["benches"][0]["rows"]) for result in results] == list(range(1, len(results) + 1))


def test_the_command_prints_a_table_and_writes_the_file(tmp_path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "bench.json"
    assert main(["bench", "render", "--quick", "--num-threads", "1", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert written["command"] == f"lewm bench render --quick --num-threads 1 --json {file}"
    printed = capsys.readouterr()
    assert "frames/s" in printed.out
    assert "running render" in printed.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bench", "rendr"], 1, "unknown bench 'rendr'. Did you mean 'render'?"),
        (["bench", "plan", "--quick", "--num-threads", "0"], 1, "num_threads must be at least 1"),
        (["bench", "--quik"], 2, "--quick"),
    ],
)
def test_mistakes_end_with_their_exit_code_and_a_sentence(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_help_needs_no_torch():
    program = "import sys; from lewm.cli import main; code = main(['bench', '--help']); sys.exit(code or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60).returncode == 0


def test_the_table_says_which_targets_are_met():
    row = Row(
        case="a case",
        unit="ms",
        better="lower",
        ours=Spread(median=2.0, low=1.5, high=2.5),
        reference=Spread.of([10.0]),
        reference_is="plain",
        target_must=4,
        target_aim=6,
    )
    cells = [list(column.cells) for column in bench_table("sigreg", [row]).columns]
    assert cells == [["a case"], ["2 ms ±25%"], ["10 ms"], ["5.00x"], ["must 4x met\naim 6x missed"]]


def test_the_commit_is_that_of_the_checkout_that_tracks_the_package():
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40


def test_an_installed_package_inside_somebody_elses_checkout_has_no_commit(tmp_path, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr("lewm.__file__", str(tmp_path / "__init__.py"))
    assert commit() is None


def test_the_literal_sigreg_has_the_golden_value_of_a_total_collapse():
    directions = torch.nn.functional.normalize(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), dim=0)
    assert float(literal_sigreg(torch.zeros(2, 128, 8), directions)) == pytest.approx(51.46, abs=0.005)


def test_a_straight_rollout_forgets_what_has_left_its_window():
    class OldestPlusBlock:
        """A model whose futures can be worked out by hand."""

        history_model_steps = 2

        def predict(self, latents: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
            return latents[:, :1] + blocks

    candidates = torch.tensor([[[[10.0], [20.0], [30.0]]]])
    rolled = straight_rollout(OldestPlusBlock(), torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[5.0]]]), candidates)
    # The windows are (1, 2), (2, 11) and (11, 22).
    assert rolled.flatten().tolist() == [11.0, 22.0, 41.0]


def test_peak_memory_of_the_literal_formula_is_at_least_its_angles():
    sizes = (2, 64, 32, 256)
    assert memory.peak_growth_bytes("reference", sizes) >= 2 * 64 * 256 * 17 * 4


@pytest.mark.atari
def test_the_raw_emulators_are_made_before_they_are_timed_and_go_on_from_round_to_round():
    from lewm.bench.collect import _RawAtari

    raw = _RawAtari("pong", 2, 3)
    try:
        first = raw._envs.step(raw._actions[0])[0].copy()
        for _ in range(10):
            raw()
        assert (raw._envs.step(raw._actions[0])[0] != first).any()
    finally:
        raw.close()


def test_the_push_t_benchmark_without_gym_pusht_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    with pytest.raises(MissingExtraError, match="compares with 'gym-pusht': pip install gym-pusht"):
        run_benches(["push-t"], QUICK)
