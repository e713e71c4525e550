"""The objectives that LeWorldModel replaces: each against its formula, written out, and against finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, DataConfig, ModelConfig, ObjectiveConfig, PredictorConfig
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective
from lewm.objectives.contrastive import info_nce
from lewm.objectives.sigreg import random_directions, sigreg
from lewm.objectives.variance import covariance_penalty, covariances, variance_hinge
from lewm.registry import OBJECTIVES
from lewm.schema import ActionSpec, Clip, Observation, ObservationSpec

ACTIONS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
CONFIG = Config(
    data=DataConfig(action_block=2, num_transitions=3),
    encoder=ConvEncoderConfig(channels=(8,), kernel_sizes=(4,), strides=(4,)),
    model=ModelConfig(latent_dimension=6, projector_width=8),
    predictor=PredictorConfig(width=8, num_layers=1, num_heads=2, head_width=4, mlp_width=8, dropout=0.0),
    objective=ObjectiveConfig(num_directions=16),
)
B, T, D = 5, 3, 6
OWN = [name for name in OBJECTIVES if OBJECTIVES.entry(name).target.startswith("lewm.")]


def make(name: str, **settings: float) -> Objective:
    torch.manual_seed(0)
    settings = ({"num_subspaces": 2} if name == "sigreg-subspace" else {}) | settings
    config = replace(CONFIG, objective=replace(CONFIG.objective, name=name, **settings))
    model = WorldModel(config, ObservationSpec(height_px=16, width_px=16), ACTIONS)
    for block in model.predictor.blocks:  # the last map of a new block is zero: nothing would depend on the actions
        torch.nn.init.normal_(block.modulation.weight, std=0.5)
    objective: Objective = OBJECTIVES.load(name)(config, model, seed=7)
    return objective


def clip() -> Clip[Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (B, T + 1, 1, 16, 16, 3), generator=generator, dtype=torch.uint8)
    blocks, rewards = torch.randn(B, T, 4, generator=generator), torch.randn(B, T, generator=generator)
    number = torch.zeros(B, dtype=torch.int64)
    return Clip(Observation(frames), blocks, rewards, None, number, number)


def latents_of(objective: Objective) -> tuple[Tensor, Tensor]:
    """What the objective's forward works with: [B, T+1, D] and the predictions [B, T, D]."""
    latents = objective.world_model.encode(clip().observations)
    return latents, objective.world_model.predict(latents[:, :-1], clip().blocks)


