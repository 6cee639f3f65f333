"""What runs beside what: see tests/conftest.py."""

from __future__ import annotations

import pytest

from tests.conftest import ON_THE_CLUSTER


def test_who_needs_the_cluster_is_in_its_files(request: pytest.FixtureRequest) -> None:
    needing = {item.path.name for item in request.session.items if "ray_cluster" in getattr(item, "fixturenames", ())}
    assert needing <= set(ON_THE_CLUSTER)
