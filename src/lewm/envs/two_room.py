"""The paper's navigation task: a dot in two rooms that are joined by a door.

Lengths in px of the 224 x 224 arena whatever the size of the frames. Geometry: LeWorldModel, arXiv 2603.19312, and its public code; unlike there,
no wall can be crossed between two env steps unless ``collision="official"`` asks for it.
"""

from typing import Any, ClassVar

from lewm.envs.base import Perturbation, ScriptedPolicy
from lewm.envs.single import BatchOfOne
from lewm.envs.two_room_batch import STRATA, VERSION, TwoRoomBatch
from lewm.envs.two_room_layout import PERTURBATIONS, TwoRoomOptions
from lewm.envs.two_room_policies import ExpertPolicy, NoiselessExpertPolicy

__all__ = ["TwoRoom", "TwoRoomBatch", "TwoRoomOptions"]


class TwoRoom(BatchOfOne):
    """Reach a place in either room. Observations: ``{"frames": uint8 [1, Y, X, 3]}``; actions: [-1, 1]^2, 5 px per env step and axis.

    The options are the fields of ``TwoRoomOptions``. The reward is 1 at every env step that ends within ``success_radius_px`` of the goal.
    """

    NAME: ClassVar[str] = "two-room"
    VERSION: ClassVar[int] = VERSION
    STRATA: ClassVar[tuple[str, ...]] = STRATA
    PERTURBATIONS: ClassVar[dict[str, Perturbation]] = PERTURBATIONS
    DATA_POLICY: ClassVar[str] = "expert"
    POLICIES: ClassVar[dict[str, type[ScriptedPolicy]]] = {"expert": ExpertPolicy, "expert-noiseless": NoiselessExpertPolicy}

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> TwoRoomBatch:
        """The same world for ``num_envs`` episodes at once, with the fields of ``TwoRoomOptions``."""
        return TwoRoomBatch(num_envs, **options)
