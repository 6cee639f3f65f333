"""What a launch does: space -> plan -> Ray or this process -> storage, MLflow, table."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from ablate.core.errors import DataError, StorageError, TrackingError, UserError
from ablate.core.provenance import provenance
from ablate.core.redaction import redact
from ablate.core.text import printable
from ablate.execution.addresses import ray_address
from ablate.execution.base import Event, Outcome
from ablate.execution.executors import Datasets, Engine, open_engine
from ablate.launch.console import Progress, plan_as_json, show_estimate, show_next_steps, show_plan, show_remarks
from ablate.launch.options import Options
from ablate.launch.request import fitting_preset, is_search, plan_of, runs_here, submission_of
from ablate.planning.estimates import DAY_S, Estimate, estimate
from ablate.planning.plan import Plan, PlannedTraining, decide, plan_file_of
from ablate.planning.results import results_as_json
from ablate.storage import plans
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from ablate.tracking.address import resolve

WAIT_S = 1.0
"""How often a waiting launch looks whether another one has finished or died."""

CLOSE_S, CLOSE_INTERRUPTED_S = 60.0, 10.0
"""How long the end of a launch waits for MLflow; a preempted one has 30 s in all."""

TRACKED_EVENTS = ("started", "epoch", "measured", "finished", "failed", "interrupted")
"""Events after which MLflow is told."""


def launch(options: Options, console: Console, out: TextIO | None = None) -> int:
    """Plan, train, measure, track, and print the table.

    Args:
        options: The command line.
        console: Where to print.
        out: Where JSON goes; none: standard output.

    Returns:
        The exit code: 0 all there, 1 something failed, 130 interrupted.

    Raises:
        UserError: Something the user gave cannot be used; nothing was lost.
    """
    out = out or sys.stdout
    if options.cluster is not None:
        return _show_submission(options, console, out) if options.dry_run else _submit(options, console)
    return _launch_here(options, console, out)


def _launch_here(options: Options, console: Console, out: TextIO, *, elsewhere: bool = False) -> int:
    """As of `launch`, without a job server.

    Args:
        options: The command line.
        console: Where to print.
        out: Where JSON goes.
        elsewhere: A dry run of what will run on other machines: this one need not have what it asks for.
    """
    storage = Storage(options.storage)
    plan = None if is_search(options) else plan_of(options)
    if plan is not None:
        decide(plan, storage, retry_failed=options.retry_failed)
    if not elsewhere:
        check_reach(options, plan is None or bool(plan.left()))
        if options.dry_run:
            storage.files.probe()
    if plan is None:
        from ablate.launch import search_planning, search_session

        if options.dry_run:
            return search_planning.dry_run(options, storage, console, out)
        storage.check()
        if not options.yes and runs_here(options):
            expected = search_planning.search_estimate(search_planning.search_plan(options, storage), storage)
            if not _agreed(options, expected, storage, console):
                return 2
        return search_session.launch_search(options, storage, console, out)
    if options.dry_run:
        expected = estimate(plan, storage)
        if options.as_json:
            out.write(json.dumps({**plan_as_json(plan), "estimate": expected.as_json()}, indent=1) + "\n")
        else:
            show_plan(plan, console)
            show_estimate(expected, console)
        return 0
    storage.check()
    if not options.yes and runs_here(options) and not _agreed(options, estimate(plan, storage), storage, console):
        return 2
    return Launch(options, plan, storage, console, out).run()


def _agreed(options: Options, expected: Estimate, storage: Storage, console: Console) -> bool:
    """Ask about a launch of more than a day; where nobody can answer, refuse it, but never by a guess."""
    show_remarks(expected, console)
    if expected.wall_s <= DAY_S:
        return True
    said = f"{expected.sentence()} {fitting_preset(options, storage)}"
    asked = sys.stdin.isatty() and sys.stdout.isatty()
    if not asked and expected.guessed:
        console.print(Text(f"{said} That is a guess, so it starts.", overflow="fold"))
        return True
    if not asked:
        raise UserError(f"expected a launch of less than a day on this machine, or --yes; {said}")
    console.print(Text(said, overflow="fold"))
    import typer

    return typer.confirm("Go on?", default=False)


def check_reach(options: Options, to_train: bool) -> None:
    """Refuse what a launch here cannot have, before anything is written; a dry run refuses it too.

    Args:
        options: The command line.
        to_train: Whether there is anything to train.

    Raises:
        UserError: More than this machine has, a cluster that does not answer, or what is no address of MLflow.
    """
    if options.tracking:
        resolve(options.tracking_uri)
    if options.local or not to_train:
        return
    gpus = None if options.gpus_per_trial == "auto" else options.gpus_per_trial
    if options.cpus_per_trial is not None or gpus or ray_address() is not None or not options.dry_run:
        from ablate.execution import tune

        tune.check_cluster()
        tune.check_share(options.cpus_per_trial, gpus)
        tune.check_folder()


def _submit(options: Options, console: Console) -> int:
    from ablate.execution import jobs

    try:
        plan_id = plan_of(options).id
    except (DataError, StorageError):
        plan_id = None  # the data, or a search's storage, may lie on the cluster alone
    return jobs.submit(submission_of(options, plan_id), console)


def _show_submission(options: Options, console: Console, out: TextIO) -> int:
    """`--dry-run --cluster`: the plan, as far as it can be seen from here, and what would travel."""
    from ablate.execution import jobs

    submission = submission_of(options, None)
    parcel = jobs.checked(submission)
    here, plan = replace(options, cluster=None), io.StringIO()
    try:
        _launch_here(here, console, plan, elsewhere=True)
    except (DataError, StorageError) as error:  # as of `_submit`
        if not options.as_json:
            console.print(Text(f"The plan cannot be seen from here: {printable(error)}", overflow="fold"))
    if options.as_json:
        told = {"travels": sorted(parcel.files), "does_not_travel": parcel.left_out}
        out.write(json.dumps({**json.loads(plan.getvalue() or "{}"), **told}, indent=1) + "\n")
    else:
        jobs.show(parcel, submission.cluster, console)
    return 0


class Launch:
    """One launch of a plan of tables, from its decisions to its last line.

    Args:
        options: The command line.
        plan: What it asked for.
        storage: Where results go.
        console: Where to print.
        out: Where JSON goes.
    """

    def __init__(self, options: Options, plan: Plan, storage: Storage, console: Console, out: TextIO) -> None:
        self.options = options
        self.plan = plan
        self.storage = storage
        self.console = console
        self.out = out
        self.datasets = Datasets(options.data_root)
        self.provenance = provenance(sys.argv)
        self.sync: Any = None
        self.tracker: Any = None
        self.interrupted = False
        self.arrived = True
        self.left_out: list[str] = []  # of the tables that MLflow gives, as they name it

    def run(self) -> int:
        """Do it.

        Returns:
            The exit code, as of `launch`.
        """
        before = signal.getsignal(signal.SIGINT)
        try:
            return self._run()
        finally:
            if self.interrupted:
                with contextlib.suppress(ValueError, TypeError):  # not the main thread, or no handler of Python's
                    signal.signal(signal.SIGINT, before)

    def _run(self) -> int:
        options, storage = self.options, self.storage
        leases = Leases(storage.files)
        self._reach(leases)
        with leases:
            with contextlib.suppress(StorageError):  # for `--watch` alone, which sees by it that a launch is there
                leases.acquire(f"plan-{self.plan.id}")
            self._prepare(leases)
            decide(self.plan, storage, retry_failed=options.retry_failed, held_elsewhere=leases.held_elsewhere)
            self._show()
            with self._tracking():
                try:
                    self._work(leases)
                except KeyboardInterrupt:
                    self.interrupted = True
                    # A second Ctrl-C must not lose the numbers that are being sent.
                    with contextlib.suppress(ValueError):  # not the main thread
                        signal.signal(signal.SIGINT, signal.SIG_IGN)
                    self.console.print("Stopping: what is trained is kept.")
            decide(self.plan, storage)
            if options.prune and not self.interrupted:
                self._prune(leases)
        return self._finish(self.interrupted)

    def _reach(self, leases: Leases) -> None:
        """Prove that MLflow answers, which may be refused: nothing has been written down yet.

        Args:
            leases: Not entered: others' may be looked at.
        """
        if self.options.tracking:
            from ablate.tracking import tracker

            self.tracker = tracker.Tracker(self.options.tracking_uri)
            self.tracker.prepare()

    def _prepare(self, leases: Leases) -> None:
        """Write down what is going to be done."""
        self.storage.identify()
        for training in self.plan.trainings.values():
            self.storage.describe(training.key, training.identity)
            damaged = self.storage.drop_damaged(training.key, training.measurements)
            for message in [*damaged, *self.storage.damage(training.key)]:
                self.console.print(Text(printable(message), overflow="fold"))
        plans.save(plan_file_of(self.plan, self.provenance), self.storage)

    def _show(self) -> None:
        show_plan(self.plan, self.console)

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        if not self.options.tracking:
            yield
            return
        from ablate.report import __main__ as report
        from ablate.tracking import tracker

        file = plan_file_of(self.plan, self.provenance)
        self.tracker.open_plan(file, self.storage)
        self.sync = tracker.BackgroundSync(self.tracker, file, self.storage)
        try:
            yield
        finally:
            if not self.sync.close(CLOSE_INTERRUPTED_S if self.interrupted else CLOSE_S):
                uri = self.options.tracking_uri
                there = f" --tracking-uri {shlex.quote(self.tracker.uri)}" if uri is not None else ""
                self.console.print(
                    f"MLflow did not take everything ({self.sync.last_error}). The results are safe in storage; send "
                    "them and see the table with:\n"
                    f"  python -m ablate.report --sync --storage {shlex.quote(redact(self.options.storage))} "
                    f"--plan {self.plan.id}{there}",
                    markup=False,
                )
                self.arrived = False
            report.tell_repairs(self.tracker.repairs, self.console)

    def _work(self, leases: Leases) -> None:
        options, plan = self.options, self.plan
        progress = Progress(plan, self.console)

        def listen(event: Event) -> None:
            progress.handle(event)
            if self.sync is not None and event.kind in TRACKED_EVENTS:
                self.sync.notify(event.key)

        def wanted() -> list[PlannedTraining]:
            return [t for t in plan.trainings.values() if t.action in ("continue", "train") and t.key not in tried]

        tried: set[str] = set()
        with self._engine(leases) as engine, progress:
            while True:
                mine = [training for training in wanted() if leases.acquire(training.key)]
                # Between the decision and the lease another launch may have finished it.
                keys = [training.key for training in mine]
                decide(plan, self.storage, retry_failed=options.retry_failed, only=keys)
                ready = [training for training in mine if training.action in ("continue", "train")]
                tried.update(training.key for training in ready)
                if ready:
                    for outcome in engine(ready, listen).values():
                        self._settle(outcome, leases)
                        if outcome.lease_lost:  # another launch trains it: its result is waited for
                            tried.discard(outcome.key)
                            progress.waiting([outcome.key])
                for key in keys:
                    leases.release(key)
                rest = [t.key for t in plan.trainings.values() if t.action != "reuse" and t.key not in tried]
                decide(
                    plan,
                    self.storage,
                    retry_failed=options.retry_failed,
                    held_elsewhere=leases.held_elsewhere,
                    only=rest,
                )
                waiting = [key for key in rest if plan.trainings[key].action == "wait"]
                if not waiting and not wanted():
                    return
                if waiting and not wanted():
                    progress.waiting(waiting)
                    time.sleep(WAIT_S)

    def _settle(self, outcome: Outcome, leases: Leases) -> None:
        if outcome.state == "finished":
            return
        if outcome.state == "failed" and self.storage.view(outcome.key).failure is None and leases.holds(outcome.key):
            # Its process could not store why.
            with contextlib.suppress(StorageError):
                attempt = self.storage.attempt(outcome.key)
                attempt.save_failure(outcome.reason, "", time.time_ns() // 1_000_000)
        if self.sync is not None:
            self.sync.notify(outcome.key)

    @contextlib.contextmanager
    def _engine(self, leases: Leases) -> Iterator[Engine]:
        """Started only when there is something to run."""
        if not self.plan.left():
            yield lambda trainings, listen: {}
            return
        count = len(self.plan.trainings)
        with open_engine(self.options, self.storage, self.datasets, count, self.console.print, leases.number) as engine:
            yield engine

    def _prune(self, leases: Leases) -> None:
        """Drop the checkpoints of what has everything that this plan measures, and that nobody else works on."""
        if not self.arrived:
            self.console.print("Nothing was pruned: MLflow has not got the networks yet.")
            return
        freed = 0
        for training in self.plan.trainings.values():
            if training.action == "reuse" and leases.acquire(training.key):
                freed += self.storage.prune(training.key)
                leases.release(training.key)
        self.console.print(f"Pruned {freed / 1e6:.1f} MB of checkpoints; records are kept.")

    def _finish(self, interrupted: bool) -> int:
        options = self.options
        self._tell()
        show_next_steps(
            self.plan,
            self.console,
            tracking_uri=self.tracker.uri if self.tracker is not None else None,
            interrupted=interrupted,
            storage=options.storage,
        )
        if options.as_json:
            self.out.write(json.dumps(self._as_json(), indent=1) + "\n")
        return 130 if interrupted else self._code()

    def _tell(self) -> None:
        """Print the results."""
        if self.tracker is not None and self.arrived:  # an MLflow that is away cannot be asked for the table
            from ablate.report import __main__ as report

            try:
                for space in self.plan.spaces:
                    storage = self.storage.identify()
                    told = report.print_space(self.tracker, space.name, self.plan.id, self.console, "last", storage)
                    self.left_out += told
            except TrackingError as error:  # everything has arrived; the table alone cannot be shown now
                self.console.print(Text(printable(str(error)), overflow="fold"))

    def _as_json(self) -> dict[str, Any]:
        return {**results_as_json(self.plan, self.storage), "left_out": self.left_out}

    def _code(self) -> int:
        return 0 if all(training.action == "reuse" for training in self.plan.trainings.values()) else 1
