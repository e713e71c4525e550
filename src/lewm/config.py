"""Every setting of a run: frozen dataclasses that presets, configuration files and command-line flags fill in (``config_files.py``).

The string under a field is its help text. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from lewm.planner_config import PlannerConfig as PlannerConfig
from lewm.setting_checks import Device
from lewm.setting_checks import at_least as _at_least
from lewm.setting_checks import at_most as _at_most
from lewm.setting_checks import fraction as _fraction
from lewm.setting_checks import require as _require
from lewm.setting_checks import seed as _seed

MOST_LAYERS = 1000
"""More is a mistake or an attack: layers cost time to build even before their shapes are compared with a file's."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which windows of the episodes are learnt from."""

    num_transitions: int = 3
    """T: transitions of a clip; it holds T + 1 observations. The paper's window is 3."""
    action_block: int = 5
    """Env steps between two observations of a clip, whose actions form one block: the paper's frameskip."""
    stack_offsets_env_steps: tuple[int, ...] = (0,)
    """Frames stacked into one observation, as env steps relative to it: (-1, 0) shows velocity."""
    clips_per_episode: int = 1
    """Clips of a batch that come from the same episode. What stays the same through an episode (a target's place, a background) cannot tell them
    apart, so it cannot fill a batch that SIGReg wants Gaussian: raise this where such things captured the latents. Must divide train.batch_size."""
    group_span_env_steps: int | None = None
    """With clips_per_episode: how far apart, at most, the clips of an episode start; then what changes slowly cannot tell them apart either."""
    clips_per_env_step: int = 1
    """Clips of a batch that start at the same env step of different episodes: the same remedy against what is a function of time alone, such as
    traffic that runs alike in every episode. Must divide train.batch_size; only one of the two may be above 1."""
    validation_fraction: float = 0.1
    """Share of the episodes held out of training, chosen by a hash of (seed, episode id)."""
    split_seed: int = 0
    """Seed of that hash; part of the data, not of the run, so that runs can be compared on the same held-out episodes."""
    num_prefetched_batches: int = 2
    """Batches that a background thread keeps ready."""

    def __post_init__(self) -> None:
        _at_least(1, num_transitions=self.num_transitions, action_block=self.action_block, num_prefetched_batches=self.num_prefetched_batches)
        _at_least(1, group_span_env_steps=1 if self.group_span_env_steps is None else self.group_span_env_steps)
        _at_least(1, clips_per_episode=self.clips_per_episode, clips_per_env_step=self.clips_per_env_step)
        _require(
            min(self.clips_per_episode, self.clips_per_env_step) == 1,
            f"only one of data.clips_per_episode ({self.clips_per_episode}) and data.clips_per_env_step ({self.clips_per_env_step}) may be above 1",
        )
        _fraction(validation_fraction=self.validation_fraction)
        _seed(split_seed=self.split_seed)


@dataclass(frozen=True, kw_only=True)
class ConvEncoderConfig:
    """Strided convolutions; the defaults divide the sides of a frame by 16."""

    name: Literal["conv"] = "conv"
    """Which encoder."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Output channels of each layer."""
    kernel_sizes: tuple[int, ...] = (8, 4, 4)
    """Side of each layer's kernel, px of its input."""
    strides: tuple[int, ...] = (4, 2, 2)
    """By how much each layer divides the sides."""

    def __post_init__(self) -> None:
        lengths = (len(self.channels), len(self.kernel_sizes), len(self.strides))
        _require(len(set(lengths)) == 1 and lengths[0] > 0, f"encoder.channels, kernel_sizes and strides must be equally many, got {lengths}")
        _require(min(self.channels + self.strides) > 0, f"encoder.channels and strides must be positive, got {self.channels} and {self.strides}")
        fits = all(kernel >= stride for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True))
        _require(fits, f"a kernel must not be smaller than its stride, got encoder.kernel_sizes {self.kernel_sizes}, strides {self.strides}")


