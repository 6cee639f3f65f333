"""A plan's results as plain data, for scripts: one form, whoever prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ablate.report import overfitting
from ablate.report.results import Results, Trial
from ablate.report.search import search_of, summary_as_json
from ablate.report.verdicts import masking, noise, rivals


def results_as_json(results: Sequence[Results], left_out: Sequence[str] | None = None) -> dict[str, Any]:
    """A plan's results.

    Args:
        results: Of each of the plan's spaces.
        left_out: What is not shown, a sentence each; none: as the results tell it.

    Returns:
        What `json.dumps` takes: the plan's id, and for each trial `space`, `row`, `seed`, `training`, `state`, `epoch`,
        `reason` of a failure, `lacking` where measurements alone failed, `metrics`: `accuracy/pgd20` and the like in
        percent, and what analyses found; of rows with held-out images `best_epochs`, the points of robust accuracy that
        the best epoch has more; of a search,
        `search` with its samples and the best of them.
    """
    plan = results[0].planned
    searches = [summary_as_json(search_of(each)) for each in results if each.space.search is not None]
    trials = [_trial(trial) for each in results for trial in each.trials.values()]
    if left_out is None:  # asked last: curves were compared on the way
        left_out = [told for each in results for told in each.left_out()]
    return {
        "id": plan.id,
        "preset": plan.preset,
        "overrides": list(plan.overrides),
        "seeds": list(plan.seeds),
        "trials": trials,
        "masked": masking.as_json(results),
        "rivals": rivals.as_json(results),
        "replications": [
            {"space": each.space.name, "row": row, "seed": seed, **dataclasses.asdict(again)}
            for each in results
            for (row, seed), found in each.replications.items()
            for again in found
        ],
        "noise": noise.as_json(results),
        "best_epochs": {each.space.name: found for each in results if (found := overfitting.as_json(each))},
        "left_out": list(left_out),
        **({"search": searches[0]} if searches else {}),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "space": trial.part.space,
        "row": trial.part.row,
        "seed": trial.part.seed,
        "training": trial.part.training,
        "state": trial.state,
        "epoch": trial.epoch,
        "reason": trial.reason,
        "metrics": dict(trial.metrics),
        **({"lacking": list(trial.lacking)} if trial.lacking else {}),
        **({"origin": trial.part.origin} if trial.part.origin else {}),
    }
