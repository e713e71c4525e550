"""Costs that cross: our world model as a cost model of stable-worldmodel, and a cost model of theirs as our ``Cost``.

Axes: E episode, S candidate, H context, T model step, A action block, a env action, D latent, V view, Y X image.
Their solvers search z-scored actions and know no bounds; our planners search env units.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lewm.errors import PlanningError
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.planning.costs import LatentGoalCost
from lewm.schema import Observation


class SwmCostModel(Protocol):
    """What stable-worldmodel's solvers ask of a cost: ``get_cost(info_dict, action_candidates) -> [E, S]``."""

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """How bad each candidate is: lower is better."""


class ActionScaler:
    """Between env units and z-scores per raw action dimension: what stable-worldmodel calls a ``process`` (and scikit-learn a scaler)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise PlanningError(f"a scaler needs a mean and a positive standard deviation per action dimension, got {tuple(mean)} and {tuple(std)}")
        self.mean, self.std = tuple(mean), tuple(std)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Env units -> z-scores, [..., a]."""
        scores: np.ndarray = ((x - np.array(self.mean)) / np.array(self.std)).astype(np.float32)
        return scores

    def inverse_transform(self, x: np.ndarray) -> np.ndarray:
        """Z-scores -> env units, [..., a]."""
        actions: np.ndarray = (x * np.array(self.std) + np.array(self.mean)).astype(np.float32)
        return actions

    def blocks_from_scores(self, scores: Float[Tensor, "*E A"]) -> Float[Tensor, "*E A"]:
        """Blocks of z-scores -> blocks in env units; differentiable."""
        return scores * self._per_block(self.std, scores) + self._per_block(self.mean, scores)

    def scores_from_blocks(self, blocks: Float[Tensor, "*E A"]) -> Float[Tensor, "*E A"]:
        """Blocks in env units -> blocks of z-scores; differentiable."""
        return (blocks - self._per_block(self.mean, blocks)) / self._per_block(self.std, blocks)

    def _per_block(self, values: tuple[float, ...], like: Tensor) -> Float[Tensor, " A"]:
        if like.shape[-1] % len(values):
            raise PlanningError(f"action blocks of {like.shape[-1]} numbers cannot consist of actions of {len(values)}; check action_block")
        return like.new_tensor(values).repeat(like.shape[-1] // len(values))


class CostForSwm(nn.Module):
    """Our world model as a cost model for stable-worldmodel's solvers.

    Give it to a solver, and ``process=cost.process`` to their ``WorldModelPolicy``: candidates then arrive as z-scores of this model's own training
    actions. Pixels and goals must arrive as uint8 (no ``transform``), because scaling and normalisation are inside our model. Their ``action_block``
    must be the model's. ``PlanningError`` for models of several views, proprioception or discrete actions.
    """

    def __init__(
        self, model: WorldModel, *, kind: Literal["last", "min", "sum"] = "last", mean_weight: float = 0.0, max_batch_rows: int = 16_384
    ) -> None:
        super().__init__()
        check_plain(model)
        self.model = model.eval()
        self.scaler = ActionScaler(*model.action_statistics())
        self._reduction: dict[str, Any] = {"kind": kind, "mean_weight": mean_weight, "max_batch_rows": max_batch_rows}

    @property
    def process(self) -> dict[str, ActionScaler]:
        """For ``WorldModelPolicy(process=...)``."""
        return {"action": self.scaler}

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """Cost of candidates in z-scores; ``info_dict`` has ``pixels`` [E, S, H, ...] and ``goal`` [E, S, ..., ...] as their solvers repeat them.

        With H > 1 context frames, ``action_history`` [E, S, H - 1, A] holds the blocks between them. Nothing is written into ``info_dict``.
        """
        pixels, goals = (uint8_frames(info_dict, name) for name in ("pixels", "goal"))
        with torch.no_grad():  # the same observation for all candidates: encoded once
            context, targets = self._encode(pixels), self._encode(goals[:, -1:])[:, 0]
        past = action_candidates.new_zeros(len(context), 0, action_candidates.shape[-1])
        if context.shape[1] > 1:
            if "action_history" not in info_dict:
                raise PlanningError(f"{context.shape[1]} context frames need the blocks between them as info['action_history']; use history_len=1")
            past = torch.as_tensor(info_dict["action_history"])[:, 0].to(action_candidates)
        cost = LatentGoalCost(self.model, context, self.scaler.blocks_from_scores(past), targets, **self._reduction)
        return cost(self.scaler.blocks_from_scores(action_candidates))

    def criterion(self, info_dict: dict[str, Any], action_candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """The same: their protocol has both names."""
        return self.get_cost(info_dict, action_candidates)

    def _encode(self, frames: UInt8[Tensor, "E H Y X 3"]) -> Float[Tensor, "E H D"]:
        device = next(self.model.parameters()).device
        return self.model.encode(Observation(frames[:, :, None].to(device)))  # one view


class CostFromSwm:
    """A cost model of stable-worldmodel as our ``Cost``, for any planner of ours: candidates in env units, their z-scores inside.

    ``info`` holds what their model reads, per episode and prepared as it was trained: ``pixels`` and ``goal`` [E, 1, 3, Y, X], ``action`` [E, 1, a].
    Their model is asked about ``episodes_per_call`` episodes at a time: one, as their solvers do by default, because the LeWM of version 0.1.1 cannot
    tell episodes from candidates. More are faster where the model can.
    """

    def __init__(self, model: SwmCostModel, info: Mapping[str, Tensor], scaler: ActionScaler, *, episodes_per_call: int = 1) -> None:
        self.model, self.info, self.scaler, self.episodes_per_call = model, dict(info), scaler, episodes_per_call

    def __call__(self, candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """The cost of each candidate."""
        chunks = [slice(first, first + self.episodes_per_call) for first in range(0, len(candidates), self.episodes_per_call)]
        return torch.cat([self._chunk(candidates[chunk], chunk) for chunk in chunks])

    def _chunk(self, candidates: Float[Tensor, "E S T A"], chunk: slice) -> Float[Tensor, "E S"]:
        num_candidates = candidates.shape[1]
        info = {  # a new one each time: their models keep latents in it, for one number of candidates
            name: value[chunk, None].expand(-1, num_candidates, *value.shape[1:]) for name, value in self.info.items()
        }
        cost = self.model.get_cost(info, self.scaler.scores_from_blocks(candidates))
        if cost.shape != candidates.shape[:2]:
            raise PlanningError(f"get_cost must return {list(candidates.shape[:2])} (episodes, candidates), got {list(cost.shape)}")
        return cost


def imagenet_pixels(frames: np.ndarray, size_px: int | None = None) -> Float[Tensor, "E 1 3 Y X"]:
    """Frames uint8 [E, 1, Y, X, 3] as stable-worldmodel's evaluation script prepares them: to [0, 1], ImageNet mean and std, then resized."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 1, 4, 2, 3).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (pixels - mean) / std
    if size_px is None or pixels.shape[-2:] == (size_px, size_px):
        return pixels
    return nn.functional.interpolate(pixels[:, 0], size=(size_px, size_px), mode="bilinear", antialias=True)[:, None]


def check_plain(model: WorldModel) -> None:
    """``PlanningError`` unless the model sees one frame and acts continuously: what stable-worldmodel's ``info`` dictionaries carry."""
    spec = model.observation_spec
    if spec.num_views != 1 or spec.proprioception:
        raise PlanningError(f"this works for models of one frame, this one sees {spec.num_views} views and proprioception {spec.proprioception}")
    if model.action_spec.kind != "continuous":
        raise PlanningError(f"this works for continuous actions, this model's are {model.action_spec.kind}")


def uint8_frames(info: Mapping[str, Any], name: str) -> UInt8[Tensor, "E H Y X 3"]:
    """The frames of the first candidate, which all candidates share: uint8 [E, S, H, Y, X, 3] or [E, S, H, 3, Y, X] in ``info``."""
    if name not in info:
        raise PlanningError(f"info has no {name!r}; it has {', '.join(sorted(info))}")
    frames = torch.as_tensor(info[name])
    if frames.dtype != torch.uint8 or frames.ndim != 6:
        raise PlanningError(
            f"info[{name!r}] must be uint8 frames [episodes, candidates, time, height, width, 3], got {frames.dtype} {list(frames.shape)};"
            " the model normalises by itself, so give their policy no transform"
        )
    first = frames[:, 0]
    return first if first.shape[-1] == 3 else first.permute(0, 1, 3, 4, 2)
