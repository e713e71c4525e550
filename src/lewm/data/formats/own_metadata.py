"""What other people's formats have no place for, as one JSON text that travels along in their metadata and is read back if it is there."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lewm.data.layout import DatasetMeta
from lewm.errors import DataError, LewmError
from lewm.schema import ActionSpec, ObservationSpec

KEY = "lewm"
FORMAT = 1
BAD_ENTRIES = (KeyError, TypeError, ValueError, AttributeError, RecursionError, LewmError)


def to_text(meta: DatasetMeta) -> str:
    """The dataset's settings as JSON."""
    try:
        values = json.loads(json.dumps(dataclasses.asdict(meta)))
    except TypeError as error:
        raise DataError(f"the dataset's settings must be plain JSON values: {error}") from None
    return json.dumps({"format": FORMAT, "meta": values, "sha256": _sha256(values)}, sort_keys=True)


def from_text(text: str | bytes, where: str) -> DatasetMeta:
    """The inverse of ``to_text``; ``DataError`` if the text is damaged or of another format number. ``where`` names the file."""
    try:
        content = json.loads(text)
        version, values = content["format"], dict(content["meta"])
        if version == FORMAT and content["sha256"] != _sha256(values):
            raise ValueError("it does not have its checksum")
        parts = _parts(values) if version == FORMAT else {}
    except BAD_ENTRIES as error:
        raise DataError(f"{where} is damaged: its entry {KEY!r} cannot be used ({error}); restore it or convert anew") from None
    if version != FORMAT:
        raise DataError(f"{where} was written with format {version!r} by another lewm, this one reads {FORMAT}; use the version that wrote it")
    return DatasetMeta(**parts)


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _parts(values: dict[str, Any]) -> dict[str, Any]:
    observations = ObservationSpec(**_as_tuples(values.pop("observation_spec")))
    actions = ActionSpec(**_as_tuples(values.pop("action_spec")))
    label_names = tuple(values.pop("label_names"))
    for name in (*label_names, *observations.proprioception, *observations.cameras):
        if not isinstance(name, str):
            raise TypeError(f"names must be text, got {name!r}")
    parts = {"observation_spec": observations, "action_spec": actions, "label_names": label_names, **values}
    DatasetMeta(**parts)  # refuses what is not allowed while the caller still listens
    return parts


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def listed(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names given as an option: a sequence, or text with commas; None stays None."""
    if names is None:
        return None
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else tuple(names)
