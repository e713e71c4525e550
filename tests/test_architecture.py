"""Imports point one way, and the public surface is what it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lewm
from lewm.registry import TABLES

SOURCE = Path(lewm.__file__).parent
STAGES = [
    ("errors", "schema", "registry", "setting_checks", "planner_config", "config", "head_config", "config_files", "presets", "seeds", "versions"),
    ("policy_config",),
    ("models",),
    ("devices", "distributed", "objectives"),
    ("planning",),
    ("envs",),
    ("data",),
    ("run_directory", "checkpoint"),
    ("learned_policies",),
    ("official_weights",),
    ("evaluation",),
    ("resuming", "fine_tuning"),
    ("training",),
    ("head_fitting", "decoder_training", "head_training", "policy_training"),
    ("report", "deploy", "compat"),
    ("cards",),
    ("hub",),
    ("demo", "bench", "lab", "planner_lab"),
    ("commands",),
    ("cli",),
]
RANK = {name: rank for rank, names in enumerate(STAGES) for name in names}


def imports_of(file: Path) -> set[str]:
    """The stages of lewm that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lewm."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lewm.")}
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file):
    stage = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if stage == "__init__":
        return
    assert stage in RANK, f"{stage} has no place in the order of stages"
    later = {imported for imported in imports_of(file) if RANK[imported] > RANK[stage]}
    assert not later, f"{file.name} ({stage}) imports {later}, which come later"


def test_models_and_objectives_know_no_environment_and_planning_no_model_but_in_two_places():
    for stage in ("models", "objectives", "planning"):
        for file in (SOURCE / stage).glob("*.py"):
            assert "envs" not in imports_of(file)
    knowing = {file.name for file in (SOURCE / "planning").glob("*.py") if "models" in imports_of(file)}
    assert knowing == {"mpc.py", "costs.py"}


@pytest.mark.parametrize("name", lewm.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name):
    assert getattr(lewm, name).__doc__


def test_importing_lewm_imports_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, lewm; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, entries in TABLES.items() for name in entries])
def test_every_entry_of_every_table_leads_to_something_documented(table, name):
    member = TABLES[table].members(name)[0] if name.endswith("/") else ""
    assert TABLES[table].load(name + member).__doc__


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_stay_short(file):
    assert len(file.read_text().splitlines()) <= 400
