"""What crosses the bridge must be the same before and after, however good it is: the model is untrained."""

import pytest
import torch
from small_model import PLANNER, make_model
from theirs import SIZE_PX

from lewm.models.world_model import WorldModel
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ObservationSpec


@pytest.fixture(scope="session")
def model() -> WorldModel:
    return make_model(ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX))


@pytest.fixture
def agent(model: WorldModel) -> MPCPolicy:
    return MPCPolicy(model, PLANNER)


@pytest.fixture
def frames() -> torch.Tensor:
    """uint8 [E, 4, Y, X, 3]: three context frames and a goal for each of two episodes."""
    return torch.randint(0, 256, (2, 4, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
