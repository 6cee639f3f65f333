"""What MLflow holds of a plan, in the form that tables and verdicts are made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ablate.core.metric_names import OF_LAST_EPOCH
from ablate.report.results import Outcome, Results, published_results
from ablate.report.tables import TableInput
from ablate.report.verdicts.verdicts import Verdict, judge_all
from ablate.spaces.claims import Claim, Trend
from ablate.spaces.metrics import Metric, Network, is_accuracy
from ablate.spaces.presets import decides_claims
from ablate.tracking.reading import STOPPED, PlanResults, TrialResult, storage_label


class _Fetched(Mapping[str, NDArray[np.bool_]]):
    """Per-image correctness by column; its file is fetched when the first one is asked for."""

    def __init__(self, names: Mapping[str, str], fetch: Callable[[], Mapping[str, NDArray[np.bool_]]]) -> None:
        self._names = names
        self._fetch = fetch

    def __getitem__(self, column: str) -> NDArray[np.bool_]:
        return self._fetch()[self._names[column]]

    def __iter__(self) -> Iterator[str]:
        return (column for column, metric in self._names.items() if metric in self._fetch())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Curves(Mapping[str, Sequence[float]]):
    """Curves by metric; each is fetched when it is asked for, so that the names are not known beforehand."""

    def __init__(self, fetch: Callable[[str], Sequence[float]]) -> None:
        self._fetch = fetch
        self._known: dict[str, Sequence[float]] = {}

    def __getitem__(self, metric: str) -> Sequence[float]:
        if metric not in self._known:
            self._known[metric] = self._fetch(metric)
        if not self._known[metric]:
            raise KeyError(metric)
        return self._known[metric]

    def __iter__(self) -> Iterator[str]:
        return (metric for metric, curve in self._known.items() if curve)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def columns_of(metrics: Iterable[str], network: Network = "last") -> dict[str, str]:
    """How claims and tables call the metrics of a run.

    Args:
        metrics: As MLflow has them: `accuracy/pgd20`, `accuracy_adaptive_best/pgd20`, `energy/ratio` ...
        network: Whose numbers.

    Returns:
        Name -> metric: `pgd20`, `adaptive/pgd20`, `energy/ratio`; the other network's are left out.
    """
    found: dict[str, str] = {}
    for run_name in metrics:
        metric = Metric.from_run(run_name)
        if metric.network == network and (metric.accuracy or network == "best"):
            found[metric.name] = run_name
        elif metric.network == network or (not metric.accuracy and metric.name.startswith(OF_LAST_EPOCH)):
            found.setdefault(metric.name, run_name)
    return found


def results_of(plan: PlanResults, network: Network = "last") -> Results:
    """A plan's outcomes, and why others are missing.

    Args:
        plan: From MLflow.
        network: Whose numbers.

    Returns:
        Only rows and seeds that are finished have an outcome; of others a part could be taken for the whole.
    """
    outcomes, problems = {}, dict(plan.problems)
    for (row, seed), trial in plan.trials.items():
        if (row, seed) in problems:
            continue
        if network == "best" and not any(map(_is_of_best, trial.metrics)):
            problems[row, seed] = "no best network, which needs data.validation above 0"
            continue
        outcomes[row, seed] = _outcome(plan, row, seed, trial, network)
    return Results(outcomes, problems)


def _is_of_best(run_name: str) -> bool:
    metric = Metric.from_run(run_name)
    return metric.accuracy and metric.network == "best"


def _outcome(plan: PlanResults, row: str, seed: int, trial: TrialResult, network: Network) -> Outcome:
    names = columns_of(trial.metrics, network)
    return Outcome(
        training_key=trial.part.training,
        values={name: trial.metrics[metric] for name, metric in names.items()},
        correct=_Fetched(
            {name: metric for name, metric in names.items() if is_accuracy(name)}, lambda: plan.correct(row, seed)
        ),
        test_key=trial.part.data.test_digest,
        images=trial.part.data.test_count,
        curves=_Curves(lambda metric: [value for _, value in plan.curve(row, seed, metric)]),
    )


def claims_of(plan: PlanResults) -> list[Claim]:
    """The claims of the plan's space, as they were when it was launched."""
    return [Claim.model_validate(claim) for claim in plan.space.claims]


