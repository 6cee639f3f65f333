"""Verdicts: does a claim hold in a table, fail, or is there not enough evidence?

A claim is one or more comparisons. Each has an effect with an interval from Student's t, and a region where the claim
says it lies: it *holds* where the whole interval lies inside, *fails* where the whole interval lies outside, else there
is not enough evidence. `within` is thus two one-sided tests (TOST): equivalence, not mere non-significance.
A claim is decided at *looks*, numbers of seeds that its space names beforehand: a look uses the first so many seeds of
the claim's own rows and nothing else, and what one has decided stands. The error is spent over the looks, and at each
shared by Holm's procedure among all comparisons that are open. A claim holds where every comparison does and fails
where any does.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.core.text import aside, listed, shown
from ablate.report.results import Results, published_results
from ablate.report.verdicts.contrasts import Contrast, contrasts
from ablate.report.verdicts.decisions import (
    ALPHA,
    MOST_SEEDS,
    Standing,
    half_width,
    images_forbid,
    levels,
    look_to_decide,
    seeds_beyond,
    smallest_level,
)
from ablate.report.verdicts.evidence import Estimate, estimate, readable
from ablate.report.verdicts.looks import Look, walk
from ablate.spaces.claims import Claim, Trend
from ablate.spaces.looks import Design
from ablate.storage.plans import SpacePart
from ablate.storage.registrations import SHORT_DIGEST

Decision = Literal["holds", "fails", "not enough evidence"]
HOLDS: Decision = "holds"
FAILS: Decision = "fails"
UNDECIDED: Decision = "not enough evidence"
_DECISIONS: dict[int, Decision] = {1: HOLDS, -1: FAILS, 0: UNDECIDED}

MOST_REASONS = 3
"""A verdict names no more reasons than this; each comparison has its own."""
_MOST_NAMES = 5


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim.

    Attributes:
        words: What is compared, e.g. `128 - 512, PGD-20`.
        verdict: holds, fails, or not enough evidence.
        effect: In the metric's unit (points for accuracies); nan where there are no numbers.
        low: Lower end of the interval; nan where there is none.
        high: Upper end.
        confidence: Of the interval, e.g. 0.97: what its look and Holm's procedure leave it.
        p: p-value of the decision, adjusted for looks and comparisons: decided where it is at most 0.05; nan where
            there is none.
        n: Row -> number of trainings used.
        test: The test, in words.
        reason: What keeps it from deciding; None where it decided.
        n_to_decide: The first look left that would decide it with probability 0.8, in seeds a row; None where decided,
            not known, or none would.
        signed: Whether the effect is a difference, shown with its sign.
        look: At how many seeds it was decided; None where it is open.
        later: (seeds, effect) of all seeds there are, where they are more than its look has: an estimate.
        region: Where the claim says that the effect lies.
        unit: What the effect is in: `points` of accuracy, else a metric's readable name.
    """

    words: str
    verdict: Decision
    effect: float
    low: float
    high: float
    confidence: float
    p: float
    n: Mapping[str, int]
    test: str
    reason: str | None = None
    n_to_decide: int | None = None
    signed: bool = True
    look: int | None = None
    later: tuple[int, float] | None = None
    region: tuple[float, float] = (-math.inf, math.inf)
    unit: str = "points"

    def sentence(self) -> str:
        """The comparison in one line: effect, interval, n, and what is missing."""
        counts = sorted(set(self.n.values()))
        n = f", n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") if counts else ""
        parts = [f"{self.words}:"]
        digits = 2 if self.unit == "points" else 3  # as in tables
        form = f"{'+' if self.signed else ''}.{digits}f"
        if not math.isnan(self.effect):
            parts.append(f"{self.effect:{form}}")
        if not math.isnan(self.low):
            parts.append(f"({_percent(self.confidence)} interval {self.low:{form}} to {self.high:{form}}{n})")
        elif n:
            parts.append(f"({n[2:]})")
        if self.later is not None:
            parts.append(f"[{self.later[1]:{form}} with {self.later[0]} seeds]")
        return " ".join([*parts, self.verdict if self.reason is None else f"{self.verdict}: {self.reason}"])


