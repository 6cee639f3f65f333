"""What a launch is about: the rows of tables, or the samples of a search. The session treats them alike."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.text import Text

from ablate.core.errors import TrackingError, UserError
from ablate.core.text import plural, printable
from ablate.execution.base import EarlyStopping, Resources
from ablate.launch.console import show_next_steps, show_plan
from ablate.launch.options import Options
from ablate.launch.progress import Progress
from ablate.launch.queue import Source
from ablate.planning.estimates import Estimate, estimate
from ablate.planning.plan import Plan, PlannedTraining, decide
from ablate.planning.plan_file import plan_file_of
from ablate.planning.search_plan import SearchPlan, search_estimate
from ablate.spaces.trials import Sample
from ablate.storage.leases import Leases
from ablate.storage.samples import SampleEnd, sample_end
from ablate.storage.storage import Storage

if TYPE_CHECKING:
    from ablate.launch.power import PowerAnalysis

_FALLBACK_SHARE = 8
"""Trainings that share a cluster where only time limits a search."""


class Session(Protocol):
    """What a source sees of its launch."""

    options: Options
    storage: Storage
    console: Console
    leases: Leases
    progress: Progress
    provenance: dict[str, str]
    tracker: Any
    sync: Any
    arrived: bool
    interrupted: bool
    left_out: list[str]

    def admit(self, training: PlannedTraining) -> None:
        """Write down that a training is in the plan, and drop what is damaged of it; it is decided about."""

    def keep_plan(self) -> None:
        """Keep the plan as it is by now, and tell MLflow."""


class Subject(Source):
    """What a launch is about; by default all of it is known, and launches of one plan share its work."""

    plan: Plan

    def left(self) -> bool:
        """Whether there is something left to train, or may be yet."""
        return bool(self.plan.left())

    def may_train(self) -> Iterable[PlannedTraining]:
        """Trainings with the data and measurements of all that it may train."""
        return self.plan.left()

    def decide(self, storage: Storage, options: Options) -> None:
        """Decide about all that can be told before the launch begins."""
        decide(self.plan, storage, retry_failed=options.retry_failed)

    @abstractmethod
    def expected(self, storage: Storage) -> Estimate:
        """How long it would take at most."""

    def foreseen(self, storage: Storage, expected: Estimate) -> list[PowerAnalysis]:
        """What the seeds asked for can decide."""
        return []

    def outlook(self, foreseen: list[PowerAnalysis]) -> dict[str, Any]:
        """What it is expected to take, and at most, where these are not the same; else nothing."""
        return {}

    def foresee(self) -> tuple[int, str]:
        """Take into the plan what comes for sure, before a dry run decides about it.

        Returns:
            How many more samples there will be that nobody can tell yet, and who will suggest them.
        """
        return 0, ""

    def open(self, options: Options, storage: Storage) -> tuple[Options, Storage]:
        """With which options, and into which storage, its launch trains: those asked for."""
        return options, storage

    def reach(self, leases: Leases, console: Console) -> None:
        """Refuse what another launch has begun and only one may do; nothing is written."""

    def prepare(self, session: Session) -> None:
        """Take what only one launch may do."""

    def show_planned(self, console: Console) -> None:
        """Show the plan."""
        show_plan(self.plan, console)

    def show(self, console: Console) -> None:
        """Show the plan, and how far it has come."""
        self.show_planned(console)

    @abstractmethod
    def begin(self, session: Session) -> None:
        """Training begins."""

    @abstractmethod
    def resources(self, options: Options) -> Resources:
        """What its trainings share."""

    def stopping(self) -> EarlyStopping | None:
        """What judges its trainings; a table wants them whole."""
        return None

    def finished(self) -> None:
        """Nothing runs any more; refuse what another launch has taken over meanwhile."""

    @abstractmethod
    def tell(self, session: Session) -> None:
        """Print the results."""

    def show_next_steps(self, session: Session) -> None:
        """Print what can be done now."""
        tracker = session.tracker
        show_next_steps(
            self.plan,
            session.console,
            tracking_uri=tracker.uri if tracker is not None else None,
            pages=tracker.paths(self.plan.id) if tracker is not None else (),
            interrupted=session.interrupted,
            storage=session.options.storage,
        )

    def as_json(self, session: Session) -> dict[str, Any]:
        """The results for a script."""
        from ablate.report.serialization import results_as_json

        return results_as_json(results_of(self.plan, session), session.left_out)

    @abstractmethod
    def code(self) -> int:
        """0 where all is there that can be."""


def resources_of(options: Options, trainings: int) -> Resources:
    """What a launch of so many trainings asks for."""
    return Resources(
        trainings,
        options.cpus_per_trial,
        options.gpus_per_trial,
        options.trials_per_process,
        options.max_concurrent,
        options.max_failures,
    )


def results_of(plan: Plan, session: Session) -> list[Any]:
    """What storage holds of a launch, for each of its spaces."""
    from ablate.report.from_storage import all_results

    return all_results(plan_file_of(plan, session.provenance), session.storage)


class Rows(Subject):
    """The rows of tables: every training is known."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._left: list[PlannedTraining] = []

    def expected(self, storage: Storage) -> Estimate:
        """See `Subject`."""
        return estimate(self.plan, storage)

    def foreseen(self, storage: Storage, expected: Estimate) -> list[PowerAnalysis]:
        """See `Subject`."""
        if not any(space.space.claims for space in self.plan.spaces):
            return []
        from ablate.launch.power import analyse_power  # brings scipy

        return analyse_power(self.plan, storage, expected)

    def begin(self, session: Session) -> None:
        """See `Subject`."""
        self._left = self.plan.left()

    def resources(self, options: Options) -> Resources:
        """See `Subject`."""
        return resources_of(options, len(self.plan.trainings))

    def take(self, like: Callable[[PlannedTraining], bool] = lambda training: True) -> PlannedTraining | None:
        """See `Source`."""
        found = next(filter(like, self._left), None)
        if found is not None:
            self._left.remove(found)
        return found

    def over(self) -> bool:
        """See `Source`."""
        return False

    def settled(self, training: PlannedTraining) -> bool:
        """See `Source`."""
        return training.action in ("reuse", "failed", "stopped")

    def judged(self, training: PlannedTraining) -> bool:
        """See `Source`."""
        return False

    def ended(self, training: PlannedTraining, *, before: bool) -> None:
        """See `Source`."""

    def tell(self, session: Session) -> None:
        """See `Subject`."""
        if find_spec("scipy") is None:
            session.console.print("No table on this machine, which has no scipy; python -m ablate.report makes it.")
            return
        from ablate.report import __main__ as report
        from ablate.report.terminal import print_results

        spaces = [space.name for space in self.plan.spaces]
        if session.tracker is not None and session.arrived:
            storage = session.storage.identify()
            try:
                while spaces:
                    session.left_out += report.print_space(
                        session.tracker, spaces[0], self.plan.id, session.console, "last", storage
                    )
                    spaces.pop(0)
            except TrackingError as error:  # everything has arrived; it cannot be read now
                session.console.print(Text(printable(str(error)), overflow="fold"))
        for results in results_of(self.plan, session) if spaces else ():
            if results.space.name in spaces:
                print_results(results, session.console)

    def code(self) -> int:
        """See `Subject`."""
        return 0 if all(training.action == "reuse" for training in self.plan.trainings.values()) else 1


