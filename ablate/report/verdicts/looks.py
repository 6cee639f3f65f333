"""From look to look: which numbers one is taken on, the first seeds of the rows that are still compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.core.text import aside, listed
from ablate.report.names import column_name
from ablate.report.results import Outcome, Results
from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.decisions import Standing, levels
from ablate.report.verdicts.evidence import Estimate, Table, estimate
from ablate.spaces.looks import Design
from ablate.spaces.metrics import is_accuracy

_FAILED = "failed: "
_DIVERGED = ("nan", "infinite")
_SHOWN = 3


@dataclass(frozen=True)
class Look:
    """One look at a claim.

    Attributes:
        seeds: How many a row it is at.
        table: The outcomes that it is taken on; None where it cannot be taken.
        failed: Why it can never be taken without a rule for failures; None where there is no such reason.
        waits_for: What it waits for, in words; empty where it is taken, or where more seeds are wanted than were asked
            for.
        notes: What the space's rule for failures did.
    """

    seeds: int
    table: Table | None
    failed: str | None = None
    waits_for: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def needs(asked: Sequence[Contrast]) -> dict[str, tuple[str, ...]]:
    """What a claim's comparisons need: row -> metrics."""
    found: dict[str, dict[str, None]] = {}
    for contrast in asked:
        for row, metrics in contrast.weights.items():
            found.setdefault(row, {}).update(dict.fromkeys(metrics))
    return {row: tuple(metrics) for row, metrics in found.items()}


@dataclass(frozen=True)
class Walk:
    """A claim from look to look.

    Attributes:
        looks: Those taken, and the next one, where there is one.
        standing: What they came to.
        found: At each look taken, what is known of each comparison.
    """

    looks: Sequence[Look]
    standing: Standing
    found: Sequence[Sequence[Estimate]]

    @property
    def taken(self) -> list[Look]:
        """The looks that were taken."""
        return [look for look in self.looks if look.table is not None]

    @property
    def waiting(self) -> Look | None:
        """The next one; None where the claim is decided, or none is left."""
        return self.looks[-1] if self.looks and self.looks[-1].table is None else None

    def open(self, asked: Sequence[Contrast]) -> list[Contrast]:
        """The comparisons that no look has decided."""
        return _open(asked, self.standing)


def walk(asked: Sequence[Contrast], results: Results, design: Design) -> Walk:
    """Take the looks at a claim, until it is decided or one cannot be taken.

    A look needs the rows of the comparisons that are open alone: nothing of the others is tested again.

    Args:
        asked: Its comparisons.
        results: Of all rows; those of others are not looked at.
        design: Of the space.
    """
    looks: list[Look] = []
    found: list[list[Estimate]] = []
    standing: Standing | None = None
    for number, (count, level) in enumerate(zip(design.looks, levels(design.looks), strict=True)):
        left = asked if standing is None else _open(asked, standing)
        look = _look(count, needs(left), results, design)
        looks.append(look)
        if look.table is None:
            break
        known = [estimate(contrast.weights, look.table) for contrast in asked]
        standing = standing or Standing.new(len(asked), np.broadcast_shapes(*(each.effect.shape for each in known)))
        standing.take(number, asked, known, level)
        found.append(known)
        if (standing.claim != 0).all():
            break
    return Walk(looks, standing or Standing.new(len(asked)), found)


def _open(asked: Sequence[Contrast], standing: Standing) -> list[Contrast]:
    return [contrast for contrast, side in zip(asked, standing.sides, strict=True) if (side == 0).any()]


def _look(count: int, rows: Mapping[str, tuple[str, ...]], results: Results, design: Design) -> Look:
    seeds = design.first(count)
    failed, waits, notes, left_out = [], [], [], set()
    table: dict[str, dict[int, Outcome]] = {row: {} for row in rows}
    whole = True
    for row, metrics in rows.items():
        for seed in seeds:
            outcome, problem = results.outcomes.get((row, seed)), results.problems.get((row, seed))
            gap = results.gaps.get((row, seed))
            reason = gap or (problem.removeprefix(_FAILED) if problem and problem.startswith(_FAILED) else None)
            if outcome is not None and has(outcome, metrics):
                table[row][seed] = outcome
            elif reason is not None:
                what = "diverged" if any(word in reason for word in _DIVERGED) else "failed"
                named = f"seed {seed} of {row} {what}"
                if design.failures == "exclude":
                    left_out.add(seed)
                    notes.append(f"{named} and is left out of all rows")
                elif design.failures == "worst" and all(map(is_accuracy, metrics)) and not _fit(results, row, seed):
                    table[row][seed] = _worst(results, row, seed, metrics)
                    notes.append(f"{named} and counts as accuracy 0")
                else:
                    failed.append(f"{named} {aside(reason)}")
                    if design.failures == "worst":
                        odd = next((metric for metric in metrics if not is_accuracy(metric)), None)
                        why = f"and {column_name(odd)} has no worst value" if odd else "though its training did not"
                        failed[-1] += f", {why}"
            elif outcome is not None:
                lacking = next(metric for metric in metrics if not has(outcome, (metric,)))
                waits.append(f"{column_name(lacking)} of {row}, seed {seed}")
            elif problem is not None:
                waits.append(f"seed {seed} of {row} {aside(problem)}")
            else:
                whole = False
    if failed:
        return Look(count, None, listed(failed, _SHOWN))
    if waits or not whole:
        return Look(count, None, waits_for=tuple(waits))
    kept = {row: [found[seed] for seed in seeds if seed not in left_out] for row, found in table.items()}
    return Look(count, kept, notes=tuple(dict.fromkeys(notes)))


def has(outcome: Outcome, metrics: Sequence[str]) -> bool:
    """Whether an outcome has all of some metrics, as finite numbers."""
    return all(metric in outcome.values and bool(np.isfinite(outcome.values[metric]).all()) for metric in metrics)


def _fit(results: Results, row: str, seed: int) -> bool:
    """Whether only measuring failed, of a network that was trained, and for no reason of its own: memory, a setting."""
    trial = results.trials.get((row, seed))
    return trial is not None and trial.trained and not any(word in (trial.reason or "") for word in _DIVERGED)


def _worst(results: Results, row: str, seed: int, metrics: Sequence[str]) -> Outcome:
    """A training that failed, as one that gets every image of its test set wrong."""
    trial = results.trials.get((row, seed))
    test_set = trial.part.data.test_digest if trial is not None else None
    alike = (o for (_, _), o in sorted(results.outcomes.items()) if test_set is None or o.test_key == test_set)
    like = next((outcome for outcome in alike if has(outcome, metrics)), None)
    correct = {m: np.zeros_like(like.correct[m]) for m in metrics if m in like.correct} if like is not None else {}
    key = trial.part.training if trial is not None else f"failed {row} {seed}"
    images = like.images if like is not None else None
    return Outcome(key, dict.fromkeys(metrics, 0.0), correct, like.test_key if like is not None else "", images)
