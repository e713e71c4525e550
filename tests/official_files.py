"""Official weights of a small model, in every way that they are saved in."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lewm.config_files import from_dict, load_preset
from lewm.models.official import official_names, transformers_4_name
from lewm.models.official_layout import official_description
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, ObservationSpec

SIDE_PX = 28
STATISTICS = ("--action-mean", "0.25", "-0.5", "--action-std", "0.5", "2")
SMALL = from_dict(
    {
        "encoder": {"width": 24, "num_layers": 2, "num_heads": 3, "mlp_width": 32},
        "model": {"latent_dimension": 24, "projector_width": 40, "action_embedding_width": 96},
        "predictor": {"width": 24, "num_layers": 2, "num_heads": 4, "head_width": 8, "mlp_width": 40},
    },
    load_preset("paper"),
)


def small_model(num_actions: int = 2, action_block: int = 5) -> WorldModel:
    """Random weights, running statistics included."""
    torch.manual_seed(0)
    config = replace(SMALL, data=replace(SMALL.data, action_block=action_block))
    action_spec = ActionSpec(kind="continuous", low=(-1.0,) * num_actions, high=(1.0,) * num_actions)
    model = WorldModel(config, ObservationSpec(height_px=SIDE_PX, width_px=SIDE_PX), action_spec)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not name.startswith(("action_", "pixel_")):
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return model.eval()


def official_state(model: WorldModel) -> dict[str, Tensor]:
    """Its weights by their official names."""
    state = model.state_dict()
    return {official: state[ours].clone() for ours, official in official_names(model).items()}


def with_transformers_4_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {transformers_4_name(name): tensor for name, tensor in state.items()}


def write_folder(folder: Path, state: dict[str, Tensor], file: str = "weights.pt", change: Callable[[dict], None] | None = None) -> Path:
    """A folder as the official code writes it: ``config.json`` and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    description = official_description(SMALL, SIDE_PX, state["action_encoder.patch_embed.weight"].shape[1])
    if change is not None:
        change(description)
    (folder / "config.json").write_text(json.dumps(description))
    write_weights(folder / file, state)
    return folder


def write_weights(file: Path, state: dict[str, Tensor]) -> Path:
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return file
