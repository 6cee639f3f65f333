"""What a search has found, how each sample ended, which parameters matter, and the best as a space of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from ablate.core.text import plural
from ablate.report.results import Results, Trial
from ablate.spaces.search import Parameter, SearchSpec
from ablate.spaces.settings import format_value
from ablate.spaces.specs import Spec, TrialSpec

State = Literal["complete", "stopped", "failed", "open"]

LEAST_SAMPLES = 6
"""Importances of fewer samples would be chance alone."""

_TREES = 100
_REPEATS = 8


@dataclass(frozen=True)
class SampleResult:
    """One sample and how it ended.

    Args:
        label: Of its row.
        values: Dotted path -> value, of the parameters searched in it.
        state: `complete`; `stopped` early; `failed`; `open`: not ended.
        objectives: After the last epoch, in the order of the search's; empty unless complete.
        curves: Metric -> epoch -> value, of the objectives.
        spec: The whole trial.
        reason: Why it failed.
    """

    label: str
    values: Mapping[str, Any]
    state: State
    objectives: tuple[float, ...] = ()
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def epoch(self) -> int:
        """The last epoch trained."""
        return max((epoch for curve in self.curves.values() for epoch in curve), default=0)


@dataclass(frozen=True)
class SearchSummary:
    """A view of a search's `Results`, made by `search_of`: its samples, and how each ended by the search's objectives.

    Args:
        space: The space's name.
        title: The space's title.
        plan: The plan's id.
        data: How the data are called.
        search: What was searched.
        samples: In the order in which they were asked for.
    """

    space: str
    title: str
    plan: str
    data: str
    search: SearchSpec
    samples: Sequence[SampleResult]

    @property
    def complete(self) -> list[SampleResult]:
        """The samples that were trained to the end."""
        return [sample for sample in self.samples if sample.state == "complete"]

    @property
    def ranked(self) -> list[SampleResult]:
        """The complete samples by the first objective, then by the second, best first."""
        return sorted(self.complete, key=self.worth, reverse=True)

    def reached(self, sample: SampleResult) -> str:
        """The objectives of a complete sample in words: `validation/robust 48.20`."""
        named = zip(self.search.objective, sample.objectives, strict=True)
        return ", ".join(f"{objective.metric} {value:.2f}" for objective, value in named)

    def worth(self, sample: SampleResult) -> tuple[float, ...]:
        """The objectives of a complete sample, so that more is better."""
        signs = [1.0 if objective.mode == "max" else -1.0 for objective in self.search.objective]
        return tuple(sign * value for sign, value in zip(signs, sample.objectives, strict=True))

    @property
    def epochs(self) -> int:
        """Epochs trained in all."""
        return sum(sample.epoch for sample in self.samples)


def search_of(results: Results) -> SearchSummary:
    """A search's samples, from its results wherever they were read.

    Args:
        results: Of a space with `search`, also of one that goes on.
    """
    plan = results.planned
    [space] = plan.spaces
    search = SearchSpec.model_validate(space.search)
    values = {row.label: row.sample or {} for row in space.rows}
    samples = []
    for (row, _), trial in results.trials.items():
        curves: dict[str, Mapping[int, float]] = {
            objective.metric: {e: value for e, value in trial.curves.get(objective.metric, {}).items() if e > 0}
            for objective in search.objective
        }
        state, objectives, reason = _end(trial, curves)
        samples.append(SampleResult(row, values[row], state, objectives, curves, trial.part.spec, reason))
    data = ", ".join(plan.data_labels)
    return SearchSummary(space.name, space.title, plan.id, data, search, samples)


def _end(trial: Trial, curves: Mapping[str, Mapping[int, float]]) -> tuple[State, tuple[float, ...], str]:
    """How a sample ended, its objectives, and why it failed."""
    last = int(trial.part.spec["training"]["epochs"])
    if trial.trained:
        missing = [metric for metric, curve in curves.items() if last not in curve]
        if not missing:
            return "complete", tuple(curve[last] for curve in curves.values()), ""
        return "failed", (), f"its history has no {missing[0]}"
    if trial.state == "failed":
        return "failed", (), trial.reason or ""
    return ("stopped" if trial.state == "stopped" else "open"), (), ""


def pareto_front(results: SearchSummary) -> list[SampleResult]:
    """The complete samples that no other one beats: at least as good on every objective, and better on one.

    Returns:
        By the first objective, best first; with one objective, the best sample alone (the first of equals).
    """
    front: list[SampleResult] = []
    for sample in results.ranked:
        mine, others = results.worth(sample), map(results.worth, front)
        if not any(all(theirs >= own for theirs, own in zip(other, mine, strict=True)) for other in others):
            front.append(sample)
    return front


def best_space(results: SearchSummary) -> str | None:
    """The best configuration, or the Pareto front, as a space file that can be launched with several seeds.

    Its trainings have the keys of the search's: what the search trained is not trained again.

    Returns:
        YAML; None where no sample is complete.
    """
    front = pareto_front(results)
    if not front:
        return None
    settings = [_settings(sample.spec) for sample in front]
    searched = {path for sample in front for path in sample.values}
    shared = {
        path: value
        for path, value in settings[0].items()
        if path not in searched and all(other.get(path) == value for other in settings)
    }
    rows = []
    for sample, own in zip(front, settings, strict=True):
        values = {path: value for path, value in own.items() if path not in shared}
        note = f"{results.reached(sample)} in epoch {sample.epoch}"
        rows.append({"label": sample.label, "note": note, "set": values | dict(sample.values)})
    content = {
        "title": f"Best of: {results.title}"[:200],
        "description": f"From plan {results.plan} of {results.space}, {results.data}, "
        f"{plural(len(results.complete), 'sample')} trained to the end",
        "base": shared,
        "rows": rows,
    }
    head = (
        f"# The best of the search {results.space}, chosen on the validation split alone. How it does on test images,\n"
        f"# and how much of it is luck: python -m ablate.launch --space {results.space}_best.yaml --seeds 0,1,2\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial that are not the defaults, by dotted path."""
    found: dict[str, Any] = {}

    def compare(given: Mapping[str, Any], default: Spec, prefix: str) -> None:
        for name, value in given.items():
            usual = getattr(default, name)
            if isinstance(value, Mapping) and isinstance(usual, Spec):
                compare(value, usual, f"{prefix}{name}.")
            elif value != _plain(usual):
                found[f"{prefix}{name}"] = value

    compare({name: value for name, value in spec.items() if name != "seed"}, TrialSpec(), "")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value.model_dump(mode="json") if isinstance(value, Spec) else value


