"""A page whose numbers come from bundles: prose in one file, each number in it named, and filled in from records.

`python -m ablate.bundle page --help` says how numbers are named.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ablate.bundle.selection import Words, plan_by_words
from ablate.bundle.statement import differences, plain, summed
from ablate.core.errors import SpecError, StorageError, nearest
from ablate.report import from_storage
from ablate.report.contents import draw_all
from ablate.report.figures.pictures import Picture, numbers_alone
from ablate.report.formats import to_markdown
from ablate.report.results import TREND, Results
from ablate.report.tables import build_table, table_input
from ablate.report.verdicts.verdicts import Verdict, verdicts_of
from ablate.storage.bundles import BundleFiles, bundles_in
from ablate.storage.layers import LayeredFiles
from ablate.storage.storage import Storage

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_REFERENCE = re.compile(r"(?P<path>.+?)(?:\[(?P<network>[a-z_:0-9]+)\])?(?:\.(?P<what>std|n|published|seed\d+))?")
_COMMANDS = ("table", "verdicts", "figure", "verdict", "seeds", "data", "hours", "commit", "from")
_CHUNK = "ablate-numbers"


@dataclass
class Page:
    """A page as it is to be.

    Attributes:
        text: Markdown.
        figures: Name of a file -> what is drawn.
    """

    text: str = ""
    figures: dict[str, Picture] = field(default_factory=dict)


class _FieldError(Exception):
    """What cannot be filled in; whoever reads the file says where."""


class _Source:
    """The bundles that match a pattern, as one storage.

    Args:
        folder: Where bundles lie.
        pattern: Of their names.
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        paths = bundles_in(folder, pattern) if not Path(pattern).is_absolute() and ".." not in pattern else []
        if not paths:
            names = [path.name for path in bundles_in(folder)]
            raise _FieldError(
                f"expected bundles {pattern} in {folder}, got none; there are {', '.join(names) or 'none'}"
            )
        first, *others = (BundleFiles(path) for path in paths)
        files = LayeredFiles(first, *others)
        self.storage = Storage.of(files)
        for told in (told for key in self.storage.keys() for told in files.conflicts(key)):  # noqa: SIM118
            raise _FieldError(f"expected the same numbers in every bundle of {pattern}, got others: {told}")
        self.results = functools.cache(self._results)
        self.measured = functools.cache(self._measured)
        self.verdicts: Callable[[str], list[Verdict]] = functools.cache(
            lambda space: [ours for ours, _ in verdicts_of(self.results(space))]
        )
        self.pictures: Callable[[str], Mapping[str, Any]] = functools.cache(lambda space: draw_all(self.results(space)))

    def _results(self, space: str, network: str = "last") -> Results:
        try:
            plan = plan_by_words(self.storage, Words([space]), lambda told: None)
        except (SpecError, StorageError) as error:
            raise _FieldError(str(error).removeprefix("--space: ")) from error
        return from_storage.results_of(plan.of_space(space), self.storage, network)

    def _measured(self, space: str, network: str = "last") -> Results:
        """The same with every number there is of a whole network: who names one takes no part for the whole."""
        results = self.results(space, network)
        trials = {where: trial for where, trial in results.trials.items() if trial.trained and trial.metrics}
        return replace(results, outcomes={where: trial.outcome(results.network) for where, trial in trials.items()})


def render(template: Path, folder: Path, figures: str) -> Page:
    """Fill in a page.

    Args:
        template: The file with its prose.
        folder: Where its bundles lie.
        figures: Where the page finds its figures: a relative path in links.

    Returns:
        The page; nothing is written.

    Raises:
        SpecError: A name that nothing is found under, with its line.
        StorageError: A bundle that cannot be read.
    """
    try:
        lines = template.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{template}: expected a text with the page's prose, got {error}") from error
    page = Page()
    writer = _Writer(page, folder, figures)
    for number, line in enumerate(lines, 1):
        try:
            page.text += writer.line(line)
        except _FieldError as error:
            raise SpecError(f"{template}:{number}: {error}") from error
    return page


