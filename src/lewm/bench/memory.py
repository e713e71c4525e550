"""Peak memory of SIGReg with its gradient: how much the resident size of a fresh process grows. And of anything on a GPU.

A process of its own for each, because memory that an earlier computation freed would be used again and hide what a later one needs. The allocator of
a GPU counts what is in use, so there this process will do.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lewm.bench.references import literal_sigreg
from lewm.objectives.sigreg import random_directions, sigreg

STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"eager": sigreg, "reference": literal_sigreg}
PAGE_BYTES = 4096


def peak_growth_bytes(name: str, sizes: Sequence[int]) -> int:
    """Bytes that one call of the statistic called ``name``, forward and backward, adds to a process; ``sizes`` are T, B, D, M."""
    words = [sys.executable, "-m", "lewm.bench.memory", name, str(torch.get_num_threads()), *map(str, sizes)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def peak_growth_bytes_on_gpu(function: Callable[[], object]) -> int:
    """Bytes that a call of a function adds to what is in use on the GPU; one call before it is not measured."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def main(words: Sequence[str]) -> int:
    """Measure in this process, which should be a fresh one: statistic, threads, sizes."""
    statistic, num_threads, num_frames, batch, dimension, num_directions = STATISTICS[words[0]], *map(int, words[1:])
    torch.set_num_threads(num_threads)
    directions = random_directions(dimension, num_directions, seed=0)
    latents = torch.randn(num_frames, batch, dimension, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.autograd.grad(statistic(latents[:, :2], directions[:, :2]), latents)  # what torch loads on first use does not count
    forget_peak()
    before = peak_bytes()
    torch.autograd.grad(statistic(latents, directions), latents)
    return max(peak_bytes() - before, PAGE_BYTES)


def forget_peak() -> None:
    """Start the record of the peak anew from the present size, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """The largest resident size so far."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux it starts from the peak of the parent process
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.stdout.write(str(main(sys.argv[1:])))
