"""Every code block of the README and the docs runs, on a small scale: what a block says is what a user can type.

The page about worlds, which takes as long as the others together, has a file of its own, so that two processes share the work.
"""

import re
from pathlib import Path

import pytest

from documentation_blocks import PAGES, ROOT, WORLDS_PAGE, furnish, run_page
from lewm.evaluation.verify import verify_result


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """One directory for all pages."""
    return furnish(tmp_path_factory.mktemp("documentation"))


@pytest.mark.parametrize("page", [page for page in PAGES if page != WORLDS_PAGE], ids=lambda page: page.name)
def test_every_code_block_runs(page, place):
    run_page(page, place)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "results").glob("*.json")), ids=lambda file: file.stem)
def test_every_published_result_follows_from_its_episodes(file):
    assert verify_result(file)["is_verified"]
