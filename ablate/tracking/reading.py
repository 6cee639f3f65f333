"""MLflow -> results: one plan of one space, from its runs alone, without storage, space file or data set."""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ablate.core.errors import StorageError, TrackingError, first_line, nearest
from ablate.spaces.claims import Claim
from ablate.spaces.search import SearchSpec
from ablate.spaces.space import NAME
from ablate.storage.plans import PlanFile, RowPart, SpacePart, TrialPart, parse
from ablate.storage.records import Record
from ablate.tracking.agreement import STORAGE, artifact_digests, artifact_is_whole, curve_is_whole
from ablate.tracking.agreement import problem as problem_of
from ablate.tracking.identity import contradiction, misfit, nobodys, stray
from ablate.tracking.store import Run, Store

PLAN = "plan.json"
TRAINING, REPORT = "training", "report"
"""The experiments of trainings and of report pages."""

OURS = ("Default", TRAINING, REPORT)
"""Experiments that are no space's."""

STOPPED = "stopped early"
"""How the problem begins of a search's sample that the scheduler ended: no failure."""

MEASUREMENTS = "measurements.npz"
_CORRECT, _COUNT, _ARRAY = "correct/", "count/", "array/"
_READ_TRIES = 3
_DAMAGED = (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, RuntimeError)
_ASKED_ONE_BY_ONE = 50
_SHOWN = 8


@dataclass(frozen=True)
class PlanInfo:
    """One plan that was launched, as a list shows it.

    Args:
        id: The plan's id.
        space: Its space.
        preset: Its preset.
        seeds: As text, e.g. `0, 1, 2`.
        data: The data's labels.
        overrides: `--set` arguments, as text.
        launched_ms: When last, milliseconds since 1970.
        status: Of its run: RUNNING, FINISHED, FAILED or KILLED.
        run_id: Of its run.
        experiment_id: Of the space's experiment.
        storage: Id of the storage that its runs show; empty where they are of a version that named none.
    """

    id: str
    space: str
    preset: str
    seeds: str
    data: str
    overrides: str
    launched_ms: int
    status: str
    run_id: str
    experiment_id: str
    storage: str = ""


@dataclass(frozen=True)
class TrialResult:
    """What MLflow holds of one row with one seed.

    Args:
        part: What was planned.
        metrics: `accuracy/pgd20`, `accuracy_best/pgd20`, `energy/ratio` ... -> value; accuracies in percent.
        problem: Why it is not finished (`failed: loss became nan in epoch 3`); None where it is.
        run_id: Of its run; None without one.
        training_run_id: Of its training's run.
        tags: Of its run: device, versions, commit.
        start_ms: When its training began.
        end_ms: When its last measurement ended.
        run: Its run.
    """

    part: TrialPart
    metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None
    run_id: str | None = None
    training_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    start_ms: int | None = None
    end_ms: int | None = None
    run: Run | None = None


