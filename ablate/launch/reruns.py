"""`--rerun ROW`: a finished row trained again, beside its results, and what that says of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TextIO

from rich.console import Console
from rich.text import Text

from ablate.core.errors import SpecError, TrackingError
from ablate.core.text import aside, plural, printable
from ablate.execution.addresses import ray_address
from ablate.execution.base import Resources
from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.session import Session, launch_here
from ablate.launch.sources import Rows
from ablate.planning.as_file import plan_file_of
from ablate.planning.plan import Plan, decide
from ablate.spaces.space import Trial
from ablate.storage import plans
from ablate.storage.replications import FOLDER, open_one
from ablate.storage.storage import Storage


def rerun(request: Request, console: Console, out: TextIO) -> int:
    """Train finished rows again.

    Args:
        request: With `rerun`; its seeds are those to train again, none: every one that is finished.
        console: Where to print.
        out: Where JSON goes.

    Returns:
        The exit code: 0 all came out as before or as their rows let expect, 1 one did not or failed, 130 interrupted.

    Raises:
        UserError: Something the user gave cannot be used, or a row that is not finished; nothing was lost.
    """
    return launch_here(request, console, out, subject_of=_subject, session_of=RerunSession)


def _subject(request: Request, storage: Storage) -> Reruns:
    return Reruns(_finished(request, storage), storage)


class Reruns(Rows):
    """Finished rows that are trained again.

    Args:
        plan: Of them.
        original: The storage that has their results.
    """

    def __init__(self, plan: Plan, original: Storage) -> None:
        super().__init__(plan)
        self.original = original
        self._wanted = {key: list(training.measurements) for key, training in plan.trainings.items()}
        self.name, self._inner = open_one(original, self._wanted, write=False)

    def open(self) -> Storage:
        """Write down what is asked for; the storage that it is trained into."""
        self.name, self._inner = open_one(self.original, self._wanted)
        return self._inner

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


class RerunSession(Session):
    """A launch whose end is a comparison with what is there."""

    subject: Reruns

    def __init__(self, options: Options, subject: Reruns, storage: Storage, console: Console, out: TextIO) -> None:
        super().__init__(replace(options, tracking=False, also=[]), subject, subject.open(), console, out)
        self._tell_mlflow = options.tracking

    def _finish(self, interrupted: bool) -> int:
        """Compare, and tell MLflow."""
        from ablate.report.from_storage import all_results

        subject = self.subject
        of_row = _with_all_seeds(self.plan, subject.original)
        told, outside = [], False
        self.console.print()
        for results in all_results(of_row, subject.original):
            for (row, seed), found in results.replications.items():
                latest = [each for each in found if each.name == subject.name]
                for each in latest:
                    told.append({"space": results.space.name, "row": row, "seed": seed, **asdict(each)})
                    outside = outside or each.ending == "outside"
                    line = f"{row}, seed {seed}: {each.words}; replicated {plural(len(found), 'time')}"
                    self.console.print(Text(printable(line), overflow="fold"))
        left = [training for training in self.plan.trainings.values() if training.action != "reuse"]
        if left:
            again = "run the same command again" if interrupted or any(t.action != "failed" for t in left) else ""
            reasons = "; ".join(dict.fromkeys(t.failure for t in left if t.failure))
            said = f"{plural(len(left), 'training')} not trained again" + (f" {aside(reasons)}" if reasons else "")
            self.console.print(Text(printable(f"{said}; {again}" if again else said), overflow="fold"))
        if self._tell_mlflow and told:
            self._mark(self.options.tracking_uri, [str(each["space"]) for each in told])
        if self.options.as_json:
            self.out.write(json.dumps({"replication": subject.name, "trials": told}, indent=1) + "\n")
        return 130 if interrupted else 1 if left or outside else 0

    def _mark(self, uri: str | None, spaces: Sequence[str]) -> None:
        """Tell the runs in MLflow, where there are any."""
        from ablate.report.tags import mark_replicated
        from ablate.tracking.tracker import Tracker

        try:
            tracker = Tracker(uri)
            tracker.prepare(create=False)
            for space in dict.fromkeys(spaces):
                mark_replicated(tracker, tracker.read_plan(space, None, None), self.subject.original)
        except TrackingError as error:
            told = f"MLflow was not told ({error}); python -m ablate.report --sync does it."
            self.console.print(Text(printable(told), overflow="fold"))


def _finished(request: Request, storage: Storage) -> Plan:
    """The plan of the rows that are to be trained again, all of them finished.

    Raises:
        SpecError: A row that is not there, was never trained, or is not finished.
    """
    options = request.options
    if options.rows:
        raise SpecError(f"--row: expected --rerun alone, which names its rows, got --row {options.rows[0]!r}, too")
    if options.until_decided:
        raise SpecError("--rerun: expected it without --until-decided, which trains what was not, got both")
    for loaded in request.spaces:
        if loaded.space.search is not None:
            raise SpecError(f"--rerun: expected the row of a table, got the search {loaded.name!r}")
    seeds = options.seeds or _known_seeds(request, storage)
    trials = replace(request, options=replace(options, seeds=seeds)).trials()
    plan = _plan(request, trials, seeds)
    decide(plan, storage)
    given = bool(options.seeds)
    kept = []
    for planned in plan.trials:
        training, trial = plan.trainings[planned.training], planned.trial
        if training.weights is not None:
            raise SpecError(f"--rerun: expected a row that was trained, got {trial.label!r} of foreign weights")
        if training.action == "reuse":
            kept.append(trial)
        elif given:
            raise SpecError(
                f"--rerun: expected finished seeds, got seed {trial.seed} of {trial.label!r}, which is not; launch it "
                "without --rerun first"
            )
    lacking = [row for row in options.rerun if row not in {trial.label for trial in kept}]
    if lacking:
        raise SpecError(
            f"--rerun: expected a finished row, got {lacking[0]!r} without a finished seed; launch it without --rerun "
            "first"
        )
    # Nothing is decided here, so that nothing is registered.
    return _plan(request, kept, sorted({trial.seed for trial in kept}), claims=False)


def _plan(request: Request, trials: Sequence[Trial], seeds: Sequence[int], *, claims: bool = True) -> Plan:
    asked = {trial.space for trial in trials}
    spaces = [space for space in request.spaces if space.name in asked]
    if not claims:
        spaces = [replace(each, space=each.space.model_copy(update={"claims": []})) for each in spaces]
    return request.plan_of(spaces, trials, seeds)


def _known_seeds(request: Request, storage: Storage) -> list[int]:
    """Every seed that a launch into this storage asked of one of the rows."""
    spaces = {space.name for space in request.spaces}
    asked = {
        trial.seed
        for file in plans.load_all(storage)
        for trial in file.trials
        if trial.space in spaces and trial.row in request.options.rerun
    }
    return sorted(asked) or [0]


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
