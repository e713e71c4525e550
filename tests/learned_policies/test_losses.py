"""Each formula of the learned policies against its definition, a closed form or another implementation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lewm.errors import ConfigError
from lewm.learned_policies.gciql import GCIQL, advantage_weights, climbing_loss, evaluate, expectile_loss, follow, judge, temporal_targets
from lewm.learned_policies.networks import PairNetwork, imitation_loss
from lewm.policy_config import GcbcConfig, GciqlConfig
from lewm.schema import ActionSpec, ObservationSpec

CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, 0.0), high=(1.0, 4.0))
DISCRETE = ActionSpec(kind="discrete", num_choices=3)


def test_the_expectile_loss_is_its_formula():
    differences = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    expected = [(0.9 if u >= 0 else 0.1) * u**2 for u in differences.tolist()]
    torch.testing.assert_close(expectile_loss(differences, 0.9), torch.tensor(expected))


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_expectile_of_nothing_and_one_is_the_expectile(expectile):
    value = torch.tensor(0.0, requires_grad=True)  # of 0 and 1 alike: expectile (1 - v) = (1 - expectile) v
    for _ in range(400):
        (gradient,) = torch.autograd.grad(expectile_loss(torch.tensor([0.0, 1.0]) - value, expectile).sum(), value)
        value = (value - 0.2 * gradient).detach().requires_grad_(True)
    torch.testing.assert_close(value.detach(), torch.tensor(expectile))


def test_a_decision_costs_one_until_the_goal_is_reached():
    targets = temporal_targets(torch.tensor([-3.0, -3.0, 0.0]), torch.tensor([False, True, False]), 0.9)
    torch.testing.assert_close(targets, torch.tensor([-3.7, 0.0, -1.0]))


def test_targets_applied_along_a_chain_count_its_discounted_decisions():
    values, is_goal, discount = torch.zeros(6), torch.tensor([True, *[False] * 5]), 0.9
    for _ in range(10):  # place d leads to place d - 1
        values = temporal_targets(torch.cat([values[:1], values[:-1]]), is_goal, discount)
    torch.testing.assert_close(values, torch.tensor([-(1 - discount**d) / (1 - discount) for d in range(6)]))


def test_continuous_imitation_is_the_likelihood_of_a_unit_gaussian():
    generator = torch.Generator().manual_seed(0)
    output, blocks = (torch.randn(5, 4, generator=generator) for _ in range(2))
    normal = torch.distributions.Normal(output, 1.0)
    expected = normal.log_prob(output).sum(-1) - normal.log_prob(blocks).sum(-1)
    torch.testing.assert_close(imitation_loss(output, blocks, CONTINUOUS), expected)


def test_discrete_imitation_is_the_likelihood_of_each_env_steps_choice():
    generator = torch.Generator().manual_seed(0)
    logits, choices = torch.randn(5, 6, generator=generator), torch.randint(3, (5, 2), generator=generator)
    blocks = nn.functional.one_hot(choices, 3).float().flatten(1)
    expected = -torch.distributions.Categorical(logits=logits.view(5, 2, 3)).log_prob(choices).sum(-1)
    torch.testing.assert_close(imitation_loss(logits, blocks, DISCRETE), expected)


def test_climbing_knows_no_scale_of_the_critics_and_goes_up():
    judged = torch.tensor([-4.0, -2.0, 1.0], requires_grad=True)
    torch.testing.assert_close(climbing_loss(judged), climbing_loss(100 * judged))
    climbing_loss(judged).backward()
    torch.testing.assert_close(judged.grad, torch.full((3,), -1 / 7))


def test_advantages_weigh_exponentially_and_at_most_a_hundredfold():
    weights = advantage_weights(torch.tensor([-1.0, 0.0, 0.5, 10.0]), 3.0)
    np.testing.assert_allclose(weights, [np.exp(-3), 1.0, np.exp(1.5), 100.0], rtol=1e-6)


def test_targets_follow_by_their_rate_at_each_step():
    torch.manual_seed(0)
    source, begun = nn.Linear(3, 2), nn.Linear(3, 2)
    target = copy.deepcopy(begun)
    for _ in range(10):
        follow(target, source, 0.1)
    expected = source.weight + 0.9**10 * (begun.weight - source.weight)
    torch.testing.assert_close(target.weight, expected)


def critics() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(PairNetwork(3 + 3 + 2, 8, 2, 1) for _ in range(2))


def test_judging_is_evaluating_for_the_blocks_alone():
    networks = critics()
    latents, goals, blocks = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 2, requires_grad=True)
    torch.testing.assert_close(judge(networks, latents, goals, blocks), evaluate(networks, latents, goals, blocks))
    (expected,) = torch.autograd.grad(evaluate(networks, latents, goals, blocks).sum(), blocks)
    judge(networks, latents, goals, blocks).sum().backward()
    torch.testing.assert_close(blocks.grad, expected)
    assert all(parameter.grad is None for parameter in networks.parameters())


def test_the_policy_is_judged_by_what_the_world_would_execute(small):
    policy = GCIQL(small, GciqlConfig(), ObservationSpec(height_px=8, width_px=8), CONTINUOUS)
    policy.set_action_statistics((0.5, 1.0), (0.5, 2.0))
    bounded = policy._within_bounds(torch.tensor([[-10.0, -10.0], [10.0, 10.0], [0.1, 0.2]]))
    torch.testing.assert_close(bounded, torch.tensor([[-3.0, -0.5], [1.0, 1.5], [0.1, 0.2]]))


def test_decisions_are_in_the_worlds_units_and_bounds(small):
    policy = GCIQL(small, GciqlConfig(), ObservationSpec(height_px=8, width_px=8), CONTINUOUS)
    policy.set_action_statistics((0.5, 1.0), (0.5, 2.0))
    nn.init.zeros_(policy.policy.output.weight)
    for bias, expected in (((0.0, 0.0), (0.5, 1.0)), ((100.0, -100.0), (1.0, 0.0))):
        policy.policy.output.bias.data = torch.tensor(bias)
        torch.testing.assert_close(policy.decide(torch.zeros(1, 8), torch.zeros(1, 8)), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"current_goals": 0.5, "random_goals": 0.5}, "must leave a share for goals ahead, got 1 together"),
        ({"expectile": 0.3}, r"expectile must be in \[0.5, 1\), got 0.3"),
        ({"target_rate": 0.0}, r"target_rate must be in \(0, 1\], got 0"),
        ({"discount": 1.0}, r"discount must be in \[0, 1\), got 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GciqlConfig(**settings)


def test_a_horizon_of_less_than_one_env_step_is_refused():
    with pytest.raises(ConfigError, match="max_goal_env_steps must be at least 1, got 0"):
        GcbcConfig(max_goal_env_steps=0)
