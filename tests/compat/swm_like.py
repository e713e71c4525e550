"""Small objects with the documented interfaces of stable-worldmodel, for where the package itself is not installed.

A solver: ``configure(action_space, n_envs, config)``, then ``solve(info_dict, init_action)`` -> ``{"actions": [E, T, A]}``; every entry of the
info dictionary is repeated for the candidates, and the cost is asked with ``get_cost``. A policy: ``set_env``, ``get_action(info_dict)``, with a
buffer of actions per environment that ``_needs_flush`` empties and ``terminated`` leaves alone. A world: environments whose infos are stacked with
a time axis of 1, and reset one by one.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space


@dataclass(frozen=True)
class PlanConfig:
    horizon: int
    receding_horizon: int
    history_len: int = 1
    action_block: int = 1
    warm_start: bool = True


class CEMSolver:
    def __init__(self, cost: Any, *, num_samples: int, n_steps: int, topk: int, seed: int = 0) -> None:
        self.cost, self.num_samples, self.n_steps, self.topk = cost, num_samples, n_steps, topk
        self.generator = torch.Generator().manual_seed(seed)

    def configure(self, *, action_space: Any, n_envs: int, config: PlanConfig) -> None:
        self.horizon, self.action_dim, self.n_envs = config.horizon, int(np.prod(action_space.shape[1:])) * config.action_block, n_envs

    @torch.inference_mode()
    def solve(self, info_dict: dict[str, Any], init_action: torch.Tensor | None = None) -> dict[str, Any]:
        num = len(next(iter(info_dict.values())))
        mean, std = torch.zeros(num, self.horizon, self.action_dim), torch.ones(num, self.horizon, self.action_dim)
        infos = {name: value[:, None].expand(num, self.num_samples, *value.shape[1:]) for name, value in info_dict.items()}
        for _ in range(self.n_steps):
            noise = torch.randn(num, self.num_samples, self.horizon, self.action_dim, generator=self.generator)
            candidates = mean[:, None] + std[:, None] * noise
            candidates[:, 0] = mean
            best = self.cost.get_cost(infos, candidates).topk(self.topk, dim=1, largest=False).indices
            elites = candidates[torch.arange(num)[:, None], best]
            mean, std = elites.mean(1), elites.std(1)
        return {"actions": mean}

    __call__ = solve


class WorldModelPolicy:
    type = "world_model"

    def __init__(self, solver: CEMSolver, config: PlanConfig, process: dict[str, Any] | None = None) -> None:
        self.solver, self.cfg, self.process = solver, config, process or {}

    def set_env(self, env: Any) -> None:
        self.env = env
        self.solver.configure(action_space=env.action_space, n_envs=env.num_envs, config=self.cfg)
        self._action_buffer: list[deque[torch.Tensor]] = [deque() for _ in range(env.num_envs)]

    def get_action(self, info_dict: dict[str, Any], **_: Any) -> np.ndarray:
        for row in np.flatnonzero(info_dict.pop("_needs_flush", [])):
            self._action_buffer[row].clear()
        info = {name: torch.from_numpy(value) for name, value in info_dict.items()}
        over = np.asarray(info["terminated"]).reshape(-1)
        planning = [row for row, buffer in enumerate(self._action_buffer) if not buffer and not over[row]]
        if planning:
            plans = self.solver({name: value[planning] for name, value in info.items()})["actions"][:, : self.cfg.receding_horizon]
            for row, plan in zip(planning, plans, strict=True):
                self._action_buffer[row].extend(plan.reshape(self.cfg.receding_horizon * self.cfg.action_block, -1))
        actions = np.full(self.env.action_space.shape, np.nan, np.float32)
        for row in np.flatnonzero(~over):
            actions[row] = self._action_buffer[row].popleft()
        return self.process["action"].inverse_transform(actions)


class World:
    """``auto`` mode: an environment that is over begins again, and its policy is told so."""

    def __init__(self, environments: list[Any]) -> None:
        self.environments = environments
        self.num_envs = len(environments)
        self.single_action_space = environments[0].action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def set_policy(self, policy: Any) -> None:
        self.policy = policy
        policy.set_env(self)

    def evaluate(self, *, episodes: int, seed: int) -> dict[str, Any]:
        infos = _stacked([environment.reset(seed=seed + row)[1] for row, environment in enumerate(self.environments)])
        successes: list[bool] = []
        while len(successes) < episodes:
            actions = self.policy.get_action(infos)
            assert actions.shape == self.action_space.shape
            over = np.zeros(self.num_envs, bool)
            for row, environment in enumerate(self.environments):
                _, _, terminated, truncated, info = environment.step(actions[row])
                over[row] = terminated or truncated
                successes += [terminated] if over[row] else []
                info = environment.reset(seed=seed + self.num_envs + len(successes))[1] if over[row] else info
                for name, value in info.items():
                    infos[name][row, 0] = value
            if over.any():
                infos["_needs_flush"] = over
        return {"episode_successes": np.array(successes[:episodes])}


def _stacked(infos: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(info[name]) for info in infos])[:, None] for name in infos[0]}
