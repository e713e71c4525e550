"""The names of environments: families without a member, misspelled members, and extras that are not installed."""

import subprocess
import sys

import pytest

import lewm
from lewm.envs.base import canonical_name
from lewm.errors import EnvError, UnknownNameError
from lewm.registry import ENVS, Entry, Table

OWN = {name: ENVS.entry(name) for name in ENVS if ENVS.entry(name).target.startswith("lewm.")}
MARKS = {"dmc/": [pytest.mark.mujoco], "ogbench/": [pytest.mark.mujoco], "atari/": [pytest.mark.atari]}
FAMILIES = [pytest.param(name, marks=MARKS.get(name, [])) for name in OWN if name.endswith("/")]


@pytest.mark.parametrize("name", [name for name, entry in OWN.items() if entry.extra])
def test_an_environment_whose_extra_is_missing_says_how_to_install_it(name: str) -> None:
    entry, asked = ENVS.entry(name), f"{name}something" if name.endswith("/") else name
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[need.replace('-', '_') for need in entry.needs]}))\n"
        "import lewm\n"
        "from lewm.errors import MissingExtraError\n"
        "try:\n"
        f"    lewm.make_env({asked!r})\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    needs = ", ".join(map(repr, entry.needs))
    assert done.stdout.strip() == f"env {asked!r} needs {needs}: pip install 'lewm[{entry.extra}]'"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_misspelled_member_is_refused_with_the_nearest_one(family: str) -> None:
    name = family + ENVS.members(family)[0]
    with pytest.raises(UnknownNameError, match=rf"unknown env '{name}_'\. Did you mean '{name}'\? Known: {family}"):
        lewm.make_env(f"{name}_")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [lewm.make_env, lambda name: lewm.make_batch(name, 1)], ids=["env", "batch"])
def test_a_family_without_a_member_is_refused_with_its_members(family: str, make) -> None:
    with pytest.raises(UnknownNameError, match=rf"env '{family}' is a family, not one env: say which of its members\. Known: {family}"):
        make(family)


@pytest.mark.parametrize(
    "name", ["two-room", pytest.param("dmc/reacher-easy", marks=pytest.mark.mujoco), pytest.param("atari/pong", marks=pytest.mark.atari)]
)
@pytest.mark.parametrize("option", ["name", "num_envs", "self", "cls", "domain", "task", "rom_id", "workers"])
def test_an_option_called_as_a_parameter_is_refused_as_any_unknown_one(name: str, option: str) -> None:
    with pytest.raises(EnvError, match=rf"has no option '{option}'.* Known: "):
        lewm.make_batch(name, 1, **{option: "x"})


@pytest.mark.parametrize(("name", "own_name"), [("two-room", "two-room"), ("no-such-world", "no-such-world"), ("shared-room", "shared-room")])
def test_a_name_is_canonical_unless_its_class_answers_to_another(name: str, own_name: str) -> None:
    if "shared-room" not in ENVS:
        ENVS.add("shared-room", Entry(target="toy_world:ToyWalk", summary="the tests' own world"))
    assert canonical_name(name) == own_name


@pytest.mark.atari
def test_two_spellings_of_a_game_have_one_canonical_name() -> None:
    assert canonical_name("atari/mspacman") == canonical_name("atari/ms_pacman") == "atari/ms_pacman"


def test_a_family_answers_for_its_members_and_is_adopted_under_its_own_name() -> None:
    entry = Entry(target="toy_world:family", summary="")
    table, other = Table("env", {"my/": entry}), Table("env", {"my/walk": Entry(target="toy_world:ToyWalk", summary="")})
    assert table.matched("my/walk") == ("my/", entry)
    other.adopt(*table.matched("my/walk"))
    other.adopt(*table.matched("my/run"))
    assert other.entry("my/run") is entry
    assert other.entry("my/walk") is not entry
