"""What MLflow's own pages show of a plan: the addresses of its table and of Compare, and which columns there are.

MLflow opens an experiment on a page for language models, and its table without a column for any metric. An address
with a shared view, which is a tag of the experiment, opens on a plan's rows, in the order of the report's table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ablate.storage.plans import PlanFile, SpacePart
from ablate.tracking.layout import PLACE, PLAN_RUN, ROW, SEED

VIEW = "mlflow.sharedViewState."
"""How the tag of an experiment begins that holds a view."""

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description, of a run and of an experiment."""

COMPARED = 30
"""So many runs at most are compared by one address: it has to fit on a screen."""

_LONGEST_VIEW = 4900
"""Of a tag's value, for every MLflow."""

_MOST_COLUMNS = 40

_ENERGY = "energy/ratio"

_WORKFLOW = "workflowType=machine_learning"
"""Without it MLflow may show its pages for language models."""


def view_key(plan: str, storage: str) -> str:
    """The key of a plan's view: the same plan in another storage has other runs.

    Args:
        plan: Its id.
        storage: Id of the storage; empty where none is known.
    """
    return "-".join(part for part in ("ablate", plan, storage.rpartition("-")[2]) if part)


def view_of(file: PlanFile, space: SpacePart, plan_run: str, names: Sequence[str]) -> str:
    """A view of a plan's rows, as the value of its tag.

    Args:
        file: The plan.
        space: One of its spaces.
        plan_run: The id of the plan's run in the space's experiment.
        names: Of the settings that vary.

    Returns:
        JSON that every MLflow with shared views reads, and that newer ones list by its name.
    """
    measured = dict.fromkeys(name for trial in file.trials if trial.space == space.name for name in trial.columns)
    wanted = [("metrics", name) for name in (*measured, _ENERGY)] + [("params", name) for name in (ROW, SEED, *names)]
    wanted = wanted[:_MOST_COLUMNS]
    columns = [_column(kind, name) for kind, name in [*wanted, ("attributes", "Dataset")]]
    state: dict[str, Any] = {
        "searchFilter": f"tags.`{PLAN_RUN}` = '{plan_run}'",
        "orderByKey": _column("tags", PLACE),
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {_column(kind, name): _width(name) for kind, name in wanted},
    }
    seeds = ", ".join(map(str, file.seeds))
    name = f"{space.name} · {file.preset} · seeds {seeds[:40]} · {file.id}"
    envelope = {"name": name, "createdAt": file.created_ms, "updatedAt": file.created_ms}
    while True:
        # The state twice: in the envelope of MLflow's saved views, and beside it for versions that know none.
        view = json.dumps({**envelope, "state": json.dumps(state), **state})
        if len(view) <= _LONGEST_VIEW or len(columns) <= 1:
            return view
        state["columnWidths"].pop(columns.pop(), None)


def runs_path(experiment: str, view: str = "") -> str:
    """Where MLflow's UI shows an experiment's runs, behind the server's address.

    Args:
        experiment: Its id.
        view: The key of a view that is there; empty: MLflow's own columns.

    Returns:
        `/#/experiments/...`.
    """
    shared = f"&viewStateShareKey={quote(view)}" if view else ""
    return f"/#/experiments/{quote(experiment)}/runs?{_WORKFLOW}{shared}"


def compare_path(experiment: str, runs: Sequence[str]) -> str:
    """Where MLflow's UI compares runs, behind the server's address.

    Returns:
        `/#/compare-runs?...`, without a character at which a terminal would end a link; empty where there are no runs.
    """
    if not runs:
        return ""
    return f"/#/compare-runs?runs={_listed(runs)}&experiments={_listed([experiment])}&{_WORKFLOW}"


def compared(trials: Mapping[tuple[str, int], str], published: Mapping[str, str], rows: Sequence[str]) -> list[str]:
    """The runs that Compare shows of a plan: its rows in order, each with its published numbers before ours.

    Args:
        trials: (row, seed) -> id of its run; a run without a metric would keep Compare from choosing one for its plot.
        published: Row -> id of the run with its published numbers.
        rows: In the order of the table.

    Returns:
        At most `COMPARED` ids: of every row as many seeds as there is room for.
    """
    ours: dict[str, list[str]] = {row: [] for row in rows}
    for (row, _), run in trials.items():
        ours.setdefault(row, []).append(run)
    rows = [row for row in rows if ours[row]] or rows  # rows that were not asked for have nothing to be compared with
    most = max((len(runs) for runs in ours.values()), default=0)
    lines: list[str] = []
    for seeds in range(1, most + 1):
        longer = [run for row in rows for run in [*([published[row]] if row in published else []), *ours[row][:seeds]]]
        if lines and len(longer) > COMPARED:
            break
        lines = longer
    return (lines or [published[row] for row in rows if row in published])[:COMPARED]


def described(space: SpacePart) -> str:
    """The description of a space's experiment, in Markdown."""
    table = f" (Table {space.table})" if space.table is not None else ""
    how = (
        "A run for each row and seed, and one with the published numbers of each row that has some (seed `published`); "
        "runs named by space, preset and plan hold the plan itself. Group by the parameter `row` and the tag "
        "`ablate.source` for means over seeds; `ablate.plan` tells launches of other settings apart."
    )
    parts = (f"**{space.title}**{table}", space.description, how)
    return "\n\n".join(part for part in parts if part)


TRAINING_NOTE = (
    "A run for each trained network, with its curves, all its settings and the final networks. Rows of several spaces "
    "share one where nothing that they train differs: their tag `ablate.training_run_id` names it."
)
REPORT_NOTE = "Pages that `python -m ablate.report --out` wrote, as artifacts."


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _width(name: str) -> int:
    """In pixels, so that a column's name can be read as a whole."""
    return max(100, 40 + 7 * len(name))


def _listed(ids: Sequence[str]) -> str:
    return quote(json.dumps(list(ids), separators=(",", ":")), safe=",")
