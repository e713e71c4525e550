"""The pieces that encoders and predictors are made of.

Axes: R row (any leading axes, flattened), T token, W width, M modulation (6 W), h head, d head width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Float[Tensor, "R h _ d"], Float[Tensor, "R h _ d"]]
"""Keys and values of the tokens that an attention layer has already seen."""


class Projector(nn.Module):
    """Linear, BatchNorm, GELU, Linear: BatchNorm because a LayerNorm at the end of an encoder would keep SIGReg from shaping the latents."""

    def __init__(self, input_width: int, hidden_width: int, output_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(input_width, hidden_width)
        self.norm = nn.BatchNorm1d(hidden_width)
        self.contract = nn.Linear(hidden_width, output_width)

    def forward(self, features: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch D"]:
        """Project each row; in training mode the statistics of BatchNorm are those of all rows together."""
        rows = features.reshape(-1, features.shape[-1])
        projected: Tensor = self.contract(functional.gelu(self.norm(self.expand(rows))))
        return projected.view(*features.shape[:-1], -1)


class MLP(nn.Module):
    """Linear, GELU, Linear with dropout after both."""

    def __init__(self, width: int, hidden_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden_width)
        self.contract = nn.Linear(hidden_width, width)
        self.dropout = dropout

    def forward(self, tokens: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch W"]:
        """Each token on its own."""
        hidden = functional.dropout(functional.gelu(self.expand(tokens)), self.dropout, self.training)
        return functional.dropout(self.contract(hidden), self.dropout, self.training)


class SelfAttention(nn.Module):
    """Attention of every token to every token, with biases: a vision transformer's."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "R T W"]) -> Float[Tensor, "R T W"]:
        """Mix the tokens of each row."""
        query, key, value = (_split_heads(linear(tokens), self.num_heads) for linear in (self.query, self.key, self.value))
        mixed: Tensor = self.output(_join_heads(functional.scaled_dot_product_attention(query, key, value)))
        return mixed


class ViTBlock(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.attention = SelfAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-12)
        self.mlp = MLP(width, mlp_width)

    def forward(self, tokens: Float[Tensor, "R T W"]) -> Float[Tensor, "R T W"]:
        """One block."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed


class CausalAttention(nn.Module):
    """Attention to the present and past tokens, with its own affine LayerNorm; heads may be wider than the tokens."""

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.output = nn.Linear(num_heads * head_width, width)
        self.dropout = dropout

    def forward(
        self, tokens: Float[Tensor, "R T W"], seen: KeysValues | None = None, *, only_last: bool = False
    ) -> tuple[Float[Tensor, "R t W"], KeysValues]:
        """Mix each token with those before it and with the ``seen`` ones; also return what has been seen now.

        With ``only_last`` the output holds just the last token (t = 1), which is all that a rollout needs of the last layer.
        """
        query, key, value = (_split_heads(part, self.num_heads) for part in self.query_key_value(self.norm(tokens)).chunk(3, dim=-1))
        if seen is not None:
            key, value = torch.cat([seen[0], key], dim=2), torch.cat([seen[1], value], dim=2)
        query = query[:, :, -1:] if only_last else query
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_causal_mask(query.shape[2], key.shape[2], query.device) if query.shape[2] not in (1, key.shape[2]) else None,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=query.shape[2] == key.shape[2],
        )
        return functional.dropout(self.output(_join_heads(mixed)), self.dropout, self.training), (key, value)


class ConditionalBlock(nn.Module):
    """A transformer block whose tokens are shifted, scaled and gated by a condition (AdaLN-zero, DiT, arXiv 2212.09748).

    As in the official LeWorldModel, each sub-layer is normalised twice: without affine parameters before the modulation, with them after. The
    last linear map of the modulation starts at zero, so that a new block is the identity.
    """

    def __init__(self, width: int, num_heads: int, head_width: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = CausalAttention(width, num_heads, head_width, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width, dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def modulate(self, conditions: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch M"]:
        """Shift, scale and gate of the attention, then of the MLP: a function of the condition alone, so a rollout computes it once per block."""
        modulation: Tensor = self.modulation(functional.silu(conditions))
        return modulation

    def forward(
        self, tokens: Float[Tensor, "R T W"], modulation: Float[Tensor, "R T M"], seen: KeysValues | None = None, *, only_last: bool = False
    ) -> tuple[Float[Tensor, "R t W"], KeysValues]:
        """One block; ``seen`` and ``only_last`` as in ``CausalAttention``."""
        parts = modulation.chunk(6, dim=-1)
        mixed, seen = self.attention(_shift_scale(tokens, parts[0], parts[1]), seen, only_last=only_last)
        if only_last:
            tokens, parts = tokens[:, -1:], tuple(part[:, -1:] for part in parts)
        tokens = torch.addcmul(tokens, parts[2], mixed)
        hidden = self.mlp(self.mlp_norm(_shift_scale(tokens, parts[3], parts[4])))
        return torch.addcmul(tokens, parts[5], hidden), seen


def _shift_scale(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return torch.addcmul(normed + shift, normed, scale)


def _split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    return tokens.view(*tokens.shape[:-1], num_heads, -1).transpose(1, 2)  # [R, T, h*d] -> [R, h, T, d]


def _join_heads(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # [R, h, T, d] -> [R, T, h*d]


def _causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
