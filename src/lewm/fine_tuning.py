"""Training that starts from another run's weights, and parts that it leaves as they are.

A model of the same architecture takes over encoder, projectors and predictor; the action encoder too where actions have the same form, with the
statistics that it was trained with. Frozen parts get no gradient and stay in evaluation mode, so their BatchNorm keeps its running statistics.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lewm.checkpoint import Checkpoint, checkpoint_sha256, find_checkpoint, load_checkpoint
from lewm.config import Config
from lewm.config_files import to_dict
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective
from lewm.resuming import base_of

logger = logging.getLogger(__name__)
ENCODER_PARTS = ("encoder", "proprioception", "projector")
PREDICTOR_PARTS = ("predictor", "prediction_projector", "action_encoder")
FROZEN_PARTS = {"encoder": ENCODER_PARTS, "predictor": PREDICTOR_PARTS}
ACTION_ENCODER = ("action_encoder.",)
ACTION_STATISTICS = ("action_mean", "action_std")
LARGEST_RATIO = 2.0
"""Of standard deviations of actions: beyond it, or with means further apart than a standard deviation, the base's statistics are doubtful."""


def check_base(config: Config, base: Path | str | None, out: Path | None = None) -> None:
    """``ConfigError`` for settings that need a base where there is none, or for another base than the one that the run ``out`` was started from.

    ``out`` is given for a run that is resumed: its checkpoints hold everything, so it needs no base, and one that is named must be its own.
    """
    if out is None:
        if base is None and config.train.freeze is not None:
            raise ConfigError("--freeze keeps weights as they are, and there are none yet: give --from RUN")
        if base is None and config.train.refit_action_statistics:
            raise ConfigError("train.refit_action_statistics replaces the statistics of a base, and there is none: give --from RUN, or leave it out")
    elif base is not None:
        meant, got = (base_of(out) or {}).get("checkpoint_sha256"), checkpoint_sha256(find_checkpoint(Path(base)))
        if meant is None:
            raise ConfigError(f"--resume --from {str(base)!r}, but {str(out)!r} was not started from another run; leave --from out")
        if meant != got:
            raise ConfigError(f"--resume --from checkpoint {got[:12]}, but the run was started from {meant[:12]}; leave --from out, it is not needed")


def take_over(model: WorldModel, config: Config, base: Path | str) -> dict[str, Any]:
    """Fill a new model with the weights of a run or checkpoint; what was done, for provenance.

    ``ConfigError`` names the first setting of the architecture, or property of the frames, in which the two differ. Actions may differ: then the
    action encoder is a new one, as a warning says, and has the statistics of the new data, which ``model`` brings along. Otherwise the base's
    statistics stay, because its action encoder was trained on actions normalised by them, unless ``train.refit_action_statistics`` is set.
    """
    checkpoint = load_checkpoint(base)
    _check_architecture(checkpoint, config)
    _check_frames(checkpoint.model, model)
    is_fresh = _action_form(checkpoint.model) != _action_form(model)
    is_refitted = is_fresh or config.train.refit_action_statistics
    if is_refitted and config.train.freeze == "predictor":
        reason = "that starts anew, for the actions are others" if is_fresh else "whose actions are normalised in a new way"
        raise ConfigError(f"--freeze predictor would freeze an action encoder {reason}; leave --freeze out")
    _warn(checkpoint, model, is_fresh=is_fresh, is_refitted=is_refitted)
    left = (ACTION_ENCODER if is_fresh else ()) + (ACTION_STATISTICS if is_refitted else ())
    kept = {name: tensor for name, tensor in checkpoint.model.state_dict().items() if not name.startswith(left)}
    model.load_state_dict(kept, strict=False)
    return {
        "checkpoint_sha256": checkpoint.sha256,
        "step": checkpoint.step,
        "env": checkpoint.env.get("name"),
        "fresh": ["action_encoder"] if is_fresh else [],
        "action_statistics": "data" if is_refitted else "base",
        "frozen": config.train.freeze,
        "episode_seeds": _episode_seeds(checkpoint.provenance),
    }


