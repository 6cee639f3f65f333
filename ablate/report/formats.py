"""A table as people and machines read it: terminal, Markdown, LaTeX, CSV. Numbers become text here and nowhere else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from ablate.core.text import printable
from ablate.report.names import OBJECTIVE_NAMES, column_name
from ablate.report.tables import Cell, Line, Row, Table
from ablate.spaces.metrics import is_accuracy
from ablate.spaces.specs import COLUMNS

NOTHING = "—"
MASKED = "†"
"""Behind a number whose attack is beaten by a search without gradients."""

_IN_PERCENT = ("corruptions/", "heat_map/")
"""Analyses whose scalars are accuracies or errors."""

LABEL_WIDTH = 18
_SHORT = {"published": "published", "ours": "ours", "difference": "difference", "ours, adaptive": "adaptive"}


_Part = TypeVar("_Part")


def number(column: str, cell: Cell, *, signed: bool = False) -> str:
    """A mean as text: two decimals for percentages, three for other scalars; never a negative zero."""
    digits = _digits(column)
    rounded = round(cell.value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"


def deviation(column: str, cell: Cell) -> str:
    """A standard deviation as text; empty where there is none."""
    return "" if cell.deviation is None else f"{cell.deviation:.{_digits(column)}f}"


def _digits(column: str) -> int:
    percent = is_accuracy(column) or column in OBJECTIVE_NAMES or column.startswith(_IN_PERCENT)
    return 2 if percent else 3


def marks(table: Table) -> dict[str, str]:
    """Row label -> the numbers of its footnotes, e.g. `1, 2`; rows without notes are absent.

    They are shown in brackets: a label may be a number, and 0 with a raised 1 reads as 01.
    """
    found: dict[str, list[str]] = {}
    for index, labels in enumerate(table.noted().values(), start=1):
        for label in labels:
            found.setdefault(label, []).append(str(index))
    return {label: ", ".join(numbers) for label, numbers in found.items()}


def to_terminal(table: Table, width: int = 100) -> Group:
    """The table for a terminal: published above ours, deviations beside the means where there is room, else below.

    Args:
        table: The table.
        width: Columns of the terminal.

    Returns:
        A rich renderable: title, accuracies, scalars in a list of their own, footnotes, caption.
    """
    accuracies = table.beside
    grids = [_grid(table, accuracies, beside=True)]
    if not _fits(grids, width):
        grids = [_grid(table, accuracies, beside=False)]
    if not _fits(grids, width):  # the paper's columns first, what we measure besides below them
        own = [column for column in accuracies if column in (*table.lead, *COLUMNS)]
        parts = [part for part in (own, [column for column in accuracies if column not in own]) if part]
        grids = [_grid(table, part, beside=True) for part in parts]
        if not _fits(grids, width):
            grids = [
                _grid(table, piece, beside=False)
                for part in parts
                for piece in _pieces(part, lambda columns: _grid(table, columns, beside=False), width)
            ]
    scalars = table.scalars
    if scalars:
        rows = _pieces(table.rows, lambda some: _scalars(some, scalars), width)
        grids += [_scalars(some, scalars) for some in rows]
    notes = [
        Text(f"[{i}] {printable(label)}: {printable(note)}", style="dim")
        for i, (label, note) in enumerate(table.footnotes(), start=1)
    ]
    return Group(
        Text(printable(table.title), style="bold"), *grids, *notes, Text(printable(table.caption), style="dim")
    )


def _pieces(parts: Sequence[_Part], grid_of: Callable[[list[_Part]], RichTable], width: int) -> list[list[_Part]]:
    """Columns or rows in as many pieces as it takes for each one's grid to fit: one too wide loses its row labels."""
    pieces: list[list[_Part]] = [[]]
    for part in parts:
        if pieces[-1] and not _fits([grid_of([*pieces[-1], part])], width):
            pieces.append([])
        pieces[-1].append(part)
    return pieces


def _fits(grids: Sequence[RichTable], width: int) -> bool:
    return all(Console(width=10 * width).measure(grid).maximum <= width for grid in grids)


def _grid(table: Table, columns: Sequence[str], *, beside: bool) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    grid.add_column("Row", max_width=LABEL_WIDTH)
    grid.add_column("", no_wrap=True)
    for column in columns:
        # A name of two words goes on two lines: the column stays as narrow as its numbers.
        grid.add_column(table.header(column).replace(" ", "\n"), justify="right", no_wrap=True)
    numbers = marks(table)
    whole = len(columns) == len(table.beside)
    for row in table.rows:
        name = printable(row.label)
        label = Text(f"{name} [{numbers[row.label]}]" if row.label in numbers else name)
        # A part of the table shows no line that has nothing in it, such as what the paper did not measure.
        lines = [line for line in row.lines if whole or line.state or line.cells.keys() & {*columns}]
        sources, cells = [_source(line, beside=beside) for line in lines], []
        for column in columns:
            cell = Text()
            for index, line in enumerate(lines):
                cell.append("\n" if index else "").append_text(_terminal_cell(line, column, beside=beside))
            cells.append(cell)
        grid.add_row(label, Text("\n".join(sources)), *cells)
        grid.add_section()
    return grid


def _scalars(rows: Sequence[Row], columns: Sequence[str]) -> RichTable:
    """Scalar by scalar, ours of every row: a dozen of them would not fit beside the accuracies."""
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    grid.add_column("Ours")
    for row in rows:
        grid.add_column(Text(printable(row.label)), justify="right", max_width=LABEL_WIDTH)
    ours = [next(line for line in row.lines if line.source == "ours") for row in rows]
    for column in columns:
        grid.add_row(column_name(column), *(_terminal_cell(line, column, beside=True) for line in ours))
    return grid


