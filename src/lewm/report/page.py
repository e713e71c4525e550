"""The page as a whole: evidence and gallery in, one HTML file out."""

from pathlib import Path

from lewm.data.durable import write_atomically
from lewm.report import comparison, landmark_figure, markup, sections
from lewm.report.evidence import Evidence, read_evidence
from lewm.report.gallery import Gallery, make_gallery
from lewm.report.measurements import measurements

PAGE, GRID = "report.html", "rollout.gif"


def write_page(run: Path) -> Path:
    """Write the page (and the grid of films beside it) into a run; returns the page's path."""
    evidence = read_evidence(run)
    gallery = make_gallery(evidence)
    page = run / PAGE
    if gallery.grid is not None:
        write_atomically(run / GRID, gallery.grid.gif)
    write_atomically(page, render(evidence, gallery).encode())
    return page


def render(evidence: Evidence, gallery: Gallery) -> str:
    """The page's HTML."""
    main = (
        _films(evidence, gallery),
        sections.story(evidence),
        *_imagination(gallery),
        sections.success(evidence),
        *landmark_figure.section(evidence),
        sections.training(evidence),
        comparison.collapse(evidence),
        comparison.latent_space(evidence, gallery, sections.probe(evidence)),
        measurements(evidence),
        comparison.provenance(evidence),
    )
    body = "\n".join((sections.header(evidence), "<main>", *main, "</main>", comparison.footer()))
    return markup.document(f"LeWorldModel: {evidence.run.name or evidence.run}", body)


def _imagination(gallery: Gallery) -> list[str]:
    """What the run's decoder draws; nothing where there is none."""
    film = gallery.imagination
    if film is None:
        return []
    shown = markup.film(film.gif, film.still, title=film.title, caption=film.caption, width=film.width, height=film.height)
    return [markup.section("imagination", "Watch it imagine", shown)]


def _films(evidence: Evidence, gallery: Gallery) -> str:
    title = "Watch it plan"
    if gallery.grid is None:
        return markup.section(
            "films",
            title,
            markup.hint("There are no evaluated episodes to show yet. These commands make them:", *sections.measure(evidence, "success")),
        )
    films = [
        markup.film(film.gif, film.still, title=film.title, caption=film.caption, width=film.width, height=film.height)
        for film in (gallery.grid, *gallery.films)
    ]
    words = markup.paragraph("Below, what the agent sees is on the left and the goal that it was shown on the right.") if gallery.films else ""
    return markup.section("films", title, films[0], words, f'<div class="films">{"".join(films[1:])}</div>')
