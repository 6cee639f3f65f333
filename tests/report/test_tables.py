from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ablate.core.text import open_console
from ablate.report.formats import marks, number, to_csv, to_latex, to_markdown, to_terminal
from ablate.report.names import column_name
from ablate.report.results import Outcome, Results
from ablate.report.tables import Cell, Line, Table, TableInput, build_table
from ablate.spaces.specs import COLUMNS

EXACT = (*COLUMNS, "cw20_exact")
PUBLISHED = {
    "512": dict(zip(COLUMNS, (75.02, 70.70, 48.09, 42.89, 42.87, 62.40, 40.75), strict=True)),
    "128": dict(zip(COLUMNS, (76.89, 71.33, 50.14, 44.31, 44.23, 63.60, 40.58), strict=True)),
}


def results(
    rows: Mapping[str, Sequence[Mapping[str, float]]], problems: Mapping[tuple[str, int], str] | None = None
) -> Results:
    outcomes = {
        (row, seed): Outcome(f"{row} {seed}", values) for row, all_ in rows.items() for seed, values in enumerate(all_)
    }
    return Results(outcomes, problems or {})


def built(title: str, labels: Sequence[str], made: Results, **how: object) -> Table:
    return build_table(TableInput(title, labels, made, **how))  # type: ignore[arg-type]


def random_table(seeds: int = 3, rows: Sequence[str] = ("512", "128"), adaptive: bool = False, **how: object) -> Table:
    rng = np.random.default_rng(0)
    columns = [*EXACT, *(f"adaptive/{column}" for column in EXACT if adaptive)]
    made = results(
        {
            row: [dict(zip(columns, rng.uniform(20, 99, len(columns)), strict=True)) for _ in range(seeds)]
            for row in rows
        }
    )
    return built("Batch size", rows, made, published=PUBLISHED, **how)


def shown(table: Table, width: int, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(to_terminal(table, width))
    return stream.getvalue()


def line_of(table: Table, label: str, source: str) -> Line:
    row = next(row for row in table.rows if row.label == label)
    return next(line for line in row.lines if line.source == source)


# What a table says


def test_ours_is_the_mean_and_sample_deviation_over_seeds() -> None:
    table = built("t", ["a"], results({"a": [{"pgd20": 40.0}, {"pgd20": 43.0}, {"pgd20": 41.5}]}))
    cell = line_of(table, "a", "ours").cells["pgd20"]
    assert cell.value == pytest.approx(41.5)
    assert cell.deviation == pytest.approx(1.5)
    assert line_of(table, "a", "ours").n == 3
    assert "3 seeds" in table.caption


def test_one_seed_has_no_deviation() -> None:
    table = built("t", ["a"], results({"a": [{"pgd20": 40.0}]}))
    assert line_of(table, "a", "ours").cells["pgd20"].deviation is None
    assert "±" not in to_markdown(table) and "one seed" in table.caption


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.dictionaries(st.sampled_from(EXACT), st.floats(0, 100), min_size=1),
        min_size=1,
    )
)
@settings(max_examples=60)
def test_bold_is_the_highest_of_its_column_among_ours_and_among_published(values: dict[str, dict[str, float]]) -> None:
    rows = list(values)
    turned = {row: {column: 100.0 - v for column, v in numbers.items()} for row, numbers in values.items()}
    table = built("t", rows, results({row: [values[row]] for row in rows}), published=turned)
    for source, numbers in (("ours", values), ("published", turned)):
        for column in EXACT:
            having = {row: numbers[row][column] for row in rows if column in numbers[row]}
            best = {row for row in having if line_of(table, row, source).cells[column].best}
            assert best == (
                {row for row, v in having.items() if v == max(having.values())} if len(having) > 1 else set()
            )


def test_bold_reaches_every_format_but_csv() -> None:
    table = built("t", ["a", "b"], results({"a": [{"pgd20": 41.25}], "b": [{"pgd20": 40.5}]}))
    assert "**41.25**" in to_markdown(table) and "**40.50**" not in to_markdown(table)
    assert r"\textbf{41.25}" in to_latex(table) and r"\textbf{40.50}" not in to_latex(table)
    assert re.search(r"\x1b\[1m41\.25", shown(table, 100, colour=True))
    assert not re.search(r"\x1b\[1m40\.50", shown(table, 100, colour=True))


