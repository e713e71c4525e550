"""Training that starts from another run's weights, and parts that it leaves as they are.

A model of the same architecture takes over encoder, projectors and predictor; the action encoder too where actions have the same form, with the
statistics that it was trained with. Frozen parts get no gradient and stay in evaluation mode, so their BatchNorm keeps its running statistics.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import Config
from lewm.config_files import to_dict
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective

logger = logging.getLogger(__name__)
ENCODER_PARTS = ("encoder", "proprioception", "projector")
PREDICTOR_PARTS = ("predictor", "prediction_projector", "action_encoder")
FROZEN_PARTS = {"encoder": ENCODER_PARTS, "predictor": PREDICTOR_PARTS}
ACTION_TENSORS = ("action_encoder.", "action_mean", "action_std")


def take_over(model: WorldModel, config: Config, base: Path | str) -> dict[str, Any]:
    """Fill a new model with the weights of a run or checkpoint; what was done, for provenance.

    ``ConfigError`` names the first setting of the architecture, or property of the frames, in which the two differ. Actions may differ: then the
    action encoder is a new one, as a warning says, and keeps the new data's statistics.
    """
    checkpoint = load_checkpoint(base)
    _check_architecture(checkpoint, config)
    _check_frames(checkpoint.model, model)
    is_same_action = _action_form(checkpoint.model) == _action_form(model)
    kept = {name: tensor for name, tensor in checkpoint.model.state_dict().items() if is_same_action or not name.startswith(ACTION_TENSORS)}
    model.load_state_dict(kept, strict=False)
    fresh = [] if is_same_action else ["action_encoder"]
    if not is_same_action:
        logger.warning(
            "the base has %s in blocks of %d and the data %s in blocks of %d: the action encoder starts anew",
            _words(checkpoint.model),
            checkpoint.model.action_block,
            _words(model),
            model.action_block,
        )
    if "action_encoder" in fresh and config.train.freeze == "predictor":
        raise ConfigError("--freeze predictor would freeze an action encoder that starts anew, for the actions are others; leave --freeze out")
    return {
        "checkpoint_sha256": checkpoint.sha256,
        "step": checkpoint.step,
        "env": checkpoint.env.get("name"),
        "fresh": fresh,
        "frozen": config.train.freeze,
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


def _words(model: WorldModel) -> str:
    return f"{model.action_spec.kind} actions of {model.action_spec.dimension}"
