"""The world model's contract: pure in eval mode, causal, and a rollout that is repeated prediction."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lewm.config import Config, ConvEncoderConfig, DataConfig, EncoderConfig, ModelConfig, PredictorConfig, ViTEncoderConfig
from lewm.errors import ConfigError, DataError
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD, WorldModel
from lewm.schema import ActionSpec, Observation, ObservationSpec

CONV = ConvEncoderConfig(channels=(8, 16), kernel_sizes=(4, 4), strides=(2, 2))
VIT = ViTEncoderConfig(patch_px=8, width=16, num_layers=2, num_heads=2, mlp_width=32)
ENCODERS = [pytest.param(CONV, id="conv"), pytest.param(VIT, id="vit")]
ACTIONS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
SPEC = ObservationSpec(height_px=16, width_px=24)


def build(
    encoder: EncoderConfig = CONV, spec: ObservationSpec = SPEC, actions: ActionSpec = ACTIONS, *, latent: int = 12, history: int = 3
) -> WorldModel:
    """A small model in float64 whose AdaLN gates and running statistics are as after some training."""
    torch.manual_seed(0)
    config = Config(
        data=DataConfig(num_transitions=min(3, history), action_block=5),
        encoder=encoder,
        model=ModelConfig(latent_dimension=latent, projector_width=24, action_embedding_width=16, history_model_steps=history),
        predictor=PredictorConfig(width=16, num_layers=2, num_heads=2, head_width=8, mlp_width=32, dropout=0.1),
    )
    model = WorldModel(config, spec, actions)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "modulation" in name or "running_mean" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    return model.double().eval()


def frames(*leading: int, spec: ObservationSpec = SPEC, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (*leading, *spec.frame_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_latent_depends_on_its_own_frame_only_and_on_no_leading_axes(encoder: EncoderConfig):
    model = build(encoder)
    batch = model.encode(Observation(frames(3, 4)))
    assert batch.shape == (3, 4, 12)
    torch.testing.assert_close(model.encode(Observation(frames(3, 4)[1, 2])), batch[1, 2])
    torch.testing.assert_close(model.encode(Observation(frames(3, 4)[:, 2])), batch[:, 2])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoding_in_eval_mode_changes_nothing_in_the_model(encoder: EncoderConfig):
    model = build(encoder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.encode(Observation(frames(4)))
    assert torch.equal(model.encode(Observation(frames(4))), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_pixels_are_scaled_to_one_and_normalised_as_imagenet():
    seen: list[Tensor] = []
    model = build()
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.encode(Observation(frames(2)))
    mean, std = torch.tensor(IMAGENET_MEAN, dtype=torch.float64), torch.tensor(IMAGENET_STD, dtype=torch.float64)
    expected = ((frames(2)[:, 0].double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_view_matters(encoder: EncoderConfig):
    spec = replace(SPEC, cameras=("top", "side"), stack_offsets_env_steps=(-1, 0))
    model, views = build(encoder, spec), frames(2, spec=spec)
    latents = model.encode(Observation(views))
    for view in range(4):
        changed = views.clone()
        changed[:, view] = 255 - changed[:, view]
        assert not torch.allclose(model.encode(Observation(changed)), latents, atol=1e-6)


def test_proprioception_joins_the_latent_and_is_required_where_the_spec_has_it():
    spec = replace(SPEC, proprioception=("x", "y", "z"))
    model = build(spec=spec)
    first = model.encode(Observation(frames(2, 4), normal(2, 4, 3).float()))
    second = model.encode(Observation(frames(2, 4), normal(2, 4, 3, seed=1).float()))
    assert not torch.allclose(first, second)
    with pytest.raises(DataError, match=r"proprioception must be \[\.\.\., 3\] \(x, y, z\) beside the frames, got none"):
        model.encode(Observation(frames(2, 4)))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(torch.zeros(2, 1, 16, 16, 3, dtype=torch.uint8), id="width"),
        pytest.param(torch.zeros(2, 2, 16, 24, 3, dtype=torch.uint8), id="views"),
        pytest.param(torch.zeros(2, 1, 16, 24, 3), id="floats"),
    ],
)
def test_frames_of_another_size_or_type_are_refused(wrong: Tensor):
    with pytest.raises(DataError, match=r"frames must be uint8 \[\.\.\., 1, 16, 24, 3\]"):
        build().encode(Observation(wrong))


def test_a_prediction_sees_no_future_latent_or_block():
    model = build()
    latents, blocks = normal(2, 3, 12), normal(2, 3, 10, seed=1)
    predicted = model.predict(latents, blocks)
    for step in range(3):
        torch.testing.assert_close(model.predict(latents[:, : step + 1], blocks[:, : step + 1]), predicted[:, : step + 1])


def test_a_prediction_uses_every_past_latent_and_block():
    model = build()
    latents, blocks = normal(1, 3, 12).requires_grad_(), normal(1, 3, 10, seed=1).requires_grad_()
    gradients = torch.autograd.grad(model.predict(latents, blocks)[:, -1].sum(), (latents, blocks))
    assert all(float(gradient[0, step].abs().max()) > 1e-6 for gradient in gradients for step in range(3))


def test_a_new_predictor_ignores_actions_until_training_opens_its_gates():
    torch.manual_seed(0)
    model = WorldModel(Config(encoder=CONV), SPEC, ACTIONS).eval()
    latents = normal(2, 3, 192).float()
    assert torch.equal(model.predict(latents, torch.zeros(2, 3, 10)), model.predict(latents, torch.ones(2, 3, 10)))


def test_more_steps_than_the_history_are_refused():
    with pytest.raises(ConfigError, match=r"at most 3 model steps \(model.history_model_steps\), got 4"):
        build().predict(normal(1, 4, 12), normal(1, 4, 10))


def repeated_prediction(model: WorldModel, context: Tensor, past: Tensor, candidate: Tensor) -> Tensor:
    """One candidate of one episode, step by step with whole windows: the definition of a rollout."""
    latents, blocks = list(context), [*past, *candidate]
    for _ in candidate:
        first = max(0, len(latents) - model.history_model_steps)
        window, window_blocks = torch.stack(latents[first:]), torch.stack(blocks[first : len(latents)])
        latents.append(model.predict(window[None], window_blocks[None])[0, -1])
    return torch.stack(latents[len(context) :])


@pytest.mark.parametrize("latent", [12, 16], ids=["projected", "as wide as the tokens"])
@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("num_context", [1, 2, 3, 5])
def test_a_rollout_is_repeated_prediction_with_a_window_that_grows_and_then_slides(num_context: int, history: int, latent: int):
    model = build(latent=latent, history=history)
    context, past, candidates = normal(2, num_context, latent), normal(2, num_context - 1, 10, seed=1), normal(2, 3, 5, 10, seed=2)
    imagined = model.rollout(context, past, candidates)
    assert imagined.shape == (2, 3, 5, latent)
    for episode in range(2):
        for candidate in range(3):
            expected = repeated_prediction(model, context[episode], past[episode], candidates[episode, candidate])
            torch.testing.assert_close(imagined[episode, candidate], expected)


def test_a_rollout_is_differentiable_in_its_candidates():
    model = build()
    context, past = normal(1, 2, 12), normal(1, 1, 10, seed=1)
    candidates = normal(1, 2, 4, 10, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda blocks: model.rollout(context, past, blocks), candidates, fast_mode=True)


def test_context_without_the_blocks_between_is_refused():
    with pytest.raises((DataError, TypeError), match=r"3 context latents have 2 blocks between them|past_blocks"):
        build().rollout(normal(1, 3, 12), normal(1, 1, 10), normal(1, 2, 4, 10))


def test_actions_are_z_scored_per_raw_dimension_and_missing_ones_count_as_the_mean():
    model, plain = build(), build()
    model.set_action_statistics((1.0, -2.0), (0.5, 4.0))
    raw = normal(2, 5, 2)
    blocks = raw.reshape(2, 10)
    normalised = ((raw - torch.tensor([1.0, -2.0])) / torch.tensor([0.5, 4.0])).reshape(2, 10)
    torch.testing.assert_close(model.embed_blocks(blocks), plain.embed_blocks(normalised))
    blocks[:, 3], normalised[:, 3] = torch.nan, 0.0
    torch.testing.assert_close(model.embed_blocks(blocks), plain.embed_blocks(normalised))


def test_an_action_that_never_varied_is_not_divided_by_zero():
    model = build()
    model.set_action_statistics((1.0, 0.0), (0.0, 2.0))
    assert model.action_std.tolist() == [1.0, 2.0]


def test_wrong_numbers_of_action_statistics_or_block_entries_are_refused():
    with pytest.raises(DataError, match="2 means and standard deviations, got 3 and 3"):
        build().set_action_statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"an action block has 10 numbers .* got 2"):
        build().predict(normal(1, 1, 12), normal(1, 1, 2))


def test_one_hot_actions_are_never_z_scored():
    model = build(actions=ActionSpec(kind="discrete", num_choices=4))
    model.set_action_statistics((0.25,) * 4, (0.4,) * 4)
    assert model.action_mean.tolist() == [0.0] * 4
    assert model.action_std.tolist() == [1.0] * 4
    assert model.predict(normal(1, 2, 12), normal(1, 2, 20)).shape == (1, 2, 12)


def test_video_without_actions_can_be_predicted_and_trained():
    model = build(actions=ActionSpec(kind="none"))
    predicted = model.predict(normal(2, 3, 12), torch.zeros(2, 3, 0))
    predicted.square().sum().backward()
    assert predicted.shape == (2, 3, 12)
    assert model.action_encoder.contract.bias.grad.any()


def test_statistics_are_saved_with_the_weights():
    model, other = build(), build()
    model.set_action_statistics((1.0, -2.0), (0.5, 4.0))
    other.load_state_dict(model.state_dict())
    assert other.action_statistics() == ((1.0, -2.0), (0.5, 4.0))


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (replace(CONV, channels=(8,) * 6, kernel_sizes=(4,) * 6, strides=(2,) * 6), "leave nothing of 16 x 24 px"),
        (replace(VIT, patch_px=7), "must divide"),
    ],
)
def test_an_encoder_that_does_not_fit_the_frames_is_refused(encoder: EncoderConfig, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        build(encoder)


def test_weights_are_contiguous_so_that_safetensors_can_save_them():
    assert all(tensor.is_contiguous() for tensor in build().state_dict().values())
