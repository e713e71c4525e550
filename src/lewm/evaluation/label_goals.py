"""Goals compared by labels: which labels decide success in a world, and the probe that reads them off a model's latents.

Axes: n sample, D latent, s label.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lewm.checkpoint import Checkpoint
from lewm.config import PlannerConfig
from lewm.data.formats.store import Store, open_store
from lewm.envs.base import GoalEnv, canonical_name, make_batch
from lewm.errors import ConfigError, DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.probing import NUM_FIT_CLIPS, encode_clips, fit_probe, score_labels
from lewm.planning.base import LinearReadout
from lewm.planning.proposing import uses_training_data
from lewm.registry import ENVS
from lewm.schema import ActionSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GoalComparison:
    """How a planner compares an imagined future with a goal: by whole latents, or by labels read off them."""

    kind: Literal["latent", "labels"]
    readout: LinearReadout | None = None
    """For ``labels``: reads them in standard deviations of the training frames."""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """For ``labels``: the labels, and what the probe was fitted on and how well; JSON-ready."""

    def describe(self, planner: PlannerConfig) -> dict[str, Any]:
        """The planner's settings as a result records them: with the comparison that was really used, and its probe under ``goal_probe``."""
        return dataclasses.asdict(planner) | {"goal": self.kind} | ({"goal_probe": self.about} if self.kind == "labels" else {})


def compare_goals(
    checkpoint: Checkpoint,
    planner: PlannerConfig,
    env: str | None,
    env_options: dict[str, Any],
    data: Path | str | None,
    *,
    remedy: str = "give --data DIR (the training set), or --planner.goal latent",
) -> GoalComparison:
    """What ``planner.goal`` means in a world; None where there is no world, so that only latents can be compared.

    For labels a probe is fitted on the training episodes of the dataset ``data``. ``ConfigError`` if there is none or no world to say which labels
    matter, ``DataError`` if the dataset is not there, does not fit the model or lacks the labels. ``remedy``: what to do where ``data`` is missing.
    """
    if data is not None and not Path(data).is_dir():
        raise DataError(f"there is no dataset at {str(data)!r}; goals that are compared by labels need the training set")
    if kind_of_comparison(planner, env) == "latent":
        if data is not None and not uses_training_data(planner):
            logger.warning("dataset %s is not used: goals are compared by whole latents (--planner.goal labels would use it)", data)
        return GoalComparison(kind="latent")
    if env is None:
        raise ConfigError(
            "planner.goal is 'labels', but this run was trained on data without a simulator, which would say which labels: use --planner.goal latent"
        )
    names = goal_labels(env, env_options)
    if data is None:
        raise ConfigError(f"goals of {env!r} are compared by the labels {', '.join(names)}, which a probe reads off the latents: {remedy}")
    store = matching_store(checkpoint, data)
    trained_on = checkpoint.provenance.get("dataset_sha256")
    if trained_on != store.dataset_sha256:
        logger.warning(
            "the probe for goals is fitted on dataset %s (%s), the run was trained on %s", data, store.dataset_sha256[:12], str(trained_on)[:12]
        )
    return fit_comparison(checkpoint, store, names)


def fit_comparison(checkpoint: Checkpoint, store: Store, names: tuple[str, ...], *, num_clips: int = NUM_FIT_CLIPS) -> GoalComparison:
    """A readout of the named labels, fitted on latents of the dataset's training episodes, both standardised.

    Every label counts the same, whatever its unit. ``DataError`` if the dataset has no such label, or if none of them ever varies.
    """
    missing = [name for name in names if name not in store.label_names]
    if missing:
        raise DataError(
            f"goals are compared by the labels {', '.join(names)}; dataset {str(store.path)!r} has no {', '.join(missing)}, "
            f"only {', '.join(store.label_names) or 'no labels'}"
        )
    columns = [store.label_names.index(name) for name in names]
    train_ids, _ = heldout_episodes(store, checkpoint.config)
    latents, labels = _encode(checkpoint, store, train_ids, columns, num_clips)
    probe = fit_probe(latents, labels)
    if probe.is_constant.all():
        raise DataError(f"{', '.join(names)} never varied in dataset {str(store.path)!r}: nothing can be read off the latents")
    weights = probe.weights / probe.latent_std[:, None]
    readout = LinearReadout(weights=_tensor(weights), bias=_tensor(-probe.latent_mean @ weights))
    scores = score_labels(probe, probe.read(latents), labels, names)
    about = {
        "labels": list(names),
        "num_frames": len(labels),
        "fit_r2": {name: score if isinstance(score, str) else round(score["r2"], 4) for name, score in scores.items()},
        "dataset_sha256": store.dataset_sha256,
    }
    return GoalComparison(kind="labels", readout=readout, about=about)