def frozen_modules(objective: Objective) -> list[nn.Module]:
    """The parts of the world model that the configuration says are left as they are."""
    names = FROZEN_PARTS.get(objective.run_config.train.freeze or "", ())
    return list(_parts(objective.world_model, names))


def freeze(objective: Objective) -> None:
    """Take the gradient from frozen parts; before the optimiser is made."""
    for module in frozen_modules(objective):
        module.requires_grad_(False)


def to_training(objective: Objective) -> None:
    """Training mode, but for frozen parts."""
    objective.train()
    for module in frozen_modules(objective):
        module.eval()


def _parts(model: WorldModel, names: tuple[str, ...]) -> Iterator[nn.Module]:
    for name in names:
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            yield part


def _check_architecture(checkpoint: Checkpoint, config: Config) -> None:
    base, asked = to_dict(checkpoint.config), to_dict(config)
    for section in ("encoder", "model", "predictor"):
        for key in sorted(base[section].keys() | asked[section].keys()):
            if base[section].get(key) != asked[section].get(key) and (section, key) != ("predictor", "dropout"):
                got, meant = asked[section].get(key), base[section].get(key)
                raise ConfigError(f"{section}.{key} is {got!r} and the base has {meant!r}: its weights do not fit; leave the setting out")


def _check_frames(base: WorldModel, model: WorldModel) -> None:
    for name in ("height_px", "width_px", "num_views"):
        got, meant = getattr(model.observation_spec, name), getattr(base.observation_spec, name)
        if got != meant:
            raise ConfigError(f"the data's frames have {name} {got} and the base's {meant}; `lewm convert --size-px` makes frames of its size")
    got, meant = len(model.observation_spec.proprioception), len(base.observation_spec.proprioception)
    if got != meant:
        raise ConfigError(f"the data has {got} numbers of proprioception and the base {meant}; its weights do not fit")


def _action_form(model: WorldModel) -> tuple[Any, ...]:
    return model.action_spec.kind, model.action_spec.dimension, model.action_block


def _warn(checkpoint: Checkpoint, model: WorldModel, *, is_fresh: bool, is_refitted: bool) -> None:
    """Say what is not taken over, or is but may not fit."""
    base = checkpoint.model
    if is_fresh:
        got, meant = (f"{_words(each)} in blocks of {each.action_block}" for each in (model, base))
        logger.warning("the base has %s and the data %s: the action encoder starts anew", meant, got)
    elif not is_refitted and _is_far(base, model):
        logger.warning(
            "the data's actions have mean %s and std %s, the base's %s and %s, which are kept; train.refit_action_statistics takes the data's",
            *(_rounded(values) for each in (model, base) for values in each.action_statistics()),
        )
    offsets = [each.observation_spec.stack_offsets_env_steps for each in (base, model)]
    if offsets[0] != offsets[1]:
        logger.warning("the base stacks the frames of env steps %s and this run those of %s, as many, so its weights are taken over", *offsets)
    if checkpoint.heads:
        logger.warning("the base's %s is not taken over: latents change, train it again with --stage", ", ".join(checkpoint.heads))


def _is_far(base: WorldModel, model: WorldModel) -> bool:
    ratios = model.action_std / base.action_std
    shifts = (model.action_mean - base.action_mean).abs() / base.action_std
    return bool(((ratios > LARGEST_RATIO) | (ratios < 1 / LARGEST_RATIO) | (shifts > 1)).any())


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]


def _episode_seeds(provenance: dict[str, Any]) -> list[int]:
    """Seeds of every episode that the weights were trained on, by the base or by what it started from itself."""
    return sorted({*provenance.get("episode_seeds", []), *provenance.get("base", {}).get("episode_seeds", [])})


def _words(model: WorldModel) -> str:
    return f"{model.action_spec.kind} actions of {model.action_spec.dimension}"
