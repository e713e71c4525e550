"""Settings of the networks that are trained on frozen latents: `lewm train --from RUN --stage NAME`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from lewm.config import MOST_LAYERS
from lewm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder that draws the frame which a latent stands for: to be looked at, the model itself never uses it."""

    patch_px: int | None = None
    """p: side of a square patch, one learned query each; default: an eighth of the frame's shorter side, at most 16, less until it divides both."""
    width: int = 64
    """Size of each query and token."""
    num_layers: int = 2
    """Layers of cross-attention from the queries to the latent."""
    num_heads: int = 4
    """Attention heads; must divide the width."""
    num_steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 32
    """Frames per optimiser step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW: linear warm-up over a fiftieth of the steps, then a cosine to zero."""
    seed: int = 0
    """Seed of initialisation and batches."""
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where to train."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("patch_px", "width", "num_layers", "num_heads", "num_steps", "num_threads")}
        for name, count in counts.items():
            if count is not None and not 1 <= count <= 10**9:
                raise ConfigError(f"decoder.{name} must be at least 1, got {count}")
        if self.width % self.num_heads:
            raise ConfigError(f"decoder.width ({self.width}) must be a multiple of decoder.num_heads ({self.num_heads})")
        if self.num_layers > MOST_LAYERS:
            raise ConfigError(f"decoder.num_layers must be at most {MOST_LAYERS}, got {self.num_layers}")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ConfigError(f"decoder.batch_size must be even (frames come in pairs), got {self.batch_size}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"decoder.learning_rate must be positive and below 1, got {self.learning_rate:g}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"decoder.seed must be in [0, 2**63), got {self.seed}")


HeadConfig = DecoderConfig
HEAD_CONFIGS: dict[str, type[HeadConfig]] = {"decoder": DecoderConfig}
