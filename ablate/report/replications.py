"""Whether a training comes out again: the same bits, or within what its row's seeds let expect, or not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from ablate.core.text import plural
from ablate.report.names import column_name
from ablate.spaces.metrics import Metric
from ablate.storage import replications
from ablate.storage.plans import TrialPart
from ablate.storage.records import Record
from ablate.storage.status import OF_THE_CLOCK, TrainingView
from ablate.storage.storage import Storage

Ending = Literal["the same bits", "inside", "outside", "cannot tell"]

CONFIDENCE = 0.95
"""Of the prediction interval of all columns of a row together."""

REPLICATED_TAG = "ablate.replicated"
"""How the training of a run came out again, as `to_tag` has it."""


@dataclass(frozen=True)
class Replication:
    """How one training came out again.

    Attributes:
        name: Of the replication in storage.
        ending: How it compares with what is there.
        n: Seeds of the row that the prediction interval is made from.
        outside: What lies outside of it, in words.
        before: Device and versions of the training that is there.
        again: Of the new one.
    """

    name: str
    ending: Ending
    n: int
    outside: str = ""
    before: str = ""
    again: str = ""

    @property
    def words(self) -> str:
        """What is said of it, with devices and versions."""
        where = f"{self.before}, again on {self.again}" if self.before != self.again else f"both on {self.again}"
        return f"{self.ending_words} ({where})"

    @property
    def ending_words(self) -> str:
        """The same without devices and versions."""
        interval = f"the 95 % prediction interval of the row's {self.n} seeds"
        told = {
            "the same bits": "the same bits",
            "inside": f"inside {interval}",
            "outside": f"outside {interval}: {self.outside}",
            "cannot tell": f"not the same bits; cannot tell more (n = {self.n})",
        }
        return told[self.ending]


def replications_of(storage: Storage, row: Sequence[TrialPart]) -> dict[int, list[Replication]]:
    """How the trainings of a row came out again.

    Args:
        storage: Of the row.
        row: Every seed of it.

    Returns:
        Seed -> each time, the first one first; seeds that were not trained again are absent.
    """
    return _of_row(storage, row, replications.of_trainings(storage, [part.training for part in row]))


def replications_by_trial(storage: Storage, parts: Iterable[TrialPart]) -> dict[tuple[str, int], list[Replication]]:
    """The same of every row of a space.

    Args:
        storage: Of the rows.
        parts: Of one space, every seed of each row.

    Returns:
        (row, seed) -> each time, the first one first.
    """
    rows: dict[str, list[TrialPart]] = {}
    for part in parts:
        rows.setdefault(part.row, []).append(part)
    again = replications.of_trainings(storage, [part.training for of_row in rows.values() for part in of_row])
    found = {row: _of_row(storage, of_row, again) for row, of_row in rows.items()}
    return {(row, seed): times for row, of_row in found.items() for seed, times in of_row.items()}


def _of_row(
    storage: Storage, row: Sequence[TrialPart], again: Mapping[str, Sequence[tuple[str, Storage, TrainingView]]]
) -> dict[int, list[Replication]]:
    if not any(again[part.training] for part in row):
        return {}
    there = [_records(storage, storage.view(part.training), part) for part in row]
    values = [_values(part, before) for part, before in zip(row, there, strict=True)]
    found: dict[int, list[Replication]] = {}
    for part, before in zip(row, there, strict=True):
        for name, inner, view in again[part.training]:
            records = _records(inner, view, part)
            if records.keys() == before.keys() == part.required:
                same = _same(before, records) and _curves(storage, part) == _curves(inner, part)
                found.setdefault(part.seed, []).append(_compared(name, part, before, records, same, values))
    return found


def _compared(
    name: str,
    part: TrialPart,
    before: Mapping[str, Record],
    again: Mapping[str, Record],
    same: bool,
    values: Sequence[Mapping[str, float]],
) -> Replication:
    made = Replication(name, "the same bits", 0, before=_made_on(before), again=_made_on(again))
    whole = [seed for seed in values if seed.keys() >= part.columns.keys()]
    if same:
        return dataclasses.replace(made, n=len(whole))
    if len(whole) < 2:
        return dataclasses.replace(made, ending="cannot tell", n=len(whole))
    outside = []
    level = (1 - CONFIDENCE) / max(1, len(part.columns))
    for metric, key in part.columns.items():
        numbers = np.asarray([seed[metric] for seed in whole])
        correct = again[key].correct  # of some columns `measurement.images` alone
        step = 100.0 / (part.data.test_count if correct is None else correct.size)  # a variance is one image at least
        spread = math.sqrt(max(float(numbers.var(ddof=1)), step**2) * (1 + 1 / len(numbers)))
        half = float(stats.t.isf(level / 2, len(numbers) - 1)) * spread
        value, mean = again[key].scalars["accuracy"], float(numbers.mean())
        if abs(value - mean) > half:
            named = column_name(Metric.from_run(metric).name)
            outside.append(f"{named} {value:.2f}, expected {mean - half:.2f} to {mean + half:.2f}")
    ending: Ending = "outside" if outside else "inside"
    return dataclasses.replace(made, ending=ending, n=len(whole), outside="; ".join(outside))


def _records(storage: Storage, view: TrainingView, part: TrialPart) -> dict[str, Record]:
    found = {key: storage.record(view, key) for key in part.required}
    return {key: record for key, record in found.items() if record is not None}


def _values(part: TrialPart, records: Mapping[str, Record]) -> dict[str, float]:
    return {metric: records[key].scalars["accuracy"] for metric, key in part.columns.items() if key in records}


def _same(before: Mapping[str, Record], again: Mapping[str, Record]) -> bool:
    """Whether every number and every array of all measurements is the same."""
    return all(
        record.scalars == again[key].scalars
        and record.arrays.keys() == again[key].arrays.keys()
        and all(np.array_equal(array, again[key].arrays[name]) for name, array in record.arrays.items())
        for key, record in before.items()
    )


def _curves(storage: Storage, part: TrialPart) -> list[tuple[int, dict[str, float]]]:
    history = storage.history(part.training)
    return [
        (int(entry["epoch"]), {name: value for name, value in entry["metrics"].items() if name not in OF_THE_CLOCK})
        for entry in history
    ]


def _made_on(records: Mapping[str, Record]) -> str:
    return " and ".join(sorted({_device(record.meta) for record in records.values()}))


def _device(meta: Mapping[str, Any]) -> str:
    device = str(meta.get("device", "an unknown device"))
    threads = int(meta.get("threads", 0))
    if device == "cpu" and threads:  # sums hang on them in their last bits
        device += f" ({plural(threads, 'thread')})"
    return f"{device}, torch {meta.get('torch', 'unknown')}"


def row_note(of_row: Mapping[int, Sequence[Replication]]) -> str:
    """What a table says of a row below itself: how often it was replicated, and with what outcome; empty for never."""
    count = sum(map(len, of_row.values()))
    if not count:
        return ""
    told = [f"seed {seed} {each.ending_words}" for seed, found in sorted(of_row.items()) for each in found]
    return f"replicated {plural(count, 'time')}: {'; '.join(dict.fromkeys(told))}"


def to_tag(found: Sequence[Replication]) -> str | None:
    """The replications of a training as the tag of a run; None without any."""
    return json.dumps([dataclasses.asdict(each) for each in found]) if found else None


def from_tag(text: str | None) -> list[Replication]:
    """What `to_tag` wrote; nothing of a tag that was edited."""
    try:
        return [Replication(**each) for each in json.loads(text or "[]")]
    except (ValueError, TypeError):
        return []
