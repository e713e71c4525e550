"""Folders of images, written by Pillow and by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lewm.data.convert import convert
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import open_store
from lewm.errors import DataError


def episode(folder: Path, num_images: int, *, first: int = 0, suffix: str = ".png", size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """Images of noise named frame_<number>; their frames."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(num_images).integers(0, 256, (num_images, *size, 3), np.uint8)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame).save(folder / f"frame_{number}{suffix}")
    return frames


def csv(folder: Path, rows: list[list[float | str]]) -> None:
    (folder / "actions.csv").write_text("\n".join(["x,y", *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_folders_are_episodes_and_names_are_counted_as_numbers(tmp_path: Path) -> None:
    frames = {name: episode(tmp_path / name, count) for name, count in (("ep10", 4), ("ep2", 12))}
    for name, count in (("ep10", 4), ("ep2", 12)):
        csv(tmp_path / name, [[row, -row] for row in range(count)])
    store = open_store(tmp_path)
    assert store.meta.provenance["format"] == "images"
    assert store.index["length"].tolist() == [11, 3]
    np.testing.assert_array_equal(store.episode(0).observations.frames[:, 0], frames["ep2"])
    np.testing.assert_array_equal(store.episode(0).actions, [[row, -row] for row in range(11)])  # the last leads nowhere
    assert (store.action_spec.low, store.action_spec.high) == ((0.0, -10.0), (10.0, 0.0))
    assert store.episode(1).provenance == {"source": "ep10"}
    convert(tmp_path, tmp_path / "native")
    np.testing.assert_array_equal(EpisodeStore(tmp_path / "native").episode(1).observations.frames[:, 0], frames["ep10"])


def test_one_folder_of_images_without_actions_is_one_video(tmp_path: Path) -> None:
    frames = episode(tmp_path, 5, first=3)
    store = open_store(tmp_path)
    assert store.action_spec.kind == "none"
    np.testing.assert_array_equal(store.episode(0).observations.frames[:, 0], frames)


def test_actions_may_be_an_array_one_fewer_than_images(tmp_path: Path) -> None:
    episode(tmp_path / "a", 4)
    np.save(tmp_path / "a" / "actions.npy", np.arange(3.0))
    np.testing.assert_array_equal(open_store(tmp_path).episode(0).actions, [[0], [1], [2]])


def test_grey_images_are_read_as_rgb(tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(np.full((4, 4), 40 * number + 10, np.uint8)).save(tmp_path / f"{number}.png")
    assert open_store(tmp_path).episode(0).observations.frames[1, 0, 2, 3].tolist() == [50, 50, 50]


def test_images_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    episode(tmp_path / "gap", 3)
    (tmp_path / "gap" / "frame_1.png").unlink()
    with pytest.raises(DataError, match=r"frame_2.png' does not follow 'frame_0.png' by one"):
        open_store(tmp_path / "gap")
    assert len(open_store(tmp_path / "gap", options={"gaps": "allow"}).episode(0).observations.frames) == 2
    episode(tmp_path / "sizes", 2)
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(tmp_path / "sizes" / "frame_2.png")
    with pytest.raises(DataError, match=r"frame_2.png': the frame has 6 x 10 px, others 8 x 10; make them one size"):
        open_store(tmp_path / "sizes").episode(0)
    episode(tmp_path / "cut", 2)
    content = (tmp_path / "cut" / "frame_1.png").read_bytes()
    for length in (0, 5, 60, len(content) // 2, len(content) - 20):
        (tmp_path / "cut" / "frame_1.png").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"frame_1.png': the frame cannot be decoded"):
            open_store(tmp_path / "cut").episode(0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2]], "has 1 actions for 4 images"),
        ([[1, 2], [3], [4, 5]], "its rows differ in length"),
        ([[1, "left"], [3, 4], [4, 5]], "could not convert string to float"),
        ([[1, 2], ["", 4], [4, 5]], r"the action of env step 1 is \[nan, 4.0\]"),
    ],
)
def test_actions_that_do_not_fit_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    episode(tmp_path / "a", 4)
    csv(tmp_path / "a", rows)
    with pytest.raises(DataError, match=message):
        open_store(tmp_path)


def test_episodes_must_all_have_actions_or_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        episode(tmp_path / name, 3)
    csv(tmp_path / "a", [[1, 2], [3, 4]])
    with pytest.raises(DataError, match=r"differ between episodes: .*b' has none"):
        open_store(tmp_path)
    np.save(tmp_path / "b" / "actions.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"differ between episodes: they have \[2, 3\] numbers"):
        open_store(tmp_path)
    np.save(tmp_path / "b" / "actions.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(DataError, match="Object arrays cannot be loaded when allow_pickle=False"):
        open_store(tmp_path)