def test_differences_only_on_the_paper_s_data() -> None:
    theirs, others = random_table(paper_data=True), random_table(paper_data=False, data="digits")
    difference = line_of(theirs, "128", "difference").cells
    assert set(difference) == set(COLUMNS)
    for column, cell in difference.items():
        assert cell.value == pytest.approx(
            line_of(theirs, "128", "ours").cells[column].value - PUBLISHED["128"][column]
        )
    assert all(line.source != "difference" for row in others.rows for line in row.lines)
    for text in (shown(others, 120), to_markdown(others), to_latex(others)):
        assert "no difference" in " ".join(text.split()) and "digits" in text
    assert "difference" not in to_csv(others)


def test_columns_are_the_paper_s_then_what_was_measured_beside_them() -> None:
    assert random_table().columns == EXACT
    assert built("t", ["a"], results({})).columns == COLUMNS
    scalars = built("t", ["a"], results({"a": [{"energy/ratio": 2.0304, "pgd20": 1.0}]}), extra=["energy/ratio"])
    assert scalars.columns[-1] == "energy/ratio"
    assert "2.030" in to_markdown(scalars) and "**" not in to_markdown(scalars).replace("**t**", "")


def test_bands_stand_from_low_to_high_and_shares_of_images_have_two_decimals() -> None:
    numbers = {"natural": 50.0, "pgd20_high": 3.0, "pgd20_low": 1.0, "pgd20_mid": 2.0, "mine": 4.0}
    numbers |= {"corruptions/contrast": 25.054, "energy/ratio": 1.5}
    table = built("t", ["a"], results({"a": [numbers]}), asked={*numbers} - {"corruptions/contrast", "energy/ratio"},
                  extra=["corruptions/contrast", "energy/ratio"])  # fmt: skip
    assert table.columns[:5] == ("natural", "pgd20_low", "pgd20_mid", "pgd20_high", "mine")
    assert "| 25.05 | 1.500 |" in to_markdown(table)


def test_many_scalars_stay_readable_on_a_terminal() -> None:
    names = [f"analysis/number_{n}" for n in range(12)]
    values = {name: n + 0.125 for n, name in enumerate(names)} | {"pgd20": 43.5}
    table = built("t", ["first", "second"], results({"first": [values, values], "second": [values]}), extra=names)
    lines = shown(table, 80).splitlines()
    for n, name in enumerate(names):
        (line,) = [line for line in lines if f"{name} " in line]
        assert line.split()[1:] == [f"{n}.125±0.000", f"{n}.125"]


def test_names_are_readable() -> None:
    names = [column_name(column) for column in (*EXACT, "adaptive/pgd20", "adaptive/cw20_exact", "mine")]
    assert names == [
        *("Natural", "GN", "FGSM", "PGD-20", "BIM-20", "TPGD-20", "CW-20", "CW-20 exact"),
        *("PGD-20 adaptive", "CW-20 exact adaptive", "mine"),
    ]


def test_adaptive_numbers_stand_on_a_line_of_their_own_under_their_columns() -> None:
    made = results({"16": [{"natural": 74.0, "pgd20": 46.0, "adaptive/pgd20": 40.0}]})
    table = built("t", ["16"], made)
    assert line_of(table, "16", "ours").cells["pgd20"].value == 46.0
    assert line_of(table, "16", "ours, adaptive").cells == {"pgd20": Cell(40.0)}
    for text in (shown(table, 100), to_markdown(table), to_latex(table), to_csv(table)):
        assert "adaptive" in text


# What is missing


def test_failed_and_missing_rows_are_shown_with_their_reason_in_every_format() -> None:
    made = results(
        {"a": [{"pgd20": 40.0}, {"pgd20": 41.0}]},
        {("b", 0): "failed: loss became nan in epoch 3", ("b", 1): "failed: loss became nan in epoch 3"},
    )
    table = built("t", ["a", "b", "c"], made, seeds=[0, 1])
    assert line_of(table, "b", "ours").state == "failed"
    assert line_of(table, "c", "ours").state == "missing"
    for text in (shown(table, 100), to_markdown(table), to_latex(table), to_csv(table)):
        assert "seeds 0, 1: failed: loss became nan in epoch 3" in text
        assert "missing" in text


def test_one_failed_seed_leaves_the_others_and_a_word() -> None:
    made = results({"a": [{"pgd20": 40.0}]}, {("a", 1): "failed: out of memory"})
    table = built("t", ["a"], made, seeds=[0, 1, 2])
    assert line_of(table, "a", "ours").cells["pgd20"].value == 40.0
    assert line_of(table, "a", "ours").state == ""
    assert table.rows[0].notes == ("seed 1: failed: out of memory", "seed 2: missing: no results yet")


