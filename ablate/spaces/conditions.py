"""Which settings are inactive beside others, and beside what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ablate.spaces.measurement import COLUMNS, IN_BANDS, ON_FIRST_IMAGES
from ablate.spaces.specs import FILTERS, ONE_STEP, TrialSpec


@dataclass(frozen=True)
class Condition:
    """Settings that are inactive where something else is as it is.

    Args:
        paths: Of them, or of groups of them.
        beside: What it is that takes their effect.
        holds: Whether it is so in a trial.
    """

    paths: tuple[str, ...]
    beside: str
    holds: Callable[[TrialSpec], bool]


def _full_precision(spec: TrialSpec) -> bool:
    quantization = spec.model.quantization
    other = quantization.activation_bits
    return quantization.bits == 32 and (other is None or other == 32)


_SHIPPED = frozenset({*COLUMNS, "cw20_exact", *ON_FIRST_IMAGES, *IN_BANDS})


def _without(*names: str) -> Callable[[TrialSpec], bool]:
    """None of some columns is measured, and no attack of a user's own, which may read any setting."""
    return lambda spec: set(spec.measurement.attacks) <= _SHIPPED - set(names)


_TABLE = (
    Condition(("training",), "model.weights, which are trained never", lambda spec: spec.model.weights is not None),
    Condition(
        ("training.attack.steps", "training.attack.step_255", "training.attack.random_start"),
        "a training.attack.name of one step",
        lambda spec: spec.training.attack.name in ONE_STEP,
    ),
    Condition(
        tuple(f"training.attack.{name}" for name in ("steps", "step_255", "eps_255", "random_start", "network_mode")),
        "training.attack.name: none",
        lambda spec: spec.training.attack.name == "none",
    ),
    Condition(
        tuple(f"training.augmentation.{name}" for name in ("order", "beta", "bce_reduction")),
        "training.augmentation.name: none",
        lambda spec: spec.training.augmentation.name == "none",
    ),
    Condition(
        ("training.augmentation.bce_reduction",),
        "training.augmentation.name: cutout, whose labels are hard",
        lambda spec: spec.training.augmentation.name == "cutout",
    ),
    Condition(
        ("training.augmentation.beta", "training.augmentation.bce_reduction"),
        "an augmentation that filters: it draws nothing, and its labels are hard",
        lambda spec: spec.training.augmentation.name in FILTERS,
    ),
    Condition(
        ("training.augmentation.degree", "training.augmentation.outer_degree"),
        "an augmentation that is no filter",
        lambda spec: spec.training.augmentation.name in ("none", "mixup", "cutout", "cutmix"),
    ),
    Condition(
        ("training.augmentation.outer_degree",),
        "an augmentation other than bandstop",
        lambda spec: spec.training.augmentation.name in ("lowpass", "highpass"),
    ),
    Condition(
        ("training.milestones",),
        "a training.schedule other than milestones",
        lambda spec: spec.training.schedule != "milestones",
    ),
    Condition(
        ("model.quantization.fat_learning_rate", "model.quantization.fat_weight_decay"),
        "model.quantization.fat: false",
        lambda spec: not spec.model.quantization.fat,
    ),
    Condition(
        ("model.quantization.weights",),
        "model.quantization.bits: 32",
        lambda spec: _full_precision(spec) and not spec.model.quantization.fat,
    ),
    Condition(
        ("measurement.cw_c", "measurement.cw_kappa", "measurement.cw_learning_rate"),
        "measurement.attacks without cw20 and cw20_exact",
        _without("cw20", "cw20_exact"),
    ),
    Condition(("measurement.noise_std",), "measurement.attacks without gn", _without("gn")),
    Condition(
        ("measurement.square_queries",),
        "measurement.attacks without square, aa and worst",
        _without("square", "aa", "worst"),
    ),
    Condition(
        ("measurement.images",),
        "measurement.attacks without apgd_ce, apgd_t, fab_t, square, aa and worst",
        _without(*ON_FIRST_IMAGES),
    ),
    Condition(
        ("measurement.precision",),
        "measurement.attacks that ask the network nothing",
        lambda spec: set(spec.measurement.attacks) <= {"natural", "gn"},
    ),
    Condition(
        ("measurement.heat_map_norm", "measurement.heat_map_images"),
        "neither heat_map in measurement.analyses nor its figure",
        lambda spec: "heat_map" not in spec.measurement.analyses,
    ),
    Condition(
        ("measurement.lowpass_adaptive",),
        "no measurement.lowpass_degree, highpass_degree or bandstop_degrees",
        lambda spec: spec.measurement.filter is None,
    ),
    Condition(
        ("measurement.highpass_keep_mean",),
        "no measurement.highpass_degree",
        lambda spec: spec.measurement.highpass_degree is None,
    ),
)

_DEFAULT = TrialSpec()


def inactive_beside(spec: TrialSpec, path: str) -> str | None:
    """What takes a setting's effect in a trial.

    Args:
        spec: The trial.
        path: Of the setting.

    Returns:
        In words; None where it has an effect, or is at its default.
    """
    if _value(spec, path) == _value(_DEFAULT, path):
        return None
    for each in _TABLE:
        if each.holds(spec) and any(path == other or path.startswith(f"{other}.") for other in each.paths):
            return each.beside
    return None


def _value(spec: TrialSpec, path: str) -> Any:
    value: Any = spec
    for step in path.split("."):
        value = getattr(value, step, None)
    return value
