"""A Minari dataset with pictures among its observations; rows are read from its files, for Minari itself loads whole episodes.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label.

An episode has N + 1 observations and infos, and N actions, rewards and ends.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, EpisodeSink, checked_actions, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.minari_files import METADATA_FILE, damaged, open_files
from lewm.data.formats.minari_sink import OWN_PROVENANCE, UNFINISHED, MinariSink, own_names, own_provenance
from lewm.data.formats.minari_spaces import MIN_PICTURE_PX, NUMERIC, Leaf, Name, read_space, spelled
from lewm.data.formats.own_metadata import KEY, from_text, listed
from lewm.data.formats.pictures import as_rgb, decoded
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError, LewmError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec, ObservationSpec

logger = logging.getLogger(__name__)
GOALS = ("desired_goal", "achieved_goal")
"""What Gymnasium's goal environments add to their observations: labels, not what a body feels."""
MAX_WIDTH = 256
"""An entry of more numbers is a picture or a map, and left out unless it is asked for."""
MAX_TEXT = 4096
"""Characters of a text that still counts as a remark on an episode."""
SCAN_ROWS = 2**16


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One array of every episode."""

    name: Name
    """From the episode on: ``("observations", "image")``."""
    leaf: Leaf

    @property
    def number_names(self) -> tuple[str, ...]:
        """A name for each number of a row."""
        own = spelled(self.name[1:] if self.name[0] == "observations" else self.name) or "observation"
        return (own,) if self.leaf.shape in ((), (1,)) else tuple(f"{own}_{place}" for place in range(self.leaf.size))


def find_data(path: Path) -> Path:
    """The directory that holds the metadata; ``DataError`` if there is none, or its writer has not finished."""
    for directory in (path, path / "data"):
        if (directory / METADATA_FILE).is_file():
            return directory
    if (path / UNFINISHED).is_dir():
        raise DataError(f"{str(path)!r} is not finished: its writer was stopped; go on with --resume")
    raise DataError(f"{str(path)!r} is no Minari dataset: neither it nor its directory 'data' has a {METADATA_FILE}")


def read_metadata(file: Path) -> dict[str, Any]:
    """``metadata.json``."""
    try:
        content = json.loads(file.read_text())
        num_episodes = content["total_episodes"]
        if not isinstance(num_episodes, int) or num_episodes < 0:
            raise ValueError(f"total_episodes is {num_episodes!r}")
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}") from None


class MinariReader(EpisodeReader):
    """Episodes of one dataset."""

    def __init__(self, path: Path, *, missing_actions: str, **options: tuple[str, ...] | None) -> None:
        self.path, self._missing_actions = path, missing_actions
        data = find_data(path)
        self._metadata_file = data / METADATA_FILE
        metadata = read_metadata(self._metadata_file)
        for key in ("observation_space", "action_space"):
            if key not in metadata:
                raise damaged(self._metadata_file, f"it names no {key}; load and save the dataset with a newer Minari")
        self._files = open_files(data, metadata.get("data_format", "hdf5"), metadata["total_episodes"])
        spaces = {key: read_space(metadata[f"{key}_space"], f"the {key} space of {str(self._metadata_file)!r}") for key in ("observation", "action")}
        self._action = _action_leaf(spaces["action"], self._metadata_file)
        entries = {("observations", *name): Entry(name=("observations", *name), leaf=leaf) for name, leaf in spaces["observation"].items()}
        self._texts = [name for name, entry in entries.items() if entry.leaf.kind == "Text"]
        text = metadata.get(KEY)
        own = None if text is None or any(option is not None for option in options.values()) else from_text(text, str(self._metadata_file))
        self._is_own = own is not None
        self._columns = self._chosen(entries, **options) if own is None else self._own(entries, own)
        self._kept, self.lengths = self._read_lengths(metadata["total_episodes"])
        self.terminated = np.array([self._ends(episode) for episode in range(len(self.lengths))], bool)
        self.meta = own or self._foreign_meta(metadata)

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column, from the entries that make it up."""
        number, length, spec = int(self._kept[episode]), int(self.lengths[episode]), self.meta.action_spec
        where = f"{str(self.path)!r}, episode {number}"
        if column.startswith("frames."):
            return self._frames(self._columns[column][0], number, rows, where)
        transitions = rows[rows < length]
        if column == "rewards":
            values = _finite(self._numbers(("rewards",), number, transitions, ())[:, 0], column, where)
            return values if len(transitions) == len(rows) else padded(values)
        if column == "actions":
            values = self._actions(number, transitions, spec, where)
            return values if len(transitions) == len(rows) else padded(values, spec)
        parts = [self._numbers(entry.name, number, rows, entry.leaf.shape) for entry in self._columns[column]]
        return _finite(np.concatenate(parts, axis=1), column, where)

    def provenance(self, episode: int) -> dict[str, Any]:
        """What the files say of it, and the first of its texts as its task; ours back as it was."""
        number = int(self._kept[episode])
        values = self._files.attributes(number)
        if self._is_own and OWN_PROVENANCE in values:
            return own_provenance(values, self._metadata_file)
        found = {name: value for name, value in values.items() if not (isinstance(value, str) and len(value) > MAX_TEXT)}
        tasks = {"task": self._files.text(number, self._texts[0])[:MAX_TEXT]} if self._texts else {}
        return {"source": self.path.name, "episode": number, **tasks, **found}

    def fingerprint(self) -> str:
        """Of the metadata and all files of episodes."""
        files = [self._metadata_file, *self._files.files()]
        try:
            return fingerprint_of(self._metadata_file.parent, files)
        except OSError as error:
            raise damaged(self._metadata_file.parent, str(error)) from None

    def close(self) -> None:
        """Let go of the file."""
        self._files.close()

    def _own(self, entries: dict[Name, Entry], meta: DatasetMeta) -> dict[str, list[Entry]]:
        """The entries that we wrote; ``DataError`` if they are not those that our metadata promise."""
        spec, found = meta.observation_spec, {}
        for column, name in own_names(meta).items():
            entry = entries.get(name)
            if column == "labels":
                entry = Entry(name=name, leaf=Leaf(kind="Box", shape=(len(meta.label_names),), dtype=np.dtype("f4")))
            shape = (spec.height_px, spec.width_px, 3) if column.startswith("frames.") else meta.columns[column].shape
            if entry is None or entry.leaf.shape != shape:
                raise damaged(self._metadata_file, f"its spaces have no {spelled(name)!r} of shape {list(shape)}")
            found[column] = [entry]
        expected = (meta.action_spec.kind, meta.action_spec.num_choices, len(meta.action_spec.low))
        is_discrete = self._action.kind == "Discrete"
        if expected != ("discrete" if is_discrete else "continuous", self._action.num_choices, 0 if is_discrete else self._action.size):
            raise damaged(self._metadata_file, f"its action space is not that of {meta.action_spec}")
        return found

    def _chosen(
        self,
        entries: dict[Name, Entry],
        *,
        frames: tuple[str, ...] | None,
        proprioception: tuple[str, ...] | None,
        labels: tuple[str, ...] | None,
    ) -> dict[str, list[Entry]]:
        """Which entries are what, by their spaces and the options; ``DataError`` where that is unclear."""
        by_name = {spelled(name[1:]) or "observation": entry for name, entry in entries.items()}
        pictures = {name: entry for name, entry in by_name.items() if entry.leaf.picture_px is not None}
        plain = {name: entry for name, entry in by_name.items() if entry.leaf.kind in NUMERIC and entry.leaf.size > 0}
        cameras = frames or tuple(name for name, entry in pictures.items() if min(entry.leaf.picture_px or (0,)) >= MIN_PICTURE_PX)
        if frames is None and len(cameras) != 1:
            shapes = ", ".join(f"{name} {entry.leaf.kind} {list(entry.leaf.shape)}" for name, entry in by_name.items())
            raise DataError(f"{str(self.path)!r} has {len(cameras)} pictures among its observations ({shapes}); choose with --option frames=NAME")
        self._check_known("frames", cameras, pictures)
        rest = {name: entry for name, entry in plain.items() if name not in cameras and entry.leaf.size <= MAX_WIDTH}
        if left_out := [name for name in plain if name not in cameras and name not in rest]:
            logger.warning("%s: %s of more than %d numbers are left out; name them as labels to have them", self.path, left_out, MAX_WIDTH)
        is_goal = {name: name.split("/")[-1] in GOALS for name in rest}
        if labels is None:
            labels = tuple(name for name in rest if is_goal[name] and name not in (proprioception or ()))
        if proprioception is None:
            proprioception = tuple(name for name in rest if not is_goal[name] and name not in labels)
        self._check_known("proprioception", proprioception, plain)
        known = plain | {name: self._info(name) for name in labels if name.startswith("infos/")}
        self._check_known("labels", labels, known)
        found = {f"frames.{_camera(name)}": [pictures[name]] for name in cameras}
        return found | {"proprioception": [plain[name] for name in proprioception], "labels": [known[name] for name in labels]}

    def _check_known(self, option: str, names: Sequence[str], known: dict[str, Entry]) -> None:
        for name in names:
            if name not in known:
                raise DataError(f"{str(self.path)!r} has no entry {name!r} for the option {option}.{did_you_mean(name, known)}")

    def _info(self, name: str) -> Entry:
        """An entry of the infos, for which there is no space: its shape is that of the first episode."""
        path: Name = tuple(name.split("/"))
        shape = self._files.row_shape(0, path)
        if shape is None:
            raise DataError(f"{str(self.path)!r} has no numbers {name!r} in its first episode; choose other labels")
        return Entry(name=path, leaf=Leaf(kind="Box", shape=shape, dtype=np.dtype("f8")))

    def _read_lengths(self, num_episodes: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [kept]: numbers of the episodes that have a transition, and their env steps; all of their entries have the rows they must."""
        lengths = np.zeros(num_episodes, np.int64)
        names = [entry.name for entries in self._columns.values() for entry in entries]
        for episode in range(num_episodes):
            found = self._files.num_rows(episode, ("actions",))
            if found is None:
                raise DataError(f"{str(self.path)!r}, episode {episode}: it has no actions; write it anew")
            lengths[episode] = found
            expected = {**dict.fromkeys(names, found + 1), ("rewards",): found, ("terminations",): found}
            for name, num_rows in expected.items():
                num_found = self._files.num_rows(episode, name)
                if num_found != num_rows:
                    raise DataError(
                        f"{str(self.path)!r}, episode {episode}: {spelled(name)} has {num_found or 0} rows, must have {num_rows}; write it anew"
                    )
        kept = leave_out(self.path, lengths)
        return kept, lengths[kept]

    def _ends(self, episode: int) -> bool:
        number, last = int(self._kept[episode]), np.array([self.lengths[episode] - 1])
        return bool(self._numbers(("terminations",), number, last, ())[0, 0])

    def _foreign_meta(self, metadata: dict[str, Any]) -> DatasetMeta:
        cameras = [name.removeprefix("frames.") for name in self._columns if name.startswith("frames.")]
        sizes = {name: self._columns[f"frames.{name}"][0].leaf.picture_px or (0, 0) for name in cameras}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{str(self.path)!r}: frames must be of one size, got {sizes}; choose with --option frames=NAME")
        height_px, width_px = sizes[cameras[0]]
        names = {column: tuple(name for entry in self._columns[column] for name in entry.number_names) for column in ("proprioception", "labels")}
        known = {key: metadata[key] for key in ("dataset_id", "minari_version") if isinstance(metadata.get(key), str)}
        try:
            return DatasetMeta(
                observation_spec=ObservationSpec(
                    height_px=height_px, width_px=width_px, cameras=tuple(cameras), proprioception=names["proprioception"]
                ),
                action_spec=self._action_spec(),
                label_names=names["labels"],
                has_rewards=True,
                provenance={"format": "minari", "source": self.path.name, **known},
            )
        except LewmError as error:
            raise DataError(f"{str(self.path)!r} cannot be read: {error}") from None

    def _action_spec(self) -> ActionSpec:
        """The space's, or, where that has no finite bounds, what was seen: then every action is looked at once."""
        leaf = self._action
        if leaf.kind == "Discrete":
            return ActionSpec(kind="discrete", num_choices=leaf.num_choices)
        assert leaf.low is not None
        assert leaf.high is not None
        with np.errstate(over="ignore"):
            low, high = leaf.low.reshape(-1).astype(np.float32), leaf.high.reshape(-1).astype(np.float32)
        if not np.isfinite([low, high]).all():
            low, high = np.full(leaf.size, np.inf, np.float32), np.full(leaf.size, -np.inf, np.float32)
            for number, length in zip(self._kept, self.lengths, strict=True):
                for start in range(0, int(length), SCAN_ROWS):
                    rows = np.arange(start, min(start + SCAN_ROWS, int(length)))
                    actions = self._actions(int(number), rows, ActionSpec(kind="none"), f"{str(self.path)!r}, episode {number}")
                    low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
        return observed_action_spec(low.tolist(), high.tolist())

    def _actions(self, number: int, rows: np.ndarray, spec: ActionSpec, where: str) -> np.ndarray:
        """float32 [n, a], or int64 [n] counted from the space's first choice."""
        values = self._files.read(number, ("actions",), rows, self._action.shape)
        values = np.asarray(values).reshape(len(rows), -1)
        if spec.kind != "discrete":
            with np.errstate(over="ignore", invalid="ignore"):
                return checked_actions(values.astype(np.float32), where, missing=self._missing_actions)
        choices = values[:, 0].astype(np.int64) - self._action.start
        if values.dtype.kind not in "biu" or (choices < 0).any() or (choices >= spec.num_choices).any():
            raise DataError(f"{where}: actions must be {spec.num_choices} choices from {self._action.start} on, got {values[:, 0]}; mend the file")
        return choices

    def _numbers(self, name: Name, number: int, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [n, k]."""
        values = np.asarray(self._files.read(number, name, rows, shape))
        with np.errstate(over="ignore", invalid="ignore"):
            return values.reshape(len(rows), -1).astype(np.float32)

    def _frames(self, entry: Entry, number: int, rows: np.ndarray, where: str) -> np.ndarray:
        """uint8 [n, Y, X, 3]."""
        size_px = entry.leaf.picture_px or (0, 0)
        found = self._files.read(number, entry.name, rows, entry.leaf.shape)
        if isinstance(found, list):
            return np.stack([decoded(content, where, size_px=size_px) for content in found]) if found else np.zeros((0, *size_px, 3), np.uint8)
        if found.dtype.kind == "f":
            if not ((found >= 0) & (found <= 1)).all():
                raise DataError(f"{where}: frames of floats must be from 0 to 1, got {found.min()} to {found.max()}; mend the file")
            found = np.rint(found * 255).astype(np.uint8)
        if found.dtype != np.uint8:
            raise DataError(f"{where}: frames must be uint8, got {found.dtype}; mend the file")
        return as_rgb(found)


def _camera(name: str) -> str:
    """An entry's name as a camera's, which names files."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "_" for letter in name)


def _action_leaf(leaves: dict[Name, Leaf], file: Path) -> Leaf:
    kinds = [leaf.kind for leaf in leaves.values()]
    if list(leaves) != [()] or kinds[0] not in ("Box", "Discrete"):
        raise DataError(f"{str(file)!r} has actions of {', '.join(kinds) or 'nothing'}; lewm knows one Box or one Discrete: convert them first")
    if kinds[0] == "Box" and leaves[()].size == 0:
        raise DataError(f"{str(file)!r} has actions of no numbers; convert them first")
    return leaves[()]


def _finite(values: np.ndarray, column: str, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DataError(f"{where}: {column} must be finite, got {values[~np.isfinite(values)][0]}; mend the file, or choose other entries")
    return values


class MinariFormat(Format):
    """A Minari dataset: HDF5, Arrow or Parquet; HDF5 is written."""

    @staticmethod
    def open(
        path: Path, *, frames: str | None = None, proprioception: str | None = None, labels: str | None = None, missing_actions: str = "refuse"
    ) -> ForeignStore:
        """The dataset at ``path``, which has ``data/metadata.json`` or is that ``data``.

        ``frames``, ``proprioception`` and ``labels`` name entries of the observations (``labels`` also ``infos/NAME``), with commas between and
        ``/`` into nested ones; ``missing_actions`` is ``refuse`` or ``zero``.
        """
        if missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"missing_actions must be refuse or zero, got {missing_actions!r}")
        roles = {"frames": listed(frames), "proprioception": listed(proprioception), "labels": listed(labels)}
        return ForeignStore(MinariReader(path, missing_actions=missing_actions, **roles))

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of raw frames in compressed HDF5 chunks: nothing is lost."""
        return MinariSink(path, meta, resume=resume)
