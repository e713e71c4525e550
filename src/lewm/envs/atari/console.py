"""One episode on one console: waiting, frame skip, sticky actions and the screens to draw.

Axes: K emulator frame, H W the emulator's screen.
"""

import numpy as np

from lewm.envs.atari.emulator import FIRE, NOOP, Emulator
from lewm.envs.atari.labels import NUM_FACTS, NUM_RAM_BYTES
from lewm.envs.atari.options import AtariOptions
from lewm.envs.atari.state import Glimpse, Moment
from lewm.seeds import hash64

RESET_STREAM = 11
"""Keeps the numbers of the reset apart from those that a policy draws from the same seed."""
STICKY_STREAM = 12
CHUNK_FRAMES = 4096


class Console:
    """An emulator and where its episode stands. It depends on seed and actions only; the emulator is loaded (about 0.1 s) when first needed."""

    def __init__(self, rom_id: str, options: AtariOptions, screens: np.ndarray, emulator: Emulator | None = None) -> None:
        self._rom_id, self._options = rom_id, options
        self._emulator = emulator
        self.screens = screens
        """uint8 [K, H, W]: the last emulator frames of the present env step, written in place."""
        self._views = list(screens)
        self.seed = self.env_step = self.frame = 0
        self.held_action = NOOP
        self.is_terminated = False
        self._sticky_chunk, self._is_sticky = -1, np.zeros(0, bool)

    @property
    def emulator(self) -> Emulator:
        """The console's own emulator."""
        if self._emulator is None:
            self._emulator = Emulator(self._rom_id, self._options)
        return self._emulator

    def reset(self, seed: int) -> None:
        """Begin the episode of ``seed``: wait as many frames as it says, and press FIRE if asked to."""
        ale = self.emulator.ale
        self.emulator.restart()
        self._begin(seed)
        low, high = self._options.min_num_noops, self._options.max_num_noops
        num_noops = int(np.random.default_rng([seed, RESET_STREAM]).integers(low, high + 1))
        presses = [NOOP] * num_noops + [FIRE] * self._options.is_fired_on_reset
        for press in presses:
            ale.act(press)
        if presses:
            ale.getScreen(self._views[-1])
        else:
            self._views[-1][:] = self.emulator.start_screen
        self._views[0][:] = self._views[-1]
        self.is_terminated = bool(ale.game_over())

    def step(self, action: int) -> float:
        """One env step with ALE's ``action``; the reward of its frames. A terminated episode stays as it is."""
        if self.is_terminated:
            return 0.0
        ale, views, num_frames = self.emulator.ale, self._views, self._options.frame_skip
        lives = ale.lives() if self._options.is_terminated_on_life_loss else 0
        is_sticky = self._options.repeat_action_probability > 0
        reward, is_over = 0, False
        for number in range(num_frames):
            if not is_sticky or not self._keeps_action(self.frame + number):
                self.held_action = action
            reward += ale.act(self.held_action)
            is_over = ale.game_over()
            if is_over:
                break
            if number == num_frames - 2:
                ale.getScreen(views[0])
        ale.getScreen(views[-1])
        if is_over:
            # The game may end anywhere in an env step; its last frame is then drawn alone.
            views[0][:] = views[-1]
        self.frame += num_frames
        self.env_step += 1
        self.is_terminated = is_over or (self._options.is_terminated_on_life_loss and ale.lives() < lives)
        return float(reward)

    def read_facts(self, out: np.ndarray) -> None:
        """Write RAM and lives into ``out``, uint8 [129]."""
        ale = self.emulator.ale
        ale.getRAM(out[:NUM_RAM_BYTES])
        out[NUM_RAM_BYTES] = ale.lives()

    def glimpse(self) -> Glimpse:
        """A copy of what is on the screen and true now."""
        facts = np.empty(NUM_FACTS, np.uint8)
        self.read_facts(facts)
        return Glimpse(screens=self.screens.copy(), facts=facts)

    def get_moment(self, goal: Glimpse | None) -> Moment:
        """The episode as it stands, with its goal."""
        return Moment(
            console=self.emulator.get_state(),
            now=self.glimpse(),
            seed=self.seed,
            env_step=self.env_step,
            frame=self.frame,
            held_action=self.held_action,
            is_terminated=self.is_terminated,
            goal=goal,
        )

    def set_moment(self, moment: Moment) -> None:
        """Take over an episode."""
        self.emulator.set_state(moment.console)
        self._begin(moment.seed)
        self.env_step, self.frame = moment.env_step, moment.frame
        self.held_action, self.is_terminated = moment.held_action, moment.is_terminated
        self.screens[:] = moment.now.screens

    def _begin(self, seed: int) -> None:
        self.seed, self.env_step, self.frame, self.held_action, self.is_terminated = seed, 0, 0, NOOP, False
        self._sticky_chunk = -1

    def _keeps_action(self, frame: int) -> bool:
        """Whether the console repeats the previous action at this frame: ALE's rule, with a number that seed and frame decide."""
        chunk, offset = divmod(frame, CHUNK_FRAMES)
        if chunk != self._sticky_chunk:
            frames = np.arange(chunk * CHUNK_FRAMES, (chunk + 1) * CHUNK_FRAMES, dtype=np.uint64)
            key = hash64(np.array([STICKY_STREAM]), self.seed)
            self._is_sticky = hash64(frames, key) < np.uint64(self._options.repeat_action_probability * 2.0**64)
            self._sticky_chunk = chunk
        return bool(self._is_sticky[offset])
