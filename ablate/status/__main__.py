"""python -m ablate.status: what a storage holds, how far it is, why something failed; --delete alone changes it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.core.errors import SpecError, StorageError, UserError, nearest
from ablate.core.redaction import redact
from ablate.core.text import duration, open_closed_streams, open_console, plural, printable
from ablate.report.from_storage import results_of
from ablate.report.names import column_name, failure_words
from ablate.report.next_steps import DEFAULT_STORAGE, bundle_there
from ablate.spaces.settings import format_value
from ablate.status.holdings import (
    PlanStatus,
    TrialStatus,
    bytes_of,
    compare,
    differences,
    find_trial,
    plan_statuses,
    trials_called,
)
from ablate.storage import plans
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage

if TYPE_CHECKING:
    from ablate.status.deletion import Deletion

_ORDER = ("training", "interrupted", "waiting", "failed", "stopped", "finished")
_LOG_LINES = 200

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    storage: Annotated[str, typer.Option(metavar="PLACE", help="A folder or bucket.")] = DEFAULT_STORAGE,
    plan: Annotated[
        str | None, typer.Option(metavar="ID", help="A plan's id; default: the last one launched, with the row.")
    ] = None,
    log: Annotated[str | None, typer.Option(help="Print the log of this row's last attempt.", metavar="ROW")] = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Which settings make two trainings different ones.", metavar="ROW ROW"),
    ] = None,
    comparison: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", help="What differs between two plans, row by row.", metavar="PLAN PLAN"),
    ] = None,
    deleted: Annotated[
        str | None,
        typer.Option("--delete", help="Delete a plan with what nothing else uses, after asking.", metavar="PLAN"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --delete: do not ask.")] = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="With --delete: MLflow; default $MLFLOW_TRACKING_URI or mlflow.db."),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of --log and --why; default: the row's first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """What a storage holds: plans, how far their trainings are, how old, how large, and why some failed."""
    open_closed_streams()
    console = open_console(sys.stderr if as_json else None)
    try:
        wanted = {"--log": log, "--why": why, "--compare": comparison, "--delete": deleted}
        asked = [name for name, given in wanted.items() if given]
        if len(asked) > 1:
            raise SpecError(f"expected one of --log, --why, --compare and --delete, got {' and '.join(asked)}")
        for name, given in (("--yes", yes), ("--tracking-uri", tracking_uri)):
            if given and deleted is None:
                raise SpecError(f"{name}: expected --delete PLAN beside it, got none")
        holds = Storage(storage)
        files = plans.load_all(holds, lambda told: console.print(Text(printable(told), overflow="fold")))
        if comparison is not None:
            _compare(holds, [_plan(holds, files, each) for each in comparison], console, as_json)
            return
        if deleted is not None:
            _delete(holds, files, _plan(holds, files, deleted), console, yes, tracking_uri)
            return
        chosen = _plan(holds, files, plan)
        rows = [log] if log else why or ()
        if plan is None:  # a row of the plan before the last is asked about by its name, too
            chosen = next((file for file in files if all(trials_called(file, row) for row in rows)), chosen)
        if log is not None:
            _log(holds, chosen, log, seed, console)
        elif why is not None:
            _why(chosen, why, seed, console, as_json)
        else:
            _overview(holds, files, chosen, console, as_json)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _plan(storage: Storage, files: Sequence[PlanFile], plan_id: str | None) -> PlanFile:
    """A plan by its id, or by the beginning of one; none: the one launched last."""
    where = redact(storage.location)
    if not files:
        raise StorageError(
            f"--storage {where}: expected a plan launched into it, got none{bundle_there(storage.location)}"
        )
    if plan_id is None:
        return files[0]
    found = [file for file in files if plan_id and file.id.startswith(plan_id)]
    if len(found) != 1:
        several = f", which {len(found)} plans begin with" if found else ""
        hint = nearest(plan_id, [file.id for file in files])
        raise StorageError(f"expected a plan launched into {where}, got {plan_id!r}{several}; {hint}")
    return found[0]


def _overview(storage: Storage, files: Sequence[PlanFile], chosen: PlanFile, console: Console, as_json: bool) -> None:
    status = plan_statuses(files, storage)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in status], indent=1))
        return
    for each in status:
        console.print(Text(printable(_line(each)), overflow="fold"))
    shown = next(each for each in status if each.id == chosen.id)
    console.print()
    console.print(_table(shown, len(shown.spaces) > 1))
    for trial in shown.trials:
        if trial.reason is not None:
            what = f": {failure_words(trial.lacking, trial.reason)}" if trial.lacking else f" failed: {trial.reason}"
            console.print(Text(printable(f"{_name(trial, shown)}{what}"), overflow="fold"))
            console.print(Text(f"  its log: {printable(redact(trial.log))}"), soft_wrap=True)  # to be copied whole
    for row, why in shown.not_needed.items():
        console.print(Text(printable(f"{row}: further seeds {why}"), overflow="fold"))
    console.print(Text(_disk(storage, status), overflow="fold"))


def _line(plan: PlanStatus) -> str:
    states = ", ".join(f"{plan.states[name]} {name}" for name in _ORDER if plan.states.get(name))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.launched_ms / 1000))
    changed = f" · {' '.join(plan.overrides)}" if plan.overrides else ""
    return f"{plan.id}  {when}  {', '.join(plan.spaces)} · {plan.preset}{changed}: {states or 'nothing yet'}"


def _table(plan: PlanStatus, several: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in (*(("space",) if several else ()), "row"):
        table.add_column(name, overflow="fold")
    for name in ("seed", "training", "state", "epoch", "age", "size"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("training", "state") else "right")
    for trial in plan.trials:
        table.add_row(
            *((trial.space,) if several else ()),
            printable(trial.row),
            str(trial.seed),
            trial.training[:8],
            trial.state,
            f"{max(trial.epoch, 0)}/{trial.epochs}",
            "" if trial.age_s is None else duration(trial.age_s),
            _size(trial.checkpoint_bytes + trial.record_bytes),
        )
    return table


def _name(trial: TrialStatus, plan: PlanStatus) -> str:
    space = f"{trial.space} / " if len(plan.spaces) > 1 else ""
    return f"{space}{trial.row}, seed {trial.seed}"


def _disk(storage: Storage, status: Sequence[PlanStatus]) -> str:
    trials = [trial for each in status for trial in each.trials]
    checkpoints, records = bytes_of(trials)
    count = len({trial.training for trial in trials})
    return (
        f"{plural(count, 'training')} in {redact(storage.location)}: {_size(checkpoints)} of checkpoints, "
        f"{_size(records)} of records and logs"
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _log(storage: Storage, plan: PlanFile, row: str, seed: int | None, console: Console) -> None:
    trial = find_trial(plan, row, seed)
    path, text = storage.log(trial.training)
    if not path:
        raise StorageError(f"--log: expected a row that was started, got {row!r}, seed {trial.seed}; nothing began yet")
    lines = text.splitlines()
    console.print(Text(f"{printable(path)}, {plural(len(lines), 'line')}:", overflow="fold"))
    for line in lines[-_LOG_LINES:]:
        console.print(Text(printable(line), overflow="fold"))


def _why(plan: PlanFile, rows: Sequence[str], seed: int | None, console: Console, as_json: bool) -> None:
    one, other = (find_trial(plan, row, seed) for row in rows)
    found = differences(one.spec, other.spec)
    if as_json:
        shared = one.training == other.training
        content = {"trainings": [one.training, other.training], "same_training": shared, "settings": found}
        typer.echo(json.dumps(content, indent=1))
        return
    if one.training == other.training:
        console.print(Text(f"One training, {one.training[:8]}, which both share."))
    else:
        console.print(Text(f"{one.training[:8]} and {other.training[:8]}:"))
    for path, (left, right) in found.items():
        console.print(Text(printable(f"  {path}: {format_value(left)} and {format_value(right)}"), overflow="fold"))
    if one.data != other.data:
        console.print(Text(printable(f"  data: {one.data.label} and {other.data.label}"), overflow="fold"))
    if not found and one.data == other.data:
        console.print(Text("  the same settings"))


def _compare(storage: Storage, pair: Sequence[PlanFile], console: Console, as_json: bool) -> None:
    one, other = pair
    if one.id == other.id:
        raise StorageError(f"--compare: expected two plans, got {one.id} twice")
    names = [space.name for space in one.spaces if space.name in [each.name for each in other.spaces]]
    if not names:
        raise StorageError(f"--compare: expected plans with a space in common, got {one.id} and {other.id}")
    found = {name: compare(*(results_of(plan.of_space(name), storage) for plan in pair)) for name in names}
    if as_json:
        content = {
            name: [{**vars(change), "difference": change.difference} for change in changes]
            for name, changes in found.items()
        }
        typer.echo(json.dumps({"plans": [one.id, other.id], "spaces": content}, indent=1))
        return
    for name, changes in found.items():
        table = Table(
            title=f"{name}: {other.id} less {one.id}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
            pad_edge=False,
        )
        table.add_column("row", overflow="fold")
        table.add_column("number", overflow="fold")
        for column in (one.id, other.id, "difference"):
            table.add_column(column, justify="right", no_wrap=True)
        for change in changes:
            error = "" if change.error is None else f" ± {change.error:.2f}"
            table.add_row(
                printable(change.row),
                column_name(change.metric),
                f"{change.one:.2f}",
                f"{change.other:.2f}",
                f"{change.difference:+.2f}{error}",
            )
        console.print(table)
        if not changes:
            console.print(Text(f"{name}: no row with numbers in both plans"))
    console.print(Text("Differences of means over the seeds ± their standard error, where there are several seeds."))


def _delete(
    storage: Storage, files: Sequence[PlanFile], plan: PlanFile, console: Console, yes: bool, tracking_uri: str | None
) -> None:
    """Delete a plan, after saying what goes with it; disk use before and after."""
    from ablate.status.deletion import delete, store_of

    tracker = store_of(tracking_uri)

    before = plan_statuses(files, storage)

    def agree(going: Deletion) -> bool:
        console.print(Text(printable(_line(next(each for each in before if each.id == plan.id))), overflow="fold"))
        for line in _what_goes(going, tracker.uri if tracker is not None else None):
            console.print(Text(printable(line), overflow="fold"))
        if yes:
            return True
        if not can_be_asked():
            raise SpecError("--delete: expected --yes where nobody can be asked, got none; nothing was deleted")
        return typer.confirm("Delete all of it?", default=False)

    def waiting() -> None:
        console.print("Seeing whether a launch is still at work on it, up to 20 s ...")

    console.print(Text(f"Before: {_disk(storage, before)}", overflow="fold"))
    gone = delete(storage, plan, agree, waiting, tracker)
    if gone is None:
        console.print("Nothing was deleted.")
        return
    left = plan_statuses(plans.load_all(storage), storage)
    console.print(Text(f"After: {_disk(storage, left)}; {_size(gone.bytes)} freed", overflow="fold"))


def can_be_asked() -> bool:
    """Whether somebody sits at a terminal."""
    return sys.stdin.isatty()


def _what_goes(going: Deletion, store: str | None) -> list[str]:
    """What a deletion takes away and what it leaves, a line each."""
    count = plural(len(going.trainings), "training")
    told = [f"What nothing else uses, {_size(going.bytes)}: the plan, and {count} with checkpoints, records and logs"]
    if going.records:
        number = sum(map(len, going.records.values()))
        told.append(f"With it: {plural(number, 'measurement')} of trainings that stay")
    if going.weights:
        told.append(f"With it: the weights of {plural(len(going.weights), 'network')} from elsewhere")
    if store is not None:
        told.append(f"With it: {plural(len(going.runs), 'run')} in {store}, marked as deleted until `mlflow gc`")
    if going.shared:
        told.append(f"What stays: {plural(going.shared, 'training')} that other plans use too")
    registered = sum(space.registration is not None for space in going.plan.spaces)
    if registered:
        told.append(f"What stays: {plural(registered, 'registration')}, which nothing deletes")
    return told


if __name__ == "__main__":
    app()
