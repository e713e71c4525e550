"""The official LeWorldModel in straight-line form: functions of its published state dict, written from the paper's architecture.

Axes: R row, T token or model step, B batch, D latent, W width, A action block, M direction, Y X image, h head, d head width.

Weights go by their official names (encoder names of transformers 5), in any floating type. None of lewm's networks is used, so that lewm's own model
can be tested and timed against this. There is no dropout. With ``is_training`` BatchNorm takes the statistics of all rows together and moves the
running ones, in place, as torch's own module does.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lewm.bench.references import literal_sigreg

Weights = Mapping[str, Tensor]
ENCODER_EPSILON, MODULATED_EPSILON, EPSILON = 1e-12, 1e-6, 1e-5
"""Of the encoder's LayerNorms, of those before a modulation (which have no weights), and of all others."""
HEAD_WIDTH = 64
"""Of the encoder and of the predictor."""


def official_latents(
    weights: Weights, pixels: Float[Tensor, "R 3 Y X"], *, is_training: bool = False, head_width: int = HEAD_WIDTH
) -> Float[Tensor, "R D"]:
    """The class token of the ViT after its final LayerNorm, projected; pixels are normalised already."""
    projection = weights["encoder.embeddings.patch_embeddings.projection.weight"]
    bias = weights["encoder.embeddings.patch_embeddings.projection.bias"]
    patches = functional.conv2d(pixels, projection, bias, stride=projection.shape[-1])  # [R, W, y, x]
    class_token = weights["encoder.embeddings.cls_token"].expand(len(pixels), -1, -1)
    tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1) + weights["encoder.embeddings.position_embeddings"]
    for number in range(_num_layers(weights, "encoder.layers")):
        layer = f"encoder.layers.{number}"
        normed = _layer_norm(weights, f"{layer}.layernorm_before", tokens, ENCODER_EPSILON)
        query, key, value = (_heads(_linear(weights, f"{layer}.attention.{name}_proj", normed), head_width) for name in "qkv")
        mixed = _joined(functional.scaled_dot_product_attention(query, key, value))
        tokens = tokens + _linear(weights, f"{layer}.attention.o_proj", mixed)
        normed = _layer_norm(weights, f"{layer}.layernorm_after", tokens, ENCODER_EPSILON)
        tokens = tokens + _linear(weights, f"{layer}.mlp.fc2", functional.gelu(_linear(weights, f"{layer}.mlp.fc1", normed)))
    return _projected(weights, "projector", _layer_norm(weights, "encoder.layernorm", tokens, ENCODER_EPSILON)[:, 0], is_training)


def official_predictions(
    weights: Weights, latents: Float[Tensor, "B T D"], blocks: Float[Tensor, "B T A"], *, is_training: bool = False, head_width: int = HEAD_WIDTH
) -> Float[Tensor, "B T D"]:
    """What the predictor makes of latents and of action blocks, which are z-scored already: output t estimates latent t + 1."""
    channels = functional.conv1d(blocks.transpose(1, 2), weights["action_encoder.patch_embed.weight"], weights["action_encoder.patch_embed.bias"])
    hidden = functional.silu(_linear(weights, "action_encoder.embed.0", channels.transpose(1, 2)))
    conditions = functional.silu(_linear(weights, "action_encoder.embed.2", hidden))
    tokens = latents + weights["predictor.pos_embedding"][:, : latents.shape[1]]
    for number in range(_num_layers(weights, "predictor.transformer.layers")):
        layer = f"predictor.transformer.layers.{number}"
        modulation = _linear(weights, f"{layer}.adaLN_modulation.1", conditions)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=-1)
        normed = _layer_norm(weights, f"{layer}.attn.norm", _modulated(tokens, shift_msa, scale_msa), EPSILON)
        query, key, value = (_heads(part, head_width) for part in _linear(weights, f"{layer}.attn.to_qkv", normed).chunk(3, dim=-1))
        mixed = _joined(functional.scaled_dot_product_attention(query, key, value, is_causal=True))
        tokens = tokens + gate_msa * _linear(weights, f"{layer}.attn.to_out.0", mixed)
        normed = _layer_norm(weights, f"{layer}.mlp.net.0", _modulated(tokens, shift_mlp, scale_mlp), EPSILON)
        hidden = functional.gelu(_linear(weights, f"{layer}.mlp.net.1", normed))
        tokens = tokens + gate_mlp * _linear(weights, f"{layer}.mlp.net.4", hidden)
    features = _layer_norm(weights, "predictor.transformer.norm", tokens, EPSILON)
    return _projected(weights, "pred_proj", features.flatten(0, 1), is_training).view(*features.shape[:2], -1)


def official_loss(
    weights: Weights,
    pixels: Float[Tensor, "R 3 Y X"],
    blocks: Float[Tensor, "B T A"],
    directions: Float[Tensor, "D M"],
    weight: float,
    *,
    head_width: int = HEAD_WIDTH,
) -> Float[Tensor, ""]:
    """Prediction loss + weight * SIGReg (per time step over the batch) of windows of T + 1 frames, R = B (T + 1), in training mode."""
    rows = official_latents(weights, pixels, is_training=True, head_width=head_width)
    latents = rows.view(len(blocks), -1, rows.shape[-1])  # [B, T+1, D]
    predicted = official_predictions(weights, latents[:, :-1], blocks, is_training=True, head_width=head_width)
    difference = predicted - latents[:, 1:]
    prediction_loss = difference.to(torch.promote_types(difference.dtype, torch.float32)).square().mean()
    return prediction_loss + weight * literal_sigreg(latents.transpose(0, 1), directions)


def _linear(weights: Weights, name: str, rows: Tensor) -> Tensor:
    return functional.linear(rows, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _layer_norm(weights: Weights, name: str, rows: Tensor, epsilon: float) -> Tensor:
    return functional.layer_norm(rows, rows.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=MODULATED_EPSILON) * (1 + scale) + shift


def _projected(weights: Weights, name: str, rows: Tensor, is_training: bool) -> Tensor:
    """Linear, BatchNorm, GELU, Linear."""
    norm = f"{name}.net.1"
    if is_training:
        weights[f"{norm}.num_batches_tracked"].add_(1)
    normed = functional.batch_norm(
        _linear(weights, f"{name}.net.0", rows),
        weights[f"{norm}.running_mean"],
        weights[f"{norm}.running_var"],
        weights[f"{norm}.weight"],
        weights[f"{norm}.bias"],
        training=is_training,
    )
    return _linear(weights, f"{name}.net.3", functional.gelu(normed))


def _heads(tokens: Tensor, head_width: int) -> Tensor:
    return tokens.reshape(*tokens.shape[:-1], -1, head_width).transpose(1, 2)  # [R, T, h*d] -> [R, h, T, d]


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # [R, h, T, d] -> [R, T, h*d]


def _num_layers(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(f"{prefix}.").partition(".")[0] for name in weights if name.startswith(f"{prefix}.")})