def random(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mse(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum() / one.numel()


@pytest.mark.parametrize("name", OWN)
def test_every_objective_trains_everything_that_it_does_not_declare_frozen(name):
    objective = make(name)
    loss, terms = objective(clip(), 0)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(math.isfinite(float(term)) and not term.requires_grad for term in terms.values())
    trained = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert all(objective.get_parameter(name).grad is not None for name in trained)
    assert any(name.startswith("world_model.predictor") for name in trained)
    own = {name.split(".")[0] for name, _ in objective.named_children()} - {"world_model"}
    assert own <= set(objective.trainer_networks), "what is not in the checkpoint is declared"


@pytest.mark.parametrize("name", OWN)
def test_every_tunable_weight_changes_the_loss(name):
    base, _ = make(name)(clip(), 0)
    for setting in make(name).tunable_weights:
        objective = make(name, **{setting: 0.5 if setting == "target_decay" else 3.0})
        if setting == "target_decay":  # it shows after a step
            for parameter in objective.world_model.parameters():
                parameter.data.add_(0.1)
            objective.after_step()
            assert not torch.equal(objective(clip(), 0)[0], base)
        else:
            assert not torch.equal(objective(clip(), 0)[0], base), setting


@pytest.mark.parametrize(("name", "setting"), [("lewm", "variance_weight"), ("vicreg", "smoothness_weight"), ("none", "target_decay")])
def test_a_setting_that_an_objective_does_not_have_is_refused(name, setting):
    with pytest.raises(ConfigError, match=f"objective '{name}' has no setting '{setting}'"):
        make(name, **{setting: 0.5})


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("variance_weight", -1.0, r"objective\.variance_weight must be at least 0"),
        ("target_decay", 1.0, r"objective\.target_decay must be in \[0, 1\)"),
        ("temperature", 0.0, r"objective\.temperature must be positive"),
        ("num_subspaces", 0, r"objective\.num_subspaces must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        ObjectiveConfig(**{setting: value})


def test_none_is_prediction_alone_with_a_gradient_through_the_targets_and_stopgrad_the_same_without():
    gradients = {}
    for name in ("none", "stopgrad"):
        objective = make(name)
        latents, predicted = latents_of(objective)
        targets = latents[:, 1:] if name == "none" else latents[:, 1:].detach()
        expected = mse(predicted, targets)
        loss, _ = objective(clip(), 0)
        torch.testing.assert_close(loss, expected)
        weight = objective.world_model.projector.contract.weight
        (by_hand,) = torch.autograd.grad(expected, weight)
        (gradients[name],) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(gradients[name], by_hand)
    assert not torch.allclose(gradients["none"], gradients["stopgrad"])


def test_the_target_encoder_follows_by_its_decay_and_gives_the_targets():
    objective = make("ema", target_decay=0.75)
    model, target = objective.world_model, objective.target
    with torch.no_grad():
        before = {name: parameter.clone() for name, parameter in target.model.named_parameters()}
        for parameter in model.parameters():
            parameter.add_(0.2)
    objective.after_step()
    for name, parameter in target.model.named_parameters():
        torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * model.get_parameter(name))
        assert not parameter.requires_grad
    predicted = model.predict(model.encode(clip().observations[:, :-1]), clip().blocks)
    expected = mse(predicted, target.model.encode(clip().observations[:, 1:]))
    torch.testing.assert_close(objective(clip(), 0)[0], expected)


def test_a_frozen_encoder_has_no_gradient_and_the_predictor_has():
    objective = make("frozen")
    objective(clip(), 0)[0].backward()
    model = objective.world_model
    assert all(parameter.grad is None for part in (model.encoder, model.projector) for parameter in part.parameters())
    assert all(parameter.grad is not None for parameter in model.predictor.parameters())


def test_covariances_are_the_unbiased_ones_over_all_processes():
    samples = random(2, 9, D)
    for leading in range(2):
        torch.testing.assert_close(covariances(samples)[leading].double(), samples[leading].T.cov(), atol=1e-6, rtol=1e-5)
    # Two processes that hold the same samples: what each adds up is doubled.
    doubled = covariances(samples, reduce=lambda tensor: 2 * tensor)
    torch.testing.assert_close(doubled, covariances(torch.cat([samples, samples], dim=1)), atol=1e-6, rtol=1e-5)


def test_variance_hinge_and_covariance_penalty_are_those_of_vicreg():
    covariance = covariances(0.8 * random(2, 9, D)).double()
    hinge = sum(max(0.0, 1 - math.sqrt(float(covariance[k, i, i]) + 1e-4)) for k in range(2) for i in range(D)) / (2 * D)
    penalty = sum(float(covariance[k, i, j]) ** 2 for k in range(2) for i in range(D) for j in range(D) if i != j) / (2 * D)
    assert float(variance_hinge(covariance)) == pytest.approx(hinge)
    assert float(covariance_penalty(covariance)) == pytest.approx(penalty)
    assert float(variance_hinge(4 * torch.eye(D))) == 0, "spread enough costs nothing"


def test_vicreg_and_pldm_add_up_their_terms():
    for name in ("vicreg", "pldm"):
        objective = make(name, variance_weight=2.0, covariance_weight=0.5)
        latents, predicted = (part.detach() for part in latents_of(objective))
        by_time = [covariances(latents[:, t]) for t in range(T + 1)]
        variance = sum(float(variance_hinge(covariance)) for covariance in by_time) / (T + 1)
        penalty = sum(float(covariance_penalty(covariance)) for covariance in by_time) / (T + 1)
        expected = float(mse(predicted, latents[:, 1:])) + 2 * variance + 0.5 * penalty / (1 if name == "vicreg" else D - 1)
        loss, terms = objective(clip(), 0)
        if name == "pldm":
            over_time = sum(float(variance_hinge(covariances(latents[b]))) for b in range(B)) / B
            smoothness = float(mse(latents[:, 1:], latents[:, :-1]))
            inverse = float(objective.inverse(latents, objective.world_model.normalised_blocks(clip().blocks)).detach())
            expected += 0.7 * over_time + 0.2 * smoothness + 1.0 * inverse
            assert len(terms) == 7
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_info_nce_is_the_cross_entropy_of_choosing_the_own_target_by_distance():
    predicted, targets = random(2, B, D), random(2, B, D, seed=3)
    total = 0.0
    for t in range(2):
        for b in range(B):
            strengths = [math.exp(-float(mse(predicted[t, b], targets[t, other])) / 0.3) for other in range(B)]
            total -= math.log(strengths[b] / sum(strengths))
    assert float(info_nce(predicted, targets, 0.3)) == pytest.approx(total / (2 * B), rel=1e-5)
    same = torch.ones(1, B, D)
    assert float(info_nce(same, same, 0.3)) == pytest.approx(math.log(B), rel=1e-6)


def test_rewards_and_values_are_learnt_by_their_formulas():
    objective = make("reward", discount=0.5)
    torch.nn.init.normal_(objective.target_value_head[2].weight)
    latents, predicted = latents_of(objective)
    returns = clip().rewards + 0.5 * objective.target_value_head(latents[:, 1:])[..., 0]
    parts = {
        "prediction_loss": mse(predicted, latents[:, 1:]),
        "reward_loss": mse(objective.reward_head(predicted)[..., 0], clip().rewards),
        "value_loss": mse(objective.value_head(latents[:, :-1])[..., 0], returns),
    }
    loss, terms = objective(clip(), 0)
    for name, part in parts.items():
        torch.testing.assert_close(terms[name], part.detach())
    torch.testing.assert_close(loss, parts["prediction_loss"] + parts["reward_loss"] + 0.1 * parts["value_loss"])


def test_the_target_value_follows_by_its_decay():
    objective = make("reward", target_decay=0.75)
    before = objective.target_value_head[0].weight.clone()
    torch.nn.init.ones_(objective.value_head[0].weight)
    objective.after_step()
    torch.testing.assert_close(objective.target_value_head[0].weight, 0.75 * before + 0.25)


def test_reconstruction_adds_the_error_of_the_decoded_frames():
    objective = make("reconstruct", reconstruction_weight=3.0)
    latents, predicted = latents_of(objective)
    frames = objective.decoder(latents)
    assert frames.shape == clip().observations.frames.shape
    expected = mse(predicted, latents[:, 1:]) + 3 * mse(frames, clip().observations.frames / 255)
    torch.testing.assert_close(objective(clip(), 0)[0], expected)


def test_subspaces_are_compared_one_by_one():
    objective = make("sigreg-subspace", num_subspaces=3, weight=1.0)
    latents, _ = latents_of(objective)
    assert torch.allclose(objective.basis.T @ objective.basis, torch.eye(D), atol=1e-6)
    directions = random_directions(2, 16 // 3, seed=7, step=4)
    parts = [sigreg((latents @ objective.basis)[:, :, 2 * k : 2 * k + 2].transpose(0, 1), directions) for k in range(3)]
    _, terms = objective(clip(), 4)
    torch.testing.assert_close(terms["sigreg"], sum(parts).detach() / 3)
    with pytest.raises(ConfigError, match="num_subspaces must divide the latent dimension 6, got 4"):
        make("sigreg-subspace", num_subspaces=4)


def test_the_learnt_prior_keeps_its_trace_and_its_condition():
    objective = make("sigreg-aniso")
    _, terms = objective(clip(), 4)
    _, plain = make("lewm")(clip(), 4)
    torch.testing.assert_close(terms["sigreg"], plain["sigreg"])  # at first it is isotropic
    with torch.no_grad():
        objective.prior.copy_(torch.tensor([9.0, -9.0, 1.0, -1.0, 0.0, 3.0]))
    variances = objective.variances.detach()
    assert float(variances.sum()) == pytest.approx(D)
    assert float(variances.max() / variances.min()) == pytest.approx(2.0, rel=1e-3)
    latents, _ = latents_of(objective)
    expected = sigreg((latents / variances.sqrt()).transpose(0, 1), random_directions(D, 16, seed=7, step=4))
    torch.testing.assert_close(objective(clip(), 4)[1]["sigreg"], expected.detach())


@pytest.mark.parametrize("name", ["variance", "covariance", "contrastive"])
def test_gradients_agree_with_finite_differences(name):
    functions = {
        "variance": lambda x: variance_hinge(covariances(x)),
        "covariance": lambda x: covariance_penalty(covariances(x)),
        "contrastive": lambda x: info_nce(x[:, :4], x[:, 4:8], 0.5),
    }
    samples, direction = 0.5 * random(2, 9, D), random(2, 9, D, seed=5)
    samples.requires_grad_()
    (gradient,) = torch.autograd.grad(functions[name](samples), samples)
    step = 1e-2
    difference = (functions[name](samples + step * direction) - functions[name](samples - step * direction)) / (2 * step)
    # Central differences of float32 arithmetic: about three digits.
    assert float((gradient * direction).sum()) == pytest.approx(float(difference.detach()), rel=5e-3, abs=1e-4)
