"""Training mode against a second implementation: the same latents, predictions, loss, running statistics and gradients as the official layout gives.

Both sides are float64 and dropout is 0, so that only the order of sums differs.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from golden_recipe import fill
from lewm.bench.official_reference import official_latents, official_loss, official_predictions
from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.models.official import official_names
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.objectives.prediction import LeWMObjective
from lewm.objectives.sigreg import random_directions
from lewm.schema import ActionSpec, Clip, Observation, ObservationSpec

# float64 sums of up to 5e4 terms in another order: 5e4 x 2.2e-16 is 1e-11, and a few layers multiply that.
TOLERANCE = 1e-9


@dataclass
class Case:
    objective: LeWMObjective
    weights: dict[str, torch.Tensor]
    clip: Clip[torch.Tensor]
    pixels: torch.Tensor
    directions: torch.Tensor
    head_width: int

    @property
    def model(self) -> WorldModel:
        return self.objective.world_model


def make_case(config: Config, size_px: int, batch_size: int, head_width: int) -> Case:
    config = replace(config, predictor=replace(config.predictor, dropout=0.0))
    specs = ObservationSpec(height_px=size_px, width_px=size_px), ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
    model = WorldModel(config, *specs)
    weights = {name: tensor.double() for name, tensor in fill(model).items()}
    weights |= {f"{name}.net.1.num_batches_tracked": torch.tensor(0) for name in ("projector", "pred_proj")}
    trainable = [name for name in weights if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    for name in trainable:
        weights[name].requires_grad_()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch_size, 4, 1, size_px, size_px, 3), dtype=torch.uint8, generator=generator)
    blocks = torch.randn(batch_size, 3, 10, generator=generator, dtype=torch.float64)
    # The statistics are float32 constants in the official code too.
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (frames.flatten(0, 2).permute(0, 3, 1, 2).double() / 255 - mean) / std
    clip = Clip(Observation(frames), blocks, None, None, torch.zeros(batch_size), torch.zeros(batch_size))
    objective = LeWMObjective(config, model.double(), seed=5).train()
    directions = random_directions(model.latent_dimension, config.objective.num_directions, seed=5, step=0).double()
    return Case(objective, weights, clip, pixels, directions, head_width)


def small() -> Case:
    sizes = {
        "encoder": {"width": 24, "num_layers": 2, "num_heads": 3, "mlp_width": 32},
        "model": {"latent_dimension": 24, "projector_width": 40},
        "predictor": {"width": 24, "num_layers": 2, "num_heads": 4, "head_width": 8, "mlp_width": 40},
        "objective": {"num_directions": 64},
    }
    return make_case(from_dict(sizes, load_preset("paper")), size_px=28, batch_size=6, head_width=8)


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).detach().abs().max() / expected.detach().abs().max())


def assert_same_gradients(case: Case) -> None:
    """Of every parameter; those that are rounding alone (a key's bias moves no softmax, no shift a BatchNorm) count against the largest."""
    names = official_names(case.model)
    expected = {ours: case.weights[name].grad for ours, name in names.items() if case.weights[name].requires_grad}
    assert set(expected) == {name for name, _ in case.model.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, parameter in case.model.named_parameters():
        own = max(float(expected[name].abs().max()), 1e-4 * largest)
        assert float((parameter.grad - expected[name]).abs().max()) < TOLERANCE * own, name


@pytest.fixture
def case() -> Case:
    return small()


def test_latents_in_training_mode_are_those_of_the_second_implementation(case: Case):
    expected = official_latents(case.weights, case.pixels, is_training=True, head_width=case.head_width)
    assert largest_difference(case.model.train().encode(case.clip.observations).flatten(0, 1), expected) < TOLERANCE


def test_predictions_in_training_mode_are_those_of_the_second_implementation(case: Case):
    latents = torch.randn(6, 3, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = official_predictions(case.weights, latents, case.clip.blocks, is_training=True, head_width=case.head_width)
    assert largest_difference(case.model.train().predict(latents, case.clip.blocks), expected) < TOLERANCE


@pytest.mark.parametrize("statistic", ["running_mean", "running_var", "num_batches_tracked"])
def test_running_statistics_move_as_in_the_second_implementation(case: Case, statistic: str):
    case.objective(case.clip, 0)
    official_loss(case.weights, case.pixels, case.clip.blocks, case.directions, 0.09, head_width=case.head_width)
    state = case.model.state_dict()
    names = {ours: name for ours, name in official_names(case.model).items() if name.endswith(statistic)}
    assert len(names) == 2
    assert all(largest_difference(state[ours].double(), case.weights[name].double()) < TOLERANCE for ours, name in names.items())


def test_evaluation_mode_uses_the_running_statistics_as_the_second_implementation_does(case: Case):
    expected = official_latents(case.weights, case.pixels, head_width=case.head_width)
    assert largest_difference(case.model.eval().encode(case.clip.observations).flatten(0, 1), expected) < TOLERANCE


def test_the_loss_and_every_gradient_are_those_of_the_second_implementation(case: Case):
    loss, _ = case.objective(case.clip, 0)
    expected = official_loss(case.weights, case.pixels, case.clip.blocks, case.directions, 0.09, head_width=case.head_width)
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    loss.backward()
    expected.backward()
    assert_same_gradients(case)


def test_the_loss_and_every_gradient_agree_at_the_true_size():
    case = make_case(load_preset("paper"), size_px=224, batch_size=1, head_width=64)
    loss, _ = case.objective(case.clip, 0)
    expected = official_loss(case.weights, case.pixels, case.clip.blocks, case.directions, 0.09)
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    loss.backward()
    expected.backward()
    assert_same_gradients(case)
