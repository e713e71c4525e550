"""``lewm collect``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lewm.commands.parsing import ProgressBar, command_line, parse, parse_options, refresh_card, say, show
from lewm.errors import ConfigError

if TYPE_CHECKING:  # only types: the parser's help and refusals must not wait for what a collection imports
    from lewm.data.collect import CollectionProgress

DEFAULT_MAX_ENV_STEPS = 100


@dataclass(frozen=True)
class CollectArguments:
    """Record episodes of a world into a dataset."""

    out: Path
    """Dataset directory to write."""
    env: tyro.conf.Positional[str | None] = None
    """Which world (`lewm list envs`); a preset may say it."""
    preset: str | None = None
    """A collection by name (`lewm list collections`); flags override what it says."""
    episodes: int | None = None
    """Number of episodes; a preset may say it."""
    policy: str | None = None
    """Who acts: a name (`lewm list policies`), a scripted policy of the world such as expert, or the directory of a run. Default: the world's own."""
    workers: int = 1
    """Processes; changes no result."""
    seed: int = 0
    """Seed of the dataset; each episode's own follows from it and the episode's number."""
    resume: bool = False
    """Continue an interrupted collection or append more episodes."""
    dry_run: bool = False
    """Only say what the collection would take."""
    max_env_steps: int | None = None
    """Length of an episode, 100 if neither this nor a preset says otherwise."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable: size_px=224, collision=official, vary=[\\"door_y_px\\"]."""
    policy_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the policy, repeatable: action_noise=1.0."""


def collect(words: Sequence[str]) -> None:
    """Collect episodes and say what was made."""
    arguments = parse(CollectArguments, "collect", words)
    from lewm.data.collect import collect as run_collection

    settings = _settings(arguments)
    _estimate(arguments, settings)
    if arguments.dry_run:
        return
    bar = ProgressBar(f"collecting {settings['env']}")
    try:
        store = run_collection(
            **settings,
            out=arguments.out,
            resume=arguments.resume,
            workers=arguments.workers,
            command=command_line("collect", words),
            progress=lambda now: bar.update(_num_shown(now), now.num_episodes, _note(now)),
        )
    finally:
        bar.close()
    refresh_card(arguments.out)
    show(f"collected: {arguments.out}: {len(store):,} episodes, {store.num_env_steps:,} env steps")
    preset = {"dmc": "dmc", "atari": "atari"}.get(store.env["name"].partition("/")[0], "laptop")
    show(f"next: lewm train --data {arguments.out} --preset {preset} --out RUN")


def _settings(arguments: CollectArguments) -> dict[str, Any]:
    """What decides the data: the preset's word, and the flags' over it."""
    from lewm.data.collection_presets import CollectionPreset, load_collection
    from lewm.envs.base import canonical_name

    if arguments.preset is None:
        if arguments.env is None or arguments.episodes is None:
            raise ConfigError("`lewm collect` needs a world and --episodes, as in `lewm collect two-room --episodes 1000`, or a --preset")
        preset = CollectionPreset(name="", env=arguments.env, episodes=arguments.episodes, max_env_steps=DEFAULT_MAX_ENV_STEPS)
    else:
        preset = load_collection(arguments.preset)
        if arguments.env not in (None, preset.env) and canonical_name(str(arguments.env)) != canonical_name(preset.env):
            raise ConfigError(f"preset {preset.name!r} is a collection of {preset.env!r}, not of {arguments.env!r}; leave one of them out")
    if arguments.policy not in (None, preset.policy):
        preset = replace(preset, policy_options={})  # they are another policy's
    return {
        "env": preset.env,
        "episodes": preset.episodes if arguments.episodes is None else arguments.episodes,
        "max_env_steps": preset.max_env_steps if arguments.max_env_steps is None else arguments.max_env_steps,
        "policy": preset.policy if arguments.policy is None else arguments.policy,
        "env_options": preset.env_options | parse_options(arguments.env_option, "--env-option"),
        "policy_options": preset.policy_options | parse_options(arguments.policy_option, "--policy-option"),
        "seed": arguments.seed,
    }


def _estimate(arguments: CollectArguments, settings: dict[str, Any]) -> None:
    """Say what the collection will take, on stdout if that is all that was asked for; refuse what the collection itself would."""
    from lewm.data.collect import prepare
    from lewm.data.estimates import estimate_collection

    meta = prepare(**settings, out=arguments.out, resume=arguments.resume, workers=arguments.workers)
    estimate = estimate_collection(meta, arguments.out, settings["episodes"], workers=arguments.workers)
    (show if arguments.dry_run else say)(f"{settings['env']}, policy {meta.policy['name']}: {estimate}")


def _num_shown(now: "CollectionProgress") -> int:
    """Episodes recorded; the last one counts when all are on disk, for a full bar is a closed one."""
    return now.num_recorded if now.num_written == now.num_episodes else min(now.num_recorded, now.num_episodes - 1)


def _note(now: "CollectionProgress") -> str:
    from lewm.data.estimates import format_bytes

    return f"{now.frames_per_s:,.0f} frames/s, {format_bytes(now.num_bytes)} on disk"
