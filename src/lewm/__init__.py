"""LeWorldModel that you can run, trust and ship.

Everything public is imported on first use, so that ``import lewm`` is quick and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lewm.errors import LewmError
from lewm.registry import register

if TYPE_CHECKING:
    from lewm.checkpoint import load_checkpoint
    from lewm.config import Config
    from lewm.config_files import load_config, load_preset
    from lewm.data.collect import collect
    from lewm.data.episodes import EpisodeStore
    from lewm.envs.base import make_batch, make_env
    from lewm.evaluation.workflow import evaluate, load_policy
    from lewm.models.world_model import WorldModel
    from lewm.objectives.sigreg import sigreg
    from lewm.planning.mpc import MPCPolicy
    from lewm.schema import Clip, Episode, Observation
    from lewm.training import train

_HOMES = {
    "Clip": "lewm.schema",
    "Config": "lewm.config",
    "Episode": "lewm.schema",
    "EpisodeStore": "lewm.data.episodes",
    "MPCPolicy": "lewm.planning.mpc",
    "Observation": "lewm.schema",
    "WorldModel": "lewm.models.world_model",
    "collect": "lewm.data.collect",
    "evaluate": "lewm.evaluation.workflow",
    "load_checkpoint": "lewm.checkpoint",
    "load_config": "lewm.config_files",
    "load_policy": "lewm.evaluation.workflow",
    "load_preset": "lewm.config_files",
    "make_batch": "lewm.envs.base",
    "make_env": "lewm.envs.base",
    "sigreg": "lewm.objectives.sigreg",
    "train": "lewm.training",
}

__all__ = [
    "Clip",
    "Config",
    "Episode",
    "EpisodeStore",
    "LewmError",
    "MPCPolicy",
    "Observation",
    "WorldModel",
    "collect",
    "evaluate",
    "load_checkpoint",
    "load_config",
    "load_policy",
    "load_preset",
    "make_batch",
    "make_env",
    "register",
    "sigreg",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lewm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
