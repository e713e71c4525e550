"""An expert of Push-T that needs no people: it searches for pushes in the true simulator.

Axes: E episode, S candidate, 2 (x, y). Row e depends on its own seed and its own world only. Lengths in px of the 512 x 512 table.

A push is a place on the block's edge, a direction and a speed. The best of many, each simulated from the block's present pose, is the one that leaves
the block nearest to its goal, with a price on time; the best few are varied and tried again (the cross-entropy method with contacts as proposals).
The pusher walks round the block to that place, and then corrects the direction at every env step by a smaller search of the same kind. When the block
is where it should be, the pusher goes where it should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lewm.envs.base import GoalEnvBatch
from lewm.envs.option_checks import check_truth
from lewm.envs.policies import check_env_step, check_number_option, check_reset, check_whole_option
from lewm.envs.push_t.batch import PushTBatch
from lewm.envs.push_t.geometry import block_centers, distance_to_block, rotated
from lewm.envs.push_t.goals import labels_of
from lewm.envs.push_t.layout import TABLE_PX
from lewm.envs.push_t.navigation import actions_towards, waypoints
from lewm.envs.push_t.physics import Tabletop
from lewm.envs.push_t.policies import outline_place, push_t_batch
from lewm.envs.push_t.starts import draw_goal

EXPERT_STREAM, TARGET_STREAM, NOISE_STREAM = 6, 7, 8
"""Keep the expert's search, its own goals and its noise apart from each other and from what others draw from the same seed."""
NUM_PLACES, NUM_ELITES, NUM_VARIATIONS = 48, 4, 6
PUSH_ENV_STEPS = 8
"""How far ahead pushes are simulated."""
NUM_CORRECTIONS, CORRECTION_ENV_STEPS, CORRECTION_RAD = 10, 4, 0.5
GAP_PX, ARRIVAL_PX, WALKED_PX = 3.0, 5.0, 40.0
"""Between pusher and block where a push begins; how near to that place it begins; how far the pusher walks in an env step."""
ENV_STEP_PRICE_PX = 0.5
TURN_ARM_SCALES = 1.8
"""A turn by an angle counts as that angle times this many thicknesses."""
LEAST_GAIN_PX = 0.3
SAFETY = 0.7
"""The block is left alone within this share of the tolerances."""
MARGIN_PX, OFF_TABLE_PRICE = 60.0, 3.0
"""How near to the edge of the table the block's centre may come for free, and the price of each px beyond."""
PATIENCE_ENV_STEPS = 40
"""Of walking round the block to one place; the next one is made for straight through whatever is in the way, which frees a pusher that is stuck."""


@dataclass
class Push:
    """A candidate, in the block's own frame but for its speed."""

    place_px: np.ndarray
    """float64 [2]: where the pusher begins."""
    direction_rad: float
    speed: float
    """1: the target is 100 px ahead."""
    cost: float = np.inf


