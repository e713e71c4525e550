"""``lewm train --from RUN --stage NAME``: a network on the frozen latents of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lewm.commands.parsing import ProgressBar, command_line, parse, show
from lewm.errors import ConfigError
from lewm.head_config import HEAD_CONFIGS, DecoderConfig, DistanceConfig, HeadConfig, IntentConfig, InverseGoalConfig

NEXT = {
    "decoder": "lewm eval reconstruction {run} --data {data}",
    "inverse-goal": "lewm eval success {run} --planner.name direct --planner.proposals inverse-goal",
    "intent": "lewm eval success {run} --planner.name guarded --planner.proposals intent",
    "distance": "lewm eval success {run} --planner.distance distance --planner.mean-weight 1",
}
"""What to do with a head that has been trained."""


@dataclass(frozen=True)
class StageArguments:
    """Train a network on the frozen latents of a run: a new, complete checkpoint that holds both."""

    stage: Literal["decoder", "inverse-goal", "intent", "distance"]
    """Which network (`lewm list heads`)."""
    from_: Annotated[Path, tyro.conf.arg(name="from")]
    """Run or checkpoint whose world model is kept as it is."""
    data: Path
    """Dataset directory."""
    out: Path
    """Run directory to write."""
    seed: int | None = None
    """Short for the seed of the stage's settings."""
    latents: Path | None = None
    """Where the latents of all frames are kept for this and later stages; default: latents/ in the run of --from. Not for the decoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Settings of the stage `decoder`."""
    inverse_goal: InverseGoalConfig = field(default_factory=InverseGoalConfig)
    """Settings of the stage `inverse-goal`."""
    intent: IntentConfig = field(default_factory=IntentConfig)
    """Settings of the stage `intent`."""
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    """Settings of the stage `distance`."""


def train_stage(words: Sequence[str]) -> None:
    """Train the network that ``--stage`` names and print where it is."""
    arguments = parse(StageArguments, "train", words)
    name = arguments.stage
    unused = [word for word in words for other in HEAD_CONFIGS if other != name and word.startswith(f"--{other}.")]
    if unused:
        raise ConfigError(f"{unused[0]} is for another stage than {name!r}, whose settings are --{name}.KEY; leave it out")
    settings: HeadConfig = getattr(arguments, name.replace("-", "_"))
    settings = settings if arguments.seed is None else replace(settings, seed=arguments.seed)
    run = _train(arguments, settings, command_line("train", words))
    show(f"trained: {run}\nnext: {NEXT[name].format(run=run, data=arguments.data)}")


def _train(arguments: StageArguments, settings: HeadConfig, command: str) -> Path:
    if isinstance(settings, DecoderConfig):
        if arguments.latents is not None:
            raise ConfigError("--latents is not for the stage 'decoder', which needs the frames themselves; leave it out")
        from lewm.decoder_training import train_decoder

        return train_decoder(
            settings, base=arguments.from_, data=arguments.data, out=arguments.out, command=command, progress=lambda: StageBar(settings.NAME)
        )
    from lewm.head_training import train_head

    encoding = ProgressBar("encoding every frame")
    try:
        return train_head(
            settings,
            base=arguments.from_,
            data=arguments.data,
            out=arguments.out,
            latents=arguments.latents,
            command=command,
            progress=lambda: StageBar(settings.NAME),
            encoding=encoding.update,
        )
    finally:
        encoding.close()


class StageBar:
    """A progress bar with the loss beside it."""

    def __init__(self, name: str) -> None:
        self._bar = ProgressBar(f"training the {name}")

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        """Move the bar."""
        note = f"{values['psnr_db']:.1f} dB" if "psnr_db" in values else f"loss {values['loss']:.4g}"
        self._bar.update(step, num_steps, note)

    def message(self, text: str) -> None:
        """Say something above the bar."""
        self._bar.message(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()