class _Writer:
    def __init__(self, page: Page, folder: Path, figures: str) -> None:
        self.page = page
        self.folder = folder
        self.figures = figures
        self._open = functools.cache(lambda pattern: _Source(folder, pattern))
        self.pattern = "*.zip"

    @property
    def source(self) -> _Source:
        return self._open(self.pattern)

    def line(self, line: str) -> str:
        alone = re.fullmatch(r"\{from ([^{}\s]+)\}\s*", line)
        if alone:
            self.pattern = alone[1]
            self._open(self.pattern)
            return ""
        return _FIELD.sub(self._filled, line)

    def _filled(self, found: re.Match[str]) -> str:
        whole = found[0]
        if whole in ("{{", "}}"):
            return whole[0]
        if found[1] is None:
            raise _FieldError(f"expected braces in pairs, got {whole!r} alone; {whole * 2} writes one")
        asked = found[1].strip()
        command, _, rest = asked.partition(" ")
        if command in _COMMANDS and rest:
            return str(getattr(self, f"_{command}")(rest.strip()))
        formatted = re.fullmatch(r"(.*):([+-]?[\d.]*[fdge%])", asked)
        expression, form = formatted.groups() if formatted else (asked, "")
        value = self._value(expression)
        try:
            return format(value, form or (".2f" if isinstance(value, float) else ""))
        except ValueError as error:
            raise _FieldError(f"expected a format like .1f, got {form!r}") from error

    def _value(self, expression: str) -> float | int:
        parts = expression.split(" - ")
        values = [self._reference(part.strip()) for part in parts]
        return values[0] - sum(values[1:]) if len(values) > 1 else values[0]

    def _reference(self, text: str) -> float | int:
        found = _REFERENCE.fullmatch(text)
        assert found is not None
        space, _, rest = found["path"].partition("/")
        if not rest:
            raise _FieldError(f"expected space/row/column or a command ({', '.join(_COMMANDS)}), got {text!r}")
        results = self.source.measured(space, found["network"] or "last")
        labels = [row.label for row in results.space.rows]
        row = max((label for label in labels if rest.startswith(f"{label}/")), key=len, default=None)
        if row is None:
            given = rest.rpartition("/")[0] or rest
            raise _FieldError(f"expected a row of {space}, got {given!r}; {nearest(given, labels)}")
        metric, what = rest[len(row) + 1 :], found["what"] or ""
        if what == "published":
            published = results.space.published.get(row, {})
            if metric not in published:
                raise _FieldError(f"expected a published number of {row}, got {metric!r}; {_valid(metric, published)}")
            return float(published[metric])
        values = self._values(results, row, metric)
        if what.startswith("seed"):
            seed = int(what.removeprefix("seed"))
            if seed not in values:
                raise _FieldError(f"expected a finished seed of {row}, got {seed}; finished: {_seeds(values)}")
            return values[seed]
        numbers = list(values.values())
        if what == "n":
            return len(numbers)
        if what == "std":
            if len(numbers) < 2:
                raise _FieldError(f"expected several seeds of {row} for a deviation, got {len(numbers)}")
            return float(np.std(numbers, ddof=1))
        return math.fsum(numbers) / len(numbers)

    def _values(self, results: Results, row: str, metric: str) -> dict[int, float]:
        """Seed -> value."""
        name, at, epoch = metric.partition("@")
        seeds = [seed for label, seed in results.outcomes if label == row]
        if at:
            curves = {seed: results.trials[row, seed].curves.get(name, {}) for seed in seeds}
            if not epoch.isdigit() or not seeds or any(int(epoch) not in curve for curve in curves.values()):
                raise _FieldError(f"expected a curve of {row} at an epoch that it has, got {metric!r}")
            return {seed: float(curve[int(epoch)]) for seed, curve in curves.items()}
        if name.startswith(TREND):
            results = results.with_trends([name.removeprefix(TREND)])
        found = {seed: results.outcomes[row, seed].values for seed in seeds}
        values = {seed: float(each[name]) for seed, each in found.items() if math.isfinite(each.get(name, math.nan))}
        if not values:
            there = {each for numbers in found.values() for each in numbers}
            raise _FieldError(f"expected a number of {row}, got {metric!r}; {_valid(metric, there)}")
        return dict(sorted(values.items()))

    def _table(self, asked: str) -> str:
        space, _, network = asked.partition(" ")
        given = table_input(self.source.results(space, network or "last"))
        return to_markdown(build_table(given)).strip()

    def _verdicts(self, space: str) -> str:
        told = []
        for verdict in self.source.verdicts(space):
            said = verdict.sentence().replace(verdict.verdict, f"**{verdict.verdict}**", 1)
            told.append(f"- “{verdict.claim.says}” {said}")
        return "\n".join(told) or "No claims."

    def _verdict(self, asked: str) -> str:
        space, _, number = asked.partition("/")
        verdicts = self.source.verdicts(space)
        if not number.isdigit() or not 1 <= int(number) <= len(verdicts):
            raise _FieldError(f"expected the number of a claim of {space}, 1 to {len(verdicts)}, got {number!r}")
        return verdicts[int(number) - 1].verdict

    def _figure(self, asked: str) -> str:
        space, _, name = asked.partition("/")
        pictures = self.source.pictures(space)
        if name not in pictures:
            raise _FieldError(f"expected a figure of {space}, got {name!r}; {_valid(name, pictures)}")
        picture = pictures[name]
        if not isinstance(picture, Picture):
            raise _FieldError(f"expected figure {name} of {space} to be drawn, got: {picture.reason}")
        file = f"figure-{name}.png" if name.isdigit() else f"{space}-{name}.png"
        if file in self.page.figures and self.page.figures[file] is not picture:
            file = f"{space}-{file}"
        self.page.figures[file] = picture
        return f"![{picture.title.replace('[', '(').replace(']', ')')}]({self.figures}/{file})"

    def _seeds(self, space: str) -> str:
        return _seeds(seed for _, seed in self.source.results(space).outcomes)

    def _data(self, space: str) -> str:
        return ", ".join(self.source.results(space).planned.data_labels)

    def _hours(self, space: str) -> str:
        results = self.source.results(space)
        spent = {
            trial.part.training: sum(trial.curves.get("seconds", {}).values()) for trial in results.trials.values()
        }
        return f"{sum(spent.values()) / 3600:.1f}"

    def _commit(self, space: str) -> str:
        return self.source.results(space).planned.provenance.get("git_commit", "unknown")[:12]

    def _from(self, rest: str) -> str:
        raise _FieldError(f"expected {{from {rest}}} on a line of its own, got more on it")


