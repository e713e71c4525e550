"""Every code block of the page about worlds runs, on a small scale."""

from documentation_blocks import WORLDS_PAGE, furnish, run_page


def test_every_code_block_runs(tmp_path):
    run_page(WORLDS_PAGE, furnish(tmp_path))
