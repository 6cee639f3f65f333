"""What a launch does: space -> plan -> Ray or this process -> storage, MLflow, table."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from ablate import spaces
from ablate.core.errors import DataError, StorageError, UserError
from ablate.core.provenance import provenance
from ablate.core.redaction import redact
from ablate.core.text import duration, plural, printable
from ablate.execution.addresses import ray_address
from ablate.execution.base import Event
from ablate.execution.executors import open_executor
from ablate.launch.console import IN_FULL, plan_as_json, show_estimate, show_remarks
from ablate.launch.costs import hours_text
from ablate.launch.end import end_summary, run_on_end, time_limit
from ablate.launch.options import Options
from ablate.launch.other_storages import OtherStorages, opened
from ablate.launch.progress import Progress
from ablate.launch.queue import TrainingQueue
from ablate.launch.request import Request, submission_of
from ablate.launch.sources import Subject
from ablate.learning import pretrained_weights
from ablate.planning.datasets import load_for
from ablate.planning.estimates import DAY_S, Estimate
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.planning.plan_file import plan_file_of
from ablate.report.next_steps import show_live_page, show_watching
from ablate.storage import checkpoints, plans
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage
from ablate.tracking.address import resolve

CLOSE_S, CLOSE_INTERRUPTED_S = 60.0, 10.0
"""How long the end of a launch waits for MLflow; a preempted one has 30 s in all."""

TRACKED_EVENTS = ("started", "epoch", "measured", "finished", "failed", "interrupted")
"""Events after which MLflow is told."""


def launch(request: Request, console: Console, out: TextIO | None = None) -> int:
    """Plan, train, measure, track, and print the table.

    Returns:
        The exit code: 0 all there, 1 something failed, 130 interrupted.

    Raises:
        UserError: Something the user gave cannot be used; nothing was lost.
    """
    out = out or sys.stdout
    if request.options.cluster is not None:
        return _show_submission(request, console, out) if request.options.dry_run else _submit(request, console)
    return launch_here(request, console, out)


def launch_here(request: Request, console: Console, out: TextIO, *, elsewhere: bool = False) -> int:
    """As of `launch`, without a job server.

    Args:
        request: What is asked for.
        console: Where to print.
        out: Where JSON goes.
        elsewhere: A dry run of what will run on other machines: this one need not have what it asks for.
    """
    options, storage = request.options, Storage(request.options.storage)
    known = opened(options)  # nothing of others' is copied before it begins
    subject = request.subject(known)
    if options.dry_run:
        subject.foresee()
    subject.decide(known, options)
    if not elsewhere:
        check_reach(options, subject.left())
        if options.dry_run:
            storage.files.probe()
    if options.dry_run:
        return _dry_run(options, subject, known, console, out)
    storage.check()
    asks = not options.yes and runs_here(options)
    if asks and not _agreed(request, subject.expected(known), known, console):
        return 2
    return Session(*subject.open(options, storage), subject, console, out).run()


def runs_here(options: Options) -> bool:
    """Whether a launch would run on this machine, and not on a cluster."""
    return options.cluster is None and (options.local or ray_address() is None)


def _dry_run(options: Options, subject: Subject, storage: Storage, console: Console, out: TextIO) -> int:
    """Show a plan and what it can decide, and record nothing."""
    unknown, who = subject.foresee()
    expected = subject.expected(storage)
    claims = subject.foreseen(storage, expected)
    outlook = subject.outlook(claims)
    if options.as_json:
        content = {**plan_as_json(subject.plan), "estimate": expected.as_json()}
        if who:
            content["not_yet_known"] = unknown
        if claims:
            content["claims"] = [claim.as_json() for claim in claims]
        if outlook:
            content["until_decided"] = outlook
        out.write(json.dumps(content, indent=1) + "\n")
        return 0
    subject.show_planned(console)
    if unknown:
        console.print(f"{plural(unknown, 'more sample')} will be suggested by {who}.")
    show_estimate(expected, console)
    whole = len(subject.plan.spaces) <= IN_FULL
    if claims:
        console.print("\nWhat these seeds can decide:")
    if claims and not whole:
        from ablate.launch.power import in_short

        console.print(Text(f"  {in_short(claims)}", overflow="fold"))
    known = [claim for claim in claims if claim.known]
    for claim in known if whole else ():
        console.print(Text(f"  {printable(claim.sentence())}", overflow="fold"))
    if whole and len(known) < len(claims):
        count = plural(len(claims) - len(known), "claim")
        console.print(f"  {count}: no effect is expected, and no noise is known before seeds are trained")
    if outlook:
        unit = outlook["unit"]
        limit = f", of a budget of {outlook['budget_hours']:g}" if outlook["budget_hours"] is not None else ""
        console.print(
            f"Until decided: about {hours_text(outlook['expected_hours'], unit)} if the effects are what is expected, "
            f"{hours_text(outlook['largest_hours'], unit)} at most; {hours_text(outlook['spent_hours'], unit)} spent "
            f"so far{limit}."
        )
    return 0


def _agreed(request: Request, expected: Estimate, storage: Storage, console: Console) -> bool:
    """Ask about a launch of more than a day; where nobody can answer, refuse it, but never by a guess."""
    show_remarks(expected, console)
    if expected.wall_s <= DAY_S:
        return True
    said = f"{expected.sentence()} {_fitting_preset(request, storage)}"
    asked = sys.stdin.isatty() and sys.stdout.isatty()
    if not asked and expected.guessed:
        console.print(Text(f"{said} That is a guess, so it starts.", overflow="fold"))
        return True
    if not asked:
        raise UserError(f"expected a launch of less than a day on this machine, or --yes; {said}")
    console.print(Text(said, overflow="fold"))
    import typer

    return typer.confirm("Go on?", default=False)


def _fitting_preset(request: Request, storage: Storage) -> str:
    """Which preset of the same spaces takes less than a day here, in a sentence."""
    for preset in spaces.preset_names():
        if preset == request.preset.name:
            continue
        with contextlib.suppress(UserError):  # a preset that does not go with these settings is none to propose
            other = request.under(preset)
            subject = other.subject(storage)
            subject.decide(storage, other.options)
            expected = subject.expected(storage)
            if expected.wall_s <= DAY_S:
                return f"--preset {preset} takes about {duration(expected.wall_s)} here."
    return "No preset of these spaces takes less than a day here; --cluster submits to a Ray cluster."


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
        from ablate.execution import cluster

        cluster.check_cluster()
        cluster.check_share(options.cpus_per_trial, gpus)
        cluster.check_folder()


def _submit(request: Request, console: Console) -> int:
    from ablate.execution import jobs

    plan_id = None
    if not request.options.rerun:  # which has no plan without storage; nor is it the job that trained these rows
        with contextlib.suppress(DataError, StorageError):  # the data, or a search's storage, may lie there alone
            plan_id = request.plan().id
    return jobs.submit(submission_of(request, plan_id), console)


def _show_submission(request: Request, console: Console, out: TextIO) -> int:
    """`--dry-run --cluster`: the plan, as far as it can be seen from here, and what would travel."""
    from ablate.execution import jobs

    options, submission = request.options, submission_of(request, None)
    parcel = jobs.checked(submission)
    here, plan = replace(request, options=replace(options, cluster=None)), io.StringIO()
    if options.rerun:  # compared with what the storage has, which may lie on the cluster alone
        console.print("Which seeds are trained again is told on the cluster, by its storage.")
    else:
        try:
            launch_here(here, console, plan, elsewhere=True)
        except (DataError, StorageError) as error:  # as of `_submit`
            if not options.as_json:
                console.print(Text(f"The plan cannot be seen from here: {printable(error)}", overflow="fold"))
    if options.as_json:
        told = {"travels": sorted(parcel.files), "does_not_travel": parcel.left_out}
        out.write(json.dumps({**json.loads(plan.getvalue() or "{}"), **told}, indent=1) + "\n")
    else:
        jobs.show(parcel, submission.cluster, console)
    return 0


class Session:
    """One launch, from its decisions to its last line; of tables and of searches alike.

    Args:
        options: The command line.
        storage: Where results go.
        subject: What it is about.
        console: Where to print.
        out: Where JSON goes.
    """

    def __init__(self, options: Options, storage: Storage, subject: Subject, console: Console, out: TextIO) -> None:
        self.options = options
        self.subject = subject
        self.storage = storage
        self.console = console
        self.out = out
        self.provenance = provenance(sys.argv)
        self.leases = Leases(storage.files)
        self.other_storages = OtherStorages(options.also, storage)
        self.progress: Progress
        self.sync: Any = None
        self.tracker: Any = None
        self.interrupted = False
        self.time_is_up = False
        self.began = time.monotonic()
        self.arrived = True
        self.left_out: list[str] = []  # of the tables that MLflow gives, as they name it

    @property
    def plan(self) -> Plan:
        """What it does; of a search, it grows."""
        return self.subject.plan

    def run(self) -> int:
        """Do it."""
        before = signal.getsignal(signal.SIGINT)
        code = 2
        try:
            code = self._run()
            return code
        except KeyboardInterrupt:
            code = 130
            raise
        finally:
            if self.interrupted:
                with contextlib.suppress(ValueError, TypeError):  # not the main thread, or no handler of Python's
                    signal.signal(signal.SIGINT, before)
            if self.options.on_end is not None:
                self._tell_end(self.options.on_end, code)

    def _tell_end(self, command: str, code: int) -> None:
        """Run the user's command, which is told in its environment how this ended."""
        more = {"ABLATE_EXIT_CODE": str(code), "ABLATE_PLAN": self.plan.id, "ABLATE_SUMMARY": end_summary(self.plan)}
        run_on_end(command, more, self.console, to_stderr=self.options.as_json)

    def _run(self) -> int:
        options, storage = self.options, self.storage
        self._reach()
        with self.leases as leases:
            with contextlib.suppress(StorageError):  # for `--watch` alone, which sees by it that a launch is there
                leases.acquire(f"plan-{self.plan.id}")
            self._prepare()
            decide(self.plan, storage, retry_failed=options.retry_failed, held_elsewhere=leases.held_elsewhere)
            self.subject.show(self.console)
            if self.subject.left():
                show_live_page(self.console, options.storage)
            with self._tracking():
                try:
                    self._work()
                except KeyboardInterrupt:
                    self.interrupted = True
                    # A second Ctrl-C must not lose the numbers that are being sent.
                    with contextlib.suppress(ValueError):  # not the main thread
                        signal.signal(signal.SIGINT, signal.SIG_IGN)
                    hours = ""
                    if self.time_is_up:
                        most = self.options.max_hours or 0.0
                        hours = f"{plural(most, 'hour')} {'is' if most == 1 else 'are'} up (--max-hours); "
                    self.console.print(f"Stopping: {hours}what is trained is kept.")
            decide(self.plan, storage)
            if options.prune and not self.interrupted:
                self._prune()
        return self._finish()

    def _reach(self) -> None:
        """Prove that this may begin and that MLflow answers: nothing has been written down yet."""
        # Before MLflow is asked, which makes its database. The leases are not entered: others' may be looked at.
        self.subject.reach(self.leases, self.console)
        if self.options.tracking:
            from ablate.tracking import tracker

            self.tracker = tracker.Tracker(self.options.tracking_uri)
            self.tracker.prepare()

    def _prepare(self) -> None:
        """Write down what is going to be done."""
        self.subject.prepare(self)
        self.storage.identify()
        self._tell(self.other_storages.take_registrations(space.name for space in self.plan.spaces))
        self._register()
        for training in self.plan.trainings.values():
            self.admit(training)
        self.keep_plan()

    def keep_plan(self) -> None:
        """Keep the plan as it is by now, and tell MLflow, once it is told anything."""
        file = plans.save(plan_file_of(self.plan, self.provenance), self.storage)
        if self.sync is not None:
            self.sync.grow(file)

    def admit(self, training: PlannedTraining) -> None:
        """Write down that a training is in the plan, take over what others have of it, drop what is damaged of it."""
        self._tell(filter(None, [self.other_storages.take(training)]))
        self.storage.describe(training.key, training.identity)
        if training.weights is not None and training.missing:
            self._keep_weights(training, training.weights)
        damaged = self.storage.drop_damaged(training.key, training.measurements)
        self._tell([*damaged, *self.storage.damage(training.key)])

    def _keep_weights(self, training: PlannedTraining, digest: str) -> None:
        """Put weights from elsewhere into storage, which every machine of a launch reaches, if they are not there."""
        with contextlib.suppress(StorageError):  # not there yet, or damaged
            if pretrained_weights.digest(checkpoints.load_network(self.storage.weights(digest))) == digest:
                return
        classes = next(planned.data.classes for planned in self.plan.trials if planned.training == training.key)
        model = training.spec.model
        found = pretrained_weights.load(model, classes, training.spec.data.image_size)
        if pretrained_weights.digest(found) != digest:
            expected = f"expected {model.weights} as it was when the launch began"
            raise DataError(f"model.weights: {expected}, got other weights")
        self.storage.keep_weights(digest, checkpoints.save_network(found))

    def _tell(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.console.print(Text(printable(message), overflow="fold"))

    def _register(self) -> None:
        """Register the claims before anything is trained, and name registrations that are damaged."""
        if not any(space.space.claims for space in self.plan.spaces):
            return
        from ablate.launch.registration import register

        known = self.other_storages.storage  # what others have measured is known, too
        self.plan.registrations = register(self.plan, known, self.provenance, self.options.data_root)
        problems = [problem for part in self.plan.registrations.values() for problem in part.problems]
        for problem in dict.fromkeys(problems):
            self.console.print(Text(f"{printable(problem)}; it is left as it is", overflow="fold"))

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        if not self.options.tracking:
            yield
            return
        from ablate.report import __main__ as report
        from ablate.tracking import tracker

        file = plan_file_of(self.plan, self.provenance)
        self.tracker.open_plan(file, self.storage)
        show_watching(self.console, self.tracker.uri, self.tracker.paths(file.id))
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

    def _work(self) -> None:
        options, subject = self.options, self.subject
        self.progress = Progress(self.plan, self.console, log=self.storage.log_place)
        self.progress.phase = "Loading the data…" if options.local else "Loading the data and starting Ray…"

        def notify(key: str) -> None:
            if self.sync is not None:
                self.sync.notify(key)

        def listen(event: Event) -> None:
            self.progress.handle(event)
            if event.kind in TRACKED_EVENTS:
                notify(event.key)

        subject.begin(self)
        queue = TrainingQueue(
            subject,
            self.plan,
            self.storage,
            self.leases,
            retry_failed=options.retry_failed,
            listen=listen,
            notify=notify,
            waiting=self.progress.waiting,
            note=self.progress.note,
        )
        with self.progress:
            if not subject.left():
                return  # nothing is started, and no data are loaded
            with (
                open_executor(
                    options.local,
                    subject.resources(options),
                    load_for(self.subject.may_train(), self.options.data_root),
                    self.storage.files,
                    options.imports,
                    self.console.print,
                ) as executor,
                self._limited(),
            ):
                executor.run(queue, listen, subject.stopping())
        subject.finished()

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """End at the hour that was asked for, counted from the launch's start."""
        hours = self.options.max_hours
        left = None if hours is None else hours * 3600 - (time.monotonic() - self.began)
        with time_limit(left) as up:
            try:
                yield
            finally:
                self.time_is_up = up.is_set()

    def _prune(self) -> None:
        """Drop the checkpoints of what has everything that this plan measures, and that nobody else works on."""
        if not self.arrived:
            self.console.print("Nothing was pruned: MLflow has not got the networks yet.")
            return
        freed = 0
        for training in self.plan.trainings.values():
            if training.action == "reuse" and self.leases.acquire(training.key):
                freed += self.storage.prune(training.key)
                self.leases.release(training.key)
        self.console.print(f"Pruned {freed / 1e6:.1f} MB of checkpoints; records are kept.")

    def _finish(self) -> int:
        self.subject.tell(self)
        self.subject.show_next_steps(self)
        if self.options.as_json:
            self.out.write(json.dumps(self.subject.as_json(self), indent=1) + "\n")
        return 130 if self.interrupted else self.subject.code()
