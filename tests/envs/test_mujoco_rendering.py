"""Rendering profiles, backends and what is left behind when a process ends."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.envs.dmc.simulator import Simulator
from lewm.envs.mujoco.rendering import SceneRenderer

pytestmark = pytest.mark.mujoco

SHOWING = [("reflection", "cheetah-run"), ("skybox", "cheetah-run")]
"""Tasks whose frames show what can be hidden; none shows haze."""
DRAW = """
import lewm
batch = lewm.make_batch("dmc/reacher-easy", 1, size_px=32)
batch.reset([1])
batch.step([[0.5, -0.5]])
{before}
print(batch.observe().frames.mean() > 0, batch.rendering_description()["backend"])
"""


def run_alone(code, **variables):
    """A fresh process with warnings as errors; its output and errors."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment | variables, capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr


def frames_of(name, **options):
    batch = make_batch(f"dmc/{name}", 2, **options)
    batch.reset([1, 2])
    frames = batch.observe().frames
    batch.close()
    return frames.astype(np.float64)


@pytest.mark.parametrize("name", ["reacher-easy", "cheetah-run"])
def test_the_fast_profile_differs_from_the_shipped_one_in_shading_only(name):
    fast, shipped = frames_of(name), frames_of(name, rendering="shipped")
    assert (fast != shipped).any()
    # Bodies are red or yellow before blue floors and skies: they must stand at the same place, up to the smoothed edges.
    bodies = [frames[..., 0] > frames[..., 2] for frames in (fast, shipped)]
    assert bodies[0].sum() > 100
    assert (bodies[0] & bodies[1]).sum() / (bodies[0] | bodies[1]).sum() > 0.75


@pytest.mark.parametrize(("thing", "name"), SHOWING)
def test_what_is_hidden_changes_the_picture(thing, name):
    assert (frames_of(name) != frames_of(name, hide=(thing,))).any()


def test_frames_are_upright_and_the_target_is_where_its_labels_say():
    batch = make_batch("dmc/reacher-easy", 10)
    batch.reset(range(10))
    frames, labels = batch.observe().frames[:, 0].astype(int), batch.labels()
    batch.close()
    for frame, place in zip(frames, labels[:, -2:], strict=True):
        rows, columns = np.nonzero((frame[..., 0] - frame[..., 1] > 80) & (frame[..., 0] - frame[..., 2] > 60))
        # The camera looks down on 0.6 m, x to the right and y up; the arm may cover part of the target.
        np.testing.assert_allclose([columns.mean(), rows.mean()], 31.5 + 64 / 0.62 * np.array([place[0], -place[1]]), atol=3)


def test_a_large_frame_needs_no_setting_of_the_model():
    assert frames_of("pendulum-swingup", size_px=700).shape == (2, 1, 700, 700, 3)


def test_drawing_into_a_given_array_fills_it_and_another_kind_of_array_is_refused():
    batch = make_batch("dmc/reacher-easy", 2, size_px=32)
    batch.reset([1, 2])
    out = np.zeros((2, 1, 32, 32, 3), np.uint8)
    assert batch.observe(out=out).frames is out
    np.testing.assert_array_equal(out, batch.observe().frames)
    with pytest.raises(Exception, match="out must be uint8"):
        batch.observe(out=out.astype(np.float32))


def test_two_renderers_at_once_draw_what_each_draws_alone():
    reacher, cheetah = frames_of("reacher-easy", size_px=32), frames_of("cheetah-run")
    batches = [make_batch("dmc/reacher-easy", 2, size_px=32), make_batch("dmc/cheetah-run", 2)]
    for batch in batches:
        batch.reset([1, 2])
    for _ in range(2):
        np.testing.assert_array_equal(batches[0].observe().frames, reacher)
        np.testing.assert_array_equal(batches[1].observe().frames, cheetah)
    batches[0].close()
    np.testing.assert_array_equal(batches[1].observe().frames, cheetah)


def test_a_supersampled_frame_is_the_mean_of_a_larger_one():
    larger = frames_of("reacher-easy", size_px=96).astype(float)
    means = larger.reshape(*larger.shape[:2], 32, 3, 32, 3, 3).mean((3, 5))
    assert np.abs(frames_of("reacher-easy", size_px=32, supersampling=3) - means).max() <= 0.5


def test_a_terrain_is_drawn_as_its_own_episode_has_it():
    together, alone = make_batch("dmc/quadruped-escape", 2, size_px=32), make_batch("dmc/quadruped-escape", 1, size_px=32)
    together.reset([1, 2])
    alone.reset([2])
    np.testing.assert_array_equal(together.observe().frames[1], alone.observe().frames[0])


def test_a_renderer_can_be_closed_twice_and_says_what_draws():
    simulator = Simulator("pendulum", "swingup")
    renderer = SceneRenderer(simulator.model, 32)
    assert renderer.gl_renderer
    renderer.close()
    renderer.close()


@pytest.mark.parametrize("backend", ["egl", "osmesa", ""])
def test_a_process_that_forgets_to_close_ends_without_a_word(backend):
    output, errors = run_alone(DRAW.format(before=""), **({"MUJOCO_GL": backend} if backend else {}))
    assert (output, errors) == (f"True {backend or 'egl'}\n", "")


def test_without_an_egl_device_osmesa_draws():
    output, errors = run_alone(DRAW.format(before=""), __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere")
    assert (output, errors) == ("True osmesa\n", "")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUJOCO_GL": "bogus"}, "MUJOCO_GL must be one of egl, osmesa, glfw, or unset to choose one that works; got 'bogus'"),
        ({"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere"}, "apt-get install libegl1 libgl1-mesa-dri"),
        ({"MUJOCO_GL": "glfw"}, "no display for GLFW; on Debian: apt-get install libegl1 libgl1-mesa-dri"),
    ],
)
def test_a_backend_that_is_not_there_is_an_error_that_says_what_to_do(variables, message):
    output, errors = run_alone(DRAW.format(before=""), **variables)
    assert output == ""
    assert "lewm.errors.EnvError" in errors
    assert message in errors
    assert "Exception ignored" not in errors


def test_a_world_without_any_gl_still_simulates():
    output, errors = run_alone(DRAW.format(before="print(batch.labels().shape)"), MUJOCO_GL="egl", __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere")
    assert output == "(1, 12)\n"
    assert "MuJoCo cannot draw with MUJOCO_GL=egl" in errors
