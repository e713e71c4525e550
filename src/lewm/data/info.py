"""What a dataset is, for ``lewm info``."""

import dataclasses
from pathlib import Path
from typing import Any

from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import ForeignStore, format_of, open_store
from lewm.data.layout import FORMAT
from lewm.errors import ConfigError


def describe_dataset(path: Path | str, verify: bool = False) -> dict[str, Any]:
    """Counts, sizes, specifications, origin and hash of the recording at ``path``, of any format, as plain JSON values.

    With ``verify`` every file's SHA-256 is checked too, which only the native format has; ``DataError`` names the first that is damaged.
    """
    name = format_of(Path(path))
    store = open_store(path, format=name)
    if isinstance(store, EpisodeStore) and verify:
        store.verify()
    elif verify:
        raise ConfigError(f"{str(path)!r} is of format {name}, which keeps no hashes: leave --verify out, or convert it with `lewm convert`")
    own = _native(store, verify) if isinstance(store, EpisodeStore) else _foreign(store)
    lengths = store.index["length"]
    return {
        "path": str(path),
        "data_format": name,
        "dataset_sha256": store.dataset_sha256,
        "num_episodes": len(store),
        "num_env_steps": store.num_env_steps,
        "num_observations": store.num_env_steps + len(store),
        "episode_env_steps": {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 2), "max": int(lengths.max())},
        "num_terminated": int(store.index["terminated"].sum()),
        "columns": {name: {"dtype": column.dtype.name, "shape": list(column.shape)} for name, column in store.meta.columns.items()},
        "label_names": list(store.label_names),
        "observation_spec": dataclasses.asdict(store.observation_spec),
        "action_spec": dataclasses.asdict(store.action_spec),
        "env": store.env,
        "policy": dict(store.meta.policy),
        "collection": dict(store.meta.collection),
        "provenance": dict(store.meta.provenance),
        **own,
    }


def _native(store: EpisodeStore, verify: bool) -> dict[str, Any]:
    shards = {"num_shards": store.num_shards, "episodes_per_shard": store.meta.episodes_per_shard, "bytes": store.num_bytes}
    return {"format": FORMAT, "verified": verify} | shards


def _foreign(store: ForeignStore) -> dict[str, Any]:
    """What the file says of its first episode, and how large it is on the disk."""
    files = [store.path] if store.path.is_file() else [file for file in store.path.rglob("*") if file.is_file()]
    return {"bytes": sum(file.stat().st_size for file in files), "first_episode": store.reader.provenance(0)}
