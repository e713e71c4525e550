"""SIGReg against its literal formula, closed forms, finite differences and the official value."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lewm.distributed import all_reduce_sum
from lewm.errors import ConfigError
from lewm.objectives import sigreg as sigreg_module
from lewm.objectives.sigreg import random_directions, sigreg

GOLDEN = Path(__file__).parent.parent / "golden" / "lewm_golden.npz"


def literal(latents: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """The formula as published, with all B x M x K cosines and sines in memory."""
    t = torch.linspace(0, 3, knots, dtype=latents.dtype)
    dt = 3 / (knots - 1)
    weights = torch.full_like(t, 2 * dt)
    weights[0] = weights[-1] = dt
    phi = torch.exp(-t.square() / 2)
    x = (latents @ directions).unsqueeze(-1) * t
    error = (x.cos().mean(-3) - phi).square() + x.sin().mean(-3).square()
    return ((error @ (weights * phi)) * latents.shape[-2]).mean()


def value_and_gradient(function: Callable[..., Tensor], latents: Tensor, *arguments: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    latents = latents.clone().requires_grad_()
    value = function(latents, *arguments, **options)
    return value.detach(), torch.autograd.grad(value, latents)[0]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max() / expected.abs().max())


LATENTS = 0.7 * gaussian(4, 48, 24) + 0.3
DIRECTIONS = functional.normalize(gaussian(24, 100, seed=1), dim=0)
REDUCES = [pytest.param(None, id="one process"), pytest.param(lambda sums: sums, id="reduce")]


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("knots", [2, 3, 5, 17, 30])
def test_value_and_gradient_are_those_of_the_literal_formula_for_any_number_of_knots(knots: int, reduce):
    value, gradient = value_and_gradient(sigreg, LATENTS, DIRECTIONS, knots=knots, reduce=reduce)
    expected_value, expected_gradient = value_and_gradient(literal, LATENTS, DIRECTIONS, knots=knots)
    assert relative(value, expected_value) < 1e-12
    assert relative(gradient, expected_gradient) < 1e-12


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_float32_is_as_exact_as_float32_can_be(scale: float, reduce):
    # The recurrence amplifies rounding by at most the number of knots; 1e-5 leaves room for sums over the batch.
    latents = scale * gaussian(4, 128, 48)
    directions = random_directions(48, 256, seed=0)
    value, gradient = value_and_gradient(sigreg, latents.float(), directions, reduce=reduce)
    expected_value, expected_gradient = value_and_gradient(literal, latents.float().double(), directions.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert relative(value, expected_value) < 1e-5
    assert relative(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("reduce", REDUCES)
def test_the_gradient_agrees_with_finite_differences(reduce):
    latents = (0.8 * gaussian(2, 6, 5)).requires_grad_()
    directions = functional.normalize(gaussian(5, 7, seed=1), dim=0)
    assert torch.autograd.gradcheck(lambda z: sigreg(z, directions, reduce=reduce), latents)


def test_the_value_is_the_official_one():
    latents = torch.from_numpy(np.random.default_rng(11).standard_normal((4, 64, 192)))
    directions = functional.normalize(torch.from_numpy(np.random.default_rng(10).standard_normal((192, 256))), dim=0)
    assert float(sigreg(latents, directions)) == pytest.approx(float(np.load(GOLDEN)["sigreg"]), rel=1e-12)


@pytest.mark.parametrize(("count", "expected"), [(32, 12.9), (64, 25.7), (128, 51.46)])
def test_a_collapse_to_the_origin_scores_in_proportion_to_the_batch(count: int, expected: float):
    assert float(sigreg(torch.zeros(3, count, 16), random_directions(16, 32, seed=0))) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("count", [32, 128])
def test_a_perfect_gaussian_scores_1_052_for_any_batch_size(count: int):
    # The mean over 1,000 independent batches: its standard error is about 0.002.
    value = sigreg(gaussian(1000, count, 64), random_directions(64, 64, seed=0))
    assert float(value) == pytest.approx(1.052, abs=0.01)


def test_leading_axes_are_averaged_and_directions_shared():
    each = torch.stack([sigreg(step, DIRECTIONS) for step in LATENTS])
    assert relative(sigreg(LATENTS.reshape(2, 2, 48, 24), DIRECTIONS), each.mean()) < 1e-12


def test_chunks_of_directions_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch):
    whole = value_and_gradient(sigreg, LATENTS, DIRECTIONS)
    monkeypatch.setattr(sigreg_module, "CHUNK_PROJECTIONS", 7 * LATENTS.shape[0] * LATENTS.shape[1])  # 7 does not divide 100
    for reduce in (None, lambda sums: sums):
        for got, expected in zip(value_and_gradient(sigreg, LATENTS, DIRECTIONS, reduce=reduce), whole, strict=True):
            assert relative(got, expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_its_gradient_comes_back_in_half_precision(dtype: torch.dtype):
    latents = LATENTS.to(dtype)
    value, gradient = value_and_gradient(sigreg, latents, DIRECTIONS)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert relative(value, literal(latents.double(), DIRECTIONS)) < 1e-5


@pytest.mark.parametrize("reduce", REDUCES)
def test_autocast_does_not_reach_the_statistic(reduce):
    latents, directions = LATENTS.float(), DIRECTIONS.float()
    expected_value, expected_gradient = value_and_gradient(sigreg, latents, directions, reduce=reduce)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(sigreg, latents, directions, reduce=reduce)
    assert torch.equal(value, expected_value)
    assert torch.equal(gradient, expected_gradient)


def test_inputs_are_left_alone_and_transposed_ones_accepted():
    latents, directions = LATENTS.clone(), DIRECTIONS.clone()
    batch_first = latents.transpose(0, 1).contiguous()
    assert torch.equal(sigreg(batch_first.transpose(0, 1), directions), sigreg(latents, directions))
    assert torch.equal(latents, LATENTS)
    assert torch.equal(directions, DIRECTIONS)


def test_without_gradients_nothing_is_kept_for_backward():
    latents = LATENTS.clone().requires_grad_()
    with torch.no_grad():
        value = sigreg(latents, DIRECTIONS)
    assert not value.requires_grad
    assert relative(value, literal(LATENTS, DIRECTIONS)) < 1e-12


def test_fewer_than_two_knots_are_refused():
    with pytest.raises(ConfigError, match="at least 2 knots, got 1"):
        sigreg(LATENTS, DIRECTIONS, knots=1)


def test_directions_are_unit_vectors_and_a_function_of_seed_and_step():
    directions = random_directions(24, 50, seed=3, step=7)
    torch.manual_seed(123)
    assert torch.equal(directions, random_directions(24, 50, seed=3, step=7))
    assert not torch.equal(directions, random_directions(24, 50, seed=3, step=8))
    assert not torch.equal(directions, random_directions(24, 50, seed=4, step=7))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(50))


def test_two_unequal_halves_of_a_batch_add_up_to_the_whole():
    # Each half is given the sums of the other by hand, as an all-reduce would.
    halves = [LATENTS[:, :16].clone().requires_grad_(), LATENTS[:, 16:].clone().requires_grad_()]
    packed: list[Tensor] = []

    def remember(sums: Tensor) -> Tensor:
        packed.append(sums)
        return sums

    for half in halves:
        sigreg(half, DIRECTIONS, reduce=remember)
    first = sigreg(halves[0], DIRECTIONS, reduce=lambda sums: sums + packed[1])
    expected_value, expected_gradient = value_and_gradient(literal, LATENTS, DIRECTIONS)
    assert relative(first.detach(), expected_value) < 1e-12
    gradients = torch.autograd.grad(first, halves)
    assert relative(torch.cat(gradients, dim=1), expected_gradient) < 1e-12


def _in_one_of_two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows = slice(0, 16) if rank == 0 else slice(16, 48)
    value, gradient = value_and_gradient(sigreg, LATENTS[:, rows], DIRECTIONS, reduce=all_reduce_sum)
    torch.save((value, gradient), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_processes_get_the_value_and_gradient_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(_in_one_of_two_processes, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected_value, expected_gradient = value_and_gradient(literal, LATENTS, DIRECTIONS)
    for value, _ in results:
        assert relative(value, expected_value) < 1e-12
    # Every process backpropagates the global loss, so the gradients of the two losses add up; averaging over processes takes the factor out.
    assert relative(torch.cat([gradient for _, gradient in results], dim=1) / 2, expected_gradient) < 1e-12


def test_descending_sigreg_alone_restores_full_rank_from_a_collapse():
    latents = (0.01 * gaussian(1, 256, 16).float() + 0.5).requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=0.05)
    for step in range(400):
        optimiser.zero_grad()
        sigreg(latents, random_directions(16, 64, seed=0, step=step)).backward()
        optimiser.step()
    spectrum = torch.linalg.eigvalsh(torch.cov(latents.detach()[0].T))
    assert float(spectrum.min()) > 0.5
    assert float(spectrum.max()) < 1.5
    assert float(latents.detach().mean(dim=1).norm()) < 0.2


MEASURE_PEAK = """
import re, sys, torch
sys.path.insert(0, sys.argv[2])
from test_sigreg import literal, sigreg, value_and_gradient
from lewm.objectives.sigreg import random_directions