def summary_lines(results: SearchSummary) -> list[str]:
    """A search in words, for a terminal.

    Returns:
        How the samples ended, and the best or the Pareto front with their settings.
    """
    counts = {state: sum(s.state == state for s in results.samples) for state in ("stopped", "failed", "open")}
    told = [f"{len(results.complete)} trained to the end"]
    told += [
        f"{count} {word}"
        for (_, count), word in zip(counts.items(), ("stopped early", "failed", "open"), strict=True)
        if count
    ]
    lines = [f"{plural(len(results.samples), 'sample')}: {', '.join(told)}; {plural(results.epochs, 'epoch')} in all"]
    front = pareto_front(results)
    if not front:
        return [*lines, "No sample is complete yet: nothing to choose from."]
    lines.append(
        "Best on the validation split:" if len(results.search.objective) == 1 else "Pareto front (validation):"
    )
    for sample in front:
        settings = ", ".join(f"{path}={format_value(value)}" for path, value in sample.values.items())
        lines.append(f"  {sample.label}: {results.reached(sample)} ({settings})")
    return lines


def summary_as_json(results: SearchSummary) -> dict[str, Any]:
    """A search as plain data, for scripts."""
    front = pareto_front(results)

    def plain(sample: SampleResult) -> dict[str, Any]:
        named = {
            objective.metric: value
            for objective, value in zip(results.search.objective, sample.objectives, strict=False)
        }
        return {"row": sample.label, "state": sample.state, "epoch": sample.epoch, "values": dict(sample.values)} | {
            "objectives": named
        }

    return {
        "objectives": [objective.model_dump() for objective in results.search.objective],
        "epochs": results.epochs,
        "samples": [plain(sample) for sample in results.samples],
        "best": [plain(sample) for sample in front],
    }


