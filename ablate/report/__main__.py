"""python -m ablate.report: MLflow -> tables and verdicts, from its runs alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ablate.core.errors import SpecError, TrackingError, UserError, nearest
from ablate.core.places import local_path
from ablate.core.text import harmless, open_closed_streams, open_console, plural, printable
from ablate.core.user_code import import_modules
from ablate.report.formats import to_csv, to_latex, to_markdown, to_terminal
from ablate.report.from_tracking import keep_storages_apart, left_out, results_of
from ablate.report.marking import mark_runs
from ablate.report.results import Results
from ablate.report.search import best_space, search_of, shares_sentences, summary_lines
from ablate.report.tables import Table, build_table, table_input
from ablate.report.verdicts.masked import SECOND, second_verdicts
from ablate.report.verdicts.verdicts import standing_of, verdicts_of
from ablate.spaces.loading import table_names
from ablate.spaces.metrics import Network
from ablate.spaces.presets import decides_claims
from ablate.storage.registrations import SHORT_DIGEST

if TYPE_CHECKING:
    from ablate.tracking.results import PlanInfo, PlanResults
    from ablate.tracking.tracker import Tracker

OTHER_PLANS = 5
"""So many of a space's other plans are listed."""

_FILES = {"markdown": ("table.md", to_markdown), "latex": ("table.tex", to_latex), "csv": ("table.csv", to_csv)}


class Format(StrEnum):
    """How a table is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


class Which(StrEnum):
    """Whose numbers."""

    LAST = "last"
    BEST = "best"


def table_of(plan: PlanResults, network: Network = "last") -> Table:
    """A plan's table: published beside ours.

    Args:
        plan: From `Tracker.read_plan`.
        network: Whose numbers.

    Returns:
        The table, for any of the formats.
    """
    return build_table(table_input(results_of(plan, network)))


def print_space(
    tracker: Tracker,
    space: str,
    plan_id: str | None,
    console: Console,
    network: Network = "last",
    storage: str | None = None,
) -> list[str]:
    """Print a space's table, its verdicts, and which other plans of it there are.

    Args:
        tracker: Where the runs are.
        space: The space's name.
        plan_id: Which plan; none: the one launched last.
        console: Where to print.
        network: Whose numbers.
        storage: Id of the storage whose numbers are wanted; none: the one launched into last.

    Returns:
        What was left out of the table, as it was printed.

    Raises:
        TrackingError: There is no such plan, or the store does not answer.
    """
    plan = tracker.read_plan(space, plan_id, storage)
    _print_plan(tracker, plan, console, network)
    return left_out(plan)


def _print_plan(tracker: Tracker, plan: PlanResults, console: Console, network: Network) -> None:
    console.print()
    results = results_of(plan, network)
    given = table_input(results)
    console.print(to_terminal(build_table(given), width=console.width))
    mark_runs(tracker, plan, given.masked, network)
    _print_verdicts(results, console)
    if plan.space.search is not None:
        _print_search(results, console)
    space = plan.space.name
    _print_left_out(plan, console)
    _print_others([info for info in tracker.list_plans(space) if info.id != plan.info.id], space, console)


def _print_left_out(plan: PlanResults, console: Console) -> None:
    """Name the runs that cannot be trusted, and the storages that are not shown."""
    for told in left_out(plan):
        console.print(Text(printable(told), overflow="fold"), soft_wrap=True)
    if plan.altered:
        again = f"python -m ablate.report --sync --storage <its storage> --plan {plan.info.id}"
        console.print(Text(f"What storage holds of it is sent again by: {again}", overflow="fold"))


def write_space(plan: PlanResults, formats: Sequence[str], folder: Path, network: Network = "last") -> list[Path]:
    """Write a plan's table as files.

    Args:
        plan: From `Tracker.read_plan`.
        formats: `markdown`, `latex`, `csv`.
        folder: Made where it is missing; files in it are replaced.
        network: Whose numbers.

    Returns:
        The files.

    Raises:
        SpecError: The folder cannot be written.
    """
    table = table_of(plan, network)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats:
            file, render = _FILES[name]
            (folder / file).write_text(render(table), encoding="utf-8")
            written.append(folder / file)
    except OSError as error:
        raise SpecError(f"--out: expected a folder that can be written, got {folder}: {error.strerror}") from error
    return written


def _print_verdicts(results: Results, console: Console) -> None:
    if not results.claims:
        return
    console.print()
    preset = results.planned.preset
    if not decides_claims(preset):
        claims = len(results.claims)
        console.print(f"No verdicts on {claims} claims: the {preset} preset trains too briefly to decide any.")
        return
    data = " and ".join(results.planned.data_labels)
    paper = "the paper's data" if results.is_paper_data else "not the paper's data"
    console.print(Text(f"Verdicts on {printable(data)} ({paper})", style="bold"))
    seconds = second_verdicts(results)
    for number, (ours, published) in enumerate(verdicts_of(results)):
        console.print(Text(f"“{printable(ours.claim.says)}”"))
        lines = [f"ours: {ours.sentence()}" if ours.verdict in ours.sentence() else f"ours: {ours.verdict}"]
        if ours.test and ours.test != "none":
            lines.append(f"by {ours.test}")
        if number in seconds:
            second = seconds[number]
            told = second.sentence() if second.verdict in second.sentence() else second.verdict
            lines.append(f"{SECOND.lower()}, since a column is masked: {told}")
        if published is not None:
            lines.append(f"published: {published.sentence()}")
        if ours.claim.note:
            lines.append(printable(ours.claim.note))
        for line in lines:
            # In a file lines stay whole; padding would cut them at the width of no terminal.
            console.print(Text(f"  {line}") if console.soft_wrap else Padding(Text(line), (0, 0, 0, 2)))


def _print_registration(plan: PlanResults, console: Console) -> None:
    """The digest of a plan's claims, to be printed in a paper, and how each of them stands."""
    found = plan.space.registration
    if found is None:
        console.print(Text(f"{plan.space.name}, plan {plan.info.id}: nothing was registered."))
        return
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.registered_ms / 1000))
    when = when if found.registered_ms else "nobody can tell when"
    commit = f", commit {found.commit[:SHORT_DIGEST]}" if found.commit else ""
    told = f"{plan.space.name}: registration {found.digest[:SHORT_DIGEST]}, {when}{commit} ({found.digest})"
    console.print(Text(printable(told), style="bold", overflow="fold"))
    for number, claim in enumerate(plan.space.claims):
        console.print(Text(printable(f"  “{claim['says']}”: {standing_of(plan.space, number)}"), overflow="fold"))
    for problem in found.problems:
        console.print(Text(printable(problem), overflow="fold"))


