"""Measures of latents, on clouds whose answer is known."""

import math

import pytest
import torch
from torch import Tensor

from lewm.evaluation.latent_metrics import (
    effective_rank,
    episode_share,
    explained_share,
    neighbour_overlap,
    participation_ratio,
    straightness,
    time_share,
    worst_directions,
)

D = 16
EPISODES = torch.arange(20).repeat_interleave(30)
ENV_STEPS = torch.arange(30).repeat(20)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal_columns(num_rows: int, scales: list[float]) -> Tensor:
    """Centred latents with exactly these singular values."""
    columns = gaussian(num_rows, len(scales)).double()
    basis, _ = torch.linalg.qr(columns - columns.mean(0))
    return basis * torch.tensor(scales, dtype=torch.float64)


def test_the_effective_rank_of_k_equal_directions_is_k() -> None:
    assert effective_rank(orthogonal_columns(50, [3.0] * 5 + [0.0] * 4)) == pytest.approx(5)
    assert participation_ratio(orthogonal_columns(50, [3.0] * 5 + [0.0] * 4)) == pytest.approx(5)


def test_ranks_of_two_unequal_directions_follow_their_formulas() -> None:
    latents = orthogonal_columns(50, [3.0, 1.0])
    assert effective_rank(latents) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert participation_ratio(latents) == pytest.approx((9 + 1) ** 2 / (81 + 1))


def test_ranks_do_not_see_scale_nor_where_the_cloud_is() -> None:
    latents = gaussian(200, D)
    assert effective_rank(1e-3 * latents + 5) == pytest.approx(effective_rank(latents), rel=1e-3)
    assert participation_ratio(1e-3 * latents + 5) == pytest.approx(participation_ratio(latents), rel=1e-3)


def test_a_single_point_has_rank_zero() -> None:
    assert effective_rank(torch.ones(8, D)) == 0.0
    assert participation_ratio(torch.ones(8, D)) == 0.0


def test_the_least_gaussian_direction_is_found_and_described() -> None:
    latents = gaussian(4000, D)
    latents[:, 5] = 3 * latents[:, 5].sign() + 0.5 * latents[:, 5]
    worst = worst_directions(latents)[0]
    assert worst.kind in ("axis 5", "principal 0")  # the same line
    assert worst.excess_kurtosis == pytest.approx(-1.9, abs=0.1)
    assert worst.std == pytest.approx(float(latents[:, 5].std()), rel=1e-2)
    assert worst_directions(gaussian(4000, D))[0].distance < 0.005 < 0.05 < worst.distance


def test_the_distance_of_a_direction_is_that_of_its_formula() -> None:
    latents = torch.stack([gaussian(300)[:].exp(), torch.zeros(300)], dim=1)
    values = (latents[:, 0].double() - latents[:, 0].double().mean()) / latents[:, 0].double().std(correction=0)
    total = 0.0
    for k in range(17):
        t = 3 * k / 16
        phi = math.exp(-t * t / 2)
        total += phi * ((sum(math.cos(t * x) for x in values.tolist()) / 300 - phi) ** 2 + (sum(math.sin(t * x) for x in values.tolist()) / 300) ** 2)
    found = worst_directions(latents)
    assert found[0].distance == pytest.approx(total * 2 * 3 / 16, rel=1e-6)


def test_straightness_is_one_on_a_line_minus_one_on_the_way_back_and_none_without_motion() -> None:
    line = torch.arange(4.0)[None, :, None] * gaussian(5, 1, D)
    assert straightness(line) == pytest.approx(1)
    back_and_forth = torch.tensor([0.0, 1.0, 0.0, 1.0])[None, :, None] * gaussian(5, 1, D)
    assert straightness(back_and_forth) == pytest.approx(-1)
    assert straightness(torch.ones(5, 4, D)) is None
    assert straightness(line[:, :2]) is None
    assert straightness(gaussian(500, 3, D)) == pytest.approx(-0.5, abs=0.03)  # independent points: steps share one of their two ends


def test_what_features_explain_is_counted_on_episodes_that_the_fit_did_not_see() -> None:
    features = gaussian(600, 3)
    latents = features @ gaussian(3, D, seed=1)
    noise = gaussian(600, D, seed=2) * latents.std()
    assert explained_share(latents, features, EPISODES) == pytest.approx(1, abs=1e-3)
    assert explained_share(latents + noise, features, EPISODES) == pytest.approx(0.5, abs=0.06)
    assert explained_share(noise, features, EPISODES) < 0.02
    assert explained_share(latents, features, torch.zeros(600, dtype=torch.int64)) == 0.0, "one episode: nothing to score on"


def test_latents_that_count_frames_are_found_out_and_others_are_not() -> None:
    clock = (ENV_STEPS / 29.0)[:, None] * gaussian(1, D) + 0.1 * gaussian(600, D, seed=3)
    assert time_share(clock, ENV_STEPS, EPISODES) > 0.8
    assert time_share(gaussian(600, D), ENV_STEPS, EPISODES) < 0.02


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_between_episodes_is_that_of_the_variances_they_were_made_with(share: float) -> None:
    episodes, steps = torch.arange(400).repeat_interleave(6), gaussian(2400, D, seed=1)
    own = gaussian(400, D)[episodes]
    latents = math.sqrt(share) * own + math.sqrt(1 - share) * steps
    assert episode_share(latents, episodes) == pytest.approx(share, abs=0.03)


def test_neighbours_agree_where_latents_are_the_state_and_by_chance_where_they_are_noise() -> None:
    states = gaussian(500, 2)
    assert neighbour_overlap(torch.cat([states, states], dim=1) / states.std(0).repeat(2), states) == pytest.approx(1, abs=0.02)
    assert neighbour_overlap(gaussian(500, D, seed=4), states) == pytest.approx(10 / 499, abs=0.02)
    constant = torch.cat([states, torch.ones(500, 1)], dim=1)
    assert neighbour_overlap(states / states.std(0), constant) == pytest.approx(1, abs=0.02), "a label that never varies counts for nothing"
