"""Figures from arrays: right numbers in the right panels, any table, and files that fit a page."""

from __future__ import annotations

import dataclasses
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ablate.analysis.bands import third_edges
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.report.figures.curves import (
    draw_overfitting,
    draw_ratio,
    draw_similarity,
    draw_similarity_by_architecture,
    draw_spectra,
)
from ablate.report.figures.heat_map import draw_heat_maps
from ablate.report.figures.kernels import draw_first_kernels, draw_kernel_spectra, draw_quantized_kernels
from ablate.report.figures.pictures import MOST_PNG_BYTES, draw, picture
from ablate.report.figures.style import COLOURS, PHONE_IN, STYLE, format_metric, mosaic, shared_colours
from ablate.spaces.figures import (
    Draw,
    Drawing,
    FigureData,
    RowData,
    analyses_for,
    drawer_of,
    draws,
    figure_kind,
    figure_names,
    register_figure,
)
from tests.support.figure_data import data_of, pictures, seen

SHIPPED = [
    *map(str, range(2, 9)),
    *("gradient_spectrum", "corruptions", "transfer", "epochs", "filters", "heat_map", "overfitting"),
]


TWO = data_of("Natural", "Adversarial")


@pytest.fixture(autouse=True)
def _known_figures_stay() -> Iterator[None]:
    with temporary_registrations(), matplotlib.rc_context(STYLE):
        yield


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.slow
def test_files_are_small_whole_and_the_same_each_time(name: str) -> None:
    picture = draw(name, TWO)
    assert picture is not None and picture.caption.endswith(".") and picture.title
    assert len(picture.png) < MOST_PNG_BYTES
    image = Image.open(io.BytesIO(picture.png))
    image.load()
    assert image.width >= 600
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
    again = draw(name, TWO)
    assert again is not None and (again.png, again.svg) == (picture.png, picture.svg)


@pytest.mark.parametrize("name", SHIPPED)
def test_without_what_it_is_drawn_from_there_is_no_figure(name: str) -> None:
    assert draw(name, FigureData({})) is None
    assert draw(name, FigureData({"Natural": {}, "Adversarial": {0: RowData()}})) is None


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.slow
def test_many_rows_with_any_label_and_one_that_is_not_measured_yet(name: str) -> None:
    labels = [f"row {n} & $x_{n} < 'quoted'$ \\frac" for n in range(5)]
    data = data_of(*labels, seeds=1, filters=4)
    picture = draw(name, FigureData({**data.rows, "later": {0: RowData()}}))
    assert picture is not None and len(picture.png) < MOST_PNG_BYTES
    assert "later" not in picture.caption


def test_one_row_is_enough() -> None:
    assert all(draw(name, data_of("alone", seeds=1, filters=4)) is not None for name in ("2", "5", "7", "8"))


def test_no_window_and_no_state_is_left_behind() -> None:
    before = dict(matplotlib.rcParams)
    draw("6", TWO)
    assert dict(matplotlib.rcParams) == before


# -- what is in them -------------------------------------------------------------------------------------------------


def test_figure_2_shows_the_mean_spectra_and_the_profile() -> None:
    drawing = draw_spectra(TWO)
    shown = pictures(drawing)
    assert len(shown) == 6 and drawing is not None
    rows = list(TWO.rows.values())
    assert np.allclose(shown[2], np.mean([s.arrays["spectrum/difference"] for s in rows[0].values()], axis=0))
    assert np.allclose(shown[3], np.mean([s.arrays["spectrum/clean"] for s in rows[1].values()], axis=0))
    assert "50.5 ± 0.7 % (2 seeds)" in drawing.caption


def test_figure_2_marks_the_square_that_the_share_is_of() -> None:
    drawing = draw_spectra(data_of("a", seeds=1))
    assert drawing is not None
    axes = drawing.figure.axes[0]
    left, right, _, _ = axes.get_images()[0].get_extent()
    assert right - left == 16 and left == -8.5  # the pixel of frequency 0 lies around 0
    square = axes.patches[0].get_bbox()
    assert square.x0 == pytest.approx(-4.5, abs=0.2) and square.x1 == pytest.approx(3.5, abs=0.2)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_label_is_left_as_markup(name: str) -> None:
    """Labels are taken as they are, so that ticks must not be written as mathematics."""
    drawer = {"2": draw_spectra, "3": draw_first_kernels, "4": draw_kernel_spectra, "5": draw_ratio}.get(name)
    drawing = (drawer or (draw_similarity if name in "67" else draw_quantized_kernels))(TWO)
    assert drawing is not None
    drawing.figure.draw_without_rendering()
    assert not [text for text in drawing.figure.findobj(Text) if "$" in text.get_text() or "\\" in text.get_text()]


def test_figure_3_has_channels_downwards_and_filters_across() -> None:
    drawing = draw_first_kernels(data_of("a", "b", seeds=1))
    first = pictures(drawing)[0]
    assert first.shape == (3 * 4 - 1, 16 * 4 - 1)
    kernels = seen(0).arrays["first_kernels/kernels"]
    blue_of_second = first[8:11, 4:7]
    assert np.allclose(blue_of_second, kernels[1, 2] / np.abs(kernels).max())