@dataclass(frozen=True)
class Verdict:
    """What a table says about a claim.

    Attributes:
        claim: The claim.
        verdict: holds, fails, or not enough evidence.
        comparisons: What it rests on.
        test: The tests behind it, in words.
        reason: Why there is not enough evidence; None where it is decided.
        n_to_decide: The first look left that would decide it, in seeds a row; None where decided, not known, or none
            would.
        look: Seeds a row of the look that decided it, or of the last one taken; None before the first one.
        next_look: Seeds a row of the next look; None where it is decided or no look is left.
        looks: The same in words; empty where there are no looks, as in a published table.
        standing: Whether it was registered before its results were in, in words; empty where nobody asks.
    """

    claim: Claim
    verdict: Decision
    comparisons: tuple[Comparison, ...]
    test: str
    reason: str | None = None
    n_to_decide: int | None = None
    look: int | None = None
    next_look: int | None = None
    looks: str = ""
    standing: str = ""

    def sentence(self) -> str:
        """The verdict in one line, with the counts of what held and failed where there are several."""
        ending = "".join(f"; {told}" for told in (self.looks, self.standing) if told)
        if len(self.comparisons) == 1:
            return self.comparisons[0].sentence() + ending
        counts = {kind: sum(c.verdict == kind for c in self.comparisons) for kind in (HOLDS, FAILS, UNDECIDED)}
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        why = f"; {self.reason}" if self.reason else ""
        return f"{self.verdict} ({len(self.comparisons)} comparisons: {told}){why}{ending}"


def judge_all(
    claims: Iterable[Claim],
    results: Results,
    rows: Sequence[str] | None = None,
    design: Design | None = None,
) -> list[Verdict]:
    """The verdict on each claim; arguments as of `judge`."""
    return [judge(claim, results, rows=rows, design=design) for claim in claims]


def verdicts_of(results: Results) -> list[tuple[Verdict, Verdict | None]]:
    """Each claim's verdict on our table, and on the published one, where there is one.

    Returns:
        (ours, published) in the order of the claims; none for a preset whose trainings are too short to say
        anything.
    """
    if not results.planned.judges_claims:
        return []
    space = results.space
    claims, rows = results.claims, [row.label for row in space.rows]
    ours = [
        dataclasses.replace(verdict, standing=standing_of(space, number))
        for number, verdict in enumerate(judge_all(claims, results, rows=rows, design=space.design))
    ]
    if not any(space.published.values()):
        return [(verdict, None) for verdict in ours]
    published = judge_all(claims, published_results(space.published), rows=rows)
    return list(zip(ours, published, strict=True))


def standing_of(space: SpacePart, number: int, *, second: bool = False) -> str:
    """Whether a claim of a plan was registered before its results were in, in words.

    Args:
        space: Of the plan.
        number: The claim's.
        second: The one on masked columns is meant, and not the claim itself.
    """
    registered = space.registration
    if registered is None or number >= len(registered.claims):
        return "exploratory: it was never registered"
    if second and str(number) not in registered.second:
        return "exploratory: its claim was registered without it"
    found = registered.second[str(number)] if second else registered.claims[number]
    if not found.registered:
        return f"exploratory: {found.why}"
    day = time.strftime("%Y-%m-%d", time.gmtime(found.registered_ms / 1000))
    known = f"; {found.why}" if found.why else ""
    return f"registered {day} ({found.digest[:SHORT_DIGEST]}{known})"


