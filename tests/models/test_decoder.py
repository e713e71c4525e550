"""The decoder of latents: shapes, and that it can draw what a latent stands for."""

import pytest
import torch

from lewm.errors import ConfigError
from lewm.models.decoder import LatentDecoder
from lewm.schema import ObservationSpec


@pytest.mark.parametrize(("height", "width", "patch", "offsets"), [(16, 24, 8, (0,)), (12, 12, 4, (-1, 0)), (224, 224, 16, (0,))])
def test_frames_have_the_shape_of_the_observation(height, width, patch, offsets):
    spec = ObservationSpec(height_px=height, width_px=width, stack_offsets_env_steps=offsets)
    decoder = LatentDecoder(6, spec, patch_px=patch)
    with torch.no_grad():
        assert decoder(torch.zeros(2, 3, 6)).shape == (2, 3, *spec.frame_shape)
    assert decoder.queries.shape[1] == spec.num_views * (height // patch) * (width // patch)


def test_a_patch_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ConfigError, match=r"patch_px \(7\) must divide the frame size, got 16 x 24 px"):
        LatentDecoder(6, ObservationSpec(height_px=16, width_px=24), patch_px=7)


def test_each_latent_is_drawn_as_its_own_frame_with_every_pixel_in_its_place():
    torch.manual_seed(0)
    frames, latents = torch.rand(4, 1, 8, 12, 3), torch.eye(4)
    decoder = LatentDecoder(4, ObservationSpec(height_px=8, width_px=12), patch_px=4)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(300):
        loss = (decoder(latents) - frames).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.002  # of a variance of 0.083
