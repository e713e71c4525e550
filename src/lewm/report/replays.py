"""Evaluated episodes, played again from the actions in a result file, with what the model imagined while it acted.

Axes: E episode, N env step, T model step, D latent, a action, V view, Y X image.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lewm.envs.base import GoalEnvBatch
from lewm.envs.two_room.layout import ARENA_PX
from lewm.evaluation.outcomes import no_op_actions
from lewm.evaluation.probing import POSITION_LABELS, LinearProbe
from lewm.evaluation.protocol import Manifest, Pair
from lewm.evaluation.results import decode_actions, pair_batch
from lewm.planning.mpc import MPCPolicy, PolicyState

WORLD_SIDES_PX = {"two-room": ARENA_PX}
"""Worlds whose position labels are places in the frame, and the side of the frame in the labels' unit: markers can be drawn there."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One episode, as it was counted."""

    pair: str
    distance: int
    stratum: str
    first_hit: int | None
    frames: np.ndarray
    """uint8 [N+1, Y, X, 3]: the first camera, up to the first hit or the end of the budget."""
    goal_frame: np.ndarray
    """uint8 [Y, X, 3]."""
    positions: np.ndarray | None
    """float64 [N+1, 2]: where the agent was, as a share of the frame's sides (x, y); None where a world has no such labels."""
    goal_position: np.ndarray | None
    """float64 [2], in the same unit."""
    goal_radius: float | None
    """How near counts as solved, as a share of the frame's side."""
    imagined: list[np.ndarray | None]
    """For each of the N+1 moments the places that the plan in force was imagined to lead to, float64 [T, 2], or None without a probe."""

    @property
    def is_solved(self) -> bool:
        """Whether the goal was reached."""
        return self.first_hit is not None


def replay_episodes(result: dict[str, Any], pairs: Sequence[str], policy: MPCPolicy | None = None, probe: LinearProbe | None = None) -> list[Replay]:
    """Play the named pairs of a result again, all in one batch.

    The world follows the recorded actions, so each film shows exactly the episode that was counted. With ``policy`` and ``probe`` (fitted on the
    labels of that world) the policy plans again beside it, with the same seeds, and what it imagines is read off as places.
    """
    manifest = Manifest.from_dict(result["manifest"])
    by_id = {pair.id: pair for pair in manifest.pairs}
    chosen = [by_id[pair] for pair in pairs]
    episodes = {episode["pair"]: episode for episode in result["episodes"]}
    with closing(pair_batch(manifest, chosen)) as envs:
        actions = [decode_actions(episodes[pair]["actions"], envs.action_spec, pair) for pair in pairs]
        return _play(envs, manifest, chosen, actions, [episodes[pair]["first_hit"] for pair in pairs], policy, probe)


def _play(
    envs: GoalEnvBatch,
    manifest: Manifest,
    chosen: Sequence[Pair],
    actions: Sequence[np.ndarray],
    first_hits: Sequence[int | None],
    policy: MPCPolicy | None,
    probe: LinearProbe | None,
) -> list[Replay]:
    side_px = WORLD_SIDES_PX.get(manifest.env)
    goals = envs.observe_goals()
    state = None
    if policy is not None and probe is not None and side_px is not None:
        state = policy.reset(goals, [manifest.policy_seed(pair) for pair in chosen])
    frames: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    imagined: list[np.ndarray] = []
    for step in range(max(map(len, actions)) + 1):
        observation = envs.observe()
        frames.append(observation.frames[:, 0])
        labels.append(envs.labels())
        if state is not None and policy is not None and probe is not None and side_px is not None:
            num_plans = state.num_plans.copy()
            _, state = policy.act(observation, state)
            is_new = bool((state.num_plans > num_plans).any())
            imagined.append(_imagined_places(policy, state, probe, envs.label_names, side_px) if is_new else imagined[-1])
        idle = no_op_actions(envs.action_spec, envs.num_envs)
        envs.step(np.stack([own[step] if step < len(own) else idle[row] for row, own in enumerate(actions)]))
    envs.set_states([pair.goal_state for pair in chosen])
    places = None if side_px is None else _places(np.stack(labels), envs.label_names, side_px)
    goal_places = None if side_px is None else _places(envs.labels(), envs.label_names, side_px)
    radius_px = getattr(getattr(envs, "options", None), "success_radius_px", None)
    return [
        Replay(
            pair=pair.id,
            distance=pair.distance_env_steps,
            stratum=pair.stratum,
            first_hit=first_hits[row],
            frames=np.stack(frames[: len(own) + 1])[:, row],
            goal_frame=goals.frames[row, 0],
            positions=None if places is None else places[: len(own) + 1, row],
            goal_position=None if goal_places is None else goal_places[row],
            goal_radius=radius_px / side_px if radius_px and side_px else None,
            imagined=[None if not imagined else imagined[step][row] for step in range(len(own) + 1)],
        )
        for row, (pair, own) in enumerate(zip(chosen, actions, strict=True))
    ]


@torch.no_grad()
def _imagined_places(policy: MPCPolicy, state: PolicyState, probe: LinearProbe, names: Sequence[str], side_px: float) -> np.ndarray:
    """float64 [E, T, 2]: where the plans in force are imagined to lead, read off the imagined latents."""
    model = policy.model
    # With one env step per block the newest block is already among the past ones; then the last latent alone must do.
    length = int(state.num_latents.min()) if model.action_block > 1 else 1
    past = state.blocks[:, state.blocks.shape[1] - (length - 1) :]
    rollout = model.rollout(state.latents[:, -length:], past, state.plan[:, None])[:, 0]  # E T D
    return _places(probe.read(rollout.float().cpu().numpy()), names, side_px)


def _places(labels: np.ndarray, names: Sequence[str], side_px: float) -> np.ndarray:
    """Labels [..., s] -> shares of the frame's sides [..., 2]."""
    columns = [list(names).index(name) for name in POSITION_LABELS]
    places: np.ndarray = labels[..., columns].astype(np.float64) / side_px
    return places
