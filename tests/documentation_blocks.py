"""Running the code blocks of the README and the docs, on a small scale."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
WORLDS_PAGE = ROOT / "docs" / "worlds.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SMALL_RUN = """
[train]
num_steps = 6
batch_size = 4
[planner]
num_candidates = 4
num_elites = 2
num_iterations = 1
"""
SHRUNK = {  # what makes a command of the documentation small; everything else runs as it stands
    r"--episodes (1000|500)\b": "--episodes 24",
    r"--episodes \d{3}\b": "--episodes 2",
    r"episodes=1000\b": "episodes=24",
    r"episodes=100\b": "episodes=2",
    r"--preset (laptop|dmc|atari)\b": r"--preset \1 --config small.toml",
    r"--preset ([\w-]+-(?:laptop|atariari))( --episodes \d+)?": r"--preset \1 --episodes 24 --max-env-steps 40",
    r"--train.num-steps \d+": "--train.num-steps 2",
    r"--(decoder|inverse-goal|intent|distance)\.num-steps \d+": r"--\1.num-steps 2",
    r"--head-steps \d+": "--head-steps 2",
    r"--(gcbc|gciql)\.num-steps \d+": r"--\1.num-steps 2",
    r"--num-frames \d+": "--num-frames 200",
    r"--supervised-steps \d+": "--supervised-steps 2",
    r'lewm\.load_preset\("laptop"\)': 'lewm.load_config(Path("small.toml"), lewm.load_preset("laptop"))',
}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def shrink(text: str) -> str:
    for pattern, replacement in SHRUNK.items():
        text = re.sub(pattern, replacement, text)
    return text


def furnish(place: Path) -> Path:
    """Put a small demo into a directory in which blocks are to run: later blocks use what earlier ones made."""
    (place / "docs").symlink_to(ROOT / "docs")
    (place / "small.toml").write_text(SMALL_RUN)
    for words in (
        "collect two-room --out runs/demo/data --episodes 24",
        "train --data runs/demo/data --out runs/demo --preset laptop --config small.toml",
        "eval success runs/demo --episodes 2 --json runs/demo/results/success-25.json",
    ):
        run([sys.executable, "-m", "lewm.cli", *shlex.split(words)], place)
    return place


def run(command: list[str], place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def run_page(page: Path, place: Path) -> None:
    """Every block of a page, from top to bottom."""
    for language, text in blocks(page):
        if language == "python":
            for name in re.findall(r"Save this as `(\w+\.py)`", page.read_text()):
                (place / name).write_text(text)
            (place / "block.py").write_text(f"from pathlib import Path\n{shrink(text)}")
            run([sys.executable, "block.py"], place)
        elif language == "toml":
            tomllib.loads(text)
        elif language == "bash":
            for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
                run_line(shlex.split(shrink(line)), place)
        else:
            assert language in ("text", "bibtex"), f"a block of {language or 'no language'} is not tested: make it text, or teach this test to run it"


def run_line(words: list[str], place: Path) -> None:
    if words[0] == "make":  # the real thing takes minutes: that the target exists and what it would run
        run(["make", "-n", "-C", str(ROOT), *words[1:]], place)
    elif words[0] in ("git", "cd", "pip"):
        return  # fetching this repository and installing it is what every test run begins with
    else:
        assert words[0] == "lewm", f"do not know how to test {words}"
        run([sys.executable, "-m", "lewm.cli", *words[1:]], place)
