"""What a model imagines, drawn by its decoder beside what really happened: fresh episodes, the true actions, no look ahead.

Axes: E episode, T model step, N env step, D latent, V view, Y X image.
"""

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from lewm.checkpoint import Checkpoint
from lewm.envs.base import GoalEnv, GoalEnvBatch, make_batch
from lewm.evaluation.outcomes import scripted_policy
from lewm.evaluation.reconstruction import draw_clips, psnr_db
from lewm.models.world_model import WorldModel
from lewm.registry import ENVS
from lewm.report.films import PAPER_COLOR, enlarged
from lewm.report.latents import SEED_NAMESPACE, stacked
from lewm.schema import ActionSpec, Clip, Observation
from lewm.seeds import episode_seed

NUM_EPISODES, NUM_FILMED = 24, 3
"""Episodes that the PSNR is of, and those that the film shows (the first ones)."""
HORIZON_MODEL_STEPS = 10
SEED = 1
"""Other episodes than the pictures of the latent space show."""
HEADING_PX, HEADING_COLOR = 18, (70, 70, 66)
NUM_HELD_FRAMES = 4
"""How often each model step is repeated in the film."""


@dataclass(frozen=True, kw_only=True)
class Imagination:
    """Frames of some episodes as they were, as decoded from their own latents, and as imagined from the first observation."""

    frames: np.ndarray
    """uint8 [3, E, T+1, Y, X, 3]: real, decoded, imagined (whose first frame is decoded); the newest view of the first camera."""
    psnr_db: np.ndarray
    """float64 [2, T]: of the imagined frames, and of the first frame as a copy, 1 .. T model steps ahead, over all episodes and views."""


def imagine(checkpoint: Checkpoint, *, horizon_model_steps: int = HORIZON_MODEL_STEPS, num_episodes: int = NUM_EPISODES) -> Imagination | None:
    """Record fresh episodes with the world's data policy and imagine them; None where no episode is as long as that."""
    clip = _record(checkpoint, horizon_model_steps, num_episodes)
    return None if clip is None else _draw(checkpoint.model, checkpoint.heads["decoder"].network, clip)


def imagination_film(imagination: Imagination, *, side_px: int = 160, gutter: int = 8) -> list[Image.Image]:
    """One row per episode; columns, with headings: real, decoded, imagined."""
    frames = imagination.frames[:, :NUM_FILMED]
    num_rows, length = frames.shape[1:3]
    width, height = enlarged(frames[0, 0, 0], side_px).size
    images = []
    for moment in range(length):
        image = Image.new("RGB", (3 * (width + gutter) + gutter, HEADING_PX + num_rows * (height + gutter) + gutter), PAPER_COLOR)
        headings = ("what happened", "from its latent", "first frame" if moment == 0 else f"imagined, step {moment}")
        for column, heading in enumerate(headings):
            left = gutter + column * (width + gutter)
            ImageDraw.Draw(image).text((left, gutter // 2), heading, fill=HEADING_COLOR, font=ImageFont.load_default(HEADING_PX - 5))
            for row in range(num_rows):
                place = (left, HEADING_PX + gutter + row * (height + gutter))
                image.paste(enlarged(frames[column, row, moment], side_px), place)
        images += [image] * NUM_HELD_FRAMES
    return images


def imagination_words(imagination: Imagination, action_block: int) -> str:
    """What the film shows and how near it is."""
    imagined, copied = imagination.psnr_db
    last = len(imagined)
    steps = [step for step in (1, last // 2, last) if step]
    figures = ", ".join(f"{imagined[step - 1]:.1f} dB after {step}" for step in dict.fromkeys(steps))
    copies = ", ".join(f"{copied[step - 1]:.1f}" for step in dict.fromkeys(steps))
    return (
        f"Left: what happened. Middle: drawn from the latent of that very frame. Right: drawn from what the model imagined from the first frame and "
        f"the actions alone, a model step ({action_block} env steps) at a time. PSNR of the right over {imagination.frames.shape[1]} fresh episodes: "
        f"{figures} model steps; the first frame as a copy: {copies}. The decoder was trained afterwards, for looking only."
    )


def _record(checkpoint: Checkpoint, horizon: int, num_episodes: int) -> Clip[Tensor] | None:
    """The beginnings of the episodes that last long enough."""
    env, options = str(checkpoint.env["name"]), dict(checkpoint.env.get("options", {}))
    env_class: type[GoalEnv] = ENVS.load(env)
    policy = scripted_policy(env, env_class.DATA_POLICY)
    seeds = [episode_seed(SEED_NAMESPACE, SEED, index) for index in range(num_episodes)]
    first = -checkpoint.model.observation_spec.stack_offsets_env_steps[0]
    length = first + horizon * checkpoint.model.action_block
    moments, actions = [], []
    is_running = np.ones(num_episodes, bool)
    with closing(make_batch(env, num_episodes, **options)) as envs:
        envs.reset(seeds)
        policy.reset(envs, seeds, length)
        for _ in range(length):
            moments.append(envs.observe())
            acted = policy.act(envs)
            actions.append(np.array(acted))
            _, terminated = envs.step(acted)
            is_running &= ~(terminated | envs.is_truncated())
        moments.append(envs.observe())
        return _clip(checkpoint, envs, moments, np.stack(actions, 1)[:, first:], is_running) if is_running.any() else None


def _clip(
    checkpoint: Checkpoint, envs: GoalEnvBatch, moments: list[Observation[np.ndarray]], actions: np.ndarray, is_whole: np.ndarray
) -> Clip[Tensor]:
    model = checkpoint.model
    offsets, block = model.observation_spec.stack_offsets_env_steps, model.action_block
    times = range(-offsets[0], len(moments), block)
    observations = [stacked([moments[time + offset] for offset in offsets]) for time in times]
    frames = np.stack([observation.frames for observation in observations], axis=1)  # E T+1 V Y X 3
    has_proprioception = observations[0].proprioception is not None
    proprioception = np.stack([np.asarray(each.proprioception) for each in observations], axis=1) if has_proprioception else None
    blocks = _blocks(model.action_spec, envs.action_spec, actions, block)
    number = np.arange(len(frames))
    clip = Clip(Observation(frames, proprioception), blocks, None, None, episode=number, start_env_step=np.full(len(frames), -offsets[0]))
    return clip.map(lambda array: torch.from_numpy(array[is_whole]))


def _blocks(trained: ActionSpec, spec: ActionSpec, actions: np.ndarray, action_block: int) -> np.ndarray:
    """float32 [E, T, A]; of width 0 for a model of video."""
    blocks = spec.as_blocks(actions, action_block)
    return blocks if trained.kind != "none" else blocks[..., :0]


def _draw(model: WorldModel, decoder: nn.Module, clip: Clip[Tensor]) -> Imagination:
    drawn = draw_clips(model, decoder, clip)
    ahead = drawn.real[:, 1:]
    errors = [(shown - ahead).square().double().mean((0, 2, 3, 4, 5)) for shown in (drawn.imagined, drawn.real[:, :1])]
    imagined = torch.cat([drawn.decoded[:, :1], drawn.imagined], dim=1)
    newest = len(model.observation_spec.stack_offsets_env_steps) - 1  # the stack of the first camera comes first, oldest first
    shown = torch.stack([frames[:, :, newest] for frames in (drawn.real, drawn.decoded, imagined)])
    return Imagination(frames=shown.mul(255).round().byte().numpy(), psnr_db=np.asarray(psnr_db(torch.stack(errors).numpy())))
