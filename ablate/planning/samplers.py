"""A searcher that learns: an Optuna study in a database of its own, reconciled with our records.

Our records and the trainings in storage are the truth; the study is what Optuna makes of them. A study that is lost is
made again, one that was killed between a suggestion and its record forgets the suggestion, and what ended meanwhile is
told. Samplers are made anew for each suggestion, seeded by its number: no state of theirs has to be kept.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.errors import UserError
from ablate.files import LocalFiles
from ablate.randomness import stream
from ablate.samples import Sample
from ablate.search_space import SearchSpec
from ablate.searching import Told
from ablate.storage import Storage

_SAMPLE = "sample"


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

        Returns:
            Its values.
        """
        if number not in self._trials:
            start = self._search.start
            self._begin(number, dict(start[number]) if number < len(start) else None)
        return self._suggested(self._trials[number])

    def tell(self, number: int, result: Told) -> None:
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
