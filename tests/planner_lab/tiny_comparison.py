"""A comparison of planners that is small enough for tests."""

from pathlib import Path

from lewm.planner_lab.plan import ComparisonPlan

OPTIONS = {"size_px": 32}
TINY = {
    "encoder": {"name": "conv", "channels": [4, 8], "kernel_sizes": [8, 4], "strides": [4, 2]},
    "model": {"latent_dimension": 8, "projector_width": 16, "action_embedding_width": 8},
    "predictor": {"width": 16, "num_layers": 1, "num_heads": 2, "head_width": 8, "mlp_width": 16},
    "objective": {"num_directions": 16},
    "train": {"num_steps": 2, "batch_size": 4, "num_threads": 1},
    "planner": {"num_candidates": 4, "num_elites": 2, "num_iterations": 1, "horizon_model_steps": 2, "replan_every_model_steps": 2},
}


def plan_of(runs: tuple[Path, ...], data: Path, **more: object) -> ComparisonPlan:
    settings = {"methods": ("cem", "direct-intent"), "distances": (8,), "num_pairs": 4, "strata": ("same-room",), "num_latency_episodes": 1}
    return ComparisonPlan(**{"runs": runs, "data": data} | settings | more)  # type: ignore[arg-type]