class PlanResults:
    """Everything a report needs of one plan of one space; images, arrays and curves are fetched when asked for.

    Args:
        store: Where artifacts are fetched from.
        info: Which plan.
        plan: Its file, with this space only.
        trials: (row, seed) -> what there is of it, in the order of the table.
        published_runs: Row -> id of the run with its published numbers.
        others: The same plan in other storages, whose numbers are left out.
        training_runs: Id -> run, of the trainings.
        altered: Names of runs that no longer hold what was sent, each with what is wrong; they are left out.
    """

    def __init__(
        self,
        store: Store,
        info: PlanInfo,
        plan: PlanFile,
        trials: Mapping[tuple[str, int], TrialResult],
        published_runs: Mapping[str, str],
        others: Sequence[PlanInfo] = (),
        training_runs: Mapping[str, Run] | None = None,
        altered: Sequence[str] = (),
    ) -> None:
        self._store = store
        self.info = info
        self.plan = plan
        self.trials = dict(trials)
        self.published_runs = published_runs
        self.others = list(others)
        self.altered = list(altered)
        self._training_runs = dict(training_runs or {})
        self._measured = functools.lru_cache(maxsize=None)(self._fetch)
        self._curve = functools.lru_cache(maxsize=None)(self._fetch_curve)

    @property
    def space(self) -> SpacePart:
        """The space: title, table, rows in order, claims, figures."""
        return self.plan.spaces[0]

    @property
    def rows(self) -> list[RowPart]:
        """The rows in the order of the table."""
        return self.space.rows

    @property
    def published(self) -> dict[str, dict[str, float]]:
        """Row -> metric -> published value; rows without numbers are left out."""
        return {row.label: dict(row.published) for row in self.rows if row.published}

    @property
    def data_labels(self) -> list[str]:
        """How the data sets are called."""
        return list(dict.fromkeys(trial.part.data.label for trial in self.trials.values()))

    @property
    def problems(self) -> dict[tuple[str, int], str]:
        """(row, seed) -> why it is not finished."""
        return {place: trial.problem for place, trial in self.trials.items() if trial.problem is not None}

    def correct(self, row: str, seed: int) -> dict[str, NDArray[np.bool_]]:
        """Accuracy metric -> [N] bool, which test images were classified correctly; empty where nothing was kept."""
        return self._measured(row, seed)[0]

    def arrays(self, row: str, seed: int) -> dict[str, NDArray[Any]]:
        """`<analysis>/<array>` -> array, for figures; empty where nothing was kept."""
        return self._measured(row, seed)[1]

    def curve(self, row: str, seed: int, metric: str) -> list[tuple[int, float]]:
        """A metric of the training by epoch: (epoch, value), in order; one value an epoch."""
        return self._curve(row, seed, metric)

    def leave_out(self, row: str, seed: int, problem: str) -> None:
        """Show nothing of a trial.

        Args:
            row: Its row.
            seed: Its seed.
            problem: Why.
        """
        self.trials[row, seed] = replace(self.trials[row, seed], metrics={}, problem=problem)

    def _fetch(self, row: str, seed: int) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[Any]]]:
        trial = self.trials[row, seed]
        content = self._store.download(trial.run_id, MEASUREMENTS) if trial.run_id is not None else None
        if content is None or trial.run is None:
            return {}, {}
        unknown = STORAGE in trial.run.tags and MEASUREMENTS not in artifact_digests(trial.run)
        if not unknown and artifact_is_whole(trial.run, MEASUREMENTS, content):
            with contextlib.suppress(*_DAMAGED):
                return unpack(content)
        self.altered.append(f"{trial.run.name}: its {MEASUREMENTS} is not the one that was sent")
        return {}, {}

    def _fetch_curve(self, row: str, seed: int, metric: str) -> list[tuple[int, float]]:
        run_id = self.trials[row, seed].training_run_id
        run = self._training_runs.get(run_id or "")
        if run is None or problem_of(run) is not None:
            return []
        if run.tags.get("ablate.training_key") != self.trials[row, seed].part.training:
            return []  # its trial's tag names another's
        points = self._store.history(run.id, metric)
        if not curve_is_whole(run, metric, points):
            self.altered.append(f"{run.name}: its curve of {metric} is not the one that was sent")
            return []
        return list({point.step: (point.step, point.value) for point in points}.values())


