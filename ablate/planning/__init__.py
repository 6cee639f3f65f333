"""Trials -> distinct trainings, their keys, what to do about each, and how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

if TYPE_CHECKING:
    from ablate.planning.plan import Plan as Plan
    from ablate.planning.plan import decide as decide
    from ablate.planning.plan import make_plan as make_plan
    from ablate.planning.plan_file import plan_file_of as plan_file_of
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