@dataclass(frozen=True, kw_only=True)
class ViTEncoderConfig:
    """Vision transformer with a class token; the defaults are the paper's ViT-Tiny."""

    name: Literal["vit"] = "vit"
    """Which encoder."""
    patch_px: int = 14
    """Side of a square patch."""
    width: int = 192
    """Size of each token."""
    num_layers: int = 12
    """Transformer blocks."""
    num_heads: int = 3
    """Attention heads; must divide the width."""
    mlp_width: int = 768
    """Hidden size of each block's MLP."""

    def __post_init__(self) -> None:
        _at_least(1, patch_px=self.patch_px, num_layers=self.num_layers, num_heads=self.num_heads, mlp_width=self.mlp_width)
        _at_most(MOST_LAYERS, **{"encoder.num_layers": self.num_layers})
        _require(self.width % self.num_heads == 0, f"encoder.width ({self.width}) must be a multiple of encoder.num_heads ({self.num_heads})")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The latent space and what surrounds it."""

    latent_dimension: int = 192
    """D: size of a latent."""
    projector_width: int = 2048
    """Hidden size of the projectors after the encoder and after the predictor (Linear, BatchNorm, GELU, Linear)."""
    history_model_steps: int = 3
    """Past latents that the predictor may attend to; the size of its learned position table."""
    action_embedding_width: int = 768
    """Hidden size of the action encoder's MLP."""
    action_channels: int = 10
    """Size of the first, per-block linear map of the action encoder."""

    def __post_init__(self) -> None:
        _at_least(1, latent_dimension=self.latent_dimension, projector_width=self.projector_width, history_model_steps=self.history_model_steps)
        _at_least(1, action_embedding_width=self.action_embedding_width, action_channels=self.action_channels)


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """The causal transformer that predicts the next latent; the defaults are the paper's."""

    width: int = 192
    """Size of each token."""
    num_layers: int = 6
    """Transformer blocks, each conditioned on its step's action through AdaLN-zero."""
    num_heads: int = 16
    """Attention heads."""
    head_width: int = 64
    """Size of each head."""
    mlp_width: int = 2048
    """Hidden size of each block's MLP."""
    dropout: float = 0.1
    """Dropout in attention, its output and the MLP."""

    def __post_init__(self) -> None:
        _at_least(1, width=self.width, num_layers=self.num_layers, num_heads=self.num_heads, head_width=self.head_width, mlp_width=self.mlp_width)
        _at_most(MOST_LAYERS, **{"predictor.num_layers": self.num_layers})
        _fraction(dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised: next-latent prediction + weight * regulariser, and auxiliary losses where asked for."""

    name: str = "lewm"
    """Which objective; `lewm list objectives` shows them."""
    weight: float = 0.09
    """Weight of SIGReg (lambda). Its strength grows with the batch size, so change the two together; 0 turns it off and collapses."""
    num_directions: int = 1024
    """M: random directions on which SIGReg compares the latents with a Gaussian."""
    num_knots: int = 17
    """K: points in [0, 3] at which the characteristic function is compared."""
    inverse_weight: float = 0.0
    """Weight of recovering each action block from the latents before and after it: against latents that hold only what moves by itself; 0: off."""
    rollout_weight: float = 0.0
    """Weight of the error of latents that the model imagines open-loop from a clip's first one: against errors that add up in long plans; 0: off."""
    rollout_model_steps: int = 3
    """How many model steps are imagined, at most data.num_transitions; published runs use 3 to 6."""
    rollout_growth: float = 2.0
    """Each imagined step weighs so many times as much as the one before; 1: all alike."""
    straightening_weight: float = 0.0
    """Weight of 1 - cos of consecutive changes of the latent: straight paths make distances between latents mean something; 0: off."""
    variance_weight: float | None = None
    """vicreg, pldm: weight of the hinge on each dimension's standard deviation over the batch. This and the weights below: None is the
    objective's own, and one that an objective does not have is refused."""
    covariance_weight: float | None = None
    """vicreg, pldm: weight of the squared covariances between dimensions over the batch."""
    time_variance_weight: float | None = None
    """pldm: the hinge over the time steps of a clip."""
    time_covariance_weight: float | None = None
    """pldm: the covariances over the time steps of a clip."""
    smoothness_weight: float | None = None
    """pldm: weight of the squared distance between consecutive latents."""
    recovery_weight: float | None = None
    """pldm, inverse: weight of recovering the actions between two latents."""
    reconstruction_weight: float | None = None
    """reconstruct: weight of the squared error of decoded frames."""
    reward_weight: float | None = None
    """reward: weight of predicting each block's reward."""
    value_weight: float | None = None
    """reward: weight of the temporal-difference error of the value."""
    temperature: float | None = None
    """contrastive: what mean squared distances are divided by before they compete."""
    target_decay: float | None = None
    """ema, reward: share of the old target network that is kept at each step, in [0, 1)."""
    discount: float | None = None
    """reward: of the value, per model step, in [0, 1)."""
    num_subspaces: int | None = None
    """sigreg-subspace: K: orthogonal parts of the latent space, each compared with a Gaussian of its own; divides the latent dimension."""

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight, inverse_weight=self.inverse_weight)
        _at_least(1, rollout_model_steps=self.rollout_model_steps)
        _at_least(0, rollout_weight=self.rollout_weight, straightening_weight=self.straightening_weight)
        _require(self.rollout_growth > 0, f"objective.rollout_growth must be positive, got {self.rollout_growth:g}")
        _at_least(1, num_directions=self.num_directions)
        _at_least(2, num_knots=self.num_knots)
        given = {name: value for name, value in vars(self).items() if value is not None}
        _at_least(0, **{f"objective.{name}": value for name, value in given.items() if name.endswith("_weight")})
        _fraction(**{f"objective.{name}": value for name, value in given.items() if name in ("target_decay", "discount")})
        _at_least(1, **{f"objective.{name}": value for name, value in given.items() if name == "num_subspaces"})
        _require(self.temperature is None or self.temperature > 0, f"objective.temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimiser and the loop; training counts optimiser steps."""

    num_steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 128
    """B: clips per optimiser step, over all devices together."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    warmup_fraction: float = 0.01
    """Share of the schedule spent in linear warm-up."""
    schedule_num_steps: int | None = None
    """Length of the cosine schedule, if longer than the run (the paper stops at a tenth of it); default: num_steps."""
    pixel_noise_std: float = 0.0
    """Standard deviation of Gaussian noise added to training frames, as a share of the full 0..1 range."""
    device: Device = "cpu"
    """Where to train."""
    num_devices: int = 1
    """Processes, one per device; the global batch is split between them."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the networks; SIGReg is always float32."""
    use_compile: bool = False
    """Compile the model with torch.compile (needs a C++ compiler on a CPU)."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""
    freeze: Literal["encoder", "predictor"] | None = None
    """Leave these weights as they are: the encoder with its projector, or the predictor with its projector and the action encoder; for training
    that starts from another run (`lewm train --from RUN`)."""
    refit_action_statistics: bool = False
    """Normalise actions by the new data's mean and standard deviation instead of the base's; for training that starts from another run."""
    log_every_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    monitor_every_steps: int = 100
    """Steps between two looks of the collapse monitor at held-out clips."""
    checkpoint_every_steps: int = 1000
    """Steps between two checkpoints; the last step is always kept."""
    seed: int = 0
    """Seed of initialisation, batches, directions, noise and dropout."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when the monitor sees a collapse."""

    def __post_init__(self) -> None:
        _at_least(1, num_steps=self.num_steps, num_devices=self.num_devices, log_every_steps=self.log_every_steps)
        _at_least(1, monitor_every_steps=self.monitor_every_steps, checkpoint_every_steps=self.checkpoint_every_steps)
        _require(self.batch_size >= 2, f"train.batch_size must be at least 2 (BatchNorm needs two samples), got {self.batch_size}")
        _require(
            self.batch_size % self.num_devices == 0,
            f"train.batch_size ({self.batch_size}) must be a multiple of train.num_devices ({self.num_devices})",
        )
        _at_least(0, weight_decay=self.weight_decay, pixel_noise_std=self.pixel_noise_std)
        _seed(seed=self.seed)
        _at_least(1, num_threads=1 if self.num_threads is None else self.num_threads)
        _require(0 < self.learning_rate < 1e3, f"train.learning_rate must be positive and below 1000, got {self.learning_rate:g}")
        _require(self.gradient_clip > 0, f"train.gradient_clip must be positive, got {self.gradient_clip:g}")
        _fraction(warmup_fraction=self.warmup_fraction)
        if self.schedule_num_steps is not None:
            _require(
                self.schedule_num_steps >= self.num_steps,
                f"train.schedule_num_steps ({self.schedule_num_steps}) must not be shorter than train.num_steps ({self.num_steps})",
            )


EncoderConfig = ConvEncoderConfig | ViTEncoderConfig
ENCODER_CONFIGS: dict[str, type[ConvEncoderConfig] | type[ViTEncoderConfig]] = {"conv": ConvEncoderConfig, "vit": ViTEncoderConfig}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run; the defaults are the paper's, and ``lewm list presets`` shows ready-made others."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=ViTEncoderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)

    def __post_init__(self) -> None:
        for name in ("clips_per_episode", "clips_per_env_step"):
            size = getattr(self.data, name)
            _require(self.train.batch_size % size == 0, f"train.batch_size ({self.train.batch_size}) must be a multiple of data.{name} ({size})")
        _require(
            self.data.num_transitions <= self.model.history_model_steps,
            f"data.num_transitions ({self.data.num_transitions}) must not exceed model.history_model_steps ({self.model.history_model_steps})",
        )
        _require(
            self.planner.history_model_steps <= self.model.history_model_steps,
            f"planner.history_model_steps ({self.planner.history_model_steps}) must not exceed "
            f"model.history_model_steps ({self.model.history_model_steps})",
        )
