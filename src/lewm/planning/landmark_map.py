"""A map of what was seen: landmarks are frames of the training data, edges the env steps that it took to come from one to the other.

Axes: n row (an observation, the episodes one after another), E episode or query, M landmark, F edge, D latent.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from lewm.errors import PlanningError
from lewm.planning.terms import Distance

NUM_REFINEMENTS = 10
"""Rounds of k-means."""
ROWS_PER_CHUNK = 4096
NOWHERE = -1
"""In place of a landmark, where none comes next."""


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Shortest ways from every landmark to one, the goal's."""

    env_steps: np.ndarray
    """float64 [M]: infinite where no way is known."""
    following: np.ndarray
    """int64 [M]: the next landmark on the way; ``NOWHERE`` at the goal's and where there is no way."""

    def route(self, start: int) -> list[int] | None:
        """The landmarks from one to the goal's, both included; None where no way is known."""
        if not np.isfinite(self.env_steps[start]):
            return None
        route = [start]
        while self.following[route[-1]] != NOWHERE:
            route.append(int(self.following[route[-1]]))
        return route


@dataclass(frozen=True, kw_only=True)
class LandmarkMap:
    """A directed graph of landmarks. A way may use edges of several episodes: they meet in the landmarks that they share."""

    latents: Float[Tensor, "M D"]
    """Every landmark is a frame that was seen; what else was seen belongs to the nearest."""
    std: Float[Tensor, " D"]
    """Latents are compared in these standard deviations."""
    rows: np.ndarray
    """int64 [M]: which rows of the data they are."""
    starts: np.ndarray
    """int64 [F]."""
    ends: np.ndarray
    """int64 [F]."""
    env_steps: np.ndarray
    """float64 [F]: how long each edge takes, above 0."""
    still: Float[Tensor, "M D"] | None = None
    """Latents of still stacks of the same frames; None where nothing is stacked."""

    @property
    def goals(self) -> Float[Tensor, "M D"]:
        """The landmarks' latents when they are shown as goals, which are still."""
        return self.latents if self.still is None else self.still

    def nearest(self, latents: Float[Tensor, "E D"]) -> np.ndarray:
        """int64 [E]: the landmarks that latents belong to, each by itself whoever else is asked for."""
        return self._nearest(latents, self.latents)

    def nearest_to_goals(self, goals: Float[Tensor, "E D"]) -> np.ndarray:
        """int64 [E]: the landmarks that goals belong to: those that look most like them when they are shown as goals."""
        return self._nearest(goals, self.goals)

    def _nearest(self, latents: Float[Tensor, "E D"], landmarks: Float[Tensor, "M D"]) -> np.ndarray:
        scaled = [values.double().cpu() / self.std.double() for values in (latents, landmarks)]
        return np.array([int((one - scaled[1]).square().sum(-1).argmin()) for one in scaled[0]], dtype=np.int64)

    def ways_to(self, goal: int, factors: np.ndarray | None = None) -> Ways:
        """Shortest ways to a landmark; ``factors`` [F] make edges longer than they are."""
        env_steps = self.env_steps if factors is None else self.env_steps * factors
        backwards = sparse.csr_array((env_steps, (self.ends, self.starts)), shape=(len(self.rows), len(self.rows)))
        found, following = csgraph.dijkstra(backwards, indices=goal, return_predecessors=True)
        return Ways(env_steps=found, following=np.where(following < 0, NOWHERE, following).astype(np.int64))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of everything in the map."""
        digest = hashlib.sha256()
        stills = [] if self.still is None else [self.still.cpu().numpy()]
        for array in (self.latents.cpu().numpy(), self.std.cpu().numpy(), self.rows, self.starts, self.ends, self.env_steps, *stills):
            digest.update(f"{array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def build_map(
    latents: Float[Tensor, "n D"],
    lengths: Sequence[int] | np.ndarray,
    *,
    num_landmarks: int,
    most_env_steps: int,
    seed: int,
    distance: Distance | None = None,
    still: Float[Tensor, "n D"] | None = None,
) -> LandmarkMap:
    """A map of episodes that have so many rows each; where frames are stacked, ``still`` are the latents of the same frames as goals.

    An edge joins two landmarks that one episode came by at most ``most_env_steps`` apart, and takes the median of the env steps that it took. The
    moment at which an episode comes by is that at which it is nearest to the landmark: two that touch are as far apart as their middles, not one
    env step. With a ``distance`` in env steps the edges are the pairs that it says are so near, whatever the episodes did. Landmarks that nobody
    leaves or comes to are left out.
    """
    if len(latents) < 2:
        raise PlanningError(f"a map needs at least two frames, got {len(latents)}")
    std = latents.std(0, correction=0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    rows = representatives(latents / std, min(num_landmarks, len(latents)), seed=seed)
    if distance is None:
        which, apart = assigned(latents / std, latents[rows] / std)
        starts, ends, env_steps = travelled(which.numpy(), apart.numpy(), np.asarray(lengths), most_env_steps=most_env_steps)
    else:
        goals = latents if still is None else still
        starts, ends, env_steps = measured(latents[rows], goals[rows], distance, most_env_steps=most_env_steps)
    kept, starts, ends, env_steps = _without_dead_ends(len(rows), starts, ends, env_steps)
    if len(kept) == 0:
        raise PlanningError(
            f"the {len(rows)} landmarks have no ways between them within {most_env_steps} env steps: make planner.landmark_edge_env_steps larger, or "
            "planner.num_landmarks smaller"
        )
    chosen = rows.numpy()[kept]
    kept_still = None if still is None else still[chosen]
    return LandmarkMap(latents=latents[chosen], std=std, rows=chosen, starts=starts, ends=ends, env_steps=env_steps, still=kept_still)


def representatives(scaled: Float[Tensor, "n D"], num: int, *, seed: int) -> Tensor:
    """int64 [M], sorted: the rows nearest to the centres of k-means, begun with ``num`` random rows; rows that are the same count once."""
    order = np.random.default_rng(seed).permutation(len(scaled))
    centres = scaled[torch.from_numpy(order[:num])]
    for _ in range(NUM_REFINEMENTS):
        which, _apart = assigned(scaled, centres)
        sums = torch.zeros_like(centres).index_add_(0, which, scaled)
        counts = torch.bincount(which, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    nearest = torch.cat([torch.cdist(centre[None], scaled).argmin(1) for centre in centres])  # one row at a time: all at once would be large
    return torch.from_numpy(np.unique(nearest.numpy()))


def assigned(points: Float[Tensor, "n D"], centres: Float[Tensor, "M D"]) -> tuple[Tensor, Tensor]:
    """For each point the nearest centre, int64 [n], and its squared distance [n]."""
    chunks = [torch.cdist(chunk, centres).square().min(1) for chunk in torch.split(points, ROWS_PER_CHUNK)]
    return torch.cat([chunk.indices for chunk in chunks]), torch.cat([chunk.values for chunk in chunks])


def visits(which: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The landmarks that an episode came by, one after another, and the env steps at which it was nearest to each; both int64."""
    cuts = np.flatnonzero(np.diff(which)) + 1
    begins, ends = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(which)]])
    moments = [begin + int(apart[begin:end].argmin()) for begin, end in zip(begins, ends, strict=True)]
    return which[begins], np.array(moments, dtype=np.int64)


