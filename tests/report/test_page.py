import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lewm.errors import ConfigError
from lewm.report import write_report
from lewm.report.evidence import Evidence, outcomes_on_shared_pairs, read_evidence
from lewm.report.gallery import Gallery
from lewm.report.page import render

SECTIONS = ("films", "story", "success", "training", "collapse", "latents", "measurements", "provenance")
VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags of a page with their attributes; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def text(finished_demo: Path) -> str:
    return (finished_demo / "report.html").read_text()


def test_the_page_nests_properly_and_its_ids_are_unique_and_resolvable(text: str) -> None:
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]+)\)", text) + [link[1:] for link in page.values("href") if link.startswith("#")]
    assert references
    assert set(references) <= set(ids)


def test_the_page_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for name in ("src", "srcset", "href", "xlink:href", "data", "poster"):
        assert all(value.startswith(("data:", "#")) for value in page.values(name))
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert re.findall(r"https?:", text) == []


def test_the_page_of_a_demo_has_every_section_and_asks_for_nothing_more(text: str) -> None:
    assert [attributes["id"] for tag, attributes in Page(text).tags if tag == "section"] == list(SECTIONS)
    assert 'class="hint"' not in text


def test_the_page_is_small_and_says_what_its_pictures_show(text: str) -> None:
    assert len(text.encode()) < 4_000_000
    page = Page(text)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")


