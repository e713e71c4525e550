"""``lewm push``: one commit that makes a repository hold exactly one run, checkpoint or dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lewm.cards import CARD_FILE
from lewm.errors import HubError
from lewm.hub.access import HubAddress, hub_errors
from lewm.hub.contents import MANIFEST_FILE, UNHASHED_FILES, Contents, check_names, contents_of
from lewm.versions import versions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_BRANCH = "main"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Where a push arrived."""

    url: str
    """Of the commit."""
    commit: str
    contents: Contents


def push(
    path: Path | str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    with_trainer: bool = False,
    address: HubAddress | None = None,
) -> Pushed:
    """Upload a run (its newest checkpoint), checkpoint or dataset as one commit; the repository and the branch are made where they are missing.

    Files of an earlier push that are no longer part of it are deleted in the same commit. ``HubError`` if the repository is public and ``private``
    was asked for, or holds files that are not lewm's; ``DataError`` or ``CheckpointError`` if what is to be pushed is damaged.
    """
    address = address or HubAddress()
    api = address.api()
    address.token_or_refusal()
    contents = contents_of(path, with_trainer=with_trainer, repo_id=repo_id)
    place: dict[str, Any] = {"repo_id": repo_id, "repo_type": contents.repo_type}
    with hub_errors(repo_id, revision):
        api.create_repo(**place, private=True if private else None, exist_ok=True)
        if private and not api.repo_info(**place).private:
            raise HubError(f"repository {repo_id!r} exists and is public: make it private in its settings, choose another, or leave --private out")
        if revision not in (None, DEFAULT_BRANCH):
            api.create_branch(**place, branch=str(revision), exist_ok=True)
        stale = _stale_files(api, contents, place | {"revision": revision})
        commit = api.create_commit(
            **place,
            operations=_operations(contents, stale),
            commit_message=f"{contents.kind.capitalize()} pushed by lewm {versions()['lewm']}",
            revision=revision,
        )
    return Pushed(url=commit.commit_url, commit=commit.oid, contents=contents)


def _stale_files(api: "HfApi", contents: Contents, place: dict[str, Any]) -> list[str]:
    """What an earlier push left and this one does not hold; ``HubError`` for files that are not lewm's, which are nobody's to delete here."""
    there = api.list_repo_files(**place)
    check_names(there, contents.repo_type, f"is in repository {place['repo_id']!r}, which could not be pulled then")
    return [name for name in there if name not in contents.files and name not in UNHASHED_FILES]


def _operations(contents: Contents, stale: list[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    written = {CARD_FILE: contents.card.encode(), MANIFEST_FILE: contents.manifest()}
    return [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in written.items()),
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in sorted(contents.files.items())),
        *(CommitOperationDelete(path_in_repo=name) for name in stale),
    ]
