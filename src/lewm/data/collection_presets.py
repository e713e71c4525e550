"""Collections by name: which world, how many episodes of what length, who acts. Plain TOML files inside the package."""

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from lewm.data.collection_plan import plan_dataset
from lewm.data.estimates import estimate_bytes
from lewm.errors import ConfigError
from lewm.registry import did_you_mean

PACKAGE = "lewm.presets"
DIRECTORY = "collections"
NATIVE = "native"
"""What a file says for an option that is None, for TOML has no such word: ``size_px = "native"``."""


@dataclass(frozen=True, kw_only=True)
class CollectionPreset:
    """The arguments of ``collect`` that a preset decides."""

    name: str
    env: str
    episodes: int
    max_env_steps: int
    policy: str | None = None
    """None: the world's own choice."""
    env_options: dict[str, Any] = field(default_factory=dict)
    policy_options: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line for ``lewm list``."""
        options = "".join(f", {key} {value if value is not None else NATIVE}" for key, value in self.env_options.items())
        return f"{self.env}: {self.episodes:,} episodes x {self.max_env_steps:,} env steps, policy {self.policy or 'of the world'}{options}"

    def num_bytes(self) -> int:
        """Upper bound of the size of the dataset; makes the world, which needs its extra."""
        meta = plan_dataset(
            self.env, policy=self.policy, max_env_steps=self.max_env_steps, env_options=self.env_options, policy_options=self.policy_options
        )
        return estimate_bytes(meta, self.episodes)


KINDS = {"env": str, "episodes": int, "max_env_steps": int, "policy": str, "env_options": dict, "policy_options": dict}
KIND_WORDS = {str: "text", int: "a whole number", dict: "a table"}
REQUIRED = ("env", "episodes", "max_env_steps")


def collection_names() -> list[str]:
    """The collections inside the package."""
    directory = resources.files(PACKAGE).joinpath(DIRECTORY)
    return sorted(Path(str(file)).stem for file in directory.iterdir() if file.name.endswith(".toml"))


def load_collection(name: str) -> CollectionPreset:
    """The collection called ``name``; an unknown one is refused with a suggestion."""
    if name not in collection_names():
        raise ConfigError(f"unknown collection {name!r}.{did_you_mean(name, collection_names())}")
    return parse_collection(name, resources.files(PACKAGE).joinpath(DIRECTORY, f"{name}.toml").read_text())


def parse_collection(name: str, text: str) -> CollectionPreset:
    """The collection that a TOML file describes; unknown keys and values of the wrong type are refused."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"collection {name!r} is not valid TOML: {error}") from None
    for key, value in values.items():
        if key not in KINDS:
            raise ConfigError(f"unknown setting {key!r} of collection {name!r}.{did_you_mean(key, KINDS)}")
        if not isinstance(value, KINDS[key]) or isinstance(value, bool):
            raise ConfigError(f"{key} of collection {name!r} must be {KIND_WORDS[KINDS[key]]}, got {value!r}")
    for key in REQUIRED:
        if key not in values:
            raise ConfigError(f"collection {name!r} does not say its {key}")
    options = {key: _as_option(value) for key, value in values.get("env_options", {}).items()}
    return CollectionPreset(name=name, **{**values, "env_options": options})


def _as_option(value: Any) -> Any:
    if value == NATIVE:
        return None
    return tuple(value) if isinstance(value, list) else value
