"""robomimic's demonstrations: laid out as its ``dataset_states_to_obs.py`` writes them, in the order and by the filter keys that its loader has.

A file made by ``demonstrations`` was also read with ``SequenceDataset`` of robomimic's repository (August 2026): the same demonstrations in the same
order for filter key ``train``, the same frames, rewards and actions in the same rows.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from flat_files import as_native, assert_same_clips

from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError

NUMBERS = (0, 1, 2, 10)


def demonstrations(path: Path) -> Path:
    """Four demonstrations of 4, 5, 6 and 5 samples; frames begin with (number, sample), rewards are number + sample."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in NUMBERS:
            num_samples = 4 + number % 3
            demo = file.create_group(f"data/demo_{number}")
            demo.create_dataset("actions", data=generator.uniform(-1, 1, (num_samples, 3)))
            demo.create_dataset("states", data=np.stack([np.full(num_samples, number), np.arange(num_samples)], -1).astype(float))
            demo.create_dataset("rewards", data=np.arange(num_samples) + float(number))
            demo.create_dataset("dones", data=(np.arange(num_samples) == num_samples - 1) * int(number != 2))
            for camera in ("agentview", "robot0_eye_in_hand"):
                frames = np.full((num_samples, 5, 6, 3), len(camera), np.uint8)
                frames[:, 0, 0, 0], frames[:, 0, 0, 1] = number, np.arange(num_samples)
                demo.create_dataset(f"obs/{camera}_image", data=frames, compression="gzip")
            for name, width in {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 5}.items():
                demo.create_dataset(f"obs/{name}", data=generator.standard_normal((num_samples, width)))
            demo.attrs["num_samples"] = num_samples
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        file["mask/train"] = np.array(["demo_10", "demo_0"], "S")
        file.create_dataset("mask/valid", data=["demo_1"], dtype=h5py.string_dtype())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return demonstrations(tmp_path / "d.hdf5")


def test_a_demonstration_of_l_samples_is_an_episode_of_l_minus_one_env_steps(path: Path) -> None:
    store = open_store(path)
    assert store.index["length"].tolist() == [3, 4, 5, 4]
    for episode, number in enumerate(NUMBERS):
        found, num_samples = store.episode(episode), 4 + number % 3
        np.testing.assert_array_equal(found.observations.frames[:, 0, 0, 0, :2], [[number, row] for row in range(num_samples)])
        np.testing.assert_array_equal(found.labels, [[number, row] for row in range(num_samples)])
        np.testing.assert_array_equal(found.rewards, np.arange(num_samples - 1) + number)
        with h5py.File(path) as file:
            demo = file[f"data/demo_{number}"]
            np.testing.assert_array_equal(found.actions, demo["actions"][:-1].astype(np.float32))
            body = np.concatenate([demo[f"obs/robot0_{name}"][:] for name in ("eef_pos", "eef_quat", "gripper_qpos")], axis=1)
            np.testing.assert_array_equal(found.observations.proprioception, body.astype(np.float32))


def test_demonstrations_come_in_the_order_of_their_numbers(path: Path) -> None:
    store = open_store(path)
    assert [store.episode(number).provenance["demo"] for number in range(4)] == ["demo_0", "demo_1", "demo_2", "demo_10"]


def test_names_say_what_the_numbers_are(path: Path) -> None:
    meta = open_store(path).meta
    assert meta.observation_spec.cameras == ("agentview", "robot0_eye_in_hand")
    assert meta.observation_spec.proprioception[:4] == ("robot0_eef_pos_0", "robot0_eef_pos_1", "robot0_eef_pos_2", "robot0_eef_quat_0")
    assert meta.label_names == ("state_0", "state_1")
    assert json.loads(meta.provenance["env_args"])["env_name"] == "Lift"


def test_an_episode_is_terminated_if_its_last_sample_is_done(path: Path) -> None:
    assert open_store(path).index["terminated"].tolist() == [True, True, False, True]


@pytest.mark.parametrize(("key", "demos"), [("train", ["demo_0", "demo_10"]), ("valid", ["demo_1"])])
def test_a_filter_key_chooses_demonstrations(path: Path, key: str, demos: list[str]) -> None:
    store = open_store(path, options={"filter_key": key})
    assert [store.episode(number).provenance["demo"] for number in range(len(store))] == demos


