"""The names of environments: families without a member, misspelled members, and extras that are not installed."""

import functools
import subprocess
import sys

import pytest

import lewm
from lewm.errors import UnknownNameError
from lewm.registry import ENVS

OWN = {name: ENVS.entry(name) for name in ENVS if ENVS.entry(name).target.startswith("lewm.")}
MARKS = {"dmc/": [pytest.mark.mujoco], "atari/": [pytest.mark.atari]}
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
@pytest.mark.parametrize("make", [lewm.make_env, functools.partial(lewm.make_batch, num_envs=1)], ids=["env", "batch"])
def test_a_family_without_a_member_is_refused_with_its_members(family: str, make) -> None:
    with pytest.raises(UnknownNameError, match=rf"env '{family}' is a family, not one env: say which of its members\. Known: {family}"):
        make(family)
