"""Verdicts: does a claim hold in a table, fail, or is there not enough evidence?

A claim is one or more comparisons. Each has an effect with an interval from Student's t, and a region where the claim
says it lies: it *holds* where the whole interval lies inside, *fails* where the whole interval lies outside, else there
is not enough evidence. `within` is thus two one-sided tests (TOST): equivalence, not mere non-significance.
Several comparisons are corrected by Holm's procedure, and each interval has the confidence that its step asks for. A
claim holds where every comparison does and fails where any does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.report.results import Results, published_results
from ablate.report.verdicts.contrasts import Contrast, contrasts
from ablate.report.verdicts.decisions import (
    MOST_TRAININGS,
    half_width,
    holm,
    images_forbid,
    p_value,
    trainings_to_decide,
)
from ablate.report.verdicts.evidence import Estimate, estimate
from ablate.spaces.claims import Claim, Trend
from ablate.spaces.presets import decides_claims

Decision = Literal["holds", "fails", "not enough evidence"]
HOLDS: Decision = "holds"
FAILS: Decision = "fails"
UNDECIDED: Decision = "not enough evidence"

ALPHA = 0.05
"""How often a claim may be decided wrongly, in either direction together."""

MOST_REASONS = 3
"""A verdict names no more reasons than this; each comparison has its own."""


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim.

    Attributes:
        words: What is compared, e.g. `128 - 512, PGD-20`.
        verdict: holds, fails, or not enough evidence.
        effect: In the metric's unit (points for accuracies); nan where there are no numbers.
        low: Lower end of the interval; nan where there is none.
        high: Upper end.
        confidence: Of the interval, e.g. 0.95; higher where Holm's procedure asks for more.
        p: Holm-adjusted p-value of the decision; nan where there is none.
        n: Row -> number of trainings used.
        df: Degrees of freedom.
        test: The test, in words.
        reason: What keeps it from deciding; None where it decided.
        n_to_decide: Trainings a row that would decide it with probability 0.8; None where decided, not known, or none
            would.
        signed: Whether the effect is a difference, shown with its sign.
    """

    words: str
    verdict: Decision
    effect: float
    low: float
    high: float
    confidence: float
    p: float
    n: Mapping[str, int]
    df: float
    test: str
    reason: str | None = None
    n_to_decide: int | None = None
    signed: bool = True

    def sentence(self) -> str:
        """The comparison in one line: effect, interval, n, and what is missing."""
        counts = sorted(set(self.n.values()))
        n = f", n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "") if counts else ""
        parts = [f"{self.words}:"]
        form = "+.2f" if self.signed else ".2f"
        if not math.isnan(self.effect):
            parts.append(f"{self.effect:{form}}")
        if not math.isnan(self.low):
            parts.append(f"({_percent(self.confidence)} interval {self.low:{form}} to {self.high:{form}}{n})")
        elif n:
            parts.append(f"({n[2:]})")
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
        n_to_decide: Trainings a row that would decide it; None where decided, not known, or none would.
    """

    claim: Claim
    verdict: Decision
    comparisons: tuple[Comparison, ...]
    test: str
    reason: str | None = None
    n_to_decide: int | None = None

    def sentence(self) -> str:
        """The verdict in one line, with the counts of what held and failed where there are several."""
        if len(self.comparisons) == 1:
            return self.comparisons[0].sentence()
        counts = {kind: sum(c.verdict == kind for c in self.comparisons) for kind in (HOLDS, FAILS, UNDECIDED)}
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        why = f"; {self.reason}" if self.reason else ""
        return f"{self.verdict} ({len(self.comparisons)} comparisons: {told}){why}"


def judge_all(
    claims: Iterable[Claim], results: Results, rows: Sequence[str] | None = None, alpha: float = ALPHA
) -> list[Verdict]:
    """The verdict on each claim; arguments as of `judge`."""
    return [judge(claim, results, rows=rows, alpha=alpha) for claim in claims]


def verdicts_of(results: Results) -> list[tuple[Verdict, Verdict | None]]:
    """Each claim's verdict on our table, and on the published one, where there is one.

    Args:
        results: Of a plan.

    Returns:
        (ours, published) in the order of the claims; none for a preset whose trainings are too short to say
        anything.
    """
    if not decides_claims(results.planned.preset):
        return []
    claims, rows = results.claims, [row.label for row in results.planned.spaces[0].rows]
    ours = judge_all(claims, results, rows=rows)
    if not any(results.published.values()):
        return [(verdict, None) for verdict in ours]
    published = judge_all(claims, published_results(results.published), rows=rows)
    return list(zip(ours, published, strict=True))


def judge(claim: Claim, results: Results, rows: Sequence[str] | None = None, alpha: float = ALPHA) -> Verdict:
    """The verdict of a table on a claim.

    Args:
        claim: The claim.
        results: The table: ours, or `published_results(...)`.
        rows: All row labels of the space, for `best` without `among`; none: the rows that have results.
        alpha: How often the claim may be decided wrongly.

    Returns:
        The verdict with its comparisons.
    """
    if isinstance(claim.statement, Trend):
        results = results.with_trends(claim.statement.metrics)
    asked = contrasts(claim, rows if rows is not None else results.rows())
    if not asked:
        return Verdict(claim, UNDECIDED, (), "none", reason="there is no other row to compare with")
    comparisons = tuple(_compare(asked, [estimate(c.weights, results) for c in asked], alpha))
    verdicts = {comparison.verdict for comparison in comparisons}
    verdict = FAILS if FAILS in verdicts else UNDECIDED if UNDECIDED in verdicts else HOLDS
    tests = "; ".join(dict.fromkeys(comparison.test for comparison in comparisons if comparison.test))
    if verdict != UNDECIDED:
        return Verdict(claim, verdict, comparisons, tests)
    n_to_decide = _claims_n(asked, comparisons)
    if len(comparisons) > 1 and n_to_decide is not None:
        reason = f"about {n_to_decide} seeds a row would decide it"
    else:
        # Where some comparisons can be decided by more seeds and others cannot, it is these that leave the claim open.
        reasons = list(dict.fromkeys(c.reason for c in comparisons if c.reason is not None and c.n_to_decide is None))
        reasons = reasons or [c.reason for c in comparisons if c.reason is not None]
        reason = "; ".join(reasons[:MOST_REASONS])
        reason += f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return Verdict(claim, verdict, comparisons, tests or "none", reason=reason, n_to_decide=n_to_decide)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _compare(asked: Sequence[Contrast], estimates: Sequence[Estimate], alpha: float) -> list[Comparison]:
    """Every comparison with its verdict, corrected by Holm's procedure over those that can be tested."""
    raw = {i: p_value(c, e) for i, (c, e) in enumerate(zip(asked, estimates, strict=True)) if e.problem is None}
    levels, adjusted = holm(raw, alpha)
    return [
        _comparison(contrast, found, (len(raw), len(asked)), alpha, levels.get(index), adjusted.get(index))
        for index, (contrast, found) in enumerate(zip(asked, estimates, strict=True))
    ]


