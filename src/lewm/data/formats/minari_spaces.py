"""The spaces of a Minari dataset, read from its metadata without running anything that the metadata name.

Axes: n row, Y X image.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.data.formats.pictures import rgb_shape
from lewm.errors import DataError

Name = tuple[str | int, ...]
"""Keys of nested spaces from the outside in; numbers are places in a tuple."""
NUMERIC = ("Box", "Discrete", "MultiBinary", "MultiDiscrete")
MIN_PICTURE_PX = 7
"""The smallest side of what is taken for a picture without being called one: a minigrid's view."""
MAX_DEPTH = 16
INT64 = np.dtype("i8")


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A space that holds no others."""

    kind: str
    """Gymnasium's class: Box, Discrete, MultiBinary, MultiDiscrete or Text."""
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = INT64
    low: np.ndarray | None = None
    """Of a Box, [*shape]."""
    high: np.ndarray | None = None
    num_choices: int = 0
    start: int = 0
    """The first choice of a Discrete."""

    @property
    def size(self) -> int:
        """Numbers per row."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def picture_px(self) -> tuple[int, int] | None:
        """(Y, X) if rows are pictures: bytes from 0 to 255 or floats from 0 to 1, with their colours where they can be told; else None."""
        if self.kind != "Box" or self.low is None or self.high is None or self.size == 0:
            return None
        is_unit = self.dtype.kind == "f" and bool((self.low == 0).all() and (self.high == 1).all())
        return rgb_shape(self.shape) if self.dtype == np.uint8 or is_unit else None


def spelled(name: Name) -> str:
    """A name as options and labels have it."""
    return "/".join(str(part) for part in name)


def read_space(text: object, where: str) -> dict[Name, Leaf]:
    """The leaves of a space that Minari wrote as JSON; ``DataError`` if it is none."""
    try:
        content = json.loads(text) if isinstance(text, str) else text
        return _leaves(content, ())
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"{where} cannot be read ({type(error).__name__}: {error}); restore it, or save the dataset anew with Minari") from None


def _leaves(content: Any, name: Name) -> dict[Name, Leaf]:
    if len(name) > MAX_DEPTH:
        raise ValueError(f"spaces are nested more than {MAX_DEPTH} deep")
    kind = content["type"]
    if kind == "Dict":
        parts = [_leaves(part, (*name, str(key))) for key, part in content["subspaces"].items()]
    elif kind == "Tuple":
        parts = [_leaves(part, (*name, place)) for place, part in enumerate(content["subspaces"])]
    else:
        parts = [{name: _leaf(kind, content)}]
    return {key: leaf for part in parts for key, leaf in part.items()}


def _leaf(kind: str, content: dict[str, Any]) -> Leaf:
    if kind == "Box":
        dtype, shape = np.dtype(str(content["dtype"])), tuple(int(size) for size in content["shape"])
        if dtype.kind not in "biuf":
            raise ValueError(f"a Box of {dtype} holds no numbers")
        low, high = (np.array(content[bound], dtype) for bound in ("low", "high"))
        if low.shape != shape or high.shape != shape:
            raise ValueError(f"a Box of shape {shape} has bounds of shape {low.shape} and {high.shape}")
        return Leaf(kind=kind, shape=shape, dtype=dtype, low=low, high=high)
    if kind == "Discrete":
        return Leaf(kind=kind, num_choices=int(content["n"]), start=int(content["start"]))
    if kind == "MultiBinary":
        sizes = content["n"]
        return Leaf(kind=kind, shape=tuple(int(size) for size in (sizes if isinstance(sizes, list) else [sizes])))
    if kind == "MultiDiscrete":
        return Leaf(kind=kind, shape=np.array(content["nvec"], np.int64).shape)
    if kind == "Text":
        return Leaf(kind=kind)
    raise ValueError(f"a space of type {kind!r} is unknown")


def box(shape: tuple[int, ...], low: Any, high: Any, dtype: str) -> dict[str, Any]:
    """A Box as Minari writes it."""
    bounds = (np.broadcast_to(np.asarray(bound, dtype), shape).tolist() for bound in (low, high))
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **dict(zip(("low", "high"), bounds, strict=True))}
