"""A plan's runs in MLflow: found by their tags, or created, once.

experiment `training`     a run per training (tag ablate.training_key): curves, final networks
experiment <space>        a run per plan (tag ablate.kind=plan, artifact plan.json); beside it a run per trial
                          (`512 · seed 0`) and per published row (`512 · published`), which name it in a tag

All of them are of one storage (tag ablate.storage): the same plan in another storage has other runs, which are left
alone. Runs of versions before, which name none, are adopted where they agree with storage (`ablate.tracking.sending`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ablate.core.errors import TrackingError
from ablate.core.text import now_ms
from ablate.spaces.metrics import Metric
from ablate.storage.plans import PlanFile, RowPart, SpacePart, TrialPart
from ablate.tracking import reading, views
from ablate.tracking.agreement import (
    DIGEST,
    REPLACES,
    STORAGE,
    digest_after,
    intact,
    replacement,
    same,
    take_over,
    upload,
)
from ablate.tracking.identity import contradiction, misfit, stray
from ablate.tracking.layout import (
    PLACE,
    PLAN_RUN,
    PUBLISHED,
    below,
    places,
    plan_run_of,
    row_parameters,
    unfold,
    varying,
)
from ablate.tracking.reading import REPORT, TRAINING
from ablate.tracking.store import DataInput, Point, Run, Store

SYNCED_LAYOUT = "1"
"""What `ablate.synced` says of a run that has everything; raise it to have all runs sent again."""

REGISTRATION = "registration.json"
"""A plan's artifact: what was registered of its claims before anything was trained."""

SEARCHED_ONE_BY_ONE = 50
"""Up to so many trainings are looked up by their keys; for more the experiment is read as a whole."""

Place = tuple[str, str, int]
"""Space, row, seed."""

Adopts = Callable[[Run, TrialPart], bool | None]
"""Whether a run that names no storage agrees with what storage holds of a trial; None: storage holds nothing of it."""


@dataclass
class PlanRuns:
    """A plan with its runs, as far as they exist.

    Args:
        plan: The plan.
        parents: Space -> the plan's run.
        trials: Place -> run.
        published: (space, row) -> run.
        trainings: Training key -> run.
        storages: Ids of the storage that is shown, the one that runs are tagged with first; none: not known yet.
        nameless: Runs of versions before, which name no storage, by the same keys; they belong to it once they agree.
        repairs: What was mended, a line for each run.
        aside: Runs of this storage whose tags do not fit; once everything is there again, they are deleted.
        compared: Ids of runs whose curves and artifacts were compared as a whole in this process.
        varying: Space -> dotted paths of what differs between its rows.
        places: Space -> what `ablate.tracking.layout.places` says of its runs.
    """

    plan: PlanFile
    parents: dict[str, Run] = field(default_factory=dict)
    trials: dict[Place, Run] = field(default_factory=dict)
    published: dict[tuple[str, str], Run] = field(default_factory=dict)
    trainings: dict[str, Run] = field(default_factory=dict)
    storages: tuple[str, ...] = ()
    nameless: dict[Place | str, Run] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    aside: list[Run] = field(default_factory=list)
    compared: set[str] = field(default_factory=set)
    varying: dict[str, list[str]] = field(init=False)
    places: dict[str, dict[tuple[str, int | None], str]] = field(init=False)

    def __post_init__(self) -> None:
        spaces, trials = self.plan.spaces, self.plan.trials
        self.varying = {space.name: varying(space, trials) for space in spaces}
        self.places = {space.name: places(space, trials) for space in spaces}

    @property
    def storage_tags(self) -> dict[str, str]:
        """The tag that names the storage."""
        return {STORAGE: self.storages[0]} if self.storages else {}

    @property
    def view(self) -> str:
        """The key of the view of its rows in MLflow's UI."""
        return views.view_key(self.plan.id, self.storages[0] if self.storages else "")

    def owns(self, run: Run) -> bool:
        """Whether a run is of this storage."""
        return run.tags.get(STORAGE) in self.storages if self.storages else STORAGE not in run.tags

    def all(self) -> list[Run]:
        """Every run but the published ones, which are never under way."""
        return [*self.parents.values(), *self.trials.values(), *self.trainings.values()]


