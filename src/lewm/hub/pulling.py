"""``lewm pull``: a repository as a directory, every file named, sized and hashed as its ``lewm.json`` says, or nothing at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from lewm.cards import CARD_FILE
from lewm.checkpoint import checkpoint_sha256, read_description
from lewm.data.durable import directory_written_atomically
from lewm.data.episodes import EpisodeStore
from lewm.errors import HubError
from lewm.hub.access import HubAddress, RepoType, hub_errors, missing_repository
from lewm.hub.contents import MANIFEST_FILE, Manifest, check_names, check_shard_files, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CHUNK_BYTES = 2**20
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset")


def pull(repo_id: str, out: Path | str, *, revision: str | None = None, address: HubAddress | None = None) -> Path:
    """Download what ``lewm push`` uploaded into the new directory ``out``, which is returned, and verify it.

    Downloads go through the hub's cache; with HF_HUB_OFFLINE=1 only the cache is asked. ``HubError`` if ``out`` exists, or the repository holds
    anything that is not lewm's, or a file is not as it was pushed: then nothing is written.
    """
    target = Path(out)
    if os.path.lexists(target):
        raise HubError(f"{str(target)!r} already exists; choose another directory, or remove it first")
    address = address or HubAddress()
    api = address.api()
    with hub_errors(repo_id, revision):
        snapshot, manifest = _download(api, address, repo_id, revision)
    with directory_written_atomically(target) as temporary:
        for name, (num_bytes, sha256) in manifest.files.items():
            _copy(_inside(snapshot, name), temporary / manifest.local_name(name), name, num_bytes, sha256)
        card = snapshot / CARD_FILE
        if card.exists():
            (temporary / CARD_FILE).write_bytes(_inside(snapshot, CARD_FILE).read_bytes())
        _check_whole(temporary, manifest)
    return target


def _download(api: "HfApi", address: HubAddress, repo_id: str, revision: str | None) -> tuple[Path, Manifest]:
    """The repository's files in the hub's cache, after their names were found to be lewm's."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        repo_type = _cached_type(address, repo_id, revision)
        manifest = _manifest(_snapshot(address, repo_id, repo_type, revision, [MANIFEST_FILE]), repo_id, repo_type)
        return _snapshot(address, repo_id, repo_type, revision, [*manifest.files]), manifest
    repo_type, commit = _find(api, repo_id, revision)
    there = api.list_repo_files(repo_id, repo_type=repo_type, revision=commit)
    check_names(there, repo_type, f"is in repository {repo_id!r}, which is therefore not pulled")
    if MANIFEST_FILE not in there:
        raise HubError(f"repository {repo_id!r} has no {MANIFEST_FILE}, so `lewm push` did not write it; `lewm convert` reads other formats")
    manifest = _manifest(_snapshot(address, repo_id, repo_type, commit, [MANIFEST_FILE]), repo_id, repo_type)
    missing = sorted(set(manifest.files) - set(there))
    if missing:
        raise HubError(f"repository {repo_id!r} has no {missing[0]!r}, which its {MANIFEST_FILE} lists; push it again with `lewm push`")
    wanted = [*manifest.files, *({CARD_FILE} & set(there))]
    snapshot = _snapshot(address, repo_id, repo_type, revision, wanted)  # by its name, which the cache then knows while offline
    if snapshot.name != commit:
        raise HubError(f"repository {repo_id!r} changed while it was pulled; pull it again")
    return snapshot, manifest


def _find(api: "HfApi", repo_id: str, revision: str | None) -> tuple[RepoType, str]:
    """The type of the repository and the commit that the revision names."""
    from huggingface_hub.errors import RepositoryNotFoundError

    found: list[tuple[RepoType, str]] = []
    for repo_type in REPO_TYPES:
        try:
            found.append((repo_type, str(api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha)))
        except RepositoryNotFoundError:
            continue
    if not found:
        raise HubError(missing_repository(repo_id))
    if len(found) > 1:
        raise HubError(f"{repo_id!r} names both a model and a dataset on the hub; their owner must rename one, for pull takes one name")
    return found[0]


def _cached_type(address: HubAddress, repo_id: str, revision: str | None) -> RepoType:
    """Which type of repository the cache has under that name."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    for repo_type in REPO_TYPES:
        try:
            _snapshot(address, repo_id, repo_type, revision, [MANIFEST_FILE])
        except LocalEntryNotFoundError:
            continue
        return repo_type
    raise LocalEntryNotFoundError(f"{repo_id} is not in the cache")


def _snapshot(address: HubAddress, repo_id: str, repo_type: RepoType, revision: str | None, names: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    settings: dict[str, Any] = {"cache_dir": address.cache, "endpoint": address.endpoint, "token": address.token}
    return Path(snapshot_download(repo_id, repo_type=repo_type, revision=revision, allow_patterns=names, **settings))


def _manifest(snapshot: Path, repo_id: str, repo_type: RepoType) -> Manifest:
    file = snapshot / MANIFEST_FILE
    if not file.exists():
        raise HubError(f"the cache has no {MANIFEST_FILE} of {repo_id!r}; pull it once while online")
    return read_manifest(_inside(snapshot, MANIFEST_FILE).read_bytes(), repo_type)


def _inside(snapshot: Path, name: str) -> Path:
    """A file of the snapshot, which is a link to one of the same repository's blobs; ``HubError`` for anything else."""
    file = (snapshot / name).resolve()
    cache = snapshot.resolve().parents[2]
    if not file.is_file() or not file.is_relative_to(cache):
        raise HubError(f"{name!r} in the cache is no file, or a link that leads elsewhere; remove {str(snapshot)!r} and pull again")
    return file


def _copy(source: Path, target: Path, name: str, num_bytes: int, sha256: str) -> None:
    """Copy a file while hashing it; ``HubError`` unless size and hash are those of the manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, copied = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            copied += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if copied != num_bytes or digest.hexdigest() != sha256:
        raise HubError(
            f"{name!r} has {copied:,} bytes and SHA-256 {digest.hexdigest()[:12]}, was pushed with {num_bytes:,} and {sha256[:12]};"
            " remove it from the hub's cache and pull again, or ask its owner to push it again"
        )


def _check_whole(directory: Path, manifest: Manifest) -> None:
    """``LewmError`` unless the pulled files make a dataset or checkpoint that verifies and has the hash that it was pushed with."""
    if manifest.kind == "dataset":
        store = EpisodeStore(directory)
        store.verify()
        check_shard_files(manifest, store)
        found, expected = store.dataset_sha256, manifest.identity["dataset_sha256"]
    else:
        checkpoint = directory / Path(manifest.local_name("config.json")).parent
        read_description(checkpoint)
        for name in manifest.files:
            _check_readable(directory / manifest.local_name(name), name)
        found, expected = checkpoint_sha256(checkpoint), manifest.identity["checkpoint_sha256"]
    if found != expected:
        raise HubError(f"the pulled {manifest.kind} has the hash {found[:12]}, was pushed with {expected[:12]}; ask its owner to push it again")


def _check_readable(file: Path, name: str) -> None:
    """A file that is called safetensors or JSON must be that, and no pickle under its name."""
    try:
        if name.endswith(".safetensors"):
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        elif name.endswith(".json"):
            json.loads(file.read_bytes())
    except (SafetensorError, ValueError, RecursionError) as error:
        raise HubError(f"{name!r} is not what its name says ({error}); ask its owner to push it again") from error
