"""A floor for everything that is learnt on latents: do what was done, in training, at the most similar moment that led to something like the goal.

Axes: E episode, n row, K neighbour, H env step ahead, D latent, A action block, a env action.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.data.latents import LatentCache

NUM_NEIGHBOURS = 32


class Retrieval:
    """Nearest neighbours in latent space: of the rows most like the present, the one whose episode comes nearest to the goal within the time.

    Latents are compared in standard deviations, a goal's with those of later frames as goals. All rows are in memory, on the device. The action block
    is the one that was taken there, the last action held where the episode ends.
    """

    def __init__(
        self,
        cache: LatentCache,
        episode_ids: np.ndarray,
        *,
        action_block: int,
        num_neighbours: int = NUM_NEIGHBOURS,
        device: torch.device | None = None,
    ) -> None:
        rows = cache.rows_of(episode_ids)
        lengths = cache.length[episode_ids] + 1
        latents = torch.from_numpy(cache.latents[rows].astype(np.float32)).to(device)
        std = latents.std(0, correction=0)
        self._std = torch.where(std > 0, std, torch.ones_like(std))
        self._latents = self._goals = latents / self._std
        if cache.still is not None:
            self._goals = torch.from_numpy(cache.still[rows].astype(np.float32)).to(device) / self._std
        self._actions = torch.from_numpy(np.ascontiguousarray(cache.actions[rows])).to(device)
        self._last = torch.from_numpy(np.repeat(np.cumsum(lengths) - 1, lengths)).to(device)
        self._is_last = self._last == torch.arange(len(rows), device=device)
        self.action_block, self.num_neighbours = action_block, min(num_neighbours, int((~self._is_last).sum()))

    def act(
        self, latents: Float[Tensor, "E D"], goals: Float[Tensor, "E D"], previous: Float[Tensor, "E A"], *, steps_to_goal: int
    ) -> Float[Tensor, "E A"]:
        """The block after the chosen row."""
        to_here = self._squared_distances(latents, self._latents).masked_fill(self._is_last, torch.inf)
        neighbours = to_here.topk(self.num_neighbours, dim=1, largest=False).indices  # E K
        ahead = torch.arange(1, steps_to_goal + 1, device=neighbours.device)
        future = torch.minimum(neighbours[..., None] + ahead, self._last[neighbours][..., None])  # E K H
        to_goal = self._squared_distances(goals, self._goals).gather(1, future.flatten(1)).view(future.shape).amin(-1)
        chosen = neighbours.gather(1, to_goal.argmin(1, keepdim=True))  # E 1
        taken = torch.minimum(chosen + torch.arange(self.action_block, device=chosen.device), self._last[chosen] - 1)
        return self._actions[taken].flatten(1).to(previous)

    def _squared_distances(self, latents: Float[Tensor, "E D"], scaled: Float[Tensor, "n D"]) -> Float[Tensor, "E n"]:
        # Without matrix products: with them a distance depends on how many are asked for at once.
        return torch.cdist(latents.to(scaled) / self._std, scaled, compute_mode="donot_use_mm_for_euclid_dist").square()
