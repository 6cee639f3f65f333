"""What reports are made from: for each row and seed the numbers, and which images were classified correctly.

Tables, verdicts, figures, searches, the page and JSON are all made from `Results`. Its readers are beside it: of MLflow
(`from_tracking`) and of storage (`from_storage`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ablate.core.metric_names import EVERY_EPOCH, OF_LAST_EPOCH
from ablate.report.names import failure_words
from ablate.report.replications import Replication
from ablate.spaces.claims import Claim
from ablate.spaces.metrics import Metric, is_accuracy
from ablate.spaces.networks import Network, needed_for
from ablate.spaces.specs import COLUMNS
from ablate.storage.plans import PlanFile, SpacePart, TrialPart
from ablate.storage.status import TrainingStatus

State = Literal["finished", "training", "stopped", "failed", "missing"]
STATES: Mapping[TrainingStatus, State] = {
    TrainingStatus.MISSING: "missing",
    TrainingStatus.TRAINING: "training",
    TrainingStatus.TRAINED: "training",  # results have no word of their own for what lacks measurements alone
    TrainingStatus.FINISHED: "finished",
    TrainingStatus.FAILED: "failed",
    TrainingStatus.STOPPED: "stopped",
}
"""How results call what storage and MLflow say of a training."""

TREND = "trend/"
"""What the name of a curve's rank correlation with the epoch begins with."""

PAPER_TEST_IMAGES = 10_000
"""CIFAR-10's test split, behind every published number."""

_BASELINES = (
    (76.67, 71.24, 49.34, 43.12, 43.01, 62.45, 39.78),  # Table 1, degree 32; printed again in Tables 4 and 5
    (75.02, 70.70, 48.09, 42.89, 42.87, 62.40, 40.75),  # Table 2, batch size 512
    (74.91, 70.44, 47.93, 42.13, 42.15, 62.32, 40.64),  # Table 3, no augmentation
)
PAPER_BASELINES: tuple[Mapping[str, float], ...] = tuple(dict(zip(COLUMNS, row, strict=True)) for row in _BASELINES)
"""The one ResNet-20 that the paper trained three times: the only sight of its noise between trainings."""