def judge(
    claim: Claim,
    results: Results,
    rows: Sequence[str] | None = None,
    design: Design | None = None,
) -> Verdict:
    """The verdict of a table on a claim.

    Args:
        claim: The claim.
        results: The table: ours, or `published_results(...)`.
        rows: All row labels of the space, for `best` without `among`; none: the rows that have results.
        design: At which seeds it is decided; none: the usual looks.
    """
    if isinstance(claim.statement, Trend):
        results = results.with_trends(claim.statement.metrics)
    asked = contrasts(claim, rows if rows is not None else results.rows())
    if not asked:
        return Verdict(claim, UNDECIDED, (), "none", reason="there is no other row to compare with")
    course = _course(asked, results, design or Design())
    comparisons = tuple(course.comparison(index) for index in range(len(asked)))
    verdict = _DECISIONS[int(course.standing.claim)]
    tests = "; ".join(dict.fromkeys(comparison.test for comparison in comparisons if comparison.test))
    tests = "; ".join([tests or "none", *course.notes]) if course.notes else tests or "none"
    look, next_look = course.last, course.next_look
    if verdict != UNDECIDED:
        told = f"decided at {look} seeds" if look is not None else ""
        return Verdict(claim, verdict, comparisons, tests, look=look, looks=told)
    n_to_decide = None if course.failed else _claims_n(asked, comparisons)
    if course.failed:
        reason = course.failed
    elif len(comparisons) > 1 and n_to_decide is not None:
        reason = f"about {n_to_decide} seeds a row would decide it"
    else:
        # Where some comparisons can be decided by more seeds and others cannot, it is these that leave the claim open.
        left = [pair for pair in zip(asked, comparisons, strict=True) if pair[1].reason is not None]
        reasons = _reasons([pair for pair in left if pair[1].n_to_decide is None] or left, results)
        reason = "; ".join(shown(reasons, MOST_REASONS))
    return Verdict(
        claim, UNDECIDED, comparisons, tests, reason, n_to_decide, look, next_look, course.next_look_words()
    )  # fmt: skip


