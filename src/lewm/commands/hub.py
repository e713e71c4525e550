"""``lewm push`` and ``lewm pull``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from lewm.commands.parsing import parse, say, show


@dataclass(frozen=True)
class PushArguments:
    """Upload a run, checkpoint or dataset to the Hugging Face hub: the only command of lewm that sends anything anywhere."""

    path: tyro.conf.Positional[Path]
    """Run (its newest checkpoint), checkpoint or dataset."""
    repo_id: tyro.conf.Positional[str]
    """NAMESPACE/NAME on the hub; made if it is not there."""
    private: bool = False
    """Make the repository private; refused if it exists and is public."""
    revision: str | None = None
    """Branch to push to, made if it is not there; default: main."""
    trainer: bool = False
    """Also send the trainer's state, with which training can go on elsewhere."""
    dry_run: bool = False
    """Only list files and sizes; nothing is sent and the hub is not asked."""


@dataclass(frozen=True)
class PullArguments:
    """Download what `lewm push` uploaded, and verify it."""

    repo_id: tyro.conf.Positional[str]
    """NAMESPACE/NAME on the hub."""
    out: tyro.conf.Positional[Path]
    """Directory to write, which must not exist."""
    revision: str | None = None
    """Branch, tag or commit; default: main."""


def push(words: Sequence[str]) -> None:
    """Upload, or list what would be."""
    arguments = parse(PushArguments, "push", words)
    from lewm.hub import contents_of
    from lewm.hub import push as run_push

    if arguments.dry_run:
        contents = contents_of(arguments.path, with_trainer=arguments.trainer, repo_id=arguments.repo_id)
        sizes = contents.sizes
        show("\n".join(f"{num_bytes:>15,}  {name}" for name, num_bytes in sizes.items()))
        show(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files; nothing was sent to {contents.repo_type} {arguments.repo_id}")
    else:
        pushed = run_push(arguments.path, arguments.repo_id, private=arguments.private, revision=arguments.revision, with_trainer=arguments.trainer)
        contents = pushed.contents
        show(f"pushed: {contents.kind} {arguments.path} to {pushed.url}\nnext: lewm pull {arguments.repo_id} DIR")
    for note in contents.notes:
        say(f"left out: {note}")


def pull(words: Sequence[str]) -> None:
    """Download and verify."""
    arguments = parse(PullArguments, "pull", words)
    from lewm.hub import pull as run_pull

    show(f"pulled and verified: {run_pull(arguments.repo_id, arguments.out, revision=arguments.revision)}\nnext: lewm info {arguments.out}")
