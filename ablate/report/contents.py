"""What the report page says of results: tables, verdicts, figures, runs, and what it took."""

from __future__ import annotations

import re
import time
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ablate.core.text import duration, now_ms, plural
from ablate.report.figures.overview import pictures as overview_pictures
from ablate.report.figures.pictures import Picture, draw
from ablate.report.figures.search import pictures
from ablate.report.from_tracking import pages_of
from ablate.report.overfitting import ROBUST, robust_curve, validated
from ablate.report.page import Link, Missing, PageData, SpacePage
from ablate.report.results import Results, Runs, Trial
from ablate.report.search import search_facts, search_of
from ablate.report.tables import build_table, table_input
from ablate.report.verdicts.masking import second_verdicts
from ablate.report.verdicts.noise import table_noise
from ablate.report.verdicts.verdicts import verdicts_of
from ablate.spaces.figures import FigureData, RowData, figure_kind, figure_names
from ablate.spaces.metrics import from_array
from ablate.spaces.networks import Network, epoch_of, words
from ablate.storage.plans import PlanFile

_VERSIONS = ("ablate", "torch", "ray", "mlflow")


def figure_data(results: Results) -> FigureData:
    """What a plan's figures are drawn from: rows and seeds that are finished, or have an outcome.

    Returns:
        Arrays and scalars under the names without `_best`, whichever network they are of.
    """
    rows: dict[str, dict[int, RowData]] = {}
    for (row, seed), trial in results.trials.items():
        if trial.problem is None or (row, seed) in results.outcomes:
            every = trial.arrays()
            rows.setdefault(row, {})[seed] = RowData(
                _of_network(every, results.network),
                trial.outcome(results.network).values,
                _with_its_own(trial, results.network),
                {epoch: _of_network(every, network) for epoch, network in _epochs(trial, every)},
                trial.part.training,
                trial.part.spec,
            )
    return FigureData(rows, ", ".join(results.planned.data_labels))


def draw_all(results: Results) -> dict[str, Picture | Missing]:
    """The figures of any table (`ablate.report.figures.overview`), then those that the plan's space lists, and with
    held-out images that of robust overfitting.

    Returns:
        Name -> the picture, or why there is none; a figure that cannot be drawn spoils no other.
    """
    space = results.space
    if space.search is not None:
        return dict(pictures(search_of(results)))
    drawn: dict[str, Picture | Missing] = dict(overview_pictures(results))
    names = [*space.figures, *(("overfitting",) if validated(results) and "overfitting" not in space.figures else ())]
    if names:
        data = figure_data(results)
        drawn |= {name: _drawn(name, data) for name in names}
    return drawn


def _epochs(trial: Trial, arrays: Iterable[str]) -> list[tuple[int, Network]]:
    """The epochs whose networks have arrays, and what these call the network."""
    networks = dict.fromkeys(from_array(name)[1] for name in arrays)
    own = trial.part.spec.get("measurement", {}).get("network") or "last"
    last = trial.part.spec.get("training", {}).get("epochs")
    found: dict[int, Network] = {}
    for network in networks:
        meant = own if network == "last" else network
        epoch = last if meant == "last" else epoch_of(meant)
        if epoch is not None:
            found.setdefault(int(epoch), network)
    return sorted(found.items())


def _with_its_own(trial: Trial, network: Network) -> Mapping[str, Mapping[int, float]]:
    """A trial's curves; that of robust accuracy is of the average where the row is about it."""
    robust = robust_curve(trial, network)
    if robust is None or robust == trial.curves.get(ROBUST):
        return trial.curves
    return ChainMap({ROBUST: dict(robust)}, trial.curves)  # type: ignore[arg-type]


def _drawn(name: str, data: FigureData) -> Picture | Missing:
    if name not in figure_names():
        return Missing(f"Figure {name}", "its module is not loaded; name it with --import.")
    title = figure_kind(name).title
    title = f"Figure {name}: {title}" if name.isdecimal() else title  # numbers are the paper's
    try:
        picture = draw(name, data)
    except Exception as error:  # a user's own figure may raise anything
        return Missing(title, f"could not be drawn ({type(error).__name__}: {error}).")
    return picture or Missing(title, "no row has been measured for it yet.")


def page_of(
    plans: Sequence[Results], figures: Mapping[str, Mapping[str, Picture | Missing]], *, server: str | None = None,
    left_aside: Sequence[str] = (),
) -> PageData:  # fmt: skip
    """The whole page.

    Args:
        plans: One of each space, in the order of the page.
        figures: Space -> figure -> picture, from `draw_all`.
        server: Address of the MLflow server, if there is one that a browser reaches; runs are linked there.
        left_aside: What cannot be shown at all, from `Tracker.left_aside`.
    """
    facts = _facts(plans)  # reads curves, which may turn out to be others than were sent
    spaces = [space_page(plan, figures.get(plan.space.name, {}), server) for plan in plans]
    what = spaces[0].title if len(spaces) == 1 else plural(len(spaces), "space")
    return PageData(f"Ablation report: {what}", _day(now_ms()), facts, spaces, left_aside)


