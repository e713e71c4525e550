"""The official LeWorldModel's sizes: read off its tensors and its ``config.json``, and written as one.

Axes: A action block. A ``config.json`` is looked at as data: its ``_target_`` entries name classes, of which none is ever imported.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from lewm.config import Config, ViTEncoderConfig
from lewm.config_files import from_dict, load_preset
from lewm.errors import CheckpointError, ConfigError
from lewm.models.official import names_of
from lewm.models.world_model import WorldModel

Shapes = Mapping[str, tuple[int, ...]]
HEAD_WIDTH = 64
"""Of encoder and predictor, where no ``config.json`` says otherwise: tensors do not show how a width is divided into heads."""
VIT_TINY = ViTEncoderConfig()
_TELLING: dict[str, tuple[int, ...]] = {
    "encoder.embeddings.patch_embeddings.projection.weight": (192, 3, 14, 14),
    "encoder.embeddings.position_embeddings": (1, 257, 192),
    "encoder.layers.0.mlp.fc1.weight": (768, 192),
    "predictor.pos_embedding": (1, 3, 192),
    "predictor.transformer.layers.0.attn.to_qkv.weight": (3072, 192),
    "predictor.transformer.layers.0.mlp.net.1.weight": (2048, 192),
    "action_encoder.patch_embed.weight": (10, 10, 1),
    "action_encoder.embed.0.weight": (768, 10),
    "projector.net.0.weight": (2048, 192),
    "projector.net.3.weight": (192, 2048),
}
"""The tensors that tell the sizes, and their shapes in the published model: assumed where one is missing, so that all that is missing is found."""
_CONFIG_ENTRIES: dict[tuple[str, str], tuple[str, str]] = {
    ("encoder", "patch_size"): ("encoder", "patch_px"),
    ("encoder", "hidden_size"): ("encoder", "width"),
    ("encoder", "num_hidden_layers"): ("encoder", "num_layers"),
    ("encoder", "intermediate_size"): ("encoder", "mlp_width"),
    ("predictor", "num_frames"): ("model", "history_model_steps"),
    ("predictor", "input_dim"): ("model", "latent_dimension"),
    ("predictor", "hidden_dim"): ("predictor", "width"),
    ("predictor", "depth"): ("predictor", "num_layers"),
    ("predictor", "heads"): ("predictor", "num_heads"),
    ("predictor", "dim_head"): ("predictor", "head_width"),
    ("predictor", "mlp_dim"): ("predictor", "mlp_width"),
    ("action_encoder", "smoothed_dim"): ("model", "action_channels"),
    ("action_encoder", "emb_dim"): ("predictor", "width"),
    ("projector", "hidden_dim"): ("model", "projector_width"),
    ("projector", "output_dim"): ("model", "latent_dimension"),
    ("pred_proj", "hidden_dim"): ("model", "projector_width"),
}
"""Entries of a ``config.json`` that state what the tensors show too -> our section and setting."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialLayout:
    """What an official model's tensors say about it."""

    config: Config
    """The preset ``paper`` with these sizes."""
    side_px: int
    """Of the square frames."""
    block_dimension: int
    """A."""


def is_official_description(description: Any) -> bool:
    """Whether JSON is the ``config.json`` of a model that its authors' code would build: it names classes by ``_target_``."""
    return isinstance(description, dict) and isinstance(description.get("_target_"), str)


