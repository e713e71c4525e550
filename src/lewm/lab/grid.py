"""What the lab runs: objectives, worlds, seeds, and the settings that each objective may be tuned over."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.envs.stress import STRESSES
from lewm.errors import ConfigError
from lewm.registry import OBJECTIVES, did_you_mean
from lewm.setting_checks import Device

SEVEN = ("none", "stopgrad", "ema", "vicreg", "pldm", "reconstruct", "lewm")
"""Run everywhere by default."""
TUNING_SEED = 1000
"""Of the runs that settings are chosen by: none of those that are reported."""
NUM_LOOKS = 10
"""Of the collapse monitor per run: the first is at a tenth of training."""


@dataclass(frozen=True, kw_only=True)
class LabWorld:
    """A world, its data, and how long a cell trains there."""

    collection: str
    """Preset of its data."""
    nuisance: str | None = None
    """Kind of nuisance that is drawn over it, of ``lewm.envs.stress``."""
    num_episodes: int
    preset: str
    """Of the networks and the planner."""
    num_steps: int
    """At most 75 s of training for ``lewm`` on one thread of the machine that docs/lab.md names."""
    distance_env_steps: int = 25


WORLDS: dict[str, LabWorld] = {
    "two-room": LabWorld(collection="two-room-laptop", num_episodes=600, preset="laptop", num_steps=700),
    "dmc/reacher-easy": LabWorld(collection="reacher-laptop", num_episodes=400, preset="dmc", num_steps=700),
    "atari/pong": LabWorld(collection="pong-laptop", num_episodes=40, preset="atari", num_steps=240),
}
TUNED_WORLD = "two-room"
STRESSED_WORLDS: dict[str, LabWorld] = {f"{TUNED_WORLD}/{kind}": replace(WORLDS[TUNED_WORLD], nuisance=kind) for kind in STRESSES}
"""The same below a nuisance: run where they are asked for."""

TRIALS: dict[str, dict[str, Sequence[float]]] = {
    "lewm": {"weight": (0.03, 0.1, 0.3, 1.0), "learning_rate": (5e-4, 1e-3)},
    "vicreg": {"variance_weight": (1.0, 4.0), "covariance_weight": (0.04, 1.0), "learning_rate": (5e-4, 1e-3)},
    "pldm": {"variance_weight": (4.0, 18.0), "covariance_weight": (4.0, 12.0), "recovery_weight": (0.0, 1.0)},
    "ema": {"target_decay": (0.9, 0.99, 0.996, 0.999), "learning_rate": (5e-4, 1e-3)},
    "reconstruct": {"reconstruction_weight": (1.0, 3.0, 10.0, 30.0), "learning_rate": (5e-4, 1e-3)},
    "inverse": {"recovery_weight": (0.1, 0.3, 1.0, 3.0), "learning_rate": (5e-4, 1e-3)},
    "contrastive": {"temperature": (0.03, 0.1, 0.3, 1.0), "learning_rate": (5e-4, 1e-3)},
    "reward": {"reward_weight": (0.3, 3.0), "value_weight": (0.03, 0.3), "learning_rate": (5e-4, 1e-3)},
    "sigreg-subspace": {"weight": (0.1, 0.3), "num_subspaces": (2, 4), "learning_rate": (5e-4, 1e-3)},
    "sigreg-aniso": {"weight": (0.03, 0.1, 0.3, 1.0), "learning_rate": (5e-4, 1e-3)},
}
"""Eight settings for each objective; those without a weight of their own have eight learning rates."""
OF_TRAINING = ("learning_rate", "batch_size")
"""Settings that are not the objective's own."""
LEARNING_RATES = (1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3)
Settings = dict[str, float]


@dataclass(frozen=True, order=True)
class Cell:
    """One run of the lab."""

    objective: str
    world: str
    seed: int
    trial: int = -1
    """Which of the objective's settings, of the eight that are tried or of the sweep; -1: the one that was chosen, or the objective's own."""
    is_sweep: bool = False
    """Whether the settings are those of the sweep."""

    @property
    def is_tuning(self) -> bool:
        """Whether this is one of the trials that settings are chosen by."""
        return self.trial >= 0 and not self.is_sweep

    @property
    def pair_seed(self) -> int:
        """Of the start/goal pairs that it is tried on: settings are chosen on other pairs than those that are reported."""
        return TUNING_SEED if self.is_tuning else 0

    @property
    def key(self) -> str:
        """Names the cell's directory."""
        words = [self.objective, self.world.replace("/", "_"), f"seed{self.seed}"]
        return "--".join(words + ([f"{'sweep' if self.is_sweep else 'trial'}{self.trial}"] if self.trial >= 0 else []))


def grid(objectives: Sequence[str], worlds: Sequence[str], num_seeds: int) -> list[Cell]:
    """Every cell, world by world, so that a lab that is stopped has whole worlds; ``UnknownNameError`` or ``ConfigError`` for what is not known."""
    for objective in objectives:
        OBJECTIVES.entry(objective)
    for world in worlds:
        lab_world(world)
    if num_seeds < 1:
        raise ConfigError(f"num_seeds must be at least 1, got {num_seeds}")
    return [Cell(objective, world, seed) for world in worlds for seed in range(num_seeds) for objective in objectives]


def lab_world(name: str) -> LabWorld:
    """A world of the lab, below a nuisance or not; ``ConfigError`` with a suggestion for another."""
    known = WORLDS | STRESSED_WORLDS
    if name not in known:
        raise ConfigError(f"the lab has no world {name!r}.{did_you_mean(name, known)}")
    return known[name]


def tuning_cells(objectives: Sequence[str]) -> list[Cell]:
    """The eight trials of every objective, on a seed of two-room that nothing else uses."""
    return [Cell(objective, TUNED_WORLD, TUNING_SEED, trial) for objective in objectives for trial in range(len(trials_of(objective)))]


def trials_of(objective: str) -> list[Settings]:
    """The settings that an objective is tuned over."""
    axes = TRIALS.get(objective, {"learning_rate": LEARNING_RATES})
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def config_of(cell: Cell, settings: Settings, *, step_share: float = 1.0, device: Device = "cpu") -> Config:
    """The configuration of a cell: the world's preset, the objective with its settings, the seed, ten looks of the monitor.

    A preset's ``inverse_weight`` is left out: objectives are compared without a helper that only one of them may have.
    """
    world = lab_world(cell.world)
    base = load_preset(world.preset)
    own = {name: value for name, value in settings.items() if name not in OF_TRAINING}
    if "num_subspaces" in own:
        own["num_subspaces"] = int(own["num_subspaces"])
    kept: dict[str, Any] = {"num_directions": base.objective.num_directions, "num_knots": base.objective.num_knots, "weight": base.objective.weight}
    config = from_dict({"objective": {"name": cell.objective, "inverse_weight": 0.0} | kept | own}, base)
    num_steps = max(NUM_LOOKS, round(world.num_steps * step_share))
    train = replace(
        config.train,
        num_steps=num_steps,
        seed=cell.seed,
        learning_rate=settings.get("learning_rate", config.train.learning_rate),
        batch_size=int(settings.get("batch_size", config.train.batch_size)),
        monitor_every_steps=max(1, num_steps // NUM_LOOKS),
        checkpoint_every_steps=num_steps,
        num_threads=1,
        device=device,
    )
    return replace(config, train=train)
