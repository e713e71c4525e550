"""Configurations as TOML files and plain values: presets, ``config.toml`` of a run, ``config.json`` of a checkpoint.

Unknown sections and keys and values of the wrong type are refused, never guessed at.
"""

import dataclasses
import json
import tomllib
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lewm.config import ENCODER_CONFIGS, Config, EncoderConfig
from lewm.errors import ConfigError
from lewm.registry import did_you_mean

SettingsT = TypeVar("SettingsT")


def preset_names() -> list[str]:
    """The presets inside the package."""
    return sorted(Path(str(file)).stem for file in resources.files("lewm.presets").iterdir() if file.name.endswith(".toml"))


def load_preset(name: str) -> Config:
    """The preset called ``name``; an unknown one is refused with a suggestion."""
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}.{did_you_mean(name, preset_names())}")
    return from_dict(tomllib.loads(resources.files("lewm.presets").joinpath(f"{name}.toml").read_text()))


def load_config(path: Path, base: Config | None = None) -> Config:
    """The configuration in a TOML file; what it does not say comes from ``base`` (default: the paper's)."""
    return from_dict(read_toml(path), base)


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file; ``ConfigError`` if it cannot be read."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {str(path)!r}") from None
    except OSError as error:
        raise ConfigError(f"configuration file {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"configuration file {str(path)!r} is not valid TOML: {error}") from None


def from_dict(values: dict[str, Any], base: Config | None = None) -> Config:
    """A configuration from nested plain values; unknown sections, keys and wrong types are refused."""
    base = base or Config()
    sections = {section.name: getattr(base, section.name) for section in dataclasses.fields(Config)}
    for name, section_values in values.items():
        if name not in sections:
            raise ConfigError(f"unknown section [{name}].{did_you_mean(name, sections)}")
        if not isinstance(section_values, dict):
            raise ConfigError(f"[{name}] must be a table of settings, got {section_values!r}")
        current = sections[name]
        if name == "encoder" and section_values.get("name", current.name) != current.name:
            current = new_encoder_config(section_values["name"])
        if name == "planner" and isinstance(section_values.get("name"), str) and section_values["name"] != current.name:
            current = current.switched(section_values["name"])
        sections[name] = _replace(current, name, section_values)
    return Config(**sections)


def settings_from_dict(base: SettingsT, values: dict[str, Any], name: str) -> SettingsT:
    """``base`` with plain values, as one section of a configuration: unknown keys and wrong types are refused."""
    changed: SettingsT = _replace(base, name, values)
    return changed


def new_encoder_config(name: str) -> EncoderConfig:
    """The default settings of the encoder called ``name``."""
    if name not in ENCODER_CONFIGS:
        raise ConfigError(f"unknown encoder {name!r}.{did_you_mean(str(name), ENCODER_CONFIGS)}")
    return ENCODER_CONFIGS[name]()


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values: JSON- and TOML-ready, None left out."""
    sections = dataclasses.asdict(config)
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }


def to_toml(config: Config) -> str:
    """The configuration as a TOML file that ``load_config`` reads back."""
    return sections_to_toml(to_dict(config))


def sections_to_toml(sections: dict[str, dict[str, Any]]) -> str:
    """Tables of plain values as TOML."""
    lines = []
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()), ""]
    return "\n".join(lines)


def _replace(section: Any, section_name: str, values: dict[str, Any]) -> Any:
    types = get_type_hints(type(section))
    for key in values:
        if key not in types:
            raise ConfigError(f"unknown setting {section_name}.{key}.{did_you_mean(key, types)}")
    changes = {key: _checked(value, types[key], f"{section_name}.{key}") for key, value in values.items()}
    return dataclasses.replace(section, **changes)


def _checked(value: Any, expected: Any, name: str) -> Any:
    """``value`` as the annotated type, without silent conversions (an int may stand for a float, a list for a tuple)."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, UnionType):
        return None if value is None else _checked(value, next(a for a in arguments if a is not type(None)), name)
    if origin is Literal:
        _require(value in arguments, f"{name} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(item, arguments[0], name) for item in value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected_type = tuple if origin is tuple else expected
    matches = isinstance(value, expected_type) and not (expected_type is int and isinstance(value, bool))
    _require(matches, f"{name} must be a {getattr(expected_type, '__name__', expected_type)}, got {value!r}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
