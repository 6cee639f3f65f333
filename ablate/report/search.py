"""A search's results from MLflow, and which of its parameters matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.report.search_results import SampleResult, SearchResults, State, summary_lines
from ablate.spaces.search import Parameter, SearchSpec
from ablate.tracking.reading import PlanResults

LEAST_SAMPLES = 6
"""Importances of fewer samples would be chance alone."""

_TREES = 100
_REPEATS = 8
_STATES: dict[str, State] = {"finished": "complete", "measuring": "complete", "stopped": "stopped", "failed": "failed"}


def search_of(plan: PlanResults) -> SearchResults:
    """A search's results, from its runs alone.

    Args:
        plan: From MLflow; of a space with `search`.

    Returns:
        The results, also of a search that goes on.
    """
    search = SearchSpec.model_validate(plan.space.search)
    values = {row.label: row.sample or {} for row in plan.rows}
    samples = []
    for (row, seed), trial in plan.trials.items():
        curves: dict[str, dict[int, float]] = {}
        for objective in search.objective:
            points = plan.curve(row, seed, objective.metric)
            curves[objective.metric] = {epoch: value for epoch, value in points if epoch > 0}
        state = _STATES.get(trial.tags.get("ablate.state", ""), "open")
        last = int(trial.part.spec["training"]["epochs"])
        reached = all(last in curve for curve in curves.values())
        state = "open" if state == "complete" and not reached else state
        objectives = tuple(curve[last] for curve in curves.values()) if state == "complete" else ()
        reason = trial.problem or "" if state == "failed" else ""
        samples.append(SampleResult(row, values[row], state, objectives, curves, trial.part.spec, reason))
    seeds = plan.plan.seeds
    return SearchResults(
        plan.space.name,
        plan.space.title,
        plan.info.id,
        plan.info.preset,
        seeds[0] if seeds else 0,
        ", ".join(plan.data_labels),
        search,
        samples,
    )


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


def importances(results: SearchResults, number: int = 0) -> Importances | None:
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


def shares_sentences(results: SearchResults) -> list[str]:
    """What matters, in words, an objective a line."""
    lines = []
    for number in range(len(results.search.objective)):
        found = importances(results, number)
        if found is not None:
            shares = ", ".join(f"{path} {100 * share:.0f} %" for path, share in found.shares.items())
            lines.append(f"What matters for {found.metric} ({found.samples} samples, epoch {found.epoch}): {shares}")
    return lines


def search_facts(plan: PlanResults) -> tuple[tuple[str, str], ...]:
    """Terms and descriptions for the report page; none of a space that is no search."""
    if plan.space.search is None:
        return ()
    results = search_of(plan)
    search = results.search
    how = f"{search.searcher}, scheduler {search.scheduler.name}"
    head, *best = summary_lines(results)
    name = f"{plan.space.name}_best.yaml"
    facts = [("Search", how), ("Samples", head)]
    if len(best) > 1:
        facts.append((best[0].rstrip(":"), "; ".join(line.strip() for line in best[1:])))
        facts.append(("To launch it", f"{name} beside this page: python -m ablate.launch --space {name} --seeds 0,1,2"))
    return tuple(facts)