def place(trial: TrialPart) -> Place:
    """Which row and seed of which space a trial is."""
    return trial.space, trial.row, trial.seed


def find(store: Store, file: PlanFile, storages: Sequence[str] = (), adopts: Adopts | None = None) -> PlanRuns:
    """Find a plan's runs; those of the plan itself are created.

    Args:
        store: Where.
        file: The plan.
        storages: Ids of the storage whose runs are wanted; none: the one that the plan was launched into last.
        adopts: Whether a run of a version before, which names no storage, agrees with this one; None: it cannot be
            told, since storage holds nothing of it.

    Raises:
        TrackingError: A space is named as one of our own experiments, or the store does not take it.
    """
    opened = PlanRuns(file, storages=tuple(storages) or _launched_into(store, file))
    trials = {place(trial): trial for trial in file.trials}
    for space in file.spaces:
        if space.name in (TRAINING, REPORT):
            raise TrackingError(f"expected a space that is not named as an experiment of ours, got {space.name!r}")
        experiment = store.experiment(space.name, create=True)
        assert experiment is not None
        runs = _fitting(opened, store.runs(experiment, {"ablate.plan": file.id}), space.name, trials)
        nameless: dict[str, Run] = {}
        for run in [run for run in runs if STORAGE not in run.tags] if storages else []:
            where = _place_of(run, space.name)
            if where in trials:
                opened.nameless.setdefault(where, run)
            elif run.tags.get("ablate.kind") == "plan":
                nameless.setdefault("", run)
        for run in _once(store, [run for run in runs if opened.owns(run)]):
            tags = run.tags
            match tags.get("ablate.kind"):
                case "plan":
                    opened.parents[space.name] = run
                case "trial":
                    opened.trials[space.name, tags["ablate.row"], int(tags["ablate.seed"])] = run
                case "published":
                    opened.published[space.name, tags["ablate.row"]] = run
        parent = opened.parents.get(space.name)
        if parent is not None and _lacks_some(opened, space):
            named_by = below(store, experiment, parent.id)
            opened.aside += [run for run in named_by if stray(run, file.id) is not None and opened.owns(run)]
        if parent is None and "" in nameless and _agrees(opened, trials, adopts):
            parent = nameless[""]
            for run in runs:
                if run.tags.get("ablate.kind") == "published" and STORAGE not in run.tags:
                    opened.published.setdefault((space.name, run.tags.get("ablate.row", "")), run)
        named = {plan_run_of(run) for run in runs if opened.owns(run)}
        _set_aside(store, opened, named - {run.id for run in runs}, experiment)
        opened.parents[space.name] = _parent(store, opened, space, experiment, parent)
    keys = set(file.trainings())
    experiment = store.experiment(TRAINING, create=True)
    assert experiment is not None
    store.describe(experiment, {}, first={views.NOTE: views.TRAINING_NOTE})
    if len(keys) <= SEARCHED_ONE_BY_ONE:
        found = [run for key in sorted(keys) for run in store.runs(experiment, {"ablate.training_key": key})]
    else:
        found = [run for run in store.runs(experiment) if run.tags.get("ablate.training_key") in keys]
    found = [run for run in found if run.tags.get("ablate.kind") == "training"]
    for run in _once(store, [run for run in found if opened.owns(run)]):
        opened.trainings[run.tags["ablate.training_key"]] = run
    named = {run.tags.get("ablate.training_run_id", "") for run in opened.trials.values()}
    _set_aside(store, opened, named - {run.id for run in found}, experiment)
    for run in [run for run in found if STORAGE not in run.tags] if storages else []:
        opened.nameless.setdefault(run.tags["ablate.training_key"], run)
    return opened


