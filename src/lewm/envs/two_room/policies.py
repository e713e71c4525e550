"""Scripted experts of two-room: the paper's noisy one, which collects data, and a noiseless one, which is a ceiling.

Axes: E episode, N env step, a action. Row e depends on its own seed and its own world only. Lengths in px of the 224 x 224 arena.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch
from lewm.envs.option_checks import check_truth
from lewm.envs.policies import check_env_step, check_number_option, check_reset
from lewm.envs.two_room.batch import TwoRoomBatch
from lewm.envs.two_room.layout import SPEED_PX, WALL_X_PX
from lewm.envs.two_room.physics import LegalSpace, room_positions
from lewm.errors import EnvError

NOISE_STREAM, REPEAT_STREAM, TARGET_STREAM = 2, 3, 4
"""Keep an episode's noise, repeats and targets apart from each other and from what the environment draws from the same seed."""
ARRIVAL_PX = 16.0
DOOR_REACHED_PX = 10.5
CORNER_CLEARANCE_PX = 0.05
"""How far inside the doorway the noiseless expert aims, so that rounding an action to float32 does not leave it at the wall's edge."""


class ExpertPolicy:
    """The paper's data policy: a unit step towards the target, by the centre of the door if it is in the other room, plus noise.

    Gaussian noise of std ``action_noise`` is added to each component, the sum clipped to [-1, 1], and with ``repeat_probability`` replaced by the
    previous action. With ``retarget`` the policy has targets of its own, a new one on each arrival (nearer than 16 px), half of them in the other
    room; without, the target is the environment's goal.
    """

    def __init__(self, *, action_noise: float = 2.0, repeat_probability: float = 0.05, retarget: bool = True) -> None:
        check_number_option("action_noise", action_noise, lambda value: value >= 0, "at least 0")
        check_number_option("repeat_probability", repeat_probability, lambda value: 0 <= value < 1, "in [0, 1)")
        check_truth("retarget", retarget)
        self.action_noise = action_noise
        self.repeat_probability = repeat_probability
        self.retarget = retarget
        self._generators: list[np.random.Generator] = []
        self._env_step = self._max_env_steps = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: draw their noise, and their first targets if they are the policy's own."""
        batch = _two_room(envs)
        check_reset(envs, seeds, max_env_steps)
        self._env_step, self._max_env_steps = 0, max_env_steps
        # One stream each for noise and repeats: a longer limit continues an episode's draws and changes none of them.
        self._noise = self.action_noise * np.stack(
            [np.random.default_rng([seed, NOISE_STREAM]).standard_normal((max_env_steps, 2)) for seed in seeds]
        )
        self._is_repeat = np.stack([np.random.default_rng([seed, REPEAT_STREAM]).random(max_env_steps) for seed in seeds]) < self.repeat_probability
        self._previous = np.zeros((envs.num_envs, 2), np.float32)
        self._generators = [np.random.default_rng([seed, TARGET_STREAM]) for seed in seeds]
        self._targets = batch.goal_positions_px
        if self.retarget:
            self._draw_targets(batch.moments, np.arange(envs.num_envs))

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2]: the actions of the next env step."""
        batch = _two_room(envs)
        check_env_step(self._env_step, self._max_env_steps)
        moments = batch.moments
        if self.retarget:
            self._draw_targets(moments, np.flatnonzero(_length(self._targets - moments["position_px"]) < ARRIVAL_PX))
        else:
            self._targets = batch.goal_positions_px
        actions = np.clip(self._direction(moments) + self._noise[:, self._env_step], -1.0, 1.0).astype(np.float32)
        if self._env_step > 0:
            actions = np.where(self._is_repeat[:, self._env_step, None], self._previous, actions)
        self._previous = actions
        self._env_step += 1
        return actions.copy()

    @property
    def targets_px(self) -> np.ndarray:
        """float64 [E, 2]: where the agents are headed."""
        return self._targets.copy()

    def _draw_targets(self, moments: np.ndarray, episodes: np.ndarray) -> None:
        for episode in episodes:
            moment, generator = moments[episode : episode + 1], self._generators[episode]
            position = moment["position_px"][0]
            while True:
                is_right = (position[0] >= WALL_X_PX) ^ (generator.random(1) < 0.5)
                target = room_positions(moment, is_right, generator.random((1, 2)))[0]
                if np.hypot(*(target - position)) >= ARRIVAL_PX:
                    break
            self._targets[episode] = target

    def _direction(self, moments: np.ndarray) -> np.ndarray:
        """float64 [E, 2]: the action before noise, a unit vector."""
        position = moments["position_px"]
        door = np.stack([np.full(len(moments), WALL_X_PX), moments["door_y_px"]], -1)
        is_crossing = (position[:, 0] >= WALL_X_PX) != (self._targets[:, 0] >= WALL_X_PX)
        # An agent this near to the door's centre is inside the doorway, which leads it through: it cannot slide off along the wall and come back.
        door_reached = np.minimum(DOOR_REACHED_PX, WALL_X_PX - LegalSpace.of(moments).wall_low)
        goes_to_door = is_crossing & (_length(door - position) > door_reached)
        way = np.where(goes_to_door[:, None], door, self._targets) - position
        return np.asarray(way / np.maximum(_length(way), 1e-8)[:, None])


class NoiselessExpertPolicy(ExpertPolicy):
    """The shortest legal path to exactly the environment's goal, as fast as the action bounds allow: what can be reached at all."""

    def __init__(self, *, retarget: bool = False) -> None:
        super().__init__(action_noise=0.0, repeat_probability=0.0, retarget=retarget)

    def _direction(self, moments: np.ndarray) -> np.ndarray:
        way = shortest_path_waypoint(moments, self._targets) - moments["position_px"]
        displacement = way / SPEED_PX
        return np.asarray(displacement / np.maximum(np.abs(displacement).max(-1, keepdims=True), 1.0))


