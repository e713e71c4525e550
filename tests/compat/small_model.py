"""A small world model of two-room, untrained, and how its agent plans."""

import torch

from lewm.config import PlannerConfig
from lewm.config_files import from_dict
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, ObservationSpec

ACTIONS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
PLANNER = PlannerConfig(num_candidates=16, num_elites=4, num_iterations=2, horizon_model_steps=3, replan_every_model_steps=2)


def make_model(spec: ObservationSpec, actions: ActionSpec = ACTIONS) -> WorldModel:
    settings = {
        "data": {"action_block": 2},
        "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
        "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 32},
        "predictor": {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "mlp_width": 32, "dropout": 0.0},
    }
    torch.manual_seed(0)
    model = WorldModel(from_dict(settings), spec, actions)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:  # they start at zero, and every action would cost the same
                parameter.normal_(std=0.3)
    model.set_action_statistics((0.1, -0.2), (0.5, 0.7))
    return model.eval()
