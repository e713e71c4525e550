"""Far goals: a route over a map of what was seen, symbolic, and below it any planner, which is given one landmark after another as its goal.

Axes: E episode, R episodes that decide now, M landmark, W landmark that could not be approached, D latent.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import LinearReadout
from lewm.planning.direct import DirectPolicy
from lewm.planning.landmark_map import NOWHERE, LandmarkMap, Ways
from lewm.planning.mpc import MPCPolicy, PolicyState

FAILURE_FACTOR = 4.0
"""Edges to landmarks that could not be approached take so many times longer for the rest of the episode; each further failure multiplies again."""
NUM_REMEMBERED = 64
"""W: such landmarks that an episode remembers; the oldest are forgotten."""
LEAST_PROGRESS_ENV_STEPS = 1.0
"""The way left must become so much shorter to count as progress."""


class Landmarks:
    """The entry of planner ``landmarks``, which is no search by itself: ``agent_of`` builds its agent around a map."""

    def __init__(self, config: PlannerConfig) -> None:
        raise PlanningError(
            f"planner {config.name!r} needs a map of the training data: give --data DIR (the training set); in Python, "
            "lewm.load_policy(RUN, planner=..., data=DIR)"
        )


@dataclass(frozen=True, kw_only=True)
class LandmarkState(PolicyState):
    """What the episodes in flight need besides: where they want to go next, and what they have learned of the map."""

    aims: Float[Tensor, "E D"]
    """What is planned for now: a landmark, or the goal."""
    way_env_steps: np.ndarray
    """float64 [E, M]: from every landmark to the goal, as far as the episode knows."""
    following: np.ndarray
    """int64 [E, M]: the next landmark on that way."""
    goal_landmark: np.ndarray
    """int64 [E]: the one that the goal belongs to."""
    least_env_steps: np.ndarray
    """float64 [E]: the shortest way that was left so far, on the ways in force."""
    patient_until: np.ndarray
    """int64 [E]: the env step by which it has to become shorter."""
    given_up: np.ndarray
    """int64 [E, W]: landmarks that could not be approached, newest last, once for each time; ``NOWHERE`` for none."""


class LandmarkPolicy(MPCPolicy):
    """The agent of planner ``landmarks``.

    Whenever it looks, it finds the landmark that the present latent belongs to, the shortest way from there to the goal's, and aims at the last
    landmark on it that is at most ``landmark_reach_env_steps`` away; at the goal itself if that is so near. Planner ``landmark_search`` then plans
    for this aim, shown as a goal is. If the way left has not become shorter within ``landmark_patience`` times the env steps to the aim, all edges to
    the landmarks up to the aim are re-weighted for the rest of the episode, and the way is found anew. Where no way is known the aim is the goal, and
    ``notes`` says how often.
    """

    def __init__(
        self,
        model: Any,
        config: PlannerConfig,
        readout: LinearReadout | None = None,
        *,
        landmarks: LandmarkMap,
        heads: Mapping[str, Any] | None = None,
    ) -> None:
        if readout is not None and config.goal != "latent":
            raise PlanningError(
                "planner 'landmarks' finds its way among latents, and goals are compared by labels here: set planner.goal to 'latent'"
            )
        super().__init__(model, config.switched(config.landmark_search), readout, heads=heads)
        self.landmarks = landmarks
        self.reach_env_steps, self.patience = config.landmark_reach_env_steps, config.landmark_patience
        self._without_way: set[int] = set()
        self._num_given_up = 0

    def notes(self) -> dict[str, Any]:
        """The map, and what happened on it since the agent was made; JSON-ready."""
        return {
            "landmarks": {
                "num_landmarks": len(self.landmarks.rows),
                "num_edges": len(self.landmarks.starts),
                "map_sha256": self.landmarks.sha256,
                "num_without_route": len(self._without_way),
                "num_given_up": self._num_given_up,
            }
        }

    @torch.no_grad()
    def reset_to(self, goals: Float[Tensor, "E D"], seeds: Sequence[int]) -> LandmarkState:
        """A state for new episodes whose goals are latents."""
        state, num = super().reset_to(goals, seeds), len(seeds)
        goal_landmark = self.landmarks.nearest_to_goals(goals)
        ways = {goal: self.landmarks.ways_to(goal) for goal in np.unique(goal_landmark).tolist()}
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        return LandmarkState(
            **fields,
            aims=state.goals.clone(),
            way_env_steps=np.stack([ways[goal].env_steps for goal in goal_landmark.tolist()]),
            following=np.stack([ways[goal].following for goal in goal_landmark.tolist()]),
            goal_landmark=goal_landmark,
            least_env_steps=np.full(num, np.inf),
            patient_until=np.zeros(num, dtype=np.int64),
            given_up=np.full((num, NUM_REMEMBERED), NOWHERE, dtype=np.int64),
        )

    def route(self, latent: Float[Tensor, "1 D"], goal: Float[Tensor, "1 D"]) -> tuple[list[int], Ways] | None:
        """The landmarks from a latent to a goal's, both ends' included, and the ways they are on; None where no way is known."""
        ways = self.landmarks.ways_to(int(self.landmarks.nearest_to_goals(goal)[0]))
        found = ways.route(int(self.landmarks.nearest(latent)[0]))
        return None if found is None else (found, ways)

    def first_aim(self, latent: Float[Tensor, "1 D"], goal: Float[Tensor, "1 D"]) -> Float[Tensor, "1 D"]:
        """What an episode that begins here plans for first."""
        found = self.route(latent, goal)
        aim = None if found is None else aim_on(found[0], found[1], self.reach_env_steps)
        return goal if aim is None else self.landmarks.goals[aim][None].to(goal)

    def _aims(self, state: PolicyState) -> Float[Tensor, "E D"]:
        assert isinstance(state, LandmarkState)
        return state.aims

    def _aim(self, state: PolicyState, rows: np.ndarray, latents: Float[Tensor, "R D"]) -> LandmarkState:
        """Choose the aims of some episodes, whose present latents are given."""
        assert isinstance(state, LandmarkState)
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(LandmarkState)}
        own = {field.name for field in dataclasses.fields(LandmarkState)} - {field.name for field in dataclasses.fields(PolicyState)}
        state = LandmarkState(**fields | {name: fields[name].clone() if name == "aims" else fields[name].copy() for name in own})
        for row, here in zip(rows.tolist(), self.landmarks.nearest(latents).tolist(), strict=True):
            state.aims[row] = self._aim_of(state, row, here)
        return state

    def _aim_of(self, state: LandmarkState, row: int, here: int) -> Float[Tensor, " D"]:
        """The aim of one episode at landmark ``here``. Changes the row's own arrays, which belong to a copy."""
        ways = Ways(env_steps=state.way_env_steps[row], following=state.following[row])
        route, now = ways.route(here), int(state.env_step[row])
        if route is None:
            self._without_way.add(int(state.seeds[row]))
            return state.goals[row]
        is_late = now > 0 and now >= state.patient_until[row] and len(route) > 1
        if is_late and ways.env_steps[here] > state.least_env_steps[row] - LEAST_PROGRESS_ENV_STEPS:
            ways = self._ways_besides(state, row, route, ways)
            route = ways.route(here)
            assert route is not None  # edges become longer, never impassable
        aim = aim_on(route, ways, self.reach_env_steps)
        left = float(ways.env_steps[here])
        if left <= state.least_env_steps[row] - LEAST_PROGRESS_ENV_STEPS or now == 0:
            expected = left if aim is None else left - float(ways.env_steps[aim])
            state.least_env_steps[row] = left
            state.patient_until[row] = now + round(self.patience * max(expected, self.space.action_block))
        return state.goals[row] if aim is None else self.landmarks.goals[aim].to(state.aims)

    def _ways_besides(self, state: LandmarkState, row: int, route: list[int], ways: Ways) -> Ways:
        """New ways for an episode that makes no progress: the landmarks from here to the aim become harder to come to, by whatever edge.

        A single edge would not do: the next one runs beside it.
        """
        aim = aim_on(route, ways, self.reach_env_steps)
        failed = route[1:] if aim is None else route[1 : route.index(aim) + 1]
        state.given_up[row] = np.concatenate([state.given_up[row], failed])[-NUM_REMEMBERED:]
        counts = np.bincount(state.given_up[row][state.given_up[row] != NOWHERE], minlength=len(self.landmarks.rows))
        new = self.landmarks.ways_to(int(state.goal_landmark[row]), FAILURE_FACTOR ** counts[self.landmarks.ends])
        state.way_env_steps[row], state.following[row], state.least_env_steps[row] = new.env_steps, new.following, np.inf
        self._num_given_up += 1
        return new


class DirectLandmarkPolicy(LandmarkPolicy, DirectPolicy):
    """The same above planner ``direct``: an actor is shown the landmark as its goal, and the aim is chosen at every look."""


def aim_on(route: list[int], ways: Ways, reach_env_steps: int) -> int | None:
    """The last landmark of a route that is within reach of its first, but not the first itself; None: the goal is within reach."""
    gone = ways.env_steps[route[0]] - ways.env_steps[route]
    if len(route) == 1 or gone[-1] <= reach_env_steps:
        return None
    return route[max(1, int(np.flatnonzero(gone <= reach_env_steps)[-1]))]


def landmark_policy_of(
    model: Any, config: PlannerConfig, readout: LinearReadout | None = None, *, landmarks: LandmarkMap, heads: Mapping[str, Any] | None = None
) -> LandmarkPolicy:
    """The agent that the settings describe, above the planner that they name."""
    agent = DirectLandmarkPolicy if config.landmark_search == "direct" else LandmarkPolicy
    return agent(model, config, readout, landmarks=landmarks, heads=heads)
