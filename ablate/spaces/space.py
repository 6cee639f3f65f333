"""A space file -> rows -> trials: what is asked for, before anything is planned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ablate.core.errors import SpecError, nearest
from ablate.spaces.claims import Claim, Use
from ablate.spaces.factors import LONGEST_LABEL, Factors, MadeRow, Values, corners, made_rows
from ablate.spaces.figures import figure_kind
from ablate.spaces.looks import DEFAULT_LOOKS, Design, Failures, Looks, Seeds
from ablate.spaces.search import SearchSpec
from ablate.spaces.settings import Setting
from ablate.spaces.specs import Spec, TrialSpec
from ablate.spaces.yamlfile import Place, PlacedError, YamlFile

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a space's name may be: it becomes an experiment's name and part of paths."""


def _known_figure(name: str) -> str:
    try:
        return figure_kind(name).name
    except SpecError as error:
        raise ValueError(str(error)) from error


FigureName = Annotated[str, AfterValidator(_known_figure)]


class Row(Spec):
    """One line of a table: its label, what makes it, and what was published."""

    label: str = Field(min_length=1, max_length=LONGEST_LABEL)
    set: dict[str, Any] = {}
    published: dict[str, float] = {}
    note: str | None = None


class RowChange(Spec):
    """What a preset changes in one row."""

    set: dict[str, Any] = {}
    note: str | None = None


class PresetPart(Spec):
    """What a space changes under a preset, where its rows would otherwise say nothing."""

    set: dict[str, Any] = {}
    rows: dict[str, RowChange] = {}
    search: dict[str, Any] = Field({}, description="What of `search` is other; parameters are replaced one by one.")


class Space(Spec):
    """One ablation, or one search: the content of a file in `search_spaces/`."""

    title: str = Field(min_length=1)
    description: str = ""
    table: int | None = None
    base: dict[str, Any] = {}
    rows: list[Row] = []
    factors: Factors = Field({}, description="Factor -> level -> settings: every combination of levels is a row.")
    grid: Values = Field({}, description="Setting -> values: every combination is a row.")
    zip: Values = Field({}, description="Setting -> values, as many of each: the first ones are a row, and so on.")
    search: SearchSpec | None = None
    claims: list[Claim] = []
    looks: Looks = Field(
        DEFAULT_LOOKS, description="Seeds a row at which claims are decided; one number: a fixed design."
    )
    seeds: Seeds = Field(None, description="The order in which looks count seeds; none: 0, 1, 2 and so on.")
    failures: Failures | None = Field(
        None, description="What a failed training counts in verdicts: accuracy 0 (worst), or its seed is left out."
    )
    figures: list[FigureName] = []
    smoke: PresetPart = PresetPart()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Write out what shorthands stand for: from here on rows are all there are."""
        made = [Row(label=row.label, set=dict(row.set)) for row in self.shorthands()]
        object.__setattr__(self, "rows", [*self.rows, *made])
        claims = []
        for number, claim in enumerate(self.claims):
            asked = claim.interaction
            if asked is not None and asked.factors is not None:
                try:
                    found = asked.of_rows(corners(self.factors, asked.factors, asked.at))
                except PlacedError as error:
                    place = ("claims", number, "interaction", *error.place)
                    raise PlacedError(place, str(error)) from error
                claim = claim.model_copy(update={"interaction": found})
            claims.append(claim)
        object.__setattr__(self, "claims", claims)
        return self

    def shorthands(self) -> list[MadeRow]:
        """What factors, grid and zip stand for: the last of the rows.

        Raises:
            PlacedError: Something in them that makes no rows.
        """
        return made_rows(self.factors, self.grid, self.zip)

    @model_validator(mode="after")
    def _rows_or_search(self) -> Self:
        if self.rows and self.search is not None:
            raise PlacedError(("search",), "expected either rows or search, got both")
        if not self.rows and self.search is None:
            raise ValueError("expected either rows or search, got neither")
        about_rows = [name for name in ("claims", "figures", "table") if self.search and getattr(self, name)]
        about_rows += [name for name in Design.model_fields if self.search and name in self.model_fields_set]
        if about_rows:
            told = f"expected no {about_rows[0]} beside search, which has no rows that they could be about"
            raise PlacedError((about_rows[0],), told)
        if self.smoke.search and self.search is None:
            raise PlacedError(("smoke", "search"), "expected no smoke.search without search")
        return self

    @model_validator(mode="after")
    def _seeds_for_all_looks(self) -> Self:
        if self.seeds is not None and len(self.seeds) < self.looks[-1]:
            told = f"expected seeds for every look, {self.looks[-1]} of them for the last one, got {len(self.seeds)}"
            raise PlacedError(("seeds",), told)
        return self

    @property
    def design(self) -> Design:
        """When its claims are decided."""
        return Design(looks=self.looks, seeds=self.seeds, failures=self.failures)

    @model_validator(mode="after")
    def _labels_once(self) -> Self:
        labels = [row.label for row in self.rows]
        made = self.shorthands()
        places: list[Place] = [("rows", number, "label") for number in range(len(labels) - len(made))]
        places += [row.place for row in made]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise PlacedError(places[number], f"expected each row's label once, got {label!r} twice")
        for label in self.smoke.rows:
            if label not in labels:
                told = f"expected a row's label, got {label!r}; {nearest(label, labels)}"
                raise PlacedError(("smoke", "rows", label), told)
        return self


class Preset(Spec):
    """A named set of settings that stands between a space and the command line."""

    description: str = Field("", description="What it is for.")
    set: dict[str, Any] = Field({}, description="Settings that win over a space's own.")
    defaults: dict[str, Any] = Field({}, description="Settings that a space's own win over.")
    decides_claims: bool = Field(True, description="Whether its trainings are long enough to judge claims by.")
    section: Literal["smoke"] | None = Field(None, description="What of a space changes it under this preset too.")


SECTIONS = tuple(name for name, field in Space.model_fields.items() if field.annotation is PresetPart)
"""The parts of a space that hold under a preset alone."""


@dataclass(frozen=True)
class PresetFile:
    """A loaded preset with the file it came from."""

    name: str
    preset: Preset
    file: YamlFile


@dataclass(frozen=True)
class SpaceFile:
    """A loaded space with the file it came from."""

    name: str
    space: Space
    file: YamlFile

    def part(self, section: str | None) -> PresetPart:
        """What it changes under a preset that reads this section; nothing without one."""
        found: PresetPart = getattr(self.space, section) if section is not None else PresetPart()
        return found

    def metric_uses(self) -> Iterator[Use]:
        """Every place that names a metric, in published numbers and in claims."""
        for number, row in enumerate(self.space.rows):
            for metric in row.published:
                yield Use(metric, ("rows", number, "published", metric), (row.label,))
        labels = [row.label for row in self.space.rows]
        for number, claim in enumerate(self.space.claims):
            yield from claim.metric_uses(number, labels)


@dataclass(frozen=True)
class Trial:
    """One row with one seed, as asked for."""

    space: str
    label: str
    spec: TrialSpec
    published: Mapping[str, float]
    note: str | None
    settings: tuple[Setting, ...]
    origin: str

    def where(self, path: str) -> str:
        """Where a setting of this trial was written: the last place that set it, or the row."""
        places = [setting.origin for setting in self.settings if setting.path == path]
        return places[-1] if places else self.origin

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.spec.seed
