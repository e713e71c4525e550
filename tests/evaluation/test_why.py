"""Which part is to blame: on an agent that needs no training, whole and with one part broken."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dot_model import DotModel

from lewm.config import Config, PlannerConfig
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.formats.store import Store, open_store
from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError
from lewm.evaluation.outcomes import run_policy
from lewm.evaluation.protocol import Manifest, make_manifest
from lewm.evaluation.why.breaking import break_part
from lewm.evaluation.why.coalitions import COALITIONS, PARTS, Coalition, check_planner, oracle_search
from lewm.evaluation.why.diagnosis import Question, diagnose, run_agent, solve_with
from lewm.evaluation.why.oracles import Parts, SwappedPolicy, World
from lewm.evaluation.why.table import why_table
from lewm.evaluation.why.translation import fit_embedding, fit_translator
from lewm.evaluation.why.workflow import make_world
from lewm.planning.mpc import MPCPolicy
from lewm.planning.terms import squared_l2
from lewm.schema import Observation

OPTIONS = {"size_px": 32}
CONFIG: Config = from_dict({"data": {"action_block": 5, "validation_fraction": 0.3}})
PLANNER = PlannerConfig(
    num_candidates=24, num_elites=4, num_iterations=3, horizon_model_steps=4, replan_every_model_steps=4, noise_smoothing=0.7, std_floor=0.1
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("why") / "data"
    collect("two-room", path, episodes=60, max_env_steps=60, env_options=OPTIONS)
    return open_store(path)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return make_manifest("two-room", OPTIONS, distances=[20], num_pairs=8, seed=0, strata=["same-room"])


@pytest.fixture(scope="module")
def whole(store: Store) -> Parts:
    return Parts(model=DotModel(store.observation_spec, store.action_spec, 5).eval(), planner=PLANNER, metric=squared_l2)


@pytest.fixture(scope="module")
def world(whole: Parts, store: Store) -> World:
    return make_world(whole, "two-room", OPTIONS, store, CONFIG)[0]


def question_of(manifest: Manifest) -> Question:
    return Question.of(manifest, num_swapped=8)


@pytest.fixture(scope="module")
def diagnosed(whole: Parts, store: Store, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What is found of an agent with each of its parts broken."""
    found = {}
    for part in PARTS:
        broken = break_part(whole, part)
        world, about = make_world(broken, "two-room", OPTIONS, store, CONFIG)
        with closing(world):
            found[part] = diagnose(broken, world, question_of(manifest)) | {"definitions": about}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_the_part_that_was_broken_is_the_one_that_is_blamed(part: str, diagnosed: dict[str, dict[str, Any]]) -> None:
    assert diagnosed[part]["attribution"]["part"] == part, diagnosed[part]["attribution"]["sentence"]


def test_an_agent_without_failures_has_nothing_to_explain_but_its_promises_are_judged(whole: Parts, world: World, manifest: Manifest) -> None:
    result = diagnose(whole, world, question_of(manifest))
    assert result["attribution"]["verdict"] == "nothing to explain"
    assert result["values"] == {}
    assert result["hallucination"]["rate"]["rate"] == 0
    assert result["reliability"]["n"] == 4


