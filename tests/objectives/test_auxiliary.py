"""Losses beside prediction: inverse dynamics, imagination over several steps, and straight paths."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, DataConfig, ModelConfig, PredictorConfig
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import InverseDynamics, rollout_loss, straightening_loss
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


def world_model() -> WorldModel:
    torch.manual_seed(0)
    predictor = PredictorConfig(width=8, num_layers=1, num_heads=1, head_width=8, mlp_width=8, dropout=0.0)
    model = WorldModel(replace(CONFIG, predictor=predictor), ObservationSpec(height_px=16, width_px=16), CONTINUOUS)
    torch.nn.init.normal_(model.predictor.blocks[0].modulation.weight, std=0.1)  # a fresh one ignores actions
    return model.eval()


def test_the_rollout_loss_weighs_the_error_of_each_imagined_step_by_a_power_of_the_growth():
    model, generator = world_model(), torch.Generator().manual_seed(1)
    latents, blocks = torch.randn(4, 4, 6, generator=generator), torch.randn(4, 3, 6, generator=generator)
    past, total = [latents[:, 0]], 0.0
    for k in range(3):
        past.append(model.predict(torch.stack(past, dim=1), blocks[:, : k + 1])[:, -1])
        error = sum((past[-1][b, d] - latents[b, k + 1, d]) ** 2 for b in range(4) for d in range(6)) / 24
        total = total + 2.5**k * error
    loss = rollout_loss(model, latents, blocks, num_model_steps=3, growth=2.5)
    torch.testing.assert_close(loss, total / (1 + 2.5 + 2.5**2), rtol=1e-5, atol=1e-6)


def test_a_shorter_rollout_does_not_see_what_comes_later():
    model, generator = world_model(), torch.Generator().manual_seed(1)
    latents, blocks = torch.randn(4, 4, 6, generator=generator), torch.randn(4, 3, 6, generator=generator)
    changed = torch.cat([latents[:, :3], latents[:, 3:] + 1], dim=1)
    losses = [rollout_loss(model, each, blocks, num_model_steps=2, growth=2.0) for each in (latents, changed)]
    assert torch.equal(*losses)


def test_the_straightening_loss_is_one_minus_the_cosine_of_consecutive_changes():
    latents, total = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 0.0
    for b in range(3):
        for t in range(2):
            one, other = latents[b, t + 1] - latents[b, t], latents[b, t + 2] - latents[b, t + 1]
            total = total + 1 - (one @ other) / (one.norm() * other.norm())
    torch.testing.assert_close(straightening_loss(latents), total / 6)


@pytest.mark.parametrize(("places", "expected"), [([0.0, 1.0, 3.0, 4.0], 0.0), ([0.0, 1.0, 0.0, 1.0], 2.0)])
def test_straight_paths_cost_nothing_and_turning_back_costs_two(places, expected):
    assert float(straightening_loss(torch.tensor(places)[None, :, None] * torch.ones(1, 1, 3))) == pytest.approx(expected, abs=1e-6)


def test_gradients_of_the_auxiliary_losses_agree_with_finite_differences():
    model, generator = world_model().double(), torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    blocks = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(straightening_loss, (latents,))
    assert torch.autograd.gradcheck(lambda each: rollout_loss(model, each, blocks, num_model_steps=3, growth=2.0), (latents,))
