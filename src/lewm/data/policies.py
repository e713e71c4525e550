"""Who acts while data are collected, by name: the generic policies, a world's own, and trained runs."""

import inspect
import os
from typing import Any

from lewm.envs.base import GoalEnv, ScriptedPolicy
from lewm.errors import ConfigError, UnknownNameError
from lewm.registry import ENVS, POLICIES, did_you_mean

RUN_POLICY = "run"
"""What the path of a run or checkpoint is short for."""


def scripted_policy(env: str, name: str, /, **options: Any) -> ScriptedPolicy:
    """One of the environment's own policies, one of the table, or the agent of the run whose directory is called ``name``.

    ``UnknownNameError`` or ``ConfigError`` say what is wrong.
    """
    env_class: type[GoalEnv] = ENVS.load(env)
    if name in env_class.POLICIES:
        policy_class = env_class.POLICIES[name]
    elif name in POLICIES:
        policy_class = POLICIES.load(name)
    elif os.path.isdir(name):
        policy_class, options = POLICIES.load(RUN_POLICY), {"path": name} | options
        name = RUN_POLICY
    else:
        known = {*POLICIES, *env_class.POLICIES} - {RUN_POLICY}
        raise UnknownNameError(f"unknown policy {name!r} for env {env!r}.{did_you_mean(name, known)}, or the directory of a run")
    known_options = inspect.signature(policy_class).parameters
    for option in options:
        if option not in known_options:
            raise ConfigError(f"unknown option {option!r} of policy {name!r}.{did_you_mean(option, known_options)}")
    if name == RUN_POLICY and "path" not in options:
        raise ConfigError("policy 'run' needs the directory of a run or checkpoint: give it in place of the policy's name")
    return policy_class(**options)


def policy_identity(env: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """``name`` and ``options`` as a dataset's meta records them; a policy with an ``identity()`` says itself what decides its actions."""
    policy = scripted_policy(env, name, **options)
    identity = getattr(policy, "identity", None)
    return {"name": name, "options": options} if identity is None else identity()
