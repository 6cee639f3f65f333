"""One space's table: published beside ours, with failures in sight. Formats are in `ablate.report.formats`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ablate.core.metric_names import OF_LAST_EPOCH
from ablate.core.text import listed, plural
from ablate.report import overfitting
from ablate.report.names import COLUMN_NAMES, OBJECTIVE_NAMES, column_name, reduced_headers
from ablate.report.replications import Replication, row_note
from ablate.report.results import Results, Trial
from ablate.report.search import search_of
from ablate.report.verdicts.masking import Masked, masked_columns, notes_of
from ablate.spaces.claims import Trend
from ablate.spaces.metrics import Metric, is_accuracy, transfer_column
from ablate.spaces.networks import words
from ablate.spaces.specs import COLUMNS, MeasurementSpec

ALL_QUERIES = MeasurementSpec().square_queries
_NAMED = 3
"""So many rows of one footnote are named; the marks in the table say which more are meant."""

Source = Literal["published", "ours", "difference", "ours, adaptive"]


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        value: Mean over seeds; percent for accuracies.
        deviation: Standard deviation over seeds (n - 1); None for a single one.
        best: Whether it is the highest of its column and source.
        masked: Whether a search without gradients is right on fewer images, so that the number is too high.
    """

    value: float
    deviation: float | None = None
    best: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Line:
    """One source of one row.

    Attributes:
        source: Whose numbers these are.
        cells: Column -> cell; columns without a number are absent.
        n: How many seeds; None where there are none to count.
        state: What stands in the place of numbers: `failed`, `missing` or empty.
    """

    source: Source
    cells: Mapping[str, Cell]
    n: int | None = None
    state: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its label, its lines, and what must be said of it.

    Attributes:
        label: As the space file has it.
        lines: Published, ours, difference, adaptive, as far as there are any; ours is always there.
        notes: The row's note, then why seeds are missing or failed.
    """

    label: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table that `ablate.report.formats` renders.

    Attributes:
        title: The space's title.
        columns: Metric names in order; an adaptive column stands under its column, on a line of its own.
        rows: In the order of the space.
        caption: What the numbers are: unit, data, seeds.
        headers: Column -> what stands above it, where that is not its name alone.
        lead: The columns that stand before the accuracies: a search's objectives.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    lead: tuple[str, ...] = ()

    @property
    def beside(self) -> list[str]:
        """The columns that stand beside each other; the others are scalars, a list of their own where room is short."""
        return [column for column in self.columns if column in self.lead or is_accuracy(column)]

    @property
    def scalars(self) -> list[str]:
        """The columns that are neither accuracies nor objectives."""
        return [column for column in self.columns if column not in self.lead and not is_accuracy(column)]

    def header(self, column: str) -> str:
        """What stands above a column."""
        return self.headers.get(column) or column_name(column)

    def noted(self) -> dict[str, list[str]]:
        """What must be said below the table, in order -> the rows of which it is said: what many lack is said once."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            for note in row.notes:
                found.setdefault(note, []).append(row.label)
        return found

    def footnotes(self) -> list[tuple[str, str]]:
        """What must be said below the table: (row label, or how many rows, and the note), in order."""
        return [
            (", ".join(labels) if len(labels) <= _NAMED else f"{len(labels)} rows", note)
            for note, labels in self.noted().items()
        ]


