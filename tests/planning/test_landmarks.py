"""Far goals in a corridor shaped like a U, with a model that knows it exactly: what the map adds to a search that is right but short-sighted.

The latent is the place (x, y). Two shafts, x in [0, 2] and [4, 6], are joined below y = 2.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from lewm.config_files import from_dict
from lewm.errors import ConfigError, PlanningError
from lewm.models.world_model import WorldModel
from lewm.planner_config import PlannerConfig
from lewm.planning.base import LinearReadout
from lewm.planning.landmark_map import LandmarkMap, Ways, build_map
from lewm.planning.landmarks import DirectLandmarkPolicy, LandmarkPolicy, LandmarkState, aim_on, landmark_policy_of
from lewm.planning.mpc import MPCPolicy
from lewm.schema import ActionSpec, Observation, ObservationSpec

SPEED, SCALE, BLOCK = 0.5, 20, 2
TINY = {
    "data": {"action_block": BLOCK},
    "encoder": {"name": "conv", "channels": [4], "kernel_sizes": [4], "strides": [4]},
    "model": {"latent_dimension": 2, "projector_width": 4, "action_embedding_width": 4},
    "predictor": {"width": 4, "num_layers": 1, "num_heads": 1, "head_width": 4, "mlp_width": 4},
}
SEARCH = PlannerConfig(
    horizon_model_steps=4, replan_every_model_steps=1, num_candidates=24, num_elites=5, num_iterations=3, cost="min", mean_weight=0.1, std_floor=0.2
)
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
CHOICES = ActionSpec(kind="discrete", num_choices=4)
DIRECTIONS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
LEFT, RIGHT = (1.0, 9.0), (5.0, 9.0)


def moved(places, moves):
    """Where the corridor lets moves of one env step [..., 2] lead from places of the same shape."""
    wanted = (places + SPEED * moves.clamp(-1, 1)).clamp(torch.zeros(2), torch.tensor([6.0, 10.0]))
    in_wall = (wanted[..., :1] > 2) & (wanted[..., :1] < 4) & (wanted[..., 1:] > 2)
    return torch.where(in_wall, places, wanted)


class Corridor(WorldModel):
    """A model that is exact: its latent is the place that a frame spells out."""

    def encode(self, observation):
        return observation.frames[..., 0, 0, 0, :2].float() / SCALE

    def rollout(self, context, past_blocks, candidates):
        places, imagined = context[:, -1, None].expand(-1, candidates.shape[1], -1), []
        for block in candidates.unbind(2):
            for move in block.unflatten(-1, (BLOCK, -1)).unbind(-2):
                places = moved(places, move @ DIRECTIONS.to(move) if self.action_spec.kind == "discrete" else move)
            imagined.append(places)
        return torch.stack(imagined, dim=2)


def model(action_spec: ActionSpec = CONTINUOUS) -> Corridor:
    return Corridor(from_dict(TINY), ObservationSpec(height_px=4, width_px=4), action_spec).eval()


def piece(*corners: tuple[float, float]) -> torch.Tensor:
    """An episode that goes from corner to corner and back, one env step apart."""
    there = [torch.tensor([corners[0]], dtype=torch.float32)]
    for first, second in itertools.pairwise(corners):
        num = round(float(np.linalg.norm(np.subtract(second, first))) / SPEED)
        there.append(torch.stack([torch.linspace(a, b, num + 1) for a, b in zip(first, second, strict=True)], -1)[1:])
    way = torch.cat(there)
    return torch.cat([way, way.flip(0)[1:]])


def corridor_map(*others: torch.Tensor) -> LandmarkMap:
    """Three episodes, of which none goes all the way, and any others."""
    episodes = [piece((1, 10), (1, 1)), piece((1, 3), (1, 1), (5, 1), (5, 3)), piece((5, 1), (5, 10)), *others]
    return build_map(torch.cat(episodes), [len(one) for one in episodes], num_landmarks=200, most_env_steps=4, seed=0)


def agent(landmarks: LandmarkMap | None = None, action_spec: ActionSpec = CONTINUOUS, heads=None, **changes) -> LandmarkPolicy:
    settings = SEARCH.switched("landmarks", landmark_reach_env_steps=6, **changes)
    return landmark_policy_of(model(action_spec), settings, landmarks=corridor_map() if landmarks is None else landmarks, heads=heads)


def frames(places) -> Observation[np.ndarray]:
    shown = np.zeros((len(places), 1, 4, 4, 3), np.uint8)
    shown[:, 0, 0, 0, :2] = np.rint(np.asarray(places) * SCALE)
    return Observation(shown)


def walk(policy: MPCPolicy, starts, goals, num_env_steps: int, wall=None):
    """Where each episode ends [E, 2], and the last state; ``wall`` changes where a move leads."""
    places, state = torch.tensor(starts, dtype=torch.float32), policy.reset(frames(goals), seeds=range(len(starts)))
    for _ in range(num_env_steps):
        actions, state = policy.act(frames(places) if policy.needs_frame(state) else None, state)
        moves = DIRECTIONS[actions] if policy.model.action_spec.kind == "discrete" else torch.from_numpy(actions)
        new = moved(places, moves)
        places = new if wall is None else torch.where(wall(new)[:, None], places, new)
    return places, state


def is_at(places, goals):
    return (places - torch.tensor(goals)).norm(dim=-1) < 1.0


def test_the_map_leads_around_a_corner_where_the_search_alone_is_stuck_at_the_wall():
    flat, _ = walk(MPCPolicy(model(), SEARCH), [LEFT], [RIGHT], 80)
    assert not is_at(flat, [RIGHT]).any()
    found, _ = walk(agent(), [LEFT, RIGHT], [RIGHT, LEFT], 80)
    assert is_at(found, [RIGHT, LEFT]).all()


def test_choices_find_the_way_as_well():
    found, _ = walk(agent(action_spec=CHOICES), [LEFT], [RIGHT], 80)
    assert is_at(found, [RIGHT]).all()


class Straight:
    """An actor that goes for what it is shown as its goal."""

    def act(self, latents, goals, previous, *, steps_to_goal):
        return ((goals - latents) / SPEED).clamp(-1, 1).repeat(1, BLOCK)


def test_an_actor_is_shown_landmarks_as_its_goals_and_so_finds_the_way():
    policy = agent(landmark_search="direct", proposals="straight", heads={"straight": Straight()})
    assert isinstance(policy, DirectLandmarkPolicy)
    found, _ = walk(policy, [LEFT], [RIGHT], 80)
    assert is_at(found, [RIGHT]).all()


def test_an_actor_that_proposes_to_a_search_is_shown_landmarks_too():
    small = {"landmark_search": "guarded", "proposals": "straight", "guard_num_candidates": 16, "guard_num_iterations": 2}
    found, _ = walk(agent(**small, heads={"straight": Straight()}), [LEFT], [RIGHT], 80)
    assert is_at(found, [RIGHT]).all()


class StraightWhereGoalsLookElsewhere:
    """The same in a world where what is shown as a goal seems to be 6 further to the right."""

    def act(self, latents, goals, previous, *, steps_to_goal):
        return Straight().act(latents, goals - torch.tensor([6.0, 0.0]), previous, steps_to_goal=steps_to_goal)


def test_aims_look_like_goals_where_goals_look_different_from_what_is_seen():
    episodes = [piece((1, 10), (1, 1)), piece((1, 3), (1, 1), (5, 1), (5, 3)), piece((5, 1), (5, 10))]
    seen, lengths = torch.cat(episodes), [len(one) for one in episodes]
    landmarks = build_map(seen, lengths, num_landmarks=200, most_env_steps=4, seed=0, still=seen + torch.tensor([6.0, 0.0]))
    policy = agent(landmarks, landmark_search="direct", proposals="straight", heads={"straight": StraightWhereGoalsLookElsewhere()})
    found, state = walk(policy, [LEFT, RIGHT], [(11.0, 9.0), (7.0, 9.0)], 80)
    assert is_at(found, [RIGHT, LEFT]).all()
    assert policy.first_aim(torch.tensor([LEFT]), state.goals[:1])[0, 0] == 7  # on the left, and shown as a goal


def test_a_goal_without_a_way_is_named_and_planned_for_directly():
    landmarks = build_map(torch.cat([piece((1, 10), (1, 1)), piece((5, 1), (5, 10))]), [37, 37], num_landmarks=80, most_env_steps=4, seed=0)
    policy = agent(landmarks)
    _, state = walk(policy, [LEFT, LEFT], [RIGHT, (1.0, 2.0)], 4)
    assert policy.notes()["landmarks"]["num_without_route"] == 1
    torch.testing.assert_close(state.aims[0], torch.tensor(RIGHT))


def test_a_way_on_which_no_progress_is_made_is_given_up_for_the_episode_and_another_one_taken():
    """The right shaft is joined at the top as well, the data say; but there is a door there that is shut today."""
    above = piece((1, 9), (1, 10), (5, 10), (5, 9))
    landmarks = corridor_map(above)
    assert landmarks.ways_to(int(landmarks.nearest(torch.tensor([RIGHT]))[0])).env_steps.max() < 60
    policy = agent(landmarks, landmark_patience=1.0)
    found, state = walk(policy, [LEFT], [RIGHT], 140)
    assert is_at(found, [RIGHT]).all()
    assert policy.notes()["landmarks"]["num_given_up"] > 0
    given_up = state.given_up[0][state.given_up[0] >= 0]
    assert (landmarks.latents[given_up, 1] > 8).any()


def test_what_one_episode_gives_up_another_still_tries():
    landmarks = corridor_map(piece((1, 9), (1, 10), (5, 10), (5, 9)))
    policy = agent(landmarks, landmark_patience=1.0)
    _, state = walk(policy, [LEFT], [RIGHT], 60)
    fresh = policy.reset(frames([RIGHT]), seeds=[9])
    goal = int(fresh.goal_landmark[0])
    assert (state.given_up >= 0).any()
    np.testing.assert_array_equal(fresh.way_env_steps[0], landmarks.ways_to(goal).env_steps)


@pytest.mark.parametrize("search", ["cem", "icem", "direct"])
def test_an_episode_acts_alone_as_it_does_among_others(search):
    heads = {"straight": Straight()}
    policy = agent(landmark_search=search, heads=heads, **({"proposals": "straight"} if search == "direct" else {}))
    together, _ = walk(policy, [RIGHT, LEFT, (1.0, 4.0)], [LEFT, RIGHT, (5.0, 4.0)], 12)
    state, place = policy.select(policy.reset(frames([LEFT, RIGHT, (5.0, 4.0)]), seeds=range(3)), np.array([1])), torch.tensor([LEFT])
    for _ in range(12):
        actions, state = policy.act(frames(place), state)
        place = moved(place, torch.from_numpy(actions))
    torch.testing.assert_close(place[0], together[1], atol=1e-4, rtol=0)


def test_states_are_split_and_joined_without_loss():
    policy = agent()
    _, state = walk(policy, [LEFT, RIGHT, (1.0, 4.0)], [RIGHT, LEFT, RIGHT], 5)
    joined = policy.join([policy.select(state, np.array([0])), policy.select(state, np.array([False, True, True]))])
    assert isinstance(joined, LandmarkState)
    for field in dataclasses.fields(LandmarkState):
        first, second = getattr(state, field.name), getattr(joined, field.name)
        if first is not None:
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second), err_msg=field.name)


def test_acting_leaves_the_old_state_as_it_was():
    policy = agent(landmark_patience=1.0)
    _, state = walk(policy, [LEFT], [RIGHT], 4)
    before = {name: getattr(state, name).copy() for name in ("way_env_steps", "given_up", "patient_until", "least_env_steps")} | {
        "aims": state.aims.clone()
    }
    later = state
    for _ in range(40):  # always the same frame: it gives up
        _, later = policy.act(frames([LEFT]), later)
    assert (later.given_up >= 0).any()
    for name, values in before.items():
        np.testing.assert_array_equal(values, getattr(state, name), err_msg=name)


@pytest.mark.parametrize(("reach", "aim"), [(100, None), (30, None), (25, 2), (10, 1), (5, 1)])
def test_the_aim_is_the_last_landmark_within_reach_and_at_least_the_next(reach, aim):
    ways = Ways(env_steps=np.array([30.0, 20.0, 8.0, 0.0]), following=np.array([1, 2, 3, -1]))
    assert aim_on([0, 1, 2, 3], ways, reach) == aim


def test_a_start_that_shares_the_goals_landmark_aims_at_the_goal():
    assert aim_on([3], Ways(env_steps=np.zeros(4), following=np.full(4, -1)), 5) is None


def test_labels_are_refused_as_goals():
    readout = LinearReadout(weights=torch.zeros(2, 1), bias=torch.zeros(1))
    with pytest.raises(PlanningError, match=r"goals are compared by labels here: set planner\.goal to 'latent'"):
        landmark_policy_of(model(), SEARCH.switched("landmarks"), readout, landmarks=corridor_map())


def test_an_agent_without_a_map_is_refused():
    with pytest.raises(PlanningError, match="needs a map of the training data: give --data DIR"):
        MPCPolicy(model(), SEARCH.switched("landmarks"))


def test_landmarks_are_not_their_own_search():
    with pytest.raises(ConfigError, match="names the planner below planner 'landmarks', not itself"):
        SEARCH.switched("landmarks", landmark_search="landmarks")


def test_other_planners_do_not_know_the_maps_settings():
    with pytest.raises(ConfigError, match=r"planner 'cem' does not know planner\.landmark_patience"):
        dataclasses.replace(SEARCH, landmark_patience=3.0)