def test_options_choose_frames_proprioception_and_labels(path: Path) -> None:
    store = open_store(path, options={"frames": "robot0_eye_in_hand_image", "proprioception": "", "labels": "object,states"})
    assert store.observation_spec.cameras == ("robot0_eye_in_hand",)
    assert store.observation_spec.proprioception == ()
    assert store.label_names == ("object_0", "object_1", "object_2", "object_3", "object_4", "state_0", "state_1")
    assert store.episode(0).observations.frames[0, 0, 1, 1, 0] == len("robot0_eye_in_hand")


def test_clips_are_the_same_as_from_a_native_dataset(path: Path, tmp_path: Path) -> None:
    store = open_store(path)
    assert_same_clips(store, as_native(store, tmp_path / "native"))


def test_a_file_without_states_has_no_labels(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for number in NUMBERS:
            del file[f"data/demo_{number}/states"]
    assert open_store(path).label_names == ()


def _replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.move("data/demo_2/actions", "data/demo_2/acts"), "data/demo_2/actions is missing"),
        (lambda file: _replace(file, "data/demo_2/actions", np.zeros((5, 3))), "a row for each sample, got actions 5, obs/agentview_image 6"),
        (lambda file: _replace(file, "data/demo_2/actions", np.zeros((6, 4))), r"rows of \[4\], in the first demonstration they are \[3\]"),
        (lambda file: _replace(file, "data/demo_2/rewards", np.zeros(2)), "rewards 2"),
        (lambda file: _replace(file, "data/demo_2/actions", np.full((6, 3), np.nan)), "the action in row 0 is .* missing_actions=zero"),
        (lambda file: _replace(file, "data/demo_0/actions", np.zeros((4, 3), int)), "must be .* of floats, got int64"),
        (lambda file: _replace(file, "data/demo_0/obs/agentview_image", np.zeros((4, 5, 6, 3))), "images must be uint8"),
        (lambda file: _replace(file, "data/demo_0/obs/agentview_image", np.zeros((4, 9, 9, 3), np.uint8)), "in the first demonstration they are"),
        (lambda file: file.move("data/demo_2", "data/demo_two"), "'demo_two' is not a demonstration called demo_0"),
        (lambda file: file.copy("data/demo_2", "data/demo_02"), "has a demonstration twice"),
        (lambda file: _replace(file, "data/demo_0", h5py.ExternalLink("elsewhere.h5", "/")), "no group 'data/demo_0/obs'"),
        (lambda file: file.move("data/demo_0/obs", "data/demo_0/seen"), "no group 'data/demo_0/obs'; it must be a file of robomimic's"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_with_a_sentence(path: Path, spoil, message: str) -> None:
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(DataError, match=message):
        open_store(path)


def test_a_file_without_images_says_how_to_render_them(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for number in NUMBERS:
            del file[f"data/demo_{number}/obs/agentview_image"], file[f"data/demo_{number}/obs/robot0_eye_in_hand_image"]
    with pytest.raises(DataError, match=r"has no images among its observations .*--camera_names agentview"):
        open_store(path)


def test_cameras_of_several_sizes_must_be_chosen_from(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for number in NUMBERS:
            _replace(file, f"data/demo_{number}/obs/agentview_image", np.zeros((4 + number % 3, 9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="frames of one size, got agentview 9 x 9, robot0_eye_in_hand 5 x 6; choose some with --option frames="):
        open_store(path)
    assert open_store(path, options={"frames": "agentview_image"}).observation_spec.height_px == 9


def test_labels_that_are_not_finite_are_refused_when_they_are_read(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["data/demo_1/states"][2] = np.inf
    store = open_store(path)
    with pytest.raises(DataError, match="demo_1/states has values that are not finite"):
        store.episode(1)


def test_missing_actions_become_zero_if_asked_for(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"][2, 0] = np.nan
    assert open_store(path, options={"missing_actions": "zero"}).episode(1).actions[2, 0] == 0


@pytest.mark.parametrize("number", range(12))
def test_a_cut_file_is_refused(path: Path, tmp_path: Path, number: int) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(content[: len(content) * number // 12])
    with pytest.raises(DataError, match="cannot be read"):
        open_store(tmp_path / "cut.hdf5", format="robomimic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_key": "trian"}, "no filter key 'trian'. Did you mean 'train'"),
        ({"frames": "agent_image"}, "has no observation 'agent_image'. Did you mean 'agentview_image'"),
        ({"missing_actions": "skip"}, "missing_actions must be one of"),
    ],
)
def test_wrong_options_are_refused(path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(path, options=options)


@pytest.mark.parametrize("option", ["labels", "proprioception"])
def test_an_observation_that_is_not_there_is_refused(path: Path, option: str) -> None:
    with pytest.raises(DataError, match="obs/nothing is missing"):
        open_store(path, options={option: "nothing"})