@dataclass(frozen=True)
class TableInput:
    """What a table is made from.

    Attributes:
        title: The space's title.
        labels: Row labels, in order.
        results: Ours; a problem that begins with `failed` marks its row as failed, any other as missing.
        published: Row label -> metric -> number.
        notes: Row label -> note, e.g. "narrowed by the smoke preset".
        seeds: The seeds that were asked for: one of them without an outcome or a reason is reported as missing.
        paper_data: Whether the data set is the paper's; else no difference is shown.
        data: How the data set is called, for the caption.
        extra: Scalars to show as columns too, e.g. `energy/ratio`.
        masked: Columns to mark.
        replicated: Row label -> how often its trainings were trained again, and with what outcome.
        origins: Row label -> whose trainings its seeds are, where these were not made for this storage.
        headers: As of `Table`.
        remark: A sentence more for the caption.
        asked: The columns that are measured, e.g. `pgd20`; none: the paper's, and whichever have numbers.
        lead: Objectives of a search -> whether more of it is better: columns before all others.
        objectives: Row label -> objective -> its value after the last epoch.
    """

    title: str
    labels: Sequence[str]
    results: Results
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    paper_data: bool = False
    data: str = ""
    extra: Sequence[str] = ()
    masked: Sequence[Masked] = ()
    replicated: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    asked: Collection[str] = ()
    lead: Mapping[str, bool] = field(default_factory=dict)
    objectives: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def table_input(results: Results, *, whole: bool = False) -> TableInput:
    """What the plan's table is made from.

    Args:
        results: Of a plan.
        whole: With the rows and columns of the paper that the plan does not have too, as files have them: whoever
            reads them by their names finds every one.

    Returns:
        With the scalars that claims are about as more columns.
    """
    plan, network = results.planned, results.network
    [space] = plan.spaces
    scalars = [
        metric
        for claim in results.claims
        if not isinstance(claim.statement, Trend)
        for metric in claim.statement.metrics
        if not is_accuracy(metric)
    ]
    data = ", ".join(plan.data_labels)
    changed = [setting for setting in plan.overrides if not setting.startswith(("data.root=", "data.label="))]
    told = [data, f"preset {plan.preset}", *changed, f"plan {plan.id}"]
    if results.place:
        told.append(results.place)
    of_training = any(scalar.startswith(OF_LAST_EPOCH) for scalar in scalars)
    if network != "last":
        after = ", but energies and masks after the last epoch" if of_training else ""
        told.append(f"{words(network)}{after}")
    elif of_training and any(map(_of_another_network, results.trials.values())):
        told.append("energies and masks after the last epoch, whichever network a row is measured on")
    lower = [row for (row, _), trial in results.trials.items() if _searched_in(trial) != "float32"]
    if lower:
        of = "" if len(lower) == len(results.trials) else f" of {', '.join(dict.fromkeys(lower))}"
        told.append(f"attacks{of} searched in bfloat16, and what they found was judged in float32")
    stopped = {row for (row, _), trial in results.trials.items() if trial.state == "stopped"}
    labels = [row.label for row in space.rows]
    lead: dict[str, bool] = {}
    objectives: dict[str, dict[str, float]] = {}
    headers = {transfer_column(label): f"{column_name('pgd20')} of {label}" for label in labels}
    headers |= reduced_headers(map(_reduced, results.trials.values()))
    if space.search is not None:
        search = search_of(results)
        lead = {objective.metric: objective.mode == "max" for objective in search.search.objective}
        objectives = {each.label: dict(zip(lead, each.objectives, strict=True)) for each in search.ranked}
        labels = [*objectives, *(label for label in labels if label not in objectives)]
        headers |= {metric: OBJECTIVE_NAMES[metric] for metric in lead}
        sorted_by = " and ".join(headers[metric] for metric in lead)
        told += [
            f"sorted by {sorted_by}, on images held out of training",
            "the other columns: test images, by which nothing was chosen",
            *([f"{plural(len(stopped), 'sample')} stopped early left out"] if stopped else []),
        ]
    rows = {trial.row for trial in plan.trials} | space.not_needed.keys()
    columns = {Metric.from_run(name).column for trial in plan.trials for name in trial.columns}
    return TableInput(
        title=space.title,
        labels=[label for label in labels if (whole or label in rows) and label not in stopped],
        results=results,
        published=space.published,
        notes={row.label: row.note for row in space.rows if row.note and row.label not in stopped},
        seeds=plan.seeds,
        paper_data=results.is_paper_data,
        data=", ".join(told),
        extra=list(dict.fromkeys(scalars)),
        masked=masked_columns(results),
        replicated=_replicated(results),
        origins=_origins(results),
        headers=headers,
        remark=overfitting.sentence(results),
        asked=() if whole else columns,
        lead=lead,
        objectives=objectives,
    )


def _replicated(results: Results) -> dict[str, str]:
    rows: dict[str, dict[int, Sequence[Replication]]] = {}
    for (row, seed), found in results.replications.items():
        rows.setdefault(row, {})[seed] = found
    return {row: row_note(of_row) for row, of_row in rows.items()}


