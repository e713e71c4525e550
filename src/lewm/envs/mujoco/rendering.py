"""Pictures of MuJoCo scenes without a window: the choice of a GL backend, rendering profiles, and a renderer that leaves nothing behind.

Axes: Y X image.
"""

import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lewm.envs.mujoco.meshes import coarsened
from lewm.errors import EnvError

BACKENDS = ("egl", "osmesa", "glfw")
PROFILES = ("fast", "shipped")
HIDEABLE = {"reflection": "mjRND_REFLECTION", "haze": "mjRND_HAZE", "skybox": "mjRND_SKYBOX"}
"""What a picture can leave out, and MuJoCo's flag for it."""
MAX_GEOMS = 2000
"""More shapes than any task of the suite draws; MuJoCo leaves the rest out."""
EGL_PLATFORM_DEVICE = 0x313F
INSTALL_GL = "on Debian: apt-get install libegl1 libgl1-mesa-dri (MUJOCO_GL=egl), or apt-get install libosmesa6 (MUJOCO_GL=osmesa)"

_OPEN: "weakref.WeakSet[SceneRenderer]" = weakref.WeakSet()


def asked_backend() -> str | None:
    """The GL backend that ``MUJOCO_GL`` names, None where it is not set; ``EnvError`` for another value."""
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked and asked not in BACKENDS:
        raise EnvError(f"MUJOCO_GL must be one of {', '.join(BACKENDS)}, or unset to choose one that works; got {asked!r}")
    return asked or None


@contextlib.contextmanager
def without_gl() -> Iterator[None]:
    """Import packages in here that would choose a GL backend when imported; ``EnvError`` if ``MUJOCO_GL`` names none.

    A process that never draws needs no GL, so nothing may fail for the lack of it. And dm_control's GL contexts, when collected, delete
    the buffers of whichever other context is current. Who wants its ``physics.render`` beside this imports dm_control first.
    """
    asked = asked_backend()
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if asked:
            os.environ["MUJOCO_GL"] = asked


def choose_backend() -> str:
    """The GL backend: ``MUJOCO_GL`` or PyOpenGL's platform if set, else the first of EGL, OSMesa and, with a display, GLFW that is there.

    Says so in ``MUJOCO_GL``. ``EnvError`` for another value of it, and where there is no GL at all.
    """
    # Mesa's software renderer is two to three times as fast at 64 px without worker threads, whose hand-over costs more than the picture.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    platform = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    found = asked_backend() or (platform if platform in BACKENDS else next((name for name, is_there in _PROBES.items() if is_there()), None))
    if found is None or (found == "glfw" and not _has_glfw()):
        raise EnvError(f"MuJoCo has nothing to draw with: no EGL device, no OSMesa, no display for GLFW; {INSTALL_GL}")
    os.environ["MUJOCO_GL"] = found
    if found != "glfw":
        # PyOpenGL must be of the same mind.
        os.environ["PYOPENGL_PLATFORM"] = found
    return found


