"""The table of methods: every line of it is a planner that can be built."""

import dataclasses

import pytest

from lewm.config_files import load_preset
from lewm.errors import ConfigError
from lewm.head_config import HEAD_CONFIGS
from lewm.planner_config import OWN_OPTIONS
from lewm.planner_lab.methods import BASELINE, KINDS, METHODS, RECIPES, SEARCH, Recipe, check_methods, is_for, num_futures
from lewm.planner_lab.published import PUBLISHED
from lewm.planning.proposing import RETRIEVAL, needed_heads
from lewm.registry import HEADS, PLANNERS


@pytest.mark.parametrize("preset", ["laptop", "dmc", "atari", "paper"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_planner_with_settings_that_it_knows(name: str, preset: str) -> None:
    config = METHODS[name].settings(load_preset(preset).planner)  # a PlannerConfig refuses settings that its planner does not know
    assert config.name in PLANNERS


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_the_head_that_its_settings_need(name: str) -> None:
    method = METHODS[name]
    needed = set(needed_heads(method.settings(load_preset("laptop").planner))) - {RETRIEVAL}
    assert needed == ({RECIPES[method.head].stage} if method.head is not None else set())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_known_kind_and_a_summary(name: str) -> None:
    assert METHODS[name].kind in KINDS
    assert METHODS[name].summary


def test_every_planner_of_the_project_has_a_method() -> None:
    own = load_preset("laptop").planner
    assert set(OWN_OPTIONS) <= {method.settings(own).name for method in METHODS.values()}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.kind == SEARCH and name != "cem-paper"])
def test_searches_have_the_budget_of_the_baseline(name: str) -> None:
    own = load_preset("laptop").planner
    wanted = num_futures(METHODS[BASELINE].settings(own))
    assert num_futures(METHODS[name].settings(own)) == pytest.approx(wanted, rel=0.02)


def test_the_published_search_is_that_of_the_paper_preset_whatever_the_run_does() -> None:
    own = dataclasses.replace(load_preset("laptop").planner, goal="labels")
    assert METHODS["cem-paper"].settings(own) == dataclasses.replace(load_preset("paper").planner, goal="labels")


def test_gradients_are_not_for_discrete_actions() -> None:
    own = load_preset("atari").planner
    assert not is_for(METHODS["gradient"].settings(own), "discrete")
    assert is_for(METHODS["cem"].settings(own), "discrete")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_settings_of_its_stage(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.stage in HEADS
    assert recipe.settings(num_steps=3) == HEAD_CONFIGS[recipe.stage](**dict(recipe.changes), num_steps=3)


def test_a_head_with_other_settings_is_not_taken_for_the_one_that_is_needed() -> None:
    heads = {"inverse-goal": {"use_steps_remaining": False}}
    assert RECIPES["bc"].fits(heads)
    assert not RECIPES["inverse-goal"].fits(heads)
    assert not Recipe(stage="intent").fits(heads)


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'icme'\. Did you mean 'icem'\?"):
        check_methods(("cem", "icme"))


def test_published_figures_say_where_they_come_from_and_at_what_distance() -> None:
    for figures in PUBLISHED.values():
        for text in figures.values():
            assert "(" in text
            assert "D " in text
