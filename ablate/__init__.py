"""Ray-distributed ablations of adversarial training.

    import ablate

    plan = ablate.load_space("batch_size").plan(preset="smoke")
    plan.run(local=True)
    plan.results()                     # a pandas frame

Importing this package loads neither torch, Ray nor MLflow; the first plan loads torch, the first launch the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ablate.analysis.registry import AnalysisResult as AnalysisResult
    from ablate.analysis.registry import register_analysis as register_analysis
    from ablate.attacks import register_attack as register_attack
    from ablate.core.errors import UserError as UserError
    from ablate.launch.api import Ablation as Ablation
    from ablate.launch.api import LaunchPlan as LaunchPlan
    from ablate.launch.api import load_space as load_space
    from ablate.launch.api import space_names as space_names
    from ablate.learning.augmentation import register_augmentation as register_augmentation
    from ablate.learning.models import register_network as register_network
    from ablate.learning.objectives import register_objective as register_objective
    from ablate.spaces.figures import Drawing as Drawing
    from ablate.spaces.figures import register_figure as register_figure
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
    __all__ += ["__version__"]
