"""The figures every table has: what is drawn of numbers, verdicts and curves is what the table says."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from ablate.report.contents import draw_all
from ablate.report.figures.columns import draw_columns
from ablate.report.figures.overview import draw_training, draw_verdicts
from ablate.report.figures.pictures import MOST_PNG_BYTES, Picture
from ablate.report.figures.series import arrange
from ablate.report.formats import MASKED
from ablate.report.results import Results, Trial
from ablate.report.tables import build_table, table_input
from ablate.report.verdicts.masking import Masked
from ablate.report.verdicts.noise import table_noise
from ablate.report.verdicts.verdicts import verdicts_of
from tests.support.tracking_world import plan_of

ABOVE = {"says": "More of it is better", "above": {"row": "512", "rows": ["256", "64"], "metrics": ["pgd20"]}}
RATIO = {"says": "R is near 6", "value": {"row": "512", "within": 0.5, "reference": 6.0, "metrics": ["energy/ratio"]}}


def results(
    rows: Sequence[str] = ("512", "256", "64"), seeds: int = 3, *, shared: bool = False, **given: Any
) -> Results:
    plan = plan_of(rows, range(seeds), shared=shared, **given)
    trials = {}
    for part in plan.trials:
        row, seed = rows.index(part.row), part.seed
        metrics = {"accuracy/natural": 80.0 - row + seed, "accuracy/pgd20": 40.0 - 5 * row + 0.1 * seed}
        curves = {"train/loss": {0: 2.0, 1: 1.0 + seed, 2: 0.5}, "energy/ratio": {0: 1.0, 1: 2.0, 2: 6.0 + row}}
        at_end = {"energy/ratio": 6.0 + row + 0.01 * seed}
        trials[part.row, seed] = Trial(part, "finished", metrics, at_end, trained=True, curves=curves)
    return Results.of_plan(plan, trials)


def columns(of: Results, masked: Sequence[Masked] = ()) -> list[Axes]:
    drawing = draw_columns(build_table(dataclasses.replace(table_input(of), masked=masked)), of)
    assert drawing is not None
    return [axes for axes in drawing.figure.axes if axes.get_visible()]


def points(axes: Axes, horizontal: bool) -> list[list[float]]:
    """The values that lines with markers go through, published first."""
    lines = [line for line in axes.lines if line.get_marker() in "oDs"]
    return [[float(v) for v in (line.get_xdata() if horizontal else line.get_ydata())] for line in lines]


@pytest.mark.parametrize("labels", [["512", "64"], ["0.9", "0", "-3"], ["1e3", "2"]])
def test_labels_that_are_numbers_are_a_line(labels: list[str]) -> None:
    [axis], words = arrange(labels, {})
    assert [line.at for line in axis.series] == [{label: float(label) for label in labels}] and words == []


@pytest.mark.parametrize("labels", [["512", "none"], ["1", "1.0"], ["nan", "1"], ["inf", "1"], ["7"], []])
def test_words_repeated_and_endless_numbers_are_none(labels: list[str]) -> None:
    assert arrange(labels, {}) == ([], labels)


def lines(settings: dict[str, dict[str, float]]) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    axes, words = arrange(list(settings), settings)
    return {axis.setting: {line.name: list(line.at.values()) for line in axis.series} for axis in axes}, words


def test_labels_that_share_their_words_are_a_line_where_the_number_is_a_settings_value() -> None:
    low, high = "measurement.lowpass_degree", "measurement.highpass_degree"
    degrees = {"32": 32, "4": 4, "Natural 32": 32, "Natural 4": 4}
    rows = {label: {"seed": 4.0, low: float(degree)} for label, degree in degrees.items()}
    rows |= {f"High-pass {degree}": {"seed": 4.0, high: float(degree)} for degree in (4, 16)} | {"Natural alone": {}}
    found = {low: {"": [32, 4], "Natural": [32, 4]}, high: {"High-pass": [4, 16]}}
    assert lines(rows) == (found, ["Natural alone"])
    bits = {f"QM-{n}{fat}": {"seed": 0.0, "bits": float(n)} for n in (32, 4, 2) for fat in ("", " + FAT")}
    assert lines(bits) == ({"bits": {"QM-n": [32, 4, 2], "QM-n + FAT": [32, 4, 2]}}, [])
    assert lines({f"{n} steps, eps 8": {"eps": 8.0, "steps": float(n)} for n in (1, 7)})[0] == {
        "steps": {"steps, eps 8": [1, 7]}
    }


@pytest.mark.parametrize(
    "labels", [["ResNet-20", "WRN-34-10"], ["variant 1", "variant 2"], ["CIFAR-10", "CIFAR-100"], ["a 4", "a 4.0"]]
)
def test_numbers_that_are_names_are_words(labels: list[str]) -> None:
    assert lines({label: {"seed": 0.0, "width": 4.0} for label in labels}) == ({}, labels)


def test_lines_and_words_are_drawn_apart() -> None:
    [natural, pgd, *words] = columns(results(("512", "256", "64", "none", "mix-up")))
    assert [axes.get_title() for axes in (natural, pgd, *words)] == ["Natural, %", "PGD-20, %"] * 2
    assert points(pgd, horizontal=False)[1] == pytest.approx([30.1, 35.1, 40.1])
    assert points(words[1], horizontal=True)[1] == pytest.approx([25.1, 20.1])
    assert [label.get_text() for label in words[0].get_yticklabels()] == ["none", "mix-up"]
    assert pgd.get_xlabel() == "batch size"


def test_numbers_are_an_axis_with_the_tables_means_above_it() -> None:
    natural, pgd = columns(results())
    assert natural.get_title() == "Natural, %" and pgd.get_title() == "PGD-20, %"
    assert natural.get_xscale() == "log"
    published, ours = points(pgd, horizontal=False)
    assert published == [42.5] * 3 and ours == pytest.approx([30.1, 35.1, 40.1])  # by the number, not by the row
    assert [label.get_text() for label in pgd.get_xticklabels()] == ["64", "256", "512"]


def test_words_are_rows_with_the_tables_means_beside_them() -> None:
    natural, pgd = columns(results(("a", "b"), published=False))
    assert points(natural, horizontal=True) == [pytest.approx([81.0, 80.0])]
    assert [label.get_text() for label in natural.get_yticklabels()] == ["a", "b"]
    dots = [line for line in pgd.lines if line.get_marker() == "."]
    assert sorted(float(x) for line in dots for x in line.get_xdata()) == pytest.approx(
        [35, 35.1, 35.2, 40, 40.1, 40.2]
    )


def test_scalars_of_claims_have_a_panel_too_and_masked_numbers_a_mark() -> None:
    of = results(claims=[RATIO])
    panels = columns(of, [Masked("256", "pgd20", 12.0, 0.001)])
    assert [axes.get_title() for axes in panels] == ["Natural, %", "PGD-20, %", "R = LFI/HFI"]
    marked = [axes.get_title() for axes in panels if any(text.get_text() == MASKED for text in axes.texts)]
    assert marked == ["PGD-20, %"]


def test_a_forest_has_each_comparison_with_its_interval_and_region() -> None:
    verdicts = verdicts_of(results(claims=[ABOVE, RATIO]))
    drawing = draw_verdicts(verdicts)
    assert drawing is not None
    points_panel, ratio = drawing.figure.axes
    assert (points_panel.get_xlabel(), ratio.get_xlabel()) == ("points of accuracy", "R = LFI/HFI")
    for axes, (ours, _) in zip((points_panel, ratio), verdicts, strict=True):
        drawn = {tuple(np.round(line.get_xdata(), 6)) for line in axes.lines if len(line.get_xdata()) == 2}
        for each in ours.comparisons:
            assert math.isfinite(each.low) and tuple(np.round([each.low, each.high], 6)) in drawn
    regions = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ratio.patches]
    assert regions == [(pytest.approx(5.5), pytest.approx(6.5))]
    assert [bar.get_x() for bar in points_panel.patches] == [0.0, 0.0]
    text = " ".join(each.get_text() for each in drawing.figure.findobj(Text))
    assert "1. More of it is better · exploratory" in text and "2. R is near 6 · exploratory" in text


@pytest.mark.parametrize("longest", [3, 20, 30, 40])
def test_names_of_comparisons_stand_apart_however_long(longest: int) -> None:
    rows = [f"{number} {'a name ' * 6}"[:longest] for number in range(6)]
    about = {"says": "words " * 30, "above": {"row": rows[0], "rows": rows[1:], "metrics": ["pgd20"]}}
    ratio = {"says": "words", "above": {"row": rows[0], "rows": rows[1:], "metrics": ["energy/ratio"]}}
    drawing = draw_verdicts(verdicts_of(results(rows, claims=[about, ratio])))
    assert drawing is not None
    drawing.figure.draw_without_rendering()
    for axes in drawing.figure.axes:
        boxes = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
        assert len(boxes) == 5 and all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)


def test_without_an_effect_there_is_no_forest() -> None:
    assert draw_verdicts([]) is None
    missing = results(rows=("512", "256"), claims=[ABOVE])  # a row of the claim is not there at all
    assert draw_verdicts(verdicts_of(missing)[:0]) is None


def test_curves_of_rows_that_share_a_training_are_one_line() -> None:
    for shared, lines in ((True, 1), (False, 3)):
        drawing = draw_training(results(shared=shared))
        assert drawing is not None
        panels = [axes for axes in drawing.figure.axes if axes.get_visible()]
        assert [axes.get_title() for axes in panels] == ["training loss", "R = |LFI| / |HFI|"]
        thick = [line for line in panels[0].lines if line.get_linewidth() > 1]
        assert len(thick) == lines and list(thick[0].get_ydata()) == [2.0, 2.0, 0.5]
        assert ("on one network" in drawing.caption) == shared


@pytest.mark.parametrize("longest", [3, 30, 60])
def test_names_of_any_length_stand_within_the_figure(longest: int) -> None:
    rows = [f"{number} {'a name ' * 9}"[:longest] for number in range(7)]
    of = results(rows, 1)
    for drawing in (draw_training(of), draw_columns(build_table(table_input(of)), of)):
        assert drawing is not None
        drawing.figure.draw_without_rendering()
        [legend] = drawing.figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= drawing.figure.bbox.width


def test_a_training_that_is_not_finished_is_drawn_as_far_as_it_is() -> None:
    of = results(("a", "b"), seeds=1)
    part = of.trials["b", 0].part
    trials = {
        **of.trials,
        ("b", 0): Trial(part, "training", problem="not finished", curves={"train/loss": {0: 2.0, 1: 1.5}}),
    }
    drawing = draw_training(Results.of_plan(of.planned, trials))
    assert drawing is not None
    assert sorted(len(line.get_xdata()) for line in drawing.figure.axes[0].lines) == [2, 3]


@pytest.mark.parametrize("rows", [("512", "256", "64"), ("a long label that has to be broken", "$x_1$", "100 %")])
@pytest.mark.slow
def test_every_picture_is_small_captioned_and_the_same_again(rows: tuple[str, ...]) -> None:
    claims = [{**ABOVE, "above": {"row": rows[0], "rows": list(rows[1:]), "metrics": ["pgd20"]}}]
    of = results(rows, claims=claims)
    drawn, again = draw_all(of), draw_all(of)
    assert list(drawn) == ["columns", "verdicts", "training"] and drawn == again
    for name, picture in drawn.items():
        assert picture.numbers.keys() == again[name].numbers.keys()
        for part, numbers in picture.numbers.items():
            np.testing.assert_array_equal(numbers, again[name].numbers[part])
    for picture in drawn.values():
        assert isinstance(picture, Picture) and len(picture.png) < MOST_PNG_BYTES and picture.caption
        assert picture._repr_png_() == picture.png


def test_of_what_is_not_measured_nothing_is_drawn() -> None:
    plan = plan_of(("a",), (0,))
    trials = {("a", 0): Trial(plan.trials[0], "missing", problem="not trained")}
    assert draw_all(Results.of_plan(plan, trials)) == {}


def test_what_images_were_right_is_fetched_once_of_each_trial() -> None:
    of = results(claims=[ABOVE])
    asked: list[str] = []

    def fetch(row: str) -> dict[str, np.ndarray[Any, Any]]:
        asked.append(row)
        return {"accuracy/pgd20": np.arange(360) < 180, "accuracy/natural": np.arange(360) < 300}

    trials = {
        (row, seed): dataclasses.replace(trial, correct=lambda row=row: fetch(row))  # type: ignore[misc]
        for (row, seed), trial in of.trials.items()
    }
    whole = Results.of_plan(of.planned, trials)
    assert verdicts_of(whole) and verdicts_of(whole) and table_noise(whole) is not None
    assert sorted(asked) == sorted(row for row, _ in trials)
