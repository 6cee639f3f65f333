"""What a bundle states of its records: every table, verdict and figure as numbers, and where two statements differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.report import from_storage
from ablate.report.contents import draw_all, figure_data
from ablate.report.figures.overview import PANELS
from ablate.report.figures.pictures import Picture, numbers_alone
from ablate.report.results import Results
from ablate.report.serialization import results_as_json
from ablate.report.tables import Table, build_table, table_input
from ablate.report.verdicts.masking import second_verdicts
from ablate.report.verdicts.verdicts import Verdict, verdicts_of
from ablate.spaces.metrics import Metric
from ablate.storage.plans import PlanFile
from ablate.storage.storage import Storage

TOLERANCE = 1e-6
"""Of a number and of what it is recomputed to, relative: other versions of SciPy add up in another order."""

_WORDS = ("sentence", "who_is_right", "left_out", "replications")
"""Of JSON: wording is a version's own, and replications lie beside a storage."""


def results_in(plan: PlanFile, storage: Storage) -> list[Results]:
    """What a storage holds of each space of a plan, without what lies beside it."""
    return [replace(each, replications={}) for each in from_storage.all_results(plan, storage)]


def statement_of(results: Results) -> dict[str, Any]:
    """Everything that a report says of a space in numbers, as plain data.

    Args:
        results: Of the networks after the last epoch; others come beside them.
    """
    tables = {network: _table(build_table(table_input(each))) for network, each in by_network(results)}
    judged = verdicts_of(results) if results.planned.judges_claims else []
    masked = table_input(results).masked
    found = {name: value for name, value in results_as_json([results]).items() if name not in _WORDS}
    trials = {
        f"{trial['row']}, seed {trial['seed']}": {k: v for k, v in trial.items() if k not in ("space", "row", "seed")}
        for trial in found.pop("trials")
    }
    with numbers_alone():
        drawn = {name: True for name, picture in draw_all(results).items() if isinstance(picture, Picture)}
    second = second_verdicts(results, masked) if judged else {}
    said: dict[str, Any] = {
        "tables": tables,
        "verdicts": {ours.claim.says: _verdict(ours) for ours, _ in judged},
        "published": {ours.claim.says: _verdict(other) for ours, other in judged if other is not None},
        "second": {str(number): _verdict(each) for number, each in second.items()},
        "figures": drawn,
        "shown": _figure_inputs(results),
        "trials": trials,
        **found,
    }
    return dict(plain(said))


def _figure_inputs(results: Results) -> dict[str, Any]:
    """What figures are drawn from, row by row: how they lie on paper is a version's own."""
    found = {}
    for row, seeds in figure_data(results).rows.items():
        for seed, seen in seeds.items():
            curves = {name: np.asarray(list(seen.curves[name].values())) for name in PANELS if name in seen.curves}
            arrays = {name: array for name, array in seen.arrays.items() if array.dtype.kind in "fiub"}
            found[f"{row}, seed {seed}"] = {name: summed(numbers) for name, numbers in (curves | arrays).items()}
    return found


def summed(numbers: NDArray[Any]) -> dict[str, Any]:
    """What a part of a figure shows, in a few numbers that are others as soon as one of its is."""
    flat = np.nan_to_num(numbers.astype(np.float64).ravel(), nan=0.0, posinf=0.0, neginf=0.0)
    size = float(np.sqrt(np.mean(np.square(flat)))) if flat.size else 0.0
    of_it = flat / size if size else flat  # sums that cancel hang on the last bits of what is summed
    return {
        "shape": list(numbers.shape),
        "size": size,
        "mean": float(of_it.mean()) if flat.size else 0.0,
        "weighted": float(np.mean(of_it * np.cos(np.arange(flat.size)))) if flat.size else 0.0,
    }


def by_network(results: Results) -> Iterator[tuple[str, Results]]:
    """The results of each network that was measured."""
    yield "last", results
    metrics = {name for trial in results.trials.values() for name in trial.metrics}
    others = {Metric.from_run(name).network for name in metrics} - {"last"}
    for network in sorted(others):
        assert results.plan is not None
        yield network, replace(Results.of_plan(results.plan, results.trials, network), replications={})


def _table(table: Table) -> dict[str, Any]:
    return {
        row.label: {
            line.source: {"n": line.n, "state": line.state}
            | {
                name: {k: v for k, v in dataclasses.asdict(cell).items() if v}
                for name, cell in line.cells.items()
                if name not in table.lead  # objectives are stated with their samples
            }
            for line in row.lines
        }
        for row in table.rows
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    decision = {name: getattr(verdict, name) for name in ("verdict", "look", "next_look", "n_to_decide")}
    compared = {}
    for each in verdict.comparisons:
        numbers = dataclasses.asdict(each)
        compared[each.words] = {k: v for k, v in numbers.items() if k not in ("words", "test", "reason")}
    return {**decision, "comparisons": compared}


def plain(value: Any) -> Any:
    """As JSON has it; what is no finite number is named."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def differences(stated: Any, found: Any, path: Sequence[str] = ()) -> Iterator[str]:
    """Where two statements differ.

    Args:
        stated: Plain data, what is said.
        found: Plain data, what the records give.
        path: Where both are.

    Yields:
        A line for each.
    """
    where = " · ".join(path)
    if isinstance(stated, dict) and isinstance(found, dict):
        for name in stated:  # what else there is was not stated: a later version may say more of the same records
            if name not in found:
                yield f"{where}: it states {name!r}, its records give nothing of it"
            else:
                yield from differences(stated[name], found[name], (*path, str(name)))
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for number, (one, other) in enumerate(zip(stated, found, strict=True), 1):
            yield from differences(one, other, (*path, str(number)))
    elif not _same(stated, found):
        yield f"{where}: it states {_shown(stated)}, its records give {_shown(found)}"


def _same(stated: Any, found: Any) -> bool:
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (stated, found))
    if numbers:
        return math.isclose(stated, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(stated) is type(found) and bool(stated == found)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:80]
