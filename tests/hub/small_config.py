"""A configuration that trains in a second."""

from lewm.config import Config
from lewm.config_files import from_dict

TINY: Config = from_dict(
    {
        "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
        "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
        "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32},
        "objective": {"num_directions": 32},
        "train": {"num_steps": 4, "batch_size": 4, "checkpoint_every_steps": 2},
        "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1},
    }
)
