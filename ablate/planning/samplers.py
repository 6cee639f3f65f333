"""What chooses a search's configurations: chance, a grid, or an Optuna study.

Of a study, our records and the trainings in storage are the truth; the study is what Optuna makes of them. One that is
lost is made again, one that was killed between a suggestion and its record forgets the suggestion, and what ended
meanwhile is told. Samplers are made anew for each suggestion, seeded by its number: no state of theirs has to be kept.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ablate.core.errors import UserError
from ablate.core.randomness import stream
from ablate.spaces.search import MOST_SAMPLES, SearchSpec
from ablate.spaces.trials import Sample
from ablate.storage.files import LocalFiles
from ablate.storage.samples import SampleEnd
from ablate.storage.storage import Storage

_SAMPLE = "sample"


class Sampler(Protocol):
    """Chooses configurations."""

    def values(self, number: int) -> dict[str, Any] | None:
        """The configuration of a sample; None where there are no more."""

    def tell(self, number: int, result: SampleEnd) -> None:
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

    def tell(self, number: int, result: SampleEnd) -> None:
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

    def tell(self, number: int, result: SampleEnd) -> None:
        """The grid stays as it is."""


def _key(values: Mapping[str, Any]) -> str:
    return repr(sorted(values.items()))


class StudySampler:
    """TPE (arXiv 2304.11127), or NSGA-II with two objectives.

    Args:
        search: What to search.
        plan: Names the study.
        storage: With a local one the study is `searches/<plan>.db` in it; with a bucket it is made from the records at
            each launch.
        samples: Recorded so far.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, search: SearchSpec, plan: str, storage: Storage, samples: Sequence[Sample]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "searcher: expected the package optuna, got none; install it with pip install 'ablate[search]', or "
                "search with searcher: random"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").setLevel(logging.ERROR)
        self._optuna = optuna
        self._search = search
        self._study = optuna.create_study(
            storage=_address(storage, plan),
            study_name=plan,
            directions=[f"{objective.mode}imize" for objective in search.objective],
            load_if_exists=True,
        )
        self._trials: dict[int, Any] = {}
        self._reconcile(samples)

    def values(self, number: int) -> dict[str, Any] | None:
        """Suggest the configuration of a sample.

        Args:
            number: Of the sample; asked for again, the same suggestion.
        """
        if number not in self._trials:
            start = self._search.start
            self._begin(number, dict(start[number]) if number < len(start) else None)
        return self._suggested(self._trials[number])

    def tell(self, number: int, result: SampleEnd) -> None:
        """Tell the study how a sample ended; of one that has been told nothing changes."""
        if number not in self._trials:
            return
        trial, states = self._trials[number], self._optuna.trial.TrialState
        frozen = self._study.trials[trial.number]
        if frozen.state.is_finished():
            return
        if len(self._search.objective) == 1:
            for epoch, value in sorted(result.curve.items()):
                if epoch not in frozen.intermediate_values:
                    trial.report(value, epoch)
        if result.state == "complete":
            self._study.tell(trial.number, list(result.values))
        else:
            # A pruned trial counts by its last report; of two objectives none is stopped early.
            stopped = result.state == "stopped" and len(self._search.objective) == 1
            self._study.tell(trial.number, state=states.PRUNED if stopped else states.FAIL)

    def _reconcile(self, samples: Sequence[Sample]) -> None:
        recorded = {sample.number: sample for sample in samples}
        for frozen in self._study.trials:
            number = frozen.user_attrs.get(_SAMPLE)
            if number in recorded and number not in self._trials:
                self._trials[number] = self._optuna.trial.Trial(self._study, frozen._trial_id)
            elif not frozen.state.is_finished():
                self._study.tell(frozen.number, state=self._optuna.trial.TrialState.FAIL)
        for number, sample in sorted(recorded.items()):
            if number not in self._trials:
                self._begin(number, dict(sample.values))

    def _begin(self, number: int, fixed: dict[str, Any] | None) -> None:
        seed = stream(self._search.seed, "search:optuna", number) % 2**31
        samplers = self._optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which options of its own samplers Optuna finds experimental
            if len(self._search.objective) > 1:
                size = max(4, min(50, (self._search.samples or 50) // 4))
                self._study.sampler = samplers.NSGAIISampler(population_size=size, seed=seed)
            else:
                self._study.sampler = samplers.TPESampler(n_startup_trials=5, seed=seed)
        if fixed is not None:
            self._study.enqueue_trial(fixed, user_attrs={_SAMPLE: number})
        trial = self._study.ask()
        trial.set_user_attr(_SAMPLE, number)
        self._suggested(trial)
        self._trials[number] = trial

    def _suggested(self, trial: Any) -> dict[str, Any]:
        """A trial's values; Optuna draws each at its first time and remembers it."""
        chosen: dict[str, Any] = {}
        for path in self._search.order():
            parameter = self._search.parameters[path]
            if not parameter.active(chosen):
                continue
            if parameter.choice is not None:
                chosen[path] = trial.suggest_categorical(path, list(parameter.choice))
            elif parameter.randint is not None:
                chosen[path] = trial.suggest_int(path, *parameter.randint)
            elif parameter.quniform is not None:
                low, high, step = parameter.quniform
                chosen[path] = round(trial.suggest_float(path, low, high, step=step), 12)
            else:
                log = parameter.loguniform is not None
                chosen[path] = trial.suggest_float(path, *parameter.bounds, log=log)
        return chosen


def _address(storage: Storage, plan: str) -> str | None:
    if not isinstance(storage.files, LocalFiles):
        return None
    folder = Path(storage.files.root) / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / plan}.db"