def test_watching_an_agent_does_not_change_what_it_does(whole: Parts, manifest: Manifest) -> None:
    pairs = manifest.pairs
    watched, promises = run_agent(whole, question_of(manifest), lambda text: None)
    plain = run_policy(
        MPCPolicy(whole.model, whole.planner),
        "two-room",
        OPTIONS,
        [pair.start_state for pair in pairs],
        [pair.goal_state for pair in pairs],
        [manifest.policy_seed(pair) for pair in pairs],
        40,
    )
    assert all(np.array_equal(one.actions, other.actions) for one, other in zip(watched, plain, strict=True))
    assert all(len(plans) == -(-len(one.actions) // 20) for one, plans in zip(watched, promises, strict=True))


def test_no_oracle_at_all_is_the_agent_as_it_is(whole: Parts, world: World, manifest: Manifest) -> None:
    weak = replace(whole, planner=replace(PLANNER, num_candidates=4, num_elites=2, num_iterations=1))
    outcomes, _ = run_agent(weak, question_of(manifest), lambda text: None)
    solved = solve_with(weak, world, COALITIONS[0], manifest, manifest.pairs)
    assert 0 < solved.sum() < len(solved)
    assert solved.tolist() == [outcome.solved for outcome in outcomes]


def test_a_simulated_future_is_what_then_happens(world: World, whole: Parts, manifest: Manifest) -> None:
    states, candidates = [pair.start_state for pair in manifest.pairs[:3]], torch.linspace(-1, 1, 3 * 4 * 2 * 10).reshape(3, 4, 2, 10)
    labels, latents = world.simulator.labels(states, candidates), world.simulator.latents(states, candidates, whole.model)
    read = world.translator.present.real.read(latents)
    assert torch.allclose(read[..., :2], labels[..., :2], atol=4.0)  # px; a frame has 32, so one of its px is 7
    assert torch.equal(world.simulator.latents(states, candidates, whole.model, only_last=True), latents[:, :, -1:])


class StackedDot(DotModel):
    """Sees two frames; its latent is that of the newer one, pushed aside by as much as the dot moved between them."""

    def encode(self, observation: Observation[torch.Tensor]) -> torch.Tensor:
        older, newer = (DotModel.encode(self, Observation(observation.frames[..., [view], :, :, :])) for view in (0, 1))
        return newer + (newer - older).norm(dim=-1, keepdim=True) * self.mixing[:, 0]


@pytest.fixture(scope="module")
def stacked(store: Store) -> Parts:
    spec = replace(store.observation_spec, stack_offsets_env_steps=(-5, 0))
    return Parts(model=StackedDot(spec, store.action_spec, 5).eval(), planner=PLANNER, metric=squared_l2)


@pytest.fixture(scope="module")
def stacked_world(stacked: Parts, store: Store) -> World:
    return make_world(stacked, "two-room", OPTIONS, store, CONFIG)[0]


@pytest.mark.parametrize("swapped", [("cost",), ("encoder",), ("encoder", "cost")])
def test_goals_are_translated_as_they_are_shown_which_is_still_where_frames_are_stacked(
    swapped: tuple[str, ...], stacked: Parts, stacked_world: World, manifest: Manifest
) -> None:
    with closing(make_batch("two-room", len(manifest.pairs), **OPTIONS)) as envs:
        envs.set_states([pair.goal_state for pair in manifest.pairs])
        frames, labels = envs.observe(), envs.labels()
        goals = SwappedPolicy(stacked, stacked_world, Coalition.of(*swapped)).begin(frames, labels, range(len(labels))).goals
    if "cost" in swapped:  # labels: of a frame that seems to move they are some 20 px aside
        np.testing.assert_allclose(goals[:, :2], labels[:, :2], atol=4.0)
    else:
        shown = torch.from_numpy(np.repeat(frames.frames, 2, axis=1))
        torch.testing.assert_close(goals, stacked.model.encode(Observation(shown)), atol=0.2, rtol=0)  # in 20 px


def test_a_plan_counts_as_arrived_by_how_far_the_next_frames_are_from_frames_that_are_shown_as_goals(
    store: Store, whole: Parts, stacked: Parts
) -> None:
    goals, later = fit_translator(stacked.model, store, CONFIG, num_clips=64).steps
    places, later_places = fit_translator(whole.model, store, CONFIG, num_clips=64).steps
    torch.testing.assert_close(goals, places)  # a goal does not move
    assert (later - later_places).norm(dim=-1).median() > 0.5


def test_a_plan_with_oracles_does_not_depend_on_which_episodes_share_the_batch(whole: Parts, world: World, manifest: Manifest) -> None:
    weak = replace(whole, planner=replace(PLANNER, num_candidates=6, num_elites=2, num_iterations=1))
    coalition = Coalition.of("encoder", "predictor", "cost")
    together = solve_with(weak, world, coalition, manifest, manifest.pairs)
    alone = [bool(solve_with(weak, world, coalition, manifest, [pair])[0]) for pair in manifest.pairs]
    assert together.tolist() == alone


def test_labels_explain_latents_that_are_a_function_of_them_and_no_others() -> None:
    generator = np.random.default_rng(0)
    labels = generator.uniform(-1, 1, (800, 2))
    latents = np.stack([np.sin(3 * labels[:, 0]), labels[:, 0] * labels[:, 1]], -1)
    episodes = np.arange(800) // 10
    assert fit_embedding(labels, latents, episodes).explained > 0.999
    assert fit_embedding(labels, generator.standard_normal((800, 2)), episodes).explained < 0.05


def test_labels_do_not_explain_latents_that_only_say_which_episode_it_is() -> None:
    generator, episodes = np.random.default_rng(0), np.repeat(np.arange(40), 20)
    labels = generator.uniform(-1, 1, (40, 2))[episodes] + 0.01 * generator.standard_normal((800, 2))
    latents = generator.standard_normal((40, 3))[episodes]
    assert fit_embedding(labels, latents, np.arange(800)).explained > 0.9, "frames of the same episodes would say that they do"
    assert fit_embedding(labels, latents, episodes).explained < 0.1


def test_the_map_from_labels_to_latents_is_fitted_on_all_episodes() -> None:
    labels = np.random.default_rng(0).uniform(-1, 1, (800, 2))
    latents = np.stack([np.sin(3 * labels[:, 0]), labels[:, 0] * labels[:, 1]], -1)
    one, other = (fit_embedding(labels, latents, episodes) for episodes in (np.arange(800) // 10, np.arange(800) % 80))
    assert one.explained != other.explained
    assert np.array_equal(one.embed(labels), other.embed(labels))


def test_labels_of_a_single_episode_are_refused() -> None:
    with pytest.raises(DataError, match="measured on held-out training episodes, and there is only one"):
        fit_embedding(np.eye(8), np.eye(8), np.zeros(8, np.int64))


def test_the_oracle_of_a_search_tries_ten_times_as_many_and_is_no_worse_for_a_search_that_was_switched_off() -> None:
    thorough = oracle_search(PlannerConfig(num_candidates=96, num_elites=12, num_iterations=4))
    assert thorough.num_candidates * thorough.num_iterations == 10 * 96 * 4
    off = oracle_search(PlannerConfig(num_candidates=2, num_elites=2, num_iterations=1, initial_std=0.01))
    assert off.num_candidates * off.num_iterations == 480
    assert off.initial_std == 1.0


def test_settings_that_cannot_be_swapped_are_refused() -> None:
    check_planner(PLANNER, [])
    with pytest.raises(ConfigError, match="follows the model's gradient"):
        check_planner(PLANNER.switched("gradient"), [])
    with pytest.raises(ConfigError, match=r"'steps' and planner\.cost 'last' would judge latents by a head"):
        check_planner(replace(PLANNER, distance="steps"), ["steps"])
    with pytest.raises(ConfigError, match="'intent' is a head that proposes from latents"):
        check_planner(replace(PLANNER, proposals="intent"), ["intent"])
    with pytest.raises(ConfigError, match="--break takes one of encoder, predictor, cost, search, got 'brain'"):
        break_part(Parts(model=None, planner=PLANNER, metric=squared_l2), "brain")  # type: ignore[arg-type]


def test_data_without_labels_are_refused(whole: Parts, store: Store) -> None:
    class Unlabelled:
        label_names: tuple[str, ...] = ()
        path = store.path

    with pytest.raises(DataError, match="has no labels, and the oracles"):
        fit_translator(whole.model, Unlabelled(), CONFIG)  # type: ignore[arg-type]


def test_a_distance_that_the_pairs_do_not_have_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="are D = 20 env steps apart, not 50"):
        Question.of(manifest, num_swapped=1, distance_env_steps=50)


def test_the_first_pairs_of_every_stratum_can_be_asked_about_alone() -> None:
    manifest = make_manifest("two-room", OPTIONS, distances=[20], num_pairs=3, seed=0)
    question = Question.of(manifest, num_swapped=1, num_tried=2)
    expected = [f"20/{stratum}/{number}" for stratum in manifest.strata for number in range(2)]
    assert [pair.id for pair in question.pairs] == expected
    assert [question.pairs[row].id for row in question.swapped] == expected[::2]


@pytest.mark.parametrize("num_tried", [0, 9])
def test_more_pairs_than_there_are_or_none_are_refused(num_tried: int, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match=f"--episodes {num_tried}, but at D = 20 there are 1 to 8 pairs per stratum to try"):
        Question.of(manifest, num_swapped=1, num_tried=num_tried)


def test_the_table_says_who_is_to_blame_and_that_it_was_broken(diagnosed: dict[str, dict[str, Any]], manifest: Manifest) -> None:
    protocol = {"name": "heldout", "version": 1, "manifest_sha256": manifest.sha256}
    about = {"env": "two-room", "broken": "search", "manifest": manifest.to_dict(), "protocol": protocol}
    table = why_table(diagnosed["search"] | about)
    assert "with the search broken on purpose" in table
    assert "the search is most to blame" in table
    assert "encoder+predictor+cost+search" in table