def test_a_number_that_is_none_is_left_out_and_named() -> None:
    table = built("t", ["a"], results({"a": [{"pgd20": math.nan, "natural": 50.0}, {"pgd20": 40.0, "natural": 52.0}]}))
    assert line_of(table, "a", "ours").cells["pgd20"].value == 40.0
    assert table.rows[0].notes == ("seed 0: failed: PGD-20 is not a number",)
    assert "nan" not in to_csv(table)


def test_what_many_rows_lack_is_said_once_and_marked_at_each() -> None:
    rows = ["one", "two", "three", "four"]
    table = built("T", rows, results({}, {(row, 0): "interrupted" for row in rows}), notes={"two": "a control"})
    assert [label for label, _ in table.footnotes()] == ["4 rows", "two"]
    assert marks(table) == {"one": "1", "two": "1, 2", "three": "1", "four": "1"}
    few = built("T", rows[:2], results({}, {(row, 0): "interrupted" for row in rows[:2]}))
    assert [label for label, _ in few.footnotes()] == ["one, two"]
    for text in (to_markdown(table), to_latex(table), shown(table, 100)):
        assert text.count("interrupted") == 1


def test_notes_stand_below_with_their_mark() -> None:
    table = random_table(notes={"128": "narrowed by the preset"})
    assert table.footnotes() == [("128", "narrowed by the preset")]
    assert marks(table) == {"128": "1"}
    assert "128 [1]" in shown(table, 120) and "[1] 128: narrowed by the preset" in shown(table, 120)
    assert "128 <sup>1</sup>" in to_markdown(table)
    assert "128~$^{[1]}$" in to_latex(table)


# Formats


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_terminal_table_fits(width: int, seeds: int) -> None:
    rows = ["512", "128", "QM-32, standardized only"]
    table = random_table(seeds, rows, adaptive=True, paper_data=True, notes={"512": "narrowed by the preset"})
    text = shown(table, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for row in table.rows:
        for line in row.lines:
            for column, cell in line.cells.items():
                assert number(column, cell, signed=line.source == "difference") in text
                if cell.deviation is not None:
                    assert f"{cell.deviation:.2f}" in text


@pytest.mark.parametrize("width", [60, 72])
def test_a_narrow_terminal_keeps_the_rows_labels(width: int) -> None:
    rows = [f"label {number}" for number in range(12)]
    text = shown(random_table(3, rows, adaptive=True, paper_data=True), width)
    tables = [part for part in text.split("Row") if "───" in part]
    assert len(tables) > 1
    for part in tables:
        assert all(row in part for row in rows)


def test_deviations_stand_beside_where_there_is_room_and_below_where_not() -> None:
    table = random_table()
    assert re.search(r"\d±\d", shown(table, 120))
    narrow = shown(table, 90)
    assert not re.search(r"\d±\d", narrow) and "±" in narrow


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=4))
@settings(max_examples=40)
def test_csv_gives_back_the_very_same_floats(values: list[tuple[float, float]]) -> None:
    rows = [f'row "{index}", {{x}}' for index in range(len(values))]
    made = results({row: [{"pgd20": low}, {"pgd20": high}] for row, (low, high) in zip(rows, values, strict=True)})
    table = built("t", rows, made)
    parsed = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["row"] for line in parsed] == rows
    for line, row in zip(parsed, table.rows, strict=True):
        assert float(line["pgd20"]) == row.lines[0].cells["pgd20"].value
        assert float(line["pgd20_sd"]) == row.lines[0].cells["pgd20"].deviation
        assert int(line["n"]) == 2


