"""Heads that act: their losses against the formulas written out, and what their outputs mean in env units."""

import math

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, DataConfig, ModelConfig
from lewm.errors import ConfigError
from lewm.head_config import DistanceConfig, IntentConfig, InverseGoalConfig
from lewm.models.heads import build_head
from lewm.models.temporal_distance import expectile_loss
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, ObservationSpec

BLOCK, LATENT, NUM = 3, 6, 7
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
DISCRETE = ActionSpec(kind="discrete", num_choices=4)
CONFIG = Config(
    data=DataConfig(action_block=BLOCK),
    encoder=ConvEncoderConfig(channels=(8,), kernel_sizes=(4,), strides=(4,)),
    model=ModelConfig(latent_dimension=LATENT, projector_width=8),
)
SMALL = {"width": 16, "num_layers": 2}


def model_of(spec: ActionSpec) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(CONFIG, ObservationSpec(height_px=16, width_px=16), spec)
    model.set_action_statistics((0.5, -1.0), (2.0, 0.25))
    return model


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def choices(seed: int, *shape: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.randint(4, shape, generator=torch.Generator().manual_seed(seed)), 4).float()


HERE, GOALS = draw(0, NUM, LATENT), draw(1, NUM, LATENT)


def head_of(settings, spec: ActionSpec = CONTINUOUS):
    return build_head(settings.NAME, settings, model_of(spec)).network


def test_the_inverse_models_loss_is_the_squared_error_of_the_z_scored_action():
    head, actions, steps = head_of(InverseGoalConfig(**SMALL)), draw(2, NUM, 2), torch.arange(1.0, NUM + 1)
    outputs = head(HERE, GOALS, steps)
    expected = sum((outputs[b, i] - (actions[b, i] - (0.5, -1.0)[i]) / (2.0, 0.25)[i]) ** 2 for b in range(NUM) for i in range(2)) / (2 * NUM)
    torch.testing.assert_close(head.loss(HERE, GOALS, steps, actions), expected)


def test_missing_actions_do_not_count():
    head, actions, steps = head_of(InverseGoalConfig(**SMALL)), draw(2, NUM, 2), torch.ones(NUM)
    missing = actions.clone()
    missing[2:] = torch.nan
    torch.testing.assert_close(head.loss(HERE, GOALS, steps, missing), head.loss(HERE[:2], GOALS[:2], steps[:2], actions[:2]))


def test_the_inverse_model_of_choices_is_scored_by_cross_entropy():
    head, actions, steps = head_of(InverseGoalConfig(**SMALL), DISCRETE), choices(2, NUM), torch.ones(NUM)
    chances = head(HERE, GOALS, steps).softmax(-1)
    expected = -sum(chances[b, actions[b].argmax()].log() for b in range(NUM)) / NUM
    torch.testing.assert_close(head.loss(HERE, GOALS, steps, actions), expected)


def test_steps_remaining_change_the_action_only_where_they_are_used():
    for is_used in (True, False):
        head = head_of(InverseGoalConfig(**SMALL, use_steps_remaining=is_used))
        for modulation in head.hidden.modulations:  # a fresh one adds nothing
            torch.nn.init.normal_(modulation.weight)
            torch.nn.init.ones_(modulation.bias)
        near, far = (head(HERE, GOALS, torch.full((NUM,), steps)) for steps in (1.0, 30.0))
        assert torch.equal(near, far) != is_used


def test_the_intents_loss_is_the_mean_surprise_of_the_z_scored_actions_that_count():
    head, blocks, previous = head_of(IntentConfig(**SMALL)), draw(2, NUM, BLOCK * 2), draw(3, NUM, BLOCK * 2)
    outputs = head(HERE, GOALS, previous)
    is_counted = torch.arange(BLOCK) < torch.tensor([1, 2, 3, 3, 3, 1, 2])[:, None]
    total, count = 0.0, 0
    for b in range(NUM):
        for step in range(BLOCK):
            for i in range(2):
                mean, log_std = outputs[b, 2 * step + i], outputs[b, 2 * BLOCK + 2 * step + i]
                target = (blocks[b, 2 * step + i] - (0.5, -1.0)[i]) / (2.0, 0.25)[i]
                density = torch.exp(-0.5 * ((target - mean) / log_std.exp()) ** 2) / (log_std.exp() * math.sqrt(2 * math.pi))
                total, count = (total - density.log(), count + 1) if is_counted[b, step] else (total, count)
    torch.testing.assert_close(head.negative_log_likelihood(outputs, blocks, is_counted), total / count)


def test_the_intent_over_choices_is_a_categorical_per_env_step():
    head, blocks = head_of(IntentConfig(**SMALL), DISCRETE), choices(2, NUM, BLOCK).flatten(1)
    outputs = head(HERE, GOALS, torch.zeros(NUM, BLOCK * 4))
    assert outputs.shape == (NUM, BLOCK * 4)
    chances = outputs.view(NUM, BLOCK, 4).softmax(-1)
    expected = -(blocks.view(NUM, BLOCK, 4) * chances.log()).sum() / (NUM * BLOCK)
    torch.testing.assert_close(head.negative_log_likelihood(outputs, blocks, torch.ones(NUM, BLOCK, dtype=torch.bool)), expected)


