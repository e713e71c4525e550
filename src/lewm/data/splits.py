"""Which episodes are held out of training."""

import numpy as np

from lewm.seeds import hash64


def split_episodes(episode_ids: np.ndarray, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation ids, int64, in the order given: each episode's side is a hash of (seed, id), so appending moves none.

    The fraction is met on average only: of few episodes, none may be held out.
    """
    ids = np.asarray(episode_ids, dtype=np.int64)
    is_validation = hash64(ids, seed) < np.uint64(int(validation_fraction * 2.0**64)) if validation_fraction < 1 else np.ones(len(ids), bool)
    return ids[~is_validation], ids[is_validation]
