"""A launch of a search: samples are asked for, trained, judged and told, until there are enough."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

from ablate.core.errors import UserError
from ablate.core.text import plural
from ablate.execution.base import Event, Outcome, Task
from ablate.execution.executors import local_resources, run_watched, task_of, terminate_in_order
from ablate.launch.console import Progress, show_plan
from ablate.launch.options import Options
from ablate.launch.search_planning import SearchPlan, search_plan
from ablate.launch.session import TRACKED_EVENTS, Launch
from ablate.planning.plan import PlannedTraining, decide, plan_file_of
from ablate.planning.samplers import SampleEnd
from ablate.planning.search import sample_end
from ablate.spaces.trials import Sample
from ablate.storage import plans
from ablate.storage.leases import Leases
from ablate.storage.storage import Storage

if TYPE_CHECKING:
    from ablate.execution.schedulers import EarlyStopping, Job

_FALLBACK_SHARE = 8  # trainings that share a cluster where only time limits a search
SEARCHED_AGAIN_S = 1.0


class StoppedEarly(BaseException):
    """A local training that the scheduler has stopped; no error, and nothing that a worker may catch."""


class SearchLaunch(Launch):
    """One launch of a search.

    Args:
        options: The command line.
        found: The search.
        storage: Where results go.
        console: Where to print.
        out: Where JSON goes.
    """

    def __init__(self, options: Options, found: SearchPlan, storage: Storage, console: Console, out: TextIO) -> None:
        super().__init__(options, found.plan, storage, console, out)
        self.found = found
        self.search = found.search
        self.spec = found.asked.search
        self.epochs = max((t.spec.training.epochs for t in found.base.trainings.values()), default=1)
        self.progress: Progress
        self.judge: EarlyStopping | None = None
        self.leases: Leases
        self.results: dict[int, SampleEnd] = {}
        self._pending: list[Sample] = []
        self._running: dict[str, list[Sample]] = {}
        self._ticked = time.monotonic()
        self._gpu_share = 1.0
        self._taken_over = False

    def _reach(self, leases: Leases) -> None:
        # Before MLflow is asked, which makes its database.
        if leases.alive_elsewhere(f"search-{self.plan.id}", self._say_waiting):
            raise UserError(self._already)
        super()._reach(leases)

    @property
    def _already(self) -> str:
        return f"another launch runs the search {self.plan.id} already; --watch follows it"

    def _say_waiting(self) -> None:
        self.console.print("Another launch had begun this search; seeing whether it is still there.")

    def _prepare(self, leases: Leases) -> None:
        if not leases.acquire_or_tell(f"search-{self.plan.id}", self._say_waiting):
            raise UserError(self._already)
        self.leases = leases
        # Read after the lease is ours: another launch may have gone on with it until now.
        self.found = search_plan(self.options, self.storage, readonly=False)
        self.plan, self.search, self.spec = self.found.plan, self.found.search, self.found.asked.search
        super()._prepare(leases)

    def _show(self) -> None:
        if self.plan.trials:
            show_plan(self.plan, self.console)
        more = f"of {plural(self.search.limit, 'sample')}" if self.search.limit else "samples, as time allows"
        objectives = " and ".join(f"{each.mode} {each.metric}" for each in self.spec.objective)
        self.console.print(
            Text(
                f"search {self.plan.id}: {len(self.search.samples)} {more} so far; {self.spec.searcher}, "
                f"{self.spec.scheduler.name}, {objectives}",
                overflow="fold",
            )
        )

    def _work(self, leases: Leases) -> None:
        self.progress = Progress(self.plan, self.console)
        retry = self.options.retry_failed
        for sample in self.search.samples:
            if sample.number in self.found.unfit:
                self._learn(sample, SampleEnd("failed", reason=self.found.unfit[sample.number]))
                continue
            training = self.found.training(sample)
            result = sample_end(self.storage.view(training.key), self.storage.history(training.key), self.spec)
            if self._for_good(sample, training, result) and not (retry and result and result.state == "failed"):
                assert result is not None
                self._learn(sample, result)
            else:
                self._pending.append(sample)
        with self.progress:
            if self.options.local:
                self._local()
            else:
                self._on_ray()
        if self._taken_over:
            raise UserError(f"another launch has taken over the search {self.plan.id}; --watch follows it")

    def _for_good(self, sample: Sample, training: PlannedTraining, result: SampleEnd | None) -> bool:
        if result is None:
            return False
        if result.state == "complete":
            return not training.missing
        # Another search's decision binds that search alone.
        return result.state != "stopped" or sample.number in self.search.stopped

    def _learn(self, sample: Sample, result: SampleEnd) -> None:
        self.results[sample.number] = result
        self.search.tell(sample, result)
        if self.judge is not None and result.curve:
            self.judge.replay(sample.number, result.curve)

    def _make_judge(self) -> EarlyStopping:
        from ablate.execution.schedulers import EarlyStopping

        judge = EarlyStopping(self.spec, self.epochs, self._over)
        for number, result in sorted(self.results.items()):
            judge.replay(number, result.curve)
        return judge

    def _still_ours(self, key: str | None = None) -> bool:
        """Whether the search's lease, and a training's, are in force: this process may have been paused for long."""
        self._taken_over = self._taken_over or not self.leases.holds(f"search-{self.plan.id}")
        return not self._taken_over and (key is None or self.leases.holds(key))

    def _over(self) -> bool:
        if self._taken_over:
            return True  # whatever still runs stops at its next epoch
        budget = self.spec.time_budget_minutes
        return budget is not None and self._spent() >= budget * 60

    def _spent(self) -> float:
        now = time.monotonic()
        self.search.spent_s += now - self._ticked
        self._ticked = now
        return self.search.spent_s

    def next(self) -> Job | Literal["wait"] | None:
        """The next sample to be trained; those that storage holds already are told and passed over."""
        from ablate.execution.schedulers import Job

        chosen = self._next()
        if chosen is None or chosen == "wait":
            return chosen
        sample, training, judged = chosen
        return Job(sample.number, self._task(training), judged)

    def _next(self) -> tuple[Sample, PlannedTraining, bool] | Literal["wait"] | None:
        waiting: list[Sample] = []
        try:
            while not self._over():
                sample = self._pending.pop(0) if self._pending else self._ask()
                if sample is None:
                    return "wait" if waiting else None
                if sample.number in self.found.unfit:
                    continue
                training = self.found.training(sample)
                if training.key in self._running:
                    self._running[training.key].append(sample)  # told when the one that trains it ends
                    continue
                if not self.leases.acquire(training.key):
                    waiting.append(sample)
                    if training.action != "wait":
                        training.action = "wait"
                        self.progress.waiting([training.key])
                    continue
                decide(self.plan, self.storage, retry_failed=self.options.retry_failed, only=[training.key])
                view = training.view
                assert view is not None
                result = sample_end(view, self.storage.history(training.key), self.spec)
                retried = result is not None and result.state == "failed" and self.options.retry_failed
                if self._for_good(sample, training, result) and not retried:
                    assert result is not None
                    self._learn(sample, result)
                    self.leases.release(training.key)
                    self._announce(training, result, sample)
                    continue
                training.action = "continue" if view.has_checkpoint else "train"
                self._running[training.key] = [sample]
                self.storage.describe(training.key, training.identity)
                return sample, training, not view.finished
            return None
        finally:
            self._pending = waiting + self._pending

    def _ask(self) -> Sample | None:
        if not self._still_ours():
            return None
        sample = self.search.ask()
        if sample is None:
            return None
        training = self.found.grow_if_fit(sample)
        if training is None:
            self._learn(sample, SampleEnd("failed", reason=self.found.unfit[sample.number]))
            self.progress.note(f"{sample.label} cannot be trained: {self.found.unfit[sample.number]}")
            return sample
        self.progress.follow(training.key)
        limit = f" of {self.search.limit}" if self.search.limit else ""
        self.progress.note(f"{sample.label}{limit}: {sample.note}")
        file = plans.save(plan_file_of(self.plan, self.provenance), self.storage)
        if self.sync is not None:
            self.sync.grow(file)
        return sample

    def _announce(self, training: PlannedTraining, result: SampleEnd, sample: Sample) -> None:
        words = {"complete": "was trained before", "failed": f"failed before: {result.reason}"}
        self.progress.note(f"{sample.label}: {words.get(result.state, 'was stopped early before')}")
        if self.sync is not None:
            self.sync.notify(training.key)

    def ended(self, number: int, outcome: Outcome | None, epoch: int) -> None:
        """A sample has ended: keep it, tell the searcher, and everyone with the same configuration."""
        sample = self.search.samples[number]
        training = self.found.training(sample)
        samples = self._running.pop(training.key, [sample])
        if outcome is None and not self._still_ours(training.key):
            self._pending.extend(samples)
        elif outcome is None:
            # Its worker may not have been told yet; its attempt is not the latest any more.
            self.storage.attempt(training.key).save_stopped(epoch)
            self.search.stopped |= {each.number for each in samples}
            self._listen(Event(training.key, "stopped", epoch, self.epochs, timestamp_ms=time.time_ns() // 1_000_000))
        else:
            self._settle(outcome, self.leases)
            if outcome.lease_lost:  # another launch trains it: its result is waited for
                self._pending.extend(samples)
        decide(self.plan, self.storage, only=[training.key])
        result = sample_end(self.storage.view(training.key), self.storage.history(training.key), self.spec)
        for each in samples if result is not None else ():
            assert result is not None
            self.results[each.number] = result
            self.search.tell(each, result)
        self._spent()
        if self._still_ours():
            self.search.save()
        self.leases.release(training.key)
        if self.sync is not None:
            self.sync.notify(training.key)

    def _listen(self, event: Event) -> None:
        self.progress.handle(event)
        if self.sync is not None and event.kind in TRACKED_EVENTS:
            self.sync.notify(event.key)

    def _task(self, training: PlannedTraining) -> Task:
        return replace(
            task_of(training, self.storage, *self._resources, self.leases.number(training.key)),
            gpu_share=self._gpu_share,
        )

    def _local(self) -> None:
        self._resources = local_resources(self.options)
        # Ray Tune's schedulers judge here too; without one, Ray is not even imported.
        self.judge = self._make_judge() if self.spec.scheduler.name != "fifo" else None
        with terminate_in_order():
            while (chosen := self._next()) is not None:
                if chosen == "wait":
                    time.sleep(SEARCHED_AGAIN_S)
                    continue
                sample, training, judged = chosen
                self._one(sample, training, judged)

    def _one(self, sample: Sample, training: PlannedTraining, judged: bool) -> None:
        metric, last = self.spec.objective[0].metric, 0

        def judge(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal last
            if not judged or epoch < 1 or metric not in metrics:
                return
            last = epoch
            on = self.judge is None or self.judge.should_continue(sample.number, epoch, metrics[metric])
            if (not on or self._over()) and epoch < training.spec.training.epochs:
                raise StoppedEarly

        def listen(event: Event) -> None:
            self._listen(event)
            if event.kind == "epoch":
                judge(event.done, event.metrics)

        try:
            for entry in self.storage.history(training.key) if judged else ():
                judge(int(entry["epoch"]), entry["metrics"])
            outcome: Outcome | None = run_watched(
                self._task(training), self.datasets.of(training.spec), listen, self.progress.note
            )
        except StoppedEarly:
            outcome = None
        self.ended(sample.number, outcome, last)

    def _on_ray(self) -> None:
        from ablate.execution import tune
        from ablate.execution.packing import gpu_share
        from ablate.execution.schedulers import run_search
        from ablate.storage.speeds import known_packing

        self.judge = self._make_judge()
        options = self.options
        with tune.cluster(note=self.console.print):
            count = self.search.limit or _FALLBACK_SHARE
            [base] = self.found.base.trainings.values()
            wanted = options.gpus_per_trial
            if wanted == "auto":
                wanted = gpu_share(base.spec, known_packing(self.storage.files)) if tune.has_gpus() else 0.0
            cpus, gpus = tune.share(count, options.cpus_per_trial, wanted, self.console.print)
            self._resources = (cpus, "cuda" if gpus else "cpu")
            self._gpu_share = gpus or 1.0
            resources = tune.Resources(cpus, gpus, options.max_concurrent, options.max_failures)
            with terminate_in_order():
                run_search(self, self.judge, self.datasets.of(base.spec), resources, self._listen, options.imports)

    def _tell(self) -> None:
        from ablate.report.search_results import from_storage, summary_lines

        self.console.print()
        for line in summary_lines(from_storage(self.plan, self.storage)):
            self.console.print(Text(line, overflow="fold"))

    def _as_json(self) -> dict[str, Any]:
        from ablate.report.search_results import from_storage, summary_as_json

        content = super()._as_json()
        return {**content, "search": summary_as_json(from_storage(self.plan, self.storage))}

    def _code(self) -> int:
        """A failed sample is a result of a search; only where none is left to choose from has it failed."""
        left = [t for t in self.plan.trainings.values() if t.action not in ("reuse", "stopped", "failed")]
        return 0 if not left and any(t.action == "reuse" for t in self.plan.trainings.values()) else 1


def launch_search(options: Options, storage: Storage, console: Console, out: TextIO) -> int:
    """Run a search; as of `ablate.launch.session.launch`.

    Args:
        options: The command line.
        storage: Where results go.
        console: Where to print.
        out: Where JSON goes.

    Returns:
        The exit code.
    """
    return SearchLaunch(options, search_plan(options, storage), storage, console, out).run()