def test_figure_4_has_a_line_of_panels_for_each_row_of_the_table() -> None:
    shown = pictures(draw_kernel_spectra(TWO))
    assert [image.shape for image in shown].count((16, 27)) == 2
    assert len(shown) == 8 and all(image.max() == 1.0 for image in shown)


@pytest.mark.parametrize("filters", [2, 5])
def test_figure_3_of_few_filters_is_narrow_and_has_no_empty_places(filters: int) -> None:
    data = FigureData({row: {0: seen(0, filters=filters)} for row in ("Natural", "Adversarial")})
    drawing = draw_first_kernels(data)
    assert drawing is not None and drawing.figure.get_figwidth() <= PHONE_IN
    for axes in drawing.figure.axes[:2]:
        [image] = axes.images
        assert axes.get_xlim() == (-0.5, np.shape(image.get_array())[1] - 0.5)
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(n + 1) for n in range(filters)]


def test_figure_4_of_networks_with_different_numbers_of_groups() -> None:
    few = seen(1)
    short = {name: array for name, array in few.arrays.items() if name != "kernel_spectra/group3"}
    short["kernel_spectra/layers"] = np.array(["a", "b", "c"])
    data = FigureData({"four": {0: seen(0)}, "three": {0: RowData(short)}})
    assert len(pictures(draw_kernel_spectra(data))) == 7


def test_figure_5_draws_mean_and_spread_over_the_seeds() -> None:
    drawing = draw_ratio(TWO)
    assert drawing is not None
    axes = drawing.figure.axes[0]
    first, second = axes.get_lines()
    assert np.allclose(first.get_ydata(), 1.5 + np.arange(6)) and np.allclose(second.get_ydata(), 11.5 + np.arange(6))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(6.5 + math.sqrt(0.5))
    assert first.get_linestyle() != second.get_linestyle() and first.get_color() != second.get_color()
    assert "Natural from 1.50 to 6.50 in epoch 5" in drawing.caption


def test_figure_5_uses_the_epochs_that_all_seeds_have() -> None:
    data = FigureData({"a": {0: seen(0, epochs=3), 1: seen(1, epochs=7)}})
    drawing = draw_ratio(data)
    assert drawing is not None
    assert list(drawing.figure.axes[0].get_lines()[0].get_xdata()) == [0, 1, 2, 3]


def test_figure_6_and_7_share_one_scale() -> None:
    for drawer in (draw_similarity, draw_similarity_by_architecture):
        drawing = drawer(TWO)
        assert drawing is not None
        limits = {image.get_clim() for axes in drawing.figure.axes[:2] for image in axes.get_images()}
        assert limits == {(0, 1)}
        assert sum(axes.get_label() == "<colorbar>" for axes in drawing.figure.axes) == 1


def test_figure_7_takes_networks_of_different_depths() -> None:
    data = FigureData({f"net {n}": {0: seen(n, layers=n)} for n in (1, 3, 20, 53)})
    assert [len(image) for image in pictures(draw_similarity_by_architecture(data))] == [1, 3, 20, 53]


def test_figure_8_has_without_fat_above_with_fat() -> None:
    drawing = draw_quantized_kernels(data_of("QM-32", "QM-32 + FAT", "QM-4", "QM-4 + FAT", "other", seeds=1))
    assert drawing is not None
    places = {axes.get_title().split("\n")[0]: axes.get_position() for axes in drawing.figure.axes if axes.get_title()}
    for base in ("QM-32", "QM-4"):
        above, below = places[base], places[f"{base} + FAT"]
        assert above.y0 > below.y0 and above.x0 == pytest.approx(below.x0, abs=0.01)
    assert "3 levels" in "".join(axes.get_title() for axes in drawing.figure.axes)


def test_figure_heat_map_shares_one_scale_and_marks_the_thirds() -> None:
    rows = {
        label: {0: RowData({"heat_map/error": np.full((12, 12), error)}, {"heat_map/error_low": error})}
        for label, error in (("Natural", 11.0), ("Adversarial", 58.0), ("without", 30.0))
    }
    drawing = draw_heat_maps(FigureData(rows))
    assert drawing is not None
    images = [image for axes in drawing.figure.axes for image in axes.images]
    assert [image.get_clim() for image in images[:3]] == [(10.0, 60.0)] * 3
    axes = drawing.figure.axes[0]
    assert [(patch.get_x(), patch.get_width()) for patch in axes.patches] == [(-1.5, 3.0), (-3.5, 7.0)]
    assert [third_edges(12, name)[1] for name in ("low", "mid")] == [1, 3]  # the last of each, half a pixel inside
    assert "Natural: low third 11.0; Adversarial: low third 58.0" in drawing.caption


