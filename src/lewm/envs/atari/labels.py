"""What the bytes of a game's RAM mean, for the games where somebody found out.

Axes: E episode, s label. Source: AtariARI, Anand et al. 2019 (arXiv 1906.08226), 24 games; the table is ``atari_ram.json`` beside this file.
"""

import functools
import importlib.resources
import json

import numpy as np

from lewm.envs.atari.options import AtariOptions
from lewm.errors import EnvError
from lewm.registry import did_you_mean

NUM_RAM_BYTES = 128
NUM_FACTS = NUM_RAM_BYTES + 1
"""What labels are read from: the RAM and the number of lives."""
LIVES = "lives"
AGENT_LABELS = ("player_x", "player_y")
"""The agent's place, in the tables of most games."""
OTHER_AGENT_LABELS = {"battlezone": (), "pong": ("player_y",), "videopinball": ()}
"""Games whose agent is elsewhere: Pong's paddle keeps its x; a tank seen from inside and a pinball table have no place to go to."""


class Labels:
    """The label columns of one game: the table's, then ``lives``, then, if asked for, the whole RAM. Bytes as they are, 0..255."""

    def __init__(self, rom_id: str, options: AtariOptions) -> None:
        game = rom_id.replace("_", "")
        table = ram_table(game)
        ram_names = [f"ram_{index:03d}" for index in range(NUM_RAM_BYTES)] if options.with_ram else []
        self.names: tuple[str, ...] = (*table, LIVES, *ram_names)
        self._indices = np.array([*table.values(), NUM_RAM_BYTES, *range(len(ram_names))], np.intp)
        default = OTHER_AGENT_LABELS.get(game, tuple(name for name in AGENT_LABELS if name in table))
        self.goal_names: tuple[str, ...] = options.goal_labels or default
        for name in self.goal_names:
            if name not in self.names:
                hint = "" if options.with_ram else "; with_ram=true adds ram_000 to ram_127"
                raise EnvError(f"goal_labels: env 'atari/{rom_id}' has no label {name!r}.{did_you_mean(name, self.names)}{hint}")
        self.goal_columns = np.array([self.names.index(name) for name in self.goal_names], np.intp)

    def read(self, facts: np.ndarray) -> np.ndarray:
        """float32 [E, s] of uint8 [E, 129]: 128 bytes of RAM and the number of lives."""
        return np.asarray(facts[:, self._indices], np.float32)


@functools.cache
def ram_table(game: str) -> dict[str, int]:
    """Label name -> RAM index of a game spelled without underscores; empty for a game without a table. Several bytes become name_0, name_1, ..."""
    text = importlib.resources.files("lewm.envs").joinpath("atari_ram.json").read_text(encoding="utf-8")
    table: dict[str, list[int]] = json.loads(text)["games"].get(game, {})
    columns: dict[str, int] = {}
    for name, indices in table.items():
        names = [name] if len(indices) == 1 else [f"{name}_{number}" for number in range(len(indices))]
        columns.update(zip(names, indices, strict=True))
    return columns
