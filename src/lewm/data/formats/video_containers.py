"""Whether a video file is all there, told by the sizes that its container announces: a few bytes of it are read."""

from pathlib import Path
from typing import BinaryIO

from lewm.errors import DataError

EBML_ID, SEGMENT_ID = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def check_not_cut_off(path: Path) -> None:
    """``DataError`` if an mp4, mov, avi, mkv or webm file is shorter than it says."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF":
            announced = _riff_end(file, size)
        elif start[:4] == EBML_ID:
            announced = _matroska_end(file)
        elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            announced = _mp4_end(file, size)
        else:
            return
    if announced > size:
        raise DataError(f"{str(path)!r} is cut off: it has {size:,} of {announced:,} bytes; restore it")


def _riff_end(file: BinaryIO, size: int) -> int:
    """AVI: one RIFF chunk after the other. A size of 0 was never filled in and says nothing."""
    start = end = 0
    while start + 8 <= size:
        file.seek(start)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name != b"RIFF" or length == 0:
            break
        end = start + 8 + length
        start = end + length % 2  # padding, which may be missing at the end
    return end


def _mp4_end(file: BinaryIO, size: int) -> int:
    """MPEG-4 and QuickTime: boxes whose size includes their head; 1 means that 8 bytes of size follow, 0 that the rest of the file belongs to it."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length, head = int.from_bytes(file.read(4), "big"), 8
        file.read(4)
        if length == 1:
            length, head = int.from_bytes(file.read(8), "big"), 16
        if length < head:
            return size
        end += length
    return end if end >= size else size + 1  # a few bytes of a head


def _matroska_end(file: BinaryIO) -> int:
    """Matroska and WebM: a header, then one segment; a size of ones only was never filled in and says nothing."""
    file.seek(4)
    header_length = _variable_length(file)
    if header_length is None:
        return 0
    file.seek(file.tell() + header_length)
    if file.read(4) != SEGMENT_ID:
        return 0
    length = _variable_length(file)
    return 0 if length is None else file.tell() + length


def _variable_length(file: BinaryIO) -> int | None:
    """A whole number whose leading zero bits say how many bytes follow; None if it is unknown or not there."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    more = file.read(num_more)
    value = int.from_bytes(bytes([first[0] & (2 ** (7 - num_more) - 1)]) + more, "big")
    return None if len(more) < num_more or value == 2 ** (7 * (num_more + 1)) - 1 else value
