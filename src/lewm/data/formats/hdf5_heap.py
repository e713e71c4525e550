"""Rows of variable length in an HDF5 file, found without HDF5's own reader of them, which never returns from some damaged files.

Axes: n row.

A row is a reference: its length, 4 bytes; the address of a collection, 8; the number of an object in it, 4. A collection begins with ``GCOL``, a
version, 3 bytes, its size, 8. Then come objects: number, 2, uses, 2, nothing, 4, size, 8, and the bytes, filled up to a multiple of 8. Number 0 is
the free rest (HDF5 File Format Specification 3.0, III.E and VIII.B.2).
"""

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

REFERENCE = struct.Struct("<IQI")
COLLECTION = struct.Struct("<4sB3xQ")
OBJECT = struct.Struct("<HH4xQ")
MAX_COLLECTION_BYTES = 2**28


def variable_rows(dataset: Any, path: Path, rows: np.ndarray) -> list[bytes]:
    """Rows of a one-dimensional data set of ``path``, int64 [n] ascending; ``ValueError`` if it is damaged, filtered or of another layout."""
    plan = dataset.id.get_create_plist()
    if dataset.ndim != 1 or plan.get_layout() != h5py.h5d.CHUNKED or plan.get_nfilters() or (len(rows) and int(rows[-1]) >= len(dataset)):
        raise ValueError("its rows of variable length are too few, filtered, or not in chunks of a single axis")
    chunk_rows, chunks, collections, found = dataset.chunks[0], dict[int, bytes](), dict[int, dict[int, bytes]](), []
    with open(path, "rb") as file:
        for row in rows.tolist():
            chunk, place = divmod(row, chunk_rows)
            if chunk not in chunks:
                chunks[chunk] = dataset.id.read_direct_chunk((chunk * chunk_rows,))[1]
                if len(chunks[chunk]) != chunk_rows * REFERENCE.size:
                    raise ValueError(f"a chunk has {len(chunks[chunk])} bytes, not {chunk_rows} references of {REFERENCE.size}")
            length, address, number = REFERENCE.unpack_from(chunks[chunk], place * REFERENCE.size)
            if address not in collections:
                collections[address] = _objects(file, address + dataset.file.userblock_size)
            content = collections[address].get(number, b"")
            if length > len(content):
                raise ValueError(f"row {row} has {len(content)} of {length} bytes")
            found.append(content[:length])
    return found


def _objects(file: Any, address: int) -> dict[int, bytes]:
    """The objects of a collection by number."""
    file.seek(address)
    start = file.read(COLLECTION.size)
    magic, version, size = COLLECTION.unpack(start) if len(start) == COLLECTION.size else (b"", 0, 0)
    if magic != b"GCOL" or version != 1 or not COLLECTION.size <= size <= MAX_COLLECTION_BYTES:
        raise ValueError(f"there is no collection of objects at byte {address}")
    content, at, found = file.read(size - COLLECTION.size), 0, {}
    while at + OBJECT.size <= len(content):
        number, _, num_bytes = OBJECT.unpack_from(content, at)
        if number == 0:
            break
        found[number] = content[at + OBJECT.size : at + OBJECT.size + num_bytes]
        at += OBJECT.size + (num_bytes + 7) // 8 * 8
    return found
