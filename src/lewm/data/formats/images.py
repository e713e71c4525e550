"""Folders of numbered images: one folder an episode, or one folder that is one episode.

Axes: n row, N env step, Y X image, a env action.

Frames are in the order of the numbers in their names. Actions stand beside them in ``actions.csv`` (a header, then numbers) or ``actions.npy``, one
for each frame or one fewer: the last frame's leads nowhere. Without such a file the recording is video, which can be predicted but not planned with.
"""

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lewm.data.formats.base import EpisodeReader, checked_actions, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.pictures import REFUSALS, decoded
from lewm.data.formats.recognition import IMAGE_SUFFIXES
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, ObservationSpec

ACTION_FILES = ("actions.csv", "actions.npy")


class ImagesReader(EpisodeReader):
    """Episodes of one folder."""

    def __init__(self, path: Path, *, missing_actions: str, gaps: str) -> None:
        self.path, self._missing_actions = path, missing_actions
        folders = [path] if _images_in(path) else sorted((part for part in path.iterdir() if part.is_dir() and _images_in(part)), key=_natural)
        if not folders:
            raise DataError(f"{str(path)!r} has no images, and no folder in it has: {', '.join(IMAGE_SUFFIXES)} are known")
        files = [sorted(_images_in(folder), key=_natural) for folder in folders]
        if gaps == "refuse":
            for images in files:
                _check_numbers(images)
        kept = leave_out(path, np.array([len(images) - 1 for images in files]))
        self._folders, self._files = [folders[index] for index in kept], [files[index] for index in kept]
        self.lengths = np.array([len(images) - 1 for images in self._files], np.int64)
        self.terminated = np.zeros(len(self.lengths), bool)
        self._size = _size_px(self._files[0][0])
        self._actions = [self._read_actions(folder, int(length)) for folder, length in zip(self._folders, self.lengths, strict=True)]
        self.meta = DatasetMeta(
            observation_spec=ObservationSpec(height_px=self._size[0], width_px=self._size[1], cameras=("images",)),
            action_spec=self._action_spec(),
            provenance={"format": "images", "source": path.name},
        )

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column; images are decoded one by one."""
        if column.startswith("frames."):
            return (
                np.stack([self._decoded(self._files[episode][row]) for row in rows.tolist()])
                if len(rows)
                else np.zeros((0, *self._size, 3), np.uint8)
            )
        actions = self._actions[episode]
        assert actions is not None  # the column is there only if they are
        return np.asarray(padded(actions, self.meta.action_spec)[rows])

    def provenance(self, episode: int) -> dict[str, Any]:
        """Which folder."""
        return {"source": self._folders[episode].name}

    def fingerprint(self) -> str:
        """Of the names, sizes and ends of all files."""
        files = [file for images in self._files for file in images]
        files += [folder / name for folder in self._folders for name in ACTION_FILES if (folder / name).is_file()]
        return fingerprint_of(self.path, files)

    def _decoded(self, file: Path) -> np.ndarray:
        """uint8 [Y, X, 3]; ``DataError`` for an image of another size, or none."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read ({error.strerror}); restore it") from None
        return decoded(content, repr(str(file)), size_px=self._size)

    def _read_actions(self, folder: Path, num_env_steps: int) -> np.ndarray | None:
        """float32 [N, a], or None where no file is."""
        found = [folder / name for name in ACTION_FILES if (folder / name).is_file()]
        if not found:
            return None
        if len(found) > 1:
            raise DataError(f"{str(folder)!r} has both {ACTION_FILES[0]} and {ACTION_FILES[1]}; leave one")
        values = read_table(found[0])
        if len(values) not in (num_env_steps, num_env_steps + 1):
            raise DataError(f"{str(found[0])!r} has {len(values)} actions for {num_env_steps + 1} images; one each is meant, or one fewer")
        return checked_actions(values[:num_env_steps], str(found[0]), missing=self._missing_actions)

    def _action_spec(self) -> ActionSpec:
        have = [actions is not None for actions in self._actions]
        if not any(have):
            return ActionSpec(kind="none")
        widths = {actions.shape[1] for actions in self._actions if actions is not None}
        if not all(have) or len(widths) > 1:
            without = self._folders[have.index(False)] if not all(have) else None
            what = f"{str(without)!r} has none" if without is not None else f"they have {sorted(widths)} numbers"
            raise DataError(f"actions of {str(self.path)!r} differ between episodes: {what}; give all episodes the same kind")
        actions = np.concatenate([part for part in self._actions if part is not None])
        return observed_action_spec(actions.min(0).tolist(), actions.max(0).tolist())


def read_table(file: Path) -> np.ndarray:
    """Numbers [rows, a] of a csv file with a header, or of a ``.npy`` file; NaN where a csv cell is empty."""
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        else:
            with open(file, newline="") as lines:
                table = list(csv.reader(lines))
            if not table or len({len(row) for row in table}) > 1:
                raise ValueError("its rows differ in length" if table else "it is empty")
            values = np.array([[float(cell or "nan") for cell in row] for row in table[1:]], np.float64).reshape(len(table) - 1, len(table[0]))
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{str(file)!r} is no table of numbers: {error}; a csv file needs a header and a number in every cell") from None
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2):
        raise DataError(f"{str(file)!r} must hold numbers [rows, a], got {values.dtype} {list(values.shape)}")
    return np.asarray(values.reshape(len(values), -1), np.float64)


def _images_in(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers: 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def _number(file: Path) -> int | None:
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else None


def _check_numbers(files: list[Path]) -> None:
    """``DataError`` unless the last numbers in the names follow each other."""
    numbers = [_number(file) for file in files]
    for before, after, file in zip(numbers, numbers[1:], files[1:], strict=False):
        if before is None or after is None or after != before + 1:
            raise DataError(
                f"{str(file)!r} does not follow {files[files.index(file) - 1].name!r} by one: an image is missing, or names have no numbers; "
                "mend it, or pass --option gaps=allow"
            )


@lru_cache(maxsize=16)
def _size_px(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except REFUSALS as error:
        raise DataError(f"{str(file)!r} cannot be decoded ({error or type(error).__name__}); restore it") from None


class ImagesFormat(Format):
    """Folders of numbered images."""

    @staticmethod
    def open(path: Path, *, missing_actions: str = "refuse", gaps: str = "refuse") -> ForeignStore:
        """The folder at ``path``: ``gaps`` and ``missing_actions`` are ``refuse``, or ``allow`` and ``zero``."""
        if missing_actions not in ("refuse", "zero") or gaps not in ("refuse", "allow"):
            raise ConfigError(f"missing_actions must be refuse or zero and gaps refuse or allow, got {missing_actions!r} and {gaps!r}")
        return ForeignStore(ImagesReader(path, missing_actions=missing_actions, gaps=gaps))