def space_page(results: Results, figures: Mapping[str, Picture | Missing], server: str | None = None) -> SpacePage:
    """What the page says of one space; as of `page_of`."""
    plan, space = results.planned, results.space
    given, verdicts = table_input(results), verdicts_of(results)
    table_label = () if space.table is None else (("Paper", f"Table {space.table}"),)
    settings = (("Settings", " ".join(plan.overrides)),) if plan.overrides else ()
    return SpacePage(
        name=space.name,
        title=space.title,
        description=space.description.rstrip("."),
        table=build_table(given),
        facts=(
            *table_label,
            ("Plan", f"{plan.id}, preset {plan.preset}"),
            ("Seeds", _seeds(plan)),
            ("Data", ", ".join(plan.data_labels)),
            ("Launched", _day(plan.launched_ms)),
            *settings,
            *search_facts(results),
        ),
        runs=_runs(results.runs, server) if results.runs is not None else None,
        verdicts=verdicts,
        second=second_verdicts(results, given.masked) if verdicts else {},
        noise=table_noise(results) if verdicts else None,
        verdict_note=_verdict_note(results),
        unjudged=() if verdicts else _counted(claim.says for claim in results.claims),
        figures=list(figures.values()),
        problems=[
            f"{row}, seed {seed}: {reason}"
            for (row, seed), reason in sorted([*results.problems.items(), *results.gaps.items()])
            if (row, seed) in results.trials and results.trials[row, seed].state != "stopped"
        ],
        left_out=list(results.left_out()),
        pages=_pages(results, server) if results.runs is not None else (),
    )


def _seeds(plan: PlanFile) -> str:
    return ", ".join(map(str, plan.seeds))


def _verdict_note(results: Results) -> str:
    claims = len(results.claims)
    if not claims:
        return ""
    preset = results.planned.preset
    if not results.planned.judges_claims:
        return f"None on {plural(claims, 'claim')}: the {preset} preset trains too briefly to decide any."
    data = " and ".join(results.planned.data_labels)
    whose = "the paper's data" if results.is_paper_data else "not the paper's data"
    return f"Ours are about {data} ({whose}); published ones about the paper's table, judged by the same rules."


def _runs(runs: Runs, server: str | None) -> dict[tuple[str, str], list[Link]]:
    found: dict[tuple[str, str], list[Link]] = {}
    for (row, seed), run_id in runs.trials.items():
        link = _link(f"seed {seed}", run_id, runs.experiment, server)
        for source in ("ours", "ours, adaptive"):
            found.setdefault((row, source), []).append(link)
    for row, run_id in runs.published.items():
        found[row, "published"] = [_link("published", run_id, runs.experiment, server)]
    return found


def _link(text: str, run_id: str, experiment_id: str, server: str | None) -> Link:
    if server is None or not re.match(r"https?://", server):
        return Link(text, None, run_id)
    return Link(text, f"{_address(experiment_id, server)}/{quote(run_id)}", run_id)


def _pages(results: Results, server: str | None) -> list[Link]:
    if server is None or not re.match(r"https?://", server):
        return []
    words = ("Runs in MLflow", "Compare the rows in MLflow")
    paths = zip(words, pages_of(results), strict=True)
    return [Link(text, f"{server.rstrip('/')}{path}") for text, path in paths if path]


def _address(experiment_id: str, server: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs"


def _facts(plans: Sequence[Results]) -> list[tuple[str, str]]:
    trials = [trial for plan in plans for trial in plan.trials.values()]
    seconds = {trial.part.training: sum(trial.curves.get("seconds", {}).values()) for trial in trials}
    device_of = {trial.part.training: trial.device for trial in trials if trial.device}
    devices: dict[str, float] = {}
    for training, spent in seconds.items():
        device = device_of.get(training, "")
        devices[device] = devices.get(device, 0.0) + spent
    unmeasured = devices.pop("", 0.0)  # measurements alone tell where they were made
    trainings = {trial.part.training for trial in trials}
    alone = sum(seconds[trial.part.training] for trial in trials)
    more = duration(alone - sum(seconds.values()))
    finished = sum(trial.problem is None for trial in trials)
    spent_on = [f"{device}: {duration(spent)} of training" for device, spent in devices.items()]
    spent_on += [f"{duration(unmeasured)} of trainings without a measurement"] if unmeasured >= 0.5 else []
    return [
        ("Commit", _each(_commit(plan.planned.provenance) for plan in plans)),
        ("Trials", f"{finished} of {len(trials)} finished, in {plural(len(plans), 'space')}"),
        ("Seeds", _each(_seeds(plan.planned) for plan in plans)),
        ("Data", _each(label for plan in plans for label in plan.planned.data_labels)),
        ("Devices", "; ".join(spent_on) or "none yet"),
        (
            "Shared",
            f"{plural(len(trainings), 'training')} for {plural(len(trials), 'trial')}, "
            + (f"one for each would train {more} more" if len(trainings) < len(trials) else "so none is shared"),
        ),
        ("Networks", words(plans[0].network)),
        ("Versions", _each(_versions(plan.planned.provenance) for plan in plans)),
    ]


def _counted(sentences: Iterable[str]) -> list[str]:
    """Sentences in quotes, each once; claims that share one are counted behind it."""
    return [f"“{says}”" + (f", {count} claims" if count > 1 else "") for says, count in Counter(sentences).items()]


def _commit(provenance: Mapping[str, str]) -> str:
    commit = provenance.get("git_commit", "")
    if not commit:
        return "not a checkout"
    return commit[:12] + (" with local changes" if commit.endswith("+") else "")


def _versions(provenance: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {provenance[name]}" for name in _VERSIONS if name in provenance)


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _day(milliseconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(milliseconds / 1000))


def _of_network(arrays: Mapping[str, Any], network: Network) -> dict[str, Any]:
    found = {}
    for label, array in arrays.items():
        name, whose = from_array(label)
        if whose == network:
            found[name] = array
    return found
