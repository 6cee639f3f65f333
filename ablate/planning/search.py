"""A search as it goes on: which configuration is next, how each ended, and what is kept of it.

    <storage>/searches/<plan>.json     the samples asked for, in their order, and the time spent
    <storage>/searches/<plan>.db       with `searcher: optuna` and a local storage: the study

A sample is recorded before it is trained, so that a search that was killed takes up what it had begun. How it ended is
read from its training in storage: nothing that a training has told is kept twice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ablate.errors import StorageError
from ablate.randomness import stream
from ablate.samples import Sample
from ablate.sealing import seal, unseal
from ablate.search_space import MOST_SAMPLES, SearchSpec
from ablate.storage import Storage, TrainingView, reaches

LAYOUT = 1
"""Of the records; a newer one than this is refused by name."""


@dataclass(frozen=True)
class Told:
    """How a sample ended.

    Args:
        state: `complete`: trained to its last epoch; `stopped`: early; `failed`: with a reason.
        values: Of the objectives after the last epoch, in their order; empty unless complete.
        curve: Epoch -> value of the first objective.
        epoch: The last one trained.
        reason: Why it failed.
    """

    state: Literal["complete", "stopped", "failed"]
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)
    epoch: int = 0
    reason: str = ""


def told(view: TrainingView, history: Sequence[Mapping[str, Any]], search: SearchSpec) -> Told | None:
    """How a sample has ended, from its training in storage.

    Args:
        view: Of the training.
        history: Of the training.
        search: For its objectives.

    Returns:
        None where it has not ended.
    """
    metrics = [objective.metric for objective in search.objective]
    curve = {
        int(entry["epoch"]): float(entry["metrics"][metrics[0]])
        for entry in history
        if entry["epoch"] > 0 and metrics[0] in entry["metrics"]
    }
    if view.finished:
        last = history[-1]["metrics"] if history and reaches(history, view.epoch) else {}
        missing = [metric for metric in metrics if metric not in last]
        if missing:
            return Told("failed", epoch=view.epoch, reason=f"its history has no {missing[0]}")
        return Told("complete", tuple(float(last[metric]) for metric in metrics), curve, view.epoch)
    if view.failure is not None:
        return Told("failed", curve=curve, epoch=max(0, view.epoch), reason=str(view.failure["reason"]))
    if view.stopped is not None:
        return Told("stopped", curve=curve, epoch=view.stopped)
    return None


class Sampler(Protocol):
    """Chooses configurations."""

    def values(self, number: int) -> dict[str, Any] | None:
        """The configuration of a sample; None where there are no more."""

    def tell(self, number: int, result: Told) -> None:
        """Learn how a sample ended."""


class RandomSampler:
    """Each sample is a function of the search's seed and its number: there is nothing to keep.

    A parameter added to the space leaves the values of the others as they were.

    Args:
        search: What to search.
    """

    def __init__(self, search: SearchSpec) -> None:
        self._search = search

    def values(self, number: int) -> dict[str, Any] | None:
        """The configuration of a sample."""
        chosen: dict[str, Any] = {}
        for path in self._search.order():
            parameter = self._search.parameters[path]
            if parameter.active(chosen):
                chosen[path] = parameter.at(stream(self._search.seed, f"search:{path}", number) / 2**63)
        return chosen

    def tell(self, number: int, result: Told) -> None:
        """Chance learns nothing."""


class GridSampler:
    """Every configuration once.

    Args:
        search: With parameters of finitely many values.
    """

    def __init__(self, search: SearchSpec) -> None:
        started = [_key(values) for values in search.start]
        self._start = len(started)
        left = (values for values in search.grid() if _key(values) not in started)
        # So many as are asked for: a grid may be larger than memory.
        self._points = list(itertools.islice(left, search.samples or MOST_SAMPLES))

    def values(self, number: int) -> dict[str, Any] | None:
        """The configuration of a sample; those to start from are no part of what is left."""
        place = number - self._start
        return dict(self._points[place]) if place < len(self._points) else None

    def tell(self, number: int, result: Told) -> None:
        """The grid stays as it is."""


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))


class Search:
    """The state of one search: its samples so far, and the sampler that chooses the next.

    Args:
        search: What to search.
        plan: The plan's id, by which it is found again.
        storage: Where its records are.
        readonly: Neither write records nor open a study.
    """

    def __init__(self, search: SearchSpec, plan: str, storage: Storage, *, readonly: bool = False) -> None:
        self.spec = search
        self._storage = storage
        self._path = f"searches/{plan}.json"
        self.samples: list[Sample] = []
        self.stopped: set[int] = set()
        """Numbers of the samples that this search stopped early, for good."""
        self.spent_s = 0.0
        self._read()
        self._sampler: Sampler | None = None
        if search.searcher == "grid":
            self._sampler = GridSampler(search)
        elif search.searcher == "random":
            self._sampler = RandomSampler(search)
        elif not readonly:
            from ablate.studies import StudySampler

            self._sampler = StudySampler(search, plan, storage, self.samples)

    @property
    def limit(self) -> int | None:
        """How many samples there are to be; None where time alone limits them."""
        return self.spec.samples

    def ask(self) -> Sample | None:
        """The next sample, recorded before it is returned.

        Returns:
            None where all have been asked for.

        Raises:
            StorageError: It cannot be recorded.
        """
        sample = self.foreseen(len(self.samples))
        if sample is None:
            return None
        self.samples.append(sample)
        self.save()
        return sample

    def foreseen(self, number: int) -> Sample | None:
        """The sample of a number, without asking for it.

        Args:
            number: Of the sample.

        Returns:
            None where there is no such sample, or where it hangs on how others end and is not known yet.
        """
        if number < len(self.samples):
            return self.samples[number]
        if self.limit is not None and number >= self.limit:
            return None
        if self._sampler is None:
            return None
        if number < len(self.spec.start) and self.spec.searcher != "optuna":
            return Sample(number, dict(self.spec.start[number]))
        values = self._sampler.values(number)
        return None if values is None else Sample(number, values)

    def tell(self, sample: Sample, result: Told) -> None:
        """Say how a sample ended; again is no harm.

        Args:
            sample: One of `samples`.
            result: How it ended.
        """
        if self._sampler is not None:
            self._sampler.tell(sample.number, result)

    def save(self) -> None:
        """Write the records."""
        content = {
            "layout": LAYOUT,
            "spent_s": self.spent_s,
            "stopped": sorted(self.stopped),
            "samples": [{"number": sample.number, "values": dict(sample.values)} for sample in self.samples],
        }
        self._storage.files.write(self._path, json.dumps(seal(content), indent=1).encode())

    def _read(self) -> None:
        content = self._storage.files.read(self._path)
        if content is None:
            return
        where = f"{self._storage.location}/{self._path}"
        try:
            found = unseal(content)
            layout = found["layout"]
            if layout == LAYOUT:
                self.samples = [Sample(int(entry["number"]), entry["values"]) for entry in found["samples"]]
                self.stopped = {int(number) for number in found["stopped"]}
                self.spent_s = float(found["spent_s"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise StorageError(f"{where}: expected the records of a search, got {what}") from error
        if layout != LAYOUT:
            raise StorageError(f"{where}: expected search layout {LAYOUT}, got {layout}; use the version that wrote it")
