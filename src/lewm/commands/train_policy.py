"""``lewm train --policy NAME``: a policy on the data of a world model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from lewm.commands.parsing import command_line, parse, show
from lewm.commands.train import TrainingBar
from lewm.config import Config
from lewm.config_files import from_dict, load_preset, read_toml, settings_from_dict
from lewm.errors import ConfigError
from lewm.policy_config import POLICY_CONFIGS, GcbcConfig, GciqlConfig, PolicyConfig


@dataclass(frozen=True)
class PolicyArguments:
    """Train a policy that reaches goal frames without planning, as a floor for planners: same data, same encoder, `lewm eval success` as usual."""

    policy: Literal["gcbc", "gciql"]
    """Which method (`lewm list learners`)."""
    data: Path
    """Dataset directory."""
    out: Path
    """Run directory to write."""
    preset: str | None = None
    """Which frames and which encoder, as a world model of this preset has them (`lewm list presets`); default: the paper's."""
    config: Path | None = None
    """TOML file with settings, applied over the preset: the config.toml of a world model's run makes a policy with its encoder."""
    resume: bool = False
    """Continue an interrupted run, bit for bit; settings are the run's own where no --preset or --config is given."""
    seed: int | None = None
    """Short for --gcbc.seed or --gciql.seed."""
    gcbc: GcbcConfig = field(default_factory=GcbcConfig)
    """Settings of the policy `gcbc`."""
    gciql: GciqlConfig = field(default_factory=GciqlConfig)
    """Settings of the policy `gciql`."""


def train_policy(words: Sequence[str]) -> None:
    """Train the policy that ``--policy`` names and print where it is."""
    config, sections = _base(words)
    defaults = PolicyArguments(policy=tyro.MISSING, data=tyro.MISSING, out=tyro.MISSING, **sections)
    arguments = parse(PolicyArguments, "train", words, default=defaults)
    _check_flags(arguments.policy, words)
    settings: PolicyConfig = getattr(arguments, arguments.policy)
    if arguments.seed is not None:
        settings = replace(settings, seed=arguments.seed)
    from lewm.policy_training import train_policy as run_training

    run = run_training(
        arguments.policy,
        config,
        settings,
        data=arguments.data,
        out=arguments.out,
        resume=arguments.resume,
        command=command_line("train", words),
        progress=lambda: TrainingBar("training the policy"),
    )
    show(f"trained: {run}\nnext: lewm eval success {run}")


def _base(words: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """Frames and encoder, and defaults of the policies' flags: the preset, then the file, which may have a section of a policy's name."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset")
    first.add_argument("--config", type=Path)
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    try:
        known, _ = first.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
    config = load_preset(known.preset) if known.preset else Config()
    own = known.out / "config.toml" if known.resume and known.out and not known.preset else None
    file = known.config or (own if own is not None and own.is_file() else None)
    if file is None:
        return config, {}
    values = read_toml(file)
    sections = {name: settings_from_dict(POLICY_CONFIGS[name](), values.pop(name), name) for name in POLICY_CONFIGS if name in values}
    return from_dict(values, config), sections


def _check_flags(policy: str, words: Sequence[str]) -> None:
    """``ConfigError`` for a setting of a policy that is not trained."""
    for other in POLICY_CONFIGS:
        unused = [word for word in words if word.startswith(f"--{other}.") and other != policy]
        if unused:
            raise ConfigError(f"{unused[0]} is a setting of policy {other!r}, and this trains {policy!r}: its settings are --{policy}.KEY VALUE")