def _comparison(
    contrast: Contrast, found: Estimate, counts: tuple[int, int], alpha: float, level: float | None, p: float | None
) -> Comparison:
    tested, asked = counts
    test = _test_words(contrast, found, tested)
    if level is None or p is None:
        n = trainings_to_decide(contrast, found, alpha / asked) if found.noise else None
        advice = "; at least 2 seeds a row are needed" if found.counts and not n else ""
        reason = f"{found.problem}{advice}" + (f"; about {n} seeds a row would decide it" if n else "")
        none = math.nan
        return Comparison(
            contrast.words, UNDECIDED, found.effect, none, none, 1 - alpha, none, found.counts, none, "", reason, n,
            contrast.signed,
        )  # fmt: skip
    half, df = half_width(found, level)
    low, high = found.effect - half, found.effect + half
    # On the region's very edge nothing is decided, as the p-value has it; decided by the p-value, then, not the ends.
    decided = p <= alpha
    inside = contrast.low < found.effect < contrast.high
    verdict = UNDECIDED if not decided else HOLDS if inside else FAILS
    n = None if decided or found.exact else trainings_to_decide(contrast, found, alpha / asked)
    why = None if decided else _why(contrast, found, n, alpha / asked)
    return Comparison(
        contrast.words, verdict, found.effect, low, high, 1 - level, p, found.counts, df, test, why, n,
        contrast.signed,
    )  # fmt: skip


def _why(contrast: Contrast, found: Estimate, n: int | None, level: float) -> str:
    few = "two seeds seldom decide; " if min(found.counts.values()) == 2 and not found.borrowed else ""
    if found.exact:
        on_edge = "the effect is exactly on the edge of the claim, without any spread"
        return on_edge if found.paired_rows else f"{few}without any spread between trainings its noise is not known"
    if n is not None:
        return f"{few}about {n} seeds a row would decide it"
    if found.images is not None and images_forbid(contrast, found, level):
        unpaired = "" if found.paired_images else " where images cannot be paired"
        return f"{few}more seeds would not decide it, {found.images} test images are too few{unpaired}"
    return f"{few}an effect so near the edge of the claim would take more than {MOST_TRAININGS} seeds a row"


def _claims_n(asked: Sequence[Contrast], comparisons: Sequence[Comparison]) -> int | None:
    """Trainings that would decide the claim: one comparison that seems to fail suffices, else all are needed."""
    open_ones = [(c, r) for c, r in zip(asked, comparisons, strict=True) if r.verdict == UNDECIDED]
    failing = [r.n_to_decide for c, r in open_ones if r.n_to_decide and not c.low < r.effect < c.high]
    if failing:
        return min(failing)
    counts = [r.n_to_decide for _, r in open_ones]
    return None if any(n is None for n in counts) else max(n for n in counts if n is not None)


def _test_words(contrast: Contrast, found: Estimate, tested: int) -> str:
    both = math.isfinite(contrast.low) and math.isfinite(contrast.high)
    kind = "two one-sided t tests (TOST)" if both else "t test"
    if found.borrowed:
        noise = "seed noise of the published baselines"
    elif found.paired_rows and len(found.noise) == 1:
        noise = "paired by shared training"
    else:
        noise = "seed noise pooled over the table's rows" + (" and by its own rows alone" if found.own else "")
        noise += ", paired where a training is shared" if found.paired_rows else ""
    words = f"{kind}, {noise}"
    if found.images is not None:
        images = f"{found.images} test images" + (", paired by image" if found.paired_images else ", binomial")
        words += f", test-set error of {images}"
    return words + (f", Holm over {tested} comparisons" if tested > 1 else "")