def pack(records: Mapping[str, Record]) -> bytes:
    """A trial's per-image correctness and arrays as one `.npz` file.

    Args:
        records: Metric or analysis -> record.

    Returns:
        Correctness as packed bits with its count, other arrays as they are.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, record in records.items():
        for array, value in record.arrays.items():
            if array == "correct" and value.dtype == np.bool_:
                arrays[f"{_CORRECT}{name}"] = np.packbits(value)
                arrays[f"{_COUNT}{name}"] = np.asarray(len(value))
            else:
                arrays[f"{_ARRAY}{name}/{array}"] = value
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unpack(content: bytes) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[Any]]]:
    """What `pack` packed; nothing in it is unpickled.

    Args:
        content: The file.

    Returns:
        Metric -> [N] bool, and `<metric or analysis>/<array>` -> array.
    """
    correct: dict[str, NDArray[np.bool_]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for name in file.files:
            if name.startswith(_CORRECT):
                metric = name.removeprefix(_CORRECT)
                count = int(file[f"{_COUNT}{metric}"])
                correct[metric] = np.unpackbits(file[name], count=count).astype(np.bool_)
            elif name.startswith(_ARRAY):
                arrays[name.removeprefix(_ARRAY)] = file[name]
    return correct, arrays


def list_plans(store: Store, space: str) -> list[PlanInfo]:
    """Plans of a space.

    Args:
        store: Where.
        space: The space's name.

    Returns:
        The one launched last first.
    """
    experiment = store.experiment(space)
    if experiment is None:
        return []
    infos = [_info(run, space) for run in _plan_runs(store, experiment) if misfit(run) is None]
    return sorted(infos, key=lambda info: (info.launched_ms, info.id), reverse=True)


def left_aside(store: Store, space: str) -> list[str]:
    """Runs of plans of a space that cannot be read by their tags, each with what is wrong."""
    experiment = store.experiment(space)
    runs = _plan_runs(store, experiment) if experiment is not None else []
    return [_aside(run, problem) for run in runs if (problem := misfit(run)) is not None]


def spaces(store: Store) -> list[str]:
    """Names of the experiments that can be spaces'."""
    return [name for name in store.experiments() if NAME.fullmatch(name) and name not in OURS]


def unshown(store: Store) -> list[str]:
    """Experiments with plans none of which can be shown, each with what is wrong.

    Args:
        store: Where.

    Returns:
        Those whose name is no space's, from which no path is made, and those without a plan whose tags can be read.
    """
    found = []
    for name, runs in sorted(store.tagged("ablate.kind", "plan").items()):
        problems = [_aside(run, problem) for run in runs if (problem := misfit(run)) is not None]
        if not NAME.fullmatch(name):
            found.append(f"experiment {name!r}: left aside, expected a space's name (small letters, digits and _)")
        elif len(problems) == len(runs):
            found += problems
    return found


def _plan_runs(store: Store, experiment: str) -> list[Run]:
    return store.runs(experiment, {"ablate.kind": "plan"})


def _aside(run: Run, problem: str) -> str:
    return f"{run.name or run.id}: left aside, {problem}"


