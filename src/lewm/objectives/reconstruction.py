"""The generative way: latents must hold what the frames show.

Axes: B batch, T model step, D latent, V view, Y X image.
"""

from typing import ClassVar

from torch import Tensor

from lewm.config import Config
from lewm.models.decoder import LatentDecoder
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective
from lewm.objectives.baselines import Terms, prediction_error
from lewm.objectives.sigreg import Reduce
from lewm.schema import Clip, ObservationSpec

PATCHES_PX = (8, 7, 6, 5, 4, 3, 2, 1)


class ReconstructionObjective(Objective):
    """Prediction + the squared error of frames decoded from the latents (as in world models since Ha and Schmidhuber 2018, arXiv 1803.10122).

    Every pixel counts alike, so what is small in the frame is learnt last. A decoder in training: one pass over all frames of a batch.
    """

    tunable_weights: ClassVar[tuple[str, ...]] = ("reconstruction_weight",)
    settings: ClassVar[dict[str, float]] = {"reconstruction_weight": 10.0}
    trainer_networks = ("decoder",)

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        spec = world_model.observation_spec
        self.decoder = LatentDecoder(world_model.latent_dimension, spec, patch_px=_patch_px(spec))

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``prediction_loss`` and ``reconstruction_loss`` (frames 0 to 1)."""
        latents = self.world_model.encode(clip.observations)
        prediction_loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:])
        reconstruction_loss = prediction_error(self.decoder(latents), clip.observations.frames / 255)
        loss = prediction_loss + self.setting("reconstruction_weight") * reconstruction_loss
        return loss, {"prediction_loss": prediction_loss.detach(), "reconstruction_loss": reconstruction_loss.detach()}


def _patch_px(spec: ObservationSpec) -> int:
    """The largest patch of at most 8 px that divides the frame."""
    return next(size for size in PATCHES_PX if spec.height_px % size == spec.width_px % size == 0)
