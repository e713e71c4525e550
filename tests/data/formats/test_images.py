"""Folders of numbered images: their order, their kinds of pixels, and what is refused.

Axes: n frame, N env step, Y X image.
"""

import logging
from pathlib import Path

import numpy as np
import pytest
from film import assert_clips_are_those_of_a_native_copy, pictures
from PIL import Image

from lewm.data.formats.file_names import in_natural_order
from lewm.data.formats.pictures import decoded
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError


def write_images(folder: Path, frames: np.ndarray, first: int = 0, name: str = "frame{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(first + number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Episodes run2 (12 images from 0 on) and run10 (5 images from 7 on), with an action for every image."""
    path = tmp_path / "runs"
    for number, num_frames, first in ((10, 5, 7), (2, 12, 0)):
        write_images(path / f"run{number}", pictures(num_frames, number), first)
        np.save(path / f"run{number}" / "actions.npy", np.arange(2.0 * num_frames).reshape(-1, 2))
    return path


def test_images_come_in_the_order_of_their_numbers_and_folders_too(folder: Path) -> None:
    store = open_store(folder)
    np.testing.assert_array_equal(store.index["length"], [11, 4])
    np.testing.assert_array_equal(store.episode(0).observations.frames[:, 0], pictures(12, 2))
    np.testing.assert_array_equal(store.episode(1).observations.frames[:, 0], pictures(5, 10))
    assert store.episode(1).provenance["source"] == "run10"


def test_actions_lie_beside_the_images_and_the_last_one_leads_nowhere(folder: Path) -> None:
    np.testing.assert_array_equal(open_store(folder).episode(1).actions, [[0, 1], [2, 3], [4, 5], [6, 7]])


def test_names_of_columns_are_kept(folder: Path) -> None:
    for number, num_frames in ((10, 5), (2, 12)):
        (folder / f"run{number}" / "actions.npy").unlink()
        (folder / f"run{number}" / "actions.csv").write_text("turn,gas,speed\n" + "0.5,1,2\n" * num_frames)
    store = open_store(folder, options={"proprioception": "speed"})
    assert store.meta.provenance["action_names"] == ["turn", "gas"]
    assert store.observation_spec.proprioception == ("speed",)


def test_one_folder_of_images_is_an_episode_without_actions(tmp_path: Path) -> None:
    write_images(tmp_path / "run", pictures(4), name="{:04d}.png")
    store = open_store(tmp_path / "run")
    assert (len(store), store.action_spec.kind) == (1, "none")


def test_a_gap_between_numbers_is_refused_or_ignored_as_the_option_says(folder: Path) -> None:
    (folder / "run2" / "frame5.png").unlink()
    (folder / "run2" / "actions.npy").unlink()
    np.save(folder / "run2" / "actions.npy", np.zeros((11, 2)))
    with pytest.raises(DataError, match=r"goes on from frame4\.png to frame6\.png: number 5 is missing.*gaps=allow"):
        open_store(folder)
    frames = open_store(folder, options={"gaps": "allow"}).episode(0).observations.frames[:, 0]
    np.testing.assert_array_equal(frames, np.delete(pictures(12, 2), 5, axis=0))


def test_two_images_of_one_number_are_refused(folder: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(folder / "run2" / "depth3.png")
    with pytest.raises(DataError, match=r"two images with number 3, depth3\.png and frame3\.png"):
        open_store(folder)


def test_an_image_without_a_number_is_refused(folder: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(folder / "run2" / "cover.png")
    with pytest.raises(DataError, match=r"cover\.png' has no number at the end of its name"):
        open_store(folder)


def test_episodes_of_another_size_are_refused_at_opening(folder: Path) -> None:
    write_images(folder / "run10", pictures(5, height_px=16), 7)
    with pytest.raises(DataError, match=r"run10/frame7\.png' is 16 x 48 px, .*frame0\.png' is 32 x 48; .*--size-px cannot"):
        open_store(folder)


def test_an_image_of_another_size_is_refused_when_it_is_read(folder: Path) -> None:
    Image.fromarray(pictures(1, height_px=16)[0]).save(folder / "run2" / "frame3.png")
    store = open_store(folder)
    with pytest.raises(DataError, match=r"run2/frame3\.png' is 16 x 48 px"):
        store.episode(0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_an_image_that_is_cut_off_is_refused_by_name(folder: Path, share: float) -> None:
    content = (folder / "run2" / "frame3.png").read_bytes()
    (folder / "run2" / "frame3.png").write_bytes(content[: int(share * len(content))])
    store = open_store(folder)
    with pytest.raises(DataError, match=r"frame3\.png': the frame cannot be decoded"):
        store.episode(0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_images_become_rgb(tmp_path: Path, mode: str) -> None:
    images = [Image.fromarray(frame).convert(mode) for frame in pictures(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    frames = open_store(tmp_path).episode(0).observations.frames[:, 0]
    np.testing.assert_array_equal(frames, [np.array(image.convert("RGB")) for image in images])


def test_a_jpeg_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    for length in range(3, len(content) - 1, 7):
        with pytest.raises(DataError, match="a: the frame cannot be decoded"):
            decoded(content[:length], "a")


def test_images_that_are_to_be_shown_rotated_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(DataError, match=r"a\.jpg: the frame is to be shown rotated"):
        decoded((tmp_path / "a.jpg").read_bytes(), "a.jpg")


@pytest.mark.parametrize("num_rows", [10, 13])
def test_actions_that_are_not_as_many_as_the_images_are_refused(folder: Path, num_rows: int) -> None:
    np.save(folder / "run2" / "actions.npy", np.zeros((num_rows, 2)))
    with pytest.raises(DataError, match=rf"has {num_rows} rows for the 12 frames of .*run2', 11 or 12 are needed"):
        open_store(folder)


def test_a_table_that_only_some_folders_have_is_refused(folder: Path) -> None:
    (folder / "run10" / "actions.npy").unlink()
    with pytest.raises(DataError, match=r"run10' has no actions\.csv, \.parquet or \.npy"):
        open_store(folder)


def test_images_beside_folders_of_images_are_refused(folder: Path) -> None:
    write_images(folder, pictures(2))
    with pytest.raises(DataError, match="has images of its own beside the folder 'run2'"):
        open_store(folder)


def test_a_folder_with_one_image_is_left_out_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(folder / "run3", pictures(1))
    with caplog.at_level(logging.WARNING):
        assert len(open_store(folder)) == 2
    assert "1 of 3 episodes have fewer than two observations" in caplog.text


@pytest.mark.parametrize("option", [{"gaps": "close"}, {"labels": "speed"}])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, option: dict[str, str]) -> None:
    write_images(tmp_path / "run", pictures(3))
    with pytest.raises(ConfigError, match=r"gaps must be 'refuse' or 'allow'|has no tables beside its images"):
        open_store(tmp_path / "run", options=option)


def test_images_that_vanish_after_opening_are_missed(folder: Path) -> None:
    store = open_store(folder)
    (folder / "run2" / "frame3.png").unlink()
    with pytest.raises(DataError, match=r"frame3\.png' cannot be read"):
        store.episode(0)


def test_clips_are_those_of_a_native_copy(folder: Path, tmp_path: Path) -> None:
    assert_clips_are_those_of_a_native_copy(open_store(folder), tmp_path / "native")


def test_a_thousand_tiny_episodes_are_read_with_few_files_open(tmp_path: Path, few_descriptors: None) -> None:
    for number in range(1000):
        write_images(tmp_path / f"{number}", np.full((2, 2, 2, 3), number % 256, np.uint8))
    store = open_store(tmp_path)
    assert len(store) == 1000
    assert [int(store.episode(number).observations.frames.max()) for number in (0, 255, 999)] == [0, 255, 999 % 256]


def test_the_fingerprint_changes_with_any_image(folder: Path) -> None:
    before = open_store(folder).dataset_sha256
    Image.fromarray(pictures(1, 77)[0][::-1]).save(folder / "run2" / "frame3.png", compress_level=0)
    assert open_store(folder).dataset_sha256 != before


def test_numbers_in_names_count_by_their_value() -> None:
    files = [Path(name) for name in ("a10", "a9", "b1", "a9b2", "a09")]
    assert [file.name for file in in_natural_order(files)] == ["a09", "a9", "a9b2", "a10", "b1"]