def test_the_intent_is_the_change_to_the_target_and_its_product_with_the_latent():
    head, previous, seen = head_of(IntentConfig(**SMALL)), draw(3, NUM, BLOCK * 2), []
    head.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    head(HERE, GOALS, previous)
    change = GOALS - HERE
    torch.testing.assert_close(seen[0][:, : 3 * LATENT], torch.cat([HERE, change, HERE * change], dim=-1))


def test_before_the_start_the_previous_action_is_a_raw_zero_that_is_then_normalised():
    head, seen = head_of(IntentConfig(**SMALL)), []
    head.previous.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    head(HERE, GOALS, torch.zeros(NUM, BLOCK * 2))
    torch.testing.assert_close(seen[0], torch.tensor([-0.5 / 2.0, 1.0 / 0.25]).repeat(NUM, BLOCK))


@pytest.mark.parametrize("settings", [InverseGoalConfig(**SMALL), IntentConfig(**SMALL)])
def test_a_chosen_block_is_in_env_units(settings):
    head = head_of(settings)
    for parameter in (head.output if settings.NAME == "inverse-goal" else head.layers[-1]).parameters():
        torch.nn.init.zeros_(parameter)
    block = head.act(HERE, GOALS, torch.zeros(NUM, BLOCK * 2), steps_to_goal=5)
    torch.testing.assert_close(block, torch.tensor([0.5, -1.0]).repeat(NUM, BLOCK))  # the mean action


@pytest.mark.parametrize("settings", [InverseGoalConfig(**SMALL), IntentConfig(**SMALL)])
def test_a_chosen_block_of_choices_is_one_hot(settings):
    block = head_of(settings, DISCRETE).act(HERE, GOALS, torch.zeros(NUM, BLOCK * 4), steps_to_goal=5).view(NUM, BLOCK, 4)
    assert torch.equal(block.sum(-1), torch.ones(NUM, BLOCK))
    assert torch.equal(block.amax(-1), torch.ones(NUM, BLOCK))


def test_distances_lie_between_zero_and_the_most_and_their_loss_is_the_expectile_loss():
    head, targets = head_of(DistanceConfig(**SMALL, most_env_steps=40, expectile=0.2)), torch.linspace(0, 40, NUM)
    estimates = head.distance(HERE, GOALS)
    assert bool(((estimates > 0) & (estimates < 40)).all())
    expected = sum((0.8 if estimates[b] > targets[b] else 0.2) * ((estimates[b] - targets[b]) / 40) ** 2 for b in range(NUM)) / NUM
    torch.testing.assert_close(head.loss(HERE, GOALS, targets), expected)


@pytest.mark.parametrize("expectile", [0.5, 0.2])
def test_at_the_best_constant_of_the_expectile_loss_the_weighted_errors_cancel(expectile):
    targets, constants = torch.tensor([0.0, 1.0, 1.0, 6.0]), torch.linspace(0, 6, 1201)
    best = constants[torch.stack([expectile_loss(constant - targets, expectile) for constant in constants]).argmin()]
    too_large, too_small = (best - targets).clamp_min(0).sum(), (targets - best).clamp_min(0).sum()
    assert float((1 - expectile) * too_large) == pytest.approx(float(expectile * too_small), abs=0.02)  # constants are 0.005 apart


def test_gradients_of_the_losses_agree_with_finite_differences():
    inverse, intent, distance = (
        head_of(settings).double() for settings in (InverseGoalConfig(**SMALL), IntentConfig(**SMALL), DistanceConfig(**SMALL))
    )
    here, goals = HERE[:2].double().requires_grad_(), GOALS[:2].double().requires_grad_()
    actions, blocks, steps = draw(2, 2, 2).double(), draw(3, 2, BLOCK * 2).double(), torch.tensor([3.0, 9.0], dtype=torch.float64)
    counted = torch.ones(2, BLOCK, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda a, b: inverse.loss(a, b, steps, actions), (here, goals))
    assert torch.autograd.gradcheck(lambda a, b: intent.negative_log_likelihood(intent(a, b, blocks), blocks, counted), (here, goals))
    assert torch.autograd.gradcheck(lambda a, b: distance.loss(a, b, steps), (here, goals))


@pytest.mark.parametrize("settings", [InverseGoalConfig(), IntentConfig()])
def test_a_model_of_video_without_actions_has_no_head_that_acts(settings):
    with pytest.raises(ConfigError, match="needs actions to learn"):
        head_of(settings, ActionSpec(kind="none"))


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (InverseGoalConfig, {"most_env_steps": 0}, r"inverse-goal\.most_env_steps must be at least 1"),
        (IntentConfig, {"spans_env_steps": ()}, r"intent\.spans_env_steps must be whole numbers of at least 1"),
        (IntentConfig, {"goal_weight": 0.0}, r"intent\.goal_weight above 0"),
        (DistanceConfig, {"expectile": 1.0}, r"distance\.expectile must be between 0 and 1"),
        (DistanceConfig, {"imagined_fraction": 1.5}, r"distance\.imagined_fraction must be in \[0, 1\]"),
        (DistanceConfig, {"learning_rate": 0.0}, r"distance\.learning_rate must be positive"),
    ],
)
def test_settings_of_heads_out_of_range_are_refused(settings, values, message):
    with pytest.raises(ConfigError, match=message):
        settings(**values)
