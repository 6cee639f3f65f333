"""One plan of one space as its runs in MLflow tell it, of which `Results` are made."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.storage.checksums import BROKEN_ZIP
from ablate.storage.plans import PlanFile, SpacePart, TrialPart
from ablate.storage.status import TrainingStatus
from ablate.tracking.agreement import STORAGE, artifact_digests, artifact_is_whole, curve_is_whole, problem
from ablate.tracking.measurements import MEASUREMENTS, unpack
from ablate.tracking.store import Run, Store

_DAMAGED = (OSError, KeyError, TypeError, *BROKEN_ZIP)


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
        view: The key of the view of its rows in MLflow's UI; empty where there is none.
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
    view: str = ""


@dataclass(frozen=True)
class TrackedTrial:
    """The run of one row with one seed, or why there is none.

    Args:
        part: What was planned.
        metrics: `accuracy/pgd20`, `accuracy_best/pgd20`, `energy/ratio` ... -> value; accuracies in percent.
        problem: Why tables show nothing of it (`failed: loss became nan in epoch 3`); None where they do.
        status: How far its run says that it is.
        reason: Why it failed.
        lacking: Of a failed one that was trained, what could not be measured, by the names that plans have.
        run_id: Of its run; None without one.
        training_run_id: Of its training's run.
        tags: Of its run: device, versions, commit.
        run: Its run.
    """

    part: TrialPart
    metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None
    status: TrainingStatus = TrainingStatus.MISSING
    reason: str | None = None
    lacking: tuple[str, ...] = ()
    run_id: str | None = None
    training_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    run: Run | None = None


class TrackedPlan:
    """What MLflow holds of a plan, before rules of reports: which runs can be trusted, and what they name.

    Reports know only the `Results` made from it (`ablate.report.from_tracking`), which may not be imported from here.
    Images, arrays and curves are fetched when asked for.

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
        trials: Mapping[tuple[str, int], TrackedTrial],
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

    def trained(self, row: str, seed: int) -> bool:
        """Whether its training reached its last epoch."""
        trial = self.trials[row, seed]
        run = self._training_run(trial)
        told = trial.tags.get("ablate.state") in ("finished", "measuring")
        return told or (run is not None and run.tags.get("ablate.state") == "finished")

    def leave_out(self, row: str, seed: int, problem: str) -> None:
        """Show nothing of a trial.

        Args:
            row: Its row.
            seed: Its seed.
            problem: Why.
        """
        hidden = replace(self.trials[row, seed], metrics={}, problem=problem, status=TrainingStatus.MISSING)
        self.trials[row, seed] = hidden

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

    def _training_run(self, trial: TrackedTrial) -> Run | None:
        run = self._training_runs.get(trial.training_run_id or "")
        if run is None or run.tags.get("ablate.training_key") != trial.part.training:
            return None  # its trial's tag names another's
        return run

    def _fetch_curve(self, row: str, seed: int, metric: str) -> list[tuple[int, float]]:
        run = self._training_run(self.trials[row, seed])
        if run is None or problem(run) is not None:
            return []
        points = self._store.history(run.id, metric)
        if not curve_is_whole(run, metric, points):
            self.altered.append(f"{run.name}: its curve of {metric} is not the one that was sent")
            return []
        return list({point.step: (point.step, point.value) for point in points}.values())