@dataclass(frozen=True)
class Importances:
    """How much each parameter matters.

    Args:
        shares: Dotted path -> share of what the parameters together explain; they sum to 1.
        metric: The objective they are about.
        epoch: After which it was compared.
        samples: How many had come so far.
    """

    shares: dict[str, float]
    metric: str
    epoch: int
    samples: int


def importances(results: SearchSummary, number: int = 0) -> Importances | None:
    """How much each parameter matters, by the permutation importance of a random forest.

    Samples that were stopped early count too: they are compared after the last epoch that half of the samples reached.

    Args:
        results: Of a search.
        number: Which objective.

    Returns:
        None of too few samples, or where they do not differ.

    Source: Breiman, Random Forests, 2001.
    """
    metric = results.search.objective[number].metric
    curves = [(sample, sample.curves.get(metric, {})) for sample in results.samples]
    curves = [(sample, curve) for sample, curve in curves if curve and all(map(math.isfinite, curve.values()))]
    if len(curves) < LEAST_SAMPLES:
        return None
    epoch = sorted((max(curve) for _, curve in curves), reverse=True)[max(LEAST_SAMPLES, len(curves) // 2) - 1]
    reached = [(sample, curve[epoch]) for sample, curve in curves if epoch in curve]
    target = np.array([value for _, value in reached])
    if len(reached) < LEAST_SAMPLES or np.ptp(target) == 0:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    paths = list(results.search.parameters)
    inputs = np.column_stack([coordinates(results.search.parameters[p], p, [s for s, _ in reached]) for p in paths])
    forest = RandomForestRegressor(n_estimators=_TREES, random_state=0).fit(inputs, target)
    found = permutation_importance(forest, inputs, target, n_repeats=_REPEATS, random_state=0)
    gains = np.maximum(found.importances_mean, 0.0)
    total = float(gains.sum())
    if total == 0:
        return None
    shares = {path: float(gain) / total for path, gain in zip(paths, gains, strict=True)}
    return Importances(dict(sorted(shares.items(), key=lambda item: -item[1])), metric, epoch, len(reached))


def coordinates(parameter: Parameter, path: str, samples: Sequence[SampleResult]) -> NDArray[np.float64]:
    """A parameter's values as numbers from 0 to 1, as far along its distribution as they are.

    Args:
        parameter: Its distribution.
        path: Its dotted path.
        samples: Whose values.

    Returns:
        [samples] float64; -0.25 where the parameter was not searched.
    """
    found = []
    for sample in samples:
        if path not in sample.values:
            found.append(-0.25)
            continue
        value = sample.values[path]
        if parameter.choice is not None:
            place = next(k for k, option in enumerate(parameter.choice) if repr(option) == repr(value))
            found.append(place / max(1, len(parameter.choice) - 1))
            continue
        low, high = parameter.bounds
        if parameter.loguniform is not None:
            low, high, value = math.log(low), math.log(high), math.log(value)
        found.append((value - low) / (high - low))
    return np.array(found)


def shares_sentences(results: SearchSummary) -> list[str]:
    """What matters, in words, an objective a line."""
    lines = []
    for number in range(len(results.search.objective)):
        found = importances(results, number)
        if found is not None:
            shares = ", ".join(f"{path} {100 * share:.0f} %" for path, share in found.shares.items())
            lines.append(f"What matters for {found.metric} ({found.samples} samples, epoch {found.epoch}): {shares}")
    return lines


def search_facts(plan: Results) -> tuple[tuple[str, str], ...]:
    """Terms and descriptions for the report page; none of a space that is no search."""
    if plan.space.search is None:
        return ()
    results = search_of(plan)
    search = results.search
    how = f"{search.searcher}, scheduler {search.scheduler.name}"
    head, *best = summary_lines(results)
    name = f"{results.space}_best.yaml"
    facts = [("Search", how), ("Samples", head)]
    if len(best) > 1:
        facts.append((best[0].rstrip(":"), "; ".join(line.strip() for line in best[1:])))
        facts.append(("To launch it", f"{name} beside this page: python -m ablate.launch --space {name} --seeds 0,1,2"))
    return tuple(facts)
