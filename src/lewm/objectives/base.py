"""What is minimised, as a contract: an objective holds the world model and whatever else it trains."""

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import Config, ObjectiveConfig
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.sigreg import Reduce
from lewm.schema import Clip

AUXILIARY_WEIGHTS = ("rollout_weight", "straightening_weight")
"""Names in ``config.objective`` that are 0 unless asked for, and that only objectives which name them as tunable have."""
OPTIONAL_SETTINGS = tuple(field.name for field in dataclasses.fields(ObjectiveConfig) if field.default is None)


class Objective(nn.Module, ABC):
    """A loss over clips, with the networks that it trains.

    ``seed`` is the run's: what an objective draws at random is a function of (seed, step). ``reduce`` is given when several processes share a
    batch.
    """

    settings: ClassVar[dict[str, float]] = {}
    """Names in ``config.objective`` that may be left at None, with this objective's own values: others of them are refused."""
    clip_columns: ClassVar[tuple[str, ...]] = ("frames", "blocks")
    """What it needs of a ``Clip``: of frames, proprioception, blocks, rewards, labels."""
    tunable_weights: ClassVar[tuple[str, ...]] = ("weight",)
    """Names in ``config.objective`` that balance its terms."""
    checkpoint_networks: ClassVar[tuple[str, ...]] = ("world_model",)
    """Its networks that belong in a checkpoint."""
    trainer_networks: ClassVar[tuple[str, ...]] = ()
    """Its networks that only resuming needs, such as a target encoder."""

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__()
        self.run_config, self.config = config, config.objective
        refused = [name for name in OPTIONAL_SETTINGS if getattr(self.config, name) is not None and name not in self.settings]
        if refused:
            own = f"it has {', '.join(self.settings)}" if self.settings else "it has no such settings"
            raise ConfigError(f"objective {self.config.name!r} has no setting {refused[0]!r}: {own}; leave it out")
        unknown = [name for name in AUXILIARY_WEIGHTS if getattr(self.config, name) > 0 and name not in self.tunable_weights]
        if unknown:
            raise ConfigError(f"objective {self.config.name!r} has no {unknown[0]}: 'lewm' and its sigreg variants have; leave it at 0")
        self.world_model = world_model
        self.seed = seed
        self.reduce = reduce

    def setting(self, name: str) -> float:
        """A setting of the configuration or, where it is None, this objective's own."""
        given: float | None = getattr(self.config, name)
        return float(self.settings[name] if given is None else given)

    @abstractmethod
    def forward(self, clip: Clip[Tensor], step: int) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a clip at an optimiser step, and its terms by name, detached: what ``metrics.jsonl`` shows."""

    def after_step(self) -> None:
        """Called after each optimiser step: where a target network follows its teacher."""
