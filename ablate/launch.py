"""python -m ablate.launch: space -> plan -> Ray -> table."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from ablate import plan_file, spaces
from ablate.claiming import Claims
from ablate.console import Progress, plan_as_json, show_next_steps, show_plan
from ablate.errors import DataError, SpecError, StorageError, UserError
from ablate.events import Event
from ablate.learning import data
from ablate.planning import Plan, PlannedTraining, decide, make_plan
from ablate.provenance import provenance
from ablate.spaces import SpaceFile, Trial
from ablate.storage import Storage
from ablate.worker import Outcome, Task, run

WAIT_S = 1.0
"""How often a waiting launch looks whether another one has finished or died."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: end in order, keep everything."""


@dataclass
class Options:
    """What the command line asked for; see `main` for each."""

    space: list[str]
    preset: str = "paper"
    sets: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    storage: str = "./storage"
    data_root: Path = Path("data")
    tracking_uri: str | None = None
    tracking: bool = True
    local: bool = False
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    max_concurrent: int = 0
    max_failures: int = 2
    retry_failed: bool = False
    prune: bool = False
    dry_run: bool = False
    as_json: bool = False
    imports: list[str] = field(default_factory=list)
    cluster: str | None = None
    storage_is_shared: bool = False


def trials_of(options: Options) -> tuple[list[SpaceFile], list[Trial]]:
    """The spaces and trials a command line asks for, before any data are looked at.

    Args:
        options: The command line.

    Returns:
        The spaces, and their rows with every seed.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    for module in options.imports:
        _import(module)
    names = [name for given in options.space for name in (spaces.space_names() if given == "all" else [given])]
    loaded = [spaces.load_space(name) for name in dict.fromkeys(names)]
    spaces.load_preset(options.preset)
    overrides = spaces.parse_overrides(options.sets)
    return loaded, [
        trial for space in loaded for trial in spaces.expand(space, options.preset, overrides, options.seeds)
    ]


def plan_of(options: Options) -> Plan:
    """The plan a command line asks for, before storage is looked at.

    Args:
        options: The command line.

    Returns:
        The plan.

    Raises:
        UserError: Anything in it that cannot be used.
    """
    loaded, trials = trials_of(options)
    return make_plan(
        loaded,
        trials,
        preset=options.preset,
        overrides=options.sets,
        seeds=options.seeds,
        data_root=options.data_root,
    )


def launch(options: Options, console: Console) -> int:
    """Plan, train, measure, track, and print the table.

    Args:
        options: The command line.
        console: Where to print.

    Returns:
        The exit code: 0 all there, 1 something failed, 130 interrupted.

    Raises:
        UserError: Something the user gave cannot be used; nothing was lost.
    """
    if options.cluster is not None and not options.dry_run:
        return _submit(options, console)
    plan = plan_of(options)
    storage = Storage(options.storage)
    if options.dry_run:
        decide(plan, storage, retry_failed=options.retry_failed)
        if options.as_json:
            console.file.write(json.dumps(plan_as_json(plan), indent=1) + "\n")
        else:
            show_plan(plan, console)
        return 0
    storage.check()
    return _Launch(options, plan, storage, console).run()


def _submit(options: Options, console: Console) -> int:
    from ablate.scheduling import jobs

    assert options.cluster is not None
    loaded, trials = trials_of(options)
    try:
        plan_id = plan_of(options).id
    except DataError:
        plan_id = None  # the data may lie on the cluster alone
    return jobs.submit(jobs.Submission(options.cluster, options, loaded, trials, plan_id), console)


class _Launch:
    def __init__(self, options: Options, plan: Plan, storage: Storage, console: Console) -> None:
        self.options = options
        self.plan = plan
        self.storage = storage
        self.console = console
        self.datasets: dict[str, data.Dataset] = {}
        self.failed: dict[str, str] = {}
        self.sync: Any = None
        self.tracker: Any = None

    def run(self) -> int:
        options, plan, storage = self.options, self.plan, self.storage
        for training in plan.trainings.values():
            storage.describe(training.key, training.identity)
        plan_file.save(plan, storage)
        interrupted = False
        with Claims(storage.files) as claims:
            decide(plan, storage, retry_failed=options.retry_failed, held_elsewhere=claims.held_elsewhere)
            show_plan(plan, self.console)
            with self._tracking():
                try:
                    self._work(claims)
                except KeyboardInterrupt:
                    interrupted = True
                    # A second Ctrl-C must not lose the numbers that are being sent.
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    self.console.print("Stopping: what is trained is kept.")
                if options.prune and not interrupted:
                    self._prune()
        decide(plan, storage)
        return self._finish(interrupted)

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        if not self.options.tracking:
            yield
            return
        from ablate import tracking

        self.tracker = tracking.Tracker(self.options.tracking_uri)
        self.tracker.prepare()
        self.tracker.open_plan(self.plan, provenance(sys.argv))
        self.sync = tracking.BackgroundSync(self.tracker, self.plan, self.storage)
        try:
            yield
        finally:
            if not self.sync.close(timeout_s=60):
                self.console.print(
                    f"MLflow did not take everything ({self.sync.last_error}). The results are safe in storage; "
                    f"send them with: python -m ablate.report --sync --storage {self.options.storage} "
                    f"--plan {self.plan.id}",
                    markup=False,
                )

    def _work(self, claims: Claims) -> None:
        options, plan = self.options, self.plan
        progress = Progress(plan, self.console)

        def listen(event: Event) -> None:
            progress.handle(event)
            if self.sync is not None and event.kind in ("started", "epoch", "measured", "finished", "failed"):
                self.sync.notify(event.key)

        def wanted() -> list[PlannedTraining]:
            return [t for t in plan.trainings.values() if t.action in ("continue", "train") and t.key not in tried]

        tried: set[str] = set()
        with self._engine() as engine, progress:
            while True:
                mine = [training for training in wanted() if claims.acquire(training.key)]
                # Between the decision and the claim another launch may have finished it.
                keys = [training.key for training in mine]
                decide(plan, self.storage, retry_failed=options.retry_failed, only=keys)
                ready = [training for training in mine if training.action in ("continue", "train")]
                tried.update(training.key for training in ready)
                if ready:
                    for outcome in engine(ready, listen).values():
                        self._settle(outcome)
                for key in keys:
                    claims.release(key)
                rest = [t.key for t in plan.trainings.values() if t.action != "reuse" and t.key not in tried]
                decide(
                    plan,
                    self.storage,
                    retry_failed=options.retry_failed,
                    held_elsewhere=claims.held_elsewhere,
                    only=rest,
                )
                waiting = [key for key in rest if plan.trainings[key].action == "wait"]
                if not waiting and not wanted():
                    return
                if waiting and not wanted():
                    progress.waiting(waiting)
                    time.sleep(WAIT_S)

    def _settle(self, outcome: Outcome) -> None:
        if outcome.state != "failed":
            return
        self.failed[outcome.key] = outcome.reason
        if self.storage.view(outcome.key).failure is None:
            # Its process died before it could say why.
            with contextlib.suppress(StorageError):
                attempt = self.storage.attempt(outcome.key)
                attempt.save_failure(outcome.reason, "", time.time_ns() // 1_000_000)
        if self.sync is not None:
            self.sync.notify(outcome.key)

    @contextlib.contextmanager
    def _engine(self) -> Iterator[Any]:
        """What runs a list of trainings: this process, or Ray; started only when there is something to run."""
        if not any(t.action in ("continue", "train", "wait") for t in self.plan.trainings.values()):
            yield lambda trainings, listen: {}
            return
        if self.options.local:
            import torch

            gpu = torch.cuda.is_available()
            cpus = self.options.cpus_per_trial or os.cpu_count() or 1
            with _terminate_in_order():
                yield lambda trainings, listen: {
                    task.key: run(task, self._dataset(task.key), listen)
                    for task in self._tasks(trainings, cpus, "cuda" if gpu else "cpu")
                }
            return
        from ablate.scheduling import placement

        with placement.cluster():
            # Threads change sums in their last bits, so the default hangs on the plan alone, not on what is left of it.
            cpus, gpus = placement.share(
                len(self.plan.trainings), self.options.cpus_per_trial, self.options.gpus_per_trial, self.console.print
            )
            resources = placement.Resources(cpus, gpus, self.options.max_concurrent, self.options.max_failures)

            def on_ray(trainings: Sequence[PlannedTraining], listen: Any) -> dict[str, Outcome]:
                tasks = self._tasks(trainings, cpus, "cuda" if gpus else "cpu")
                names = {task.key: _dataset_name(task.spec) for task in tasks}
                datasets = {name: self._dataset(key) for key, name in names.items()}
                return placement.place(tasks, datasets, names, resources, listen, self.options.imports)

            with _terminate_in_order():  # after ray.init, which owns SIGTERM until then
                yield on_ray

    def _tasks(self, trainings: Sequence[PlannedTraining], threads: int, device: str) -> list[Task]:
        return [
            Task(t.key, t.spec, tuple(t.measurements.values()), self.storage.location, threads, device)
            for t in trainings
        ]

    def _dataset(self, key: str) -> data.Dataset:
        spec = self.plan.trainings[key].spec
        name = _dataset_name(spec)
        if name not in self.datasets:
            self.datasets[name] = data.load(spec.data, self.options.data_root)
        return self.datasets[name]

    def _prune(self) -> None:
        freed = sum(
            self.storage.prune(t.key) for t in self.plan.trainings.values() if self.storage.view(t.key).finished
        )
        self.console.print(f"Pruned {freed / 1e6:.1f} MB of checkpoints; records are kept.")

    def _finish(self, interrupted: bool) -> int:
        options = self.options
        if self.tracker is not None:
            from ablate import report

            for space in self.plan.spaces:
                report.print_space(self.tracker, space.name, self.plan.id, self.console)
        show_next_steps(
            self.plan,
            self.console,
            tracking_uri=self.tracker.uri if self.tracker is not None else None,
            interrupted=interrupted,
            storage=options.storage,
        )
        if interrupted:
            return 130
        return 0 if all(t.action == "reuse" for t in self.plan.trainings.values()) else 1


def _dataset_name(spec: Any) -> str:
    return f"{spec.data.name}-{spec.data.image_size}-{spec.data.root or ''}"


def _import(module: str) -> None:
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise SpecError(f"--import {module}: expected a module that can be imported, got {error}") from error


@contextlib.contextmanager
def _terminate_in_order() -> Iterator[None]:
    """SIGTERM (preemption) ends a launch as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: a notebook's or a test's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--seeds: expected whole numbers with commas between, like 0,1,2, got {text!r}") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise SpecError(f"--seeds: expected distinct numbers from 0 up, got {text!r}")
    return seeds


