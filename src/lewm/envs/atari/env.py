"""The games of the Arcade Learning Environment as goal worlds: ``atari/<game>``.

``atari/ms_pacman`` (ale-py's ROM id) and ``atari/mspacman`` (as AtariARI spells it) are the same environment; it is called by its ROM id.
"""

import functools
from typing import Any, ClassVar, Literal

from lewm.envs.atari.batch import STRATA, AtariBatch
from lewm.envs.atari.emulator import rom_paths
from lewm.envs.atari.options import AtariOptions
from lewm.envs.atari.state import VERSION
from lewm.envs.single import BatchOfOne
from lewm.registry import unknown_member

__all__ = ["AtariBatch", "AtariOptions", "game_env", "game_names"]


class AtariGame(BatchOfOne):
    """A game as a ``GoalEnv``; subclasses say which. Observations: ``{"frames": uint8 [1, Y, X, 3]}``; actions: a whole number.

    The options are the fields of ``AtariOptions``. The reward is the game's, summed over the frames of an env step and not clipped.
    """

    ROM_ID: ClassVar[str]
    VERSION: ClassVar[int] = VERSION
    STRATA: ClassVar[tuple[str, ...]] = STRATA
    DATA_POLICY: ClassVar[str] = "block-random"
    GOAL_COST: ClassVar[Literal["latent", "labels"]] = "labels"

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> AtariBatch:
        """The same game for ``num_envs`` episodes at once, with the fields of ``AtariOptions``."""
        return AtariBatch(cls.ROM_ID, num_envs, **options)


def game_names() -> list[str]:
    """The ROM ids of all games with a single player, sorted."""
    return sorted(rom_paths())


def game_env(member: str) -> type[AtariGame]:
    """The environment class of a game, by its ROM id with or without underscores; ``UnknownNameError`` proposes the nearest one."""
    spellings = {rom_id.replace("_", ""): rom_id for rom_id in rom_paths()} | {rom_id: rom_id for rom_id in rom_paths()}
    if member not in spellings:
        raise unknown_member("env", "atari/", member, game_names())
    return _game_class(spellings[member])


@functools.cache
def _game_class(rom_id: str) -> type[AtariGame]:
    name = rom_id.title().replace("_", "")
    return type(name, (AtariGame,), {"NAME": f"atari/{rom_id}", "ROM_ID": rom_id, "__module__": __name__, "__doc__": AtariGame.__doc__})