def _origins(results: Results) -> dict[str, str]:
    """Row -> `2 of 5 seeds from bundle study.zip`, of what is shown."""
    seeds: dict[str, list[str]] = {}
    for row, seed in results.outcomes:
        trial = results.trials.get((row, seed))
        seeds.setdefault(row, []).append(trial.part.origin if trial is not None else "")
    found = {}
    for row, origins in seeds.items():
        counts = {origin: origins.count(origin) for origin in origins if origin}
        if counts:
            told = " and ".join(f"{count} from {origin}" for origin, count in counts.items())
            found[row] = told.replace(" from ", f" of {plural(len(origins), 'seed')} from ", 1)
    return found


def _of_another_network(trial: Trial) -> bool:
    return trial.part.spec.get("measurement", {}).get("network") not in (None, "last")


def _searched_in(trial: Trial) -> str:
    return str(trial.part.spec.get("measurement", {}).get("precision", "float32"))


def _reduced(trial: Trial) -> tuple[int | None, int | None]:
    """`measurement.square_queries` and `measurement.images` of a trial, where they are not the defaults."""
    given = trial.part.spec.get("measurement", {})
    queries = given.get("square_queries", ALL_QUERIES)
    return None if queries == ALL_QUERIES else queries, given.get("images")


def build_table(given: TableInput) -> Table:
    """Everything a table says, as floats.

    Args:
        given: Rows, results and published numbers.

    Returns:
        The table, with the best of each accuracy marked among the published numbers, ours, and the adaptive ones.
    """
    labels, results, published = given.labels, given.results, given.published
    columns = (*given.lead, *_columns(given))
    theirs = {label: _published(published.get(label, {}), columns) for label in labels}
    ours = {label: _ours(results, label, columns) for label in labels}
    adaptive = {label: _ours(results, label, columns, adaptive=True) for label in labels}
    for label, values in given.objectives.items():
        if label in ours:
            ours[label] |= {metric: Cell(value) for metric, value in values.items()}
    for lines in (theirs, ours, adaptive):
        _mark_best(lines, given.lead)
    _mark_masked(ours, adaptive, given.masked)
    said = notes_of(given.masked)
    rows = []
    for label in labels:
        problems = _problems(results, label, given.seeds, (*columns, *_adaptive(columns)))
        n = sum(any(map(math.isfinite, outcome.values.values())) for outcome in results.of(label)) or None
        parts = [Line("published", theirs[label])] if theirs[label] else []
        parts.append(Line("ours", ours[label], n, state="" if ours[label].keys() - given.lead else _state(problems)))
        if given.paper_data and (difference := _difference(ours[label], theirs[label])):
            parts.append(Line("difference", difference))
        if adaptive[label]:
            parts.append(Line("ours, adaptive", adaptive[label], n))
        note = (given.notes[label],) if given.notes.get(label) else ()
        beside = [told[label] for told in (given.replicated, given.origins) if label in told]
        rows.append(Row(label, tuple(parts), (*note, *said.get(label, ()), *beside, *problems)))
    caption = _caption(rows, given.paper_data, given.data, lead=bool(given.lead))
    if given.remark:
        caption = f"{caption} {given.remark}."
    return Table(given.title, columns, tuple(rows), caption, given.headers, tuple(given.lead))


def _columns(given: TableInput) -> tuple[str, ...]:
    """The paper's columns, then others, then the scalars that were asked for; of a plan, what it measures alone."""
    numbers = [outcome.values for outcome in given.results.outcomes.values()]
    if not given.asked:
        numbers += given.published.values()
    plain = {Metric.from_name(metric).column for values in numbers for metric in values if is_accuracy(metric)}
    plain |= set(given.asked or COLUMNS)
    first = [column for column in COLUMNS if column in plain]
    known = list(COLUMN_NAMES)
    known += map(transfer_column, given.labels)
    others = sorted(plain - set(COLUMNS), key=lambda name: (known.index(name) if name in known else len(known), name))
    return tuple(dict.fromkeys([*first, *others, *given.extra]))


def _published(numbers: Mapping[str, float], columns: Sequence[str]) -> dict[str, Cell]:
    return {column: Cell(numbers[column]) for column in columns if column in numbers}


def _ours(results: Results, label: str, columns: Sequence[str], *, adaptive: bool = False) -> dict[str, Cell]:
    cells = {}
    for column in columns:
        values = results.values(label, Metric(column, adaptive=adaptive).name)
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            # fsum: the same seeds in another order have the same mean, to the last bit.
            cells[column] = Cell(math.fsum(values) / len(values), deviation)
    return cells


