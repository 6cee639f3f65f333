"""What the terminal shows before and after a launch: the plan, and how to go on."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.core.redaction import redact
from ablate.core.text import listed, plural, printable, row_name
from ablate.launch.cautions import cautions
from ablate.report.next_steps import DEFAULT_STORAGE, needs_no_uri, own_python, show_pages, show_step

if TYPE_CHECKING:
    from ablate.planning.estimates import Estimate
    from ablate.planning.plan import Plan, PlannedTraining

SHORT_KEY = 8
"""Characters of a training's key that tell it apart on a screen."""

IN_FULL = 3
"""Of more spaces than these one line each is shown: their rows would fill screens."""

_SHARED_SHOWN = 4
_STYLES = {"reuse": "green", "continue": "cyan", "train": "", "wait": "yellow", "failed": "red", "stopped": "green"}


def show_plan(plan: Plan, out: Console) -> None:
    """Print what a launch would do: a table for each space, of many a line, and what is shared.

    Args:
        plan: With its actions decided.
        out: Where to.
    """
    for space in plan.spaces if len(plan.spaces) <= IN_FULL else ():
        number = f" (Table {space.space.table})" if space.space.table is not None else ""
        out.print()
        out.print(Text(f"{space.name}: {printable(space.space.title)}{number}", style="bold", overflow="fold"))
        if plan.trials:  # of a search there may be none yet
            out.print(_table(plan, space.name))
    if len(plan.spaces) > IN_FULL:
        out.print()
        out.print(_overview(plan))
        one = f"{own_python()} -m ablate.launch --space NAME --dry-run"
        show_step(out, "Rows, shared trainings and claims of one; --json has those of all:", one)
    failed = failures(plan)
    if failed:
        out.print()
    _show_failures(failed, out)
    found = cautions(plan)
    if found:
        out.print()
    for sentence in found:
        out.print(Text(f"Caution: {sentence}.".replace("?.", "?"), style="bold yellow", overflow="fold"))
    out.print()
    out.print(Text(f"plan {plan.id}, preset {plan.preset.name}: {summary(plan)}", overflow="fold"))


def show_estimate(expected: Estimate, out: Console) -> None:
    """Print how long a plan would take, and what of it nobody can tell."""
    show_remarks(expected, out)
    out.print(Text(printable(expected.sentence()), overflow="fold"))


def show_remarks(expected: Estimate, out: Console) -> None:
    """Print what of a plan could not be estimated; as of `show_estimate`."""
    for remark in expected.remarks:
        out.print(Text(printable(remark), style="yellow", overflow="fold"))


