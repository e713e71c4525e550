"""Little films and recordings that tell where they come from, for the tests of the formats with frames in files.

Axes: n frame, Y X image.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lewm.data.clips import ClipSampler
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import ForeignStore
from lewm.data.writing import EpisodeWriter

HEIGHT_PX, WIDTH_PX = 32, 48


def pictures(num_frames: int, seed: int = 0, *, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> np.ndarray:
    """uint8 [n, Y, X, 3]: smooth, so that lossy codecs keep them, and each another."""
    row, column = np.mgrid[0:height_px, 0:width_px]
    frames = [np.stack([row * 3 + 5 * n, column * 2 + 30 * seed, np.full_like(row, 6 * n)], -1) % 256 for n in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


def write_film(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pixels: str = "yuv444p",
    times_ms: Sequence[int] | None = None,
    fps: int = 10,
    num_between: int = 0,
    options: dict[str, str] | None = None,
    movflags: str = "",
) -> Path:
    """A film with a keyframe every 8 frames and up to ``num_between`` frames that need a later one; at ``fps``, or at ``times_ms``."""
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 8, num_between
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> np.ndarray:
    """uint8 [n, Y, X, 3]: all frames from the first to the last, without any seeking."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def assert_clips_are_those_of_a_native_copy(store: ForeignStore, native_path: Path, *, num_transitions: int = 2, action_block: int = 2) -> None:
    """The clips cut from a store are those that are cut from its episodes in the native format."""
    with EpisodeWriter(native_path, store.meta) as writer:
        for number in range(len(store)):
            writer.append(store.episode(number))
    samplers = [
        ClipSampler(
            each,  # type: ignore[arg-type]
            num_transitions=num_transitions,
            action_block=action_block,
            stack_offsets_env_steps=(-1, 0),
            episode_ids=each.episode_ids,
            batch_size=8,
            seed=3,
        )
        for each in (store, EpisodeStore(native_path))
    ]
    for k in range(3):
        mine, native = (sampler.batch(k) for sampler in samplers)
        np.testing.assert_array_equal(mine.observations.frames, native.observations.frames)
        for name in ("blocks", "rewards", "labels", "episode", "start_env_step"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(native, name), err_msg=name)
        np.testing.assert_array_equal(mine.observations.proprioception, native.observations.proprioception)
