"""Push-T: a round pusher brings a T-shaped block to where the goal has it, LeWorldModel's manipulation task.

``push-t`` takes actions relative to the pusher, as LeWorldModel (arXiv 2603.19312) and DINO-WM do; ``push-t-absolute`` takes places on the table and
is the ``gym-pusht`` package, state for state. Needs the extra ``push-t`` (pymunk).
"""

from typing import Any, ClassVar

from lewm.envs.base import Perturbation, ScriptedPolicy
from lewm.envs.push_t.batch import ABSOLUTE_NAME, NAME, PushTBatch
from lewm.envs.push_t.expert import ExpertPolicy, NoiselessExpertPolicy
from lewm.envs.push_t.goals import STRATA
from lewm.envs.push_t.layout import PERTURBATIONS, PushTOptions
from lewm.envs.push_t.mixture import MixedPolicy
from lewm.envs.push_t.policies import ContactPolicy
from lewm.envs.push_t.states import VERSION
from lewm.envs.single import BatchOfOne

__all__ = ["PushT", "PushTAbsolute", "PushTBatch", "PushTOptions"]


class PushT(BatchOfOne):
    """Bring block and pusher where a goal has them. Observations: ``{"frames": uint8 [1, Y, X, 3]}``; actions: [-1, 1]^2, 100 px around the pusher.

    The options are the fields of ``PushTOptions``. One env step is 0.1 s. The reward is 1 at every env step at which the goal is reached.
    """

    NAME: ClassVar[str] = NAME
    VERSION: ClassVar[int] = VERSION
    STRATA: ClassVar[tuple[str, ...]] = STRATA
    PERTURBATIONS: ClassVar[dict[str, Perturbation]] = PERTURBATIONS
    DATA_POLICY: ClassVar[str] = "contact"
    POLICIES: ClassVar[dict[str, type[ScriptedPolicy]]] = {
        "contact": ContactPolicy,
        "expert": ExpertPolicy,
        "expert-noiseless": NoiselessExpertPolicy,
        "mixed": MixedPolicy,
    }
    IS_ABSOLUTE: ClassVar[bool] = False

    @classmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> PushTBatch:
        """The same world for ``num_envs`` episodes at once, with the fields of ``PushTOptions``."""
        return PushTBatch(num_envs, is_absolute=cls.IS_ABSOLUTE, **options)


class PushTAbsolute(PushT):
    """Push-T with actions that are targets, [0, 512]^2: the same starts and actions give the same states as in ``gym-pusht``.

    The options are those of ``push-t``; contacts are remembered unless told otherwise.
    """

    NAME: ClassVar[str] = ABSOLUTE_NAME
    IS_ABSOLUTE: ClassVar[bool] = True
