"""What a Control Suite environment can be told."""

from dataclasses import dataclass

from lewm.envs.mujoco.options import MujocoOptions, check_names
from lewm.envs.option_checks import check_truth


@dataclass(frozen=True, kw_only=True)
class DmcOptions(MujocoOptions):
    """Success predicates are those of ``lewm.envs.dmc.goals.GOALS``."""

    action_repeat: int = 2
    """Control steps per env step: the env step's action is applied in each, and their rewards are added."""
    hide_geoms: tuple[str, ...] = ()
    """Geoms of the model that are not drawn: ("target",) where goals are poses and reacher's own target would only distract."""
    is_wrapped: bool = True
    """Whether angles that differ by full turns are equal; LeWorldModel's own predicate for reacher says no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("hide_geoms", self.hide_geoms, "('target',)")
        check_truth("is_wrapped", self.is_wrapped)
