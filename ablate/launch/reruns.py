"""`--rerun ROW`: a finished row trained again, beside its results, and what that says of them.

A row that lacks a network, since its training went past it without keeping it, is trained once more in its place.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.text import Text

from ablate.core.errors import TrackingError
from ablate.core.text import aside, plural, printable
from ablate.execution.addresses import ray_address
from ablate.execution.base import Resources
from ablate.launch.options import Options
from ablate.launch.sources import Rows, Session
from ablate.planning.plan import Plan
from ablate.planning.plan_file import plan_file_of
from ablate.storage import plans
from ablate.storage.replications import FOLDER, open_one
from ablate.storage.status import never_measured
from ablate.storage.storage import Storage


class Reruns(Rows):
    """Finished rows that are trained again, into a storage of their own: its end is a comparison with what is there.

    Args:
        plan: Of them.
        original: The storage that has their results.
        asked: Whether MLflow is told, and where.
    """

    def __init__(self, plan: Plan, original: Storage, asked: Options) -> None:
        super().__init__(plan)
        self.original = original
        self._wanted = {key: list(training.measurements) for key, training in self.plan.trainings.items()}
        self._asked = asked
        self.name, self._inner = open_one(original, self._wanted, write=False)
        self._told: list[dict[str, Any]] = []

    def open(self, options: Options, storage: Storage) -> tuple[Options, Storage]:
        """See `Subject`: what is asked for is written down; MLflow is told in the end, of the comparison alone."""
        self.name, self._inner = open_one(self.original, self._wanted)
        return replace(options, tracking=False, also=[]), self._inner

    def decide(self, storage: Storage, options: Options) -> None:
        """See `Subject`: what is there already of these, and not of their results."""
        super().decide(self._inner, options)

    def resources(self, options: Options) -> Resources:
        """See `Subject`: on a CPU with as many threads as before, on which the last bits of sums hang."""
        asked = super().resources(options)
        had = {self._threads(key) for key in self._wanted}
        threads = had.pop() if len(had) == 1 else None
        if asked.cpus is not None or threads is None or threads > (os.cpu_count() or 1) or ray_address() is not None:
            return asked
        return replace(asked, cpus=threads)

    def _threads(self, key: str) -> int | None:
        """Of a training that is there; None where it was none of a CPU, or several numbers of them."""
        view = self.original.view(key)
        made = [record for name in self._wanted[key] if (record := self.original.record(view, name)) is not None]
        had = {record.meta.get("threads") if record.meta.get("device") == "cpu" else None for record in made}
        [threads] = had if len(had) == 1 else [None]
        return threads if isinstance(threads, int) and threads > 0 else None

    def show_planned(self, console: Console) -> None:
        """See `Subject`."""
        super().show_planned(console)
        place = f"{FOLDER}/{self.name}"
        console.print(Text(f"trained again into {place} of the storage, and compared; no result is read from there"))

    def tell(self, session: Session) -> None:
        """See `Subject`: compare, and tell MLflow."""
        from ablate.report.from_storage import all_results

        session.console.print()
        for results in all_results(_with_all_seeds(self.plan, self.original), self.original):
            for (row, seed), found in results.replications.items():
                for each in found:
                    if each.name != self.name:
                        continue
                    self._told.append({"space": results.space.name, "row": row, "seed": seed, **asdict(each)})
                    line = f"{row}, seed {seed}: {each.words}; replicated {plural(len(found), 'time')}"
                    session.console.print(Text(printable(line), overflow="fold"))
        if self._asked.tracking and self._told:
            self._mark(session.console)

    def show_next_steps(self, session: Session) -> None:
        """See `Subject`."""
        left = [training for training in self.plan.trainings.values() if training.action != "reuse"]
        if left:
            on = session.interrupted or any(training.action != "failed" for training in left)
            reasons = "; ".join(dict.fromkeys(training.failure for training in left if training.failure))
            said = f"{plural(len(left), 'training')} not trained again" + (f" {aside(reasons)}" if reasons else "")
            said += "; run the same command again" if on else ""
            session.console.print(Text(printable(said), overflow="fold"))

    def as_json(self, session: Session) -> dict[str, Any]:
        """See `Subject`."""
        return {"replication": self.name, "trials": self._told}

    def code(self) -> int:
        """See `Subject`: 0 where all came out as before, or as their rows let expect."""
        return 1 if any(each["ending"] == "outside" for each in self._told) else super().code()

    def _mark(self, console: Console) -> None:
        """Tell the runs in MLflow, where there are any."""
        from ablate.report.tags import mark_replicated
        from ablate.tracking.tracker import Tracker

        try:
            tracker = Tracker(self._asked.tracking_uri)
            tracker.prepare(create=False)
            for space in dict.fromkeys(str(each["space"]) for each in self._told):
                mark_replicated(tracker, tracker.read_plan(space, None, None), self.original)
        except TrackingError as error:
            told = f"MLflow was not told ({error}); python -m ablate.report --sync does it."
            console.print(Text(printable(told), overflow="fold"))


class OnceMore(Rows):
    """Finished rows that lack a network: they are trained once more, and keep it, with all that was kept before.

    What was measured stays where the same bits come of it, as of every training whose checkpoints are gone.
    """

    def decide(self, storage: Storage, options: Options) -> None:
        """See `Subject`: what lacks a network is to be trained."""
        super().decide(storage, options)
        for training in self.plan.trainings.values():
            if training.lacks_network and training.action == "failed":
                training.action, training.epoch, training.failure = "train", -1, None

    def prepare(self, session: Session) -> None:
        """See `Subject`: a training whose checkpoint is gone begins anew."""
        for training in self.plan.trainings.values():
            if not session.leases.acquire(training.key):  # another launch does it
                continue
            view = session.storage.view(training.key)
            if never_measured(view, {key: training.measurements[key].network for key in training.missing}):
                training.keep += [name for name in view.keeps if name not in training.keep]
                session.storage.prune(training.key)
            session.leases.release(training.key)


def _with_all_seeds(plan: Plan, storage: Storage) -> plans.PlanFile:
    """The plan with every finished seed of its rows, by which a new training is judged."""
    own = plan_file_of(plan, {})
    trainings = {(trial.space, trial.row): trial for trial in own.trials}
    found = {(trial.space, trial.row, trial.seed): trial for trial in own.trials}
    for file in plans.load_all(storage):
        for trial in file.trials:
            like = trainings.get((trial.space, trial.row))
            if like is not None and _settings(like.spec) == _settings(trial.spec) and like.data == trial.data:
                found.setdefault((trial.space, trial.row, trial.seed), trial)
    return own.model_copy(update={"trials": sorted(found.values(), key=lambda trial: (trial.row, trial.seed))})


def _settings(spec: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in spec.items() if name != "seed"}
