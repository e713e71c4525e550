"""One plan from one frame to a goal, and how far it can be trusted: what ``lewm plan`` prints.

Axes: n latent of the data, C clip, E episode (here: 1), T model step, N env step, A action block, a env action, D latent, s label, V view, Y X image.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.checkpoint import Checkpoint
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.errors import DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.probing import NUM_FIT_CLIPS, encode_clips, fit_probe
from lewm.planning.base import LinearReadout
from lewm.planning.frame_stacks import as_goals
from lewm.planning.mpc import MPCPolicy
from lewm.planning.terms import Distance
from lewm.registry import did_you_mean
from lewm.schema import Observation

FORMAT = 1
NUM_CLIPS, CLIPS_PER_BATCH = 256, 64
OUTSIDE_QUANTILE = 0.99
"""A goal is outside the data if its nearest latent is farther than that of this share of the data's own frames."""


@dataclass(frozen=True, kw_only=True)
class PlannedWay:
    """A plan and the latents that it is expected to lead to."""

    imagined: Float[Tensor, "1 T D"]
    result: dict[str, Any]
    """JSON-ready."""


@dataclass(frozen=True, kw_only=True)
class DataLatents:
    """Latents of training clips that are as long as a plan."""

    latents: Float[Tensor, "C T D"]
    """At model steps 0 to the horizon."""
    episodes: np.ndarray
    """int64 [C]."""
    still: Float[Tensor, "C T D"] | None = None
    """Latents of still stacks of the same frames; None where nothing is stacked."""

    @property
    def goals(self) -> Float[Tensor, "C T D"]:
        """The latents of the same frames when they are shown as goals, which are still."""
        return self.latents if self.still is None else self.still


@torch.no_grad()
def plan_way(policy: MPCPolicy, start: Observation[np.ndarray], goal: Float[Tensor, "1 G"], *, seed: int = 0) -> PlannedWay:
    """Plan from the observation ``start`` [1, V, Y, X, 3] to a goal latent or, for a policy with a readout, to label values in its unit."""
    begun_s = time.perf_counter()
    context = encoded(policy, start)[:, None]
    encoded_s = time.perf_counter()
    goal = goal.to(context)
    past = context.new_zeros(1, 0, policy.space.block_dimension)
    plan = policy.plan_from(context, past, goal, seeds=[(seed, 0)])
    planned_s = time.perf_counter()
    blocks = policy.space.executable(plan.blocks)
    imagined = policy.rollout(context, past, blocks[:, None])[:, 0]
    distances = policy.distance(torch.cat([context, imagined], dim=1), goal[:, None].expand(-1, imagined.shape[1] + 1, -1))[0].tolist()
    spec, block = policy.space.action_spec, policy.space.action_block
    actions = spec.from_blocks(blocks[0].float().cpu().numpy(), block)  # T block (a)
    result = {
        "evaluation": "plan",
        "format": FORMAT,
        "actions": actions.reshape(-1, *actions.shape[2:]).tolist(),
        "action_block": block,
        "distance_at_start": distances[0],
        "distances": distances[1:],
        "nearest_model_step": 1 + int(np.argmin(distances[1:])),
        "cost": float(plan.cost[0]),
        "num_iterations": plan.num_iterations,
        "encode_ms": round(1e3 * (encoded_s - begun_s), 3),
        "plan_ms": round(1e3 * (planned_s - encoded_s), 3),
        "seed": seed,
    }
    return PlannedWay(imagined=imagined, result=result)


def encoded(policy: MPCPolicy, observation: Observation[np.ndarray]) -> Float[Tensor, "E D"]:
    """Latents of observations, on the policy's device."""
    with torch.no_grad():
        return policy.model.encode(observation.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(policy.device)))


@torch.no_grad()
def data_latents(checkpoint: Checkpoint, store: Store, horizon_model_steps: int, *, num_clips: int = NUM_CLIPS, seed: int = 0) -> DataLatents:
    """Latents of some clips of the training episodes; ``DataError`` if none is as long as a plan."""
    model, train_ids = checkpoint.model, heldout_episodes(store, checkpoint.config)[0]
    sampler = ClipSampler(
        store,
        num_transitions=horizon_model_steps,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=train_ids,
        batch_size=CLIPS_PER_BATCH,
        seed=seed,
    )
    device, latents, still, episodes = next(model.parameters()).device, [], [], []

    def encode(observations: Observation[np.ndarray]) -> Tensor:
        return model.encode(observations.map(lambda array: torch.from_numpy(array).to(device)))

    for clip in sampler.fixed_chunks(seed, num_clips, CLIPS_PER_BATCH):
        latents.append(encode(clip.observations))
        if model.observation_spec.is_stacked:
            still.append(encode(as_goals(clip.observations, model.observation_spec)))
        episodes.append(clip.episode.copy())
    return DataLatents(latents=torch.cat(latents), episodes=np.concatenate(episodes), still=torch.cat(still) if still else None)


