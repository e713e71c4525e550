"""Settings of the networks that are trained on frozen latents: `lewm train --from RUN --stage NAME`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import ClassVar

from lewm.config import MOST_LAYERS
from lewm.errors import ConfigError
from lewm.setting_checks import Device


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder that draws the frame which a latent stands for: to be looked at, the model itself never uses it."""

    NAME: ClassVar[str] = "decoder"
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
    device: Device = "cpu"
    """Where to train."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""

    def __post_init__(self) -> None:
        _check_counts(self, "patch_px", "width", "num_layers", "num_heads", "num_steps", "num_threads")
        if self.width % self.num_heads:
            raise ConfigError(f"decoder.width ({self.width}) must be a multiple of decoder.num_heads ({self.num_heads})")
        if self.batch_size < 2 or self.batch_size % 2:
            raise ConfigError(f"decoder.batch_size must be even (frames come in pairs), got {self.batch_size}")
        _check_training(self)


@dataclass(frozen=True, kw_only=True)
class LatentHeadConfig:
    """What the heads that are trained on pairs of latents have in common."""

    NAME: ClassVar[str]
    width: int = 512
    """Units of a hidden layer."""
    num_layers: int = 3
    """Hidden layers."""
    num_steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 256
    """Pairs per optimiser step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up over a fiftieth of the steps, then a cosine to zero."""
    seed: int = 0
    """Seed of initialisation and batches."""
    device: Device = "cpu"
    """Where to train."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""

    def __post_init__(self) -> None:
        _check_counts(self, "width", "num_layers", "num_steps", "batch_size", "num_threads")
        _check_training(self)


@dataclass(frozen=True, kw_only=True)
class InverseGoalConfig(LatentHeadConfig):
    """The goal-conditioned inverse model: which action to take now, to be at a goal some env steps later."""

    NAME: ClassVar[str] = "inverse-goal"
    most_env_steps: int = 50
    """H: goals of the training pairs are 1 to so many env steps ahead."""
    use_steps_remaining: bool = True
    """Tell the network how far ahead the goal is; without it, it is plain goal-conditioned behaviour cloning on latents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "most_env_steps")


@dataclass(frozen=True, kw_only=True)
class IntentConfig(LatentHeadConfig):
    """The intent head: a distribution over the next action block, from a latent, the change that is intended and the actions before."""

    NAME: ClassVar[str] = "intent"
    num_layers: int = 2
    """Hidden layers."""
    spans_env_steps: tuple[int, ...] = (35, 55, 75)
    """Goals of the training pairs are 1 to so many env steps ahead, each of these spans equally often."""
    chunks_env_steps: tuple[int, ...] = ()
    """How far ahead the latent of a local intent is, each of these equally often, whose actions count; default: one action block."""
    local_weight: float = 0.10
    """Weight of the likelihood of the actions, given the change to the latent that they led to."""
    goal_weight: float = 0.05
    """Weight of the likelihood of the actions, given the change to the goal's latent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spans_env_steps", "chunks_env_steps"):
            values = getattr(self, name)
            if any(not isinstance(value, int) or value < 1 for value in values) or (name == "spans_env_steps" and not values):
                raise ConfigError(f"intent.{name} must be whole numbers of at least 1, got {values}")
        if min(self.local_weight, self.goal_weight) < 0 or self.goal_weight == 0:
            raise ConfigError(
                f"intent.local_weight must be at least 0 and intent.goal_weight above 0, got {self.local_weight:g} and {self.goal_weight:g}"
            )


@dataclass(frozen=True, kw_only=True)
class DistanceConfig(LatentHeadConfig):
    """The temporal distance: how many env steps lie between a latent, real or imagined, and a goal's."""

    NAME: ClassVar[str] = "distance"
    width: int = 256
    """Units of a hidden layer; a search asks about every candidate, so a small network is a fast one."""
    num_layers: int = 2
    """Hidden layers."""
    most_env_steps: int = 100
    """The largest distance: pairs of one episode are at most so far apart, and those of different episodes count as exactly so far."""
    negative_fraction: float = 0.25
    """Share of the pairs whose goal is taken from another episode."""
    imagined_fraction: float = 0.5
    """Share of the pairs whose first latent is imagined by the model from an earlier one and the actions that were taken."""
    imagined_model_steps: int = 8
    """Such latents are 1 to so many model steps ahead of a real one."""
    expectile: float = 0.2
    """Which distance is meant where the same pair was seen at several: 0.5 their mean, less the shorter ones, which better ways could have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "most_env_steps", "imagined_model_steps")
        for name in ("negative_fraction", "imagined_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"distance.{name} must be in [0, 1], got {getattr(self, name):g}")
        if not 0 < self.expectile < 1:
            raise ConfigError(f"distance.expectile must be between 0 and 1, got {self.expectile:g}")


HeadConfig = DecoderConfig | LatentHeadConfig
HEAD_CONFIGS: dict[str, type[HeadConfig]] = {settings.NAME: settings for settings in (DecoderConfig, InverseGoalConfig, IntentConfig, DistanceConfig)}


def _check_counts(settings: HeadConfig, *names: str) -> None:
    for name in names:
        count = getattr(settings, name)
        if count is not None and not 1 <= count <= 10**9:
            raise ConfigError(f"{settings.NAME}.{name} must be at least 1, got {count}")


def _check_training(settings: HeadConfig) -> None:
    if settings.num_layers > MOST_LAYERS:
        raise ConfigError(f"{settings.NAME}.num_layers must be at most {MOST_LAYERS}, got {settings.num_layers}")
    if not 0 < settings.learning_rate < 1:
        raise ConfigError(f"{settings.NAME}.learning_rate must be positive and below 1, got {settings.learning_rate:g}")
    if not 0 <= settings.seed < 2**63:
        raise ConfigError(f"{settings.NAME}.seed must be in [0, 2**63), got {settings.seed}")
