"""What a dataset is, for ``lewm info``."""

import dataclasses
from pathlib import Path
from typing import Any

from lewm.data.episodes import EpisodeStore
from lewm.data.layout import FORMAT


def describe_dataset(path: Path | str, verify: bool = False) -> dict[str, Any]:
    """Counts, sizes, specifications, origin and hash of the dataset at ``path``, as plain JSON values.

    With ``verify`` every file's SHA-256 is checked too; ``DataError`` names the first that is damaged.
    """
    store = EpisodeStore(path)
    if verify:
        store.verify()
    lengths = store.index["length"]
    return {
        "path": str(path),
        "format": FORMAT,
        "dataset_sha256": store.dataset_sha256,
        "verified": verify,
        "num_episodes": len(store),
        "num_env_steps": store.num_env_steps,
        "num_observations": store.num_env_steps + len(store),
        "episode_env_steps": {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 2), "max": int(lengths.max())},
        "num_terminated": int(store.index["terminated"].sum()),
        "num_shards": store.num_shards,
        "episodes_per_shard": store.meta.episodes_per_shard,
        "bytes": store.num_bytes,
        "columns": {name: {"dtype": column.dtype.name, "shape": list(column.shape)} for name, column in store.meta.columns.items()},
        "label_names": list(store.label_names),
        "observation_spec": dataclasses.asdict(store.observation_spec),
        "action_spec": dataclasses.asdict(store.action_spec),
        "env": store.env,
        "policy": dict(store.meta.policy),
        "collection": dict(store.meta.collection),
        "provenance": dict(store.meta.provenance),
    }
