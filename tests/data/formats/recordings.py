"""Episodes that have all that an episode can have, and how two of them are compared."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from lewm.data.formats.store import open_store
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

FULL_META = DatasetMeta(
    observation_spec=ObservationSpec(height_px=34, width_px=40, cameras=("front", "side-2"), proprioception=("arm", "grip")),
    action_spec=ActionSpec(kind="continuous", low=(-1.0, -0.1), high=(1.0, 0.3)),
    label_names=("x", "block/y", "angle"),
    has_rewards=True,
    env={"name": "made-up", "version": 2, "options": {"size_px": 34}},
    policy={"name": "random", "options": {}},
)
PLAIN_META = DatasetMeta(
    observation_spec=ObservationSpec(height_px=33, width_px=32), action_spec=ActionSpec(kind="discrete", num_choices=5, action_repeat=4)
)


def make_episode(meta: DatasetMeta, number: int, num_env_steps: int) -> Episode:
    """An episode of the dataset's kind, of noise."""
    rng = np.random.default_rng(number)
    spec, actions = meta.observation_spec, meta.action_spec
    rows = num_env_steps + 1
    low, high = np.float32(actions.low), np.float32(actions.high)
    continuous = np.clip(rng.uniform(-1, 1, (num_env_steps, len(low))).astype(np.float32), low, high)
    return Episode(
        observations=Observation(
            rng.integers(0, 256, (rows, *spec.frame_shape), np.uint8),
            rng.standard_normal((rows, len(spec.proprioception))).astype(np.float32) if spec.proprioception else None,
        ),
        actions=rng.integers(0, actions.num_choices, num_env_steps) if actions.kind == "discrete" else continuous,
        labels=rng.standard_normal((rows, len(meta.label_names))).astype(np.float32) if meta.label_names else None,
        rewards=rng.standard_normal(num_env_steps).astype(np.float32) if meta.has_rewards else None,
        terminated=number % 2 == 0,
        seed=number,
        provenance={"task": f"push {number}", "variation": {"colour": [0.5, number]}},
    )


def assert_same_episode(found: Episode, expected: Episode) -> None:
    """Everything but the seed, which other formats do not have."""
    np.testing.assert_equal(dataclasses.asdict(dataclasses.replace(found, seed=expected.seed)), dataclasses.asdict(expected))


def damage(path: Path, *, seed: int) -> bytes:
    """Cut a file or flip one of its bytes at a place that the seed draws; returns what it was."""
    rng = np.random.default_rng(seed)
    content = path.read_bytes()
    place = int(rng.integers(len(content)))
    damaged = bytearray(content[:place] if seed % 3 == 0 else content)
    if seed % 3 and damaged:
        damaged[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(damaged))
    return content


def read_all(path: Path) -> tuple[DatasetMeta, list[Episode]] | str:
    """All of a recording, or the sentence in which it is refused."""
    try:
        store = open_store(path)
        return store.meta, [store.episode(number) for number in range(len(store))]
    except DataError as error:
        return str(error)


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory, to be damaged."""
    shutil.copytree(source, target)
    return target
