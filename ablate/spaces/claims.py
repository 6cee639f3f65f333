"""Claims: the sentences a paper draws from a table, as data that can be checked.

A claim is its own words (`says`) and exactly one statement, told by its key: `above`, `below`, `pairwise`, `best`,
`ordering`, `difference`, `gain`, `interaction`, `value` or `trend`. A statement names rows by their labels and metrics
by their names: a column (`pgd20`), a column under the adaptive attack (`adaptive/pgd20`) or a scalar (`energy/ratio`).
Nothing in a claim is evaluated; `ablate.report.verdicts.verdicts` judges it from results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from ablate.core.errors import nearest
from ablate.spaces.specs import Spec

Name = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(min_length=1, max_length=300)]
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1, max_length=100)]
Pair = Annotated[tuple[Name, Name], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(strict=False, min_length=1, max_length=100)]
NamedRow: TypeAlias = tuple[str, str]
"""Where in the statement a row is named, and its label."""


@dataclass(frozen=True)
class Use:
    """One place in a space file that names a metric.

    Attributes:
        metric: The name.
        place: Keys and item numbers from the top of the file.
        rows: Labels of the rows whose number it is about.
        trend: Whether it is about a curve.
    """

    metric: str
    place: tuple[str | int, ...]
    rows: tuple[str, ...]
    trend: bool = False

    @property
    def path(self) -> str:
        """The place as a dotted path."""
        return ".".join(str(step) for step in self.place)


class Statement(Spec):
    """What all statements share: the metrics each of which it is about."""

    metrics: Names = Field(description="Columns (pgd20), adaptive columns (adaptive/pgd20) or scalars (energy/ratio).")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _refuse_repeats("metric", self.metrics)
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        raise TypeError(f"expected a statement with rows, got {type(self).__name__}")


class _OneAndOthers(Statement):
    row: Name = Field(description="The row the statement is about.")
    rows: Names = Field(description="The rows it is compared with, each.")

    @model_validator(mode="after")
    def _others(self) -> Self:
        _refuse_repeats("row", (self.row, *self.rows))
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield "row", self.row
        yield from _numbered("rows", self.rows)


class Above(_OneAndOthers):
    """`row` is above each of `rows` on each metric."""


class Below(_OneAndOthers):
    """`row` is below each of `rows` on each metric."""


class Pairwise(Statement):
    """In each pair the first row is above the second on each metric."""

    pairs: Pairs = Field(description="Pairs of rows [higher, lower].")

    @model_validator(mode="after")
    def _two_rows(self) -> Self:
        for pair in self.pairs:
            _refuse_repeats("row of a pair", pair)
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        for index, pair in enumerate(self.pairs):
            yield from _numbered(f"pairs.{index}", pair)


class Best(Statement):
    """`row` is above every other row of `among` on each metric."""

    row: Name = Field(description="The best row.")
    among: Names | None = Field(None, description="Among these rows; none: all rows of the space.")

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield "row", self.row
        yield from _numbered("among", self.among or ())


class Ordering(Statement):
    """Each metric moves one way along `rows`: every step from one row to the next does."""

    rows: Annotated[tuple[Name, ...], Field(strict=False, min_length=2, max_length=100)] = Field(
        description="In this order."
    )
    direction: Literal["increases", "decreases"] = Field("increases", description="Along the rows as they are listed.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _refuse_repeats("row", self.rows)
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield from _numbered("rows", self.rows)


class Difference(Statement):
    """`row` minus `minus`, in the metric's own unit: at least, at most, or within a bound either way."""

    row: Name = Field(description="The row.")
    minus: Name = Field(description="The row that is subtracted.")
    at_least: float | None = Field(None, description="The difference is at least this.")
    at_most: float | None = Field(None, description="The difference is at most this.")
    within: float | None = Field(None, gt=0, description="The two are equivalent: the difference lies in +-this.")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        _refuse_repeats("row", (self.row, self.minus))
        _exactly_one(at_least=self.at_least, at_most=self.at_most, within=self.within)
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield "row", self.row
        yield "minus", self.minus