class Search:
    """The search for one episode: its goal, its numbers, and the push under way."""

    def __init__(self, goal: np.ndarray, generator: np.random.Generator) -> None:
        self._generator = generator
        self.aim_at(goal)

    def aim_at(self, goal: np.ndarray) -> None:
        """Take on another goal, ``MOMENT`` []."""
        self.goal = goal
        self._goal_center, self._goal_rad = block_centers(goal[None])[0], float(goal["block_rad"])
        self._push: Push | None = None
        self._is_pushing, self._age = False, 0
        self._is_straight = False

    def target(self, moment: np.ndarray, batch: PushTBatch) -> np.ndarray:
        """float64 [2]: where the pusher should aim now."""
        if self._is_block_done(moment, batch):
            self._push, self._is_pushing = None, False
            return self._way_to(moment, self.goal["agent_px"])
        self._age += 1
        if self._is_pushing:
            corrected = self._corrected(moment)
            if corrected is not None:
                return corrected
        is_stuck = not self._is_pushing and self._age > PATIENCE_ENV_STEPS
        if self._push is None or self._is_pushing or is_stuck:
            self._push, self._is_pushing, self._age, self._is_straight = self._best_push(moment), False, 0, is_stuck
        place = self._world(moment, self._push.place_px)
        if np.linalg.norm(place - moment["agent_px"]) < ARRIVAL_PX:
            self._is_pushing = True
            corrected = self._corrected(moment)
            return self._ahead(moment, self._push) if corrected is None else corrected
        return place if self._is_straight else self._way_to(moment, place)

    def _is_block_done(self, moment: np.ndarray, batch: PushTBatch) -> bool:
        """Whether the predicate holds for the block, with some room, were the pusher where the goal has it."""
        there = moment.copy()
        there["agent_px"] = self.goal["agent_px"]
        return bool(batch.predicate.scaled(SAFETY).is_within(labels_of(there[None]), labels_of(self.goal[None]))[0])

    def _best_push(self, moment: np.ndarray) -> Push:
        """Proposals all along the edge, then variations of the best few."""
        generator, scale, radius = self._generator, float(moment["block_scale_px"]), float(moment["agent_radius_px"])
        shares = (np.arange(NUM_PLACES) + generator.random(NUM_PLACES)) / NUM_PLACES
        slants, speeds = generator.uniform(-0.8, 0.8, NUM_PLACES), generator.choice([0.4, 0.7, 1.0], NUM_PLACES)
        pushes = []
        for share, slant, speed in zip(shares.tolist(), slants.tolist(), speeds.tolist(), strict=True):
            place, normal = outline_place(share)
            pushes.append(Push(scale * place + (radius + GAP_PX) * normal, float(np.arctan2(-normal[1], -normal[0])) + slant, speed))
        elites = sorted(self._tried(moment, pushes), key=lambda push: push.cost)[:NUM_ELITES]
        varied = []
        for elite in elites:
            for _ in range(NUM_VARIATIONS):
                turn, factor, shift = generator.normal(0, 0.2), generator.uniform(0.7, 1.3), generator.normal(0, 4.0)
                aside = shift * rotated(np.array([0.0, 1.0]), elite.direction_rad)
                varied.append(Push(elite.place_px + aside, elite.direction_rad + turn, float(np.clip(elite.speed * factor, 0.2, 1.0))))
        return min([*elites, *self._tried(moment, varied)], key=lambda push: push.cost)

    def _tried(self, moment: np.ndarray, pushes: list[Push]) -> list[Push]:
        """The pushes that can be begun, with their costs."""
        places = np.stack([self._world(moment, push.place_px) for push in pushes])
        gaps = distance_to_block(places[None], moment[None])[0] - moment["agent_radius_px"]
        is_possible = (gaps > -1.0) & (places >= 0).all(-1) & (places <= TABLE_PX).all(-1)
        possible = [push for push, allowed in zip(pushes, is_possible, strict=True) if allowed]
        for push, place in zip(possible, places[is_possible], strict=True):
            begun = moment.copy()
            begun["agent_px"], begun["agent_velocity_px_s"] = place, 0.0
            walk = float(np.linalg.norm(place - moment["agent_px"])) / WALKED_PX
            push.cost = self._simulated(begun, push, PUSH_ENV_STEPS) + ENV_STEP_PRICE_PX * walk
        return possible or pushes[:1]

    def _simulated(self, moment: np.ndarray, push: Push, num_env_steps: int) -> float:
        """The least cost on the way of a push."""
        tabletop = Tabletop(moment)
        tabletop.place(moment)
        angle = push.direction_rad + float(moment["block_rad"])
        ahead_x, ahead_y = 100 * push.speed * np.cos(angle), 100 * push.speed * np.sin(angle)
        best = np.inf
        for step in range(num_env_steps):
            x, y = tabletop.agent_px
            tabletop.control(min(max(x + ahead_x, 0.0), TABLE_PX), min(max(y + ahead_y, 0.0), TABLE_PX))
            best = min(best, self._cost(*tabletop.block_pose, float(moment["block_scale_px"])) + ENV_STEP_PRICE_PX * (step + 1))
        return best

    def _cost(self, x: float, y: float, angle_rad: float, scale_px: float) -> float:
        turn = (angle_rad - self._goal_rad + np.pi) % (2 * np.pi) - np.pi
        beyond = max(abs(x - TABLE_PX / 2), abs(y - TABLE_PX / 2)) - (TABLE_PX / 2 - MARGIN_PX)
        away = np.hypot(x - self._goal_center[0], y - self._goal_center[1])
        return float(np.hypot(away, TURN_ARM_SCALES * scale_px * turn) + OFF_TABLE_PRICE * max(beyond, 0.0))

    def _corrected(self, moment: np.ndarray) -> np.ndarray | None:
        """The push under way with the best of some other directions and speeds; None if none of them gains anything."""
        assert self._push is not None
        push, generator = self._push, self._generator
        pushes = [push] + [
            Push(push.place_px, push.direction_rad + generator.normal(0, CORRECTION_RAD), float(generator.uniform(0.1, 1.0)))
            for _ in range(NUM_CORRECTIONS)
        ]
        for candidate in pushes:
            candidate.cost = self._simulated(moment, candidate, CORRECTION_ENV_STEPS)
        best = min(pushes, key=lambda candidate: candidate.cost)
        center = block_centers(moment[None])[0]
        if best.cost > self._cost(center[0], center[1], float(moment["block_rad"]), float(moment["block_scale_px"])) - LEAST_GAIN_PX:
            return None
        self._push = best
        return self._ahead(moment, best)

    @staticmethod
    def _way_to(moment: np.ndarray, place_px: np.ndarray) -> np.ndarray:
        return np.asarray(waypoints(moment[None], place_px[None])[0])

    @staticmethod
    def _world(moment: np.ndarray, own_px: np.ndarray) -> np.ndarray:
        return np.asarray(moment["block_px"] + rotated(own_px, float(moment["block_rad"])))

    @staticmethod
    def _ahead(moment: np.ndarray, push: Push) -> np.ndarray:
        angle = push.direction_rad + float(moment["block_rad"])
        return np.asarray(np.clip(moment["agent_px"] + 100 * push.speed * np.array([np.cos(angle), np.sin(angle)]), 0, TABLE_PX))


