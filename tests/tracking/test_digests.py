"""Digests of what was sent: each name, value, parameter and point is in them, in no order."""

from __future__ import annotations

import pytest

from ablate.tracking.agreement import curve_digest, curves_digest, digest_of
from ablate.tracking.store import Point

METRICS = {"accuracy/pgd20": 42.5, "energy/ratio": 1.0}
PARAMS = {"row": "512", "seed": "0"}


def curve(name: str, *values: float) -> list[Point]:
    return [Point(name, value, 1000 + step, step) for step, value in enumerate(values)]


@pytest.mark.parametrize(
    ("metrics", "params"),
    [
        ({**METRICS, "energy/ratio": 1.0 + 1e-12}, PARAMS),
        ({**METRICS, "energy/ratio": float("nan")}, PARAMS),
        ({**METRICS, "more": 0.0}, PARAMS),
        ({"accuracy/pgd20": 1.0, "energy/ratio": 42.5}, PARAMS),
        (METRICS, {**PARAMS, "seed": "1"}),
        (METRICS, {**PARAMS, "more": ""}),
        (METRICS, {"row": "0", "seed": "512"}),
        (METRICS, {}),
    ],
)
def test_any_other_value_or_parameter_is_another_run(metrics: dict[str, float], params: dict[str, str]) -> None:
    assert digest_of(metrics, params) != digest_of(METRICS, PARAMS)
    turned = dict(reversed(METRICS.items())), dict(reversed(PARAMS.items()))
    assert digest_of(*turned) == digest_of(METRICS, PARAMS)


def test_any_other_point_is_another_curve() -> None:
    points = curve("train/loss", 2.0, 1.5, 1.0)
    assert curve_digest(reversed(points)) == curve_digest(points)
    others = [
        points[:-1],
        [*points, *curve("train/loss", 2.0)],
        curve("train/loss", 1.5, 2.0, 1.0),
        [*points[:-1], Point("train/loss", 1.0, 1003, 2)],
        [*points[:-1], Point("train/loss", 1.0, 1002, 3)],
    ]
    assert all(curve_digest(other) != curve_digest(points) for other in others)
    two = [*points, *curve("energy/ratio", 1.0, 1.0, 1.0)]
    assert curves_digest(two) == curves_digest(reversed(two)) == curve_digest(two[3:]) + curve_digest(points)