def peak_kib():  # not getrusage, which starts from the peak of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
latents, directions = torch.zeros(4, 128, 192), random_directions(192, 1024, seed=0)
for function in (literal, sigreg):
    value_and_gradient(function, latents[:, :2], directions[:, :2])
before = peak_kib()
value_and_gradient({"literal": literal, "sigreg": sigreg}[sys.argv[1]], latents, directions)
sys.stdout.write(str(peak_kib() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_at_least_eight_times_below_the_literal_formula():
    def peak(name: str) -> int:
        command = [sys.executable, "-c", MEASURE_PEAK, name, str(Path(__file__).parent)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak("literal") > 8 * peak("sigreg")


TRACED = """
import torch
from lewm.objectives.sigreg import random_directions, sigreg
latents = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
directions = random_directions(6, 12, seed=1).double()
values = [sigreg(latents, directions), torch.compile(sigreg, backend="aot_eager")(latents, directions)]
gradients = [torch.autograd.grad(value, latents)[0] for value in values]
torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=0)
torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-14)
"""


def test_what_is_traced_for_compilation_is_the_same_statistic_with_the_same_gradient():
    """In a process of its own, because shape checks cannot be traced."""
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_knots_at_once_are_the_knots_one_after_another():
    """The way of GPUs, where small operations cost more than large ones."""
    projections = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(16, 2, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for sweep in (sigreg_module._sweep, sigreg_module._sweep_at_once):
        sums = projections.new_empty(16, 2, 2, 5)
        found.append((sums, sweep(projections, 17, sums, lambda row, sums=sums: weights[row] * sums[row])))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(("knots", "num_directions"), [(17, 1024), (33, 512), (2, 8192)])
def test_the_memory_for_all_knots_at_once_does_not_grow_with_their_number(knots: int, num_directions: int):
    latents, directions = torch.empty(2, 512, 8, device="meta"), torch.empty(8, 8192, device="meta")
    first = next(sigreg_module._chunks(latents, directions, knots))
    assert directions[:, first].shape[1] == num_directions