def _fitting(opened: PlanRuns, runs: list[Run], space: str, trials: Mapping[Place, TrialPart]) -> list[Run]:
    """The runs that are what their tags say; others of this storage are set aside."""
    found = []
    for run in runs:
        problem = misfit(run)
        where = _place_of(run, space) if problem is None else None
        if where is not None:
            problem = (
                contradiction(run, trials[where], trials.values())
                if where in trials
                else "the plan has no such row and seed"
            )
        if problem is None:
            found.append(run)
        elif opened.owns(run) and run.tags.get("ablate.space", space) == space:
            opened.aside.append(run)
    return found


def _set_aside(store: Store, opened: PlanRuns, ids: set[str], experiment: str) -> None:
    """Runs that others of the plan name, and that were not found by their own tags: those are somebody's, or gone."""
    for run_id in sorted(ids - {run.id for run in opened.aside} - {""}):
        run = store.run(run_id)
        if run is not None and run.experiment == experiment and opened.owns(run) and misfit(run) is not None:
            opened.aside.append(run)


def _lacks_some(opened: PlanRuns, space: SpacePart) -> bool:
    places = {place(trial) for trial in opened.plan.trials if trial.space == space.name}
    published = {(space.name, row.label) for row in space.rows if row.published}
    return bool(places - opened.trials.keys() or published - opened.published.keys())


def _launched_into(store: Store, file: PlanFile) -> tuple[str, ...]:
    plans = [info for space in file.spaces for info in reading.list_plans(store, space.name) if info.id == file.id]
    return tuple(info.storage for info in plans[:1] if info.storage)


def _place_of(run: Run, space: str) -> Place | None:
    tags = run.tags
    if tags.get("ablate.kind") != "trial" or not re.fullmatch(r"\d{1,18}", tags.get("ablate.seed", "")):
        return None
    return space, tags.get("ablate.row", ""), int(tags["ablate.seed"])


def _agrees(opened: PlanRuns, trials: Mapping[Place, TrialPart], adopts: Adopts | None) -> bool:
    """Whether a plan's run that names no storage is this one's: one of its trials agrees, or none says anything."""
    if adopts is None:
        return True
    told = [adopts(run, trials[where]) for where, run in opened.nameless.items() if isinstance(where, tuple)]
    return True in told or not told


def _once(store: Store, runs: list[Run]) -> list[Run]:
    """One run of each identity, the one that matches what was sent: two launches at once can each have created one.

    One that is to replace another is the one that is written to; it deletes the other when it is whole.
    """
    kept: dict[tuple[str | None, ...], Run] = {}
    there = {run.id for run in runs}

    def rank(run: Run) -> tuple[bool, bool, bool, int, str]:
        replaces = run.tags.get(REPLACES) in there
        return not replaces, not intact(run), run.tags.get("ablate.synced") is None, run.start_ms, run.id

    for run in sorted(runs, key=rank):
        first = kept.setdefault(_identity(run), run)
        if first is not run and first.tags.get(REPLACES) != run.id:
            store.delete(run)
    return list(kept.values())


def _parent(store: Store, opened: PlanRuns, space: SpacePart, experiment: str, run: Run | None) -> Run:
    file = opened.plan
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
        views.NOTE: "\n\n".join(text for text in (f"**{space.title}**", space.description) if text),
        **({"ablate.registration": space.registration.digest} if space.registration is not None else {}),
        **provenance_tags(file.provenance),
        **opened.storage_tags,
    }
    if run is None:
        run = store.create(experiment, name, tags, file.created_ms)
    elif not file.launched_ms < int(run.tags.get("ablate.launched_ms", "0")) <= now_ms():  # nor in days to come
        store.log(run, tags=tags)
    else:
        store.log(run, tags=opened.storage_tags)
    if run.status != "FINISHED" or space.search is not None or file.until is not None:  # it may go on with more
        store.set_status(run, "RUNNING")
    upload(store, run, reading.PLAN, part.to_json().encode())
    store.describe(
        experiment,
        {f"{views.VIEW}{opened.view}": views.view_of(file, space, run.id, opened.varying[space.name])},
        first={views.NOTE: views.described(space)},
    )
    if space.registration is not None:
        upload(store, run, REGISTRATION, space.registration.model_dump_json(indent=1).encode())
    return run


