"""Trials -> distinct trainings, their keys, what to do about each, and how long it takes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.planning.plan import Plan as Plan
    from ablate.planning.plan import decide as decide
    from ablate.planning.plan import make_plan as make_plan
    from ablate.planning.plan import plan_file_of as plan_file_of

_PLACES = {
    "Plan": "ablate.planning.plan",
    "decide": "ablate.planning.plan",
    "make_plan": "ablate.planning.plan",
    "plan_file_of": "ablate.planning.plan",
}

__all__ = ["Plan", "decide", "make_plan", "plan_file_of"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
