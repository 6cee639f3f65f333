"""A search as it goes on: which configuration is next, how each ended, and what is kept of it.

    <storage>/searches/<plan>.json     the samples asked for, in their order, and the time spent
    <storage>/searches/<plan>.db       with `searcher: optuna` and a local storage: the study

A sample is recorded before it is trained, so that a search that was killed takes up what it had begun. How it ended is
read from its training in storage: nothing that a training has told is kept twice.
"""

from __future__ import annotations

import json

from ablate.core.errors import StorageError
from ablate.planning.samplers import GridSampler, RandomSampler, Sampler
from ablate.spaces.search import SearchSpec
from ablate.spaces.trials import Sample
from ablate.storage.checksums import seal, unseal
from ablate.storage.samples import SampleEnd
from ablate.storage.storage import Storage

LAYOUT = 1
"""Of the records; a newer one than this is refused by name."""


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
            from ablate.planning.samplers import StudySampler

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

    def tell(self, sample: Sample, result: SampleEnd) -> None:
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