class NoiselessExpertPolicy:
    """Brings block and pusher where the environment's goal has them: what can be reached at all, as far as the search finds a way."""

    def __init__(self) -> None:
        self._searches: list[Search] = []
        self._is_resting = np.zeros(0, bool)
        self._env_step = self._max_env_steps = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes towards the environment's goals."""
        batch = push_t_batch(envs)
        check_reset(envs, seeds, max_env_steps)
        self._env_step, self._max_env_steps = 0, max_env_steps
        self._is_resting = np.zeros(len(seeds), bool)
        goals = self._first_goals(batch, seeds)
        self._searches = [Search(goal, np.random.default_rng([seed, EXPERT_STREAM])) for goal, seed in zip(goals, seeds, strict=True)]

    def rest(self, is_resting: np.ndarray) -> None:
        """Search for nothing in the episodes, bool [E], that somebody else acts in until the next reset."""
        self._is_resting = is_resting

    @property
    def goals(self) -> list[np.ndarray]:
        """``MOMENT`` [] each: what the episodes make for."""
        return [search.goal.copy() for search in self._searches]

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2]: the actions of the next env step."""
        batch = push_t_batch(envs)
        check_env_step(self._env_step, self._max_env_steps)
        self._env_step += 1
        moments = batch.moments
        self._renew_goals(batch, moments)
        targets = [
            moment["agent_px"] if is_resting else search.target(np.array(moment), batch)
            for search, moment, is_resting in zip(self._searches, moments, self._is_resting, strict=True)
        ]
        return actions_towards(batch, self._disturbed(np.array(targets)))

    def _first_goals(self, batch: PushTBatch, seeds: Sequence[int]) -> list[np.ndarray]:
        return [np.array(goal) for goal in batch.goal_moments]

    def _renew_goals(self, batch: PushTBatch, moments: np.ndarray) -> None:
        """The goals stay."""

    def _disturbed(self, targets: np.ndarray) -> np.ndarray:
        return targets


class ExpertPolicy(NoiselessExpertPolicy):
    """The same search towards goals of its own, another one on each arrival or after ``max_goal_env_steps``: data full of pushes with a purpose.

    Each action is disturbed by Gaussian noise of std ``action_noise``, in px of its target. With ``retarget`` off the goal is the environment's.
    """

    def __init__(self, *, retarget: bool = True, action_noise: float = 10.0, max_goal_env_steps: int = 150) -> None:
        super().__init__()
        check_truth("retarget", retarget)
        check_number_option("action_noise", action_noise, lambda value: 0 <= value <= 100, "in [0, 100] px")
        check_whole_option("max_goal_env_steps", max_goal_env_steps)
        self.retarget, self.action_noise, self.max_goal_env_steps = retarget, action_noise, max_goal_env_steps

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: draw their first goals, if they are the policy's own."""
        self._target_generators = [np.random.default_rng([seed, TARGET_STREAM]) for seed in seeds]
        self._noise_generators = [np.random.default_rng([seed, NOISE_STREAM]) for seed in seeds]
        super().reset(envs, seeds, max_env_steps)
        self._goal_ages = np.zeros(len(seeds), np.int64)

    def _first_goals(self, batch: PushTBatch, seeds: Sequence[int]) -> list[np.ndarray]:
        if not self.retarget:
            return super()._first_goals(batch, seeds)
        return [self._drawn(batch, moment, generator) for moment, generator in zip(batch.moments, self._target_generators, strict=True)]

    def _renew_goals(self, batch: PushTBatch, moments: np.ndarray) -> None:
        self._goal_ages += 1
        for row, search in enumerate(self._searches if self.retarget else ()):
            is_there = batch.predicate.is_within(labels_of(moments[row : row + 1]), labels_of(search.goal[None]))[0]
            if is_there or self._goal_ages[row] > self.max_goal_env_steps:
                search.aim_at(self._drawn(batch, moments[row], self._target_generators[row]))
                self._goal_ages[row] = 0

    def _disturbed(self, targets: np.ndarray) -> np.ndarray:
        return np.asarray(targets + self.action_noise * np.stack([generator.standard_normal(2) for generator in self._noise_generators]))

    @staticmethod
    def _drawn(batch: PushTBatch, moment: np.void, generator: np.random.Generator) -> np.ndarray:
        return draw_goal(np.array(moment), generator, batch.predicate)
