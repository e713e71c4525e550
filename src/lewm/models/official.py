"""The names of the official LeWorldModel's weights, for a model of the same architecture."""

import re

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


def official_names(model: WorldModel) -> dict[str, str]:
    """Our name -> the official name of every parameter and running statistic that the official model has too (not the preprocessing)."""
    names = {}
    for ours in model.state_dict():
        for pattern, replacement in _PARTS:
            match = re.fullmatch(pattern, ours)
            if match:
                names[ours] = match.expand(replacement)
    return names