class Curves(Mapping[str, Mapping[int, float]]):
    """A training's curves, epoch -> value; each is fetched when asked for, and the names are not known beforehand."""

    def __init__(self, fetch: Callable[[str], Iterable[tuple[int, float]]]) -> None:
        self._fetch = fetch
        self._known: dict[str, dict[int, float]] = {}

    def __getitem__(self, metric: str) -> Mapping[int, float]:
        if metric not in self._known:
            self._known[metric] = dict(self._fetch(metric))
        if not self._known[metric]:
            raise KeyError(metric)
        return self._known[metric]

    def __iter__(self) -> Iterator[str]:
        return (metric for metric, curve in self._known.items() if curve)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Values(Mapping[str, Sequence[float]]):
    """Curves without their epochs."""

    def __init__(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        self._curves = curves

    def __getitem__(self, metric: str) -> Sequence[float]:
        return list(self._curves[metric].values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves)

    def __len__(self) -> int:
        return len(self._curves)


class _Renamed(Mapping[str, NDArray[np.bool_]]):
    """Per-image correctness by column; it is fetched when the first one is asked for."""

    def __init__(self, names: Mapping[str, str], fetch: Callable[[], Mapping[str, NDArray[np.bool_]]]) -> None:
        self._names = names
        self._fetch = functools.cache(fetch)  # each asks for it again and again: verdicts read nothing else

    def __getitem__(self, column: str) -> NDArray[np.bool_]:
        return self._fetch()[self._names[column]]

    def __iter__(self) -> Iterator[str]:
        return (column for column, name in self._names.items() if name in self._fetch())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def along_epochs(curves: Sequence[Mapping[int, float]]) -> tuple[list[int], NDArray[np.float64]]:
    """Curves of several seeds beside each other, at the epochs that all of them have.

    A seed that is still training, or ended early, must not bend the mean of the others' later epochs.

    Args:
        curves: Epoch -> value, at least one.

    Returns:
        The epochs, and [curves, epochs] the values there.
    """
    epochs = sorted(set(curves[0]).intersection(*curves[1:]))
    return epochs, np.array([[curve[epoch] for epoch in epochs] for curve in curves])


def _nothing() -> dict[str, NDArray[Any]]:
    return {}


@dataclass(frozen=True)
class Trial:
    """What there is of one row with one seed, whatever has come of it.

    Attributes:
        part: What was planned.
        state: How far it is.
        metrics: What was measured, by the names that runs have (`accuracy_best/pgd20`); of all networks.
        at_end: The training's own metrics after its last epoch that are numbers of the table too (`energy/ratio`).
        problem: Why tables show nothing of it, or not all; None where they do.
        reason: Why it failed.
        lacking: Of a failed one that was trained, what could not be measured, by the names that plans have.
        trained: Whether its training reached its last epoch.
        reached: The last epoch trained, -1 without any; None: the curves tell.
        curves: Metric of the training -> epoch -> value.
        correct: Gives run name -> [N] bool, which test images were classified correctly.
        arrays: Gives `<analysis as plans have it>/<array>` -> array.
        device: On what it was measured; empty where that is not known.
    """

    part: TrialPart
    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    at_end: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None
    reason: str | None = None
    lacking: tuple[str, ...] = ()
    trained: bool = False
    reached: int | None = None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    correct: Callable[[], Mapping[str, NDArray[np.bool_]]] = _nothing
    arrays: Callable[[], Mapping[str, NDArray[Any]]] = _nothing
    device: str = ""

    @property
    def epoch(self) -> int:
        """The last epoch trained; -1 without any."""
        return max(self.curves.get(EVERY_EPOCH, {}), default=-1) if self.reached is None else self.reached

    @property
    def gap(self) -> str | None:
        """What failed beside numbers that are good: `transfer failed: ...`; None where all or nothing is there."""
        if self.state != "failed" or not self.trained or not self.metrics:
            return None
        return failure_words(self.lacking or ("a measurement",), self.reason)

    def measured(self, network: Network) -> bool:
        """Whether there are accuracies of a network."""
        return any(metric.accuracy and metric.network == network for metric in map(Metric.from_run, self.metrics))

    @property
    def _images(self) -> int:
        """Test images behind an accuracy of which nothing else tells: of some only `measurement.images`."""
        asked = self.part.spec.get("measurement", {}).get("images")
        return min(self.part.data.test_count, asked or self.part.data.test_count)

    def outcome(self, network: Network) -> Outcome:
        """Its numbers in the form that tables and verdicts are made from."""
        numbers = {**self.at_end, **self.metrics}
        names = columns_of(numbers, network)
        return Outcome(
            training_key=self.part.training,
            values={name: numbers[metric] for name, metric in names.items()},
            correct=_Renamed({name: metric for name, metric in names.items() if is_accuracy(name)}, self.correct),
            test_key=self.part.data.test_digest,
            images=self._images,
            curves=_Values(self.curves),
        )


def columns_of(metrics: Iterable[str], network: Network = "last") -> dict[str, str]:
    """How claims and tables call the metrics of a run.

    Args:
        metrics: As runs have them: `accuracy/pgd20`, `accuracy_adaptive_best/pgd20`, `energy/ratio` ...
        network: Whose numbers.

    Returns:
        Name -> metric: `pgd20`, `adaptive/pgd20`, `energy/ratio`; the other network's are left out.
    """
    found: dict[str, str] = {}
    for run_name in metrics:
        metric = Metric.from_run(run_name)
        if metric.network == network and (metric.accuracy or network != "last"):
            found[metric.name] = run_name
        elif (
            metric.network == "last"
            and not metric.accuracy
            and (network == "last" or metric.name.startswith(OF_LAST_EPOCH))
        ):
            found.setdefault(metric.name, run_name)
    return found


@dataclass(frozen=True)
class Outcome:
    """What one row with one seed gave.

    Attributes:
        training_key: Which training the numbers were measured on; rows with the same one share the network.
        values: Metric -> value; accuracies in percent.
        correct: Accuracy metric -> [N] bool, which test images were classified correctly, in the test set's order.
        test_key: Which test set; images are paired only between equal ones.
        images: How many test images, for accuracies whose `correct` was not kept.
        curves: Metric -> its value at each epoch, in order.
    """

    training_key: str
    values: Mapping[str, float]
    correct: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    test_key: str = ""
    images: int | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """Where MLflow shows what results are made of.

    Attributes:
        experiment: Id of the space's experiment.
        trials: (row label, seed) -> id of its run.
        published: Row label -> id of the run with its published numbers.
        view: The key of the view of its rows in MLflow's UI; empty where there is none.
    """

    experiment: str
    trials: Mapping[tuple[str, int], str]
    published: Mapping[str, str]
    view: str = ""


def _none_left_out() -> list[str]:
    return []


@dataclass(frozen=True)
class Results:
    """The outcomes of one table, and where there is a plan, everything that was asked for.

    Attributes:
        outcomes: (row label, seed) -> outcome.
        problems: (row label, seed) -> why there is no outcome ("failed: loss became nan in epoch 3", "not trained",
            "not measured").
        gaps: (row label, seed) -> what failed of an outcome that is there ("transfer failed: ...").
        noise: Repetitions of one training from elsewhere, whose spread stands for the noise between trainings;
            empty: the noise is that of the outcomes themselves.
        plan: The part of a plan that is about one space; None of numbers without one, as published ones are.
        trials: (row label, seed) -> everything there is of it, in the plan's order.
        network: Whose numbers the outcomes are.
        place: Where the numbers lie, for the caption, where there are others elsewhere.
        runs: Where MLflow shows them; None of numbers that come from elsewhere.
        replications: (row label, seed) -> how its training came out when it was trained again, each time.
        left_out: Gives what of them is not shown, a sentence each; what is fetched late is compared then, so ask last.
    """

    outcomes: Mapping[tuple[str, int], Outcome]
    problems: Mapping[tuple[str, int], str] = field(default_factory=dict)
    noise: tuple[Mapping[str, float], ...] = ()
    plan: PlanFile | None = None
    trials: Mapping[tuple[str, int], Trial] = field(default_factory=dict)
    network: Network = "last"
    place: str = ""
    runs: Runs | None = None
    replications: Mapping[tuple[str, int], Sequence[Replication]] = field(default_factory=dict)
    left_out: Callable[[], Sequence[str]] = _none_left_out
    gaps: Mapping[tuple[str, int], str] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: PlanFile, trials: Mapping[tuple[str, int], Trial], network: Network = "last") -> Results:
        """The results of one space's plan.

        Args:
            plan: With this space alone.
            trials: (row label, seed) -> what there is of it.
            network: Whose numbers are wanted.

        Returns:
            Only rows and seeds that are finished have an outcome; of others a part could be taken for the whole. So
            have those of which a measurement failed, without it.
        """
        gaps = {where: gap for where, trial in trials.items() if (gap := trial.gap) is not None}
        problems = {where: t.problem for where, t in trials.items() if t.problem is not None and where not in gaps}
        outcomes = {}
        for where, trial in trials.items():
            if where in problems:
                continue
            own = trial.part.spec.get("measurement", {}).get("network")  # then its numbers are of this one alone
            wanted = "last" if own == network else network
            if where in gaps and not trial.measured(wanted):
                problems[where] = f"failed: {trial.reason}"
                del gaps[where]
                continue
            if wanted != "last" and not trial.measured(wanted):
                lacking = f"no {wanted} network, which needs {needed_for(wanted)}"
                problems[where] = lacking if own is None else f"measured on its {own} network alone, not on {wanted}"
                continue
            outcomes[where] = trial.outcome(wanted)
        for row, why in plan.spaces[0].not_needed.items():
            problems |= {(row, seed): why for seed in plan.seeds if (row, seed) not in trials}
        return cls(outcomes, problems, (), plan, trials, network, gaps=gaps)

    @property
    def planned(self) -> PlanFile:
        """The plan, of results that have one."""
        assert self.plan is not None
        return self.plan

    @property
    def space(self) -> SpacePart:
        """The plan's space."""
        return self.planned.spaces[0]

    @property
    def claims(self) -> list[Claim]:
        """The claims of the plan's space, as they were when it was launched."""
        return [Claim.model_validate(claim) for claim in self.space.claims]

    @property
    def is_paper_data(self) -> bool:
        """Whether every trial used the paper's data set, so that published numbers compare."""
        return all(trial.part.data.paper for trial in self.trials.values())

    @property
    def bare(self) -> bool:
        """Whether there is nothing to show yet, neither a number nor a reason why there will be none."""
        return not self.outcomes and all(trial.state in ("missing", "training") for trial in self.trials.values())

    def rows(self) -> list[str]:
        """The labels that have an outcome, in order of appearance."""
        return list(dict.fromkeys(row for row, _ in self.outcomes))

    def of(self, row: str, metrics: Sequence[str] = ()) -> list[Outcome]:
        """The outcomes of a row that have all of some metrics, by seed.

        Args:
            row: Its label.
            metrics: What an outcome must have, as a finite number.

        Returns:
            In the order of the seeds.
        """
        found = sorted((seed, outcome) for (label, seed), outcome in self.outcomes.items() if label == row)
        return [outcome for _, outcome in found if all(math.isfinite(outcome.values.get(m, math.nan)) for m in metrics)]

    def values(self, row: str, metric: str) -> list[float]:
        """The finite values of a metric of a row, in the order of the seeds."""
        return [outcome.values[metric] for outcome in self.of(row, (metric,))]

    def reasons(self, row: str) -> list[str]:
        """Why outcomes of a row are missing, by seed: `seed 1: failed: ...`."""
        return [f"seed {seed}: {reason}" for (label, seed), reason in sorted(self.problems.items()) if label == row]

    def with_trends(self, metrics: Sequence[str]) -> Results:
        """The same results with each curve's trend over the epochs as one more value.

        Args:
            metrics: Curves.

        Returns:
            With `trend/<metric>` = Kendall's tau-b between epoch and value, in [-1, 1]; left out where a curve has
            fewer than three epochs.
        """
        outcomes = {}
        for key, outcome in self.outcomes.items():
            trends = {}
            for metric in metrics:
                curve = np.asarray(outcome.curves.get(metric, ()), dtype=float)
                if curve.size >= 3 and np.isfinite(curve).all():
                    tau = stats.kendalltau(np.arange(curve.size), curve).statistic
                    trends[TREND + metric] = 0.0 if math.isnan(tau) else float(tau)  # nan: the curve is constant
            outcomes[key] = dataclasses.replace(outcome, values={**outcome.values, **trends})
        return dataclasses.replace(self, outcomes=outcomes)


def published_results(
    published: Mapping[str, Mapping[str, float]],
    noise: Sequence[Mapping[str, float]] = PAPER_BASELINES,
) -> Results:
    """A published table in the form that claims are judged from.

    Every row counts as a training of its own, also where the paper measured one network at several degrees: what its
    trainings share cannot be told from one number each, and counting nothing as shared never narrows an interval.

    Args:
        published: Row label -> metric -> value in percent; rows without numbers are left out.
        noise: Repetitions of one training, for the noise between trainings.

    Returns:
        One outcome a row, under seed 0.
    """
    return Results(
        outcomes={
            (row, 0): Outcome(f"published {row}", dict(values), test_key="published", images=PAPER_TEST_IMAGES)
            for row, values in published.items()
            if values
        },
        noise=tuple(noise),
    )
