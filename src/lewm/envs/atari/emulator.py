"""One console: a game of the Arcade Learning Environment that starts and continues the same way wherever it ran before.

ALE's own states leave three things out, which this file mends: the screen (kept by the caller), the previous bytes on the data bus and what
half-drawn lines showed before (a frame is run and thrown away before a state is taken over). Its random numbers are not used. With ale-py 0.12.1
frames, rewards and RAM continue exactly in all 104 games, and so do the bytes of states, but for one of Pitfall II's that only its music reads and
four of Miniature Golf's that are as they were an env step later.
"""

import functools
import os
from typing import Any

import numpy as np
from ale_py import ALEInterface, ALEState, LoggerMode, roms

from lewm.envs.atari.frames import palette
from lewm.envs.atari.options import AtariOptions
from lewm.errors import EnvError

NOOP, FIRE = 0, 1
BOOT_FRAMES = 4
"""Frames before an episode's first: only these depend on what a console showed before it was switched on."""
PAL_HEIGHT_PX = 250
"""Height of the screens that ale-py draws with the PAL palette."""


@functools.cache
def rom_paths() -> dict[str, str]:
    """ROM id -> file, of every game with a player of its own; ale-py has a few that need two."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    paths = {rom_id: str(roms.get_rom_path(rom_id)) for rom_id in roms.get_all_rom_ids()}
    return {rom_id: path for rom_id, path in paths.items() if os.path.exists(path) and ALEInterface.isSupportedROM(path) is not None}


class Emulator:
    """ALE with a game loaded (about 0.1 s), standing at the start of an episode before its waiting frames."""

    def __init__(self, rom_id: str, options: AtariOptions) -> None:
        path = rom_paths().get(rom_id)
        if path is None or not os.path.exists(path):
            raise EnvError(f"env 'atari/{rom_id}' has no ROM file that ale-py supports; reinstall ale-py: pip install --force-reinstall ale-py")
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", 0)
        self.ale.setInt("frame_skip", 1)
        self.ale.setInt("max_num_frames_per_episode", 0)
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(path)
        self._set_variant(rom_id, options)
        for _ in range(BOOT_FRAMES):
            self.ale.act(NOOP)
        self._start: ALEState = self.ale.cloneState(include_rng=False)
        self.start_screen: np.ndarray = self.ale.getScreen()
        height_px, width_px = self.ale.getScreenDims()
        self.screen_size_px: tuple[int, int] = (int(height_px), int(width_px))
        self.palette = palette("pal" if height_px == PAL_HEIGHT_PX else "ntsc")
        if not np.array_equal(self.palette[self.start_screen], self.ale.getScreenRGB()):
            raise EnvError(f"env 'atari/{rom_id}': this version of ale-py draws in colours that lewm does not know; use ale-py 0.11 or 0.12")

    def actions(self, full_action_space: bool) -> tuple[int, ...]:
        """ALE's action numbers in the order of the choices; choice 0 is NOOP."""
        legal = self.ale.getLegalActionSet() if full_action_space else self.ale.getMinimalActionSet()
        return tuple(int(action.value) for action in legal)

    def restart(self) -> None:
        """Back to the start of an episode."""
        self._take_over(self._start)

    def get_state(self) -> bytes:
        """ALE's state, without its random numbers and without the screen."""
        # ale-py's type stubs call its bytes a tuple.
        state: Any = self.ale.cloneState(include_rng=False).__getstate__()
        return bytes(state)

    def set_state(self, state: bytes) -> None:
        """Take over a state of ``get_state``; ``EnvError`` if ALE cannot read it or it is of another game."""
        found: Any = ALEState.__new__(ALEState)
        try:
            found.__setstate__(state)
            self._take_over(found)
        except (SystemError, ValueError, RuntimeError, TypeError) as error:
            raise EnvError("the emulator cannot read this state: it is damaged or of another version of ale-py") from error

    def _take_over(self, state: ALEState) -> None:
        self.ale.restoreState(state)
        self.ale.act(NOOP)
        self.ale.restoreState(state)

    def _set_variant(self, rom_id: str, options: AtariOptions) -> None:
        for what, value, available in (
            ("mode", options.mode, self.ale.getAvailableModes()),
            ("difficulty", options.difficulty, self.ale.getAvailableDifficulties()),
        ):
            if value is not None and value not in available:
                raise EnvError(f"{what} of env 'atari/{rom_id}' must be one of {sorted(int(one) for one in available)}, got {value}")
        if options.mode is not None:
            self.ale.setMode(options.mode)
        if options.difficulty is not None:
            self.ale.setDifficulty(options.difficulty)
        if options.mode is not None or options.difficulty is not None:
            self.ale.reset_game()
