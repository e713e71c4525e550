import re
from xml.etree import ElementTree

import numpy as np
import pytest

from lewm.report.figures import CONTROL, MAIN, curves, intervals, scatter, smoothed

LINES = [("LeWM", [0, 10, 20], [9.0, 2.0, 1.1], MAIN), ("control", [0, 10], [50.0, 51.0], CONTROL)]
RATE = {"rate": 0.5, "low": 0.2, "high": 0.8}


def draw_all(name: str) -> list[str]:
    points = np.random.default_rng(0).standard_normal((50, 2))
    return [
        curves(f"{name}a", LINES, title="SIGReg <&>", x_label="step", is_log=True, is_log_x=False, levels=[("floor", 1.05, "below")]),
        scatter(f"{name}b", points, points[:, 0], title="PCA", label="x", reach=4),
        intervals(f"{name}c", [("25 steps", RATE, {"random": RATE, "no_op": None}, None)], title="Goals reached"),
    ]


def test_figures_are_well_formed_and_follow_the_palette_of_the_page() -> None:
    for svg in draw_all("x"):
        assert ElementTree.fromstring(svg).tag == "svg"
        assert re.findall(r"#0[1-7]{5}", svg) == []
        assert "var(--muted)" in svg
        assert "#000000" not in svg  # black would vanish on a dark page


def test_the_same_numbers_give_the_same_picture() -> None:
    assert draw_all("x") == draw_all("x")


def test_ids_of_different_figures_never_meet() -> None:
    found = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (*draw_all("x"), *draw_all("y"))]
    assert sum(map(len, found)) == len(set.union(*found))


def test_words_stay_text_and_are_escaped() -> None:
    svg = draw_all("x")[0]
    words = ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter("text")]
    for word in ("SIGReg <&>", "step", "LeWM", "control", "floor"):
        assert word in words


def test_a_curve_of_one_point_is_drawn() -> None:
    assert "LeWM" in curves("one", [("LeWM", [5], [1.0], MAIN)], title="t", x_label="step", is_log_x=True)


def test_smoothing_removes_a_spike_and_keeps_a_level() -> None:
    assert smoothed([1, 1, 1, 100, 1, 1, 1]) == [1] * 7
    assert smoothed(list(range(20)))[10] == pytest.approx(10)
