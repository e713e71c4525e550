"""Stepping and drawing Control Suite worlds: the rendering profile ``fast`` against the models as they are shipped.

Axes: E episode, N env step, a env action.
"""

import numpy as np

from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.envs.base import GoalEnvBatch, make_batch

ENVS = ("dmc/reacher-easy", "dmc/cheetah-run")
REFERENCE = "the same batch with rendering='shipped': shadows and multisampling as in the suite's models"


def measure(options: BenchOptions) -> list[Row]:
    """Frames per second at 64 px, physics included."""
    if options.is_quick:
        return [_measure_env(ENVS[0], num_envs=2, num_env_steps=1, num_rounds=2, targets=(None, None))]
    return [_measure_env(env, num_envs=4, num_env_steps=25, num_rounds=5, targets=(5.0, 10.0)) for env in ENVS]


def _measure_env(env: str, *, num_envs: int, num_env_steps: int, num_rounds: int, targets: tuple[float | None, float | None]) -> Row:
    batches = {name: make_batch(env, num_envs, rendering=name, size_px=64) for name in ("fast", "shipped")}
    spec = batches["fast"].action_spec
    actions = np.random.default_rng(0).uniform(spec.low, spec.high, (num_env_steps, num_envs, spec.dimension)).astype(np.float32)
    num_shipped_steps = max(1, num_env_steps // 5)  # it takes its time
    contenders = {
        "fast": Contender(lambda: _roll(batches["fast"], actions), amount=actions.shape[0] * num_envs),
        "shipped": Contender(lambda: _roll(batches["shipped"], actions[:num_shipped_steps]), amount=num_shipped_steps * num_envs),
    }
    for batch in batches.values():
        batch.reset(range(num_envs))
    seconds = take_turns(contenders, num_rounds=num_rounds)
    for batch in batches.values():
        batch.close()
    return Row(
        case=f"step + draw, {env}, 64 px",
        unit="frames/s",
        better="higher",
        ours=per_second(seconds["fast"]),
        reference=per_second(seconds["shipped"]),
        reference_is=REFERENCE,
        target_must=targets[0],
        target_aim=targets[1],
    )


def _roll(batch: GoalEnvBatch, actions: np.ndarray) -> None:
    for step_actions in actions:
        batch.step(step_actions)
        batch.observe()