def shortest_path_waypoint(moments: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [E, 2]: where the shortest legal path from each agent to its target [E, 2] first turns: a corner of the doorway, or the target.

    The path is the taut string through the doorway, whose two ends narrow the slopes at which the agent sees the other room.
    """
    space = LegalSpace.of(moments)
    x, y = moments["position_px"].T
    way = np.where(targets[:, 0] >= x, 1.0, -1.0)  # mirrored where needed, so that the target lies to the right
    entry = np.where(way > 0, space.wall_low, -space.wall_high)
    leave = np.where(way > 0, space.wall_high, -space.wall_low)
    mirrored_x, mirrored_target_x = way * x, way * targets[:, 0]
    is_in_door_rows = (y >= space.door_low) & (y <= space.door_high)
    is_before_entry = (mirrored_x < entry + CORNER_CLEARANCE_PX) & ~((mirrored_x > entry - CORNER_CLEARANCE_PX) & is_in_door_rows)
    is_before_exit = mirrored_x < leave - CORNER_CLEARANCE_PX
    low, high = space.door_low + CORNER_CLEARANCE_PX, space.door_high - CORNER_CLEARANCE_PX
    lowest, highest = np.full(len(x), -np.inf), np.full(len(x), np.inf)
    corner_low, corner_high = targets.copy(), targets.copy()
    waypoint, is_decided = targets.copy(), np.zeros(len(x), bool)
    for edge, is_ahead in ((entry, is_before_entry & (mirrored_target_x > entry)), (leave, is_before_exit & (mirrored_target_x > leave))):
        ahead = np.maximum(edge - mirrored_x, 1e-9)
        first, last = (low - y) / ahead, (high - y) / ahead  # slopes at which this end of the doorway is seen
        ends = way * edge
        for is_outside, corner in ((is_ahead & (last < lowest), corner_low), (is_ahead & (first > highest), corner_high)):
            waypoint = np.where((is_outside & ~is_decided)[:, None], corner, waypoint)
            is_decided |= is_outside
        corner_low = np.where((is_ahead & (first > lowest))[:, None], np.stack([ends, low], -1), corner_low)
        corner_high = np.where((is_ahead & (last < highest))[:, None], np.stack([ends, high], -1), corner_high)
        lowest, highest = np.where(is_ahead, np.maximum(lowest, first), lowest), np.where(is_ahead, np.minimum(highest, last), highest)
    slope = (targets[:, 1] - y) / np.maximum(mirrored_target_x - mirrored_x, 1e-9)
    waypoint = np.where((~is_decided & (slope < lowest))[:, None], corner_low, waypoint)
    return np.where((~is_decided & (slope > highest))[:, None], corner_high, waypoint)


def _length(vectors: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.hypot(vectors[:, 0], vectors[:, 1])
    return length


def _two_room(envs: GoalEnvBatch) -> TwoRoomBatch:
    if not isinstance(envs, TwoRoomBatch):
        raise EnvError(f"the two-room experts need a TwoRoomBatch, got {type(envs).__name__}; use the policy 'random' elsewhere")
    return envs
