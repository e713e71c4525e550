"""Films of episodes: enlarged frames with the goal, the way so far and the imagined way ahead.

Axes: N env step, T model step, Y X image. Frames are enlarged without smoothing, so that a film shows the pixels that the model saw; markers are
drawn several times larger and shrunk, so that they are smooth. ``side_px`` is always the longer side of an enlarged frame.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from lewm.report.replays import Replay

GOAL_COLOR, PLAN_COLOR, TRAIL_COLOR, FAILED_COLOR = (0, 158, 115), (0, 114, 178), (110, 110, 110), (213, 94, 0)
"""Okabe and Ito's palette: told apart by colour-blind people too."""
PAPER_COLOR = (250, 250, 248)
SUPERSAMPLING = 3
NUM_HELD_FRAMES = 10
"""How often the last frame is repeated before a film starts again."""
FRAME_MS = 110
GHOST_STRENGTH = 0.35


def episode_film(replay: Replay, *, side_px: int = 192) -> list[Image.Image]:
    """One episode: what the agent sees with what it imagines, and the goal frame beside it."""
    moments = [*range(len(replay.frames)), *[len(replay.frames) - 1] * NUM_HELD_FRAMES]
    return [_beside_goal(replay, moment, side_px, gutter=8) for moment in moments]


def grid_film(replays: Sequence[Replay], *, num_columns: int = 3, side_px: int = 256, gutter: int = 8) -> list[Image.Image]:
    """Several episodes at once, each holding its last frame until the longest is over; where no marker shows the goal, its frame is beside."""

    def draw(replay: Replay, moment: int) -> Image.Image:
        return _beside_goal(replay, moment, side_px // 2, gutter // 2) if replay.positions is None else draw_moment(replay, moment, side_px)

    width, height = draw(replays[0], 0).size
    num_columns = min(num_columns, len(replays))
    num_rows = -(-len(replays) // num_columns)
    size = (num_columns * (width + gutter) + gutter, num_rows * (height + gutter) + gutter)
    length = max(len(replay.frames) for replay in replays)
    images = []
    for moment in range(length + NUM_HELD_FRAMES):
        image = Image.new("RGB", size, PAPER_COLOR)
        for index, replay in enumerate(replays):
            row, column = divmod(index, num_columns)
            place = (gutter + column * (width + gutter), gutter + row * (height + gutter))
            image.paste(draw(replay, min(moment, len(replay.frames) - 1)), place)
        images.append(image)
    return images


def draw_moment(replay: Replay, moment: int, side_px: int) -> Image.Image:
    """One enlarged frame: the goal as a ghost in its ring, the way so far, the imagined way ahead, and at the end a border that says how it ended."""
    frame = replay.frames[moment]
    if replay.goal_position is None or replay.positions is None:
        image = enlarged(frame, side_px)
    else:
        faded = 255 - GHOST_STRENGTH * (255.0 - replay.goal_frame)
        image = enlarged(np.minimum(frame, faded).astype(np.uint8), side_px)
        layer = Image.new("RGBA", (image.width * SUPERSAMPLING, image.height * SUPERSAMPLING), (255, 255, 255, 0))
        _draw_markers(ImageDraw.Draw(layer), replay, moment, np.array(layer.size))
        image.paste(*_shrunk(layer, image.size))
    if moment == len(replay.frames) - 1:
        color = GOAL_COLOR if replay.is_solved else FAILED_COLOR
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=color, width=max(3, side_px // 48))
    return image


def _beside_goal(replay: Replay, moment: int, side_px: int, gutter: int) -> Image.Image:
    seen, goal = draw_moment(replay, moment, side_px), enlarged(replay.goal_frame, side_px)
    image = Image.new("RGB", (seen.width + gutter + goal.width, seen.height), PAPER_COLOR)
    image.paste(seen, (0, 0))
    image.paste(goal, (seen.width + gutter, 0))
    return image


def gif_bytes(images: Sequence[Image.Image]) -> bytes:
    """An endless GIF with one palette for all frames, which keeps it small and free of flicker."""
    thinned = images[:: max(1, len(images) // 8)]
    sample = Image.new("RGB", (thinned[0].width, thinned[0].height * len(thinned)))
    for index, image in enumerate(thinned):
        sample.paste(image, (0, index * image.height))
    palette = sample.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    quantised = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    quantised[0].save(buffer, format="GIF", save_all=True, append_images=quantised[1:], duration=FRAME_MS, loop=0, optimize=False)
    return buffer.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """A still, for people who asked their system for less motion."""
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_markers(draw: ImageDraw.ImageDraw, replay: Replay, moment: int, sides: np.ndarray) -> None:
    """``sides`` are the width and height of what is drawn on, px."""
    assert replay.positions is not None
    assert replay.goal_position is not None
    unit = sides.max() / 64  # one pixel of a 64 px frame
    if replay.goal_radius is not None:
        _ring(draw, replay.goal_position * sides, replay.goal_radius * sides.max(), (*GOAL_COLOR, 230), 0.5 * unit)
    trail = [tuple(place) for place in replay.positions[: moment + 1] * sides]
    if len(trail) > 1:
        draw.line(trail, fill=(*TRAIL_COLOR, 150), width=round(0.6 * unit), joint="curve")
    imagined = replay.imagined[moment]
    if imagined is None or moment == len(replay.frames) - 1:
        return
    places = imagined * sides
    draw.line([trail[-1], *(tuple(place) for place in places)], fill=(*PLAN_COLOR, 120), width=round(0.5 * unit), joint="curve")
    for place in places[:-1]:
        _disk(draw, place, 0.8 * unit, (*PLAN_COLOR, 255))
    _ring(draw, places[-1], 2.2 * unit, (*PLAN_COLOR, 255), 0.8 * unit)


def _disk(draw: ImageDraw.ImageDraw, place: np.ndarray, radius: float, color: tuple[int, int, int, int]) -> None:
    draw.ellipse((place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius), fill=color)


def _ring(draw: ImageDraw.ImageDraw, place: np.ndarray, radius: float, color: tuple[int, int, int, int], width: float) -> None:
    draw.ellipse((place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius), outline=color, width=max(1, round(width)))


def _shrunk(layer: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """Colours, corner and mask for ``paste``."""
    small = layer.resize(size, Image.Resampling.LANCZOS)
    return small.convert("RGB"), (0, 0), small.getchannel("A")


def enlarged(frame: np.ndarray, side_px: int) -> Image.Image:
    """A frame uint8 [Y, X, 3] whose longer side is ``side_px``."""
    height, width = frame.shape[:2]
    scale = side_px / max(height, width)
    return Image.fromarray(frame).resize((max(1, round(scale * width)), max(1, round(scale * height))), Image.Resampling.NEAREST)
