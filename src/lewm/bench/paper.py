"""One optimiser step of the preset ``paper`` at its true size, against the official model in straight-line form.

Axes: B batch, T model step, Y X image, A action block, M direction.
"""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lewm.bench.compiler import require_compiler
from lewm.bench.memory import peak_growth_bytes_on_gpu
from lewm.bench.official_reference import official_loss
from lewm.bench.references import float_pixels, float_pixels_there
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import MEBIBYTE, Contender, Row, per_second, repeat, take_turns
from lewm.config import Config
from lewm.config_files import load_preset
from lewm.models.official import official_names
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.objectives.prediction import LeWMObjective
from lewm.objectives.sigreg import random_directions
from lewm.schema import ActionSpec, Clip, Observation, ObservationSpec

REFERENCE = (
    "the same weights and frames: plain torch in the official layout, float32 pixels made by numpy, SIGReg as written; no dropout on either side"
)
DEVICE_REFERENCE = (
    "the same weights and frames in the same arithmetic, not compiled: plain torch in the official layout, float32 pixels made on the GPU, SIGReg as "
    "written and in float32; no dropout on either side"
)
BATCH_SIZE, SIDE_PX = 8, 224
"""On a CPU; on a GPU the batch is the preset's."""
DEVICE_ROUNDS, DEVICE_STEPS_PER_ROUND = 5, 5
QUICK_BATCH_SIZE, QUICK_SIDE_PX = 2, 28
ACTION_SPEC = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a step is computed."""

    is_half: bool = False
    """Under autocast to bfloat16, as training with precision bf16-mixed is."""
    is_compiled: bool = False

    @property
    def words(self) -> str:
        """For a case."""
        precision = "bf16-mixed" if self.is_half else f"float32 (matmul precision {torch.get_float32_matmul_precision()})"
        return f"{precision}, {'compiled' if self.is_compiled else 'eager'}"

    def under(self, loss_of: Callable[[int], Tensor], device: str) -> Callable[[int], Tensor]:
        """The same loss in this arithmetic."""

        def loss(step: int) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=self.is_half):
                return loss_of(step)

        return loss


def measure(options: BenchOptions) -> list[Row]:
    """Optimiser steps per second: forward, backward, clipping, AdamW; without reading data.

    On a GPU with the batch of the preset, in float32 and with autocast to bfloat16 as training does it, and with ``use_compile`` the latter also with
    encoder and predictor compiled as training does it.
    """
    if options.device == "cpu":
        return [_row(Arithmetic(), options)]
    if options.use_compile:
        require_compiler(options.device)
    eager = [Arithmetic(is_half=is_half, is_compiled=False) for is_half in (False, True)]
    compiled = [Arithmetic(is_half=True, is_compiled=True)] if options.use_compile else []
    return [_row(arithmetic, options) for arithmetic in (*eager, *compiled)]


def _row(arithmetic: Arithmetic, options: BenchOptions) -> Row:
    paper, device, is_on_cpu = load_preset("paper"), options.device, options.device == "cpu"
    config = dataclasses.replace(paper, predictor=dataclasses.replace(paper.predictor, dropout=0.0))
    batch_size, side_px = (QUICK_BATCH_SIZE, QUICK_SIDE_PX) if options.is_quick else (BATCH_SIZE if is_on_cpu else config.train.batch_size, SIDE_PX)
    num_rounds, steps_per_round = (1, 1) if options.is_quick else (3, 1) if is_on_cpu else (DEVICE_ROUNDS, DEVICE_STEPS_PER_ROUND)
    torch.manual_seed(config.train.seed)
    model = WorldModel(config, ObservationSpec(height_px=side_px, width_px=side_px), ACTION_SPEC).to(device)
    clip = _random_clip(config, batch_size, side_px).map(lambda tensor: tensor.to(device))
    weights = _official_weights(model)
    trainable = [tensor for tensor in weights.values() if tensor.requires_grad]
    objective = LeWMObjective(config, model, seed=config.train.seed).train()
    if arithmetic.is_compiled:
        for network in (model.encoder, model.predictor):
            network.compile(backend="eager" if options.is_quick else "inductor")
    losses: dict[str, Callable[[int], Tensor]] = {
        "ours": lambda step: objective(clip, step)[0],
        "reference": lambda step: _official_step_loss(weights, clip, config, step),
    }
    parameters: dict[str, list[Tensor]] = {"ours": list(objective.parameters()), "reference": trainable}
    steps = {name: _stepper(parameters[name], config, arithmetic.under(loss, device)) for name, loss in losses.items()}
    first = {name: float(step()) for name, step in steps.items()}
    contenders = {name: Contender(repeat(step, steps_per_round), amount=steps_per_round) for name, step in steps.items()}
    seconds = take_turns(contenders, num_rounds=num_rounds, num_warmups=0 if is_on_cpu else 1, device=device)
    ours = per_second(seconds["ours"])
    details: dict[str, float] = {"num_parameters": sum(parameter.numel() for parameter in model.parameters())}
    if not is_on_cpu:
        for name, prefix in (("ours", ""), ("reference", "reference_")):
            details[f"{prefix}clips_per_second"] = batch_size / statistics.median(seconds[name])
            details[f"{prefix}peak_mib_beyond_weights"] = peak_growth_bytes_on_gpu(steps[name]) / MEBIBYTE
    return Row(
        case=f"paper preset, B={batch_size}, {side_px} px{'' if is_on_cpu else f', {arithmetic.words}'}",
        unit="steps/s",
        better="higher",
        ours=ours,
        reference=per_second(seconds["reference"]),
        reference_is=REFERENCE if is_on_cpu else DEVICE_REFERENCE,
        max_difference=abs(first["ours"] - first["reference"]) / abs(first["reference"]),
        details=details,
    )


def _random_clip(config: Config, batch_size: int, side_px: int) -> Clip[Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_transitions = config.data.num_transitions
    frames = torch.randint(0, 256, (batch_size, num_transitions + 1, 1, side_px, side_px, 3), dtype=torch.uint8, generator=generator)
    blocks = torch.randn(batch_size, num_transitions, ACTION_SPEC.block_dimension(config.data.action_block), generator=generator)
    nowhere = torch.zeros(batch_size, dtype=torch.int64)
    return Clip(Observation(frames), blocks, None, None, nowhere, nowhere)


def _official_weights(model: WorldModel) -> dict[str, Tensor]:
    """Copies of the model's weights by their official names, the parameters among them trainable."""
    parameters, state = dict(model.named_parameters()), model.state_dict()
    return {official: state[ours].clone().requires_grad_(ours in parameters) for ours, official in official_names(model).items()}


def _official_step_loss(weights: dict[str, Tensor], clip: Clip[Tensor], config: Config, step: int) -> Tensor:
    frames, device = clip.observations.frames, clip.blocks.device
    if device.type == "cpu":
        pixels = float_pixels(frames.numpy(), IMAGENET_MEAN, IMAGENET_STD)
    else:
        pixels = float_pixels_there(frames, IMAGENET_MEAN, IMAGENET_STD)
    directions = random_directions(config.model.latent_dimension, config.objective.num_directions, seed=config.train.seed, step=step, device=device)
    return official_loss(weights, pixels, clip.blocks, directions, config.objective.weight)


def _stepper(parameters: list[Tensor], config: Config, loss_of: Callable[[int], Tensor]) -> Callable[[], Tensor]:
    """One optimiser step per call; returns the loss, which on a GPU nobody has waited for."""
    optimizer = torch.optim.AdamW(parameters, lr=config.train.learning_rate, weight_decay=config.train.weight_decay)
    num_done = 0

    def step() -> Tensor:
        nonlocal num_done
        loss = loss_of(num_done)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        num_done += 1
        return loss.detach()

    return step