def read_plan(store: Store, space: str, plan_id: str | None = None, storage: str | None = None) -> PlanResults:
    """Results of one plan of a space, from one storage.

    Args:
        store: Where.
        space: The space's name.
        plan_id: Which plan; none: the one launched last.
        storage: Id of the storage whose numbers are wanted, or how it begins; none: the one launched into last.

    Returns:
        Its rows, seeds and numbers.

    Raises:
        TrackingError: There is no such plan, or its description is gone.
    """
    if not NAME.fullmatch(space):
        raise TrackingError(f"--space: expected a space's name (small letters, digits and _), got {space!r}")
    plans, altered = list_plans(store, space), left_aside(store, space)
    if not plans and altered:
        raise TrackingError(f"--space: expected a plan of {space} in {store.shown}, got {'; '.join(altered)}")
    if not plans:
        known = spaces(store)
        hint = "; ".join([*([nearest(space, known)] if known else []), *unshown(store)])
        raise TrackingError(
            f"--space: expected a space with runs in {store.shown}, got none of {space!r}{'; ' * bool(hint)}{hint}"
        )
    found = [plan for plan in plans if plan_id in (None, plan.id)]
    if not found:
        hint = nearest(plan_id or "", [plan.id for plan in plans])
        raise TrackingError(f"--plan: expected a plan of {space} in {store.shown}, got {plan_id!r}; {hint}")
    info = next((plan for plan in found if storage is None or is_storage(plan.storage, storage)), None)
    if info is None:
        known = list(dict.fromkeys(storage_label(plan.storage) for plan in found))
        what = f"plan {plan_id}" if plan_id else "a plan"
        raise TrackingError(
            f"--storage-id: expected a storage that {what} of {space} was launched into, got {storage!r}; "
            f"{nearest(storage or '', known)}"
        )
    plan = _plan_of(store, info)
    runs: dict[tuple[str, int], Run] = {}
    published: dict[str, str] = {}
    of_plan = [
        run
        for run in store.runs(info.experiment_id, {"ablate.plan": info.id})
        if _storage(run) == info.storage or nobodys(run)
    ]
    parts = {(part.row, part.seed): part for part in plan.trials}
    for run in sorted(of_plan, key=_rank):
        kind, row = run.tags.get("ablate.kind"), run.tags.get("ablate.row", "")
        problem = misfit(run)
        if kind == "trial" and problem is None:
            part = parts.get((row, int(run.tags["ablate.seed"])))
            problem = contradiction(run, part, plan.trials) if part is not None else "the plan has no such row and seed"
        if problem is not None:
            altered.append(_aside(run, problem))
        elif kind == "trial":
            runs.setdefault((row, int(run.tags["ablate.seed"])), run)
        elif kind == "published" and row not in published:
            published[row] = run.id
            if problem_of(run) is not None:
                altered.append(f"{run.name}: {problem_of(run)}")
    if parts.keys() - runs.keys() or {row.label for row in plan.spaces[0].rows if row.published} - published.keys():
        for run in store.runs(info.experiment_id, {"mlflow.parentRunId": info.run_id}):
            problem = stray(run, info.id)
            if problem is not None:
                altered.append(_aside(run, problem))
    without = {part.training for part in plan.trials if (part.row, part.seed) not in runs}
    untold = _reasons(store, without, info.storage)
    trials = {(part.row, part.seed): _trial(part, runs.get((part.row, part.seed)), untold) for part in plan.trials}
    wanted = {trial.training_run_id for trial in trials.values() if trial.training_run_id is not None}
    trainings = _training_runs(store, wanted, info.storage, altered)
    for trial in trials.values():
        told = trainings.get(trial.training_run_id or "")
        if told is not None and told.tags.get("ablate.training_key") != trial.part.training and trial.run is not None:
            altered.append(_aside(trial.run, "its tag ablate.training_run_id names the run of another training"))
    for run in [*(trial.run for trial in trials.values() if trial.run is not None), *trainings.values()]:
        if problem_of(run) is not None:
            altered.append(f"{run.name}: {problem_of(run)}")
    others = [plan for plan in plans if plan.id == info.id and plan.storage != info.storage]
    # The file says what was launched; tags can be edited, and decide whether verdicts are given.
    info = replace(info, preset=plan.preset, seeds=", ".join(map(str, plan.seeds)), overrides=" ".join(plan.overrides))
    return PlanResults(store, info, plan, trials, published, others, trainings, list(dict.fromkeys(altered)))


def _plan_of(store: Store, info: PlanInfo) -> PlanFile:
    again = f"send it again with python -m ablate.report --sync --storage <its storage> --plan {info.id}"
    for _ in range(_READ_TRIES):  # a launch may be writing it just now: first the file, then the digest
        run = store.run(info.run_id)
        content = store.download(info.run_id, PLAN)
        if content is None:
            raise TrackingError(f"expected the artifact {PLAN} on the run of plan {info.id}, got none; {again}")
        unknown = run is not None and STORAGE in run.tags and PLAN not in artifact_digests(run)
        if run is None or (not unknown and artifact_is_whole(run, PLAN, content)):
            break
    else:
        raise TrackingError(f"expected the artifact {PLAN} of plan {info.id} as it was sent, got another; {again}")
    try:
        plan = parse(content, f"{PLAN} of plan {info.id}")
        for space in plan.spaces:
            _ = [Claim.model_validate(claim) for claim in space.claims]
            _ = SearchSpec.model_validate(space.search) if space.search is not None else None
    except (StorageError, ValidationError) as error:
        raise TrackingError(f"{first_line(error)}; {again}") from error
    if plan.id != info.id or [space.name for space in plan.spaces] != [info.space]:
        raise TrackingError(f"expected the artifact {PLAN} of plan {info.id} of {info.space}, got another's; {again}")
    return plan


