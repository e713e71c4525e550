"""The agent of a checkpoint: its model, the planner's settings, and the heads that those need."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lewm.checkpoint import Checkpoint
from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.evaluation.landmark_maps import map_of
from lewm.evaluation.retrieval import Retrieval
from lewm.evaluation.run_latents import run_latents, training_episodes, training_set
from lewm.planner_config import LANDMARKS
from lewm.planning.base import LinearReadout
from lewm.planning.direct import policy_of
from lewm.planning.landmarks import LandmarkPolicy, landmark_policy_of
from lewm.planning.mpc import MPCPolicy
from lewm.planning.proposing import RETRIEVAL, Actor, named_distance, needed_heads
from lewm.registry import HEADS


def agent_of(checkpoint: Checkpoint, planner: PlannerConfig, readout: LinearReadout | None = None, data: Path | str | None = None) -> MPCPolicy:
    """An agent for goals given as observations. ``data`` (the training set) is needed where actions are retrieved or a map is made from it.

    ``ConfigError`` says how to train a head that the settings need and the checkpoint does not have.
    """
    heads: dict[str, Any] = dict(checkpoint.head_networks)
    for name in needed_heads(planner):
        if name == RETRIEVAL:
            heads[name] = retrieval_of(checkpoint, data)
        elif name in HEADS:
            heads[name] = head_of(checkpoint, name)
    if planner.name == LANDMARKS:
        return landmark_agent_of(checkpoint, planner, readout, data, heads=heads)
    return policy_of(checkpoint.model, planner, readout, heads=heads)


def landmark_agent_of(
    checkpoint: Checkpoint, planner: PlannerConfig, readout: LinearReadout | None, data: Path | str | None, *, heads: Mapping[str, Any]
) -> LandmarkPolicy:
    """An agent with a map of its training episodes, which is made now if the run does not have it yet."""
    name = planner.landmark_distance
    landmarks = map_of(checkpoint, planner, data, named_distance(name, heads) if name else None)
    return landmark_policy_of(checkpoint.model, planner, readout, landmarks=landmarks, heads=heads)


def head_of(checkpoint: Checkpoint, name: str) -> nn.Module:
    """``ConfigError`` that says how to train it if the checkpoint has no such head."""
    if name not in checkpoint.heads:
        raise ConfigError(
            f"checkpoint {str(checkpoint.path)!r} has no {name}: `lewm train --from {checkpoint.path} --stage {name} --data DIR --out RUN` trains one"
        )
    return checkpoint.heads[name].network


def retrieval_of(checkpoint: Checkpoint, data: Path | str | None) -> Actor:
    """Retrieval of actions from the run's training episodes, whose latents are computed now if the run does not have them yet."""
    store = training_set(checkpoint, data, "planner.proposals 'retrieval' takes its actions out")
    if store.action_spec.kind == "none":
        raise ConfigError(f"planner.proposals 'retrieval' takes its actions from the data, and dataset {str(data)!r} has none")
    device = next(checkpoint.model.parameters()).device
    cache = run_latents(checkpoint, store, device=str(device))
    return Retrieval(cache, training_episodes(checkpoint, store), action_block=checkpoint.model.action_block, device=torch.device(device))
