"""Every setting of a run: frozen dataclasses that presets (TOML), configuration files and command-line flags fill in.

A run's complete configuration is written to ``config.toml`` and into each checkpoint. The string under a field is its help text. Nothing here
imports torch.
"""

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lewm.errors import ConfigError
from lewm.registry import did_you_mean


MOST_LAYERS = 1000
"""More is a mistake or an attack: layers cost time to build even before their shapes are compared with a file's."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _at_least(low: float, **values: float) -> None:
    for name, value in values.items():
        _require(value >= low, f"{name} must be at least {low:g}, got {value:g}")


def _at_most(high: float, **values: float) -> None:
    for name, value in values.items():
        _require(value <= high, f"{name} must be at most {high:g}, got {value:g}")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        _require(0.0 <= value < 1.0, f"{name} must be in [0, 1), got {value:g}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which windows of the episodes are learnt from."""

    num_transitions: int = 3
    """T: transitions of a clip; it holds T + 1 observations. The paper's window is 3."""
    action_block: int = 5
    """Env steps between two observations of a clip, whose actions form one block: the paper's frameskip."""
    stack_offsets_env_steps: tuple[int, ...] = (0,)
    """Frames stacked into one observation, as env steps relative to it: (-1, 0) shows velocity."""
    validation_fraction: float = 0.1
    """Share of the episodes held out of training, chosen by a hash of (seed, episode id)."""
    split_seed: int = 0
    """Seed of that hash; part of the data, not of the run, so that runs can be compared on the same held-out episodes."""
    num_prefetched_batches: int = 2
    """Batches that a background thread keeps ready."""

    def __post_init__(self) -> None:
        _at_least(1, num_transitions=self.num_transitions, action_block=self.action_block, num_prefetched_batches=self.num_prefetched_batches)
        _fraction(validation_fraction=self.validation_fraction)


@dataclass(frozen=True, kw_only=True)
class ConvEncoderConfig:
    """Strided convolutions: one layer per entry of ``channels``, each halving the frame."""

    name: Literal["conv"] = "conv"
    """Which encoder."""
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Output channels of each stride-2 layer."""
    kernel_size: int = 4
    """Side of each convolution's kernel, px of its input."""

    def __post_init__(self) -> None:
        _require(len(self.channels) > 0 and min(self.channels) > 0, f"encoder.channels must be positive counts, got {self.channels}")
        _at_least(2, kernel_size=self.kernel_size)


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
    """What is minimised: next-latent prediction + weight * regulariser."""

    name: str = "lewm"
    """Which objective; `lewm list objectives` shows them."""
    weight: float = 0.09
    """Weight of SIGReg (lambda). Its strength grows with the batch size, so change the two together; 0 turns it off and collapses."""
    num_directions: int = 1024
    """M: random directions on which SIGReg compares the latents with a Gaussian."""
    num_knots: int = 17
    """K: points in [0, 3] at which the characteristic function is compared."""

    def __post_init__(self) -> None:
        _at_least(0, weight=self.weight)
        _at_least(1, num_directions=self.num_directions)
        _at_least(2, num_knots=self.num_knots)


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
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where to train."""
    num_devices: int = 1
    """Processes, one per device; the global batch is split between them."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the networks; SIGReg is always float32."""
    use_compile: bool = False
    """Compile the model with torch.compile (needs a C++ compiler on a CPU)."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""
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
        _at_least(0, weight_decay=self.weight_decay, pixel_noise_std=self.pixel_noise_std, seed=self.seed)
        _require(self.learning_rate > 0, f"train.learning_rate must be positive, got {self.learning_rate:g}")
        _require(self.gradient_clip > 0, f"train.gradient_clip must be positive, got {self.gradient_clip:g}")
        _fraction(warmup_fraction=self.warmup_fraction)
        if self.schedule_num_steps is not None:
            _require(
                self.schedule_num_steps >= self.num_steps,
                f"train.schedule_num_steps ({self.schedule_num_steps}) must not be shorter than train.num_steps ({self.num_steps})",
            )


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """The search for actions in latent space."""

    name: str = "cem"
    """Which planner; `lewm list planners` shows them."""
    horizon_model_steps: int = 5
    """Model steps that a plan looks ahead."""
    replan_every_model_steps: int = 5
    """Model steps of a plan that are executed before the next one is made."""
    num_candidates: int = 300
    """S: action sequences tried per iteration."""
    num_elites: int = 30
    """Best candidates that the Gaussian is refitted on."""
    num_iterations: int = 30
    """Refits per plan."""
    cost: Literal["last", "min", "sum"] = "last"
    """Distance to the goal of the last imagined latent, of the nearest one, or of all of them added up."""
    mean_weight: float = 0.0
    """Share of the mean distance over the horizon added to the cost: prefers plans that arrive early."""
    initial_std: float = 1.0
    """Standard deviation of the first Gaussian, in standard deviations of the training actions."""
    std_floor: float = 0.0
    """Smallest standard deviation that refitting may reach, in the same unit."""
    momentum: float = 0.0
    """Share of the old mean and standard deviation kept at each refit."""
    noise_smoothing: float = 0.0
    """Share of the noise variance that is a moving average over env steps instead of white."""
    smoothing_window_env_steps: int = 4
    """Length of that moving average."""
    use_bounds: bool = True
    """Keep imagined and executed actions within the world's bounds (in env units); the Gaussian itself is refitted on unclamped samples."""
    use_warm_start: bool = False
    """Start from the rest of the previous plan."""
    history_model_steps: int = 1
    """H: past observations, action_block env steps apart, that the model is given; at most the model's own history."""
    max_batch_rows: int = 16_384
    """Candidates imagined at once, over all episodes; bounds memory and changes no result."""

    def __post_init__(self) -> None:
        _at_least(1, horizon_model_steps=self.horizon_model_steps, num_candidates=self.num_candidates, num_iterations=self.num_iterations)
        _at_least(1, history_model_steps=self.history_model_steps, smoothing_window_env_steps=self.smoothing_window_env_steps)
        _at_least(1, max_batch_rows=self.max_batch_rows)
        _require(
            1 <= self.replan_every_model_steps <= self.horizon_model_steps,
            f"planner.replan_every_model_steps must be in [1, horizon_model_steps = {self.horizon_model_steps}], got {self.replan_every_model_steps}",
        )
        _require(
            1 < self.num_elites <= self.num_candidates,
            f"planner.num_elites must be in [2, num_candidates = {self.num_candidates}], got {self.num_elites}",
        )
        _at_least(0, mean_weight=self.mean_weight, std_floor=self.std_floor, noise_smoothing=self.noise_smoothing)
        _require(self.noise_smoothing <= 1, f"planner.noise_smoothing must be in [0, 1], got {self.noise_smoothing:g}")
        _require(self.initial_std > 0, f"planner.initial_std must be positive, got {self.initial_std:g}")
        _fraction(momentum=self.momentum)


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
        _require(
            self.data.num_transitions <= self.model.history_model_steps,
            f"data.num_transitions ({self.data.num_transitions}) must not exceed model.history_model_steps ({self.model.history_model_steps})",
        )
        _require(
            self.planner.history_model_steps <= self.model.history_model_steps,
            f"planner.history_model_steps ({self.planner.history_model_steps}) must not exceed "
            f"model.history_model_steps ({self.model.history_model_steps})",
        )


