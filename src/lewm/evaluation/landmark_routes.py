"""One route over a run's map, in words and numbers: what ``lewm plan`` says of it.

Axes: D latent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lewm.data.formats.store import Store
from lewm.evaluation.landmark_maps import row_places
from lewm.planning.landmarks import LandmarkPolicy, aim_on


def route_between(policy: LandmarkPolicy, store: Store, latent: Float[Tensor, "1 D"], goal: Float[Tensor, "1 D"]) -> dict[str, Any]:
    """The route from a latent to a goal's, JSON-ready; ``landmarks`` is empty where no way is known.

    ``rows`` says which frames of the dataset the landmarks are (``EPISODE:STEP``), ``env_steps_left`` how far each is from the goal's, ``aim`` which
    one is planned for first (None: the goal itself).
    """
    found = policy.route(latent, goal)
    ends = [int(number) for number in (policy.landmarks.nearest(latent)[0], policy.landmarks.nearest_to_goals(goal)[0])]
    about = {"num_landmarks": len(policy.landmarks.rows), "map_sha256": policy.landmarks.sha256, "end_rows": row_names(policy, store, ends)}
    if found is None:
        return about | {"landmarks": [], "rows": [], "env_steps_left": [], "aim": None}
    landmarks, ways = found
    return about | {
        "landmarks": landmarks,
        "rows": row_names(policy, store, landmarks),
        "env_steps_left": ways.env_steps[landmarks].tolist(),
        "aim": aim_on(landmarks, ways, policy.reach_env_steps),
    }


def row_names(policy: LandmarkPolicy, store: Store, landmarks: Sequence[int]) -> list[str]:
    """Landmarks as ``EPISODE:STEP`` of the dataset."""
    return [f"{episode}:{step}" for episode, step in row_places(store, policy.landmarks.rows[np.asarray(landmarks)])]


def route_words(route: dict[str, Any]) -> str:
    """One line for people."""
    start, goal = route["end_rows"]
    if not route["landmarks"]:
        return (
            f"no route: no way over the {route['num_landmarks']} landmarks of the training data leads from frame {start}, which the start "
            f"belongs to, to frame {goal}, which the goal belongs to; the plan is for the goal itself"
        )
    left = route["env_steps_left"]
    words = f"route: {len(left)} landmarks from frame {start} to frame {goal}, {left[0]:.0f} env steps; "
    if route["aim"] is None:
        return words + "the plan is for the goal itself"
    place = route["landmarks"].index(route["aim"])
    return words + f"the plan is for landmark {place + 1}, frame {route['rows'][place]}, {left[0] - left[place]:.0f} env steps from here"
