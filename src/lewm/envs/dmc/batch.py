"""Many episodes of one Control Suite task at once, all in one simulator.

Axes: E episode, s label.
"""

from typing import Any

import numpy as np

from lewm.envs.base import EpisodeError
from lewm.envs.dmc.goals import LabelTable, Predicate
from lewm.envs.dmc.options import DmcOptions
from lewm.envs.dmc.simulator import Simulator
from lewm.envs.dmc.states import STATES
from lewm.envs.mujoco.batch import MujocoBatch
from lewm.envs.mujoco.simulator import Moment
from lewm.envs.option_checks import parse_options

GOAL_STREAM, WANDER_STREAM = 1, 2
"""Keep the numbers that decide a goal apart from those that decide the start."""
GOAL_SPREAD_M = {"fish": 0.3, "swimmer": 0.6}
"""Domains that start in one place of an open world, and how far from there a reset puts the goal at most (at least half as far)."""
WANDER_CONTROL_STEPS, WANDER_HOLD_CONTROL_STEPS, WANDER_TOLERANCES = 200, 10, 2.0


class DmcBatch(MujocoBatch):
    """E episodes of ``dmc/<domain>-<task>``; the options are the fields of ``DmcOptions``.

    Rewards are the task's, added over the control steps of an env step. The goal at a reset is a second start of the same episode, at rest; where
    the suite starts in one place only, the goal is put elsewhere, or is where held random actions lead.
    """

    _simulator: Simulator
    _table: LabelTable

    def __init__(self, num_envs: int, domain: str, task: str, /, **options: Any) -> None:
        name = f"dmc/{domain}-{task}"
        self.options = parse_options(DmcOptions, name, options)
        self._goal_spread_m = GOAL_SPREAD_M.get(domain, 0.0)
        simulator = Simulator(domain, task, self.options.hide_geoms)
        table = LabelTable(domain, simulator.model)
        self.predicate = Predicate.of(
            domain, self.options.success, table.names, tolerance_scale=self.options.tolerance_scale, is_wrapped=self.options.is_wrapped
        )
        super().__init__(num_envs, name, self.options, simulator=simulator, table=table, predicate=self.predicate, states=STATES)

    def _measured(self, moment: Moment) -> np.ndarray:
        return self._table.positions(self._simulator.data)

    def _draw_goal(self, start: Moment, seed: int) -> Moment:
        """A second start of the same episode, moved where it is always in one place; held random actions lead on while it is solved at once."""
        simulator, generator = self._simulator, np.random.default_rng([seed, WANDER_STREAM])
        qpos: np.ndarray = simulator.part(simulator.initialise([seed, GOAL_STREAM]), "qpos").copy()
        angle, share = generator.uniform(-np.pi, np.pi), generator.uniform(0.5, 1.0)
        # The first two positions of the domains with a spread are the root's, in the plane; for the others this adds nothing.
        qpos[:2] += (self._goal_spread_m * share * np.array([np.cos(angle), np.sin(angle)]))[: len(qpos)]
        goal = simulator.with_part(start, qpos=qpos)
        start_labels = self._labels_of([start], self._positions_of([start]))
        for _ in range(0, WANDER_CONTROL_STEPS, WANDER_HOLD_CONTROL_STEPS):
            labels = self._labels_of([goal], self._positions_of([goal]))
            if self.predicate.distance(start_labels, labels)[0] >= WANDER_TOLERANCES:
                break
            simulator.load(goal)
            try:
                simulator.advance(generator.uniform(self._low, self._high), WANDER_HOLD_CONTROL_STEPS)
            except EpisodeError as error:
                raise EpisodeError(f"{error} (on the way to the goal of seed {seed}); leave this seed out") from error
            goal = simulator.save(0)
        return simulator.at_rest(simulator.with_part(goal, time=0.0))