class Samples(Subject):
    """The samples of a search: asked for while it runs, and told how they end.

    Args:
        make: The search with its samples so far, read anew; to write, or not.
    """

    def __init__(self, make: Callable[[bool], SearchPlan]) -> None:
        self._make = make
        self._use(make(True))
        self._session: Session
        self._stopping: Any = None
        self._results: dict[int, SampleEnd] = {}
        self._pending: list[Sample] = []
        self._wanting: dict[str, list[Sample]] = {}  # training -> the samples that wait for its end
        self._ticked = time.monotonic()
        self._taken_over = False

    def may_train(self) -> Iterable[PlannedTraining]:
        """See `Subject`: no sample has other data than the configuration without one, or is measured otherwise."""
        return self.found.base.trainings.values()

    def left(self) -> bool:
        """See `Subject`: also samples that no plan shows yet."""
        asked, limit = len(self.search.samples), self.search.limit
        return limit is None or asked < limit or len(self._results) < asked

    def _use(self, found: SearchPlan) -> None:
        self.found, self.plan, self.search, self.spec = found, found.plan, found.search, found.asked.search

    @property
    def _lock(self) -> str:
        return f"search-{self.plan.id}"

    def expected(self, storage: Storage) -> Estimate:
        """See `Subject`; what can be foreseen is taken into the plan, which a launch makes anew when it begins."""
        return search_estimate(self.found, storage)

    def foresee(self) -> tuple[int, str]:
        """See `Subject`."""
        return self.found.foresee(), self.spec.searcher

    def reach(self, leases: Leases, console: Console) -> None:
        """See `Subject`."""
        if leases.alive_elsewhere(self._lock, lambda: self._say_waiting(console)):
            raise UserError(self._already)

    @property
    def _already(self) -> str:
        return f"another launch runs the search {self.plan.id} already; --watch follows it"

    @staticmethod
    def _say_waiting(console: Console) -> None:
        console.print("Another launch had begun this search; seeing whether it is still there.")

    def prepare(self, session: Session) -> None:
        """See `Subject`."""
        if not session.leases.acquire_or_tell(self._lock, lambda: self._say_waiting(session.console)):
            raise UserError(self._already)
        # Read after the lease is ours: another launch may have gone on with it until now.
        self._use(self._make(False))

    def show(self, console: Console) -> None:
        """See `Subject`."""
        if self.plan.trials:
            self.show_planned(console)
        more = f"of {plural(self.search.limit, 'sample')}" if self.search.limit else "samples, as time allows"
        objectives = " and ".join(f"{each.mode} {each.metric}" for each in self.spec.objective)
        console.print(
            Text(
                f"search {self.plan.id}: {len(self.search.samples)} {more} so far; {self.spec.searcher}, "
                f"{self.spec.scheduler.name}, {objectives}",
                overflow="fold",
            )
        )

    def begin(self, session: Session) -> None:
        """See `Subject`."""
        self._session = session
        for sample in self.search.samples:
            if sample.number in self.found.unfit:
                self._learn(sample, SampleEnd("failed", reason=self.found.unfit[sample.number]))
                continue
            training = self.found.training(sample)
            result = self._end_of(training)
            retried = session.options.retry_failed and result is not None and result.state == "failed"
            if result is not None and self._for_good(sample, training, result) and not retried:
                self._learn(sample, result)
            else:
                self._pending.append(sample)

    def resources(self, options: Options) -> Resources:
        """See `Subject`."""
        return resources_of(options, self.search.limit or _FALLBACK_SHARE)

    def stopping(self) -> EarlyStopping | None:
        """See `Subject`."""
        epochs = max((t.spec.training.epochs for t in self.found.base.trainings.values()), default=1)
        if self.spec.scheduler.name == "fifo":  # Ray is not even imported
            from ablate.execution.early_stopping import TimeLimit

            return TimeLimit(self.spec.objective[0].metric, epochs, self.over)
        from ablate.execution.schedulers import TuneEarlyStopping

        self._stopping = TuneEarlyStopping(self.spec, epochs, self.over)
        for number, result in sorted(self._results.items()):
            self._replay(self.search.samples[number], result)
        return self._stopping  # type: ignore[no-any-return]

    def finished(self) -> None:
        """See `Subject`."""
        if self._taken_over:
            raise UserError(f"another launch has taken over the search {self.plan.id}; --watch follows it")

    def _replay(self, sample: Sample, result: SampleEnd) -> None:
        if self._stopping is not None and result.curve:
            self._stopping.replay(self.found.training(sample).key, result.curve)

    def _end_of(self, training: PlannedTraining) -> SampleEnd | None:
        storage = self._session.storage
        return sample_end(storage.view(training.key), storage.history(training.key), self.spec)

    def _for_good(self, sample: Sample, training: PlannedTraining, result: SampleEnd) -> bool:
        if result.state == "complete":
            return not training.missing
        # Another search's decision binds that search alone.
        return result.state != "stopped" or sample.number in self.search.stopped

    def _learn(self, sample: Sample, result: SampleEnd) -> None:
        self._results[sample.number] = result
        self.search.tell(sample, result)

    def _still_ours(self) -> bool:
        """Whether the search's lease is in force: this process may have been paused for long."""
        self._taken_over = self._taken_over or not self._session.leases.holds(self._lock)
        return not self._taken_over

    def over(self) -> bool:
        """See `Source`."""
        if self._taken_over:
            return True  # whatever still runs stops at its next epoch
        budget = self.spec.time_budget_minutes
        return budget is not None and self._spent() >= budget * 60

    def _spent(self) -> float:
        now = time.monotonic()
        self.search.spent_s += now - self._ticked
        self._ticked = now
        return self.search.spent_s

    def take(self, like: Callable[[PlannedTraining], bool] = lambda training: True) -> PlannedTraining | None:
        """See `Source`; of what is suggested, the next one alone: later ones may hang on how it ends."""
        while (sample := self._pending.pop(0) if self._pending else self._ask()) is not None:
            if sample.number in self.found.unfit:
                continue
            training = self.found.training(sample)
            if training.key in self._wanting:
                self._wanting[training.key].append(sample)
                continue
            if not like(training):
                self._pending.insert(0, sample)
                return None
            self._wanting[training.key] = [sample]
            return training
        return None

    def _ask(self) -> Sample | None:
        if not self._still_ours():
            return None
        sample = self.search.ask()
        if sample is None:
            return None
        session = self._session
        training = self.found.grow_if_fit(sample)
        if training is None:
            self._learn(sample, SampleEnd("failed", reason=self.found.unfit[sample.number]))
            session.progress.note(f"{sample.label} cannot be trained: {self.found.unfit[sample.number]}")
            return sample
        session.admit(training)
        session.progress.follow(training.key)
        limit = f" of {self.search.limit}" if self.search.limit else ""
        session.progress.note(f"{sample.label}{limit}: {sample.note}")
        session.keep_plan()
        return sample

    def settled(self, training: PlannedTraining) -> bool:
        """See `Source`."""
        result = self._end_of(training)
        if result is None or (result.state == "failed" and self._session.options.retry_failed):
            return False
        return all(self._for_good(sample, training, result) for sample in self._wanting[training.key])

    def judged(self, training: PlannedTraining) -> bool:
        """See `Source`."""
        return training.view is None or not training.view.finished

    def ended(self, training: PlannedTraining, *, before: bool) -> None:
        """See `Source`: keep it, and tell the sampler, and everyone with the same configuration."""
        samples = self._wanting.pop(training.key)
        result = self._end_of(training)
        for sample in samples if result is not None else ():
            assert result is not None
            if result.state == "stopped" and not before:
                self.search.stopped.add(sample.number)
            self._learn(sample, result)
            if before:
                words = {"complete": "was trained before", "failed": f"failed before: {result.reason}"}
                said = words.get(result.state, "was stopped early before")
                self._session.progress.note(f"{sample.label}: {said}")
        if before and result is not None:
            self._replay(samples[0], result)
        self._spent()
        if self._still_ours():
            self.search.save()

    def tell(self, session: Session) -> None:
        """See `Subject`."""
        from ablate.report.search import search_of, summary_lines

        session.console.print()
        [results] = results_of(self.plan, session)
        for line in summary_lines(search_of(results)):
            session.console.print(Text(line, overflow="fold"))

    def code(self) -> int:
        """A failed sample is a result of a search; only where none is left to choose from has it failed."""
        left = [t for t in self.plan.trainings.values() if t.action not in ("reuse", "stopped", "failed")]
        return 0 if not left and any(t.action == "reuse" for t in self.plan.trainings.values()) else 1