def test_the_page_adapts_to_dark_mode_and_to_phones(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert re.findall(r"(?:fill|stroke): #0[1-7]{5}", text) == []  # no placeholder colour is left


def test_the_headline_comes_with_interval_n_and_floors_of_the_result(finished_demo: Path, text: str) -> None:
    result = json.loads((finished_demo / "results" / "success-25.json").read_text())
    header = text[text.index("<header>") : text.index("</header>")]
    success = result["success"]
    assert f"<em>{100 * success['rate']:.0f} %</em>" in header
    assert f"{100 * success['low']:.0f}\N{EN DASH}{100 * success['high']:.0f} %" in header
    assert f"n = {result['n']} " in header
    for floor in ("Random actions", "Doing nothing", "Random, held for a block"):
        assert floor in header
    assert result["protocol"]["manifest_sha256"] in text


def test_the_page_lists_every_command_of_the_demo(finished_demo: Path, text: str) -> None:
    commands = json.loads((finished_demo / "demo.json").read_text())["commands"]
    assert len(commands) == 7
    assert all(command in text for command in commands)


def test_a_run_with_metrics_alone_gets_a_page_that_says_what_to_run(finished_demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    shutil.copy(finished_demo / "metrics.jsonl", run)
    text = write_report(run).read_text()
    Page(text)
    for command in ("lewm eval success", "lewm eval probe", "lewm train --data DATA", "--objective.weight 0"):
        assert command in text
    assert not (run / "rollout.gif").exists()


def test_a_run_without_results_still_shows_its_latents(copied_run: Path) -> None:
    shutil.rmtree(copied_run / "results")
    text = write_report(copied_run).read_text()
    Page(text)
    assert f"lewm eval success {copied_run} --json {copied_run}/results/success.json" in text
    assert "of the variance" in text


def test_text_from_outside_is_escaped(copied_run: Path, tmp_path: Path) -> None:
    run = copied_run.rename(tmp_path / "<script>alert(1)&")
    probe = json.loads((run / "results" / "probe.json").read_text())
    name = next(iter(probe["labels"]))
    probe["labels"] = {"<img src=x>": probe["labels"][name]}
    (run / "results" / "probe.json").write_text(json.dumps(probe))
    text = render(read_evidence(run), Gallery())
    page = Page(text)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "&lt;script&gt;alert(1)&amp;" in text
    assert "&lt;img src=x&gt;" in text


def test_results_that_cannot_be_used_are_named_and_not_shown(copied_run: Path) -> None:
    other = json.loads((copied_run / "results" / "success-25.json").read_text()) | {"checkpoint_sha256": "0" * 64}
    (copied_run / "results" / "success-25.json").write_text(json.dumps(other))
    (copied_run / "results" / "broken.json").write_text("{")
    found = read_evidence(copied_run)
    assert [row.distance for row in found.success_rows()] == [50, 50]
    text = render(found, Gallery())
    assert "results/success-25.json is not shown: it measures another checkpoint" in text
    assert "results/broken.json is not shown: it cannot be read as JSON" in text


def test_every_result_is_shown_as_its_command_prints_it_with_its_picture_and_what_is_missing_names_its_command(copied_run: Path) -> None:
    results = copied_run / "results"
    sha256 = json.loads((results / "success-25.json").read_text())["checkpoint_sha256"]
    columns = "objective  success\nlewm       0.97 <best>"
    about = {"format": 1, "table": columns}
    (results / "lab.json").write_text(json.dumps({"evaluation": "lab", **about}))  # of no checkpoint
    (results / "robustness.json").write_text(json.dumps({"evaluation": "robustness", "checkpoint_sha256": sha256, **about}))
    (results / "robustness.png").write_bytes(b"\x89PNG")
    text = write_report(copied_run).read_text()
    Page(text)
    assert text.count("lewm       0.97 &lt;best&gt;") == 2
    assert "results/robustness.png" in text
    assert "The collapse lab" in text
    for command in ("lewm eval surprise", "lewm eval collapse", "--stage decoder --data DATA"):
        assert command in text
    assert "lewm eval robustness" not in text
    assert "lewm eval atari-labels" not in text


def test_a_result_whose_columns_are_not_there_says_so_instead_of_stopping_the_page(copied_run: Path) -> None:
    results = copied_run / "results"
    sha256 = json.loads((results / "success-25.json").read_text())["checkpoint_sha256"]
    (results / "surprise.json").write_text(json.dumps({"evaluation": "surprise", "format": 1, "checkpoint_sha256": sha256}))
    assert "This result cannot be shown: KeyError" in write_report(copied_run).read_text()


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no run at .*`lewm demo` or `lewm train` makes one"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_a_distance_was_measured_twice_the_larger_n_counts(copied_run: Path) -> None:
    small = json.loads((copied_run / "results" / "success-25.json").read_text())
    for entry in small["by_distance"]["25"]["strata"].values():
        entry["n"] = 1
    (copied_run / "results" / "success-zzz.json").write_text(json.dumps(small))
    rows = read_evidence(copied_run).success_rows()
    assert [(row.distance, row.stratum, row.fields["n"]) for row in rows] == [
        (25, "cross-room", 2),
        (25, "same-room", 2),
        (50, "cross-room", 1),
        (50, "same-room", 1),
    ]


def test_runs_are_compared_on_pairs_with_the_same_states_only(evidence: Evidence) -> None:
    assert evidence.control is not None
    own, control = outcomes_on_shared_pairs(evidence, evidence.control, 25, "cross-room")
    assert len(own) == len(control) == 1
    result = json.loads(json.dumps(evidence.control.results["success"][0]))
    for pair in result["manifest"]["pairs"]:
        pair["start_state"] = pair["goal_state"]
    elsewhere = Evidence(**{**vars(evidence.control), "results": {"success": [result]}})
    assert len(outcomes_on_shared_pairs(evidence, elsewhere, 25, "cross-room")[0]) == 0


def test_results_on_rows_of_a_dataset_are_not_shown_as_goals_never_trained_on(copied_run: Path) -> None:
    file = copied_run / "results" / "success-25.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"protocol": result["protocol"] | {"name": "official"}}))
    found = read_evidence(copied_run)
    assert [row.distance for row in found.success_rows()] == [50, 50]
    assert "results/success-25.json is not shown: the pairs of protocol &#x27;official&#x27; are rows of a dataset" in render(found, Gallery())
