"""The paper's navigation task: a dot in two rooms that are joined by a door.

Lengths in px of the 224 x 224 arena whatever the size of the frames. Geometry: LeWorldModel, arXiv 2603.19312, and its public code; unlike there,
no wall can be crossed between two env steps unless ``collision="official"`` asks for it.
"""

from typing import Any, ClassVar

from lewm.envs.base import Perturbation, ScriptedPolicy, UnseenLayouts
from lewm.envs.option_checks import parse_options
from lewm.envs.single import BatchOfOne
from lewm.envs.two_room.batch import STRATA, VERSION, TwoRoomBatch
from lewm.envs.two_room.layout import DOOR_MARGIN_PX, PERTURBATIONS, TwoRoomOptions, seen_doors, unseen_doors
from lewm.envs.two_room.policies import ExpertPolicy, NoiselessExpertPolicy

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

    @classmethod
    def unseen_layouts(cls, options: dict[str, Any]) -> UnseenLayouts | None:
        """The same world with doors that a world with these options never has; None if it has them all."""
        parsed = parse_options(TwoRoomOptions, cls.NAME, options)
        seen = seen_doors(parsed)
        unseen = unseen_doors(seen)
        if not unseen:
            return None
        vary = tuple(dict.fromkeys((*parsed.vary, "door_y_px")))
        return UnseenLayouts(
            name="door_y_px",
            unit=PERTURBATIONS["door_y_px"].unit,
            seen=seen,
            unseen=unseen,
            margin=DOOR_MARGIN_PX,
            options=options | {"vary": vary, "door_bands_px": unseen},
        )
