"""The measurements of one training: which are taken together, and how far they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ablate.attacks import Attack, Ensemble, build_attack
from ablate.core.errors import MeasurementError, UserError, place_of
from ablate.core.text import named_line
from ablate.learning.cost import measurement_cost
from ablate.spaces.planned_measurement import PlannedMeasurement


class MeasurementProgress:
    """How far the measurements of a training are, by their count and by their work.

    Args:
        groups: Of each network, what is measured together.
        test_count: Test images.
        image_size: Height and width in pixels.
    """

    def __init__(self, groups: Iterable[list[list[PlannedMeasurement]]], test_count: int, image_size: int) -> None:
        runs = [same for group in groups for same in group]
        self._work = {same[0].key: measurement_cost(same[0], test_count, image_size) for same in runs}
        self._all = sum(self._work.values())
        self._worked = 0.0
        self.total = sum(map(len, runs))
        self.done = 0

    def add(self, same: list[PlannedMeasurement]) -> None:
        """Count what was measured together, or cannot be."""
        self.done += len(same)
        self._worked += self._work_of(same)

    def share(self, same: list[PlannedMeasurement], part: float) -> float:
        """Of the work that is done, 0 to 1.

        Args:
            same: What is being measured; its work is not counted yet.
            part: Of it that is done, 0 to 1.
        """
        return min(1.0, (self._worked + part * self._work_of(same)) / max(self._all, 1.0))

    def _work_of(self, same: list[PlannedMeasurement]) -> float:
        return self._work.get(same[0].key, 0.0)  # none of its own, where it was to be measured with others


def by_attack(group: Iterable[PlannedMeasurement]) -> list[list[PlannedMeasurement]]:
    """Measurements that one run of an attack serves: the same attack, unaware of the filters behind it.

    Args:
        group: Of one network.

    Returns:
        Those of each run; what is made of others comes after them.
    """
    together: dict[tuple[object, ...], list[PlannedMeasurement]] = {}
    for measurement in group:
        what: tuple[object, ...] = (measurement.key,)
        if measurement.kind == "attack" and not measurement.adaptive:
            attack = build_attack(measurement.name, measurement.settings)
            settings = measurement.settings
            images = settings.images if attack.reducible else None
            what = (measurement.name, repr(attack), settings.batch_size, settings.precision, images)
        elif measurement.made_on is not None:
            made_on = measurement.made_on
            attack = build_attack("pgd20", made_on.spec.measurement)
            what = (made_on.training, made_on.network, repr(attack), measurement.settings.batch_size)
        together.setdefault(what, []).append(measurement)
    return sorted(together.values(), key=lambda same: _depth(same[0]))


def described(measurement: PlannedMeasurement, attack: Attack) -> dict[str, Any]:
    """What a record says of how an attack was measured.

    Args:
        measurement: As planned.
        attack: That it is of.
    """
    seen, precision = measurement.filter, attack.searches_in(measurement.settings.precision)
    said: dict[str, Any] = {
        "what": measurement.name,
        "settings": repr(attack),
        "filter": None if seen is None else seen.kind,
        "degree": None if seen is None else seen.degree,
        **{name: value for name in ("outer", "keep_mean") if (value := getattr(seen, name, None))},
        "adaptive": measurement.adaptive,
    }
    if precision is not None:
        said["precision"] = precision
    if attack.threat is not None:
        said["threat"] = attack.threat.words()
    return said


def _depth(measurement: PlannedMeasurement) -> int:
    """What is made of others comes after them."""
    if measurement.kind != "attack":
        return 0
    return _depth_of(build_attack(measurement.name, measurement.settings))


def _depth_of(attack: Attack) -> int:
    return 1 + max(map(_depth_of, attack.parts), default=0) if isinstance(attack, Ensemble) else 0


def with_its_name(error: Exception, name: str) -> MeasurementError:
    """What went wrong in a measurement, as a fault of its own that names it: its network is trained all the same."""
    text = str(error) if isinstance(error, UserError) else f"{named_line(error)}{place_of(error)}"
    found = MeasurementError(text if text.startswith(f"{name}: ") else f"{name}: {text}")
    found.__cause__ = error
    return found