def _print_search(plan: Results, console: Console) -> None:
    """How a search went, what matters, and the best as a space file, whole lines that can be copied."""
    results = search_of(plan)
    console.print()
    for line in [*summary_lines(results), *shares_sentences(results)]:
        console.print(Text(printable(line) if not line.startswith(" ") else line, overflow="fold"))
    best = best_space(results)
    if best is not None:
        console.print()
        for line in best.splitlines():
            console.print(Text(line), soft_wrap=True)


def _print_others(others: Sequence[PlanInfo], space: str, console: Console) -> None:
    if not others:
        return
    console.print()
    console.print(f"Other plans of {space} (--plan ID):")
    for info in others[:OTHER_PLANS]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.launched_ms / 1000))
        settings = f" · {info.overrides}" if info.overrides else ""
        told = (
            f"  {info.id}  {when}  {info.preset} · seeds {info.seeds} · {info.data}{settings} · {info.status.lower()}"
        )
        console.print(Text(printable(told)))
    if len(others) > OTHER_PLANS:
        console.print(f"  and {len(others) - OTHER_PLANS} more in MLflow")


def _spaces(tracker: Tracker, asked: Sequence[str], plan_id: str | None) -> list[str]:
    """The spaces to report: those asked for, or all that have (this) plan."""
    if "all" not in asked:
        return list(dict.fromkeys(asked))
    plans = {space: [info.id for info in tracker.list_plans(space)] for space in tracker.spaces()}
    found = [space for space, ids in plans.items() if (plan_id in ids if plan_id else ids)]
    if found:
        order = table_names()
        return sorted(found, key=lambda space: (order.index(space) if space in order else len(order), space))
    if plan_id is None:
        raise TrackingError(f"expected plans in {tracker.uri}, got none; launch one with python -m ablate.launch")
    hint = nearest(plan_id, {each for ids in plans.values() for each in ids} or {"(none)"})
    raise TrackingError(f"--plan: expected a plan in {tracker.uri}, got {plan_id!r}; {hint}")


def tell_repairs(repairs: Sequence[str], console: Console) -> None:
    """Tell which runs differed from storage and were replaced.

    Args:
        repairs: `Tracker.repairs`.
        console: Where to print.
    """
    if repairs:
        shown = ", ".join(dict.fromkeys(repairs[:OTHER_PLANS]))
        more = f" and {len(repairs) - OTHER_PLANS} more" if len(repairs) > OTHER_PLANS else ""
        count = plural(len(repairs), "run")
        told = f"Repaired {count} in MLflow that differed from storage; the former are deleted there: {shown}{more}"
        console.print(Text(printable(told), overflow="fold"))