@dataclass(frozen=True)
class _Course:
    """A claim through the looks taken so far.

    Attributes:
        asked: Its comparisons.
        results: The table.
        design: Of the looks; None where there are none, as in a published table.
        taken: The looks that were taken.
        waiting: The next one; None where none is left.
        standing: What they came to.
        found: At each look taken, what is known of each comparison.
    """

    asked: Sequence[Contrast]
    results: Results
    design: Design | None
    taken: Sequence[Look]
    waiting: Look | None
    standing: Standing
    found: Sequence[Sequence[Estimate]]

    @property
    def failed(self) -> str | None:
        """What no more seeds answer; None where nothing is."""
        if self.waiting is None or self.waiting.failed is None or self.standing.claim != 0:
            return None
        rule = self.design.failures if self.design is not None else None
        advice = "; a space that says failures: worst, or exclude, beforehand has an answer to it"
        return self.waiting.failed + ("" if rule is not None else advice)

    @property
    def last(self) -> int | None:
        return self.taken[len(self.found) - 1].seeds if self.taken and self.found else None

    @property
    def next_look(self) -> int | None:
        return self.waiting.seeds if self.waiting is not None and self.standing.claim == 0 else None

    @property
    def notes(self) -> tuple[str, ...]:
        return self.taken[len(self.found) - 1].notes if self.taken and self.found else ()

    def next_look_words(self) -> str:
        """The looks in words, of a claim that is open."""
        if self.design is None:
            return ""
        if self.waiting is None:
            return f"that was the last look, at {self.last} seeds"
        which = "first" if self.last is None else "next"
        told = f"the {which} look is at {self.waiting.seeds} seeds"
        if not self.waiting.waits_for:
            return told
        return f"{told} and waits for {listed(self.waiting.waits_for, 1)}"

    def comparison(self, index: int) -> Comparison:
        contrast, at = self.asked[index], int(self.standing.look[index])
        everything = self._of_all_seeds(contrast)
        if not self.found:
            return self._unlooked(contrast, everything)
        found = self.found[at][index]
        level = float(self.standing.levels[index])
        verdict = _DECISIONS[int(self.standing.sides[index])]
        if found.problem is not None:
            n = None
            why: str | None = found.problem
            low = high = p = math.nan
        else:
            half = float(half_width(found, level))
            known = math.isfinite(half)
            low, high = (float(found.effect) - half, float(found.effect) + half) if known else (math.nan, math.nan)
            p = min(1.0, smallest_level(contrast, found) * ALPHA / level)
            n = None if verdict != UNDECIDED else self._n_to_decide(contrast, found)
            why = None if verdict != UNDECIDED else self._why(contrast, found, n)
        more = min(everything.counts.values(), default=0)
        used = min(found.counts.values(), default=0)
        later = (more, float(everything.effect)) if self.design is not None and more > used else None
        return Comparison(
            contrast.words, verdict, float(found.effect), low, high, 1 - level, p, found.counts,
            "" if found.problem is not None else self._test_words(contrast, found, at), why, n, contrast.signed,
            self.taken[at].seeds if verdict != UNDECIDED and self.taken else None, later,
            (contrast.low, contrast.high), contrast.unit,
        )  # fmt: skip

    def _of_all_seeds(self, contrast: Contrast) -> Estimate:
        return _estimate(contrast, self.results)

    def _unlooked(self, contrast: Contrast, found: Estimate) -> Comparison:
        """Before the first look: what there is, is an estimate."""
        n = self._n_to_decide(contrast, found) if found.noise else None
        told = [found.problem] if found.problem is not None else []
        told += [self._why(contrast, found, n)] if found.noise else []
        nan = math.nan
        level = levels(self.design.looks)[0] if self.design is not None else ALPHA
        reason = "; ".join(told) or "no look has been taken yet"
        return Comparison(
            contrast.words, UNDECIDED, float(found.effect), nan, nan, 1 - level, nan, found.counts, "", reason, n,
            contrast.signed, None, None, (contrast.low, contrast.high), contrast.unit,
        )  # fmt: skip

    def _shares(self) -> dict[int, float]:
        """The looks left, each with the level that a comparison has there for certain."""
        if self.design is None:
            return {}
        each = zip(self.design.looks, levels(self.design.looks), strict=True)
        return {seeds: level / len(self.asked) for seeds, level in each if seeds > (self.last or 0)}

    def _n_to_decide(self, contrast: Contrast, found: Estimate) -> int | None:
        shares = self._shares()
        return look_to_decide(contrast, found, list(shares), shares.__getitem__)

    def _why(self, contrast: Contrast, found: Estimate, n: int | None) -> str:
        if bool(found.mute):
            metric = next(iter(contrast.weights[found.mute_row or next(iter(contrast.weights))]))
            return (
                f"{metric} of {found.mute_row} is the same in every seed, so its noise is not known; does the seed act?"
            )
        if bool(found.same):
            return "the rows are the very same, exactly on the edge of the claim"
        if n is not None:
            return f"about {n} seeds a row would decide it"
        shares = self._shares()
        level = list(shares.values())[-1] if shares else ALPHA / len(self.asked)
        if found.images is not None and images_forbid(contrast, found, level):
            unpaired = "" if found.paired_images else " where images cannot be paired"
            return f"more seeds would not decide it, {found.images:,} test images are too few{unpaired}"
        beyond = seeds_beyond(contrast, found, level, self.design.looks) if self.design is not None else None
        if beyond is not None and self.design is not None:
            return f"about {beyond} seeds a row would decide it, beyond the last look at {self.design.looks[-1]}"
        return f"an effect so near the edge of the claim would take more than {MOST_SEEDS:,} seeds a row"

    def _test_words(self, contrast: Contrast, found: Estimate, at: int) -> str:
        both = math.isfinite(contrast.low) and math.isfinite(contrast.high)
        if found.borrowed:
            kind, noise = "t test", "seed noise of the published baselines"
        elif found.paired_rows and len(found.noise) == 1:
            kind, noise = "t test", "paired by shared training"
        elif len(found.noise) == 1:
            kind, noise = "t test", "seed noise of the row"
        else:
            kind, noise = "Welch's t test", "seed noise of its own rows"
            noise += "" if len(found.noise) == 2 else ", two by two"
        words = f"{f'two one-sided {kind}s (TOST)' if both else kind}, {noise}"
        if found.images is not None:
            images = f"{found.images:,} test images" + (", paired by image" if found.paired_images else ", binomial")
            words += f", test-set error of {images}"
        count = len(self.asked)
        words += f", Holm over {count} comparisons" if count > 1 else ""
        if self.design is None:
            return words
        looks = [str(seeds) for seeds in self.design.looks]
        level = levels(self.design.looks)[at if at >= 0 else len(self.found) - 1]  # open: the last one taken
        if len(looks) == 1:
            return f"{words}, a fixed design of {looks[0]} seeds"
        return f"{words}, at level {level:.3g} of looks at {', '.join(looks[:-1])} and {looks[-1]} seeds"


