"""A storage's plans and trainings as plain data: states, ages, sizes, reasons; what differs between two of them."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ablate.core.errors import StorageError, nearest
from ablate.core.text import now_ms
from ablate.report.from_storage import live_state, state_of
from ablate.report.results import Results
from ablate.spaces.metrics import is_accuracy
from ablate.storage import leases
from ablate.storage.plans import PlanFile, TrialPart
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage

_CURRENT = "timestamp_ms"


@dataclass(frozen=True)
class TrialStatus:
    """One row with one seed.

    Attributes:
        space: Of the plan.
        row: Its label.
        seed: Of the training.
        training: Its key.
        state: finished, training, interrupted, waiting, stopped, failed or missing.
        epoch: The last one trained; -1 without any.
        epochs: How many it is to have.
        age_s: Since its last epoch, in seconds; None before one.
        reason: Why it failed.
        lacking: Of a failed one that was trained, what could not be measured, by the names that plans have.
        log: Where the log of its last attempt lies; empty before one.
        checkpoint_bytes: What `--prune` may drop of its training, which other trials may share.
        record_bytes: Everything else of it.
    """

    space: str
    row: str
    seed: int
    training: str
    state: str
    epoch: int
    epochs: int
    age_s: float | None
    reason: str | None
    lacking: tuple[str, ...]
    log: str
    checkpoint_bytes: int
    record_bytes: int


@dataclass(frozen=True)
class PlanStatus:
    """One plan.

    Attributes:
        id: Of the plan.
        spaces: Their names.
        preset: Of the launch.
        seeds: That were asked for.
        overrides: `--set` of the launch.
        launched_ms: When it was launched last.
        states: State -> how many trials.
        trials: In the plan's order.
        not_needed: `space/row` -> why it gets no more seeds, of a plan that goes on until claims are decided.
    """

    id: str
    spaces: tuple[str, ...]
    preset: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    launched_ms: int
    states: Mapping[str, int]
    trials: tuple[TrialStatus, ...] = field(repr=False)
    not_needed: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> tuple[int, int]:
        """As of `bytes_of`."""
        return bytes_of(self.trials)

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def bytes_of(trials: Iterable[TrialStatus]) -> tuple[int, int]:
    """What the trainings of some trials take, of checkpoints and of the rest; what trials share is counted once."""
    sizes = {trial.training: (trial.checkpoint_bytes, trial.record_bytes) for trial in trials}
    return sum(size for size, _ in sizes.values()), sum(size for _, size in sizes.values())


def plan_statuses(files: Iterable[PlanFile], storage: Storage) -> list[PlanStatus]:
    """How far plans are, from storage alone; a training that several trials share is looked at once.

    Args:
        files: The plans, as storage keeps them.
        storage: Where their trainings are.
    """
    kept = functools.cache(functools.partial(_kept, storage))
    found = []
    for plan in files:
        trials = tuple(
            _trial(part, storage, kept(part.training), of_search=space.search is not None)
            for space in plan.spaces
            for part in plan.of_space(space.name).trials
        )
        found.append(
            PlanStatus(
                plan.id,
                tuple(space.name for space in plan.spaces),
                plan.preset,
                tuple(plan.seeds),
                tuple(plan.overrides),
                plan.launched_ms,
                dict(Counter(trial.state for trial in trials)),
                trials,
                {f"{space.name}/{row}": why for space in plan.spaces for row, why in space.not_needed.items()},
            )
        )
    return found


class _Kept(NamedTuple):
    """What storage has of a training: its state, its age, the place of its log, and what it takes."""

    view: TrainingView
    age_s: float | None
    log: str
    checkpoint_bytes: int
    record_bytes: int


def _kept(storage: Storage, key: str) -> _Kept:
    history = storage.history(key)
    age = (now_ms() - history[-1][_CURRENT]) / 1000 if history and _CURRENT in history[-1] else None
    return _Kept(storage.view(key), age, storage.log_place(key), *storage.sizes(key))


def _trial(part: TrialPart, storage: Storage, kept: _Kept, *, of_search: bool) -> TrialStatus:
    known, reason = state_of(part, kept.view, of_search=of_search)
    undecided = known in ("training", "missing")
    state = live_state(known, undecided and leases.held(storage.files, part.training))
    return TrialStatus(
        part.space, part.row, part.seed, part.training, state, kept.view.epoch, part.epochs, kept.age_s, reason,
        tuple(part.lacking(kept.view)) if state == "failed" else (), kept.log, kept.checkpoint_bytes, kept.record_bytes,
    )  # fmt: skip


def find_trial(plan: PlanFile, row: str, seed: int | None = None) -> TrialPart:
    """A trial by its row's label, or by the beginning of its training's key.

    Args:
        plan: Where it is looked for.
        row: Label, or the first digits of a training key.
        seed: One of the plan's; none: the first that the row has.

    Raises:
        StorageError: There is none, or a beginning of several keys.
    """
    called = trials_called(plan, row)
    labelled = any(trial.row == row for trial in called)
    found = [trial for trial in called if seed is None or trial.seed == seed]
    if labelled and not found:
        seeds = sorted({trial.seed for trial in called})
        raise StorageError(f"--seed: expected one of row {row!r}, got {seed}; it has {', '.join(map(str, seeds))}")
    if not found:
        hint = nearest(row, dict.fromkeys(trial.row for trial in plan.trials))
        raise StorageError(f"expected the label of a row of plan {plan.id}, or a training's key, got {row!r}; {hint}")
    if not labelled and len({trial.training for trial in found}) > 1:
        raise StorageError(f"expected the beginning of one training's key, got {row!r}, which several begin with")
    return found[0]


def trials_called(plan: PlanFile, row: str) -> list[TrialPart]:
    """The trials with a row's label; without one of that name, those whose training's key begins with it."""
    labelled = [trial for trial in plan.trials if trial.row == row]
    return labelled or [trial for trial in plan.trials if len(row) >= 4 and trial.training.startswith(row)]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that two trials do not share: dotted path -> both values; None where one has no such setting."""
    left, right = dict(_flat(one)), dict(_flat(other))
    return {
        path: (left.get(path), right.get(path))
        for path in dict.fromkeys([*left, *right])
        if left.get(path) != right.get(path)
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@dataclass(frozen=True)
class Change:
    """How a number of a row differs between two plans.

    Attributes:
        row: Its label.
        metric: As tables have it.
        one: Mean over the seeds of the first plan.
        other: Of the second.
        error: Standard error of the difference of both means; None where a plan has one seed, or where both share a
            training, whose noise is then no difference.
    """

    row: str
    metric: str
    one: float
    other: float
    error: float | None

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.other - self.one


def compare(one: Results, other: Results) -> list[Change]:
    """What differs between two plans of a space, for rows and metrics that both have.

    Args:
        one: The results of a space in the first plan.
        other: In the second.

    Returns:
        In the order of the rows; accuracies before scalars.
    """
    found = []
    for row in one.rows():
        mine, theirs = one.of(row), other.of(row)
        names = dict.fromkeys(name for outcome in mine for name in outcome.values)
        shared = {each.training_key for each in mine} & {each.training_key for each in theirs}
        for metric in sorted(names, key=lambda name: not is_accuracy(name)):
            left, right = one.values(row, metric), other.values(row, metric)
            if left and right:
                several = min(len(left), len(right)) > 1 and not shared
                error = math.sqrt(_error(left) + _error(right)) if several else None
                found.append(Change(row, metric, float(np.mean(left)), float(np.mean(right)), error))
    return found


def _error(values: list[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)
