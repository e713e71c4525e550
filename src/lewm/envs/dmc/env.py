"""The DeepMind Control Suite: ``dmc/<domain>-<task>``, every task from pixels.

One env step is ``action_repeat`` control steps (2 unless told otherwise). Source: Tassa et al., arXiv 2006.12983, and ``dm_control.suite``.
"""

import functools
from typing import Any, ClassVar

from lewm.envs.base import ScriptedPolicy
from lewm.envs.dmc.batch import DmcBatch
from lewm.envs.dmc.goals import STRATA
from lewm.envs.dmc.options import DmcOptions
from lewm.envs.dmc.policies import POLICIES
from lewm.envs.dmc.simulator import load_suite
from lewm.envs.dmc.states import VERSION
from lewm.envs.single import BatchOfOne
from lewm.registry import unknown_member

__all__ = ["DmcBatch", "DmcOptions", "DmcTask", "task_env", "task_names"]


class DmcTask(BatchOfOne):
    """Bring one task of the suite into the pose of a goal. Observations: ``{"frames": uint8 [V, Y, X, 3]}``; actions within the suite's bounds.

    The options are the fields of ``DmcOptions``. The reward is the task's own, added over the control steps of an env step.
    """

    DOMAIN: ClassVar[str]
    TASK: ClassVar[str]
    VERSION: ClassVar[int] = VERSION
    STRATA: ClassVar[tuple[str, ...]] = STRATA
    DATA_POLICY: ClassVar[str] = "ou"

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> DmcBatch:
        """The same task for ``num_envs`` episodes at once, with the fields of ``DmcOptions``."""
        return DmcBatch(num_envs, cls.DOMAIN, cls.TASK, **options)


def task_names() -> list[str]:
    """``<domain>-<task>`` of every task of the suite, sorted."""
    return sorted(f"{domain}-{task}" for domain, task in load_suite().ALL_TASKS)


@functools.cache
def task_env(member: str) -> type[DmcTask]:
    """The environment of the task called ``<domain>-<task>``; ``UnknownNameError`` with a suggestion if the suite has none."""
    if member not in task_names():
        raise unknown_member("env", "dmc/", member, task_names())
    domain, task = member.split("-")
    policies: dict[str, type[ScriptedPolicy]] = POLICIES.get(domain, {})
    attributes = {"NAME": f"dmc/{member}", "DOMAIN": domain, "TASK": task, "POLICIES": policies, "__doc__": DmcTask.__doc__}
    return type(f"Dmc_{domain}_{task}", (DmcTask,), attributes)
