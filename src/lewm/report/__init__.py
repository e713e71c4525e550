"""One self-contained HTML page about a run, and the films in it."""

from pathlib import Path


def write_report(run: Path | str) -> Path:
    """Write ``report.html`` (and ``rollout.gif``, if there are episodes to show) into the run and return the page's path.

    Whatever the run holds is shown; a part that was not measured names the command that measures it. ``ConfigError`` if there is no run.
    """
    from lewm.report.page import write_page

    return write_page(Path(run))


__all__ = ["write_report"]
