"""Episodes of Push-T of two kinds in one dataset, to compare what is learnt from each with what is learnt from both.

Axes: E episode, a action. Row e depends on its own seed and its own world only.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch
from lewm.envs.policies import check_number_option
from lewm.envs.push_t.expert import ExpertPolicy
from lewm.envs.push_t.policies import ContactPolicy

MIXTURE_STREAM = 9
"""Keeps the choice apart from the numbers that the environment and the policies draw from the same seed."""


class MixedPolicy:
    """Each episode is wholly ``contact``'s, with probability ``contact_share``, or wholly ``expert``'s, as either would record it from that seed."""

    def __init__(self, *, contact_share: float = 0.5) -> None:
        check_number_option("contact_share", contact_share, lambda value: 0 <= value <= 1, "in [0, 1]")
        self.contact_share = contact_share
        self._contact, self._expert = ContactPolicy(), ExpertPolicy()
        self._is_contact = np.zeros(0, bool)

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: draw which policy each of them follows."""
        self._contact.reset(envs, seeds, max_env_steps)
        self._expert.reset(envs, seeds, max_env_steps)
        self._is_contact = np.array([np.random.default_rng([seed, MIXTURE_STREAM]).random() < self.contact_share for seed in seeds])
        self._expert.rest(self._is_contact)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a]: the actions of the next env step."""
        contact, expert = self._contact.act(envs), self._expert.act(envs)
        return np.where(self._is_contact[:, None], contact, expert)
