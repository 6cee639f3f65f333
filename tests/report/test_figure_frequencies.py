"""Figures of what networks see at which frequency, and of what is made on one and classified by another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ablate.report.figures.frequencies import draw_corruptions, draw_epochs, draw_gradient_spectrum, draw_transfer
from ablate.spaces.figures import Draw, FigureData, RowData
from tests.support.figure_data import data_of, pictures, seen

TWO = data_of("Natural", "Adversarial")


def test_the_gradients_figure_has_a_line_of_each_row_on_one_scale() -> None:
    drawing = draw_gradient_spectrum(TWO)
    assert drawing is not None and "Mean frequency on clean images" in drawing.caption
    clean, adversarial = drawing.figure.axes
    assert clean.get_ylim() == adversarial.get_ylim() and clean.get_xlim() == adversarial.get_xlim()
    for axes, name in ((clean, "clean"), (adversarial, "adversarial")):
        for line, seeds in zip(axes.lines, TWO.rows.values(), strict=False):
            mean = np.mean([seen.arrays[f"gradient_spectrum/{name}"] for seen in seeds.values()], axis=0)
            assert np.allclose(line.get_ydata(), mean[:9])  # 16 x 16 pixels: circles leave the square beyond 8


def test_corruptions_are_in_the_order_of_their_frequency_with_every_rows_accuracy() -> None:
    drawing = draw_corruptions(TWO)
    assert drawing is not None and "(closed forms)" in drawing.caption
    first = TWO.rows["Natural"][0].arrays
    order = np.argsort(first["corruptions/frequency"].mean(axis=1))
    above, below = drawing.figure.axes
    shown = [str(first["corruptions/names"][place]).replace("_", " ") for place in order]
    assert [label.get_text() for label in below.get_yticklabels()] == shown
    for line, seeds in zip(above.lines, TWO.rows.values(), strict=True):
        accuracy = np.mean([seen.arrays["corruptions/accuracy"].mean(axis=1) for seen in seeds.values()], axis=0)
        assert np.allclose(line.get_ydata(), accuracy[order])
        assert np.allclose(line.get_xdata(), first["corruptions/frequency"].mean(axis=1)[order])


def test_points_of_corruptions_are_no_other_rows() -> None:
    drawing = draw_corruptions(data_of(*(f"row {n}" for n in range(16)), seeds=1))
    assert drawing is not None
    looks = {(line.get_color(), line.get_marker()) for line in drawing.figure.axes[1].lines}
    assert len(looks) == 16  # in the lower panel nothing else tells them apart


def test_transfer_is_a_matrix_of_what_was_made_on_one_row_and_classified_by_another() -> None:
    drawing = draw_transfer(TWO)
    [shares] = pictures(drawing)  # made on Natural alone, classified by both
    means = [np.mean([seen.scalars["transfer_Natural"] for seen in seeds.values()]) for seeds in TWO.rows.values()]
    assert shares.shape == (2, 1) and np.allclose(shares[:, 0], means)
    assert drawing is not None and "made on Natural and classified by Adversarial: " in drawing.caption
    [frame] = drawing.figure.axes[0].patches
    assert frame.get_bbox().contains(0, 0)


def test_examples_of_the_very_same_network_behind_a_filter_are_framed_and_are_not_what_transfers() -> None:
    rows = {
        label: {0: RowData({}, {"natural": 90.0, "transfer_a": found}, training=training)}
        for label, training, found in (("a", "one", 1.0), ("a filtered", "one", 2.0), ("b", "two", 50.0))
    }
    drawing = draw_transfer(FigureData(rows))
    assert drawing is not None and "made on a and classified by b: 50 %" in drawing.caption
    assert sorted(round(frame.get_bbox().y0) for frame in drawing.figure.axes[0].patches) == [0, 1]


@pytest.mark.parametrize("drawer", [draw_gradient_spectrum, draw_corruptions])
def test_an_analysis_of_one_network_is_one_line_and_other_networks_of_one_training_are_others(drawer: Draw) -> None:
    def row(number: int, network: str | None = None, seeds: int = 2) -> dict[int, RowData]:
        settings = {"measurement": {"network": network}}
        return {s: dataclasses.replace(seen(number), training=f"key {s}", settings=settings) for s in range(seeds)}

    rows = {"plain": row(0), "filtered": row(0, seeds=1), "averaged": row(1, "ema")}
    drawing = drawer(FigureData(rows))
    assert drawing is not None
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == ["plain", "averaged"]


def test_rows_of_one_training_are_one_line_of_the_figure_over_epochs() -> None:
    profile = {"spectrum/profile": np.linspace(2.0, 0.1, 12)}
    curve = {"energy/ratio": {0: 1.0, 1: 2.0, 2: 3.0}}
    early, late = ({0: RowData({}, {}, curve, {epoch: profile}, "key")} for epoch in (1, 2))
    drawing = draw_epochs(FigureData({"epoch 1": early, "epoch 2": late}))
    assert drawing is not None and "epoch 1 to epoch 2 from" in drawing.caption
    ratio, spectra = drawing.figure.axes
    assert [line.get_label() for line in spectra.lines[:2]] == ["epoch 1", "epoch 2"]
    assert len(ratio.lines) == 1 and ratio.lines[0].get_markevery() == [1, 2]
    assert draw_epochs(FigureData({"epoch 1": early})) is None
