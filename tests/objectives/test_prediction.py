"""LeWorldModel's objective: what it adds up, what it reports and what it depends on."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, ModelConfig, ObjectiveConfig, PredictorConfig
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import rollout_loss, straightening_loss
from lewm.objectives.baselines import NoneObjective
from lewm.objectives.prediction import LeWMObjective
from lewm.objectives.sigreg import random_directions, sigreg
from lewm.schema import ActionSpec, Clip, Observation, ObservationSpec

CONFIG = Config(
    encoder=ConvEncoderConfig(channels=(8, 16), kernel_sizes=(4, 4), strides=(2, 2)),
    model=ModelConfig(latent_dimension=12, projector_width=24, action_embedding_width=16),
    predictor=PredictorConfig(width=16, num_layers=2, num_heads=2, head_width=8, mlp_width=32, dropout=0.0),
    objective=ObjectiveConfig(weight=0.3, num_directions=32),
)


def objective(weight: float = 0.3, seed: int = 0, inverse_weight: float = 0.0, config: Config | None = None) -> LeWMObjective:
    torch.manual_seed(0)
    config = config or replace(CONFIG, objective=replace(CONFIG.objective, weight=weight, inverse_weight=inverse_weight))
    specs = ObservationSpec(height_px=16, width_px=16), ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
    return LeWMObjective(config, WorldModel(config, *specs), seed=seed)


def clip(num_clips: int = 8) -> Clip[Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (num_clips, 4, 1, 16, 16, 3), dtype=torch.uint8, generator=generator)
    blocks = torch.randn(num_clips, 3, 10, generator=generator)
    return Clip(Observation(frames), blocks, None, None, torch.arange(num_clips), torch.zeros(num_clips, dtype=torch.int64))


def test_the_loss_is_the_mean_squared_error_of_the_next_latents_plus_weighted_sigreg_per_time_step():
    model = objective()
    model.eval()
    loss, terms = model(clip(), 5)
    latents = model.world_model.encode(clip().observations)
    predicted = model.world_model.predict(latents[:, :3], clip().blocks)
    prediction_loss = sum((predicted[b, t] - latents[b, t + 1]).square().sum() for b in range(8) for t in range(3)) / (8 * 3 * 12)
    directions = random_directions(12, 32, seed=0, step=5)
    statistic = sum(sigreg(latents[:, t], directions) for t in range(4)) / 4
    torch.testing.assert_close(terms["prediction_loss"], prediction_loss.detach())
    torch.testing.assert_close(terms["sigreg"], statistic.detach())
    torch.testing.assert_close(loss, prediction_loss + 0.3 * statistic)


def test_the_last_frame_is_trained_as_a_target_too():
    model = objective(weight=0.0)
    model.eval()
    gradients = []
    for frozen in (False, True):
        latents = model.world_model.encode(clip().observations)
        target = latents[:, 1:].detach() if frozen else latents[:, 1:]
        error = (model.world_model.predict(latents[:, :3], clip().blocks) - target).square().mean()
        gradients.append(torch.autograd.grad(error, list(model.world_model.encoder.parameters())))
    loss, _ = model(clip(), 0)
    got = torch.autograd.grad(loss, list(model.world_model.encoder.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(got, gradients[0], strict=True))
    assert not all(torch.allclose(a, b, atol=1e-7) for a, b in zip(got, gradients[1], strict=True))


def test_every_parameter_gets_a_gradient_after_the_first_step_has_opened_the_gates():
    model = objective()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimiser.zero_grad()
        model(clip(), step)[0].backward()
        optimiser.step()
    model.zero_grad()
    model(clip(), 2)[0].backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []


def test_weight_zero_still_reports_sigreg_but_does_not_follow_it():
    model = objective(weight=0.0)
    loss, terms = model(clip(), 0)
    assert float(terms["sigreg"]) > 0.5
    assert float(loss.detach()) == float(terms["prediction_loss"])


def test_an_inverse_weight_adds_that_multiple_of_recovering_the_normalised_actions():
    plain, model = objective().eval(), objective(inverse_weight=0.7).eval()
    for each in (plain, model):
        each.world_model.set_action_statistics((0.5, -1.0), (2.0, 0.25))
    loss, terms = model(clip(), 5)
    normalised = (clip().blocks.view(8, 3, 5, 2) - torch.tensor([0.5, -1.0])) / torch.tensor([2.0, 0.25])
    inverse_loss = model.inverse(model.world_model.encode(clip().observations), normalised.flatten(2))
    torch.testing.assert_close(terms["inverse_loss"], inverse_loss.detach())
    torch.testing.assert_close(loss, plain(clip(), 5)[0] + 0.7 * inverse_loss)


def test_rollout_and_straightening_weights_add_those_multiples_of_their_losses():
    config = replace(CONFIG, objective=replace(CONFIG.objective, rollout_weight=0.7, rollout_model_steps=2, straightening_weight=0.4))
    plain, model = objective().eval(), objective(config=config).eval()
    loss, terms = model(clip(), 5)
    latents = model.world_model.encode(clip().observations)
    rollout, straightening = rollout_loss(model.world_model, latents, clip().blocks, num_model_steps=2, growth=2.0), straightening_loss(latents)
    torch.testing.assert_close(terms["rollout_loss"], rollout.detach())
    torch.testing.assert_close(terms["straightening_loss"], straightening.detach())
    torch.testing.assert_close(loss, plain(clip(), 5)[0] + 0.7 * rollout + 0.4 * straightening)


def test_auxiliary_losses_without_a_weight_are_not_computed(monkeypatch):
    for name in ("rollout_loss", "straightening_loss"):
        monkeypatch.setattr(f"lewm.objectives.prediction.{name}", None)  # calling it would fail
    assert set(objective()(clip(), 0)[1]) == {"prediction_loss", "sigreg"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_weight": 1.0, "rollout_model_steps": 4}, r"rollout_model_steps \(4\) must be at most data\.num_transitions \(3\)"),
        ({"rollout_weight": 1.0, "rollout_growth": 0.0}, r"objective\.rollout_growth must be positive"),
        ({"straightening_weight": -1.0}, r"straightening_weight must be at least 0"),
    ],
)
def test_auxiliary_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        objective(config=replace(CONFIG, objective=replace(CONFIG.objective, **settings)))


def test_an_objective_without_an_auxiliary_loss_refuses_its_weight():
    config = replace(CONFIG, objective=replace(CONFIG.objective, name="none", straightening_weight=0.1))
    with pytest.raises(ConfigError, match="objective 'none' has no straightening_weight"):
        NoneObjective(config, objective().world_model, seed=0)


def test_without_an_inverse_weight_there_is_nothing_to_train_but_the_world_model():
    assert all(name.startswith("world_model.") for name, _ in objective().named_parameters())
    assert "inverse_loss" not in objective()(clip(), 0)[1]


def test_the_loss_is_a_function_of_seed_step_and_clip():
    torch.manual_seed(99)
    first = [float(term.detach()) for term in objective().eval()(clip(), 3)[1].values()]
    torch.manual_seed(100)
    again = [float(term.detach()) for term in objective().eval()(clip(), 3)[1].values()]
    assert first == again
    assert float(objective().eval()(clip(), 4)[1]["sigreg"]) != first[1]
    assert float(objective(seed=1).eval()(clip(), 3)[1]["sigreg"]) != first[1]


def test_terms_carry_no_graph():
    assert not any(term.requires_grad for term in objective()(clip(), 0)[1].values())


def test_bfloat16_autocast_trains_and_keeps_the_losses_in_float32():
    model = objective()
    reference = model.eval()(clip(), 0)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, terms = model(clip(), 0)
    loss.backward()
    assert loss.dtype == terms["sigreg"].dtype == terms["prediction_loss"].dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    # bfloat16 keeps 8 bits: a few per cent.
    assert float(terms["sigreg"]) == pytest.approx(float(reference["sigreg"]), rel=0.05)
    assert float(terms["prediction_loss"]) == pytest.approx(float(reference["prediction_loss"]), rel=0.05)