def _encode(checkpoint: Checkpoint, store: Store, episode_ids: np.ndarray, columns: list[int], num_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [n, D] and labels [n, s] of frames: where frames are stacked, of moving stacks and of still ones, for goals are shown still."""
    model = checkpoint.model.eval()
    parts = [
        encode_clips([model], store, episode_ids, num_clips=num_clips, num_transitions=1, seed=int(is_still), is_still=is_still)
        for is_still in ((False, True) if model.observation_spec.is_stacked else (False,))
    ]
    latents = np.concatenate([part.latents[0].reshape(-1, part.latents[0].shape[-1]) for part in parts])  # E T D -> n D
    labels = np.concatenate([part.labels.reshape(-1, part.labels.shape[-1])[:, columns] for part in parts])
    return latents, labels


def goal_labels(env: str, env_options: dict[str, Any]) -> tuple[str, ...]:
    """The labels that decide success in a world with these options; ``ConfigError`` if it names none."""
    envs = make_batch(env, 1, **env_options)
    try:
        names = tuple(envs.goal_label_names)
    finally:
        envs.close()
    if not names:
        raise ConfigError(f"{env!r} names no labels that decide success, so goals cannot be compared by them: use --planner.goal latent")
    return names


def matching_store(checkpoint: Checkpoint, data: Path | str) -> Store:
    """A dataset whose observations, world and actions are those that the run was trained on, as far as both are known; ``DataError`` otherwise."""
    store = open_store(data)
    expected = dataclasses.replace(checkpoint.model.observation_spec, stack_offsets_env_steps=(0,))
    if store.observation_spec != expected:
        raise DataError(f"the run was trained on {expected}, the dataset holds {store.observation_spec}; evaluate on data of the same kind")
    names = checkpoint.env.get("name"), store.env.get("name")
    if not is_same_env(*names):
        raise DataError(f"the run was trained in env {names[0]!r}, the dataset is of {names[1]!r}; evaluate on data of the same world")
    specs = checkpoint.model.action_spec, store.action_spec
    if not _are_same_actions(*specs, are_bounds_given=bool(names[0] and names[1])):
        raise DataError(f"the run was trained on {specs[0]}, the dataset holds {specs[1]}; evaluate on data with the same actions")
    return store


def _are_same_actions(one: ActionSpec, other: ActionSpec, *, are_bounds_given: bool) -> bool:
    """Whether two kinds of action agree; the bounds of recordings without a world are what was seen in them, so they do not count."""
    if "none" in (one.kind, other.kind):
        return True
    return one == other if are_bounds_given else (one.kind, one.dimension, one.action_repeat) == (other.kind, other.dimension, other.action_repeat)


def is_same_env(one: str | None, other: str | None) -> bool:
    """Whether two names, which may be spelled differently, mean one world; True where one of them is not known."""
    return not one or not other or one == other or canonical_name(one) == canonical_name(other)


def kind_of_comparison(planner: PlannerConfig, env: str | None) -> Literal["latent", "labels"]:
    """What is compared: as the settings say or, by default, as the world says."""
    if planner.goal != "default":
        return planner.goal
    if env is None:
        return "latent"
    env_class: type[GoalEnv] = ENVS.load(env)
    return env_class.GOAL_COST


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(values).float()
