"""python -m ablate.report: MLflow, or a storage -> tables and verdicts, from that alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ablate.core.errors import SpecError, StorageError, TrackingError, UserError, nearest
from ablate.core.places import local_path
from ablate.core.redaction import redact
from ablate.core.text import harmless, listed, open_closed_streams, open_console, plural, printable, shown
from ablate.core.user_code import import_modules
from ablate.report.formats import to_csv, to_latex, to_markdown
from ablate.report.from_tracking import CHANGED, keep_storages_apart, pages_of, results_of
from ablate.report.next_steps import DEFAULT_STORAGE, bundle_there, show_pages
from ablate.report.results import Results
from ablate.report.serialization import results_as_json
from ablate.report.tables import Table, build_table, table_input
from ablate.report.tags import mark_replicated, mark_runs
from ablate.report.terminal import print_registration, print_results
from ablate.report.verdicts.masking import Masked
from ablate.spaces.loading import table_names
from ablate.spaces.networks import NAMES, Network

if TYPE_CHECKING:
    from ablate.storage.plans import PlanFile
    from ablate.storage.storage import Storage
    from ablate.tracking.tracked_plan import TrackedPlan
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


def _network(given: str) -> Network:
    if NAMES.fullmatch(given) is None:
        raise SpecError(f"--network: expected last, best, ema, ema_best or epoch:60, got {given!r}")
    return given


def table_of(results: Results) -> Table:
    """A plan's table as files have it: published beside ours, every row and column of the paper."""
    return build_table(table_input(results, whole=True))


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
    results = results_of(plan, network)
    mark_runs(tracker, plan, _print_plan(results, _others(tracker, results), console), network)
    return list(results.left_out())


def _print_plan(results: Results, others: Sequence[str], console: Console) -> Sequence[Masked]:
    masked = print_results(results, console)
    _print_left_out(results, console)
    _print_others(others, results.space.name, console)
    return masked


def _print_left_out(results: Results, console: Console) -> None:
    """Name the runs that cannot be trusted, and the storages that are not shown."""
    left_out = results.left_out()
    for told in left_out:
        console.print(Text(printable(told), overflow="fold"), soft_wrap=True)
    if any(told.startswith(CHANGED) for told in left_out):
        again = f"python -m ablate.report --sync --storage <its storage> --plan {results.planned.id}"
        console.print(Text(f"What storage holds of it is sent again by: {again}", overflow="fold"))


