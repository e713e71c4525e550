"""The collections inside the package: that each can be made, and what a file may say."""

import pytest

from lewm.data.collection_presets import CollectionPreset, collection_names, load_collection, parse_collection
from lewm.data.policies import scripted_policy
from lewm.envs.base import make_batch
from lewm.errors import ConfigError
from lewm.registry import ENVS

GOOD = 'env = "two-room"\nepisodes = 5\nmax_env_steps = 10\n'


def marks_of(name: str) -> tuple[pytest.MarkDecorator, ...]:
    family = load_collection(name).env.split("/")[0]
    return {"dmc": (pytest.mark.mujoco,), "atari": (pytest.mark.atari,)}.get(family, ())


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in collection_names()])
def test_a_collection_names_a_world_and_a_policy_that_exist_and_fit_each_other(name: str) -> None:
    preset = load_collection(name)
    assert preset.env in ENVS
    envs = make_batch(preset.env, 1, **preset.env_options)
    try:
        envs.reset([3])
        policy = scripted_policy(preset.env, preset.policy or ENVS.load(preset.env).DATA_POLICY, **preset.policy_options)
        policy.reset(envs, [3], 2)
        envs.step(policy.act(envs))
    finally:
        envs.close()
    frame_bytes = 3 * envs.observation_spec.height_px * envs.observation_spec.width_px
    assert preset.num_bytes() > preset.episodes * (preset.max_env_steps + 1) * frame_bytes


def test_laptop_collections_fit_on_a_laptop() -> None:
    for name in collection_names():
        preset = load_collection(name)
        size_px = preset.env_options.get("size_px") or 210
        num_frames = preset.episodes * (preset.max_env_steps + 1)
        if name.endswith("-laptop"):
            assert num_frames * 3 * size_px**2 < 5e9
            assert num_frames <= 250_000


def test_a_file_says_native_for_an_option_that_is_none() -> None:
    preset = parse_collection("it", GOOD + '[env_options]\nsize_px = "native"\ncameras = ["a", "b"]\n')
    assert preset == CollectionPreset(name="it", env="two-room", episodes=5, max_env_steps=10, env_options={"size_px": None, "cameras": ("a", "b")})
    assert "size_px native" in preset.summary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "episode = 3\n", r"unknown setting 'episode' of collection 'it'\. Did you mean 'episodes'"),
        ('env = "two-room"\nepisodes = 5\n', "collection 'it' does not say its max_env_steps"),
        (GOOD.replace("5", '"many"'), "episodes of collection 'it' must be a whole number, got 'many'"),
        ("env = two-room", "collection 'it' is not valid TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_collection("it", text)


def test_an_unknown_collection_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown collection 'reacher-laptob'\. Did you mean 'reacher-laptop'"):
        load_collection("reacher-laptob")
