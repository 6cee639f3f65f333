"""Which metrics there can be, with what is registered, and which of them a trial measures.

A claim and a published number call a metric as tables do (`ablate.spaces.metrics`); a trend names a curve of the
training.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

from ablate.analysis.registry import analysis_names, declared_scalars
from ablate.attacks import attack_names
from ablate.core.errors import SpecError, nearest
from ablate.core.metric_names import CURVES, OF_LAST_EPOCH
from ablate.spaces.claims import Use
from ablate.spaces.metrics import Metric, meant_by, transfer_column
from ablate.spaces.space import SpaceFile
from ablate.spaces.specs import TrialSpec


def refuse_unknown(loaded: SpaceFile) -> None:
    """Refuse names that no registered attack, no analysis and no curve has, before anything is trained.

    Args:
        loaded: The space; the modules with the user's own attacks and analyses are imported.

    Raises:
        SpecError: With file, line and the nearest name.
    """
    known = _Known([transfer_column(row.label) for row in loaded.space.rows])
    for use in loaded.metric_uses():
        if not known.has(use.metric):
            where = f"{loaded.file.where(use.place)}: {use.path}"
            what = "a curve of the training" if use.trend else "a column (a registered attack) or a scalar"
            raise SpecError(f"{where}: expected {what}, got {use.metric!r}; {known.nearest(use.metric, use.trend)}")


def measured(spec: TrialSpec, columns: Container[str], use: Use) -> bool:
    """Whether a trial will have a number for a name, as far as can be told.

    Args:
        spec: The trial.
        columns: Its columns as runs call them, `accuracy/pgd20`.
        use: Whose metric is known.

    Returns:
        False where it certainly has none.
    """
    metric = use.metric
    if metric in CURVES:
        if not use.trend and not metric.startswith(OF_LAST_EPOCH):
            return False
        return not (
            (metric.startswith("fat/") and not spec.model.quantization.fat)
            or (metric.startswith("validation/") and spec.held_out == 0)
        )
    if use.trend:
        return False
    named = Metric.from_name(metric)
    if named.adaptive:
        return named.run_name in columns
    if Metric(metric).run_name in columns:
        return True
    declared = [declared_scalars(name) for name in spec.measurement.analyses]
    if any(scalars is not None and matches(metric, scalars) for scalars in declared):
        return True
    # What an analysis may give that does not say is not known, unless another one or an attack has the name.
    return None in declared and not _Known().has_surely(metric)


def matches(metric: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of some, in which `*` stands for a number."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), metric) for pattern in patterns)


class _Known:
    """Every name there can be, with what is registered now."""

    def __init__(self, transferred: Sequence[str] = ()) -> None:
        declared = [declared_scalars(name) for name in analysis_names()]
        self.columns = [*attack_names(), *transferred]
        self.scalars = [scalar for scalars in declared if scalars is not None for scalar in scalars]
        self.open = None in declared
        """Whether some analysis does not say which scalars it gives."""

    def has_surely(self, name: str) -> bool:
        """Whether something that is known has the name."""
        return Metric.from_name(name).column in self.columns or name in CURVES or matches(name, self.scalars)

    def has(self, name: str) -> bool:
        """Whether something has the name, or may have it."""
        if self.has_surely(name):
            return True
        if not self.open or Metric.from_name(name).adaptive or meant_by(name) is not None:
            return False
        group, slash, _ = name.partition("/")
        if slash:
            return group not in {known.partition("/")[0] for known in (*CURVES, *self.scalars) if "/" in known}
        return "did you mean" not in self.nearest(name, trend=False)

    def nearest(self, name: str, trend: bool) -> str:
        """The sentence that points to the valid names."""
        scalars = [scalar.replace("*", "0") for scalar in self.scalars]
        of_table = [*self.columns, *scalars, *(curve for curve in CURVES if curve.startswith(OF_LAST_EPOCH))]
        if trend:
            of_table = list(CURVES)
        meant = meant_by(name)
        if meant is not None:
            name = meant.name
            if meant.column in of_table:
                return f"did you mean {name!r}?"
        adaptive = Metric.from_name(name).adaptive
        valid = [Metric(column, adaptive=True).name for column in self.columns] if adaptive else of_table
        for known in valid:  # PGD-20 is how the paper prints pgd20, and loss the end of train/loss
            if _plain(name) in (_plain(known), _plain(known.rpartition("/")[2])):
                return f"did you mean {known!r}?"
        hint = nearest(name, valid)
        return hint if trend or "did you mean" in hint else f"{hint}; your own are loaded with --import"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
