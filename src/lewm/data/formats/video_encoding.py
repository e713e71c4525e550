"""A video file written frame by frame: H.264 at full colour resolution, hardly lossy, with a keyframe always near.

Axes: n frame, Y X image.
"""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lewm.data.durable import reported_as_data_error
from lewm.errors import ConfigError, DataError

CODEC, PIXEL_FORMAT = "libx264", "yuv444p"
FRAMES_PER_KEYFRAME = 8
OPTIONS = {"qp": "12", "preset": "veryfast", "bf": "0", "threads": "1", "x264-params": "chroma-qp-offset=-6:scenecut=0"}
"""A fixed quantiser, for colours too: noise comes back with 40 dB or more. No frame waits for a later one: times are exact, seeking is cheap."""
MAX_RATE_DENOMINATOR = 1001


class VideoWriter:
    """Encodes into an mp4 file, which is whole only after ``close``."""

    def __init__(self, path: Path, *, height_px: int, width_px: int, fps: float) -> None:
        if CODEC not in av.codecs_available:
            raise ConfigError(f"this build of PyAV has no {CODEC}, which writes the videos; install the one from PyPI: pip install 'lewm[lerobot]'")
        self.path = path
        self.num_frames = 0
        with _reported(path):
            self._container = av.open(str(path), "w", format="mp4")
        stream = self._container.add_stream(CODEC, rate=Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR), options=OPTIONS)
        assert isinstance(stream, VideoStream)  # for the codec is one of videos
        self._stream = stream
        self._stream.height, self._stream.width, self._stream.pix_fmt = height_px, width_px, PIXEL_FORMAT
        self._stream.codec_context.gop_size = FRAMES_PER_KEYFRAME

    def append(self, frames: np.ndarray) -> None:
        """Add frames, uint8 RGB [n, Y, X, 3]; ``DataError`` if the disk is full."""
        with _reported(self.path):
            for frame in frames:
                self._container.mux(self._stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        self.num_frames += len(frames)

    def close(self) -> None:
        """Finish the file and bring it to the disk."""
        with _reported(self.path):
            self._container.mux(self._stream.encode(None))
            self._container.close()
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close without finishing; the file is of no use."""
        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    with reported_as_data_error(path):
        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise DataError(f"{str(path)!r} cannot be encoded ({error}); choose another size of frames, or another format") from error
