"""Where every random number comes from: a seed per episode or sample, never one stream for a batch."""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def episode_seed(namespace: str, seed: int, index: int) -> int:
    """The seed of episode ``index`` of a job with ``seed``: 63 bits of BLAKE2b.

    Seeds of different namespaces (``training``, ``evaluation``, ...) are unrelated, so that no evaluation episode repeats a training one. The
    value depends on nothing else: not on the batch size, the number of workers or which episodes came before.
    """
    digest = hashlib.blake2b(f"{namespace}\0{seed}\0{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def hash64(values: np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """A uint64 that looks random for each value and key, uint64 [...]: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), twice."""
    with np.errstate(over="ignore"):
        return _mix(_mix(np.asarray(values, dtype=np.uint64) + _GOLDEN) ^ _mix(np.asarray(key, dtype=np.uint64) * _GOLDEN))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
