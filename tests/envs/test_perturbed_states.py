"""States with other looks or another layout, and doors that are kept for evaluation."""

import importlib.util

import numpy as np
import pytest

from lewm.data.collection_presets import load_collection
from lewm.envs.base import Perturbation, make_batch
from lewm.envs.two_room.env import TwoRoom
from lewm.envs.two_room.layout import PERTURBATIONS, TwoRoomOptions, seen_doors, unseen_doors
from lewm.errors import EnvError
from lewm.registry import ENVS

BANDS = ((35.0, 77.0), (147.0, 189.0))
WORLDS = ["two-room", "stress/distractor/two-room"] + (["push-t", "push-t-absolute"] if importlib.util.find_spec("pymunk") else [])


def states_of(env, seeds=range(12), **options):
    envs = make_batch(env, len(seeds), size_px=32, **options)
    envs.reset(list(seeds))
    return envs, envs.get_states()


def test_a_value_moves_by_its_share_of_the_way_to_the_farther_end():
    perturbation = Perturbation(low=(0,), high=(10,), default=(5,), unit="m", summary="")
    values = np.array([[2.0], [8.0], [5.0]])
    np.testing.assert_array_equal(perturbation.moved(values, 0, "far"), values)
    np.testing.assert_array_equal(perturbation.moved(values, 0.5, "far")[:, 0], [6, 4, 7.5])
    np.testing.assert_array_equal(perturbation.moved(values, 1, "low")[:, 0], [0, 0, 0])
    np.testing.assert_array_equal(perturbation.moved(values, 0.5, "high")[:, 0], [6, 9, 7.5])


@pytest.mark.parametrize("env", WORLDS)
def test_every_perturbation_gives_states_that_the_world_takes_and_draws_otherwise(env):
    envs, states = states_of(env)
    before = envs.observe().frames.copy()
    for name in ENVS.load(env).PERTURBATIONS:
        changed = envs.perturbed(states, name, 0.5, "far")
        kept = [new or old for new, old in zip(changed, states, strict=True)]
        envs.set_states(kept)
        envs.set_goals(kept)
        if name != "friction":
            assert (envs.observe().frames != before).any(), name
        envs.set_states(states)
        np.testing.assert_array_equal(envs.observe().frames, before)


def test_severity_zero_gives_the_same_worlds():
    envs, states = states_of("two-room")
    for name in PERTURBATIONS:
        envs.set_states(states)
        now = envs.moments
        envs.set_states(envs.perturbed(states, name, 0.0, "far"))
        np.testing.assert_array_equal(envs.moments, now)


def test_a_perturbed_state_differs_in_that_perturbation_alone():
    envs, states = states_of("two-room")
    now = envs.moments
    envs.set_states(envs.perturbed(states, "background_color", 1.0, "far"))
    changed = envs.moments
    np.testing.assert_array_equal(changed["background_color"], np.full((12, 3), 96))
    for name in set(now.dtype.names) - {"background_color"}:
        np.testing.assert_array_equal(changed[name], now[name])


def test_a_state_whose_agent_would_overlap_a_wall_is_none():
    envs, states = states_of("two-room", range(40))
    changed = envs.perturbed(states, "wall_thickness_px", 1.0, "far")
    illegal = np.array([state is None for state in changed])
    is_near = np.abs(envs.moments["position_px"][:, 0] - 112) < 15 + 7
    np.testing.assert_array_equal(illegal, is_near)
    assert 0 < illegal.sum() < 40


def test_a_state_whose_agent_could_not_be_seen_is_none():
    envs, states = states_of("two-room", [1], background_color=(112, 112, 112), agent_color=(0, 0, 0))
    assert envs.perturbed(states, "agent_color", 0.45, "high") == [None]


def test_doors_are_drawn_from_the_bands_and_fill_them():
    options = TwoRoomOptions(vary=("door_y_px",), door_bands_px=BANDS)
    doors = np.array([float(options.draw_layout(np.random.default_rng(seed))["door_y_px"]) for seed in range(400)])
    in_first, in_second = ((doors >= low) & (doors <= high) for low, high in BANDS)
    assert (in_first | in_second).all()
    assert 0.4 < in_first.mean() < 0.6
    assert doors[in_first].min() < 37
    assert doors[in_second].max() > 187


def test_bands_change_no_draw_where_they_are_not_given():
    plain = TwoRoomOptions(vary=("door_y_px", "agent_radius_px"))
    whole = TwoRoomOptions(vary=("door_y_px", "agent_radius_px"), door_bands_px=((35, 189),))
    for seed in range(20):
        one, other = (options.draw_layout(np.random.default_rng(seed)) for options in (plain, whole))
        assert one["door_y_px"] == pytest.approx(float(other["door_y_px"]))
        assert one["agent_radius_px"] == other["agent_radius_px"]


def test_unseen_doors_are_what_the_margin_leaves_of_the_range():
    assert unseen_doors(BANDS) == ((84.0, 140.0),)
    assert unseen_doors(((49.0, 49.0),)) == ((35, 42.0), (56.0, 189))
    assert unseen_doors(((35.0, 189.0),)) == ()
    assert unseen_doors(((100.0, 110.0),)) == ((35, 93.0), (117.0, 189))


def test_no_unseen_world_ever_has_a_door_of_training():
    options = {"size_px": 16, **load_collection("two-room-doors-laptop").env_options}
    layouts = TwoRoom.unseen_layouts(options)
    assert layouts is not None
    assert layouts.seen == seen_doors(TwoRoomOptions(vary=("door_y_px",), door_bands_px=BANDS)) == BANDS
    doors = {}
    for name, each in (("seen", options), ("unseen", layouts.options)):
        envs = make_batch("two-room", 300, **each)
        envs.reset(list(range(300)))
        doors[name] = envs.labels()[:, 2]
    assert np.abs(doors["seen"][:, None] - doors["unseen"]).min() >= layouts.margin - 1e-4


def test_a_world_with_every_door_has_no_unseen_ones_and_a_fixed_door_leaves_the_others():
    assert TwoRoom.unseen_layouts({"vary": ["door_y_px"]}) is None
    layouts = TwoRoom.unseen_layouts({"size_px": 32})
    assert layouts is not None
    assert layouts.seen == ((49.0, 49.0),)
    assert layouts.options["vary"] == ("door_y_px",)


def test_the_world_below_a_nuisance_says_which_layouts_are_unseen():
    assert ENVS.load("stress/video/two-room").unseen_layouts({}) == TwoRoom.unseen_layouts({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"door_bands_px": BANDS}, "it needs vary="),
        ({"vary": ("door_y_px",), "door_bands_px": (35, 77)}, r"must be ranges such as \(\(35, 77\), \(147, 189\)\)"),
        ({"vary": ("door_y_px",), "door_bands_px": ((20, 77),)}, r"an end of door_bands_px must be in \[35, 189\], got 20"),
        ({"vary": ("door_y_px",), "door_bands_px": ((35, 77), (60, 90))}, "ascending ranges that do not overlap"),
    ],
)
def test_bands_that_make_no_sense_are_refused(options, message):
    with pytest.raises(EnvError, match=message):
        TwoRoomOptions(**options)
