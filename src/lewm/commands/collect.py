"""``lewm collect``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lewm.commands.parsing import ProgressBar, command_line, parse, parse_options, show


@dataclass(frozen=True)
class CollectArguments:
    """Record episodes of a world into a dataset."""

    env: tyro.conf.Positional[str]
    """Which world (`lewm list envs`)."""
    out: Path
    """Dataset directory to write."""
    episodes: int
    """Number of episodes."""
    policy: str = "expert"
    """Who acts: random, block-random, or a scripted policy of the world such as expert."""
    workers: int = 1
    """Processes; changes no result."""
    seed: int = 0
    """Seed of the dataset; each episode's own follows from it and the episode's number."""
    resume: bool = False
    """Continue an interrupted collection or append more episodes."""
    max_env_steps: int = 100
    """Length of an episode."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable: size_px=224, collision=official, vary=[\\"door_y_px\\"]."""
    policy_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the policy, repeatable: action_noise=1.0."""


def collect(words: Sequence[str]) -> None:
    """Collect episodes and say what was made."""
    arguments = parse(CollectArguments, "collect", words)
    from lewm.data.collect import collect as run_collection

    bar = ProgressBar(f"collecting {arguments.env}")
    try:
        store = run_collection(
            arguments.env,
            arguments.out,
            episodes=arguments.episodes,
            policy=arguments.policy,
            seed=arguments.seed,
            max_env_steps=arguments.max_env_steps,
            env_options=parse_options(arguments.env_option, "--env-option"),
            policy_options=parse_options(arguments.policy_option, "--policy-option"),
            resume=arguments.resume,
            workers=arguments.workers,
            command=command_line("collect", words),
            progress=bar.update,
        )
    finally:
        bar.close()
    show(f"collected: {arguments.out}: {len(store):,} episodes, {store.num_env_steps:,} env steps")
    show(f"next: lewm train --data {arguments.out} --preset laptop --out RUN")
