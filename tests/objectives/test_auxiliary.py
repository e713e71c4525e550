"""Inverse dynamics: what is recovered, from what, and how it is scored."""

import math

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, DataConfig, ModelConfig
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import InverseDynamics
from lewm.schema import ActionSpec, ObservationSpec

CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
DISCRETE = ActionSpec(kind="discrete", num_choices=5)
CONFIG = Config(
    data=DataConfig(action_block=3),
    encoder=ConvEncoderConfig(channels=(8,), kernel_sizes=(4,), strides=(4,)),
    model=ModelConfig(latent_dimension=6, projector_width=8),
)


def inverse(action_spec: ActionSpec) -> InverseDynamics:
    torch.manual_seed(0)
    return InverseDynamics(WorldModel(CONFIG, ObservationSpec(height_px=16, width_px=16), action_spec))


def choices(*leading: int) -> Tensor:
    """One-hot blocks [..., 3 * 5]."""
    numbers = torch.randint(0, 5, (*leading, 3), generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.one_hot(numbers, 5).flatten(-2).float()


def random(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_numbers_are_scored_by_the_mean_squared_error_of_each_block_from_the_two_latents_around_it():
    model, latents, blocks = inverse(CONTINUOUS), random(4, 3, 6), random(4, 2, 6)
    recovered = [[model.layers(torch.cat([latents[b, t], latents[b, t + 1]])) for t in range(2)] for b in range(4)]
    expected = sum((recovered[b][t] - blocks[b, t]).square().sum() for b in range(4) for t in range(2)) / (4 * 2 * 6)
    torch.testing.assert_close(model(latents, blocks), expected)


def test_missing_actions_neither_count_nor_stop_the_gradient_of_the_others():
    model, latents, blocks = inverse(CONTINUOUS), random(4, 3, 6).requires_grad_(), random(4, 2, 6)
    with_hole = blocks.clone()
    with_hole[2] = math.nan
    loss = model(latents, with_hole)
    torch.testing.assert_close(loss, model(latents[[0, 1, 3]], blocks[[0, 1, 3]]))
    loss.backward()
    assert torch.isfinite(latents.grad).all()
    assert not latents.grad[2].any()


def test_choices_are_scored_by_cross_entropy_per_env_step_as_a_share_of_guessing_evenly():
    model, latents, blocks = inverse(DISCRETE), random(4, 3, 6), choices(4, 2)
    logits = model.layers(torch.cat([latents[:, :-1], latents[:, 1:]], -1)).double().view(-1, 5)
    chances = logits.exp() / logits.exp().sum(-1, keepdim=True)
    expected = -chances[blocks.view(-1, 5).bool()].log().mean() / math.log(5)
    torch.testing.assert_close(model(latents, blocks).double(), expected, atol=1e-6, rtol=1e-6)
    for layer in model.layers.parameters():
        torch.nn.init.zeros_(layer)
    assert float(model(latents, blocks).detach()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("spec", "blocks"), [(CONTINUOUS, random(2, 2, 6)), (DISCRETE, choices(2, 2))])
def test_the_gradient_reaches_both_latents_and_agrees_with_finite_differences(spec: ActionSpec, blocks: Tensor):
    model, latents = inverse(spec), random(2, 3, 6).requires_grad_()
    model(latents, blocks).backward()
    direction, step = random(2, 3, 6, seed=3), 1e-2
    difference = (model(latents + step * direction, blocks) - model(latents - step * direction, blocks)) / (2 * step)
    # Central differences in float32: about four digits.
    assert float((latents.grad * direction).sum()) == pytest.approx(float(difference.detach()), rel=1e-3, abs=1e-4)
    assert all(latents.grad[:, t].any() for t in range(3))


def test_data_without_actions_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.inverse_weight needs actions to recover"):
        inverse(ActionSpec(kind="none"))
