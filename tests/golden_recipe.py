"""The golden fixture's weights, which anybody can make again."""

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lewm.models.official import official_names
from lewm.models.world_model import WorldModel

GOLDEN = Path(__file__).parent / "golden"
SHAPES: dict[str, list[int]] = json.loads((GOLDEN / "official_state_dict.json").read_text())


def recipe(name: str, shape: Sequence[int]) -> np.ndarray:
    """The fixture's weights: a function of the official name and shape."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        x = 1 + 0.2 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif name.endswith(("cls_token", "position_embeddings", "pos_embedding")):
        x = 0.5 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if name.endswith(".weight") else 0.05 * x
    elif shape:
        x = x / math.sqrt(np.prod(shape[1:]))
    return np.asarray(x, dtype=np.float32)


def fill(model: WorldModel) -> dict[str, torch.Tensor]:
    """Give a model of the official layout, of any size, the recipe's weights; returns them by their official names."""
    state = model.state_dict()
    names = {ours: name for ours, name in official_names(model).items() if "num_batches" not in name}
    weights = {name: torch.from_numpy(recipe(name, state[ours].shape)) for ours, name in names.items()}
    assert not model.load_state_dict({ours: weights[name] for ours, name in names.items()}, strict=False).unexpected_keys
    return weights