class Gain(Statement):
    """What each of `rows` gains over `over` is larger on each metric than on the metric `than`."""

    rows: Names = Field(description="The rows that gain.")
    over: Name = Field(description="The row they gain over.")
    than: Name = Field(description="The metric on which the gain is smaller.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _refuse_repeats("row", (self.over, *self.rows))
        _refuse_repeats("metric", (self.than, *self.metrics))
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield from _numbered("rows", self.rows)
        yield "over", self.over


_CORNERS = ("both", "one", "other", "neither")


class Interaction(Statement):
    """What A adds where B is there, less what it adds without B: above 0, or at least, at most or within a bound.

    `(both - other) - (one - neither)` is the same with A and B exchanged.
    """

    both: Name | None = Field(None, description="The row with A and B.")
    one: Name | None = Field(None, description="The row with A alone.")
    other: Name | None = Field(None, description="The row with B alone.")
    neither: Name | None = Field(None, description="The row without either.")
    factors: Pair | None = Field(None, description="Instead of rows: two factors of the space, of two levels each.")
    at: dict[str, str] = Field({}, description="With factors: the level of each other factor.")
    at_least: float | None = Field(None, description="The effect with B is larger by at least this; none: by any.")
    at_most: float | None = Field(None, description="It is larger by at most this; 0: it is smaller.")
    within: float | None = Field(None, gt=0, description="There is none: the two effects differ by +-this at most.")

    @model_validator(mode="after")
    def _four_rows(self) -> Self:
        lacking = [field for field in _CORNERS if getattr(self, field) is None]
        if self.factors is not None and len(lacking) < len(_CORNERS):
            raise ValueError("expected either factors or the four rows, got both")
        if self.factors is None and lacking:
            raise ValueError(f"expected four rows, {', '.join(_CORNERS)}, or factors, got no {lacking[0]}")
        if self.factors is None and self.at:
            raise ValueError("expected no at without factors")
        _refuse_repeats("factor", self.factors or ())
        _refuse_repeats("row", (label for _, label in self.named_rows()))
        bounds = {"at_least": self.at_least, "at_most": self.at_most, "within": self.within}
        if any(bound is not None for bound in bounds.values()):
            _exactly_one(**bounds)
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it; none where a space has still to tell them."""
        for field in _CORNERS:
            label = getattr(self, field)
            if label is not None:
                yield field, label

    def of_rows(self, corners: Sequence[str]) -> Interaction:
        """The same about four rows, in the order of the fields, instead of factors."""
        rows = dict(zip(_CORNERS, corners, strict=True))
        return self.model_copy(update={**rows, "factors": None, "at": {}})


class Value(Statement):
    """`row` itself: at least or at most a constant, or within a distance of a reference."""

    row: Name = Field(description="The row.")
    at_least: float | None = Field(None, description="The row's mean is at least this.")
    at_most: float | None = Field(None, description="The row's mean is at most this.")
    reference: float | None = Field(None, description="A constant from elsewhere, with `within`.")
    within: float | None = Field(None, gt=0, description="The row's mean is within this of `reference`.")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        _exactly_one(at_least=self.at_least, at_most=self.at_most, within=self.within)
        if (self.reference is None) != (self.within is None):
            raise ValueError("expected reference and within together, got one without the other")
        return self

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield "row", self.row


class Trend(Statement):
    """Over the epochs of its training each metric of `row` moves one way (Kendall's rank correlation)."""

    row: Name = Field(description="The row.")
    direction: Literal["increases", "decreases"] = Field("increases", description="Over the epochs.")

    def named_rows(self) -> Iterator[NamedRow]:
        """Every row the statement names, with the field that names it."""
        yield "row", self.row


class Claim(Spec):
    """One sentence of a paper, with the statement that can be checked."""

    says: str = Field(min_length=1, description="The paper's own words.")
    note: str | None = Field(None, description="What the published table really says, and any choice made here.")
    source: Words | None = Field(
        None, description="Whose claim it is: a paper, an arXiv number; none: the table's own."
    )
    question: Words | None = Field(
        None, description="What it answers: reports set claims of several sources with the same question side by side."
    )
    expects: float | None = Field(
        None, gt=0, description="The smallest effect of interest, from the claim's edge: --dry-run tells its seeds."
    )
    above: Above | None = None
    below: Below | None = None
    pairwise: Pairwise | None = None
    best: Best | None = None
    ordering: Ordering | None = None
    difference: Difference | None = None
    gain: Gain | None = None
    interaction: Interaction | None = None
    value: Value | None = None
    trend: Trend | None = None

    @model_validator(mode="after")
    def _one_statement(self) -> Self:
        if self.question is not None and self.source is None:
            raise ValueError("expected a source beside question, got none")
        _exactly_one(**{kind: getattr(self, kind) for kind in KINDS})
        return self

    @property
    def kind(self) -> str:
        """Which key the statement stands under."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def metric_uses(self, number: int, labels: Sequence[str]) -> Iterator[Use]:
        """Every place that names a metric.

        Args:
            number: The claim's among those of its space.
            labels: The labels of the space's rows.
        """
        statement = self.statement
        rows = tuple(dict.fromkeys(label for _, label in statement.named_rows()))
        if self.best is not None and self.best.among is None:
            rows = tuple(labels)
        for index, metric in enumerate(statement.metrics):
            place = ("claims", number, self.kind, "metrics", index)
            yield Use(metric, place, rows, isinstance(statement, Trend))
        if isinstance(statement, Gain):
            yield Use(statement.than, ("claims", number, self.kind, "than"), rows)

    @property
    def statement(self) -> Statement:
        """The statement."""
        statement = getattr(self, self.kind)
        assert isinstance(statement, Statement)
        return statement

    def problems(self, labels: Iterable[str]) -> list[str]:
        """What is wrong with the rows that the claim names.

        Args:
            labels: The labels of the space's rows.

        Returns:
            One sentence for each name that is no row, with the field's path and the nearest label; empty if all are.
        """
        valid = list(labels)
        return [
            f"{self.kind}.{place}: expected a row of this space, got {label!r}; {nearest(label, valid)}"
            for place, label in self.statement.named_rows()
            if label not in valid
        ]


KINDS = ("above", "below", "pairwise", "best", "ordering", "difference", "gain", "interaction", "value", "trend")
"""The keys a claim's statement can stand under."""


def _numbered(field: str, names: Iterable[str]) -> Iterator[NamedRow]:
    for index, name in enumerate(names):
        yield f"{field}.{index}", name


def _refuse_repeats(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"expected each {what} once, got {name!r} twice")
        seen.add(name)


def _exactly_one(**fields: object) -> None:
    given = [name for name, value in fields.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise ValueError(f"expected exactly one of {', '.join(fields)}, got {got}")