def _table(plan: Plan, space: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("row", overflow="fold", min_width=6)
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("training", no_wrap=True)
    table.add_column("action", overflow="fold", min_width=10)
    table.add_column("shared with", overflow="fold")
    before = None
    named: dict[str, str] = {}  # training -> the row of this table that has said whose else it is
    for planned in plan.trials:
        if planned.trial.space != space:
            continue
        training = plan.trainings[planned.training]
        label = printable(planned.trial.label)
        own = f"{space}/{planned.trial.label}"
        others = [row_name(row, [space]) for row in dict.fromkeys(training.rows) if row != own]
        shared = f"as {named[training.key]}" if training.key in named else listed(others, _SHARED_SHOWN)
        named.setdefault(training.key, label)
        table.add_row(
            Text("" if label == before else label),
            Text(str(planned.trial.seed)),
            Text(training.key[:SHORT_KEY]),
            Text(_action(training), style=_STYLES[training.action]),
            Text(shared, style="dim"),
        )
        before = label
    return table


def _overview(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)  # fits 60 columns
    table.add_column("space", no_wrap=True)
    for name in ("rows", "trials", "trainings", "as above"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("and", overflow="fold")
    above: set[str] = set()
    for space in plan.spaces:
        own = [planned for planned in plan.trials if planned.trial.space == space.name]
        keys = dict.fromkeys(planned.training for planned in own)
        counts: Counter[str] = Counter(plan.trainings[key].action for key in keys if key not in above)
        rows = len({planned.trial.label for planned in own})
        numbers = (rows, len(own), len(keys), len(above & keys.keys()))
        table.add_row(space.name, *(f"{number:,}" for number in numbers), _actions(counts))
        above |= keys.keys()
    return table


def _actions(counts: Mapping[str, int], **more: str) -> str:
    """How many trainings are to be trained, reused and so on; what is said more of an action."""
    words = {"reuse": "to reuse", "stopped": "stopped early", "continue": "to continue", "train": "to train"}
    words |= {"wait": "waiting", "failed": "failed"}
    known = {action: word + more.get(action, "") for action, word in words.items()}
    return ", ".join(f"{counts[action]:,} {word}" for action, word in known.items() if counts.get(action))


def _action(training: PlannedTraining) -> str:
    epochs = training.spec.epochs
    if training.weights is not None and training.action in ("train", "continue"):
        return f"measure weights {training.weights[:SHORT_KEY]}, nothing to train"
    if training.action == "continue" and training.view is not None and training.view.finished:
        return f"continue: trained, {plural(len(training.missing), 'measurement')} to go"
    if training.action == "continue":
        return f"continue from epoch {training.epoch} of {epochs}"
    if training.action == "train":
        return f"train {plural(epochs, 'epoch')}"
    if training.action == "stopped":
        return f"stopped early after epoch {training.epoch} of {epochs}"
    if training.action == "reuse" and training.origin:
        return f"reuse, from {printable(training.origin)}"
    return {"wait": "wait for another launch", "failed": "failed, see below"}.get(training.action, training.action)


def summary(plan: Plan) -> str:
    """The plan in one sentence.

    Args:
        plan: With its actions decided.

    Returns:
        `N rows, M trials, K distinct trainings (one for each trial: L more): a to reuse, b to continue, ...`.
    """
    if plan.search and not plan.trials:
        return "no sample yet"
    if not plan.trials:
        return "no training yet"
    numbers = _numbers(plan)
    sharing = f" (one for each trial: {numbers['saved']:,} more)" if numbers["saved"] else ""
    of_others = sum(training.weights is not None for training in plan.left())
    measured = f" ({of_others:,} with weights that only need measuring)" if of_others else ""
    actions = _actions(numbers, train=measured)
    return (
        f"{plural(numbers['rows'], 'row')}, {plural(numbers['trials'], 'trial')}, "
        f"{plural(numbers['trainings'], 'distinct training')}{sharing}: {actions or 'nothing to do'}"
    )


def _numbers(plan: Plan) -> dict[str, int]:
    counts = plan.counts()
    return {
        "rows": len({(planned.trial.space, planned.trial.label) for planned in plan.trials}),
        "trials": len(plan.trials),
        "trainings": len(plan.trainings),
        "saved": len(plan.trials) - len(plan.trainings),
        **{action: counts.get(action, 0) for action in ("reuse", "continue", "train", "wait", "failed", "stopped")},
    }


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, for scripts.

    Args:
        plan: With its actions decided.

    Returns:
        What `json.dumps` takes: the request, each trial with its training, each training with its action, and sums.
    """
    return {
        "id": plan.id,
        "preset": plan.preset.name,
        "overrides": list(plan.overrides),
        "seeds": list(plan.seeds),
        "spaces": [
            {"name": space.name, "title": space.space.title, "table": space.space.table} for space in plan.spaces
        ],
        "trials": [
            {
                "space": planned.trial.space,
                "row": planned.trial.label,
                "seed": planned.trial.seed,
                "training": planned.training,
                "note": planned.trial.note,
                "measurements": {**planned.columns, **planned.analyses},
            }
            for planned in plan.trials
        ],
        "trainings": {
            key: {
                "action": training.action,
                "epoch": training.epoch,
                "epochs": training.spec.epochs,
                "rows": list(dict.fromkeys(training.rows)),
                "seed": training.spec.seed,
                "measurements": len(training.measurements),
                "missing": sorted(training.missing),
                "failure": training.failure,
                "origin": training.origin or None,
                "spec": training.spec.model_dump(mode="json"),
            }
            for key, training in plan.trainings.items()
        },
        "cautions": cautions(plan),
        "summary": _numbers(plan),
    }


def failures(plan: Plan) -> list[tuple[str, str]]:
    """The trainings that failed.

    Args:
        plan: Decided after the launch.

    Returns:
        Their rows, and the reason of each, in the plan's order.
    """
    spaces = [space.name for space in plan.spaces]
    found = []
    for training in plan.trainings.values():
        if training.action == "failed":
            rows = ", ".join(row_name(row, spaces) for row in dict.fromkeys(training.rows))
            seed = f" seed {training.spec.seed}" if len(plan.seeds) > 1 else ""
            found.append((rows + seed, printable(training.failure or "no reason given")))
    return found


def _how_many_failed(failed: Sequence[PlannedTraining]) -> str:
    """`2 trainings failed, 1 lacks measurements, which failed`: a network that is whole did not fail to train."""
    short = sum(each.view is not None and each.view.finished for each in failed)
    whole = [f"{plural(len(failed) - short, 'training')} failed"] if len(failed) > short else []
    what = f"{short}" if whole else plural(short, "training")
    lack = [f"{what} {'lacks' if short == 1 else 'lack'} measurements, which failed"] if short else []
    return ", ".join([*whole, *lack])


def _show_failures(failed: Sequence[tuple[str, str]], out: Console) -> None:
    for rows, reason in failed:
        out.print(Text(f"{rows}: failed: {reason}", style=_STYLES["failed"], overflow="fold"))


def show_next_steps(
    plan: Plan,
    out: Console,
    *,
    tracking_uri: str | None,
    pages: Sequence[tuple[str, str]],
    storage: str,
    interrupted: bool,
) -> None:
    """Print what can be done after a launch, also after one that was interrupted.

    Args:
        plan: Decided again after the launch, so that its actions say what is left.
        out: Where to. Commands are never broken over lines, so that they can be copied.
        tracking_uri: Of the MLflow store; none: nothing was sent there.
        pages: Where it shows the runs, as of `Tracker.paths`.
        storage: As given.
        interrupted: Whether it was ended early.
    """
    python = own_python()
    command = _own_command(python)
    failed, trainings = failures(plan), [each for each in plan.trainings.values() if each.action == "failed"]
    left = sum(count for action, count in plan.counts().items() if action not in ("reuse", "failed", "stopped"))
    if failed:
        out.print()
        out.print(Text(f"{_how_many_failed(trainings)}:", style="red"))
    _show_failures(failed, out)
    out.print()
    if left or interrupted:
        what = f"{'Interrupted; ' if interrupted else ''}{plural(left, 'training')} to go."
        show_step(out, f"{what} To go on, run the same command again:", command)
    if failed:
        key = trainings[0].key
        where = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(redact(storage))}"
        words = "To read its log:" if len(failed) == 1 else "To read the log of the first:"
        show_step(out, words, f"{python} -m ablate.status{where} --log {key[:8]}")
        if not all(each.lacks_network for each in trainings):  # no checkpoint has that any more
            retry = None if command is None else command + ("" if "--retry-failed" in command else " --retry-failed")
            show_step(out, "To try what failed again from its last checkpoint, add --retry-failed:", retry)
    if tracking_uri is None:
        where = f"--storage {shlex.quote(redact(storage))} --plan {plan.id}"
        show_step(out, "To make the table again, from storage:", f"{python} -m ablate.report {where}")
        show_step(out, "Nothing was sent to MLflow. To send it:", f"{python} -m ablate.report --sync {where}")
        return
    show_pages(out, tracking_uri, pages if len(plan.spaces) <= IN_FULL else ())
    where = "" if needs_no_uri(tracking_uri) else f" --tracking-uri {shlex.quote(redact(tracking_uri))}"
    names = [space.name for space in plan.spaces] if len(plan.spaces) <= IN_FULL else ["NAME"]
    reports = [f"{python} -m ablate.report --space {name}{where}" for name in names]
    words = "To make the table again:" if len(plan.spaces) == 1 else "To make the tables again:"
    if len(plan.spaces) > IN_FULL:
        words = "To make the table of one again, with the addresses of its runs:"
    show_step(out, words, *reports)


def _own_command(python: str) -> str | None:
    """How this launch was started; None in a notebook or a test."""
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    if started.name != "__main__.py" or started.parent.name != "launch":
        return None
    # It ends up in the logs of jobs; whoever has a secret in it has to fill that in again.
    return f"{python} -m ablate.launch {shlex.join(map(redact, sys.argv[1:]))}".rstrip()
