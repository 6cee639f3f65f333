"""What seeds can decide, told before they are trained: `--dry-run` shows it for each claim."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.core.text import plural
from ablate.launch.claim_progress import Question, questions_of
from ablate.launch.costs import hours_text
from ablate.planning.estimates import Estimate as Duration
from ablate.planning.plan import Plan
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import all_results
from ablate.report.results import PAPER_BASELINES, Results, published_results
from ablate.report.verdicts.contrasts import Contrast
from ablate.report.verdicts.decisions import POWER, levels, look_to_decide, power
from ablate.report.verdicts.evidence import Estimate, Noise, estimate
from ablate.report.verdicts.looks import needs
from ablate.spaces.claims import Claim, Trend
from ablate.storage.storage import Storage

_MOST_EFFECT = 1e4


@dataclass(frozen=True)
class PowerAnalysis:
    """What is foreseen of one claim, by the comparison that needs most seeds.

    Attributes:
        says: The claim's words.
        words: The comparison.
        effect: Assumed: what the space `expects`, else the published one; None where neither is there.
        effect_from: Where it comes from.
        noise: Assumed, between two trainings of the comparison; None where nobody knows.
        noise_from: Where it comes from.
        seeds: The first look that decides the claim with probability 0.8; None where none does, or nobody knows.
        hours: What so many seeds of its rows would take, nothing of it being there.
        first: Seeds a row of the first look: fewer decide nothing.
        asked: Seeds a row that the last look within the launch has; None where it reaches no look.
        smallest: The smallest distance from the claim's edge that these decide with probability 0.8.
        asked_hours: What they would take.
        unit: GPU-hours, or core-hours of a machine without one.
    """

    says: str
    words: str
    effect: float | None
    effect_from: str
    noise: float | None
    noise_from: str
    seeds: int | None
    hours: float | None
    first: int
    asked: int | None
    smallest: float | None
    asked_hours: float | None
    unit: str

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return self.effect is not None or self.noise is not None

    def sentence(self) -> str:
        """One line."""
        parts = [f"“{self.says}”: {self.words}"]
        parts.append(f"{self.effect_from} {self.effect:+.2f}" if self.effect is not None else "no effect is expected")
        if self.noise is None:
            return ", ".join([*parts, "its noise is not known yet"])
        parts.append(f"noise {self.noise:.2f} ({self.noise_from})")
        if self.effect is not None and self.seeds is None:
            parts.append("no look would decide it with 80 %")
        if self.seeds is not None:
            parts.append(f"{self.seeds} seeds a row decide it with 80 %{self._took(self.hours)}")
        if self.asked is None:
            parts.append(f"verdicts begin with {plural(self.first, 'seed')} a row")
        elif self.smallest is not None:
            told = f"{self.smallest:.2f} from its edge{self._took(self.asked_hours)}"
            parts.append(f"{plural(self.asked, 'seed')} decide {told}")
        return ", ".join(parts)

    def _took(self, hours: float | None) -> str:
        return "" if hours is None else f" ({hours_text(hours, self.unit)})"

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


def analyse_power(plan: Plan, storage: Storage, expected: Duration) -> list[PowerAnalysis]:
    """What the seeds of a plan can decide.

    Args:
        plan: Of tables.
        storage: Whose finished trainings tell the noise.
        expected: How long the plan takes.

    Returns:
        One for each of `questions_of`; none under a preset that decides none.
    """
    if plan.search or not plan.preset.preset.decides_claims or not any(s.space.claims for s in plan.spaces):
        return []
    left = len(plan.left())
    each = expected.device_hours / left if left else None
    unit = "GPU-hours" if expected.gpus else "core-hours"
    results = {found.space.name: found for found in all_results(plan_file_of(plan, {}), storage)}
    return [
        _of_claim(question, results[question.space], len(plan.seeds), each, unit)
        for question in questions_of(plan.spaces)
    ]


def in_short(claims: Sequence[PowerAnalysis]) -> str:
    """What is foreseen of many claims, in a few words."""
    reached = sum(each.asked is not None for each in claims)
    told = [
        f"{plural(len(claims), 'claim')}, of which these seeds reach a look of {f'{reached:,}' if reached else 'none'}"
    ]
    needed = Counter(each.seeds for each in claims if each.known and each.effect is not None)
    looks = sorted(seeds for seeds in needed if seeds is not None)
    decided = [f"{needed[seeds]:,} with {plural(seeds, 'seed')} a row" for seeds in looks]
    if decided:
        told.append(f"with 80 % would be decided {', '.join(decided)}")
    if needed[None]:
        told.append(f"{needed[None]:,} by no look")
    rest = len(claims) - needed.total()
    return "; ".join([*told, *([f"of {rest:,} nobody knows what to expect"] if rest else [])])


def _of_claim(question: Question, results: Results, seeds: int, each: float | None, unit: str) -> PowerAnalysis:
    claim, asked, design = question.claim, question.asked, question.design
    if isinstance(claim.statement, Trend):
        results = results.with_trends(claim.statement.metrics)
    shares = {n: level / len(asked) for n, level in zip(design.looks, levels(design.looks), strict=True)}
    within = max((n for n in design.looks if n <= seeds), default=None)
    rows = len(needs(asked))

    def hours(count: int | None) -> float | None:
        return None if each is None or count is None else each * rows * count

    told = []
    for contrast in asked:
        effect, effect_from = _effect(claim, contrast, results)
        known, noise_from = _noise(contrast, results)
        noise = needed = smallest = None
        if known is not None:
            noise = math.sqrt(sum(float(part.variance) for part in known.noise))
            if effect is not None:
                needed = look_to_decide(contrast, _with(known, effect), list(shares), shares.__getitem__)
            smallest = None if within is None else _smallest(contrast, known, shares[within], within)
        told.append(
            PowerAnalysis(
                claim.says, contrast.words, effect, effect_from, noise, noise_from, needed, hours(needed),
                min(design.looks), within,
                smallest, hours(within), unit,
            )
        )  # fmt: skip
    return max(told, key=lambda each: (math.inf if each.seeds is None else each.seeds, each.smallest or 0.0))


def _with(known: Estimate, effect: float) -> Estimate:
    return dataclasses.replace(known, effect=np.asarray(effect))


def _edge(contrast: Contrast) -> tuple[float, float]:
    """The bound that an effect is measured from, and the direction into the region."""
    if math.isfinite(contrast.low) and math.isfinite(contrast.high):
        return (contrast.low + contrast.high) / 2, 1.0
    return (contrast.low, 1.0) if math.isfinite(contrast.low) else (contrast.high, -1.0)


def _effect(claim: Claim, contrast: Contrast, results: Results) -> tuple[float | None, str]:
    if claim.expects is not None:
        edge, inwards = _edge(contrast)
        return edge + inwards * claim.expects, "expected"
    published = published_results(results.planned.spaces[0].published)
    table = {row: published.of(row, tuple(metrics)) for row, metrics in contrast.weights.items()}
    if not all(table.values()):
        return None, ""
    return float(estimate(contrast.weights, table, published.noise).effect), "published"


def _noise(contrast: Contrast, results: Results) -> tuple[Estimate | None, str]:
    """Noise of this storage's own trainings, else of the published table's baselines."""
    table = {row: results.of(row, tuple(metrics)) for row, metrics in contrast.weights.items()}
    if all(table.values()):
        own = estimate(contrast.weights, table)
        if own.noise and not bool(own.mute):
            return dataclasses.replace(own, same=np.zeros((), np.bool_)), "of this storage's trainings"
    parts = []
    for metrics in contrast.weights.values():
        whole = [each for each in PAPER_BASELINES if all(metric in each for metric in metrics)]
        if len(whole) < 2:
            return None, ""
        sums = [sum(weight * each[metric] for metric, weight in metrics.items()) for each in whole]
        parts.append(Noise(np.asarray(float(np.var(sums, ddof=1))), len(sums), len(sums) - 1.0))
    return Estimate(np.asarray(math.nan), tuple(parts)), "of the published baselines"


def _smallest(contrast: Contrast, known: Estimate, level: float, seeds: int) -> float | None:
    """The smallest distance from the edge of a region that some seeds decide, outwards or inwards."""
    edge, inwards = _edge(contrast)
    beyond = (contrast.high - edge) if math.isfinite(contrast.low) and math.isfinite(contrast.high) else 0.0

    def decides(distance: float) -> bool:
        effect = edge + beyond + distance if beyond else edge + inwards * distance
        return power(contrast, _with(known, effect), level, seeds) > POWER

    if not decides(_MOST_EFFECT):
        return None
    low, high = 0.0, _MOST_EFFECT
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
