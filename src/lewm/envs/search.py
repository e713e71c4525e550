"""Search on the true dynamics: the planner of runs, with the simulator in the model's place and the success predicate in the latent cost's.

Axes: E episode, S candidate, T model step, A action block, N env step, a env action.

What it reaches, a perfect model of the world would reach with this search and this cost; what it misses is not the model's fault.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from lewm.config import PlannerConfig
from lewm.envs.base import GoalEnvBatch, MeasuresGoals
from lewm.envs.policies import check_env_step, check_reset, check_whole_option
from lewm.errors import EnvError

if TYPE_CHECKING:  # importing it would import torch, which listing policies does not need
    import torch

    from lewm.planning.base import BlockSpace


class SearchPolicy:
    """The cross-entropy method on the simulator itself, towards the environment's goal.

    Every ``replan_every_model_steps`` it tries ``num_iterations`` times ``num_candidates`` sequences of ``horizon_model_steps`` blocks of
    ``action_block`` env steps, each by setting the simulator back and stepping it, and takes over the mean of the ``num_elites`` that came nearest
    to the goal (``cost`` = ``min``: at any env step). Distances are in tolerances of the success predicate. Row e depends on its own seed and its
    own world only. ``EnvError`` for a world that does not measure how far a goal is (Atari), and for discrete actions.
    """

    def __init__(
        self,
        *,
        num_candidates: int = 64,
        num_elites: int = 8,
        num_iterations: int = 4,
        horizon_model_steps: int = 5,
        replan_every_model_steps: int = 1,
        action_block: int = 5,
    ) -> None:
        check_whole_option("action_block", action_block)
        self.action_block = action_block
        self.config = PlannerConfig(
            cost="min",
            num_candidates=num_candidates,
            num_elites=num_elites,
            num_iterations=num_iterations,
            horizon_model_steps=horizon_model_steps,
            replan_every_model_steps=replan_every_model_steps,
            use_warm_start=True,
        )
        self._seeds: list[int] = []
        self._env_step = self._max_env_steps = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes towards the environment's goals."""
        check_reset(envs, seeds, max_env_steps)
        if not isinstance(envs, MeasuresGoals) or envs.action_spec.kind != "continuous":
            raise EnvError(
                "the policy 'search' needs continuous actions and a world that measures how far its goal is: two-room, push-t, dmc/*, ogbench/*"
            )
        self._seeds, self._env_step, self._max_env_steps = [int(seed) for seed in seeds], 0, max_env_steps
        self._plan: torch.Tensor | None = None
        self._actions = np.zeros((0, len(seeds), 0), np.float32)
        self._num_plans = 0

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a]: the actions of the next env step."""
        check_env_step(self._env_step, self._max_env_steps)
        self._env_step += 1
        if len(self._actions) == 0:
            self._actions = self._planned(envs)
        action, self._actions = self._actions[0], self._actions[1:]
        return np.array(action)

    def _planned(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [N, E, a]: what to do until the next plan."""
        import torch

        from lewm.planning.sampling import CEM

        space, replan = self._space(envs), self.config.replan_every_model_steps
        start = envs.get_states()

        def cost(candidates: "torch.Tensor") -> "torch.Tensor":
            return torch.from_numpy(self._nearest(envs, start, candidates.numpy()))

        plan = CEM(self.config).plan(
            cost,
            space,
            horizon_model_steps=self.config.horizon_model_steps,
            seeds=[(seed, self._num_plans) for seed in self._seeds],
            initial=self._plan,
        )
        envs.set_states(start)
        self._num_plans += 1
        blocks = plan.blocks
        rest = space.typical(blocks.device).expand(len(blocks), replan, -1)
        self._plan = torch.cat([blocks[:, replan:], rest], dim=1)
        return self._env_actions(space.executable(blocks[:, :replan]).numpy(), envs)

    def _nearest(self, envs: GoalEnvBatch, start: list[bytes], candidates: np.ndarray) -> np.ndarray:
        """float32 [E, S]: how near each candidate [E, S, T, A] comes to the goal."""
        nearest = np.full(candidates.shape[:2], np.inf, np.float32)
        for number in range(candidates.shape[1]):
            envs.set_states(start)
            for actions in self._env_actions(candidates[:, number], envs):
                envs.step(actions)
                nearest[:, number] = np.minimum(nearest[:, number], cast(MeasuresGoals, envs).goal_distance())
        return nearest

    def _env_actions(self, blocks: np.ndarray, envs: GoalEnvBatch) -> np.ndarray:
        """Blocks [E, T, A] -> actions [N, E, a]."""
        return np.ascontiguousarray(blocks.reshape(len(blocks), -1, envs.action_spec.dimension).swapaxes(0, 1))

    def _space(self, envs: GoalEnvBatch) -> "BlockSpace":
        """Candidates begin in the middle of the action bounds, with half of their range as standard deviation."""
        from lewm.planning.base import BlockSpace

        low, high = np.array(envs.action_spec.low), np.array(envs.action_spec.high)
        middle, reach = (low + high) / 2, (high - low) / 4
        return BlockSpace(action_spec=envs.action_spec, action_block=self.action_block, mean=tuple(middle.tolist()), std=tuple(reach.tolist()))
