"""Numbers that must not depend on the device: what a GPU computes is what the CPU does, but for rounding."""

import dataclasses

import numpy as np
import pytest
import torch

from golden_recipe import GOLDEN, fill
from lewm.config import Config, PlannerConfig
from lewm.config_files import from_dict, load_preset
from lewm.models.world_model import WorldModel
from lewm.objectives.sigreg import random_directions, sigreg
from lewm.planner_config import SEARCHES
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, Observation, ObservationSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cuda"
SPEC = ObservationSpec(height_px=32, width_px=32)
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
DISCRETE = ActionSpec(kind="discrete", num_choices=4)


@pytest.fixture(scope="module")
def config() -> Config:
    return from_dict(
        {
            "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
            "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
            "predictor": {"width": 32, "num_layers": 2, "num_heads": 2, "head_width": 16, "mlp_width": 32},
        }
    )


def acting(config: Config, action_spec: ActionSpec) -> WorldModel:
    """A model whose predictions depend on the actions."""
    torch.manual_seed(0)
    model = WorldModel(config, SPEC, action_spec).eval()
    for parameter in model.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.cpu().double() - wanted.cpu().double()).abs().max() / wanted.abs().max())


def test_the_official_latents_predictions_and_rollouts_come_out_on_a_gpu() -> None:
    config = load_preset("paper")
    model = WorldModel(config, ObservationSpec(height_px=224, width_px=224), CONTINUOUS)
    fill(model)
    model = model.double().eval().to(DEVICE)
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "lewm_golden.npz").items()}
    frames = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (2, 4, 224, 224, 3), np.uint8)).to(DEVICE)
    blocks = torch.from_numpy(np.random.default_rng(8).standard_normal((2, 4, 10)).astype(np.float32)).to(DEVICE)
    candidates = torch.from_numpy(np.random.default_rng(9).standard_normal((2, 8, 5, 10)).astype(np.float32)).to(DEVICE)
    with torch.no_grad():
        latents = model.encode(Observation(frames[:, :, None]))
        assert relative(latents, golden["emb"]) < 1e-5
        assert relative(model.predict(latents[:, :3], blocks[:, :3]), golden["pred"]) < 1e-5
        assert relative(model.rollout(latents[:, :1], blocks[:, :0], candidates), golden["rollout"][:, :, 1:]) < 1e-5


@pytest.mark.parametrize("batch", [32, 4096])
def test_sigreg_and_its_gradient_are_those_of_the_cpu(batch: int) -> None:
    latents = torch.randn(4, batch, 48, generator=torch.Generator().manual_seed(0))
    directions = random_directions(48, 256, seed=0)
    found = []
    for device in ("cpu", DEVICE):
        here = latents.to(device).requires_grad_()
        value = sigreg(here, directions.to(device))
        found.append((value.detach(), torch.autograd.grad(value, here)[0]))
    assert relative(found[1][0], found[0][0]) < 1e-5
    assert relative(found[1][1], found[0][1]) < 1e-4


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_the_plan_of_the_cpu(name: str, config: Config) -> None:
    """In float64, where no rounding swaps two elites; over two decisions, so that warm starts and kept elites are on the device as well."""
    settings = {"num_candidates": 16, "num_elites": 4, "num_iterations": 3, "horizon_model_steps": 3, "replan_every_model_steps": 1}
    planner = dataclasses.replace(PlannerConfig(**settings), noise_smoothing=0.5, use_warm_start=True, precision="64-true").switched(name)
    actions = [acted(MPCPolicy(acting(config, CONTINUOUS).to(device), planner)) for device in ("cpu", DEVICE)]
    np.testing.assert_allclose(actions[1], actions[0], atol=1e-6)


def test_a_search_among_choices_finds_the_plan_of_the_cpu(config: Config) -> None:
    planner = PlannerConfig(num_candidates=16, num_elites=4, num_iterations=3, horizon_model_steps=3, replan_every_model_steps=1, precision="64-true")
    actions = [acted(MPCPolicy(acting(config, DISCRETE).to(device), planner)) for device in ("cpu", DEVICE)]
    np.testing.assert_array_equal(actions[1], actions[0])


def test_a_bfloat16_search_runs_and_stays_within_bounds(config: Config) -> None:
    planner = PlannerConfig(num_candidates=16, num_elites=4, num_iterations=2, horizon_model_steps=3, replan_every_model_steps=1)
    actions = acted(MPCPolicy(acting(config, CONTINUOUS).to(DEVICE), dataclasses.replace(planner, precision="bf16-mixed")))
    assert np.abs(actions).max() <= 1


def acted(policy: MPCPolicy, num_env_steps: int = 7) -> np.ndarray:
    """Actions of three episodes whose frames do not depend on them; blocks have five env steps."""
    frames = np.random.default_rng(0).integers(0, 256, (num_env_steps + 1, 3, 1, 32, 32, 3), np.uint8)
    state = policy.reset(Observation(frames[-1]), seeds=[0, 1, 2])
    actions = []
    for frame in frames[:-1]:
        action, state = policy.act(Observation(frame), state)
        actions.append(action)
    return np.stack(actions)
