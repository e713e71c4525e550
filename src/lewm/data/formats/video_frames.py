"""Frames of video files by number: decoded from the keyframe before, by any thread, with few files open.

Axes: n frame, Y X image.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lewm.data.formats.recent import Recent
from lewm.data.formats.video_containers import check_not_cut_off
from lewm.errors import DataError

MAX_IDLE_DECODERS = 8
MAX_INDEXED_FRAMES = 4_000_000
"""Of all files together: about 40 MB; what was used longest ago is forgotten and read again when it is needed."""


@dataclass(frozen=True)
class VideoHeader:
    """What a file says of itself, and its first frame."""

    height_px: int
    width_px: int
    """Of the frames as they are shown: rotated, if the file says so."""
    num_frames: int | None
    """None where the container does not say: Matroska, WebM."""


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a file in the order in which they are shown, found by reading it through without decoding."""

    pts: np.ndarray
    """int64 [n], ascending: when each is shown, in units of ``time_base``."""
    keyframes: np.ndarray
    """int64 [k], ascending: from which frames on the k-th keyframe will do; 0 is one of them. It may itself be cut away from what is shown."""
    keyframe_pts: np.ndarray
    """int64 [k]: when they are shown."""
    keyframe_dts: np.ndarray
    """int64 [k]: where to seek for them."""
    time_base: Fraction

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times_s(self) -> np.ndarray:
        """float64 [n]: when each frame is shown."""
        return np.asarray(self.pts * float(self.time_base))

    def frames_at(self, times_s: np.ndarray, tolerance_s: float) -> np.ndarray:
        """int64: numbers of the frames nearest to some times, -1 where none is within the tolerance."""
        shown = self.times_s
        after = np.searchsorted(shown, times_s).clip(1, max(1, len(shown) - 1))
        before = after - 1
        after = after.clip(max=len(shown) - 1)
        nearest = np.where(np.abs(shown[after] - times_s) < np.abs(shown[before] - times_s), after, before)
        return np.where(np.abs(shown[nearest] - times_s) <= tolerance_s, nearest, -1)


