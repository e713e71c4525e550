"""Stepping and drawing two-room in a batch, against drawing one frame at a time.

Axes: E episode, N env step, Y X image, a env action.
"""

from collections.abc import Callable

import numpy as np

from lewm.bench.references import plain_two_room_frame
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.envs.two_room.env import TwoRoomBatch
from lewm.envs.two_room.policies import ExpertPolicy

REFERENCE = "the same batched physics, then frame by frame: the whole image in float64, plain numpy"


def measure(options: BenchOptions) -> list[Row]:
    """Frames per second at both sizes, with the data-collecting expert's actions computed beforehand."""
    if options.is_quick:
        return [_measure_size(32, num_envs=3, num_env_steps=2, num_rounds=2)]
    return [
        _measure_size(64, num_envs=64, num_env_steps=100, num_rounds=9, must=15_000, aim=50_000),
        _measure_size(224, num_envs=64, num_env_steps=100, num_rounds=7, must=2_000, aim=8_000),
    ]


def _measure_size(size_px: int, *, num_envs: int, num_env_steps: int, num_rounds: int, must: float | None = None, aim: float | None = None) -> Row:
    envs = TwoRoomBatch(num_envs, size_px=size_px)
    envs.reset(range(num_envs))
    start = envs.get_states()
    actions = expert_actions(envs, num_env_steps)
    frames = {name: np.empty((num_envs, 1, size_px, size_px, 3), np.uint8) for name in ("ours", "reference")}

    def draw_batch() -> None:
        envs.observe(out=frames["ours"])

    def draw_one_by_one() -> None:
        for episode, moment in enumerate(envs.moments):
            frames["reference"][episode, 0] = np.rint(plain_two_room_frame(moment, size_px))

    def episode(draw: Callable[[], None], num_steps: int) -> Contender:
        def run() -> None:
            envs.set_states(start)
            for step_actions in actions[:num_steps]:
                envs.step(step_actions)
                draw()

        return Contender(run, amount=num_steps * num_envs)

    num_reference_steps = max(1, num_env_steps // 50)  # the reference takes its time
    contenders = {"ours": episode(draw_batch, num_env_steps), "reference": episode(draw_one_by_one, num_reference_steps)}
    seconds = take_turns(contenders, num_rounds=num_rounds)
    draw_batch()
    draw_one_by_one()
    return Row(
        case=f"step + draw, {num_envs} worlds, {size_px} px, one thread",
        unit="frames/s",
        better="higher",
        ours=per_second(seconds["ours"]),
        reference=per_second(seconds["reference"]),
        reference_is=REFERENCE,
        target_of="ours",
        target_must=must,
        target_aim=aim,
        max_difference=float(np.abs(frames["ours"].astype(int) - frames["reference"]).max()) / 255,
    )


def expert_actions(envs: TwoRoomBatch, num_env_steps: int) -> np.ndarray:
    """float32 [N, E, 2]: what the noisy expert does from the present states; steps the worlds."""
    policy = ExpertPolicy()
    policy.reset(envs, range(envs.num_envs), num_env_steps)
    actions = np.empty((num_env_steps, envs.num_envs, 2), np.float32)
    for step in range(num_env_steps):
        actions[step] = policy.act(envs)
        envs.step(actions[step])
    return actions
