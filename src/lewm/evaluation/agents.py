"""The agent of a checkpoint: its model, the planner's settings, and the heads that those need."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lewm.checkpoint import Checkpoint
from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.evaluation.label_goals import matching_store
from lewm.evaluation.retrieval import Retrieval
from lewm.evaluation.run_latents import run_latents, training_episodes
from lewm.planning.base import LinearReadout
from lewm.planning.direct import policy_of
from lewm.planning.mpc import MPCPolicy
from lewm.planning.proposing import RETRIEVAL, Actor, needed_heads
from lewm.registry import HEADS


def agent_of(checkpoint: Checkpoint, planner: PlannerConfig, readout: LinearReadout | None = None, data: Path | str | None = None) -> MPCPolicy:
    """An agent for goals given as observations. ``data`` (the training set) is needed where actions are retrieved from it.

    ``ConfigError`` says how to train a head that the settings need and the checkpoint does not have.
    """
    heads: dict[str, Any] = dict(checkpoint.head_networks)
    for name in needed_heads(planner):
        if name == RETRIEVAL:
            heads[name] = retrieval_of(checkpoint, data)
        elif name in HEADS:
            heads[name] = head_of(checkpoint, name)
    return policy_of(checkpoint.model, planner, readout, heads=heads)


def head_of(checkpoint: Checkpoint, name: str) -> nn.Module:
    """``ConfigError`` that says how to train it if the checkpoint has no such head."""
    if name not in checkpoint.heads:
        raise ConfigError(
            f"checkpoint {str(checkpoint.path)!r} has no {name}: `lewm train --from {checkpoint.path} --stage {name} --data DIR --out RUN` trains one"
        )
    return checkpoint.heads[name].network


def retrieval_of(checkpoint: Checkpoint, data: Path | str | None) -> Actor:
    """Retrieval of actions from the training episodes of a dataset, whose latents are computed now if the run does not have them yet."""
    if data is None:
        raise ConfigError("planner.proposals 'retrieval' takes its actions from the training episodes: give --data DIR (the training set)")
    store = matching_store(checkpoint, data)
    device = next(checkpoint.model.parameters()).device
    cache = run_latents(checkpoint, store, device=str(device))
    return Retrieval(cache, training_episodes(checkpoint, store), action_block=checkpoint.model.action_block, device=torch.device(device))
