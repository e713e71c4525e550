"""The names of the official LeWorldModel's weights, for a model of the same architecture.

Encoder names differ between the two ways in which transformers writes a ViT: those of late versions 5 are the reference here, those of version 4 (and
of early versions 5) are translated.
"""

import re
from collections.abc import Iterable

from lewm.models.world_model import WorldModel

_PARTS: tuple[tuple[str, str], ...] = (
    (r"encoder\.class_token", "encoder.embeddings.cls_token"),
    (r"encoder\.positions", "encoder.embeddings.position_embeddings"),
    (r"encoder\.patches\.(\w+)", r"encoder.embeddings.patch_embeddings.projection.\1"),
    (r"encoder\.norm\.(\w+)", r"encoder.layernorm.\1"),
    (r"encoder\.blocks\.(\d+)\.attention_norm\.(\w+)", r"encoder.layers.\1.layernorm_before.\2"),
    (r"encoder\.blocks\.(\d+)\.mlp_norm\.(\w+)", r"encoder.layers.\1.layernorm_after.\2"),
    (r"encoder\.blocks\.(\d+)\.attention\.([qkvo])\w+\.(\w+)", r"encoder.layers.\1.attention.\2_proj.\3"),
    (r"encoder\.blocks\.(\d+)\.mlp\.expand\.(\w+)", r"encoder.layers.\1.mlp.fc1.\2"),
    (r"encoder\.blocks\.(\d+)\.mlp\.contract\.(\w+)", r"encoder.layers.\1.mlp.fc2.\2"),
    (r"predictor\.positions", "predictor.pos_embedding"),
    (r"predictor\.norm\.(\w+)", r"predictor.transformer.norm.\1"),
    (r"predictor\.blocks\.(\d+)\.modulation\.(\w+)", r"predictor.transformer.layers.\1.adaLN_modulation.1.\2"),
    (r"predictor\.blocks\.(\d+)\.attention\.norm\.(\w+)", r"predictor.transformer.layers.\1.attn.norm.\2"),
    (r"predictor\.blocks\.(\d+)\.attention\.query_key_value\.(\w+)", r"predictor.transformer.layers.\1.attn.to_qkv.\2"),
    (r"predictor\.blocks\.(\d+)\.attention\.output\.(\w+)", r"predictor.transformer.layers.\1.attn.to_out.0.\2"),
    (r"predictor\.blocks\.(\d+)\.mlp_norm\.(\w+)", r"predictor.transformer.layers.\1.mlp.net.0.\2"),
    (r"predictor\.blocks\.(\d+)\.mlp\.expand\.(\w+)", r"predictor.transformer.layers.\1.mlp.net.1.\2"),
    (r"predictor\.blocks\.(\d+)\.mlp\.contract\.(\w+)", r"predictor.transformer.layers.\1.mlp.net.4.\2"),
    (r"action_encoder\.channels\.(\w+)", r"action_encoder.patch_embed.\1"),
    (r"action_encoder\.expand\.(\w+)", r"action_encoder.embed.0.\1"),
    (r"action_encoder\.contract\.(\w+)", r"action_encoder.embed.2.\1"),
    (r"projector\.expand\.(\w+)", r"projector.net.0.\1"),
    (r"projector\.norm\.(\w+)", r"projector.net.1.\1"),
    (r"projector\.contract\.(\w+)", r"projector.net.3.\1"),
    (r"prediction_projector\.expand\.(\w+)", r"pred_proj.net.0.\1"),
    (r"prediction_projector\.norm\.(\w+)", r"pred_proj.net.1.\1"),
    (r"prediction_projector\.contract\.(\w+)", r"pred_proj.net.3.\1"),
)
"""Our name -> the official one, as transformers 5 writes the encoder's."""

_LAYER_PARTS = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
"""Parts of an encoder layer: transformers 5 -> transformers 4."""
_LAYER_5, _LAYER_4 = "encoder.layers", "encoder.encoder.layer"


def official_names(model: WorldModel) -> dict[str, str]:
    """Our name -> the official name of every parameter and running statistic that the official model has too (not the preprocessing)."""
    return names_of(model.state_dict())


def names_of(ours: Iterable[str]) -> dict[str, str]:
    """``official_names`` of the names of a state dict; those that the official model does not have are left out."""
    names = {}
    for name in ours:
        for pattern, replacement in _PARTS:
            match = re.fullmatch(pattern, name)
            if match:
                names[name] = match.expand(replacement)
    return names


def transformers_4_name(name: str) -> str:
    """An official name as transformers 4 writes it."""
    return _translated(name, _LAYER_5, _LAYER_4, _LAYER_PARTS)


def transformers_5_name(name: str) -> str:
    """An official name as transformers 5 writes it, from either way."""
    return _translated(name, _LAYER_4, _LAYER_5, {old: new for new, old in _LAYER_PARTS.items()})


def _translated(name: str, prefix: str, other_prefix: str, parts: dict[str, str]) -> str:
    match = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None or match[2] not in parts:
        return name
    return f"{other_prefix}.{match[1]}.{parts[match[2]]}.{match[3]}"
