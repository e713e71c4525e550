"""Frames of a video come back by number exactly as playing it through gives them, and what is missing or damaged is said, never skipped.

Axes: n frame, Y X image.
"""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from film import HEIGHT_PX, WIDTH_PX, decoded, pictures, write_film

from lewm.data.formats.video_containers import check_not_cut_off
from lewm.data.formats.video_encoding import FRAMES_PER_KEYFRAME, VideoWriter
from lewm.data.formats.video_frames import VideoFrames, VideoIndex, read_header, read_index
from lewm.errors import DataError

FILMS = {
    "h264.mp4": {},
    "h264-between.mp4": {"pixels": "yuv420p", "num_between": 3},
    "h264-open.mov": {"pixels": "yuv420p", "num_between": 2, "options": {"x264-params": "open-gop=1"}},
    "h264-between.mkv": {"pixels": "yuv420p", "num_between": 3},
    "mpeg4.avi": {"codec": "mpeg4", "pixels": "yuv420p"},
    "mpeg4-between.avi": {"codec": "mpeg4", "pixels": "yuv420p", "num_between": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "vp9.webm": {"codec": "libvpx-vp9", "pixels": "yuv420p"},
}


@pytest.mark.parametrize("name", FILMS)
def test_every_frame_by_itself_is_the_one_that_playing_through_shows(tmp_path: Path, name: str) -> None:
    path = write_film(tmp_path / name, pictures(20), **FILMS[name])
    played, frames = decoded(path), VideoFrames()
    assert len(frames.index(path)) == 20
    for number in np.random.default_rng(0).permutation(20):
        np.testing.assert_array_equal(frames.read(path, np.array([number]), HEIGHT_PX, WIDTH_PX)[0], played[number])


def test_several_frames_far_apart_and_close_together_are_read_at_once(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", pictures(40), num_between=2)
    numbers = np.array([1, 2, 3, 9, 10, 30, 39])
    np.testing.assert_array_equal(VideoFrames().read(path, numbers, HEIGHT_PX, WIDTH_PX), decoded(path)[numbers])


def test_reading_starts_at_the_keyframe_before(tmp_path: Path) -> None:
    """Frame 2 of the film is spoilt: those from the next keyframe on do not need it."""
    path = write_film(tmp_path / "a.mp4", pictures(20))
    played = decoded(path)
    with av.open(str(path)) as container:
        place, size = next((packet.pos, packet.size) for packet in container.demux(video=0) if packet.pts == 2 * 1024)
    content = bytearray(path.read_bytes())
    content[place + 5 : place + size] = b"\xff" * (size - 5)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_index(path).keyframes, [0, 8, 16])
    np.testing.assert_array_equal(VideoFrames().read(path, np.array([1, 9, 17]), HEIGHT_PX, WIDTH_PX), played[[1, 9, 17]])
    with pytest.raises(DataError, match=r"a\.mp4' is damaged: frame [23] "):
        VideoFrames().read(path, np.array([2, 3]), HEIGHT_PX, WIDTH_PX)


def test_frames_at_uneven_times_are_numbered_in_the_order_in_which_they_are_shown(tmp_path: Path) -> None:
    times_ms = [0, 40, 200, 210, 1000, 1040, 5000]
    path = write_film(tmp_path / "a.mkv", pictures(7), codec="ffv1", pixels="bgr0", times_ms=times_ms)
    np.testing.assert_allclose(read_index(path).times_s, np.array(times_ms) / 1000, atol=1e-9)
    np.testing.assert_array_equal(VideoFrames().read(path, np.arange(7), HEIGHT_PX, WIDTH_PX), pictures(7))


def test_the_frame_of_a_time_is_the_nearest_one_within_the_tolerance() -> None:
    index = VideoIndex(np.array([0, 10, 20, 50]), np.array([0]), np.array([0]), np.array([0]), Fraction(1, 100))
    np.testing.assert_array_equal(index.frames_at(np.array([0.0, 0.09, 0.12, 0.35, 0.5, 0.9, -0.4]), 0.03), [0, 1, 1, -1, 3, -1, -1])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_frames_are_turned_as_the_file_says(tmp_path: Path, turns: int) -> None:
    """The matrix of an mp4 track maps (x, y) to (a x + c y, b x + d y), y pointing down: turns clockwise, as QuickTime defines it."""
    path = write_film(tmp_path / "a.mp4", pictures(3))
    upright = decoded(path)
    a, b, c, d = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turns]
    content = path.read_bytes()
    identity = b"".join(value.to_bytes(4, "big", signed=True) for value in (2**16, 0, 0, 0, 2**16, 0, 0, 0, 2**30))
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in (a * 2**16, b * 2**16, 0, c * 2**16, d * 2**16, 0, 0, 0, 2**30))
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(identity, turned, 1))
    expected = np.rot90(upright, -turns, axes=(1, 2))
    header = read_header(path)
    assert (header.height_px, header.width_px) == expected.shape[1:3]
    np.testing.assert_array_equal(VideoFrames().read(path, np.arange(3), header.height_px, header.width_px), expected)