def test_latex_is_escaped_and_balanced() -> None:
    label = r"50 % & more_{x} $y$ #1 ~ ^ \end{table} <b>|"
    table = built(label, [label, "b"], results({label: [{"pgd20": 1.0}]}), notes={"b": "100 % ± 1"}, seeds=[0])
    text = to_latex(table)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"50 \% \& more\_\{x\} \$y\$ \#1" in text
    assert body.count(r"\end{table}") == 1
    assert not re.search(r"(?<!\\)[%#]", body)
    cells = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in cells} == {1 + len(table.columns)}
    unescaped = re.sub(r"\\[{}$]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert r"$\pm$" in text and "±" not in text


def test_markdown_cells_cannot_break_out() -> None:
    label = "a|b *c* <i> `d`"
    text = to_markdown(built("t", [label], results({label: [{"pgd20": 1.0}]})))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert r"a\|b \*c\* \<i\> \`d\`" in text


def test_rich_markup_in_labels_is_text() -> None:
    assert "[red]x[/red]" in shown(built("[b]t[/b]", ["[red]x[/red]"], results({})), 120)


def test_no_negative_zero() -> None:
    assert number("pgd20", Cell(-0.001), signed=True) == "+0.00"
    assert number("pgd20", Cell(1.239), signed=True) == "+1.24"
    assert number("energy/ratio", Cell(1.0)) == "1.000"


def test_the_same_seeds_in_another_order_are_both_best() -> None:
    values = (70.1, 70.7, 71.3)
    rows = {"one": values, "other": values[::-1], "third": (70.7, 70.1, 71.3), "less": (1.0, 2.0, 3.0)}
    table = built("t", list(rows), results({row: [{"natural": v} for v in seeds] for row, seeds in rows.items()}))
    best = [row for row in rows if line_of(table, row, "ours").cells["natural"].best]
    assert best == ["one", "other", "third"]


def test_seeds_without_a_number_are_not_counted() -> None:
    table = built("t", ["a"], results({"a": [{"natural": math.nan}, {"natural": 4.0}]}))
    assert line_of(table, "a", "ours").n == 1


def test_a_label_in_brackets_is_no_argument_of_latex() -> None:
    text = to_latex(built("t", ["a", "[b]"], results({"a": [{"natural": 1.0}], "[b]": [{"natural": 2.0}]})))
    assert "\n{}[b]" in text


HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31mrow\u202etxt\x7f\r\x08"


def test_stored_text_never_steers_the_terminal_or_a_file() -> None:
    made = Results({(HOSTILE, 0): Outcome("a", {"natural": 50.0})}, {(HOSTILE, 1): f"failed: {HOSTILE}"})
    asked = TableInput(HOSTILE, [HOSTILE], made, notes={HOSTILE: HOSTILE}, seeds=[0, 1], data=HOSTILE)
    table = build_table(asked)
    stream = io.StringIO()
    open_console(stream).print(to_terminal(table, width=120))
    for text in (stream.getvalue(), to_markdown(table), to_latex(table), to_csv(table)):
        assert [letter for letter in text if not letter.isprintable() and letter != "\n"] == []
        assert "row" in text and "50" in text


@pytest.mark.parametrize(
    "label", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1", "\x1b=1", "＝1", "-"]
)
def test_no_cell_of_text_is_a_formula(label: str) -> None:
    made = Results({}, {(label, 0): f"failed: {label}"})
    table = build_table(TableInput("t", [label], made, notes={label: label}, seeds=[0]))
    for row in list(csv.reader(io.StringIO(to_csv(table))))[1:]:
        assert [cell for cell in row if cell.strip().startswith(("=", "+", "-", "@", "＝"))] == []
    assert row[0].startswith("'")


def test_numbers_are_no_formulas() -> None:
    values = {"natural": 50.0, "pgd20": -0.5, "energy/ratio": -1e-07}
    for label in ("-1", "+0.5", "-1e-3", "512"):
        made = Results({(label, 0): Outcome("a", values)})
        table = build_table(TableInput("t", [label], made, extra=["energy/ratio"]))
        row = next(csv.DictReader(io.StringIO(to_csv(table))))
        assert row["row"] == label
        assert {name: float(row[name]) for name in values} == values


def test_a_searchs_objective_leads_and_its_best_is_the_lowest_where_less_is_better() -> None:
    values = {"a": 3.0, "b": 2.0}
    results = Results({(row, 0): Outcome(row, {"natural": 50.0 + value}) for row, value in values.items()})
    given = TableInput(
        "A search", ["b", "a"], results, seeds=[0], headers={"validation/robust": "Validation PGD-7"},
        lead={"validation/robust": False}, objectives={row: {"validation/robust": v} for row, v in values.items()},
    )  # fmt: skip
    table = build_table(given)
    assert table.columns[0] == table.beside[0] == "validation/robust" and "natural" in table.beside
    assert [row.lines[0].cells["validation/robust"].best for row in table.rows] == [True, False]
    assert [row.lines[0].cells["natural"].best for row in table.rows] == [False, True]
    shown = to_markdown(table)
    assert shown.index("Validation PGD-7") < shown.index("Natural") and "**2.00**" in shown
