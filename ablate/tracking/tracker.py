"""Storage -> MLflow: every number, once, with its own time.

Storage is the truth and MLflow its view: `sync` sends what MLflow lacks, and sending again changes nothing. A launch's
driver is the only writer. What has arrived is marked on the runs themselves (`ablate.synced`), so that a relaunch of a
thousand finished trainings reads none of them again, and so that any machine can go on where another one stopped.
The runs are laid out in `ablate.tracking.runs`, filled in `ablate.tracking.sending` and read back in
`ablate.tracking.reading`, as `ablate.tracking.tracked_plan`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.pool import ThreadPool
from typing import Any

from ablate.core.errors import TrackingError, UserError
from ablate.core.text import now_ms
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage
from ablate.tracking import reading, runs, sending
from ablate.tracking.agreement import STORAGE
from ablate.tracking.reading import REPORT, TRAINING
from ablate.tracking.runs import PlanRuns
from ablate.tracking.store import ServerAway, Store
from ablate.tracking.sync import BackgroundSync as BackgroundSync
from ablate.tracking.tracked_plan import PlanInfo, TrackedPlan
from ablate.tracking.views import NOTE, REPORT_NOTE, compare_path, compared, runs_path

SENDERS = 4
"""Trainings sent to a server at once: as many as `mlflow server` has workers by default."""


class Tracker:
    """Writes plans and their results to one MLflow store, and reads them back.

    Args:
        uri: Tracking URI; none: `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the working directory, with
            artifacts in `mlartifacts` beside it.

    Raises:
        TrackingError: The URI cannot be used.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.store = Store(uri)
        self._opened: dict[str, PlanRuns] = {}
        self.repairs: list[str] = []
        """Runs that differed from storage and were replaced, as `<experiment>: <name>`."""

    @property
    def uri(self) -> str:
        """The tracking URI, without any password."""
        return self.store.shown

    @property
    def remote(self) -> bool:
        """Whether the store is a server, which other machines may reach."""
        return self.store.remote

    def prepare(self, create: bool = True) -> None:
        """Create or migrate the store, before anything else uses it; arguments as of `Store.prepare`."""
        self.store.prepare(create)

    def open_plan(self, plan: PlanFile, storage: Storage | None = None) -> None:
        """Find a plan's runs, or create them; the same plan has the same runs, whoever launches it and from where.

        Args:
            plan: As `ablate.planning.plan_file_of` makes it of a launch's, or as storage kept it.
            storage: Where its results are: another storage's runs are others, which are left alone.

        Raises:
            TrackingError: The store does not take it.
        """
        before = self._opened.get(plan.id)
        ids: list[str] = []
        if storage is not None:
            ids = [storage.identify(), *storage.identities()]
        adopts = sending.adopts(storage) if storage is not None else None
        self._opened[plan.id] = runs.find(self.store, plan, list(dict.fromkeys(ids)), adopts)
        if before is not None:
            self._opened[plan.id].compared |= before.compared

    def sync(
        self, plan: PlanFile, storage: Storage, keys: Iterable[str] | None = None, *, whole: bool = False
    ) -> list[str]:
        """Send MLflow what it lacks of a plan, and mend what differs from storage.

        Args:
            plan: The plan, opened or not.
            storage: Where its results are.
            keys: Only these trainings; none: all, and the published rows.
            whole: Whether whole curves and artifacts are compared with storage; else latest values and digests are.

        Returns:
            Keys of trainings that storage does not hold as a whole (yet), failed ones included.

        Raises:
            ServerAway: The store stopped answering.
            TrackingError: Something of a training was refused; the others were sent.
        """
        opened = self._opened.get(plan.id)
        if opened is None or storage.identify() not in opened.storages:
            self.open_plan(plan, storage=storage)
            opened = self._opened[plan.id]
        try:
            return self._send(opened, storage, keys, whole)
        except TrackingError:
            # A run may have been deleted behind our back, or made by a call whose answer was lost: look again.
            self._opened.pop(plan.id, None)
            self.repairs += opened.repairs
            raise

    def _send(self, opened: PlanRuns, storage: Storage, keys: Iterable[str] | None, whole: bool) -> list[str]:
        problem: UserError | None = None
        if keys is None:
            try:
                runs.publish(self.store, opened, whole=whole)
            except ServerAway:
                raise
            except TrackingError as error:  # a published number that is refused keeps nothing else from being sent
                problem = error
        shared = opened.plan.trainings()
        unfinished: list[str] = []
        asked = [key for key in (shared if keys is None else keys) if key in shared]

        def send(key: str) -> bool | UserError:
            try:
                return sending.send(self.store, opened, storage, key, shared[key], whole=whole)
            except ServerAway:
                raise
            except UserError as error:  # storage's or MLflow's about this one
                return error

        with self._senders(len(asked)) as senders:
            for key, sent in zip(asked, senders(send, asked), strict=True):
                if sent is not True:
                    unfinished.append(key)
                if isinstance(sent, UserError):
                    problem = sent
        self.repairs += opened.repairs
        opened.repairs.clear()
        if problem is not None:
            raise TrackingError(str(problem)) from problem
        runs.settle(self.store, opened)
        self.repairs += opened.repairs  # what was set aside is deleted last
        opened.repairs.clear()
        if keys is None:
            self.store.flush()
        return unfinished

    @contextlib.contextmanager
    def _senders(self, count: int) -> Iterator[Callable[..., Iterator[Any]]]:
        """A `map` over trainings: a server takes several at once, each in its own order; a file takes one writer."""
        if not self.store.remote or count < SENDERS:
            yield map
            return
        self.store.experiment(TRAINING, create=True)  # before several threads want to
        pool = ThreadPool(SENDERS)  # of daemons: a server that does not answer must not keep a process from ending
        try:
            yield pool.imap
        finally:
            pool.terminate()
            pool.join()  # what is under way ends before anybody tries again, or runs would be there twice

    def interrupt(self, plan: PlanFile) -> None:
        """Mark a plan's unfinished runs as stopped, so that MLflow does not show them as running for ever.

        Args:
            plan: An opened plan; launching it again lets its runs go on.
        """
        opened = self._opened.get(plan.id)
        if opened is None:
            return
        now = now_ms()
        for run in opened.all():
            if run.status == "RUNNING":
                self.store.set_status(run, "KILLED", now)

    def list_plans(self, space: str) -> list[PlanInfo]:
        """Plans of a space, the one launched last first; see `reading.list_plans`."""
        return reading.list_plans(self.store, space)

    def read_plan(self, space: str, plan_id: str | None = None, storage: str | None = None) -> TrackedPlan:
        """Results of one plan of a space from one storage; see `tracked.read_plan`."""
        return reading.read_plan(self.store, space, plan_id, storage)

    def paths(self, plan_id: str) -> list[tuple[str, str]]:
        """Where MLflow's UI shows an opened plan's runs and compares them, behind the server's address.

        Returns:
            Of each space both paths; none where the plan was not opened, or lost on the way. Nothing is asked for it.
        """
        opened = self._opened.get(plan_id)
        if opened is None:
            return []
        found = []
        for space in opened.plan.spaces:
            experiment = opened.parents[space.name].experiment
            of_space = [trial for trial in opened.plan.trials if trial.space == space.name]
            sent = {(trial.row, trial.seed): opened.trials.get(runs.place(trial)) for trial in of_space}
            trials = {where: run.id for where, run in sent.items() if run is not None}
            measured = {where: run.id for where, run in sent.items() if run is not None and run.metrics}
            published = {row: run.id for (name, row), run in opened.published.items() if name == space.name}
            shown = compared(measured or trials, published, [row.label for row in space.rows])
            found.append((runs_path(experiment, opened.view), compare_path(experiment, shown)))
        return found

    def spaces(self) -> list[str]:
        """Names of the experiments of spaces."""
        return reading.spaces(self.store)

    def left_aside(self) -> list[str]:
        """Experiments with plans none of which can be shown, each with what is wrong; see `tracked.unshown`."""
        return reading.unshown(self.store)

    def tag(self, run_id: str, name: str, value: str | None) -> None:
        """Say something of a run that is no number of it; nothing is written where it says so already.

        Args:
            run_id: Which.
            name: Of the tag.
            value: Its text; None takes it away.
        """
        run = self.store.run(run_id)
        if run is None or run.tags.get(name) == value:
            return
        if value is None:
            self.store.untag(run, name)
        else:
            self.store.log(run, tags={name: value})
            self.store.flush()

    def runs_of(self, plan: PlanFile, storage: Storage, keys: Iterable[str]) -> list[str]:
        """A plan's runs, of this storage alone; those of versions before, which name no storage, are left out.

        Args:
            plan: The plan.
            storage: Where its results are.
            keys: Trainings whose own runs are wanted too.

        Returns:
            Their ids; nothing is created.
        """
        own = set(storage.identities())
        found = []
        for space in plan.spaces:
            experiment = self.store.experiment(space.name)
            found += self.store.runs(experiment, {"ablate.plan": plan.id}) if experiment is not None else []
        experiment = self.store.experiment(TRAINING)
        for key in keys if experiment is not None else ():
            found += self.store.runs(str(experiment), {"ablate.training_key": key})
        return list(dict.fromkeys(run.id for run in found if run.tags.get(STORAGE) in own))

    def delete(self, run_ids: Iterable[str]) -> None:
        """Mark runs as deleted; MLflow keeps them, to be restored, until `mlflow gc`."""
        for run_id in run_ids:
            self.store.delete_if_there(run_id)

    def log_report(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str] | None = None) -> str:
        """Keep a report's files as artifacts of a run of the experiment `report`.

        Args:
            name: The run's name.
            files: Path among the artifacts -> content.
            tags: What the report is about.
        """
        experiment = self.store.experiment(REPORT, create=True)
        assert experiment is not None
        self.store.describe(experiment, {}, first={NOTE: REPORT_NOTE})
        run = self.store.create(experiment, name, {"ablate.kind": "report", **(tags or {})}, now_ms())
        for path, content in files.items():
            self.store.upload(run, path, content)
        self.store.set_status(run, "FINISHED", now_ms())
        return run.id