def read_layout(shapes: Shapes, description: Mapping[str, Any] | None = None) -> OfficialLayout:
    """The sizes of the model that tensors with these official names and shapes belong to; ``CheckpointError`` if there is no such model.

    ``description`` is the ``config.json`` beside them: it says how widths are divided into heads, and contradicts nothing.
    """
    parts = {name: _part(description, name) for name in ("encoder", "predictor", "action_encoder", "projector", "pred_proj")}
    told = {name: _told(shapes, name) for name in _TELLING}
    width, _, patch_px, _ = told["encoder.embeddings.patch_embeddings.projection.weight"]
    num_tokens = told["encoder.embeddings.position_embeddings"][1]
    patches_per_side = math.isqrt(num_tokens - 1)
    if patches_per_side < 1 or patches_per_side**2 != num_tokens - 1:
        raise CheckpointError(f"encoder.embeddings.position_embeddings has {num_tokens} tokens: that is no class token and a square of patches")
    inner_width = told["predictor.transformer.layers.0.attn.to_qkv.weight"][0] // 3
    head_width = _whole(parts["predictor"], "predictor", "dim_head", HEAD_WIDTH)
    channels, block_dimension, _ = told["action_encoder.patch_embed.weight"]
    _, history, token_width = told["predictor.pos_embedding"]
    sections: dict[str, dict[str, Any]] = {
        "encoder": {
            "patch_px": patch_px,
            "width": width,
            "num_layers": _num_layers(shapes, "encoder.layers", 12),
            "num_heads": _whole(parts["encoder"], "encoder", "num_attention_heads", max(1, width // HEAD_WIDTH)),
            "mlp_width": told["encoder.layers.0.mlp.fc1.weight"][0],
        },
        "model": {
            "latent_dimension": told["projector.net.3.weight"][0],
            "projector_width": told["projector.net.0.weight"][0],
            "history_model_steps": history,
            "action_embedding_width": told["action_encoder.embed.0.weight"][0],
            "action_channels": channels,
        },
        "predictor": {
            "width": token_width,
            "num_layers": _num_layers(shapes, "predictor.transformer.layers", 6),
            "num_heads": max(1, inner_width // head_width),
            "head_width": head_width,
            "mlp_width": told["predictor.transformer.layers.0.mlp.net.1.weight"][0],
            "dropout": _dropout(parts["predictor"]),
        },
        "data": {"num_transitions": min(3, history)},
    }
    try:
        config = from_dict(sections, load_preset("paper"))
    except ConfigError as error:
        raise CheckpointError(f"these tensors belong to no model of the official architecture: {error}") from error
    layout = OfficialLayout(config=config, side_px=patches_per_side * patch_px, block_dimension=block_dimension)
    _check_description(parts, sections, layout)
    return layout


def check_official_shapes(expected: Shapes, found: Shapes, source: str) -> None:
    """Refuse tensors that lack one of the expected, have one too many or one of another shape: all of them are listed."""
    if not set(expected) & set(found):
        some = ", ".join(name[:80] for name in sorted(found)[:3])
        raise CheckpointError(f"{source} holds no tensor of an official LeWorldModel; its {len(found)} tensors are called {some}, ...")
    problems = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name[:200] for name in found if name not in expected],
        "of another shape": [f"{name} is {found[name]}, expected {shape}" for name, shape in expected.items() if found.get(name, shape) != shape],
    }
    listed = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names)
    if listed:
        raise CheckpointError(f"the tensors of {source} are not those of the official architecture: {listed}")


