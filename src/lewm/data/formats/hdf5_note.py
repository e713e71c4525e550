"""What a flat HDF5 file has no place for, kept in attributes of its root: names, bounds, world and policy, and where each episode came from.

The file stays what it is for everybody else, who need not look at them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py

from lewm.data.formats import own_metadata
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError

PROVENANCE_KEY = "lewm_provenance"


@dataclass(frozen=True)
class Note:
    """The attributes of a file that lewm wrote."""

    meta: DatasetMeta
    provenance: list[dict[str, Any]]
    """One for each episode."""


def camera_columns(cameras: Sequence[str]) -> dict[str, str]:
    """Camera -> column: ``pixels`` for a single one, else ``pixels.NAME``, as stable-worldmodel calls them."""
    return {cameras[0]: "pixels"} if len(cameras) == 1 else {camera: f"pixels.{camera}" for camera in cameras}


def write_note(file: h5py.File, meta: DatasetMeta) -> None:
    """Put ``meta`` into the attributes of an open file."""
    file.attrs[own_metadata.KEY] = own_metadata.to_text(meta)


def write_provenance(file: h5py.File, provenance: Sequence[dict[str, Any]]) -> None:
    """Put the episodes' provenance into the attributes of an open file."""
    file.attrs[PROVENANCE_KEY] = json.dumps(list(provenance))


def read_note(file: h5py.File) -> Note | None:
    """The attributes that lewm wrote, None if somebody else wrote the file; ``DataError`` if they cannot be understood."""
    if own_metadata.KEY not in file.attrs:
        return None
    meta = own_metadata.from_text(file.attrs[own_metadata.KEY], repr(file.filename))
    try:
        provenance = json.loads(file.attrs.get(PROVENANCE_KEY, "[]"))
        if not isinstance(provenance, list) or not all(isinstance(entry, dict) for entry in provenance):
            raise ValueError("it is no list of objects")
    except (TypeError, ValueError) as error:
        raise DataError(f"{file.filename!r} is damaged: its attribute {PROVENANCE_KEY!r} has a wrong entry ({error}); restore it") from None
    return Note(meta, provenance)
