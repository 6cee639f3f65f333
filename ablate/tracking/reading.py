"""MLflow -> results: one plan of one space, from its runs alone, without storage, space file or data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from ablate.core.errors import StorageError, TrackingError, nearest
from ablate.core.text import first_line
from ablate.spaces.claims import Claim
from ablate.spaces.search import SearchSpec
from ablate.spaces.space import NAME
from ablate.storage.plans import PlanFile, TrialPart, parse
from ablate.storage.status import TrainingStatus
from ablate.tracking.agreement import STORAGE, artifact_digests, artifact_is_whole
from ablate.tracking.agreement import problem as problem_of
from ablate.tracking.identity import contradiction, misfit, nobodys, stray
from ablate.tracking.layout import below
from ablate.tracking.store import Run, Store
from ablate.tracking.tracked_plan import PlanInfo, TrackedPlan, TrackedTrial
from ablate.tracking.views import VIEW, view_key

PLAN = "plan.json"
TRAINING, REPORT = "training", "report"
"""The experiments of trainings and of report pages."""

OURS = ("Default", TRAINING, REPORT)
"""Experiments that are no space's."""

LACKING, BETWEEN = "ablate.lacking", ", "
"""The tag of a run of a network that was trained, of what could not be measured; names have no comma."""

STOPPED = "stopped early"
"""What the problem says of a search's sample that the scheduler ended: no failure."""

_READ_TRIES = 3
_ASKED_ONE_BY_ONE = 50
_SHOWN = 8


def list_plans(store: Store, space: str) -> list[PlanInfo]:
    """Plans of a space.

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


def read_plan(store: Store, space: str, plan_id: str | None = None, storage: str | None = None) -> TrackedPlan:
    """Results of one plan of a space, from one storage.

    Args:
        store: Where.
        space: The space's name.
        plan_id: Which plan; none: the one launched last.
        storage: Id of the storage whose numbers are wanted, or how it begins; none: the one launched into last.

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
        for run in below(store, info.experiment_id, info.run_id):
            problem = stray(run, info.id)
            if problem is not None:
                altered.append(_aside(run, problem))
    without = {part.training for part in plan.trials if (part.row, part.seed) not in runs}
    without_run = _reasons(store, without, info.storage)
    trials = {(part.row, part.seed): _trial(part, runs.get((part.row, part.seed)), without_run) for part in plan.trials}
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
    key = view_key(info.id, info.storage)
    if f"{VIEW}{key}" in store.experiment_tags(info.experiment_id):
        info = replace(info, view=key)
    return TrackedPlan(store, info, plan, trials, published, others, trainings, list(dict.fromkeys(altered)))


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


def _reasons(store: Store, keys: set[str], storage: str) -> dict[str, _Standing]:
    """Training key -> why a trial without a run has no numbers, as the training's own run tells it."""
    experiment = store.experiment("training") if keys else None
    if experiment is None:
        return {}
    if len(keys) <= _ASKED_ONE_BY_ONE:
        found = [run for key in sorted(keys) for run in store.runs(experiment, {"ablate.training_key": key})]
    else:
        found = store.runs(experiment)
    states: dict[str, _Standing] = {}
    for run in sorted(found, key=_rank, reverse=True):  # of several the best one tells
        if _storage(run) in (storage, ""):
            found_in = _standing(run)
            standing = replace(found_in, problem=found_in.problem or "not measured")
            if standing.status not in (TrainingStatus.FAILED, TrainingStatus.STOPPED):
                standing = replace(standing, status=TrainingStatus.MISSING)  # of its trial there is nothing yet
            states[run.tags.get("ablate.training_key", "")] = standing
    return states


def _trial(part: TrialPart, run: Run | None, without_run: Mapping[str, _Standing]) -> TrackedTrial:
    if run is None:
        standing = without_run.get(part.training, _Standing(TrainingStatus.MISSING, "not trained"))
        return TrackedTrial(part, problem=standing.problem, status=standing.status, reason=standing.reason)
    altered = problem_of(run)
    standing = (
        _standing(run)
        if altered is None
        else _Standing(TrainingStatus.MISSING, f"left out, changed in MLflow: {altered}")
    )
    return TrackedTrial(
        part=part,
        metrics=run.metrics if altered is None else {},
        problem=standing.problem,
        status=standing.status,
        reason=standing.reason,
        lacking=_lacking(part, run) if standing.status is TrainingStatus.FAILED else (),
        run_id=run.id,
        training_run_id=run.tags.get("ablate.training_run_id"),
        tags=run.tags,
        run=run,
    )


def _lacking(part: TrialPart, run: Run) -> tuple[str, ...]:
    """What a run says could not be measured, of what is planned."""
    told = run.tags.get(LACKING, "").split(BETWEEN)
    return tuple(name for name in (*part.columns, *part.analyses) if name in told)


@dataclass(frozen=True)
class _Standing:
    """How far a run says that it is, why tables show nothing of it, and why it failed."""

    status: TrainingStatus
    problem: str | None = None
    reason: str | None = None


def _standing(run: Run) -> _Standing:
    state = run.tags.get("ablate.state")
    if run.status == "FINISHED" and state == "finished":
        return _Standing(TrainingStatus.FINISHED)
    if run.status == "FINISHED" and state in ("failed", "stopped"):
        aside = f"left aside, expected its tag ablate.state to go with its status FINISHED, got {state!r}"
        return _Standing(TrainingStatus.MISSING, aside)
    if state == "failed":
        reason = run.tags.get("ablate.failure", "unknown reason")
        return _Standing(TrainingStatus.FAILED, f"failed: {reason}", reason)
    if state == "stopped":
        epoch = run.tags.get("ablate.stopped_epoch", "?")
        return _Standing(TrainingStatus.STOPPED, f"{STOPPED} after epoch {epoch}")
    status = {"measuring": TrainingStatus.TRAINED, "training": TrainingStatus.TRAINING}
    doing = "while measuring" if state == "measuring" else "while training"
    problem = f"interrupted {doing}" if run.status == "KILLED" else f"not finished, {doing.removeprefix('while ')}"
    return _Standing(status.get(state or "", TrainingStatus.MISSING), problem)