def trust(way: PlannedWay, data: DataLatents, distance: Distance, goal: Float[Tensor, "1 D"]) -> dict[str, Any]:
    """How the predicted end compares with the data: a simple confidence that is no probability, and whether the data hold the goal.

    ``confidence`` is the share of the data's frames one model step apart that are farther from each other than the plan's nearest latent is from the
    goal; ``model_steps_left`` is how many model steps apart frames with that distance typically are.
    """
    nearest = min(way.result["distances"])
    apart = distances_apart(data, distance)  # T-1 C
    medians = apart.median(1).values
    return {
        "median_distance_by_model_steps": medians.tolist(),
        "confidence": float((apart[0] > nearest).double().mean()),
        "model_steps_left": int((medians.cummax(0).values < nearest).sum()),
    } | outside(data, goal.to(data.latents))


def distances_apart(data: DataLatents, distance: Distance) -> Float[Tensor, "T-1 C"]:
    """How far the later latents of clips are from the first frames as goals, by how much later they are."""
    later = data.latents[:, 1:]
    return distance(later, data.goals[:, :1].expand_as(later)).T


def outside(data: DataLatents, goal: Float[Tensor, "1 D"]) -> dict[str, Any]:
    """How far a goal latent is from its nearest one in the data, beside how far the data's own frames, as goals, are from those of other episodes."""
    firsts = data.goals[:, 0]
    own = torch.cdist(firsts, data.goals.flatten(0, 1)).view(len(firsts), len(firsts), -1).amin(-1)  # clip to clip
    is_same = torch.from_numpy(data.episodes[:, None] == data.episodes[None]).to(own.device)
    if bool(is_same.all()):
        return {}  # one episode cannot say what is near
    own = own.masked_fill(is_same, torch.inf).amin(1)
    limit = float(own[own.isfinite()].quantile(OUTSIDE_QUANTILE))
    nearest = float(torch.cdist(goal, data.goals.flatten(0, 1)).amin())
    return {"goal_nearest_l2": nearest, "goal_nearest_l2_limit": limit, "is_goal_outside_data": nearest > limit}


def wanted_labels(checkpoint: Checkpoint, store: Store, wanted: dict[str, float]) -> tuple[LinearReadout, Float[Tensor, "1 s"]]:
    """A readout of the named labels alone, fitted on the training episodes, and their wanted values in its unit; all other labels are free.

    ``DataError`` for labels that the dataset does not have or that never vary in it.
    """
    unknown = [name for name in wanted if name not in store.label_names]
    if unknown:
        raise DataError(f"dataset {str(store.path)!r} has no label {unknown[0]!r}.{did_you_mean(unknown[0], store.label_names)}")
    train_ids, _ = heldout_episodes(store, checkpoint.config)
    clips = encode_clips([checkpoint.model.eval()], store, train_ids, num_clips=NUM_FIT_CLIPS // 4, num_transitions=1, seed=0)
    columns = [store.label_names.index(name) for name in wanted]
    latents, labels = clips.latents[0].reshape(-1, clips.latents[0].shape[-1]), clips.labels.reshape(-1, clips.labels.shape[-1])[:, columns]
    probe = fit_probe(latents, labels)
    if probe.is_constant.any():
        constant = [name for name, is_constant in zip(wanted, probe.is_constant, strict=True) if is_constant]
        raise DataError(f"{', '.join(constant)} never varied in dataset {str(store.path)!r}: it cannot be read off the latents; leave it out")
    weights = probe.weights / probe.latent_std[:, None]
    readout = LinearReadout(weights=torch.from_numpy(weights).float(), bias=torch.from_numpy(-probe.latent_mean @ weights).float())
    values = (np.array([*wanted.values()]) - probe.label_mean) / probe.label_std
    return readout, torch.from_numpy(values).float()[None]
