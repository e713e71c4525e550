"""One optimiser step of the preset ``paper`` at its true size, against the official model in straight-line form.

Axes: B batch, T model step, Y X image, A action block, M direction.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from lewm.bench.official_reference import official_loss
from lewm.bench.references import float_pixels
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
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
BATCH_SIZE, SIDE_PX = 8, 224
QUICK_BATCH_SIZE, QUICK_SIDE_PX = 2, 28
ACTION_SPEC = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


def measure(options: BenchOptions) -> list[Row]:
    """Optimiser steps per second, float32: forward, backward, clipping, AdamW; without reading data."""
    paper = load_preset("paper")
    config = dataclasses.replace(paper, predictor=dataclasses.replace(paper.predictor, dropout=0.0))
    batch_size, side_px, num_rounds = (QUICK_BATCH_SIZE, QUICK_SIDE_PX, 1) if options.is_quick else (BATCH_SIZE, SIDE_PX, 3)
    torch.manual_seed(config.train.seed)
    model = WorldModel(config, ObservationSpec(height_px=side_px, width_px=side_px), ACTION_SPEC)
    clip = _random_clip(config, batch_size, side_px)
    weights = _official_weights(model)
    trainable = [tensor for tensor in weights.values() if tensor.requires_grad]
    objective = LeWMObjective(config, model, seed=config.train.seed).train()
    steps = {
        "ours": _stepper(list(objective.parameters()), config, lambda step: objective(clip, step)[0]),
        "reference": _stepper(trainable, config, lambda step: _official_step_loss(weights, clip, config, step)),
    }
    first = {name: step() for name, step in steps.items()}
    seconds = take_turns({name: Contender(step) for name, step in steps.items()}, num_rounds=num_rounds, num_warmups=0)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return [
        Row(
            case=f"paper preset, B={batch_size}, {side_px} px",
            unit="steps/s",
            better="higher",
            ours=per_second(seconds["ours"]),
            reference=per_second(seconds["reference"]),
            reference_is=REFERENCE,
            max_difference=abs(first["ours"] - first["reference"]) / abs(first["reference"]),
            details={"num_parameters": num_parameters},
        )
    ]


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
    pixels = float_pixels(clip.observations.frames.numpy(), IMAGENET_MEAN, IMAGENET_STD)
    directions = random_directions(config.model.latent_dimension, config.objective.num_directions, seed=config.train.seed, step=step)
    return official_loss(weights, pixels, clip.blocks, directions, config.objective.weight)


def _stepper(parameters: list[Tensor], config: Config, loss_of: Callable[[int], Tensor]) -> Callable[[], float]:
    """One optimiser step per call; returns the loss."""
    optimizer = torch.optim.AdamW(parameters, lr=config.train.learning_rate, weight_decay=config.train.weight_decay)
    num_done = 0

    def step() -> float:
        nonlocal num_done
        loss = loss_of(num_done)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        num_done += 1
        return float(loss.detach())

    return step
