"""``lewm bench --device cuda``: what is refused where, and on a machine with a GPU every benchmark that runs on one, in its quick form."""

import json
import subprocess
import sys

import pytest
import torch

from lewm.bench.suite import ON_DEVICES, ORDER, BenchOptions, run_benches
from lewm.bench.timing import Row
from lewm.cli import main
from lewm.errors import ConfigError, DeviceError

ON_CUDA = BenchOptions(is_quick=True, device="cuda")
# Relative to the largest value. Convolutions of float32 run in TF32 by torch's default (10 bits of a mantissa), and the two sides use others.
TOLERANCES = {"sigreg": 1e-4, "train": 1e-3, "paper": 5e-3, "plan": 5e-3}
HALF_TOLERANCE = 0.1
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


@pytest.fixture(scope="module", params=ON_DEVICES)
def quick(request: pytest.FixtureRequest) -> tuple[str, list[Row], dict]:
    measured: dict[str, list[Row]] = {}
    result = run_benches([request.param], ON_CUDA, num_threads=1, done=lambda name, rows: measured.update({name: rows}))
    return request.param, measured[request.param], result


@needs_cuda
@pytest.mark.gpu
def test_both_sides_compute_the_same_thing_on_a_gpu(quick):
    name, rows, _ = quick
    differences = {row.case: row.max_difference for row in rows if row.max_difference is not None}
    assert differences
    for case, difference in differences.items():
        assert difference <= (HALF_TOLERANCE if "bf16" in case else TOLERANCES[name]), case


@needs_cuda
@pytest.mark.gpu
def test_the_result_names_the_gpu(quick):
    _, _, result = quick
    assert json.loads(json.dumps(result))["hardware"]["device"] == torch.cuda.get_device_name()


@needs_cuda
@pytest.mark.gpu
def test_figures_of_a_gpu_are_positive_and_held_to_no_target(quick):
    _, rows, _ = quick
    assert rows
    for row in rows:
        assert 0 < row.ours.low <= row.ours.median <= row.ours.high
        assert row.reference.median > 0
        assert (row.target_must, row.target_aim) == (None, None)


@needs_cuda
@pytest.mark.gpu
def test_compiled_networks_are_a_row_of_their_own_that_agrees_on_a_gpu(tmp_path):
    # In a process of its own: the checks of shapes that the tests install cannot be compiled.
    file = tmp_path / "bench.json"
    words = [sys.executable, "-m", "lewm.cli", "bench", "paper", "--device", "cuda", "--quick", "--compile", "--json", str(file)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    (row,) = [row for row in json.loads(file.read_text())["benches"][0]["rows"] if row["case"].endswith("bf16-mixed, compiled")]
    assert row["max_difference"] <= HALF_TOLERANCE


def test_all_benchmarks_of_a_device_are_benchmarks():
    assert set(ON_DEVICES) < set(ORDER)


def test_a_benchmark_that_has_no_meaning_on_a_gpu_is_refused_before_anything_is_measured():
    done = []
    with pytest.raises(ConfigError, match=r"bench 'render' runs on the device cpu only, and cuda was asked for: sigreg, train, paper, plan run on a"):
        run_benches(["plan", "render"], ON_CUDA, done=lambda *arguments: done.append(arguments))
    assert not done


@needs_none
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(DeviceError, match=r"device cuda .1 of it. was asked for and 0 were found"):
        run_benches(["sigreg"], ON_CUDA)


@needs_none
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bench", "clips", "--device", "cuda"], 1, "bench 'clips' runs on the device cpu only"),
        (["bench", "--device", "cuda"], 1, "device cuda (1 of it) was asked for"),
        (["bench", "--device", "tpu"], 2, "--device"),
    ],
)
def test_mistakes_about_the_device_end_with_their_exit_code_and_a_sentence(words, code, said, capsys: pytest.CaptureFixture[str]):
    assert main(words) == code
    assert said in capsys.readouterr().err


@needs_none
def test_without_a_name_only_what_runs_on_the_device_is_run(capsys: pytest.CaptureFixture[str]):
    main(["bench", "--device", "cuda", "--quick"])
    assert "running sigreg, train, paper, plan:" in capsys.readouterr().err


def test_a_result_of_a_cpu_names_no_other_device(tmp_path):
    file = tmp_path / "bench.json"
    assert main(["bench", "render", "--quick", "--device", "cpu", "--num-threads", "1", "--json", str(file)]) == 0
    assert set(json.loads(file.read_text())["hardware"]) == {"processor", "num_cores", "num_threads"}
