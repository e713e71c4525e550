"""``lewm train``."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lewm.commands.parsing import ProgressBar, command_line, parse, refresh_card, show
from lewm.config import Config
from lewm.config_files import from_dict, load_config, load_preset, to_toml
from lewm.errors import ConfigError


@dataclass(frozen=True)
class TrainArguments:
    """Train a world model from the pixels of a dataset. A policy as a floor for it: `lewm train --policy gcbc --help`."""

    data: Path
    """Dataset directory."""
    out: Path
    """Run directory to write."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Run or checkpoint whose weights and settings training starts from; its action encoder only where actions have the same form. With --stage:
    whose world model is kept as it is, and a network trained on its latents (`lewm train --stage decoder --help`)."""
    freeze: Literal["encoder", "predictor"] | None = None
    """Short for --train.freeze: leave these weights as they are."""
    preset: str | None = None
    """Settings to start from (`lewm list presets`); default: the paper's."""
    config: Path | None = None
    """TOML file with settings, applied over the preset."""
    resume: bool = False
    """Continue an interrupted run, bit for bit; settings are the run's own where no --preset, --from or --config is given."""
    seed: int | None = None
    """Short for --train.seed."""
    on_collapse: Literal["warn", "stop"] | None = None
    """Short for --train.on-collapse."""
    dry_run: bool = False
    """Check everything and print the configuration, but do not train."""
    settings: Annotated[tyro.conf.AvoidSubcommands[Config], tyro.conf.arg(name="")] = field(default_factory=Config)
    """Every setting of the run."""


def train(words: Sequence[str]) -> None:
    """Train a world model, a network on the latents of one, or a policy, and print where it is."""
    if any(word.partition("=")[0] == "--stage" for word in words):
        from lewm.commands.train_stage import train_stage

        train_stage(words)
        return
    if any(word.partition("=")[0] == "--policy" for word in words):
        from lewm.commands.train_policy import train_policy

        train_policy(words)
        return
    arguments = parse(TrainArguments, "train", words, default=_with_base(words))
    config = arguments.settings
    if arguments.seed is not None:
        config = replace(config, train=replace(config.train, seed=arguments.seed))
    if arguments.on_collapse is not None:
        config = replace(config, train=replace(config.train, on_collapse=arguments.on_collapse))
    if arguments.freeze is not None:
        config = replace(config, train=replace(config.train, freeze=arguments.freeze))
    if arguments.dry_run:
        from lewm.training import dry_run

        dry_run(config, data=arguments.data, base=arguments.from_)
        show(to_toml(config))
        return
    from lewm.training import train as run_training

    run = run_training(
        config,
        data=arguments.data,
        out=arguments.out,
        base=arguments.from_,
        resume=arguments.resume,
        command=command_line("train", words),
        progress=TrainingBar,
    )
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one saves checkpoints
        refresh_card(run)
    show(f"trained: {run}\nnext: lewm eval success {run}")


class TrainingBar:
    """A progress bar with the losses beside it."""

    def __init__(self, title: str = "training") -> None:
        self._bar = ProgressBar(title)

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        """Move the bar."""
        terms = [name for name in values if name not in ("loss", "gradient_norm", "learning_rate", "weight_times_batch", "seconds")]
        self._bar.update(step, num_steps, "  ".join(f"{name} {values[name]:.4g}" for name in terms))

    def message(self, text: str) -> None:
        """Say something above the bar."""
        self._bar.message(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


def _config_of(base: Path) -> Config:
    """The settings of a run, without what was particular to its training."""
    from lewm.checkpoint import find_checkpoint, read_description

    config = from_dict(read_description(find_checkpoint(base))["config"])
    return replace(config, train=replace(config.train, freeze=None, refit_action_statistics=False))


def _with_base(words: Sequence[str]) -> TrainArguments:
    """Defaults for the flags: the preset, then the file, then the chosen encoder's own settings and what the chosen planner knows."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset")
    first.add_argument("--from", dest="base", type=Path)
    first.add_argument("--config", type=Path)
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--encoder.name", dest="encoder")
    first.add_argument("--planner.name", dest="planner")
    try:
        known, _ = first.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
    if known.preset and known.base:
        raise ConfigError("--preset and --from both say where settings start from; leave one out, and change single settings with --SECTION.KEY")
    config = load_preset(known.preset) if known.preset else _config_of(known.base) if known.base else Config()
    own = known.out / "config.toml" if known.resume and known.out and not (known.preset or known.base) else None
    file = known.config or (own if own is not None and own.is_file() else None)
    if file is not None:
        config = load_config(file, config)
    if known.encoder:
        config = from_dict({"encoder": {"name": known.encoder}}, config)
    if known.planner:
        config = from_dict({"planner": {"name": known.planner}}, config)
    return TrainArguments(data=tyro.MISSING, out=tyro.MISSING, settings=config)