def _course(asked: Sequence[Contrast], results: Results, design: Design) -> _Course:
    if results.noise:  # a table of single numbers: it is looked at once
        known = [_estimate(contrast, results) for contrast in asked]
        standing = Standing.new(len(asked))
        standing.take(0, asked, known, ALPHA)
        return _Course(asked, results, None, (), None, standing, [known])
    found = walk(asked, results, design)
    return _Course(asked, results, design, found.taken, found.waiting, found.standing, found.found)


def _estimate(contrast: Contrast, results: Results) -> Estimate:
    """What all seeds there are say of a comparison."""
    table = {row: results.of(row, tuple(metrics)) for row, metrics in contrast.weights.items()}
    found = estimate(contrast.weights, table, results.noise)
    lacking = next((row for row in table if not table[row]), None)
    if lacking is None:
        return found
    return dataclasses.replace(found, problem=f"{found.problem}{_why_none(results, lacking)}")


def _why_none(results: Results, row: str) -> str:
    return f" {aside('; '.join(reasons))}" if (reasons := results.reasons(row)) else ""


def _reasons(left: Sequence[tuple[Contrast, Comparison]], results: Results) -> list[str]:
    """What keeps comparisons from deciding, each thing once: all that a row lacks is one of them."""
    lacking = [
        next((row for row, names in contrast.weights.items() if not results.of(row, tuple(names))), None)
        for contrast, _ in left
    ]
    found: dict[str, None] = {}
    for row, (_, comparison) in zip(lacking, left, strict=True):
        if row is None:
            found.setdefault(comparison.reason or "")
            continue
        together = (contrast.weights[row] for (contrast, _), other in zip(left, lacking, strict=True) if other == row)
        names = list(dict.fromkeys(readable(name) for each in together for name in each))
        found.setdefault(f"no {listed(names, _MOST_NAMES)} for {row!r}{_why_none(results, row)}")
    return list(found)


def _claims_n(asked: Sequence[Contrast], comparisons: Sequence[Comparison]) -> int | None:
    """The look that would decide the claim: one comparison that seems to fail suffices, else all are needed."""
    open_ones = [(c, r) for c, r in zip(asked, comparisons, strict=True) if r.verdict == UNDECIDED]
    failing = [r.n_to_decide for c, r in open_ones if r.n_to_decide and not c.low < r.effect < c.high]
    if failing:
        return min(failing)
    counts = [r.n_to_decide for _, r in open_ones]
    return None if any(n is None for n in counts) else max(n for n in counts if n is not None)


def _percent(share: float) -> str:
    """Three digits, and as many more as keep it from 100 %."""
    told = f"{100 * share:.3g}"
    if told == "100" and share < 1:
        told = f"{100 * share:.{-math.floor(math.log10(100 * (1 - share)))}f}"
    return f"{told} %"
