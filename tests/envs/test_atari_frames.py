"""Atari frames against the loop that they stand for, the literal area formula, PIL, and ale-py's own vector environment."""

import ale_py
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from PIL import Image

import lewm
from lewm.envs.atari.emulator import BOOT_FRAMES
from lewm.envs.atari.frames import FrameMaker, area_mean, area_taps, palette
from lewm.errors import EnvError

pytestmark = pytest.mark.atari


def literal_area_matrix(size_in: int, size_out: int) -> np.ndarray:
    """float64 [size_out, size_in]: the share of each input in each output."""
    step = size_in / size_out
    low, high = np.arange(size_out) * step, (np.arange(size_out) + 1) * step
    overlap = np.minimum(high[:, None], np.arange(size_in) + 1) - np.maximum(low[:, None], np.arange(size_in))
    return np.clip(overlap, 0, None) / step


def literal_area_mean(image: np.ndarray, size_px: int) -> np.ndarray:
    """float64 [size_px, size_px, 3]."""
    rows, columns = (literal_area_matrix(size, size_px) for size in image.shape[:2])
    return np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)


def random_screens(num_screens: int, height_px: int, width_px: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    screens = np.repeat(generator.integers(128, size=(1, height_px, width_px)) * 2, num_screens, 0).astype(np.uint8)
    screens[0, generator.random((height_px, width_px)) < 0.1] = 14
    return screens


@pytest.mark.parametrize("size_px", [16, 64, 83, 84, 96, 128, 224])
@pytest.mark.parametrize("num_screens", [1, 2])
def test_area_frames_are_the_literal_mean_of_the_pooled_screens(size_px: int, num_screens: int) -> None:
    screens = random_screens(num_screens, 210, 160)
    colors = palette("ntsc").astype(np.float64)[screens].max(0)
    mean = literal_area_mean(colors, size_px)
    frame = np.empty((size_px, size_px, 3), np.uint8)
    FrameMaker(palette("ntsc"), (210, 160), size_px, "area").draw(screens, frame)
    assert np.abs(frame - mean).max() <= 0.5 + 1e-9


def test_the_two_ways_of_area_resizing_agree() -> None:
    screens = random_screens(1, 250, 160)
    maker = FrameMaker(palette("pal"), (250, 160), 84, "area")
    frame = np.empty((84, 84, 3), np.uint8)
    maker.draw(screens, frame)
    assert np.array_equal(frame, area_mean(maker.pooled_rgb(screens), 84, 84))


@pytest.mark.parametrize(("size_in", "size_out"), [(210, 84), (160, 84), (250, 64), (7, 16), (5, 5)])
def test_area_taps_cover_each_output_completely(size_in: int, size_out: int) -> None:
    inputs, weights, total = area_taps(size_in, size_out)
    assert (np.sum(weights, axis=0) == total).all()
    assert min(tap.min() for tap in inputs) >= 0
    assert max(tap.max() for tap in inputs) < size_in


@pytest.mark.parametrize("resampler", ["area", "bilinear", "nearest"])
@pytest.mark.parametrize(("frame_skip", "is_max_pooled"), [(4, True), (4, False), (1, True)])
def test_an_env_step_is_the_loop_written_out(resampler: str, frame_skip: int, is_max_pooled: bool) -> None:
    options = {"frame_skip": frame_skip, "is_max_pooled": is_max_pooled, "max_num_noops": 0, "size_px": 84}
    batch = lewm.make_batch("atari/pong", 1, resampler=resampler, **options)
    batch.reset([0])
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("pong"))
    for _ in range(BOOT_FRAMES):
        ale.act(0)
    for choice in np.random.default_rng(0).integers(batch.action_spec.num_choices, size=120 // frame_skip):
        rewards, _ = batch.step(np.array([choice]))
        reward, screens = 0, []
        for _ in range(frame_skip):
            reward += ale.act(ale.getMinimalActionSet()[choice])
            screens.append(ale.getScreenRGB())
        expected = np.max(screens[-2:], axis=0) if is_max_pooled else screens[-1]
        if resampler == "area":
            expected = literal_area_mean(expected, 84)
        else:
            expected = np.asarray(Image.fromarray(expected).resize((84, 84), Image.Resampling[resampler.upper()]))
        assert np.abs(batch.observe().frames[0, 0] - expected.astype(np.float64)).max() <= (0.5 + 1e-9 if resampler == "area" else 0)
        assert rewards[0] == reward


def test_native_frames_are_the_emulators_own() -> None:
    batch = lewm.make_batch("atari/adventure", 1, size_px=None, frame_skip=1)
    batch.reset([0])
    batch.step(np.array([1]))
    assert np.array_equal(batch.observe().frames[0, 0], batch._consoles[0].emulator.ale.getScreenRGB())
    assert batch.observation_spec.frame_shape == (1, 250, 160, 3)


def test_frames_and_rewards_are_those_of_the_native_vector_environment() -> None:
    options = {"grayscale": False, "stack_num": 1, "noop_max": 0, "use_fire_reset": False, "reward_clipping": False}
    native = AtariVectorEnv("pong", 1, num_threads=1, img_height=84, img_width=84, frameskip=BOOT_FRAMES, **options)
    native.reset(seed=0)
    native.step(np.array([0]))  # our episodes start BOOT_FRAMES emulator frames later
    batch = lewm.make_batch("atari/pong", 1, max_num_noops=0, frame_skip=BOOT_FRAMES)
    batch.reset([0])
    total = 0.0
    for choice in np.random.default_rng(0).integers(batch.action_spec.num_choices, size=150):
        expected, expected_rewards, *_ = native.step(np.array([choice]))
        rewards, _ = batch.step(np.array([choice]))
        difference = batch.observe().frames[0, 0].astype(int) - expected[0, 0]
        assert np.abs(difference).max() <= 1  # it rounds between rows and columns
        assert rewards[0] == expected_rewards[0]
        total += abs(float(rewards[0]))
    assert total > 0
    native.close()


def test_frames_go_into_the_array_that_is_given_and_others_are_refused() -> None:
    batch = lewm.make_batch("atari/pong", 2)
    batch.reset([0, 1])
    out = np.zeros((2, 1, 84, 84, 3), np.uint8)
    assert batch.observe(out=out).frames is out
    assert np.array_equal(out, batch.observe().frames)
    with pytest.raises(EnvError, match="out must be a C-contiguous uint8 array"):
        batch.observe(out=np.zeros((2, 84, 84, 3), np.uint8))


def test_a_palette_has_256_colours_and_its_odd_entries_are_grey() -> None:
    for name in ("ntsc", "pal"):
        colors = palette(name)
        assert colors.shape == (256, 3)
        assert (colors[1::2] == colors[1::2, :1]).all()
