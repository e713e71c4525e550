"""A batch of clips is a function of (seed, k), shows one episode in order, and is what the store holds."""

import dataclasses
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lewm.data.clips import ClipSampler, Prefetcher
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, Clip, Episode, Observation, ObservationSpec

NewEpisode = Callable[..., Episode]
LENGTHS = [12, 7, 20, 3, 9, 15, 6, 11]


@pytest.fixture
def store(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> EpisodeStore:
    with EpisodeWriter(tmp_path / "d", meta) as writer:
        for number, length in enumerate(LENGTHS):
            writer.append(new_episode(number, length))
    return EpisodeStore(tmp_path / "d")


def sampler(store: EpisodeStore, **changes: object) -> ClipSampler:
    settings = {"num_transitions": 3, "action_block": 2, "episode_ids": store.episode_ids, "batch_size": 8, "seed": 0}
    return ClipSampler(store, **(settings | changes))  # type: ignore[arg-type]


def assert_equal(left: Clip[np.ndarray], right: Clip[np.ndarray]) -> None:
    for name in ("blocks", "rewards", "labels", "episode", "start_env_step"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(left.observations.frames, right.observations.frames)
    if left.observations.proprioception is not None:
        np.testing.assert_array_equal(left.observations.proprioception, right.observations.proprioception)


def test_a_clip_is_what_happened_in_its_episode(store: EpisodeStore) -> None:
    for clip in sampler(store).all_windows_in_order():
        for b in range(len(clip.episode)):
            episode, start = store.episode(int(clip.episode[b])), int(clip.start_env_step[b])
            np.testing.assert_array_equal(clip.observations.frames[b], episode.observations.frames[start : start + 7 : 2])
            np.testing.assert_array_equal(clip.labels[b], episode.labels[start : start + 7 : 2])
            np.testing.assert_array_equal(clip.blocks[b], episode.actions[start : start + 6].reshape(3, 4))
            np.testing.assert_array_equal(clip.rewards[b], episode.rewards[start : start + 6].reshape(3, 2).sum(-1))


def test_a_clip_never_crosses_the_end_of_an_episode(store: EpisodeStore) -> None:
    windows = 0
    for clip in sampler(store).all_windows_in_order(batch_size=5):
        assert (clip.labels[..., 0] == clip.episode[:, None]).all()
        assert (clip.observations.frames[:, :, 0, 0, 0, 0] == clip.episode[:, None]).all()
        assert (np.diff(clip.labels[..., 1], axis=1) == 2).all()
        windows += len(clip.episode)
    assert windows == sum(max(0, length - 5) for length in LENGTHS) == sampler(store).num_windows


def test_batches_of_one_pass_hold_each_window_exactly_once(store: EpisodeStore) -> None:
    cut = sampler(store, batch_size=1)
    seen = [(int(clip.episode[0]), int(clip.start_env_step[0])) for clip in map(cut.batch, range(cut.num_windows))]
    assert sorted(seen) == [(e, start) for e, length in enumerate(LENGTHS) for start in range(length - 5)]


def test_a_batch_depends_on_seed_and_k_only(store: EpisodeStore) -> None:
    first, second = sampler(store), sampler(store)
    for k in (40, 3, 0, 3, 16, 15):  # any order, across the batches that are drawn together
        assert_equal(first.batch(k), second.batch(k))
    assert_equal(first.batch(1_000_003), sampler(store).batch(1_000_003))
    keys = {tuple(zip(clip.episode.tolist(), clip.start_env_step.tolist(), strict=True)) for clip in map(first.batch, range(30))}
    assert len(keys) == 30
    assert (sampler(store, seed=1).batch(0).start_env_step != first.batch(0).start_env_step).any()


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_slices_of_all_ranks_make_the_global_batch(store: EpisodeStore, world_size: int) -> None:
    for k in (0, 7):
        whole = sampler(store).batch(k)
        ranks = [sampler(store, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [rank.first_row for rank in ranks] == [r * 8 // world_size for r in range(world_size)]
        slices = [rank.batch(k) for rank in ranks]
        for name in ("episode", "start_env_step", "blocks", "labels", "rewards"):
            np.testing.assert_array_equal(np.concatenate([getattr(clip, name) for clip in slices]), getattr(whole, name))
        np.testing.assert_array_equal(np.concatenate([clip.observations.frames for clip in slices]), whole.observations.frames)


def test_only_the_chosen_episodes_are_used(store: EpisodeStore) -> None:
    cut = sampler(store, episode_ids=np.array([2, 5]))
    assert set(np.concatenate([cut.batch(k).episode for k in range(10)])) == {2, 5}


def test_filling_a_buffer_gives_the_same_as_new_arrays(store: EpisodeStore) -> None:
    cut = sampler(store)
    buffer = cut.empty_clip()
    buffer.map(lambda array: array.fill(77))
    filled = cut.batch(4, buffer)
    assert filled is buffer
    assert_equal(filled, cut.batch(4))


def test_a_fixed_batch_is_the_same_each_time_and_has_no_clip_twice(store: EpisodeStore) -> None:
    cut = sampler(store)
    assert_equal(cut.fixed_batch(3, 20), sampler(store, seed=9, batch_size=2).fixed_batch(3, 20))
    everything = cut.fixed_batch(3, 10_000)
    assert len(set(zip(everything.episode.tolist(), everything.start_env_step.tolist(), strict=True))) == cut.num_windows == len(everything.episode)


def test_stacked_frames_come_from_before_and_repeat_the_first_at_the_start(store: EpisodeStore) -> None:
    offsets = (-3, -1, 0)
    for clip in sampler(store, stack_offsets_env_steps=offsets).all_windows_in_order():
        assert clip.observations.frames.shape[1:3] == (4, 3)
        times = clip.start_env_step[:, None, None] + np.arange(4)[:, None] * 2 + np.array(offsets)
        np.testing.assert_array_equal(clip.observations.frames[..., 0, 0, 1], np.maximum(times, 0))
        assert (clip.observations.frames[..., 0, 0, 0] == clip.episode[:, None, None]).all()


def test_discrete_actions_are_one_hot_per_env_step_and_cameras_keep_their_order(tmp_path: Path) -> None:
    store = collect("toy-walk", tmp_path / "d", episodes=9, policy="random", max_env_steps=30, batch_size=4)
    clip = sampler(store, action_block=5, num_transitions=2, stack_offsets_env_steps=(-1, 0)).batch(0)
    assert clip.blocks.shape == (8, 2, 15)
    assert clip.observations.frames.shape == (8, 3, 4, 4, 5, 3)  # front then, front now, side then, side now
    for b in range(8):
        episode, start = store.episode(int(clip.episode[b])), int(clip.start_env_step[b])
        np.testing.assert_array_equal(clip.blocks[b], np.eye(3)[episode.actions[start : start + 10]].reshape(2, 15))
        np.testing.assert_array_equal(clip.observations.proprioception[b], episode.observations.proprioception[start : start + 11 : 5])
        now = episode.observations.frames[start : start + 11 : 5]
        np.testing.assert_array_equal(clip.observations.frames[b, :, [1, 3]].swapaxes(0, 1), now)
        then = episode.observations.frames[np.maximum(np.arange(start, start + 11, 5) - 1, 0)]
        np.testing.assert_array_equal(clip.observations.frames[b, :, [0, 2]].swapaxes(0, 1), then)


def test_video_without_actions_has_empty_blocks(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=2, width_px=2), action_spec=ActionSpec(kind="none"))
    with EpisodeWriter(tmp_path / "d", meta) as writer:
        writer.append(Episode(observations=Observation(np.zeros((9, 1, 2, 2, 3), np.uint8)), actions=None))
    clip = sampler(EpisodeStore(tmp_path / "d")).batch(0)
    assert clip.blocks.shape == (8, 3, 0)
    assert clip.rewards is None
    assert clip.labels is None


def test_two_threads_copy_the_same_as_one(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = sampler(store, stack_offsets_env_steps=(-1, 0)).batch(0)
    monkeypatch.setattr("lewm.data.clips.THREADED_GROUP_BYTES", 0)
    assert_equal(sampler(store, stack_offsets_env_steps=(-1, 0)).batch(0), alone)


def test_sampling_takes_memory_for_episodes_and_not_for_windows(tmp_path: Path, meta: DatasetMeta) -> None:
    peaks = []
    for length in (20, 2_000):
        with EpisodeWriter(tmp_path / str(length), dataclasses.replace(meta, label_names=(), has_rewards=False)) as writer:
            for _ in range(6):
                frames, actions = np.zeros((length + 1, 1, 6, 7, 3), np.uint8), np.zeros((length, 2), np.float32)
                writer.append(Episode(observations=Observation(frames), actions=actions))
        store = EpisodeStore(tmp_path / str(length))
        tracemalloc.start()
        cut = sampler(store)
        for k in range(40):
            cut.batch(k)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000  # a list of its 12,000 windows would take 96,000 bytes at least


def test_settings_that_cannot_be_are_refused(store: EpisodeStore) -> None:
    with pytest.raises(ConfigError, match=r"batch_size \(8\) must be a multiple of the number of processes \(3\)"):
        sampler(store, world_size=3)
    with pytest.raises(ConfigError, match="must be at least 1, got 3, 0 and 8"):
        sampler(store, action_block=0)
    with pytest.raises(DataError, match="the longest has 20 env steps and a clip needs 30"):
        sampler(store, action_block=10)


def num_prefetch_threads() -> int:
    return sum(thread.name == "lewm-prefetch" for thread in threading.enumerate())


def test_prefetched_batches_are_those_of_the_sampler_in_order(store: EpisodeStore) -> None:
    cut = sampler(store)
    with Prefetcher(cut, 5, num_batches=3) as batches:
        for k in range(5, 40):
            assert_equal(next(batches), cut.batch(k))


def test_a_prefetched_clip_stays_as_it_is_until_the_next_is_asked_for(store: EpisodeStore) -> None:
    with Prefetcher(sampler(store), num_batches=1) as batches:
        for _ in range(5):
            clip = next(batches)
            before = clip.map(np.copy)
            time.sleep(0.01)  # time enough for the thread to spoil it
            assert_equal(clip, before)


def test_leaving_early_ends_the_thread(store: EpisodeStore) -> None:
    with pytest.raises(KeyboardInterrupt), Prefetcher(sampler(store)) as batches:  # noqa: PT012
        next(batches)
        raise KeyboardInterrupt
    assert num_prefetch_threads() == 0
    with pytest.raises(RuntimeError, match="was closed"):
        next(batches)


def test_a_prefetcher_that_is_dropped_ends_its_thread(store: EpisodeStore) -> None:
    batches = Prefetcher(sampler(store))
    next(batches)
    del batches
    deadline = time.monotonic() + 5
    while num_prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_prefetch_threads() == 0


def test_an_error_in_the_thread_reaches_the_consumer(store: EpisodeStore) -> None:
    cut = sampler(store)
    (store.path / "shards/00000/frames.top.npy").unlink()
    with Prefetcher(cut) as batches:
        for _ in range(2):
            with pytest.raises(DataError, match=r"shards/00000/frames.top.npy"):
                next(batches)


def test_clips_of_a_batch_come_in_groups_from_the_same_episodes(store: EpisodeStore) -> None:
    grouped = sampler(store, clips_per_episode=4, batch_size=8)
    starts = set()
    for k in range(60):
        clip = grouped.batch(k)
        assert len(set(clip.episode.tolist())) <= 2
        starts |= set(zip(clip.episode.tolist(), clip.start_env_step.tolist(), strict=True))
    assert len(starts) == grouped.num_windows
    assert_equal(grouped.batch(7), sampler(store, clips_per_episode=4, batch_size=8).batch(7))


def test_each_rank_cuts_its_slice_of_a_grouped_batch(store: EpisodeStore) -> None:
    whole = sampler(store, clips_per_episode=4).batch(5)
    halves = [sampler(store, clips_per_episode=4, rank=rank, world_size=2).batch(5) for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([half.start_env_step for half in halves]), whole.start_env_step)


def test_clips_of_a_batch_come_in_groups_of_the_same_env_step(store: EpisodeStore) -> None:
    clip = sampler(store, clips_per_env_step=4, episode_ids=store.episode_ids[[0, 2, 5]]).batch(3)
    last = {0: 6, 2: 14, 5: 9}  # env step of each episode's last window
    reached = [t for t, episode in zip(clip.start_env_step.tolist(), clip.episode.tolist(), strict=True) if t < last[episode]]
    assert len(set(reached)) <= 2
    assert len(set(clip.episode.tolist())) > 1


def test_a_group_that_does_not_divide_the_batch_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(ConfigError, match="cannot both be above 1"):
        sampler(store, clips_per_episode=2, clips_per_env_step=2)
    with pytest.raises(ConfigError, match=r"batch_size \(8\) must be a multiple of clips_per_episode \(3\)"):
        sampler(store, clips_per_episode=3)
