"""What a repository on the hub holds: the files of one run, checkpoint or dataset, and ``lewm.json``, which names, sizes and hashes them.

A checkpoint's files stand at the top, where the hub and ``load_checkpoint`` look for them; a pulled run has them back under ``checkpoints/``.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lewm.cards import CARD_FILE, card, is_generated
from lewm.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import EPISODES_FILE, INDEX_FILE, META_FILE, SHARD_FILE, SHARDS_DIRECTORY
from lewm.data.shards import read_record
from lewm.errors import CheckpointError, HubError
from lewm.hub.access import RepoType
from lewm.report.evidence import read_evidence
from lewm.versions import versions

FORMAT = 1
MANIFEST_FILE = "lewm.json"
Kind = Literal["run", "checkpoint", "dataset"]
KINDS: tuple[Kind, ...] = ("run", "checkpoint", "dataset")
CHECKPOINT_FILES = ("config.json", "model.safetensors")
TRAINER_FILES = ("trainer.safetensors", "trainer.json")
RUN_FILES = ("config.toml", "metrics.jsonl", "report.html", "rollout.gif")
UNHASHED_FILES = (CARD_FILE, ".gitattributes", MANIFEST_FILE)
"""Beside what the manifest lists: people edit cards, and the hub makes ``.gitattributes``."""
_NAMES: dict[RepoType, re.Pattern[str]] = {
    "model": re.compile(
        r"(config\.json|model\.safetensors|trainer\.safetensors|trainer\.json|config\.toml|metrics\.jsonl|report\.html|rollout\.gif)"
        r"|results/[A-Za-z0-9_][A-Za-z0-9_.+=-]*\.json"
    ),
    "dataset": re.compile(r"meta\.json|episodes\.npy|shards/[0-9]{5,9}/(shard\.json|episodes\.jsonl|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?\.npy)"),
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a push sends."""

    kind: Kind
    files: dict[str, Path]
    """Name in the repository -> file on this machine."""
    hashes: dict[str, str]
    """SHA-256 by name."""
    identity: dict[str, Any]
    """``checkpoint_sha256`` and ``step``, or ``dataset_sha256``."""
    card: str
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    @property
    def repo_type(self) -> RepoType:
        """The hub keeps models and datasets apart."""
        return "dataset" if self.kind == "dataset" else "model"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name, of everything that is sent."""
        sent = {name: path.stat().st_size for name, path in sorted(self.files.items())}
        return sent | {MANIFEST_FILE: len(self.manifest()), CARD_FILE: len(self.card.encode())}

    def manifest(self) -> bytes:
        """The content of ``lewm.json``."""
        files = {name: {"bytes": path.stat().st_size, "sha256": self.hashes[name]} for name, path in sorted(self.files.items())}
        values = {"format": FORMAT, "kind": self.kind, **self.identity, "lewm": versions()["lewm"], "files": files}
        return (json.dumps(values, indent=1) + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``lewm.json``, read and checked: every name in it is one that its kind may hold."""

    kind: Kind
    identity: dict[str, Any]
    files: dict[str, tuple[int, str]]
    """Name -> bytes and SHA-256."""

    @property
    def repo_type(self) -> RepoType:
        """The hub keeps models and datasets apart."""
        return "dataset" if self.kind == "dataset" else "model"

    def local_name(self, name: str) -> str:
        """Where a pulled file goes: a run keeps its checkpoint's files under the step."""
        is_inner = self.kind == "run" and name in (*CHECKPOINT_FILES, *TRAINER_FILES)
        return f"checkpoints/step-{self.identity['step']:08d}/{name}" if is_inner else name


def contents_of(path: Path | str, *, with_trainer: bool = False, repo_id: str = "") -> Contents:
    """The files of a run (its newest checkpoint), checkpoint or dataset, verified and hashed: what ``push`` would send to ``repo_id``."""
    root = Path(path)
    is_dataset = (root / META_FILE).exists()
    if is_dataset and with_trainer:
        raise HubError(f"{str(root)!r} is a dataset, and only checkpoints have a trainer's state; leave --trainer out")
    kind, files, hashes, identity, notes = _dataset(root) if is_dataset else _model(root, with_trainer)
    check_names(files, "dataset" if is_dataset else "model", "cannot be pushed")
    hashes = {name: hashes.get(name) or file_sha256(file) for name, file in files.items()}
    return Contents(kind=kind, files=files, hashes=hashes, identity=identity, card=_card(root, repo_id), notes=notes)


_Found = tuple[Kind, dict[str, Path], dict[str, str], dict[str, Any], tuple[str, ...]]