def table_input(plan: PlanResults, results: Results, network: Network = "last") -> TableInput:
    """What the plan's table is made from.

    Args:
        plan: From MLflow.
        results: From `results_of`.
        network: Whose numbers these are, for the caption.

    Returns:
        With the scalars that claims are about as more columns.
    """
    scalars = [
        metric
        for claim in claims_of(plan)
        if not isinstance(claim.statement, Trend)
        for metric in claim.statement.metrics
        if not is_accuracy(metric)
    ]
    data = ", ".join(plan.data_labels)
    changed = [setting for setting in plan.plan.overrides if not setting.startswith(("data.root=", "data.label="))]
    told = [data, f"preset {plan.info.preset}", *changed, f"plan {plan.info.id}"]
    if plan.others:
        told.append(f"storage {storage_label(plan.info.storage)}, not {_other_storages(plan)}")
    if network == "best":
        of_training = any(scalar.startswith(OF_LAST_EPOCH) for scalar in scalars)
        after = ", but energies and masks after the last epoch" if of_training else ""
        told.append(f"best networks by validation accuracy{after}")
    stopped = {row for (row, _), reason in plan.problems.items() if reason.startswith(STOPPED)}
    if plan.space.search is not None:
        told.append(f"test images, by which nothing was chosen; {len(stopped)} samples stopped early are left out")
    return TableInput(
        title=plan.space.title,
        labels=[row.label for row in plan.rows if row.label not in stopped],
        results=results,
        published=plan.published,
        notes={row.label: row.note for row in plan.rows if row.note and row.label not in stopped},
        seeds=plan.plan.seeds,
        paper_data=plan.is_paper_data,
        data=", ".join(told),
        extra=list(dict.fromkeys(scalars)),
    )


def _other_storages(plan: PlanResults) -> str:
    return " or ".join(storage_label(other.storage) for other in plan.others)


def keep_storages_apart(plans: Sequence[PlanResults]) -> None:
    """Leave out of earlier launches what a later one, into another storage, has other values of.

    Args:
        plans: Those of one report; a training that several share is shown from one storage.
    """
    shown: dict[tuple[str, str], tuple[str, float]] = {}  # training, measurement -> storage, value
    for plan in sorted(plans, key=lambda plan: plan.info.launched_ms, reverse=True):
        mine = plan.info.storage
        for (row, seed), trial in list(plan.trials.items()):
            for metric, key in trial.part.columns.items():
                if metric not in trial.metrics:
                    continue
                storage, value = shown.setdefault((trial.part.training, key), (mine, trial.metrics[metric]))
                if storage != mine and value != trial.metrics[metric]:
                    label = storage_label(storage)
                    plan.leave_out(row, seed, f"left out: storage {label}, launched later, has other values of it")
                    break


def left_out(plan: PlanResults) -> list[str]:
    """What a report of a plan leaves out of what MLflow has: runs that cannot be trusted, and other storages.

    Args:
        plan: From MLflow; images, arrays and curves are compared when they are asked for, so ask last.

    Returns:
        A sentence each, with the run's name.
    """
    found = [f"Left out, changed in MLflow since it was sent: {told}" for told in dict.fromkeys(plan.altered)]
    for other in plan.others:
        label = storage_label(other.storage)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(other.launched_ms / 1000))
        asked = f"--space {plan.space.name} --plan {other.id} --storage-id {label}"
        found.append(f"Plan {other.id} has other numbers in storage {label}, launched {when}: {asked}")
    return found


def verdicts_of(plan: PlanResults, results: Results) -> list[tuple[Verdict, Verdict | None]]:
    """Each claim's verdict on our table, and on the published one, where there is one.

    Args:
        plan: From MLflow.
        results: From `results_of`.

    Returns:
        (ours, published) in the order of the claims; none for a preset whose trainings are too short to say
        anything.
    """
    if not decides_claims(plan.info.preset):
        return []
    claims, rows = claims_of(plan), [row.label for row in plan.rows]
    ours = judge_all(claims, results, rows=rows)
    if not any(plan.published.values()):
        return [(verdict, None) for verdict in ours]
    published = judge_all(claims, published_results(plan.published), rows=rows)
    return list(zip(ours, published, strict=True))
