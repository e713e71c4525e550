"""Side by side with stable-worldmodel: models, solvers and policies cross in both directions.

``...ForSwm`` is ours for their code, ``...FromSwm`` theirs for ours. The package itself is never imported: its interfaces are duck-typed (a cost
model has ``get_cost``, a policy ``set_env`` and ``get_action``), so this works with every version that keeps them.
"""

from lewm.compat.swm.costs import ActionScaler, CostForSwm, CostFromSwm, imagenet_pixels
from lewm.compat.swm.evaluated import PolicyFromSwm
from lewm.compat.swm.planned import AgentWithSwmCost
from lewm.compat.swm.policies import PolicyForSwm

__all__ = ["ActionScaler", "AgentWithSwmCost", "CostForSwm", "CostFromSwm", "PolicyForSwm", "PolicyFromSwm", "imagenet_pixels"]
