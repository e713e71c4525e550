"""What a flat HDF5 file has no place for, kept in attributes of its root: names, bounds, world and policy, and where each episode came from.

The file stays what it is for everybody else, who need not look at them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py

from lewm.data.layout import DatasetMeta
from lewm.errors import DataError, LewmError
from lewm.schema import ActionSpec, ObservationSpec

FORMAT = 1
NOTE_ATTRIBUTE = "lewm"
PROVENANCE_ATTRIBUTE = "lewm_provenance"


@dataclass(frozen=True)
class Note:
    """The attributes of a file that lewm wrote."""

    meta: DatasetMeta
    """Without provenance."""
    provenance: list[dict[str, Any]]
    """One for each episode."""


def camera_columns(cameras: Sequence[str]) -> dict[str, str]:
    """Camera -> column: ``pixels`` for a single one, else ``pixels.NAME``, as stable-worldmodel calls them."""
    return {cameras[0]: "pixels"} if len(cameras) == 1 else {camera: f"pixels.{camera}" for camera in cameras}


def write_note(file: h5py.File, meta: DatasetMeta) -> None:
    """Put ``meta`` into the attributes of an open file."""
    file.attrs[NOTE_ATTRIBUTE] = json.dumps({"format": FORMAT, "meta": meta.identity()})


def write_provenance(file: h5py.File, provenance: Sequence[dict[str, Any]]) -> None:
    """Put the episodes' provenance into the attributes of an open file."""
    file.attrs[PROVENANCE_ATTRIBUTE] = json.dumps(list(provenance))


def read_note(file: h5py.File) -> Note | None:
    """The attributes that lewm wrote, None if somebody else wrote the file; ``DataError`` if they cannot be understood."""
    if NOTE_ATTRIBUTE not in file.attrs:
        return None
    try:
        values = json.loads(file.attrs[NOTE_ATTRIBUTE])
        if values["format"] != FORMAT:
            raise ValueError(f"it is of format {values['format']!r}, this version of lewm reads {FORMAT}")
        meta = _meta_from(values["meta"])
        provenance = json.loads(file.attrs.get(PROVENANCE_ATTRIBUTE, "[]"))
        if not isinstance(provenance, list) or not all(isinstance(entry, dict) for entry in provenance):
            raise ValueError("the episodes' provenance is no list")
    except (KeyError, TypeError, ValueError, AttributeError, LewmError) as error:
        raise DataError(f"{file.filename!r} is damaged: its attribute {NOTE_ATTRIBUTE!r} has a wrong entry ({error}); restore it") from None
    return Note(meta, provenance)


def _meta_from(values: dict[str, Any]) -> DatasetMeta:
    specs: dict[str, Any] = {"observation_spec": ObservationSpec, "action_spec": ActionSpec}
    parts = {
        name: spec(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.pop(name).items()})
        for name, spec in specs.items()
    }
    return DatasetMeta(**parts, label_names=tuple(values.pop("label_names")), **values)