def _sync(
    tracker: Tracker, location: str, asked: Sequence[str], plan_id: str | None, console: Console
) -> tuple[str | None, str]:
    """Send what storage holds of a plan, or of each space's latest.

    Returns:
        The plan's id where there is one alone, and the storage's.
    """
    from ablate.storage import plans as plans_module
    from ablate.storage.storage import Storage

    storage = Storage(location)
    spaces = [None] if plan_id is not None or "all" in asked else list(asked)

    def tell(message: str) -> None:
        console.print(Text(printable(message), overflow="fold"))

    found = [plans_module.load(storage, plan_id, space, tell) for space in spaces]
    plans = {plan.id: plan for plan in found}
    for plan in plans.values():
        tracker.open_plan(plan, storage=storage)
        unfinished = tracker.sync(plan, storage, whole=True)
        if unfinished:
            tracker.interrupt(plan)
        for key, trials in plan.trainings().items():
            needed = {name for trial in trials for name in trial.measurements}
            for message in [*storage.damage(key), *storage.damaged_records(key, needed)]:
                tell(message)
        total = len(plan.trainings())
        sent = f"Sent plan {plan.id} to {tracker.uri}: {total - len(unfinished)} of {total} trainings are whole."
        console.print(sent, markup=False)
    tell_repairs(tracker.repairs, console)
    return found[0].id if len(plans) == 1 else plan_id, storage.identify()


app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    space: Annotated[list[str], typer.Option(help="A space's name, or all; may be repeated.")] = ["all"],  # noqa: B006
    plan: Annotated[str | None, typer.Option(help="A plan's id; default: the one launched last.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow; default $MLFLOW_TRACKING_URI or mlflow.db.")] = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="May be repeated; default: terminal, all files with --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write DIR/index.html, figures, and tables as files.")] = None,
    network: Annotated[Which, typer.Option(help="Numbers of the last or of the best network.")] = Which.LAST,
    sync: Annotated[bool, typer.Option("--sync", help="First send MLflow what storage holds of the plan.")] = False,
    storage: Annotated[str, typer.Option(help="With --sync: the storage.")] = "./storage",
    storage_id: Annotated[
        str | None, typer.Option(help="Numbers of this storage, where a plan is in several; default: the last one's.")
    ] = None,
    registration: Annotated[
        bool, typer.Option("--registration", help="Show alone what was registered before anything was trained.")
    ] = False,
    imports: Annotated[list[str] | None, typer.Option("--import", help="Your own module with figures.")] = None,
) -> None:
    """Rebuild tables and verdicts from MLflow, published beside reproduced."""
    open_closed_streams()
    console = open_console()
    try:
        from ablate.tracking.tracker import Tracker

        out = None if out is None else local_path(out, "--out")

        import_modules(imports or [])
        tracker = Tracker(tracking_uri)
        tracker.prepare(create=sync)
        if sync:
            plan, sent = _sync(tracker, storage, space, plan, console)
            storage_id = storage_id or sent
        which: Network = "best" if network is Which.BEST else "last"
        chosen = [format.value for format in formats or ([] if out else [Format.TERMINAL])]
        # What is told beside the tables must not get into a file that is written to standard output.
        beside = console if "terminal" in chosen else open_console(sys.stderr)
        aside = tracker.left_aside() if "all" in space else []
        for told in aside:
            beside.print(Text(printable(told), overflow="fold"))
        names = _spaces(tracker, space, plan)
        plans = [tracker.read_plan(name, plan, storage_id) for name in names]
        if registration:
            for read in plans:
                _print_registration(read, console)
            return
        keep_storages_apart(plans)
        for read in plans:
            _report(tracker, read, chosen, out, which, console)
        if out is not None:
            from ablate.report.publishing import write_page  # brings matplotlib, which tables do without

            for path in write_page(tracker, plans, out, which, aside):
                console.print(Text(str(path)))
        for read in plans if "terminal" not in chosen else ():
            _print_left_out(read, beside)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _report(
    tracker: Tracker, plan: PlanResults, formats: Sequence[str], out: Path | None, network: Network, console: Console
) -> None:
    if "terminal" in formats:
        _print_plan(tracker, plan, console, network)
    files = [name for name in formats if name in _FILES]
    if out is not None:
        for path in write_space(plan, files or list(_FILES), out / plan.space.name, network):
            console.print(Text(str(path)))
    elif files:
        table = table_of(plan, network)
        for name in files:
            typer.echo(harmless(_FILES[name][1](table)))


if __name__ == "__main__":
    app()
