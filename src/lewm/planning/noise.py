"""Random numbers for searches: the same whatever the batch, the device and the order of the calls.

Axes: E episode, S candidate, T model step, A action block, N env step, a env action.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def episode_generator(episode_seed: int, plan_index: int, iteration: int) -> np.random.Generator:
    """A counter-based generator (Philox) that depends on these three numbers and nothing else."""
    key = np.array([episode_seed & 0xFFFF_FFFF_FFFF_FFFF, 0], dtype=np.uint64)
    counter = np.array([0, 0, iteration, plan_index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def on_device(numbers: Shaped[Tensor, "*E"], device: torch.device) -> Shaped[Tensor, "*E"]:
    """The numbers on a device: to a GPU from pinned memory, so that the next ones are drawn while it is still busy with these."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


def smoothed_noise(
    seeds: Sequence[tuple[int, int]],
    iteration: int,
    *,
    num_candidates: int,
    num_env_steps: int,
    action_dimension: int,
    smoothing: float,
    window_env_steps: int,
) -> Float[Tensor, "E S N a"]:
    """Standard normal noise of which the share ``smoothing`` of the variance is a moving average over env steps, the rest white.

    White noise over many env steps hardly moves an agent; the moving part explores further at the same standard deviation.
    ``seeds`` holds (episode seed, plan index) per episode.
    """
    shape = (num_candidates, num_env_steps, action_dimension)
    noise = np.empty((len(seeds), *shape), dtype=np.float32)
    for row, (episode_seed, plan_index) in enumerate(seeds):
        generator = episode_generator(episode_seed, plan_index, iteration)
        noise[row] = generator.standard_normal(shape, dtype=np.float32)
        if smoothing > 0:
            longer = (num_candidates, num_env_steps + window_env_steps - 1, action_dimension)
            steps = generator.standard_normal(longer, dtype=np.float32)
            moving = sum(steps[:, shift : shift + num_env_steps] for shift in range(window_env_steps)) / np.sqrt(window_env_steps, dtype=np.float32)
            noise[row] = np.sqrt(1 - smoothing, dtype=np.float32) * noise[row] + np.sqrt(smoothing, dtype=np.float32) * moving
    return torch.from_numpy(noise)


def coloured_noise(
    seeds: Sequence[tuple[int, int]], iteration: int, *, num_candidates: int, num_env_steps: int, action_dimension: int, exponent: float
) -> Float[Tensor, "E S N a"]:
    """Normal noise of variance 1 whose power falls with frequency f as f ** -``exponent`` (iCEM, arXiv 2008.06389; Timmer & Koenig 1995).

    0 is white; the larger the exponent, the longer an action is held. The constant part has the power of the lowest frequency, 1 / N.
    ``seeds`` holds (episode seed, plan index) per episode.
    """
    frequencies = np.fft.rfftfreq(num_env_steps)
    frequencies[0] = 1 / num_env_steps
    amplitude = frequencies ** (-exponent / 2)
    is_real = np.zeros(len(amplitude), bool)  # the constant part and, of an even number, the highest frequency have no phase
    is_real[0] = True
    is_real[-1] |= num_env_steps % 2 == 0
    power = np.where(is_real, 1, 2) * amplitude**2  # every other frequency stands for two
    scale = amplitude * num_env_steps / np.sqrt(power.sum())
    noise = np.empty((len(seeds), num_candidates, num_env_steps, action_dimension), dtype=np.float32)
    for row, (episode_seed, plan_index) in enumerate(seeds):
        generator = episode_generator(episode_seed, plan_index, iteration)
        real, imaginary = generator.standard_normal((2, num_candidates, action_dimension, len(amplitude)))
        spectrum = scale * np.where(is_real, real, (real + 1j * imaginary) / np.sqrt(2))
        noise[row] = np.fft.irfft(spectrum, n=num_env_steps).swapaxes(1, 2)
    return torch.from_numpy(noise)


def uniform_choices(
    seeds: Sequence[tuple[int, int]], iteration: int, *, num_candidates: int, num_env_steps: int, repeat_probability: float
) -> tuple[Float[Tensor, "E S N"], Int[Tensor, "E S N"]]:
    """Uniform numbers in [0, 1), and for each env step the one whose choice it takes: its own or, if it repeats, that of the env step before.

    Every env step but the first repeats with ``repeat_probability``; repeats follow each other, so a choice is held for 1 / (1 - probability) env
    steps on average. ``seeds`` holds (episode seed, plan index) per episode.
    """
    shape = (num_candidates, num_env_steps)
    numbers = np.empty((len(seeds), *shape), dtype=np.float32)
    source = np.broadcast_to(np.arange(num_env_steps), numbers.shape).copy()
    for row, (episode_seed, plan_index) in enumerate(seeds):
        generator = episode_generator(episode_seed, plan_index, iteration)
        numbers[row] = generator.random(shape, dtype=np.float32)
        if repeat_probability > 0:
            source[row][generator.random(shape, dtype=np.float32) < repeat_probability] = 0
    return torch.from_numpy(numbers), torch.from_numpy(np.maximum.accumulate(source, axis=-1))
