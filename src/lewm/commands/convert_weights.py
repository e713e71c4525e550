"""``lewm convert`` for weights: the official layout into a checkpoint of ours, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lewm.commands.parsing import command_line, parse, parse_options, show
from lewm.errors import ConfigError

if TYPE_CHECKING:  # importing it would import torch before there is anything to say
    from lewm.official_weights import ActionFacts


@dataclass(frozen=True)
class ConvertWeightsArguments:
    """Turn official LeWorldModel weights into a checkpoint of ours or, with --to official, a run of ours into them."""

    source: tyro.conf.Positional[str]
    """Folder, weight file, repository on the Hugging Face hub (owner/name), or a run."""
    out: tyro.conf.Positional[Path]
    """Directory to write."""
    to: Literal["lewm", "official"] = "lewm"
    """Layout to write."""
    data: Path | None = None
    """Dataset (any format) that the statistics and bounds of actions are taken from."""
    action_mean: str | None = None
    """Mean of the training actions in env units: a number, or one per dimension with commas between."""
    action_std: str | None = None
    """Their standard deviation."""
    action_low: str | None = None
    """Lower bound of actions."""
    action_high: str | None = None
    """Upper bound of actions."""
    action_block: int = 5
    """Env steps per model step."""
    pixel_mean: str = "0.485,0.456,0.406"
    """Mean of the frames' channels, 0 to 1."""
    pixel_std: str = "0.229,0.224,0.225"
    """Their standard deviation."""
    env: str | None = None
    """World that the weights were trained in, so that `lewm eval success` knows it."""
    env_option: tuple[str, ...] = ()
    """KEY=VALUE for the world."""
    revision: str | None = None
    """Of a repository."""
    transformers: Literal[4, 5] = 5
    """With --to official: which release's names the encoder's tensors get."""


def convert_weights(words: Sequence[str]) -> None:
    """Convert weights and say where they are."""
    arguments = parse(ConvertWeightsArguments, "convert", words)
    from lewm.official_weights import export_official, import_official

    if arguments.to == "official":
        out = export_official(arguments.source, arguments.out, transformers=arguments.transformers)
        show(f"converted: {out} (official layout, names of transformers {arguments.transformers})")
        return
    env = None
    if arguments.env is not None:
        env = {"name": arguments.env, "options": parse_options(arguments.env_option, "--env-option")}
    out = import_official(
        arguments.source,
        arguments.out,
        actions=_facts(arguments),
        action_block=arguments.action_block,
        pixel_mean=_numbers("--pixel-mean", arguments.pixel_mean),
        pixel_std=_numbers("--pixel-std", arguments.pixel_std),
        env=env,
        revision=arguments.revision,
        command=command_line("convert", words),
    )
    show(f"converted: {out}\nnext: lewm eval success {out} --env ENV")


def _facts(arguments: ConvertWeightsArguments) -> "ActionFacts":
    """Statistics and bounds: flags, and for what they leave out the dataset."""
    from lewm.official_weights import ActionFacts

    given = {name: getattr(arguments, f"action_{name}") for name in ("mean", "std", "low", "high")}
    values = {name: _numbers(f"--action-{name}", text) for name, text in given.items() if text is not None}
    if arguments.data is not None:
        from lewm.data.formats.store import open_store

        store = open_store(arguments.data)
        mean, std = store.action_statistics(store.episode_ids)
        values = {"mean": mean, "std": std, "low": store.action_spec.low, "high": store.action_spec.high} | values
    missing = [f"--action-{name}" for name in given if name not in values]
    if missing:
        raise ConfigError(f"official weights do not hold what actions were normalised with: give --data DIR, or {', '.join(missing)}")
    return ActionFacts(**values)


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{flag} takes numbers with commas between, got {text!r}") from None