def _dataset(root: Path) -> _Found:
    store = EpisodeStore(root)
    store.verify()
    files = {name: root / name for name in (META_FILE, INDEX_FILE)}
    hashes: dict[str, str] = {}
    for shard in range(store.num_shards):
        record = read_record(root, store.meta, shard)
        for name in (SHARD_FILE, *record.files):
            files[f"{SHARDS_DIRECTORY}/{shard:05d}/{name}"] = root / SHARDS_DIRECTORY / f"{shard:05d}" / name
        hashes |= {f"{SHARDS_DIRECTORY}/{shard:05d}/{name}": str(entry["sha256"]) for name, entry in record.files.items()}  # just verified
    return "dataset", files, hashes, {"dataset_sha256": store.dataset_sha256}, ()


def _model(root: Path, with_trainer: bool) -> _Found:
    directory = find_checkpoint(root)
    checkpoint = load_checkpoint(directory)
    files = {name: directory / name for name in CHECKPOINT_FILES}
    if with_trainer:
        files |= {name: directory / name for name in TRAINER_FILES}
        missing = [name for name in TRAINER_FILES if not files[name].exists()]
        if missing:
            raise CheckpointError(f"checkpoint {str(directory)!r} has no {missing[0]}: it cannot be resumed; push it without --trainer")
    identity = {"checkpoint_sha256": checkpoint.sha256, "step": checkpoint.step}
    if not list_checkpoints(root):
        return "checkpoint", files, {}, identity, ()
    evidence = read_evidence(root)
    results = [result["file"] for results in evidence.results.values() for result in results]
    files |= {name: root / name for name in (*RUN_FILES, *results) if (root / name).is_file()}
    return "run", files, {}, identity, evidence.notes


def _card(root: Path, repo_id: str) -> str:
    """A person's card as it stands, or one generated now that names the repository."""
    file = root / CARD_FILE
    if file.exists() and not is_generated(own := file.read_text()):
        return own
    return card(root, repo_id) if repo_id else card(root)


def check_names(names: Iterable[str], repo_type: RepoType, consequence: str) -> None:
    """``HubError`` if a name is none that a run or dataset of lewm has: no other code, pickle or path gets in or out."""
    unknown = [name for name in names if name not in UNHASHED_FILES and not _NAMES[repo_type].fullmatch(name)]
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise HubError(
            f"{unknown[0]!r}{others} {consequence}: it is no file of a {repo_type} of lewm; remove or rename it, or use another repository"
        )


def read_manifest(content: bytes, repo_type: RepoType) -> Manifest:
    """``lewm.json`` of a repository of that type; ``HubError`` unless it is of a known format and names only what may be there."""
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise HubError(
                f"{MANIFEST_FILE} has format {values['format']!r}, this version of lewm reads format {FORMAT}; use the version that wrote it"
            )
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in values["files"].items()}
        kind = next(known for known in KINDS if known == values["kind"])
        identity = {"dataset_sha256": str(values["dataset_sha256"])} if kind == "dataset" else _checkpoint_identity(values)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise HubError(f"{MANIFEST_FILE} of the repository cannot be used ({error!r}); push it again with `lewm push`") from None
    manifest = Manifest(kind=kind, identity=identity, files=files)
    if manifest.repo_type != repo_type:
        raise HubError(f"{MANIFEST_FILE} describes a {kind}, in a {repo_type} repository; push it again with `lewm push`")
    check_names(files, repo_type, "may not be in a repository")
    required = (META_FILE, INDEX_FILE) if kind == "dataset" else CHECKPOINT_FILES
    missing = [name for name in required if name not in files]
    if missing or set(files) & set(UNHASHED_FILES):
        raise HubError(f"{MANIFEST_FILE} of the repository does not describe a whole {kind}; push it again with `lewm push`")
    return manifest


def check_shard_files(manifest: Manifest, store: EpisodeStore) -> None:
    """``HubError`` unless a pulled dataset has the files that its shards name and no others."""
    expected = {META_FILE, INDEX_FILE}
    for shard in range(store.num_shards):
        names = {f"{name}.npy" for name in store.meta.columns} | {EPISODES_FILE, SHARD_FILE}
        expected |= {f"{SHARDS_DIRECTORY}/{shard:05d}/{name}" for name in names}
    others = sorted(set(manifest.files) ^ expected)
    if others:
        raise HubError(f"the repository's dataset should hold {others[0]!r} but does not, or the other way round; push it again with `lewm push`")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoint_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    step = values["step"]
    if type(step) is not int or not 0 <= step < 10**12:
        raise ValueError(f"step {step!r}")
    return {"checkpoint_sha256": str(values["checkpoint_sha256"]), "step": step}