def official_shapes(model: WorldModel) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of every tensor that the official model of the same sizes has."""
    state = model.state_dict()
    return {official: tuple(state[ours].shape) for ours, official in names_of(state).items()}


def difference_from_official(config: Config, model: WorldModel) -> str:
    """In words, why the official architecture has no model like this one; empty if it has."""
    spec = model.observation_spec
    preprocessing = {name for name, _ in model.named_buffers(recurse=False)}
    foreign = sorted(set(model.state_dict()) - set(names_of(model.state_dict())) - preprocessing)
    reasons = [
        (config.encoder.name != "vit", f"its encoder is {config.encoder.name!r}, not a vision transformer"),
        (
            config.predictor.width != config.model.latent_dimension,
            f"latents of {config.model.latent_dimension} meet tokens of {config.predictor.width}",
        ),
        (spec.num_views != 1, f"it sees {spec.num_views} views at once, not one frame"),
        (bool(spec.proprioception), "it sees proprioception"),
        (spec.height_px != spec.width_px, f"its frames are {spec.height_px} x {spec.width_px} px, not square"),
        (model.action_spec.kind != "continuous", f"its actions are of kind {model.action_spec.kind!r}, not continuous"),
        (bool(foreign), f"it has tensors that the official model lacks, such as {', '.join(foreign[:3])}"),
    ]
    return "; ".join(words for is_so, words in reasons if is_so)


def official_description(config: Config, side_px: int, block_dimension: int) -> dict[str, Any]:
    """The ``config.json`` that belongs to a model of the official architecture, by whose class names ``stable-worldmodel`` builds it."""
    encoder, model, predictor = config.encoder, config.model, config.predictor
    assert isinstance(encoder, ViTEncoderConfig)
    module = "stable_worldmodel.wm.lewm.module"
    sizes = {} if encoder == dataclasses.replace(VIT_TINY, patch_px=encoder.patch_px) else _vit_sizes(encoder)
    projector = {
        "_target_": f"{module}.MLP",
        "input_dim": encoder.width,
        "output_dim": model.latent_dimension,
        "hidden_dim": model.projector_width,
        "norm_fn": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True},
    }
    smoothed = {} if model.action_channels == 10 else {"smoothed_dim": model.action_channels}
    scale = {} if model.action_embedding_width == 4 * predictor.width else {"mlp_scale": model.action_embedding_width / predictor.width}
    return {
        "_target_": "stable_worldmodel.wm.lewm.LeWM",
        "encoder": {
            "_target_": "stable_pretraining.backbone.utils.vit_hf",
            "size": "tiny",
            "patch_size": encoder.patch_px,
            "image_size": side_px,
            "pretrained": False,
            "use_mask_token": False,
            **sizes,
        },
        "predictor": {
            "_target_": f"{module}.Predictor",
            "num_frames": model.history_model_steps,
            "input_dim": model.latent_dimension,
            "hidden_dim": predictor.width,
            "output_dim": predictor.width,
            "depth": predictor.num_layers,
            "heads": predictor.num_heads,
            "mlp_dim": predictor.mlp_width,
            "dim_head": predictor.head_width,
            "dropout": predictor.dropout,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"_target_": f"{module}.Embedder", "input_dim": block_dimension, "emb_dim": predictor.width, **smoothed, **scale},
        "projector": projector,
        "pred_proj": projector | {"input_dim": predictor.width},
    }


def _vit_sizes(encoder: ViTEncoderConfig) -> dict[str, int]:
    """What overrides the sizes of ViT-Tiny."""
    return {
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.mlp_width,
    }


def _part(description: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    part = {} if description is None else description.get(name, {})
    if not isinstance(part, Mapping):
        raise CheckpointError(f"config.json: {name} must be an object, got {type(part).__name__}")
    return part


def _whole(part: Mapping[str, Any], name: str, key: str, default: int) -> int:
    value = part.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**20:
        raise CheckpointError(f"config.json: {name}.{key} must be a whole number in [1, {2**20}], got {str(value)[:80]}")
    return value


def _dropout(part: Mapping[str, Any]) -> float:
    value = part.get("dropout", 0.1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"config.json: predictor.dropout must be in [0, 1), got {str(value)[:80]}")
    return float(value)


def _told(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of a tensor that tells a size; the published one where it is missing or cannot be right, which is found later."""
    shape = shapes.get(name, ())
    return shape if len(shape) == len(_TELLING[name]) and min(shape) >= 1 else _TELLING[name]


def _num_layers(shapes: Shapes, prefix: str, published: int) -> int:
    """How many layers there are; gaps are found later, as missing tensors."""
    found = [match for name in shapes if (match := re.match(rf"{re.escape(prefix)}\.(\d{{1,4}})\.", name))]
    return 1 + max(int(match[1]) for match in found) if found else published


def _check_description(parts: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Mapping[str, Any]], layout: OfficialLayout) -> None:
    """Refuse a ``config.json`` that describes another model than the tensors do."""
    shown: dict[tuple[str, str], int] = {key: sections[section][setting] for key, (section, setting) in _CONFIG_ENTRIES.items()}
    shown |= {("encoder", "image_size"): layout.side_px, ("action_encoder", "input_dim"): layout.block_dimension}
    wrong = [
        f"{name}.{key} is {str(parts[name][key])[:80]}, the tensors say {value}"
        for (name, key), value in shown.items()
        if key in parts[name] and parts[name][key] != value
    ]
    if wrong:
        raise CheckpointError(f"config.json describes another model than the tensors beside it: {'; '.join(wrong)}")