def _training_runs(store: Store, wanted: set[str], storage: str, altered: list[str]) -> dict[str, Run]:
    if len(wanted) <= _ASKED_ONE_BY_ONE:
        found = [run for run_id in sorted(wanted) if (run := store.run(run_id)) is not None]
    else:
        experiment = store.experiment(TRAINING)
        found = store.runs(experiment) if experiment is not None else []
    trainings = {}
    for run in found:
        if run.id in wanted and (_storage(run) in (storage, "") or nobodys(run)):
            problem = misfit(run)
            if problem is None and run.tags["ablate.kind"] == "training":
                trainings[run.id] = run
            else:
                altered.append(_aside(run, problem or "it is none of a training"))
    return trainings


def _storage(run: Run) -> str:
    return run.tags.get(STORAGE, "")


def _rank(run: Run) -> tuple[bool, bool, str]:
    """Of several runs of one trial: one that holds what was sent, and all of it, before one that is being replaced."""
    return problem_of(run) is not None, "ablate.synced" not in run.tags, run.id


def storage_label(storage: str) -> str:
    """A storage's id as it is shown and asked for."""
    return storage.rpartition("-")[2][:_SHOWN] or "unknown"


def is_storage(storage: str, asked: str) -> bool:
    """Whether a storage is the one asked for: by its whole id, or by how the random part of it begins."""
    return asked == storage or (bool(asked) and (storage.rpartition("-")[2] or "unknown").startswith(asked))


def _info(run: Run, space: str) -> PlanInfo:
    tags = run.tags
    return PlanInfo(
        id=tags.get("ablate.plan", ""),
        space=space,
        preset=tags.get("ablate.preset", ""),
        seeds=tags.get("ablate.seeds", ""),
        data=tags.get("ablate.data", ""),
        overrides=tags.get("ablate.overrides", ""),
        launched_ms=int(tags.get("ablate.launched_ms", run.start_ms or 0)),
        status=run.status,
        run_id=run.id,
        experiment_id=run.experiment,
        storage=tags.get(STORAGE, ""),
    )


def _reasons(store: Store, keys: set[str], storage: str) -> dict[str, str]:
    """Training key -> why a trial without a run has no numbers, as the training's own run tells it."""
    experiment = store.experiment("training") if keys else None
    if experiment is None:
        return {}
    if len(keys) <= _ASKED_ONE_BY_ONE:
        found = [run for key in sorted(keys) for run in store.runs(experiment, {"ablate.training_key": key})]
    else:
        found = store.runs(experiment)
    states: dict[str, str] = {}
    for run in sorted(found, key=_rank, reverse=True):  # of several the best one tells
        if _storage(run) in (storage, ""):
            problem = _problem(run)
            states[run.tags.get("ablate.training_key", "")] = "not measured" if problem is None else problem
    return states


def _trial(part: TrialPart, run: Run | None, untold: Mapping[str, str]) -> TrialResult:
    if run is None:
        return TrialResult(part, problem=untold.get(part.training, "not trained"))
    altered = problem_of(run)
    return TrialResult(
        part=part,
        metrics=run.metrics if altered is None else {},
        problem=_problem(run) if altered is None else f"left out, changed in MLflow: {altered}",
        run_id=run.id,
        training_run_id=run.tags.get("ablate.training_run_id"),
        tags=run.tags,
        start_ms=run.start_ms,
        end_ms=run.end_ms,
        run=run,
    )


def _problem(run: Run) -> str | None:
    state = run.tags.get("ablate.state")
    if run.status == "FINISHED" and state == "finished":
        return None
    if run.status == "FINISHED" and state in ("failed", "stopped"):
        return f"left aside, expected its tag ablate.state to go with its status FINISHED, got {state!r}"
    if state == "failed":
        return f"failed: {run.tags.get('ablate.failure', 'unknown reason')}"
    if state == "stopped":
        return f"{STOPPED} after epoch {run.tags.get('ablate.stopped_epoch', '?')}"
    doing = "while measuring" if state == "measuring" else "while training"
    return f"interrupted {doing}" if run.status == "KILLED" else f"not finished, {doing.removeprefix('while ')}"