class VideoFrames:
    """Frames of any number of files. Safe from several threads: each takes a decoder of its own; a few idle ones stay open."""

    def __init__(self, max_idle_decoders: int = MAX_IDLE_DECODERS) -> None:
        self._max_idle = max_idle_decoders
        self._idle: list[_Decoder] = []
        """The one used last is at the end."""
        self._indices: Recent[Path, VideoIndex] = Recent(MAX_INDEXED_FRAMES, len)
        self._lock = threading.Lock()

    def index(self, path: Path) -> VideoIndex:
        """Where the frames of a file are; ``DataError`` if it is cut off or damaged."""
        return self._indices.get(path, lambda: read_index(path))

    def read(self, path: Path, numbers: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
        """Frames of a file, uint8 RGB [n, Y, X, 3]; ``numbers`` int64 [n], ascending and distinct.

        ``DataError`` names the file and the frame that is missing, cannot be decoded or is of another size.
        """
        index = self.index(path)
        out = np.empty((len(numbers), height_px, width_px, 3), np.uint8)
        if len(numbers) and not 0 <= numbers[0] <= numbers[-1] < len(index):
            raise DataError(
                f"{str(path)!r} has {len(index)} frames, number {int(numbers[-1])} was asked for; the file does not belong to its actions"
            )
        with self._borrowed(path) as decoder:
            decoder.read(index, numbers, out)
        return out

    def close(self) -> None:
        """Close what is open; harmless when called twice."""
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.close()

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator["_Decoder"]:
        """A decoder of a file for this thread alone. One that failed is not used again."""
        with self._lock:
            place = next((place for place, idle in enumerate(self._idle) if idle.path == path), None)
            decoder = self._idle.pop(place) if place is not None else None
        decoder = decoder or _Decoder(path)
        try:
            yield decoder
        except BaseException:
            decoder.close()
            raise
        with self._lock:
            self._idle.append(decoder)
            dropped = [self._idle.pop(0)] if len(self._idle) > self._max_idle else []
        for old in dropped:
            old.close()


class _Decoder:
    """One open file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = open_video(path)
        self._stream = video_stream(self._container, path)
        self._reformatter = VideoReformatter()  # a frame's own is made anew for each, which takes longer than decoding

    def close(self) -> None:
        self._container.close()

    def read(self, index: VideoIndex, numbers: np.ndarray, out: np.ndarray) -> None:
        """Decode some frames into ``out``, seeking only where that skips something."""
        keyframes = np.searchsorted(index.keyframes, numbers, side="right") - 1
        start = 0
        while start < len(numbers):
            end = start + 1
            while end < len(numbers) and index.keyframes[keyframes[end]] <= numbers[end - 1] + 1:
                end += 1
            self._read_run(index, numbers[start:end], int(keyframes[start]), out[start:end])
            start = end

    def _read_run(self, index: VideoIndex, numbers: np.ndarray, keyframe: int, out: np.ndarray) -> None:
        """Frames that are decoded in one go. A container whose seeking lands too late is read from its start."""
        row = 0
        for attempt in dict.fromkeys((keyframe, 0)):
            try:
                for frame in self._frames_from(index, attempt):
                    number = _number_of(index, frame)
                    if number > numbers[row]:
                        break
                    if number == numbers[row]:
                        out[row] = self._rgb(frame, number, out.shape[1:3])
                        row += 1
                        if row == len(numbers):
                            return
            except (av.FFmpegError, ValueError, MemoryError) as error:
                raise DataError(f"{str(self.path)!r} is damaged: frame {int(numbers[row])} cannot be decoded ({error}); restore the file") from None
        raise DataError(f"{str(self.path)!r} is damaged: frame {int(numbers[row])} does not come out of the decoder; restore the file")

    def _frames_from(self, index: VideoIndex, keyframe: int) -> Iterator[VideoFrame]:
        """Frames from a keyframe on. What is stored after it but shown before it may need what is not decoded here, and is left out if it does."""
        self._container.seek(int(index.keyframe_dts[keyframe]), stream=self._stream, backward=True)
        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                if packet.pts is None or packet.pts >= index.keyframe_pts[keyframe]:
                    raise

    def _rgb(self, frame: VideoFrame, number: int, size: tuple[int, ...]) -> np.ndarray:
        if frame.is_corrupt:
            raise DataError(f"{str(self.path)!r} is damaged: frame {number} is incomplete; restore the file")
        height_px, width_px = _size_of(frame, self.path)
        if (height_px, width_px) != tuple(size):
            raise DataError(
                f"frame {number} of {str(self.path)!r} is {height_px} x {width_px} px, the dataset's are {size[0]} x {size[1]}; "
                "scale them to one size, for example with ffmpeg -vf scale=WIDTH:HEIGHT"
            )
        return np.rot90(self._reformatter.reformat(frame, format="rgb24").to_ndarray(), _quarter_turns(frame, self.path))


def open_video(path: Path) -> InputContainer:
    """A file opened for reading; ``DataError`` if it is no video or not all of it is there."""
    try:
        check_not_cut_off(path)
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a video ({error}): it is cut off, damaged or of another kind; restore it") from None


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream of a file, to be decoded in this thread and without glossing over errors."""
    if not container.streams.video:
        container.close()
        raise DataError(f"{str(path)!r} has no video stream; leave it out")
    stream = container.streams.video[0]
    try:
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
    except (AttributeError, RuntimeError):
        container.close()
        raise DataError(f"{str(path)!r} has a codec that this build of PyAV cannot decode; re-encode it, for example as H.264") from None
    return stream


def read_header(path: Path) -> VideoHeader:
    """Size and number of frames, without reading the file through; ``DataError`` if its first frame cannot be decoded."""
    with open_video(path) as container:
        stream = video_stream(container, path)
        try:
            frame = next(container.decode(stream), None)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise DataError(f"{str(path)!r} is damaged: its first frame cannot be decoded ({error}); restore the file") from None
        if frame is None:
            raise DataError(f"{str(path)!r} has no frames: it is empty or cut off; leave it out or restore it")
        height_px, width_px = _size_of(frame, path)
        return VideoHeader(height_px, width_px, stream.frames or None)


def read_index(path: Path) -> VideoIndex:
    """Where the frames of a file are; ``DataError`` if it is damaged, or their times make no order."""
    pts, keyframe_pts, keyframe_dts, num_packets = [], [], [], 0
    with open_video(path) as container:
        stream = video_stream(container, path)
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                num_packets += 1
                if packet.is_corrupt:
                    raise DataError(f"{str(path)!r} is damaged or cut off at frame {num_packets - 1}; restore it")
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None:
                    raise DataError(f"{str(path)!r} does not say when frame {num_packets - 1} is shown; re-encode it, for example as H.264 in mp4")
                if not packet.is_discard:  # it is in the part of the file that is shown
                    pts.append(time)
                if packet.is_keyframe:
                    keyframe_pts.append(time)
                    keyframe_dts.append(packet.dts if packet.dts is not None else time)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise DataError(f"{str(path)!r} is damaged after frame {num_packets - 1} ({error}); restore the file") from None
        times = np.array(pts, np.int64)
        assert stream.time_base is not None  # every stream of a file has one
        return _index_of(path, times, np.array(keyframe_pts, np.int64), np.array(keyframe_dts, np.int64), Fraction(stream.time_base))


def _index_of(path: Path, pts: np.ndarray, keyframe_pts: np.ndarray, keyframe_dts: np.ndarray, time_base: Fraction) -> VideoIndex:
    pts = np.sort(pts)
    if len(pts) > 1 and (np.diff(pts) == 0).any():
        number = int(np.flatnonzero(np.diff(pts) == 0)[0])
        raise DataError(f"{str(path)!r} shows frames {number} and {number + 1} at the same time; re-encode it with one time for each")
    order = np.argsort(keyframe_pts)
    keyframes = np.searchsorted(pts, keyframe_pts[order])
    is_last = np.append(np.diff(keyframes) > 0, True) & (keyframes < len(pts)) if len(order) else np.zeros(0, bool)
    order, keyframes = order[is_last], keyframes[is_last]
    if len(keyframes) == 0 or keyframes[0] != 0:
        raise DataError(f"{str(path)!r} does not begin with a keyframe, so that its first frames cannot be decoded; re-encode it")
    return VideoIndex(pts, keyframes, keyframe_pts[order], keyframe_dts[order], time_base)


def _number_of(index: VideoIndex, frame: VideoFrame) -> int:
    """The number of a decoded frame; -1 for one that is not shown."""
    if frame.pts is None:
        raise ValueError("the decoder does not say which frame it is")
    number = int(np.searchsorted(index.pts, frame.pts))
    return number if number < len(index) and index.pts[number] == frame.pts else -1


def _quarter_turns(frame: VideoFrame, path: Path) -> int:
    """How often to turn a frame by 90 degrees, counterclockwise, to show it upright."""
    turns, rest = divmod(int(getattr(frame, "rotation", 0)), 90)
    if rest:
        raise DataError(f"{str(path)!r} is to be shown rotated by {turns * 90 + rest} degrees; re-encode it upright")
    return turns % 4


def _size_of(frame: VideoFrame, path: Path) -> tuple[int, int]:
    """Height and width of a frame as it is shown."""
    return (frame.width, frame.height) if _quarter_turns(frame, path) % 2 else (frame.height, frame.width)
