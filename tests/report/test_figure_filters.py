"""Accuracy behind filters: lines of networks and kinds of filter, from no filter on."""

from __future__ import annotations

from ablate.report.figures.filters import draw_filters
from ablate.report.figures.style import COLOURS
from ablate.spaces.figures import FigureData, RowData
from tests.support.figure_data import settings_of


def filtered_rows() -> FigureData:
    """Two networks and two seeds behind both kinds of filter; robust ones lose less behind low-pass."""
    rows = {}
    for name, attack, slope in (("r", "pgd", 1.0), ("n", "none", 5.0)):
        for kind, degree in (("lowpass", 8), ("lowpass", 4), ("lowpass", 16), ("highpass", 2), ("highpass", 6)):
            lost = slope * (16 - degree if kind == "lowpass" else degree)
            settings = settings_of(attack, **{f"{kind}_degree": degree})
            rows[f"{name} {kind} {degree}"] = {
                seed: RowData(scalars={"natural": 80.0 + seed - lost}, settings=settings) for seed in (0, 2)
            }
    return FigureData(rows)


def test_figure_filters_has_a_line_of_each_network_and_kind_from_no_filter_on() -> None:
    drawing = draw_filters(filtered_rows())
    assert drawing is not None
    axes = drawing.figure.axes[0]
    lines = {(line.get_color(), line.get_linestyle()): line for line in axes.lines}
    assert list(lines[COLOURS[0], "-"].get_xdata()) == [2, 4, 8]  # cycles per image: half the degree
    assert list(lines[COLOURS[0], "-"].get_ydata()) == [81 - 12, 81 - 8, 81]
    assert list(lines[COLOURS[1], "--"].get_xdata()) == [0, 1, 3]
    assert list(lines[COLOURS[1], "--"].get_ydata()) == [81, 71, 51]
    [legend] = drawing.figure.legends
    assert [text.get_text() for text in legend.texts] == [
        f"{name}, {kind}" for name in ("robust", "natural") for kind in ("low-pass", "high-pass")
    ]
    assert axes.get_ylim() == (0, 100) and "cycles per image" in axes.get_xlabel()
    assert "robust behind low-pass at 4 cycles per image from 81.0 to 73.0 %" in drawing.caption
    assert "natural behind high-pass at 1 cycle per image from 81.0 to 71.0 %" in drawing.caption


def test_figure_filters_draws_high_pass_with_the_mean_as_a_kind_of_its_own_where_it_is_measured() -> None:
    rows = dict(filtered_rows().rows)
    rows |= {
        f"mean {degree}": {
            0: RowData(
                scalars={"natural": 60.0 - degree},
                settings=settings_of("pgd", highpass_degree=degree, highpass_keep_mean=True),
            )
        }
        for degree in (2, 6)
    }
    drawing, without = draw_filters(FigureData(rows)), draw_filters(filtered_rows())
    assert drawing is not None and without is not None
    dotted = {line.get_color(): line for line in drawing.figure.axes[0].lines if line.get_linestyle() == ":"}
    assert {colour: list(line.get_ydata()) for colour, line in dotted.items()} == {COLOURS[0]: [81, 58, 54]}
    assert "robust behind high-pass + mean at 1 cycle per image from 81.0 to 58.0 %" in drawing.caption
    assert "robust behind high-pass at 1 cycle per image" in drawing.caption and "Dotted" in drawing.caption
    assert len(without.figure.axes[0].lines) == len(drawing.figure.axes[0].lines) - 1
    assert "Dotted" not in without.caption and "+ mean" not in without.caption


def test_figure_filters_names_networks_of_one_kind_by_their_rows() -> None:
    rows = filtered_rows().rows
    wide = {**settings_of("pgd"), "model": {"width": 2.0}}
    more = {
        f"wide image {degree}": {0: RowData(scalars={"natural": 70.0}, settings={**wide, "measurement": measured})}
        for degree, measured in ((16, {}), (8, {"lowpass_degree": 8}))
    }
    drawing = draw_filters(FigureData({**rows, **more}))
    assert drawing is not None
    names = [text.get_text() for text in drawing.figure.legends[0].texts]
    assert "wide image 16, low-pass" in names and "r lowpass 8, low-pass" in names and "natural, low-pass" in names
    assert "wide image 16 behind low-pass at 4 cycles per image from 70.0 to 70.0 %" in drawing.caption
