"""A space lists its figures by name, and its trials measure what those are drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate import spaces
from ablate.analysis.registry import analysis_names
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.spaces.figures import FigureData, RowData, analyses_for, figure_names, register_figure

SPACE = "title: t\nfigures: {figures}\nbase: {{measurement.analyses: {analyses}}}\nrows: [{{label: a}}, {{label: b}}]\n"


def analyses_of(folder: Path, figures: str, analyses: str = "[]") -> list[tuple[str, ...]]:
    path = folder / "own.yaml"
    path.write_text(SPACE.format(figures=figures, analyses=analyses))
    trials = spaces.expand(spaces.load_space(str(path)), spaces.load_preset("smoke"), [], [0, 1])
    return [trial.spec.measurement.analyses for trial in trials]


def test_every_trial_measures_what_its_figures_need(tmp_path: Path) -> None:
    assert analyses_of(tmp_path, '["2", "6", "7"]') == [("spectrum", "cka")] * 4
    assert analyses_of(tmp_path, '["5"]') == [()] * 4
    assert analyses_of(tmp_path, "[]") == [()] * 4


def test_analyses_that_were_asked_for_stay_and_none_runs_twice(tmp_path: Path) -> None:
    assert set(analyses_of(tmp_path, '["2", "3"]', "[cka, spectrum]")) == {("cka", "spectrum", "first_kernels")}


def test_an_unknown_figure_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"own.yaml:2: figures.1: expected a figure's name, got '22'; did you mean '2'"):
        analyses_of(tmp_path, '["2", "22"]')


def test_every_shipped_figure_needs_analyses_that_exist() -> None:
    assert set(analyses_for(["2", "3", "4", "5", "6", "7", "8"])) <= set(analysis_names())


def test_shipped_spaces_carry_the_papers_figures_once() -> None:
    papers = [space for space in spaces.space_names() if space != "datasets"]  # the same of other data
    listed = [name for space in papers for name in getattr(spaces.load_space(space).space, "figures", [])]
    assert sorted(name for name in listed if name.isdigit()) == ["2", "3", "4", "5", "6", "7", "8"]


def test_a_users_own_figure_counts_as_any_other(tmp_path: Path) -> None:
    with temporary_registrations():
        register_figure("mine", title="Mine", analyses=["cka"])(lambda data: None)
        assert "mine" in figure_names()
        assert analyses_of(tmp_path, "[mine]") == [("cka",)] * 4
    assert "mine" not in figure_names()


def test_rows_having_what_is_asked_for() -> None:
    both, one = RowData({"a/x": None}, {}, {"r": {0: 1.0}}), RowData({"a/x": None})  # type: ignore[dict-item]
    data = FigureData({"first": {1: one, 0: both}, "second": {0: RowData()}})
    assert list(data.having("a/x")["first"]) == [0, 1] and list(data.having("a/x")) == ["first"]
    assert list(data.having("a/x", "r")["first"]) == [0]
    assert data.having("nothing") == {}
