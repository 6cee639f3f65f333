"""Ray-distributed ablations of adversarial training.

    import ablate

    plan = ablate.load_space("batch_size").plan(preset="smoke")
    plan.run(local=True)
    plan.results()                     # a pandas frame

Importing this package loads neither torch, Ray nor MLflow; the first plan loads torch, the first launch the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.api import Ablation as Ablation
    from ablate.api import LaunchPlan as LaunchPlan
    from ablate.api import load_space as load_space
    from ablate.api import space_names as space_names
    from ablate.errors import UserError as UserError
    from ablate.figures import register_figure as register_figure

_PLACES = {
    "Ablation": "ablate.api",
    "LaunchPlan": "ablate.api",
    "load_space": "ablate.api",
    "space_names": "ablate.api",
    "UserError": "ablate.errors",
    "register_analysis": "ablate.analysis.registry",
    "register_attack": "ablate.attacks",
    "register_augmentation": "ablate.learning.augmentation",
    "register_figure": "ablate.figures",
    "register_network": "ablate.learning.models",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
