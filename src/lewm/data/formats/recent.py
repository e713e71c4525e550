"""Things that are costly to make and may be needed again: the ones used last are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Recent(Generic[KeyT, ValueT]):
    """Keeps the values used last, as long as their sizes add up to at most ``max_size``. Safe from several threads."""

    def __init__(self, max_size: int, size_of: Callable[[ValueT], int]) -> None:
        self._max_size, self._size_of = max_size, size_of
        self._values: OrderedDict[KeyT, ValueT] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: KeyT, make: Callable[[], ValueT]) -> ValueT:
        """The value of a key, made now if it is not there. Two threads may both make it; the value must be the same."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._size += self._size_of(value)
            while self._size > self._max_size and self._values:
                _, dropped = self._values.popitem(last=False)
                self._size -= self._size_of(dropped)
        return value

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
            self._size = 0