def _source(line: Line, *, beside: bool) -> str:
    name = _SHORT[line.source] + (f": {line.state}" if line.state else f", n={line.n}" if line.n else "")
    return name if beside or not _deviates(line) else f"{name}\n±"


def _deviates(line: Line) -> bool:
    return any(cell.deviation is not None for cell in line.cells.values())


def _terminal_cell(line: Line, column: str, *, beside: bool) -> Text:
    cell = line.cells.get(column)
    below = "\n" if not beside and _deviates(line) else ""
    if cell is None:
        return Text(NOTHING + below, style="dim")
    style = "bold" if cell.best else "dim" if line.source == "published" else ""
    text = Text(number(column, cell, signed=line.source == "difference") + (MASKED if cell.masked else ""), style=style)
    spread = deviation(column, cell)
    if spread:
        text.append(below or "±", style="dim").append(spread, style="dim")
    elif below:
        text.append(below)
    return text


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, footnotes below."""
    header = ["Row", "", "n", *(table.header(column) for column in table.columns)]
    lines = [
        f"**{_markdown(table.title)}**",
        "",
        _pipes(header),
        _pipes(["---", "---", "---:", *["---:"] * len(table.columns)]),
    ]
    numbers = marks(table)
    for row in table.rows:
        mark = f" <sup>{numbers[row.label]}</sup>" if row.label in numbers else ""
        for label, line in _labelled(row, _markdown(row.label) + mark):
            source = line.source + (f": {line.state}" if line.state else "")
            lines.append(_pipes([label, source, str(line.n or ""), *_cells(table, line, _markdown_cell)]))
    lines.append("")
    for index, (label, note) in enumerate(table.footnotes(), start=1):
        lines.append(f"<sup>{index}</sup> {_markdown(label)}: {_markdown(note)}  ")
    return "\n".join([*lines, _markdown(table.caption), ""])


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", printable(text))


def _markdown_cell(mean: str, spread: str, best: bool) -> str:
    return (f"**{mean}**" if best else mean) + (f" ± {spread}" if spread else "")


def to_latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs, footnotes below."""
    columns = ["", "", *(_latex(table.header(column)) for column in table.columns)]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
        f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        "\\toprule",
        " & ".join(columns) + r" \\",
        "\\midrule",
    ]
    numbers = marks(table)
    for index, row in enumerate(table.rows):
        if index and len(row.lines) > 1:
            lines.append("\\addlinespace")
        mark = f"~$^{{[{numbers[row.label]}]}}$" if row.label in numbers else ""
        for label, line in _labelled(row, "{}" + _latex(row.label) + mark):
            source = line.source + (f": {line.state}" if line.state else f" ($n={line.n}$)" if line.n else "")
            lines.append(" & ".join([label, source, *_cells(table, line, _latex_cell)]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    for index, (label, note) in enumerate(table.footnotes(), start=1):
        lines += ["", f"{{\\footnotesize $^{{[{index}]}}$ {_latex(label)}: {_latex(note)}}}"]
    return "\n".join([*lines, "\\end{table}", ""])


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "−": "$-$",
    "—": "---",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


def _latex_cell(mean: str, spread: str, best: bool) -> str:
    if mean == NOTHING:
        return "---"
    mark = _latex(MASKED) if mean.endswith(MASKED) else ""
    mean = mean.removesuffix(MASKED)
    shown = (f"${mean}$" if mean[0] in "+-" else mean) + mark
    return (f"\\textbf{{{shown}}}" if best else shown) + (f" {{\\scriptsize $\\pm${spread}}}" if spread else "")


_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _csv(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like it gets a ' before; numbers are none."""
    line = printable(text).strip()
    return f"'{line}" if line.startswith(_FORMULA) and not _NUMBER.fullmatch(line) else line


def to_csv(table: Table) -> str:
    """The table for machines: a line per row and source, each column with its deviation, floats in full."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    pairs = [name for column in table.columns for name in (column, f"{column}_sd")]
    writer.writerow(["row", "source", "state", "n", *map(_csv, pairs), "notes"])
    for row in table.rows:
        for line in row.lines:
            values: list[str] = []
            for column in table.columns:
                cell = line.cells.get(column)
                values += (
                    ["", ""]
                    if cell is None
                    else [repr(cell.value), "" if cell.deviation is None else repr(cell.deviation)]
                )
            notes = "; ".join(row.notes) if line.source == "ours" else ""
            writer.writerow([_csv(row.label), line.source, _csv(line.state), line.n or "", *values, _csv(notes)])
    return stream.getvalue()


def _labelled(row: Row, label: str) -> list[tuple[str, Line]]:
    """The lines of a row, the label beside the first alone."""
    return [(label if index == 0 else "", line) for index, line in enumerate(row.lines)]


def _cells(table: Table, line: Line, show: Callable[[str, str, bool], str]) -> list[str]:
    cells: Mapping[str, Cell] = line.cells
    signed = line.source == "difference"
    return [
        show(number(column, cell, signed=signed) + (MASKED if cell.masked else ""), deviation(column, cell), cell.best)
        if (cell := cells.get(column)) is not None
        else show(NOTHING, "", False)
        for column in table.columns
    ]
