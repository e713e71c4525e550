"""``lewm train --from RUN --stage NAME``: a network on the frozen latents of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lewm.commands.parsing import ProgressBar, command_line, parse, show
from lewm.head_config import DecoderConfig


@dataclass(frozen=True)
class StageArguments:
    """Train a network on the frozen latents of a run: a new, complete checkpoint that holds both."""

    stage: Literal["decoder"]
    """Which network (`lewm list heads`)."""
    from_: Annotated[Path, tyro.conf.arg(name="from")]
    """Run or checkpoint whose world model is kept as it is."""
    data: Path
    """Dataset directory."""
    out: Path
    """Run directory to write."""
    seed: int | None = None
    """Short for --decoder.seed."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Settings of the stage `decoder`."""


def train_stage(words: Sequence[str]) -> None:
    """Train the network that ``--stage`` names and print where it is."""
    arguments = parse(StageArguments, "train", words)
    settings = arguments.decoder if arguments.seed is None else replace(arguments.decoder, seed=arguments.seed)
    from lewm.decoder_training import train_decoder

    run = train_decoder(
        settings, base=arguments.from_, data=arguments.data, out=arguments.out, command=command_line("train", words), progress=StageBar
    )
    show(f"trained: {run}\nnext: lewm eval reconstruction {run} --data {arguments.data}")


class StageBar:
    """A progress bar with the loss beside it."""

    def __init__(self) -> None:
        self._bar = ProgressBar("training the decoder")

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        """Move the bar."""
        self._bar.update(step, num_steps, f"{values['psnr_db']:.1f} dB")

    def message(self, text: str) -> None:
        """Say something above the bar."""
        self._bar.message(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()