def travelled(which: np.ndarray, apart: np.ndarray, lengths: np.ndarray, *, most_env_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges that episodes went along, in order of their ends: starts and ends int64 [F], and the median of the env steps float64 [F]."""
    num, found = int(which.max()) + 1, []
    for last, length in zip(np.cumsum(lengths), lengths, strict=True):
        rows = slice(last - length, last)
        visited, moments = visits(which[rows], apart[rows])
        for later in range(1, len(visited)):
            took = moments[later:] - moments[:-later]
            is_edge = (took <= most_env_steps) & (visited[later:] != visited[:-later])
            if took.min() > most_env_steps:
                break
            found.append(np.stack([visited[:-later][is_edge] * num + visited[later:][is_edge], took[is_edge]]))
    keys, took = np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.int64)
    order = np.lexsort((took, keys))
    edges, first, count = np.unique(keys[order], return_index=True, return_counts=True)
    middle = (took[order][first + (count - 1) // 2] + took[order][first + count // 2]) / 2 if len(edges) else np.zeros(0)
    return edges // num, edges % num, middle


def measured(
    latents: Float[Tensor, "M D"], goals: Float[Tensor, "M D"], distance: Distance, *, most_env_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges between all landmarks that ``distance`` says are near enough, as ``travelled`` returns them; none takes less than one env step.

    ``goals`` are the same landmarks when they are shown as goals.
    """
    with torch.no_grad():
        table = torch.stack([distance(one.expand_as(goals), goals) for one in latents]).double().cpu().numpy()
    np.fill_diagonal(table, np.inf)
    starts, ends = np.nonzero(table <= most_env_steps)
    return starts, ends, np.maximum(table[starts, ends], 1.0)


def _without_dead_ends(
    num: int, starts: np.ndarray, ends: np.ndarray, env_steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The landmarks that can be come to and left, int64, and the edges between them by their new numbers."""
    kept = np.ones(num, dtype=bool)
    while True:
        counted: Callable[[np.ndarray], np.ndarray] = functools.partial(np.bincount, minlength=num)
        still = kept & (counted(starts) > 0) & (counted(ends) > 0)
        inside = still[starts] & still[ends]
        starts, ends, env_steps = starts[inside], ends[inside], env_steps[inside]
        if (still == kept).all():
            numbers = np.cumsum(kept) - 1
            return np.flatnonzero(kept), numbers[starts], numbers[ends], env_steps
        kept = still
