"""A followed plan's pieces as HTML; every text in them is escaped by the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.core.redaction import redact
from ablate.core.text import duration
from ablate.report.figures.pictures import Picture
from ablate.report.page import Missing, templates
from ablate.serve.board import Piece

STATES = {
    "training": "Training now",
    "failed": "Failed",
    "interrupted": "Interrupted",
    "waiting": "Waiting",
    "stopped": "Stopped early",
    "finished": "Finished",
}
"""State -> its heading, in the order of the page."""

MOST_NAMED = 14
"""Up to so many rows are named above the curves."""

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class TrialView:
    """One row with one seed, as the page shows it.

    Attributes:
        id: Of its element.
        order: In the plan.
        space: Its name; empty where the plan has one alone.
        row: Its label.
        seed: Of the training.
        training: Its key.
        state: As of `STATES`.
        epoch: The last one trained; -1 without any.
        epochs: How many it is to have.
        measured: How many measurements are there.
        measurements: How many there are to be.
        last: What its last epoch gave: name -> value.
        last_ms: When that ended.
        colour: Number of the row's colour and dash, from 0.
        reason: Why it failed.
        details: The traceback.
        log: Where the log of its last attempt lies.
        log_end: Its last lines.
    """

    id: str
    order: int
    space: str
    row: str
    seed: int
    training: str
    state: str
    epoch: int
    epochs: int
    measured: int
    measurements: int
    last: Mapping[str, float]
    last_ms: int | None
    colour: int
    reason: str = ""
    details: str = ""
    log: str = ""
    log_end: str = ""

    @property
    def name(self) -> str:
        """As a heading has it."""
        return f"{self.space + ' / ' if self.space else ''}{self.row}, seed {self.seed}"


def trial_piece(trial: TrialView) -> Piece:
    """One line of the list of its state; what failed says why."""
    template = "failure.html" if trial.state == "failed" else "trial.html"
    return Piece(trial.id, f"in-{trial.state}", trial.order, _render(template, trial=trial))


def count_pieces(counts: Mapping[str, int]) -> list[Piece]:
    """How many trials are in each state."""
    return [
        Piece(f"count-{state}", f"counted-{state}", 0, _render("count.html", state=state, count=counts.get(state, 0)))
        for state in STATES
    ]


def summary_piece(**values: Any) -> Piece:
    """How far the whole plan is."""
    return Piece("summary", "now", 0, _render("summary.html", duration=duration, **values))


def curves_words_piece(shown: int, begun: int, rows: Mapping[str, int]) -> Piece:
    """What is said above the curves: of few rows, which line is whose."""
    legend = [(colour, label) for label, colour in rows.items()] if len(rows) <= MOST_NAMED else []
    html = _render("curves_words.html", shown=shown, begun=begun, legend=legend)
    return Piece("curves-caption", "curves-words", 0, html)


def notice_piece(text: str) -> Piece:
    """What is wrong with the page itself; nothing, where all is well."""
    return Piece("notice", "notices", 0, _render("notice.html", text=text))


def plans_piece(plans: Sequence[Mapping[str, Any]], shown: str, unreadable: Sequence[str]) -> Piece:
    """The plans of the storage, and why some cannot be read."""
    return Piece("plans", "plans-list", 0, _render("plans.html", plans=plans, shown=shown, unreadable=unreadable))


def section_piece(space: str, order: int, html: str) -> Piece:
    """A space's section of the report."""
    return Piece(f"section-{space}", "report", 2 * order, _render("wrapped.html", id=f"section-{space}", inner=html))


def failed_html(error: Exception) -> str:
    """What stands in the place of the report where it cannot be made."""
    return _render("failed.html", problem=redact(f"{type(error).__name__}: {error}"))


def figures_piece(space: str, order: int, title: str, figures: Mapping[str, tuple[Picture | Missing, str]]) -> Piece:
    """A space's figures: name -> the picture, and the address of its file."""
    html = _render("figures.html", id=f"figures-{space}", title=title, figures=list(figures.values()))
    return Piece(f"figures-{space}", "report", 2 * order + 1, html)


def shell(**values: Any) -> str:
    """The page that pieces come into."""
    return _render("live.html", states=STATES, **values)


def _render(template: str, **values: Any) -> str:
    return templates(_FOLDER).get_template(template).render(values).strip()
