"""Factors, grids and what goes together stand for rows: their labels, order, settings, and the lines of mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.core.errors import SpecError
from ablate.spaces.factors import made_rows
from ablate.spaces.loading import load_space
from ablate.spaces.presets import load_preset
from ablate.spaces.space import SpaceFile
from ablate.spaces.trials import expand

FACTORS = """\
title: Two factors
factors:
  FAT:
    "off": {}
    "on": {model.quantization.fat: true}
  bits:
    "32": {}
    "4": {model: {quantization.bits: 4}}
"""
CLAIM = "claims:\n  - says: more\n    interaction: {factors: [FAT, bits], metrics: [pgd20]}\n"


def loaded(folder: Path, text: str) -> SpaceFile:
    path = folder / "own.yaml"
    path.write_text(text)
    return load_space(str(path))


def rows(folder: Path, text: str) -> dict[str, dict[str, object]]:
    return {row.label: row.set for row in loaded(folder, text).space.rows}


def test_every_combination_of_levels_is_a_row_the_first_factor_outermost(tmp_path: Path) -> None:
    assert rows(tmp_path, FACTORS) == {
        "FAT off, bits 32": {},
        "FAT off, bits 4": {"model.quantization.bits": 4},
        "FAT on, bits 32": {"model.quantization.fat": True},
        "FAT on, bits 4": {"model.quantization.fat": True, "model.quantization.bits": 4},
    }


def test_a_grid_is_every_combination_and_zip_is_side_by_side_after_listed_rows(tmp_path: Path) -> None:
    text = (
        "title: Both\nrows: [{label: plain}]\n"
        "grid: {training.attack.name: [none, pgd], training.augmentation.name: [none, cutout]}\n"
        "zip: {training.batch_size: [64, 128], training.learning_rate: [0.05, 0.1]}\n"
    )
    found = rows(tmp_path, text)
    assert list(found) == [
        "plain",
        "attack.name none, augmentation.name none", "attack.name none, augmentation.name cutout",
        "attack.name pgd, augmentation.name none", "attack.name pgd, augmentation.name cutout",
        "batch_size 64, learning_rate 0.05", "batch_size 128, learning_rate 0.1",
    ]  # fmt: skip
    assert found["batch_size 128, learning_rate 0.1"] == {"training.batch_size": 128, "training.learning_rate": 0.1}


def test_shorthands_are_plain_rows_to_a_launch_and_smoke_changes_them_by_label(tmp_path: Path) -> None:
    smoke = 'smoke: {rows: {"FAT on, bits 4": {set: {training.epochs: 1}, note: short}}}\n'
    own = loaded(tmp_path, FACTORS + smoke)
    trials = {trial.label: trial for trial in expand(own, load_preset("smoke"), [], [0])}
    assert trials["FAT on, bits 4"].spec.model.quantization.bits == 4
    assert trials["FAT on, bits 4"].spec.training.epochs == 1 and trials["FAT on, bits 4"].note == "short"
    assert trials["FAT on, bits 4"].where("model.quantization.bits").endswith("own.yaml:8")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_full_factorial_has_each_combination_once_in_order(levels: list[int]) -> None:
    factors = {f"f{n}": {str(k): {f"path{n}": k} for k in range(count)} for n, count in enumerate(levels)}
    made = made_rows(factors, {}, {})  # type: ignore[arg-type]
    assert [tuple(row.set.values()) for row in made] == list(itertools.product(*map(range, levels)))
    assert len({row.label for row in made}) == len(made)


def test_an_interaction_of_factors_is_about_four_rows(tmp_path: Path) -> None:
    [claim] = loaded(tmp_path, FACTORS + CLAIM).space.claims
    assert claim.interaction is not None and claim.interaction.factors is None
    assert dict(claim.interaction.named_rows()) == {
        "both": "FAT on, bits 4", "one": "FAT on, bits 32", "other": "FAT off, bits 4", "neither": "FAT off, bits 32",
    }  # fmt: skip
    three = FACTORS + '  width:\n    "1": {}\n    "2": {model.width: 2.0}\n'
    at = CLAIM.replace("[FAT, bits]", '[FAT, bits], at: {width: "2"}')
    [claim] = loaded(tmp_path, three + at).space.claims
    assert claim.interaction is not None and claim.interaction.both == "FAT on, bits 4, width 2"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[FAT, bits]", "[FTA, bits]", 11, "expected a factor of this space, got 'FTA'; did you mean 'FAT'?"),
        ("[FAT, bits]", "[FAT, bits], at: {wdith: x}", 11, "expected a factor of this space, got 'wdith'"),
        ("[FAT, bits]", "[FAT, bits], at: {bits: x}", 11, "expected another factor than the two that interact"),
        ("[FAT, bits]", "[FAT, FAT]", 11, "expected each factor once, got 'FAT' twice"),
        ("factors: [FAT, bits]", 'both: "FAT on", one: b, other: c, neither: d', 10, "expected a row of this space"),
        ('    "4":', '    "8": {model.quantization.bits: 8}\n    "4":', 12, "a factor of two levels, got 'bits' of 3"),
        ("quantization.bits: 4", "quantization.bist: 4", 8, "model.quantization.bist"),
        ("quantization.bits: 4", "quantization.fat: true", 8, "expected each setting in one factor"),
        ('    "off": {}', "    off2: 3", 4, "factors.FAT.off2: expected a mapping, got 3"),
        ("  FAT:", "  empty: {}\n  FAT:", 3, "expected at least 1 item, got 0"),
        ("factors:", "grid: {training.epochs: [1, {a: 2}]}\nfactors:", 2, "expected a plain value, got a mapping"),
        ("factors:", "grid: {training.epoch: [1, 2]}\nfactors:", 2, "expected a known setting"),
        ("factors:", "grid: {training.epochs: []}\nfactors:", 2, "expected at least 1 item, got 0"),
        ("factors:", "zip: {training.epochs: [1], model.width: [1.0, 2.0]}\nfactors:", 2, "expected as many values as"),
        ("factors:", "zip: {training.epochs: [1, 1]}\nfactors:", 2, "each row's label once, got 'epochs 1' twice"),
        ("factors:", 'smoke: {rows: {"FAT on": {}}}\nfactors:', 2, "smoke.rows.FAT on: expected a row's label"),
        ("  FAT:", f"  {'long ' * 20}:", 2, "expected names that make a label of at most 80 characters"),
    ],
)
def test_mistakes_are_refused_by_their_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    text = FACTORS + CLAIM
    assert old in text
    with pytest.raises(SpecError) as caught:
        loaded(tmp_path, text.replace(old, new, 1))
    assert f"own.yaml:{line}: " in str(caught.value) and message in str(caught.value)


def test_more_rows_than_anybody_means_are_refused_before_they_are_made(tmp_path: Path) -> None:
    grid = "grid: {" + ", ".join(f"{path}: [{', '.join(map(str, range(1, 41)))}]" for path in (
        "training.epochs", "training.batch_size", "training.attack.steps", "training.crop_padding",
    )) + "}\n"  # fmt: skip
    with pytest.raises(SpecError, match=r"own.yaml:2: grid: expected at most 1000 rows, got 2,560,000 combinations"):
        loaded(tmp_path, "title: Many\n" + grid)
