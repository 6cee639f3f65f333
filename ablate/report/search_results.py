"""What a search has found: how each sample ended, the best, the Pareto front, and the best as a space of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ablate.core.text import plural
from ablate.spaces.search import SearchSpec
from ablate.spaces.specs import Spec, TrialSpec
from ablate.spaces.trials import format_value

if TYPE_CHECKING:
    from ablate.planning.plan import Plan
    from ablate.storage.storage import Storage

State = Literal["complete", "stopped", "failed", "open"]


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
class SearchResults:
    """A search with its samples.

    Args:
        space: The space's name.
        title: The space's title.
        plan: The plan's id.
        preset: Of the launch.
        seed: Of its trainings.
        data: How the data are called.
        search: What was searched.
        samples: In the order in which they were asked for.
    """

    space: str
    title: str
    plan: str
    preset: str
    seed: int
    data: str
    search: SearchSpec
    samples: Sequence[SampleResult]

    @property
    def complete(self) -> list[SampleResult]:
        """The samples that were trained to the end."""
        return [sample for sample in self.samples if sample.state == "complete"]

    @property
    def epochs(self) -> int:
        """Epochs trained in all."""
        return sum(sample.epoch for sample in self.samples)


def from_storage(plan: Plan, storage: Storage) -> SearchResults:
    """A search's results from storage.

    Args:
        plan: Of a search.
        storage: Where its trainings are.

    Returns:
        The results so far.
    """
    from ablate.planning.search import sample_end

    loaded = plan.spaces[0]
    search = loaded.space.search
    assert search is not None
    samples = []
    rows = {row.label: row for row in loaded.space.rows}
    for planned in plan.trials:
        history = storage.history(planned.training)
        ended = sample_end(storage.view(planned.training), history, search)
        curves: dict[str, dict[int, float]] = {
            objective.metric: {
                int(entry["epoch"]): float(entry["metrics"][objective.metric])
                for entry in history
                if entry["epoch"] > 0 and objective.metric in entry["metrics"]
            }
            for objective in search.objective
        }
        samples.append(
            SampleResult(
                planned.trial.label,
                rows[planned.trial.label].set,
                ended.state if ended else "open",
                ended.values if ended else (),
                curves,
                planned.trial.spec.model_dump(mode="json"),
                ended.reason if ended else "",
            )
        )
    data = ", ".join(dict.fromkeys(planned.data.label for planned in plan.trials))
    return SearchResults(loaded.name, loaded.space.title, plan.id, plan.preset, plan.seeds[0], data, search, samples)


def pareto_front(results: SearchResults) -> list[SampleResult]:
    """The complete samples that no other one beats: at least as good on every objective, and better on one.

    Args:
        results: Of a search.

    Returns:
        By the first objective, best first; with one objective, the best sample alone (the first of equals).
    """
    signs = [1.0 if objective.mode == "max" else -1.0 for objective in results.search.objective]

    def worth(sample: SampleResult) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, sample.objectives, strict=True))

    ranked = sorted(results.complete, key=worth, reverse=True)
    front: list[SampleResult] = []
    for sample in ranked:
        mine = worth(sample)
        if not any(all(theirs >= own for theirs, own in zip(worth(better), mine, strict=True)) for better in front):
            front.append(sample)
    return front


def best_space(results: SearchResults) -> str | None:
    """The best configuration, or the Pareto front, as a space file that can be launched with several seeds.

    Its trainings have the keys of the search's: what the search trained is not trained again.

    Args:
        results: Of a search.

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
        told = ", ".join(
            f"{objective.metric} {value:.2f}"
            for objective, value in zip(results.search.objective, sample.objectives, strict=True)
        )
        values = {path: value for path, value in own.items() if path not in shared}
        note = f"{told} in epoch {sample.epoch}"
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


def summary_lines(results: SearchResults) -> list[str]:
    """A search in words, for a terminal.

    Args:
        results: Of a search.

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
        reached = ", ".join(
            f"{objective.metric} {value:.2f}"
            for objective, value in zip(results.search.objective, sample.objectives, strict=True)
        )
        settings = ", ".join(f"{path}={format_value(value)}" for path, value in sample.values.items())
        lines.append(f"  {sample.label}: {reached} ({settings})")
    return lines


def summary_as_json(results: SearchResults) -> dict[str, Any]:
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