def _seeds(seeds: Any) -> str:
    return ", ".join(map(str, sorted(set(seeds)))) or "none"


def _valid(given: str, names: Any) -> str:
    return nearest(given, names or ["(none)"])


def numbers_in(png: bytes) -> Any:
    """What a figure of a page says that it shows; None of one that says nothing."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            return json.loads(getattr(image, "text", {}).get(_CHUNK, "null"))
    except (OSError, ValueError):
        return None


def with_numbers(picture: Picture) -> bytes:
    """A figure as a file that says what it shows: pictures of the same numbers differ between versions."""
    said = PngInfo()
    said.add_text(_CHUNK, json.dumps(_shown(picture)), zip=True)
    stream = io.BytesIO()
    with Image.open(io.BytesIO(picture.png)) as image:
        image.save(stream, format="png", optimize=True, pnginfo=said, dpi=image.info.get("dpi"))
    return stream.getvalue()


def _shown(picture: Picture) -> Any:
    return plain({part: summed(numbers) for part, numbers in picture.numbers.items()})


def write(page: Page, out: Path, figures: Path) -> list[Path]:
    """Write a page and its figures.

    Raises:
        SpecError: They cannot be written.
    """
    contents = {out: page.text.encode()}
    contents |= {figures / name: with_numbers(picture) for name, picture in page.figures.items()}
    changed = []
    try:
        for path, content in contents.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                changed.append(path)
    except OSError as error:
        raise SpecError(f"--out: expected files that can be written, got {error.strerror}: {error.filename}") from error
    return changed


def check(template: Path, folder: Path, out: Path, figures: Path, link: str) -> list[str]:
    """Whether a page is what its bundles and its prose give.

    Args:
        template: As of `render`.
        folder: As of `render`.
        out: The page as it is.
        figures: Its figures as they are.
        link: As `figures` of `render`.

    Returns:
        A line for each difference.
    """
    with numbers_alone():
        page = render(template, folder, link)
    found = []
    written = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    wanted = page.text.splitlines()
    for number, line in enumerate(wanted, 1):
        if number > len(written) or written[number - 1] != line:
            there = written[number - 1][:80] if number <= len(written) else "no line"
            found.append(f"{out}:{number}: its bundles give {line[:80]!r}, it says {there!r}")
            break
    if not found and len(written) > len(wanted):
        found.append(f"{out}:{len(wanted) + 1}: its bundles give no more, it goes on")
    for name, picture in page.figures.items():
        path = figures / name
        stated = numbers_in(path.read_bytes()) if path.is_file() else None
        if stated is None:
            found.append(f"{path}: expected a figure that says what it shows, got none")
        found += [f"{path}: {line}" for line in differences(stated, _shown(picture))][:1] if stated else []
    return found