def write_space(results: Results, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write a plan's table as files.

    Args:
        results: Of a plan.
        formats: `markdown`, `latex`, `csv`.
        folder: Made where it is missing; files in it are replaced.

    Raises:
        SpecError: The folder cannot be written.
    """
    table = table_of(results)
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


def _print_others(others: Sequence[str], space: str, console: Console) -> None:
    if not others:
        return
    console.print()
    console.print(f"Other plans of {space} (--plan ID):")
    for told in shown(others, OTHER_PLANS):
        console.print(Text(printable(f"  {told}"), overflow="fold"))


def _others(tracker: Tracker, results: Results) -> list[str]:
    """The other plans of a space that MLflow has, a line each, the one launched last first."""
    others = [info for info in tracker.list_plans(results.space.name) if info.id != results.planned.id]
    return [
        f"{_line(info.id, info.launched_ms, info.preset, info.seeds, info.data, info.overrides)} · "
        f"{info.status.lower()}"
        for info in others
    ]


def _line(plan: str, launched_ms: int, preset: str, seeds: str, data: str, overrides: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(launched_ms / 1000))
    return f"{plan}  {when}  {preset} · seeds {seeds} · {data}" + (f" · {overrides}" if overrides else "")


def _stored(
    location: str, asked: Sequence[str], plan_id: str | None, network: Network, console: Console
) -> list[tuple[Results, list[str]]]:
    """What a storage holds of the spaces asked for, each with a line for every other plan of it."""
    from ablate.report import from_storage
    from ablate.storage import plans as plans_module
    from ablate.storage.storage import Storage

    def tell(message: str) -> None:
        console.print(Text(printable(message), overflow="fold"))

    storage = Storage(location)
    files = plans_module.load_all(storage, tell)
    of_plan = [plans_module.load(storage, plan_id)] if plan_id is not None else files
    names = list(dict.fromkeys(space.name for file in of_plan for space in file.spaces))
    found = []
    for name in _in_order(names) if "all" in asked else dict.fromkeys(asked):
        file = next((file for file in of_plan if name in [space.name for space in file.spaces]), None)
        if file is None:
            hint = nearest(name, names or ["(none)"])
            raise StorageError(f"--space: expected a space with a plan in {redact(location)}, got {name!r}; {hint}")
        others = [
            _line(
                other.id,
                other.launched_ms,
                other.preset,
                ", ".join(map(str, other.seeds)),
                ", ".join(other.of_space(name).data_labels),
                " ".join(other.overrides),
            )
            for other in files
            if other.id != file.id and name in [space.name for space in other.spaces]
        ]
        found.append((from_storage.results_of(file.of_space(name), storage, network), others))
    if not found:
        raise StorageError(
            f"--storage {redact(location)}: expected plans launched into it, got none{bundle_there(location)}"
        )
    return found


def _storage(location: str | None) -> Storage:
    from ablate.storage.storage import Storage

    return Storage(location or DEFAULT_STORAGE)


def _in_order(names: Sequence[str]) -> list[str]:
    """As the paper has its tables, then by name."""
    if len(names) < 2:
        return list(names)
    order = table_names()
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _spaces(tracker: Tracker, asked: Sequence[str], plan_id: str | None) -> list[str]:
    """The spaces to report: those asked for, or all that have (this) plan."""
    if "all" not in asked:
        return list(dict.fromkeys(asked))
    plans = {space: [info.id for info in tracker.list_plans(space)] for space in tracker.spaces()}
    found = [space for space, ids in plans.items() if (plan_id in ids if plan_id else ids)]
    if found:
        return _in_order(found)
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
        which = listed(list(dict.fromkeys(repairs)), OTHER_PLANS)
        count = plural(len(repairs), "run")
        told = f"Repaired {count} in MLflow that differed from storage; the former are deleted there: {which}"
        console.print(Text(printable(told), overflow="fold"))


def _held(storage: Storage, asked: Sequence[str], plan_id: str | None, console: Console) -> list[PlanFile]:
    """What a storage holds to send: a plan, or each space's latest.

    Raises:
        StorageError: It holds none of these.
    """
    from ablate.storage import plans

    def tell(message: str) -> None:
        console.print(Text(printable(message), overflow="fold"))

    spaces = [None] if plan_id is not None or "all" in asked else list(asked)
    found = [plans.load(storage, plan_id, space, tell) for space in spaces]
    return list({plan.id: plan for plan in found}.values())


def _sync(tracker: Tracker, storage: Storage, plans: Sequence[PlanFile], console: Console) -> None:
    """Send MLflow what a storage holds of some plans."""
    for plan in plans:
        tracker.open_plan(plan, storage=storage)
        unfinished = tracker.sync(plan, storage, whole=True)
        if unfinished:
            tracker.interrupt(plan)
        for key, trials in plan.trainings().items():
            needed = {name for trial in trials for name in trial.measurements}
            for message in [*storage.damage(key), *storage.damaged_records(key, needed)]:
                console.print(Text(printable(message), overflow="fold"))
        total = len(plan.trainings())
        whole = f"{total - len(unfinished)} of {plural(total, 'training')} {'is' if total == 1 else 'are'} whole"
        sent = f"Sent plan {plan.id} to {tracker.uri}: {whole}."
        console.print(sent, markup=False)
    tell_repairs(tracker.repairs, console)


app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    space: Annotated[list[str], typer.Option(metavar="NAME", help="A space's name, or all; may repeat.")] = ["all"],  # noqa: B006
    plan: Annotated[str | None, typer.Option(metavar="ID", help="A plan's id; default: the one launched last.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow; default $MLFLOW_TRACKING_URI or mlflow.db.")
    ] = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(Format)}; may repeat; default: terminal, all files with --out.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write DIR/index.html, figures, and tables as files.")
    ] = None,
    network: Annotated[
        str,
        typer.Option(metavar="NETWORK", help="Whose numbers: last, best, ema, ema_best, or epoch:60 of training.keep."),
    ] = "last",
    sync: Annotated[bool, typer.Option("--sync", help="First send MLflow what storage holds of the plan.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Read this storage, and no MLflow; with --sync: what is sent, default ./storage."
        ),
    ] = None,
    storage_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Numbers of this storage, where a plan is in several; default: the last one's."
        ),
    ] = None,
    registration: Annotated[
        bool, typer.Option("--registration", help="Show alone what was registered before anything was trained.")
    ] = False,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Your own module with figures; may repeat.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON of the results, as of a launch; several plans: a list.")
    ] = False,
) -> None:
    """Rebuild tables and verdicts from MLflow or from a storage, published beside reproduced."""
    open_closed_streams()
    console = open_console(sys.stderr if as_json else None)  # standard output is then for the script alone
    try:
        if as_json and formats and out is None:
            raise SpecError(f"--json: expected no --format beside it without --out, got {formats[0].value}")
        out = None if out is None else local_path(out, "--out")
        import_modules(imports or [])
        which = _network(network)
        chosen = [format.value for format in formats or ([] if out or as_json else [Format.TERMINAL])]
        # What is told beside the tables must not get into a file that is written to standard output.
        beside = console if "terminal" in chosen else open_console(sys.stderr)
        tracker: Tracker | None = None
        plans: list[TrackedPlan] = []
        aside: list[str] = []
        if storage is not None and not sync:
            for option, given in (("--tracking-uri", tracking_uri), ("--storage-id", storage_id)):
                if given is not None:
                    raise SpecError(f"--storage: expected no {option} beside it without --sync, got {given!r}")
            read = _stored(storage, space, plan, which, beside)
        else:
            from ablate.tracking.tracker import Tracker

            tracker = Tracker(tracking_uri)
            held = _storage(storage)
            to_send = _held(held, space, plan, console) if sync else []  # first: a store is made for what there is
            tracker.prepare(create=sync)
            if sync:
                _sync(tracker, held, to_send, console)
                plan = to_send[0].id if len(to_send) == 1 else plan
                storage_id = storage_id or held.identify()
            aside = tracker.left_aside() if "all" in space else []
            for told in aside:
                beside.print(Text(printable(told), overflow="fold"))
            plans = [tracker.read_plan(name, plan, storage_id) for name in _spaces(tracker, space, plan)]
            marked = [mark_replicated(tracker, each, held) for each in plans if sync]
            if any(marked):
                plans = [tracker.read_plan(name, plan, storage_id) for name in _spaces(tracker, space, plan)]
            keep_storages_apart(plans)
            read = [(results := results_of(plan, which), _others(tracker, results)) for plan in plans]
        if registration:
            for results, _ in read:
                print_registration(results, console)
            return
        printed = [_report(results, others, chosen, out, console) for results, others in read]
        for plan_results, masked in zip(plans, printed, strict=False):
            if tracker is not None and masked is not None:
                mark_runs(tracker, plan_results, masked, which)
        shown = [results for results, _ in read]
        if tracker is not None and "terminal" in chosen:
            show_pages(console, tracker.uri, [pages_of(results) for results in shown], apart=True)
        if out is not None:
            from ablate.report.page_files import write_page  # brings matplotlib, which tables do without

            for path in write_page(tracker, shown, out, aside):
                console.print(Text(str(path)))
        if as_json:
            typer.echo(json.dumps(_as_json(shown), indent=1))
        for results in shown if "terminal" not in chosen else ():
            _print_left_out(results, beside)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _as_json(shown: Sequence[Results]) -> Any:
    """What a launch of the plan prints; a list of that where spaces are of several plans."""
    shared: dict[str, list[Results]] = {}
    for results in shown:
        shared.setdefault(results.planned.id, []).append(results)
    found = [results_as_json(of_plan) for of_plan in shared.values()]
    return found[0] if len(found) == 1 else found


def _report(
    results: Results, others: Sequence[str], formats: Sequence[str], out: Path | None, console: Console
) -> Sequence[Masked] | None:
    """Print or write a table; its masked columns where it is printed."""
    masked = _print_plan(results, others, console) if "terminal" in formats else None
    files = [name for name in formats if name in _FILES]
    if out is not None:
        for path in write_space(results, files or list(_FILES), out / results.space.name):
            console.print(Text(str(path)))
    elif files:
        table = table_of(results)
        for name in files:
            typer.echo(harmless(_FILES[name][1](table)))
    return masked


if __name__ == "__main__":
    app()