def test_a_header_knows_size_and_number_of_frames_where_the_container_says_it(tmp_path: Path) -> None:
    header = read_header(write_film(tmp_path / "a.mp4", pictures(5)))
    assert (header.height_px, header.width_px, header.num_frames) == (HEIGHT_PX, WIDTH_PX, 5)
    assert read_header(write_film(tmp_path / "a.mkv", pictures(5))).num_frames is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.9999])
@pytest.mark.parametrize("name", ["h264.mp4", "faststart.mp4", "h264-between.mkv", "mpeg4.avi", "vp9.webm"])
def test_a_file_that_is_cut_off_is_refused_before_any_frame_is_used(tmp_path: Path, name: str, share: float) -> None:
    film = {"movflags": "faststart"} if name == "faststart.mp4" else FILMS[name]
    content = write_film(tmp_path / name, pictures(20), **film).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cut off|no frames"):
        read_header(tmp_path / name)


@pytest.mark.parametrize("name", ["h264.mp4", "h264-between.mkv", "mpeg4.avi", "vp9.webm"])
def test_flipped_bytes_lead_to_frames_or_to_one_sentence(tmp_path: Path, name: str) -> None:
    path = write_film(tmp_path / name, pictures(12), **FILMS[name])
    content, generator = path.read_bytes(), np.random.default_rng(0)
    refusals = []
    for _ in range(25):
        spoilt = np.frombuffer(content, np.uint8).copy()
        spoilt[generator.integers(len(spoilt), size=4)] = generator.integers(256, size=4)
        path.write_bytes(spoilt.tobytes())
        refusals.append(_refusal_of(path, 12))
    assert all(name in refusal for refusal in refusals if refusal is not None)
    assert any(refusals)


def _refusal_of(path: Path, num_frames: int) -> str | None:
    """What is said of a film, None if all of its frames come back; anything but a DataError passes through."""
    try:
        header = read_header(path)
        frames = VideoFrames().read(path, np.arange(num_frames), header.height_px, header.width_px)
    except DataError as error:
        return str(error)
    return None if len(frames) == num_frames else "too few frames came back, in silence"


def test_a_container_whose_sizes_were_never_filled_in_is_not_called_cut_off(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", pictures(4), codec="ffv1", pixels="bgr0")
    content = path.read_bytes()
    segment = content.index(b"\x18S\x80g") + 4
    path.write_bytes(content[:segment] + b"\x01" + b"\xff" * 7 + content[segment + 8 :])
    check_not_cut_off(path)
    np.testing.assert_array_equal(VideoFrames().read(path, np.arange(4), HEIGHT_PX, WIDTH_PX), pictures(4))


def test_frames_of_another_size_than_the_datasets_are_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", pictures(3))
    with pytest.raises(DataError, match=r"frame 0 of .*a\.mp4' is 32 x 48 px, the dataset's are 48 x 48"):
        VideoFrames().read(path, np.array([0]), 48, 48)


def test_a_frame_after_the_last_is_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", pictures(3))
    with pytest.raises(DataError, match="has 3 frames, number 3 was asked for"):
        VideoFrames().read(path, np.array([3]), HEIGHT_PX, WIDTH_PX)


def test_something_else_with_the_name_of_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no film at all, but long enough to look at\n" * 10)
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_header(tmp_path / "a.mp4")


def test_four_threads_read_many_files_as_one_does_with_few_of_them_open(tmp_path: Path, few_descriptors: None) -> None:
    paths = [write_film(tmp_path / f"{seed}.mp4", pictures(16, seed)) for seed in range(12)]
    played = [decoded(path) for path in paths]
    frames = VideoFrames(max_idle_decoders=3)

    def is_right(number: int) -> bool:
        which, row = number % 12, number * 7 % 16
        return np.array_equal(frames.read(paths[which], np.array([row]), HEIGHT_PX, WIDTH_PX)[0], played[which][row])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(200)))


@pytest.mark.parametrize("size", [(6, 7), (33, 64)])
def test_even_noise_is_written_with_38_db_and_a_keyframe_is_always_near(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, *size, 3), dtype=np.uint8)
    writer = VideoWriter(tmp_path / "a.mp4", height_px=size[0], width_px=size[1], fps=29.97)
    writer.append(noise)
    writer.close()
    frames = VideoFrames()
    back = frames.read(tmp_path / "a.mp4", np.arange(20), *size)
    mean_square = ((back.astype(np.float64) - noise) ** 2).mean((1, 2, 3))
    assert (10 * np.log10(255**2 / mean_square)).min() >= 38
    assert np.diff(frames.index(tmp_path / "a.mp4").keyframes).max() <= FRAMES_PER_KEYFRAME


def test_an_abandoned_film_leaves_no_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", height_px=8, width_px=8, fps=10)
    writer.append(pictures(4, height_px=8, width_px=8))
    writer.abandon()
    assert not (tmp_path / "a.mp4").exists()
