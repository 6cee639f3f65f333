"""A plan's runs in MLflow: found by their tags, or created, once.

experiment `training`     a run per training (tag ablate.training_key): curves, final networks
experiment <space>        a run per plan (tag ablate.kind=plan, artifact plan.json); below it a run per trial
                          (`512 · seed 0`) and per published row (`512 · published`)
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ablate import tracked
from ablate.errors import TrackingError
from ablate.plan_file import PlanFile, RowPart, SpacePart, TrialPart
from ablate.tracking_store import Point, Run, Store

TRAINING, REPORT = "training", "report"
"""The experiments of trainings and of report pages."""

SYNCED_LAYOUT = "1"
"""What `ablate.synced` says of a run that has everything; raise it to have all runs sent again."""

SEARCHED_ONE_BY_ONE = 50
"""Up to so many trainings are looked up by their keys; for more the experiment is read as a whole."""

Place = tuple[str, str, int]
"""Space, row, seed."""


@dataclass
class PlanRuns:
    """A plan with its runs, as far as they exist.

    Args:
        plan: The plan.
        parents: Space -> the plan's run.
        trials: Place -> run.
        published: (space, row) -> run.
        trainings: Training key -> run.
    """

    plan: PlanFile
    parents: dict[str, Run] = field(default_factory=dict)
    trials: dict[Place, Run] = field(default_factory=dict)
    published: dict[tuple[str, str], Run] = field(default_factory=dict)
    trainings: dict[str, Run] = field(default_factory=dict)

    def all(self) -> list[Run]:
        """Every run but the published ones, which are never under way."""
        return [*self.parents.values(), *self.trials.values(), *self.trainings.values()]


def place(trial: TrialPart) -> Place:
    """Which row and seed of which space a trial is."""
    return trial.space, trial.row, trial.seed


def find(store: Store, file: PlanFile) -> PlanRuns:
    """Find a plan's runs; those of the plan itself are created.

    Args:
        store: Where.
        file: The plan.

    Returns:
        Its runs.

    Raises:
        TrackingError: A space is named as one of our own experiments, or the store does not take it.
    """
    opened = PlanRuns(file)
    for space in file.spaces:
        if space.name in (TRAINING, REPORT):
            raise TrackingError(f"expected a space that is not named as an experiment of ours, got {space.name!r}")
        experiment = store.experiment(space.name, create=True)
        assert experiment is not None
        runs = _once(store, store.runs(experiment, {"ablate.plan": file.id}))
        for run in runs:
            tags = run.tags
            match tags.get("ablate.kind"):
                case "plan":
                    opened.parents[space.name] = run
                case "trial":
                    opened.trials[space.name, tags["ablate.row"], int(tags["ablate.seed"])] = run
                case "published":
                    opened.published[space.name, tags["ablate.row"]] = run
        opened.parents[space.name] = _parent(store, file, space, experiment, opened.parents.get(space.name))
    keys = set(file.trainings())
    experiment = store.experiment(TRAINING, create=True)
    assert experiment is not None
    if len(keys) <= SEARCHED_ONE_BY_ONE:
        found = [run for key in sorted(keys) for run in store.runs(experiment, {"ablate.training_key": key})]
    else:
        found = [run for run in store.runs(experiment) if run.tags.get("ablate.training_key") in keys]
    for run in _once(store, found):
        opened.trainings[run.tags["ablate.training_key"]] = run
    return opened


def _once(store: Store, runs: list[Run]) -> list[Run]:
    """One run of each identity: two launches at once can each have created one, and all keep the same."""
    kept: dict[tuple[str | None, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (run.tags.get("ablate.synced") is None, run.start_ms, run.id)):
        if _identity(run) in kept:
            store.delete(run)
        else:
            kept[_identity(run)] = run
    return list(kept.values())


def _parent(store: Store, file: PlanFile, space: SpacePart, experiment: str, run: Run | None) -> Run:
    part = file.of_space(space.name)
    name = f"{space.name} · {file.preset} · {file.id}"
    tags = {
        "ablate.kind": "plan",
        "ablate.plan": file.id,
        "ablate.space": space.name,
        "ablate.preset": file.preset,
        "ablate.seeds": ", ".join(str(seed) for seed in file.seeds),
        "ablate.data": ", ".join(dict.fromkeys(trial.data.label for trial in part.trials)),
        "ablate.overrides": " ".join(file.overrides),
        "ablate.launched_ms": str(file.launched_ms),
        "ablate.table": table_label(space),
        "mlflow.note.content": "\n\n".join(text for text in (f"**{space.title}**", space.description) if text),
        **provenance_tags(file.provenance),
    }
    if run is None:
        run = store.create(experiment, name, tags, file.created_ms)
    elif int(run.tags.get("ablate.launched_ms", 0)) <= file.launched_ms:
        store.log(run, tags=tags)
    if run.status != "FINISHED" or space.search is not None:  # a search may go on with more samples
        store.set_status(run, "RUNNING")
    store.upload(run, tracked.PLAN, part.to_json().encode())
    return run


def publish(store: Store, opened: PlanRuns) -> None:
    """Send the published numbers of every row that has some."""
    for space in opened.plan.spaces:
        parent = opened.parents[space.name]
        for row in space.rows:
            if row.published:
                _publish_row(store, opened, space, row, parent)


def _publish_row(store: Store, opened: PlanRuns, space: SpacePart, row: RowPart, parent: Run) -> None:
    run = opened.published.get((space.name, row.label))
    if run is None:
        tags = {
            "ablate.kind": "published",
            "ablate.source": "published",
            "ablate.plan": opened.plan.id,
            "ablate.space": space.name,
            "ablate.row": row.label,
            "ablate.table": table_label(space),
            "mlflow.parentRunId": parent.id,
        }
        run = store.create(parent.experiment, f"{row.label} · published", tags, opened.plan.created_ms)
        opened.published[space.name, row.label] = run
    # With the launch's time a number that was mended in the space file counts as the newer one.
    points = [
        Point(f"accuracy/{name}", value, opened.plan.launched_ms, 0)
        for name, value in row.published.items()
        if run.metrics.get(f"accuracy/{name}") != value
    ]
    store.log(run, points)
    if points:
        # MLflow's compare view fails on runs that have no artifact at all.
        store.upload(run, "published.json", json.dumps(row.published, indent=1).encode())
    store.set_status(run, "FINISHED", run.start_ms)


def settle(store: Store, opened: PlanRuns) -> None:
    """End the plan's own runs where every trial has ended."""
    for space in opened.plan.spaces:
        parts = [trial for trial in opened.plan.trials if trial.space == space.name]
        runs = [opened.trials.get(place(trial)) for trial in parts]
        states = {"waiting" if run is None else run.tags.get("ablate.state", "training") for run in runs}
        if states <= {"finished", "failed", "stopped"}:
            ended = max((run.end_ms or 0 for run in runs if run is not None), default=0) or now_ms()
            # A sample that failed is a result of its search.
            failed = "failed" in states and (space.search is None or "finished" not in states)
            store.set_status(opened.parents[space.name], "FAILED" if failed else "FINISHED", ended)


def _identity(run: Run) -> tuple[str | None, ...]:
    names = ("ablate.kind", "ablate.plan", "ablate.row", "ablate.seed", "ablate.training_key")
    return tuple(run.tags.get(name) for name in names)


def synced(run: Run | None) -> bool:
    """Whether a run has everything."""
    return run is not None and run.tags.get("ablate.synced") == SYNCED_LAYOUT


def table_label(space: SpacePart) -> str:
    """The number of the space's table, as text."""
    return "none" if space.table is None else str(space.table)


def data_tags(trial: TrialPart) -> dict[str, str]:
    """Which data a run is about."""
    return {
        "ablate.data": trial.data.label,
        "ablate.data.train_digest": trial.data.train_digest,
        "ablate.data.test_digest": trial.data.test_digest,
    }


def provenance_tags(found: Mapping[str, str]) -> dict[str, str]:
    """Commit, versions and command of the launch."""
    tags = {f"ablate.launch.{name}": value for name, value in found.items()}
    if "git_commit" in found:
        tags["mlflow.source.git.commit"] = found["git_commit"]
        tags["ablate.git_commit"] = found["git_commit"]
    return tags


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