def test_a_mosaic_keeps_every_kernel_apart() -> None:
    kernels = np.arange(2 * 3 * 2 * 2, dtype=float).reshape(2, 3, 2, 2)
    picture = mosaic(kernels)
    assert picture.shape == (5, 8)
    assert np.array_equal(picture[3:5, 6:8], kernels[1, 2])
    assert np.isnan(picture[2]).all() and np.isnan(picture[:, 2]).all()
    assert np.isfinite(picture).sum() == kernels.size


def test_numbers_in_captions_say_their_spread_and_how_many() -> None:
    seeds = {n: RowData(scalars={"m": 0.1 * n}) for n in (1, 2)}
    assert format_metric(seeds, "m") == "0.15 ± 0.07 (2 seeds)"
    assert format_metric({1: seeds[1]}, "m", 1, percent=True) == "10.0 %"
    assert format_metric(seeds, "absent") is None
    assert format_metric({1: RowData(scalars={"m": math.nan})}, "m") is None


def test_the_palette_is_told_apart_by_the_colour_blind() -> None:
    # Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia; on linear RGB.
    blindness = np.array(
        [
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ]
    )
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in COLOURS])
    for matrix in blindness:
        perceived = np.clip(np.clip(colours**2.2 @ matrix.T, 0, 1), 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(perceived[:, None] - perceived[None], axis=2)
        assert distances[np.triu_indices(len(COLOURS), 1)].min() > 0.1


# -- a user's own ----------------------------------------------------------------------------------------------------


def test_a_users_own_figure_is_drawn_and_its_analyses_are_known() -> None:
    @register_figure("sparsity", title="Zeros", analyses=["sparsity"])
    def sparsity(data: FigureData) -> Drawing | None:
        figure = matplotlib.figure.Figure()
        figure.subplots().bar(list(data.rows), [1.0] * len(data.rows))
        return Drawing(figure, "Zeros everywhere.")

    assert analyses_for(["6", "sparsity", "7"]) == ("cka", "sparsity")
    picture = draw("sparsity", TWO)
    assert picture is not None and (picture.title, picture.caption) == ("Zeros", "Zeros everywhere.")


def test_a_taken_name_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(SpecError, match="expected a new name for figures, got '2'"):
        register_figure("2", title="Mine")(lambda data: None)
    with pytest.raises(SpecError, match="did you mean 'sparsity'"):
        register_figure("sparsity", title="Zeros")(lambda data: None)
        figure_kind("sparsty")


def test_every_shipped_figure_has_one_drawer_of_its_own_and_every_drawer_a_figure() -> None:
    drawers = {name: drawer_of(name) for name in figure_names()}
    assert list(drawers) == SHIPPED and len(set(drawers.values())) == len(SHIPPED)
    for name, drawer in drawers.items():
        assert drawer.__module__.startswith("ablate.report.figures."), name
        assert (drawer.__doc__ or "").startswith(f"Figure {name}"), name
    with pytest.raises(SpecError, match="expected a figure's name, got '9'"):
        draws("9")
    with pytest.raises(SpecError, match=r"got '2', registered by ablate\.report\.figures\.curves\.draw_spectra"):
        draws("2")(lambda data: None)


def test_a_figure_needs_no_file_of_its_own() -> None:
    made: dict[str, Draw] = {}
    exec("def drawer(data): return None", {"__name__": "typed_at_a_prompt"}, made)
    assert register_figure("typed", title="Typed")(made["drawer"]) is drawer_of("typed")


def test_the_same_module_may_be_imported_twice() -> None:
    def make() -> Draw:
        def drawer(data: FigureData) -> Drawing | None:
            return None

        return drawer

    first, second = make(), make()
    register_figure("mine", title="Mine")(first)
    register_figure("mine", title="Mine")(second)
    assert drawer_of("mine") is second


@pytest.mark.parametrize("drawer", [draw_ratio, draw_overfitting])
def test_rows_of_one_training_are_one_line(drawer: Draw) -> None:
    """Not lines that hide each other: filters in front of one network, say."""
    shared, rising = {s: seen(s) for s in range(2)}, {epoch: 2.0 * epoch for epoch in range(4)}
    curves = {"energy/ratio": rising, "validation/robust": rising}
    other = {s: dataclasses.replace(seen(s), curves=curves) for s in range(2)}
    drawing = drawer(FigureData({"plain": shared, "filtered": dict(shared), "another": other}))
    assert drawing is not None
    [axes] = drawing.figure.axes
    assert len(axes.lines) == 2
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert words == ["plain, filtered (2 seeds)", "another (2 seeds)"] and "plain and 1 more " in drawing.caption


@pytest.mark.parametrize("bar", [False, True])
def test_only_pictures_without_a_colour_map_change_light_and_dark(bar: bool) -> None:
    figure = Figure()
    axes = figure.gca()
    axes.plot([0, 1], [0, 1])
    if bar:
        shared_colours(figure, [axes], "accuracy, %", 0.0, 1.0, "viridis")
    assert picture("own", "Own", Drawing(figure, "What to see.")).lines is not bar
