"""Networks on frozen latents, kept in the checkpoint of the world model that they were trained on.

To add one, write its network, its settings (``head_config.HEAD_CONFIGS``) and its line in ``registry.HEADS``.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lewm.config_files import settings_from_dict
from lewm.errors import ConfigError
from lewm.head_config import HEAD_CONFIGS, HeadConfig
from lewm.models.world_model import WorldModel
from lewm.registry import HEADS

PREFIX = "heads."
"""Of their tensors' names in a checkpoint: ``heads.<name>.*``."""


@dataclass(frozen=True)
class Head:
    """A network and the settings that it was built and trained with."""

    network: nn.Module
    settings: HeadConfig


def build_head(name: str, settings: HeadConfig, model: WorldModel) -> Head:
    """A freshly initialised head for the latents of a model; ``UnknownNameError`` if there is none of that name."""
    network: nn.Module = HEADS.load(name)(model, settings)
    return Head(network, settings)


def build_heads(declared: Mapping[str, Any], model: WorldModel) -> dict[str, Head]:
    """The heads that a checkpoint declares: name -> settings as plain values."""
    heads = {}
    for name, values in declared.items():
        HEADS.entry(name)
        if name not in HEAD_CONFIGS:
            raise ConfigError(f"head {name!r} is registered without settings in HEAD_CONFIGS, so a checkpoint cannot hold it")
        if not isinstance(values, dict):
            raise ConfigError(f"the settings of head {name!r} must be a table, got {values!r}")
        heads[name] = build_head(name, settings_from_dict(HEAD_CONFIGS[name](), values, f"heads.{name}"), model)
    return heads


def declare_heads(heads: Mapping[str, Head]) -> dict[str, Any]:
    """What ``build_heads`` reads back, JSON-ready."""
    return {name: {key: value for key, value in dataclasses.asdict(head.settings).items() if value is not None} for name, head in heads.items()}


def head_tensors(heads: Mapping[str, Head]) -> dict[str, Tensor]:
    """The tensors of all heads by their names in a checkpoint."""
    return {f"{PREFIX}{name}.{key}": tensor for name, head in heads.items() for key, tensor in head.network.state_dict().items()}


def load_head_tensors(heads: Mapping[str, Head], tensors: Mapping[str, Tensor]) -> None:
    """Fill the heads with a checkpoint's tensors; the rest of them is left alone."""
    for name, head in heads.items():
        start = f"{PREFIX}{name}."
        head.network.load_state_dict({key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)})