def _has_egl() -> bool:
    """Whether EGL lists a device that can be initialised: what MuJoCo will ask of it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        addresses = [egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT")]
    except (OSError, AttributeError):
        return False
    if not all(addresses):
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(addresses[0])
    display_of = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(addresses[1])
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    devices, num_devices = (ctypes.c_void_p * 16)(), ctypes.c_int()
    if not query(16, devices, ctypes.byref(num_devices)):
        return False
    displays = (display_of(EGL_PLATFORM_DEVICE, device, None) for device in devices[: num_devices.value])
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def _has_osmesa() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _has_glfw() -> bool:
    has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(has_display) and importlib.util.find_spec("glfw") is not None


_PROBES: dict[str, Callable[[], bool]] = {"egl": _has_egl, "osmesa": _has_osmesa, "glfw": _has_glfw}


class SceneRenderer:
    """Draws what cameras see of a MuJoCo model into uint8 arrays; the GL context is its own until ``close``.

    ``profile``: ``shipped`` draws the model as it comes; ``fast`` without shadows and multisampling, which cost a software renderer most of its
    time. ``hide`` names further things to leave out (``HIDEABLE``); with ``supersampling`` k every pixel is the mean of k x k; a ``mesh_grid_m``
    above 0 draws coarser meshes. The model is the one that is simulated: what an episode changes in it, and the profile's settings of its looks,
    need no copy. ``EnvError`` if no GL context can be made.
    """

    def __init__(
        self, model: Any, size_px: int, *, profile: str = "fast", hide: Sequence[str] = (), supersampling: int = 1, mesh_grid_m: float = 0.0
    ) -> None:
        import mujoco

        self._mujoco, self._model = mujoco, model
        self._gl: Any = None
        self._context: Any = None
        self.backend = choose_backend()
        self._supersampling = supersampling
        drawn_px = size_px * supersampling
        self._rectangle = mujoco.MjrRect(0, 0, drawn_px, drawn_px)
        self._pixels = np.zeros((drawn_px, drawn_px, 3), np.uint8)
        is_fast = profile == "fast"
        if is_fast:
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        # GL clears and resolves its whole buffer for every frame, the model's 640 x 480 too: one of the frame's size halves the time.
        looks = model.vis.global_
        looks.offwidth = drawn_px if is_fast else max(drawn_px, looks.offwidth)
        looks.offheight = drawn_px if is_fast else max(drawn_px, looks.offheight)
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        if is_fast:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        for name in hide:
            self._scene.flags[getattr(mujoco.mjtRndFlag, HIDEABLE[name])] = False
        self._options, self._fixed_camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._fixed_camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._drawn_model = coarsened(model, mesh_grid_m) if mesh_grid_m else model
        self._open()

    def _open(self) -> None:
        try:
            self._gl = importlib.import_module(f"mujoco.{self.backend}").GLContext(*self._pixels.shape[1::-1])
            self._gl.make_current()
            self._context = self._mujoco.MjrContext(self._drawn_model, self._mujoco.mjtFontScale.mjFONTSCALE_100.value)
        # PyOpenGL raises whatever comes of a missing library: ImportError, AttributeError, TypeError or an error of its own.
        except Exception as error:
            self._gl = None
            raise EnvError(f"MuJoCo cannot draw with MUJOCO_GL={self.backend} ({type(error).__name__}: {error}); {INSTALL_GL}") from error
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        _OPEN.add(self)
        # Registered after MuJoCo's own exit function, so it runs before that one takes the display away.
        atexit.unregister(_close_all)
        atexit.register(_close_all)

    @property
    def gl_renderer(self) -> str:
        """What draws, as GL calls it: a GPU, or Mesa's llvmpipe."""
        from OpenGL import GL

        self._gl.make_current()
        # MuJoCo leaves errors of some models behind (textures of odd sizes), and PyOpenGL would blame this call for them.
        while GL.glGetError() != GL.GL_NO_ERROR:
            pass
        return bytes(GL.glGetString(GL.GL_RENDERER)).decode()

    def upload_height_fields(self) -> None:
        """Tell GL that the model's height fields have changed."""
        self._gl.make_current()
        for field in range(self._model.nhfield):
            self._mujoco.mjr_uploadHField(self._model, self._context, field)

    def draw(self, data: Any, camera: Any, out: np.ndarray) -> None:
        """Draw what a camera sees of ``data`` into ``out``, uint8 [Y, X, 3]: a number of the model's, or a free ``MjvCamera``."""
        if isinstance(camera, int):
            self._fixed_camera.fixedcamid = camera
            camera = self._fixed_camera
        everything = self._mujoco.mjtCatBit.mjCAT_ALL.value
        self._mujoco.mjv_updateScene(self._model, data, self._options, None, camera, everything, self._scene)
        self._gl.make_current()
        self._mujoco.mjr_render(self._rectangle, self._scene, self._context)
        self._mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        drawn = self._pixels[::-1]
        out[...] = drawn if self._supersampling == 1 else _averaged(drawn, self._supersampling)

    def close(self) -> None:
        """Free the GL context; harmless when called twice."""
        if self._gl is None:
            return
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._gl = self._context = None
        _OPEN.discard(self)

    def __del__(self) -> None:
        if getattr(self, "_gl", None) is not None:
            self.close()


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Squares of ``factor`` x ``factor`` pixels as their rounded mean, uint8 [Y, X, 3]."""
    height, width, channels = (side // factor for side in (*pixels.shape[:2], pixels.shape[2] * factor))
    sums = pixels.reshape(height, factor, width, factor, channels).sum((1, 3), dtype=np.uint32)
    means: np.ndarray = (sums + factor**2 // 2) // factor**2
    return means.astype(np.uint8)


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()