app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    space: Annotated[list[str], typer.Option(help="A space's name, a .yaml file, or all; may be repeated.")],
    preset: Annotated[str, typer.Option(help="paper: its own settings; smoke: minutes on a laptop.")] = "paper",
    sets: Annotated[list[str] | None, typer.Option("--set", help="training.epochs=3; any dotted path.")] = None,
    seeds: Annotated[str, typer.Option(help="0,1,2: every row with each.")] = "0",
    storage: Annotated[str, typer.Option(help="Folder or bucket for checkpoints and records.")] = "./storage",
    data_root: Annotated[Path, typer.Option(help="Folder for downloaded data.")] = Path("data"),
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow; default $MLFLOW_TRACKING_URI or mlflow.db.")] = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Storage only; sync later.")] = False,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    cpus_per_trial: Annotated[int | None, typer.Option(min=1, help="CPU cores of a training.")] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(min=0, help="GPUs of a training; 0.25 packs four.")] = None,
    max_concurrent: Annotated[int, typer.Option(min=0, help="Trainings at once; 0: all that fit.")] = 0,
    max_failures: Annotated[int, typer.Option(min=0, help="How often a lost process is restarted.")] = 2,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trainings again.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop checkpoints of finished trainings.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
    imports: Annotated[list[str] | None, typer.Option("--import", help="Your own module to load.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Submit to a Ray cluster's job server, http://head:8265.")] = None,
    storage_is_shared: Annotated[
        bool, typer.Option("--storage-is-shared", help="With --cluster: every node mounts the --storage folder.")
    ] = False,
) -> None:
    """Train and measure every row of a space, reusing whatever is done already."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        options = Options(
            space=space,
            preset=preset,
            sets=sets or [],
            seeds=_seeds(seeds),
            storage=storage,
            data_root=data_root,
            tracking_uri=tracking_uri,
            tracking=not no_tracking,
            local=local,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            max_concurrent=max_concurrent,
            max_failures=max_failures,
            retry_failed=retry_failed,
            prune=prune,
            dry_run=dry_run,
            as_json=as_json,
            imports=imports or [],
            cluster=cluster,
            storage_is_shared=storage_is_shared,
        )
        code = launch(options, console)
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)


if __name__ == "__main__":
    app()
