"""Conversion between formats: what must stay, what may change, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

import lewm
from lewm.data import convert as conversion
from lewm.data.collect import collect
from lewm.data.convert import ConversionProgress, convert, psnr_db
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.base import EpisodeSink
from lewm.data.formats.native import NativeFormat
from lewm.data.formats.store import open_store
from lewm.data.layout import DatasetMeta
from lewm.data.resizing import RESAMPLERS, Resizing, parse_size
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError, LewmError
from lewm.schema import Episode


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "data"
    collect("two-room", path, episodes=7, max_env_steps=25, env_options={"size_px": 16})
    return path


def same(one: Episode, other: Episode) -> bool:
    arrays = [(e.observations.frames, e.actions, e.labels, np.array(e.terminated)) for e in (one, other)]
    return all(np.array_equal(first, second) for first, second in zip(*arrays, strict=True))


def test_a_converted_dataset_holds_the_same_episodes(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "out")
    before, after = EpisodeStore(source), EpisodeStore(tmp_path / "out")
    assert all(same(before.episode(number), after.episode(number)) for number in range(7))
    assert done["num_episodes"] == 7
    assert done["dataset_sha256"] == after.dataset_sha256
    assert after.env == before.env


def test_an_interrupted_conversion_goes_on_and_ends_alike(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 60_000)  # a few episodes each

    def interrupt(progress: ConversionProgress) -> None:
        if progress.num_done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    done = convert(source, tmp_path / "out", resume=True)
    whole = convert(source, tmp_path / "whole")
    assert 0 < done["num_resumed"] < 5
    assert done["dataset_sha256"] == whole["dataset_sha256"]


def test_a_conversion_of_something_else_is_not_continued(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", max_env_steps=10)
    with pytest.raises(DataError, match=r"conversion\.max_env_steps 10, not 9"):
        convert(source, tmp_path / "out", max_env_steps=9, resume=True)
    with pytest.raises(DataError, match="already exists"):
        convert(source, tmp_path / "out", max_env_steps=10)


def test_pieces_of_long_episodes_share_the_observation_between_them(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", max_env_steps=10)
    whole, pieces = EpisodeStore(source).episode(1), EpisodeStore(tmp_path / "out")
    assert pieces.index["length"].tolist() == [10, 10, 5] * 7
    first, second, third = (pieces.episode(number) for number in (3, 4, 5))
    np.testing.assert_array_equal(first.observations.frames[-1], second.observations.frames[0])
    np.testing.assert_array_equal(np.concatenate([first.actions, second.actions, third.actions]), whole.actions)
    np.testing.assert_array_equal(third.labels[-1], whole.labels[-1])


def test_resized_frames_are_those_of_the_named_resampler(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", resizing=Resizing(height_px=8, width_px=8, resampler="area"))
    frames = EpisodeStore(source).episode(2).observations.frames.astype(np.float64)
    means = frames.reshape(*frames.shape[:2], 8, 2, 8, 2, 3).mean((3, 5))
    after = EpisodeStore(tmp_path / "out")
    assert np.abs(after.episode(2).observations.frames - means).max() <= 1.0  # rounded once per axis
    assert after.env == {}, "the world draws other frames"
    assert after.meta.provenance["resized_from_env"]["name"] == "two-room"


def test_frames_are_not_distorted_unless_the_middle_is_cut_out() -> None:
    frames = np.zeros((1, 1, 20, 40, 3), np.uint8)
    frames[:, :, :, 10:30] = 200
    with pytest.raises(ConfigError, match="frames of 20 x 40 px would be distorted at 10 x 10"):
        Resizing(height_px=10, width_px=10).apply(frames)
    for resampler in RESAMPLERS:
        cut = Resizing(height_px=10, width_px=10, resampler=resampler, is_cropped=True).apply(frames)
        assert cut.shape == (1, 1, 10, 10, 3)
        assert (cut == 200).all()


@pytest.mark.parametrize("text", ["", "64x", "0x-1", "axb", "1x2x3", "6 4"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a size is a number of px, or height x width"):
        parse_size(text)
    assert parse_size("48x64") == (48, 64)


class _Forgetful:
    """Writes one action wrong."""

    def __init__(self, writer: EpisodeWriter) -> None:
        self._writer = writer

    def __len__(self) -> int:
        return len(self._writer)

    def append(self, episode: Episode) -> int:
        if len(self._writer) == 3:
            episode.actions[4, 0] *= 0.5  # type: ignore[index]
        return self._writer.append(episode)

    def __enter__(self) -> "_Forgetful":
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)  # type: ignore[arg-type]


class ForgetfulFormat(NativeFormat):
    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        return _Damaging(EpisodeWriter(path, meta, resume=resume))


class _Damaging(_Forgetful):
    def append(self, episode: Episode) -> int:
        copy = Episode(**{name: getattr(episode, name) for name in episode.__dataclass_fields__} | {"actions": episode.actions.copy()})
        return super().append(copy)


def test_verification_names_what_a_writer_got_wrong(source: Path, tmp_path: Path) -> None:
    lewm.register("formats", "forgetful", f"{__name__}:ForgetfulFormat")
    with pytest.raises(DataError, match="actions of episode 3 are not what was meant"):
        convert(source, tmp_path / "out", to="forgetful")
    convert(source, tmp_path / "unverified", to="forgetful", verify=False)


def test_an_episode_that_memory_cannot_hold_must_be_cut(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "MAX_EPISODE_BYTES", 15_000)
    with pytest.raises(DataError, match="episode 0 has 25 env steps, too many to hold in memory: cut it with --max-env-steps 17"):
        convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out", max_env_steps=17)["num_episodes"] == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "hdf6"}, "unknown format 'hdf6'. Did you mean 'hdf5'?"),
        ({"to": "robomimic"}, "this format can be read but not written"),
        ({"options": {"camera": "top"}}, "unknown option 'camera' of format 'native'"),
        ({"max_env_steps": 0}, "max_env_steps must be at least 1"),
    ],
)
def test_what_cannot_be_converted_is_refused(source: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(LewmError, match=message):
        convert(source, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_and_nothing_known_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no dataset at .*nothing'; `lewm collect"):
        open_store(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"there is no dataset at .*notes.txt': it is none of .*hdf5, images"):
        open_store(tmp_path / "notes.txt")


def test_psnr_is_that_of_the_definition() -> None:
    meant = np.full((2, 1, 4, 4, 3), 100, np.uint8)
    assert psnr_db(meant, meant) == float("inf")
    assert psnr_db(meant + np.uint8(5), meant) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr_db(meant[:1], meant) == float("-inf")