def _difference(ours: Mapping[str, Cell], published: Mapping[str, Cell]) -> dict[str, Cell]:
    return {column: Cell(ours[column].value - cell.value) for column, cell in published.items() if column in ours}


def _mark_best(lines: Mapping[str, dict[str, Cell]], lead: Mapping[str, bool]) -> None:
    """The best of each accuracy and objective, where there are at least two to compare; ties are all best."""
    for column in {column for cells in lines.values() for column in cells if column in lead or is_accuracy(column)}:
        rows = [cells for cells in lines.values() if column in cells]
        best = (max if lead.get(column, True) else min)(cells[column].value for cells in rows)
        for cells in rows:
            if len(rows) > 1 and cells[column].value == best:
                cells[column] = Cell(best, cells[column].deviation, best=True)


def _mark_masked(
    ours: Mapping[str, dict[str, Cell]], adaptive: Mapping[str, dict[str, Cell]], masked: Iterable[Masked]
) -> None:
    for each in masked:
        metric = Metric.from_name(each.column)
        cells = (adaptive if metric.adaptive else ours).get(each.row, {})
        if metric.column in cells:
            cells[metric.column] = replace(cells[metric.column], masked=True)


def _adaptive(columns: Iterable[str]) -> list[str]:
    return [Metric(column, adaptive=True).name for column in columns if is_accuracy(column)]


def _problems(results: Results, label: str, seeds: Sequence[int], columns: Sequence[str]) -> list[str]:
    """Why seeds of a row lack numbers, of the columns that are shown, seeds with the same reason together."""
    reasons: dict[str, list[int]] = {}
    known = {seed for row, seed in [*results.outcomes, *results.problems] if row == label}
    shown = [column for column in columns if results.values(label, column)]
    for seed in sorted(known):
        reason = results.problems.get((label, seed))
        reason = reason or results.gaps.get((label, seed))
        if reason is not None:
            reasons.setdefault(reason, []).append(seed)
        outcome = results.outcomes.get((label, seed))
        broken = [metric for metric, value in outcome.values.items() if not math.isfinite(value)] if outcome else []
        if broken:
            names = ", ".join(column_name(metric) for metric in broken)
            reasons.setdefault(f"failed: {names} is not a number", []).append(seed)
        trial = results.trials.get((label, seed))
        told = {Metric.from_run(name).name for name in trial.lacking} if trial is not None else set()
        lacking = [column for column in shown if column not in outcome.values and column not in told] if outcome else []
        if lacking:  # the mean is that of the other seeds
            reasons.setdefault(f"no {listed([*map(column_name, lacking)], _NAMED)}", []).append(seed)
    absent = [seed for seed in seeds if seed not in known]
    if absent or not known:
        reasons.setdefault("missing: no results yet", []).extend(absent)
    return [f"{_seeds(numbers)}{reason}" for reason, numbers in reasons.items()]


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: "


def _state(problems: Sequence[str]) -> str:
    if problems and all("not needed" in problem for problem in problems):
        return "not needed"
    return "failed" if any("failed" in problem for problem in problems) else "missing"


def _higher(line: Line, one: str, other: str) -> bool:
    return one in line.cells and other in line.cells and line.cells[one].value > line.cells[other].value


def _caption(rows: Sequence[Row], paper_data: bool, data: str, *, lead: bool) -> str:
    counts = sorted({line.n for row in rows for line in row.lines if line.source == "ours" and line.n is not None})
    parts = ["Accuracy in %"]
    marked = {line.source for row in rows for line in row.lines if any(cell.best for cell in line.cells.values())}
    if marked:
        best = "best" if lead else "highest"
        parts.append(f"bold: the {best} of its column" + (", of each source" if len(marked) > 1 else ""))
    if counts and counts[-1] > 1:
        n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts.append(f"ours: mean ± standard deviation over {n} seeds")
    elif counts:
        parts.append("ours: one seed")
    if any(_higher(line, "tpgd20", "natural") for row in rows for line in row.lines):
        parts.append("TPGD-20 attacks what the network says, not the label, so it can lie above natural accuracy")
    if data:
        parts.append(f"data: {data}")
    if counts and not paper_data:
        parts.append("not the paper's data, so no difference to its numbers")
    return "; ".join(parts) + "."