def preset_names() -> list[str]:
    """The presets inside the package."""
    return sorted(Path(str(file)).stem for file in resources.files("lewm.presets").iterdir() if file.name.endswith(".toml"))


def load_preset(name: str) -> Config:
    """The preset called ``name``; an unknown one is refused with a suggestion."""
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}.{did_you_mean(name, preset_names())}")
    return from_dict(tomllib.loads(resources.files("lewm.presets").joinpath(f"{name}.toml").read_text()))


def load_config(path: Path, base: Config | None = None) -> Config:
    """The configuration in a TOML file; what it does not say comes from ``base`` (default: the paper's)."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {str(path)!r}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {str(path)!r} is not valid TOML: {error}") from None
    return from_dict(values, base)


def from_dict(values: dict[str, Any], base: Config | None = None) -> Config:
    """A configuration from nested plain values; unknown sections, keys and wrong types are refused."""
    base = base or Config()
    sections = {section.name: getattr(base, section.name) for section in dataclasses.fields(Config)}
    for name, section_values in values.items():
        if name not in sections:
            raise ConfigError(f"unknown section [{name}].{did_you_mean(name, sections)}")
        if not isinstance(section_values, dict):
            raise ConfigError(f"[{name}] must be a table of settings, got {section_values!r}")
        current = sections[name]
        if name == "encoder" and section_values.get("name", current.name) != current.name:
            current = new_encoder_config(section_values["name"])
        sections[name] = _replace(current, name, section_values)
    return Config(**sections)


def new_encoder_config(name: str) -> EncoderConfig:
    """The default settings of the encoder called ``name``."""
    if name not in ENCODER_CONFIGS:
        raise ConfigError(f"unknown encoder {name!r}.{did_you_mean(str(name), ENCODER_CONFIGS)}")
    return ENCODER_CONFIGS[name]()


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values: JSON- and TOML-ready, None left out."""
    sections = dataclasses.asdict(config)
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }


def to_toml(config: Config) -> str:
    """The configuration as a TOML file that ``load_config`` reads back."""
    lines = []
    for name, section in to_dict(config).items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()), ""]
    return "\n".join(lines)


def _replace(section: Any, section_name: str, values: dict[str, Any]) -> Any:
    types = get_type_hints(type(section))
    for key in values:
        if key not in types:
            raise ConfigError(f"unknown setting {section_name}.{key}.{did_you_mean(key, types)}")
    changes = {key: _checked(value, types[key], f"{section_name}.{key}") for key, value in values.items()}
    return dataclasses.replace(section, **changes)


def _checked(value: Any, expected: Any, name: str) -> Any:
    """``value`` as the annotated type, without silent conversions (an int may stand for a float, a list for a tuple)."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, UnionType):
        return None if value is None else _checked(value, next(a for a in arguments if a is not type(None)), name)
    if origin is Literal:
        _require(value in arguments, f"{name} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(item, arguments[0], name) for item in value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected_type = tuple if origin is tuple else expected
    matches = isinstance(value, expected_type) and not (expected_type is int and isinstance(value, bool))
    _require(matches, f"{name} must be a {getattr(expected_type, '__name__', expected_type)}, got {value!r}")
    return value
