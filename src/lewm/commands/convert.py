"""``lewm convert``: datasets from one format to another, and weights between the official layout and ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lewm.commands.convert_weights import convert_weights, is_weights
from lewm.commands.parsing import ProgressBar, check_result_file, command_line, parse, parse_options, show, write_result
from lewm.data.formats.recognition import recognise
from lewm.errors import ConfigError


@dataclass(frozen=True)
class ConvertArguments:
    """Write a dataset in another format (`lewm list formats`) and check it; or official weights as a checkpoint (docs/paper-and-code.md)."""

    source: tyro.conf.Positional[Path]
    """Dataset of any format."""
    out: tyro.conf.Positional[Path]
    """Where to write."""
    to: str = "native"
    """Format to write."""
    format: str | None = None
    """Format of the source; default: recognised."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the source's reader, repeatable: docs/formats.md has those of each format."""
    size_px: str | None = None
    """Resize frames: 64, or height x width such as 48x64."""
    resampler: str = "area"
    """How: area, nearest, bilinear, bicubic or lanczos."""
    crop: bool = False
    """Cut the middle out of frames of other proportions than the new size."""
    max_env_steps: int | None = None
    """Cut longer episodes into pieces of so many env steps."""
    stress: str | None = None
    """Draw a nuisance over the frames: corner-tag, distractor, video, pixel-noise (see docs/evaluation.md)."""
    resume: bool = False
    """Continue an interrupted conversion."""
    verify: bool = True
    """Read everything back at the end and compare."""
    json: Path | None = None
    """Also write what was done to this file."""


def convert(words: Sequence[str]) -> None:
    """Convert a dataset, or weights where the source is some, and say what was done."""
    source = next((word for word in words if not word.startswith("-")), None)
    if source is not None and recognise(Path(source)) is None and is_weights(source):
        convert_weights(words)
    else:
        _convert_data(words)


def _convert_data(words: Sequence[str]) -> None:
    arguments = parse(ConvertArguments, "convert", words)
    check_result_file(arguments.json)
    from lewm.data.convert import convert as run_conversion

    bars: dict[str, ProgressBar] = {}

    def tell(state: Any) -> None:
        bar = bars.setdefault(state.stage, ProgressBar(state.stage))
        bar.update(state.num_done, state.num_episodes, f"{state.num_frame_bytes / 1e6 / max(state.elapsed_s, 1e-9):,.0f} MB/s of decoded frames")

    try:
        done = run_conversion(
            arguments.source,
            arguments.out,
            to=arguments.to,
            format=arguments.format,
            options=parse_options(arguments.option, "--option"),
            resizing=_resizing(arguments),
            max_env_steps=arguments.max_env_steps,
            stress=arguments.stress,
            resume=arguments.resume,
            verify=arguments.verify,
            command=command_line("convert", words),
            progress=tell,
        )
    finally:
        for bar in bars.values():
            bar.close()
    checked = "verified" if done["verified"] else "not verified"
    quality = f", frames PSNR {done['psnr_db']:.1f} dB or better" if "psnr_db" in done else ""
    show(
        f"converted: {arguments.out} ({done['to']}), {done['num_episodes']:,} episodes, {done['num_env_steps']:,} env steps, {checked}{quality}\n"
        f"dataset_sha256 {done['dataset_sha256']}"
    )
    write_result(arguments.json, done)


def _resizing(arguments: ConvertArguments) -> Any:
    from lewm.data.resizing import Resizing, parse_size

    if arguments.size_px is None:
        if arguments.crop or arguments.resampler != "area":
            raise ConfigError("--crop and --resampler say how frames are resized: give --size-px as well")
        return None
    height_px, width_px = parse_size(arguments.size_px)
    return Resizing(height_px=height_px, width_px=width_px, resampler=arguments.resampler, is_cropped=arguments.crop)
