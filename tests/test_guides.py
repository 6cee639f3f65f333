"""The guides name places that are there, and every package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"`((?:ablate|search_spaces|tests|jobs|docs|examples|benchmarks)/[\w/.-]*)`")


@pytest.mark.parametrize("guide", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_place_that_a_guide_names_is_there(guide: str) -> None:
    named = PLACE.findall((ROOT / guide).read_text())
    assert named
    assert [place for place in named if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("guide", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_a_guide_names_every_package(guide: str) -> None:
    named = set(PLACE.findall((ROOT / guide).read_text()))
    packages = {f"ablate/{path.parent.name}/" for path in (ROOT / "ablate").glob("*/__init__.py")}
    assert packages <= named