def publish(store: Store, opened: PlanRuns, *, whole: bool = False) -> None:
    """Send the published numbers of every row that has some.

    Args:
        store: Where to.
        opened: The plan's runs.
        whole: Whether every point is compared, not the latest values alone.
    """
    for space in opened.plan.spaces:
        parent = opened.parents[space.name]
        for row in space.rows:
            if row.published:
                _publish_row(store, opened, space, row, parent, whole)


def _publish_row(store: Store, opened: PlanRuns, space: SpacePart, row: RowPart, parent: Run, whole: bool) -> None:
    run = opened.published.get((space.name, row.label))
    # A scalar and an adaptive column too: what earlier versions sent stays as it is.
    wanted = {Metric(name).run_name: value for name, value in row.published.items()}
    if run is not None:
        agrees = all(name in wanted and same(value, wanted[name]) for name, value in run.metrics.items())
        if agrees and whole:
            points = [point for name in run.metrics for point in store.history(run.id, name)]
            agrees = all(same(point.value, wanted[point.name]) for point in points)
        if not agrees:  # also where a number was mended in the space file: MLflow cannot change one
            run = opened.published[space.name, row.label] = replacement(store, run)
    tags = {
        "ablate.kind": "published",
        "ablate.source": "published",
        "ablate.plan": opened.plan.id,
        "ablate.space": space.name,
        "ablate.row": row.label,
        "ablate.table": table_label(space),
        PLAN_RUN: parent.id,
        PLACE: opened.places[space.name][row.label, None],
        **opened.storage_tags,
    }
    if run is None:
        run = store.create(parent.experiment, f"{row.label} · published", tags, opened.plan.created_ms)
        opened.published[space.name, row.label] = run
    unfold(store, run, parent.id)
    store.log_data(run, [DataInput("as published", PUBLISHED, "test", None)])
    points = [
        Point(name, value, opened.plan.launched_ms, 0) for name, value in wanted.items() if name not in run.metrics
    ]
    trial = next((each for each in opened.plan.trials if (each.space, each.row) == (space.name, row.label)), None)
    params = row_parameters(row.label, PUBLISHED, opened.varying[space.name], trial)
    store.log(run, points, params, {**tags, DIGEST: digest_after(run, points, params)})
    if points:
        # MLflow's compare view fails on runs that have no artifact at all.
        store.upload(run, "published.json", json.dumps(row.published, indent=1).encode())
    store.set_status(run, "FINISHED", run.start_ms)
    if take_over(store, run):
        opened.repairs.append(f"{space.name}: {run.name}")


def settle(store: Store, opened: PlanRuns) -> None:
    """End the plan's own runs where every trial has ended; what was set aside goes once it is there again."""
    if opened.aside and all(synced(opened.trials.get(place(trial))) for trial in opened.plan.trials):
        for run in opened.aside:
            store.delete_if_there(run.id)
            opened.repairs.append(f"{run.tags.get('ablate.space', '')}: {run.name}")
        opened.aside.clear()
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


def data_inputs(trial: TrialPart) -> list[DataInput]:
    """The data sets of a trial, as MLflow's own column shows them."""
    data = trial.data
    return [
        DataInput(data.label, data.train_digest, "training", data.train_count),
        DataInput(data.label, data.test_digest, "test", data.test_count),
    ]


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
