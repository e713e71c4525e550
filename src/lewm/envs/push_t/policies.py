"""A scripted policy of Push-T that keeps touching the block: most of what uniform actions record is a block that nobody moves.

Axes: E episode, a action, 2 (x, y). Row e depends on its own seed and its own world only. Lengths in px of the 512 x 512 table.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch
from lewm.envs.policies import check_env_step, check_number_option, check_reset, check_whole_option
from lewm.envs.push_t.batch import PushTBatch
from lewm.envs.push_t.geometry import OUTLINE_SCALES, block_centers, rotated
from lewm.envs.push_t.layout import TABLE_PX
from lewm.envs.push_t.navigation import actions_towards, waypoints
from lewm.errors import EnvError

CONTACT_STREAM = 5
"""Keeps the policy's numbers apart from those that the environment draws from the same seed."""
GAP_PX, ARRIVAL_PX = 4.0, 8.0
"""Between the pusher and the point that it makes for, and how near to it a push begins."""
PATIENCE_ENV_STEPS = 25
"""Of making for a point before another one is chosen."""
SLANT_RAD = np.pi / 4
"""Pushes deviate up to this much from the edge's normal."""
HEADROOM_PX, LOOKAHEAD_PX = 80.0, 50.0
"""A push must not bring the block's centre, so far ahead, nearer than this to the edge of the table."""
MAX_DRAWS = 30


class ContactPolicy:
    """Makes for a random point on the block's edge, pushes through it for a random number of env steps, and does so again.

    A push lasts 1 to ``max_push_env_steps`` at 0.3 to 1 of full speed, at a random slant to the edge, and ends early where it would take the block
    off the table. ``action_noise`` is the standard deviation of Gaussian noise on the target, in px.
    """

    def __init__(self, *, max_push_env_steps: int = 8, action_noise: float = 8.0) -> None:
        check_whole_option("max_push_env_steps", max_push_env_steps)
        check_number_option("action_noise", action_noise, lambda value: 0 <= value <= 100, "in [0, 100] px")
        self.max_push_env_steps, self.action_noise = max_push_env_steps, action_noise
        self._generators: list[np.random.Generator] = []
        self._env_step = self._max_env_steps = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: each draws its first point."""
        batch = push_t_batch(envs)
        check_reset(envs, seeds, max_env_steps)
        self._env_step, self._max_env_steps = 0, max_env_steps
        self._generators = [np.random.default_rng([seed, CONTACT_STREAM]) for seed in seeds]
        num_envs = envs.num_envs
        self._points = np.zeros((num_envs, 2))  # in the block's frame
        self._directions, self._speeds = np.zeros((num_envs, 2)), np.zeros(num_envs)
        self._pushes_left, self._is_pushing = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
        self._age = np.zeros(num_envs, np.int64)
        for row in range(num_envs):
            self._choose(row, batch.moments[row])

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2]: the actions of the next env step."""
        batch = push_t_batch(envs)
        check_env_step(self._env_step, self._max_env_steps)
        self._env_step += 1
        moments = batch.moments
        is_over = np.where(self._is_pushing, self._pushes_left <= 0, self._age >= PATIENCE_ENV_STEPS)
        is_over |= self._is_pushing & ~_stays_on_table(moments, self._directions)
        for row in np.flatnonzero(is_over).tolist():
            self._choose(row, moments[row])
        destinations = moments["block_px"] + rotated(self._points, moments["block_rad"])
        agents = moments["agent_px"]
        self._is_pushing |= np.linalg.norm(destinations - agents, axis=-1) < ARRIVAL_PX
        ahead = agents + 100 * self._speeds[:, None] * self._directions
        targets = np.where(self._is_pushing[:, None], ahead, waypoints(moments, destinations))
        self._pushes_left -= self._is_pushing
        self._age += 1
        noise = np.stack([generator.standard_normal(2) for generator in self._generators])
        return actions_towards(batch, np.clip(targets + self.action_noise * noise, 0, TABLE_PX))

    def _choose(self, row: int, moment: np.void) -> None:
        """Draw the next point, direction, speed and length of a push, until one keeps the block on the table."""
        generator, moments = self._generators[row], np.array([moment])
        for _ in range(MAX_DRAWS):
            place, normal = outline_place(generator.random())
            slant = generator.uniform(-SLANT_RAD, SLANT_RAD)
            self._directions[row] = rotated(rotated(-normal, slant), float(moment["block_rad"]))
            if _stays_on_table(moments, self._directions[row : row + 1])[0]:
                break
        self._points[row] = place * moment["block_scale_px"] + normal * (moment["agent_radius_px"] + GAP_PX)
        self._speeds[row] = generator.uniform(0.3, 1.0)
        self._pushes_left[row] = generator.integers(1, self.max_push_env_steps, endpoint=True)
        self._is_pushing[row], self._age[row] = False, 0


def outline_place(share: float) -> tuple[np.ndarray, np.ndarray]:
    """A point of the block's edge, in thicknesses, and the edge's outward normal there; uniform along the edge if ``share`` is in [0, 1)."""
    edges = np.roll(OUTLINE_SCALES, -1, axis=0) - OUTLINE_SCALES
    lengths = np.linalg.norm(edges, axis=-1)
    along = share * lengths.sum()
    edge = int(np.searchsorted(np.cumsum(lengths), along, side="right"))
    unit = edges[edge] / lengths[edge]
    place = OUTLINE_SCALES[edge] + unit * (along - np.cumsum(lengths)[edge] + lengths[edge])
    return place, np.array([unit[1], -unit[0]])


def push_t_batch(envs: GoalEnvBatch) -> PushTBatch:
    """The batch as what it is; ``EnvError`` for another world's."""
    if not isinstance(envs, PushTBatch):
        raise EnvError(f"the policies of push-t need a PushTBatch, got {type(envs).__name__}; use the policy 'random' elsewhere")
    return envs


def _stays_on_table(moments: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Whether pushes lead the blocks' centres to where they may be, or at least nearer to the middle, bool [E]."""
    centers = block_centers(moments)
    there = centers + LOOKAHEAD_PX * directions
    beyond_now, beyond_then = (np.maximum(np.abs(places - TABLE_PX / 2) - (TABLE_PX / 2 - HEADROOM_PX), 0).max(-1) for places in (centers, there))
    return np.asarray((beyond_then == 0) | (beyond_then < beyond_now))
