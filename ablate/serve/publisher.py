"""Tables, verdicts and figures of a followed plan: made anew where something ended, beside the looks, in no hurry."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time

from ablate.core.redaction import redact
from ablate.report.contents import draw_all, space_page
from ablate.report.figures.pictures import Picture
from ablate.report.from_storage import all_results
from ablate.report.page import Missing, render_space
from ablate.report.results import Results
from ablate.serve import views
from ablate.serve.board import Board
from ablate.serve.cache import CachedStorage
from ablate.storage.plans import PlanFile

LIVE = "training"
"""The figure that is not drawn: its curves are on the page already, and grow."""

REST = 4.0
"""So many times as long as a space's figures took, nothing of it is drawn again: trainings need the cores."""


MOST_ROWS = 60
"""Of more rows no figures are drawn: they take minutes, and trainings need the cores."""

MOST_OFTEN_S = 1.0
"""Between two times that tables and verdicts are made anew."""


class Publisher:
    """Puts the sections of a plan's spaces on a board, and their figures after them.

    Args:
        storage: As it was looked at last.
        board: Where to.
        figures: Whether they are drawn.
    """

    def __init__(self, storage: CachedStorage, board: Board, *, figures: bool = True) -> None:
        self._work = (self._tell_on, self._draw_on) if figures else (self._tell_on,)
        self._storage = storage
        self._board = board
        self._signatures: dict[str, int] = {}
        self._wanted: dict[str, tuple[int, Results]] = {}
        self._names: dict[str, list[str]] = {}
        self._waits = threading.Condition()
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._plan: PlanFile | None = None
        self.pictures: dict[str, bytes] = {}
        self.lacking = False
        """Whether something could not be shown, so that it is to be tried again."""

    def stop(self) -> None:
        """Draw no more; returns at once."""
        with self._waits:
            self._ended = True
            self._waits.notify_all()

    def publish(self, plan: PlanFile) -> None:
        """Show a plan's numbers as of the last look, where they are others than before; figures follow."""
        with self._waits:
            self._plan = plan
            self._waits.notify_all()
            if not self._threads:
                self._threads = [threading.Thread(target=each, daemon=True) for each in self._work]
                for thread in self._threads:
                    thread.start()

    def _tell_on(self) -> None:
        while True:
            with self._waits:
                self._waits.wait_for(lambda: self._plan is not None or self._ended)
                plan, self._plan = self._plan, None
            if plan is None:
                return
            began = time.monotonic()
            try:
                self._tell(plan)
            except Exception as error:  # what goes wrong now may go well after the next look
                self.lacking = True
                self._board.put(views.section_piece("", 0, views.failed_html(error)))
            else:
                self.lacking = False
                self._board.drop("section-")
            self._rest(max(MOST_OFTEN_S, 2.0 * (time.monotonic() - began)))

    def _tell(self, plan: PlanFile) -> None:
        for order, results in enumerate(all_results(plan, self._storage)):
            name = results.space.name
            # What the section is made from, in short: it is made anew where this is another.
            made_from = [(each.state, each.problem, each.metrics) for each in results.trials.values()]
            signature = hash(repr((made_from, results.replications, results.space.not_needed)))
            if self._signatures.get(name) == signature:
                continue
            self._board.put(views.section_piece(name, order, _section(results)))
            self._signatures[name] = signature
            with self._waits:
                self._wanted[name] = (order, results)
                self._waits.notify_all()

    def _rest(self, seconds: float) -> None:
        with self._waits:
            self._waits.wait_for(lambda: self._ended, seconds)

    def _draw_on(self) -> None:
        while True:
            with self._waits:
                self._waits.wait_for(lambda: self._wanted or self._ended)
                if self._ended:
                    return
                name = next(iter(self._wanted))
                order, results = self._wanted.pop(name)
            began = time.monotonic()
            self._draw(name, order, results)
            self._rest(REST * (time.monotonic() - began))

    def _draw(self, name: str, order: int, results: Results) -> None:
        rows = len(results.space.rows)
        if rows > MOST_ROWS and results.space.search is None:
            told = f"not drawn live of {rows:,} rows; python -m ablate.report --storage DIR --out DIR draws them."
            self._board.put(views.figures_piece(name, order, results.space.title, {"": (Missing("Figures", told), "")}))
            return
        try:
            drawn = {key: figure for key, figure in draw_all(results).items() if key != LIVE}
        except Exception as error:  # numbers stand; the page says which figures lack
            told = redact(f"could not be drawn ({type(error).__name__}: {error}).")
            drawn = {"": Missing("Figures", told)}
        if not drawn:
            return
        shown = {key: (figure, self._keep(figure)) for key, figure in drawn.items()}
        self._board.put(views.figures_piece(name, order, results.space.title, shown))
        names = [source.rpartition("/")[2] for _, source in shown.values() if source]
        for gone in set(self._names.get(name, [])) - set(names):
            self.pictures.pop(gone, None)
        self._names[name] = names

    def _keep(self, figure: Picture | Missing) -> str:
        if isinstance(figure, Missing):
            return ""
        name = f"{hashlib.sha256(figure.png).hexdigest()[:32]}.png"
        self.pictures[name] = figure.png
        return f"/figures/{name}"


def _section(results: Results) -> str:
    """A space's section; what runs, lacks and failed is listed above it already."""
    return render_space(dataclasses.replace(space_page(results, {}), problems=()))
