"""Keys: what makes two trainings, or two measurements, one and the same.

A key is the hash of the canonical JSON of everything that changes the numbers, and of nothing else. Keys live long:
a field added later is left out at the value that keeps the old behaviour (`LATER`), settings that have no effect
beside others are left out (natural training has no attack steps), and a mended recipe raises its version here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.core.digest import digest
from ablate.core.filters import Filter
from ablate.learning.objectives import identity_of
from ablate.spaces.specs import MIXING, ONE_STEP, AugmentationSpec, ModelSpec, TrainingSpec, TrialSpec

TRAINING_RECIPE = 1
"""Raise it when the same spec trains to other numbers; every old training is then another one."""

MEASUREMENT_RECIPES: dict[str, int] = {}
"""Attack, filter or analysis -> version (1 where absent); raise one to recompute only its numbers."""

LATER: dict[str, Any] = {
    "model.input_mean": None,
    "model.input_std": None,
    "training.schedule": "milestones",
    "training.objective": "pgd_at",
    "training.objective_weight": None,
    "training.awp": 0.0,
    "training.label_smoothing": 0.0,
    "training.augmentation.degree": None,
    "training.augmentation.outer_degree": None,
}
"""Dotted path -> the value that keeps the old behaviour, for each field added after version 0.1."""


def _without_later(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{group}.{name}"
        if path in LATER and value == LATER[path]:
            continue
        kept[name] = _without_later(path, value) if isinstance(value, dict) else value
    return kept


def _model(model: ModelSpec) -> dict[str, Any]:
    settings = model.model_dump()
    del settings["weights"]  # a path; what lies there has a digest
    quantization = settings.pop("quantization")
    bits, other_bits = quantization["bits"], quantization.pop("activation_bits")
    if other_bits is not None and other_bits != bits:
        quantization["activation_bits"] = other_bits
    if not quantization["fat"]:
        del quantization["fat_learning_rate"], quantization["fat_weight_decay"]
    if (
        bits == 32
        and quantization.get("activation_bits", 32) == 32
        and not (quantization["fat"] or quantization["standardize_only"])
    ):
        return settings  # a plain network, however it would have been quantized
    return {**settings, "quantization": quantization}


def _training(training: TrainingSpec) -> dict[str, Any]:
    settings = training.model_dump()
    del settings["ema"], settings["keep"]  # what is kept beside the network changes no bit of it
    # The rate in force: at 512 linear scaling is none, and a rate scaled to 0.2 is the rate 0.2.
    settings["learning_rate"] = training.base_rate
    del settings["learning_rate_scaling"]
    settings["milestones"] = [[milestone.epoch, milestone.factor] for milestone in training.steps_of_rate()]
    if training.schedule != "milestones":
        del settings["milestones"]
    settings |= identity_of(settings)
    if training.attack.name in ONE_STEP:  # one step, from noise of their own
        for name in ("steps", "step_255", "random_start"):
            del settings["attack"][name]
    if training.attack.name == "none":
        settings["attack"] = {"name": "none"}
        settings["augmentation"]["order"] = "clean"  # without an attack there is one order
    if settings["augmentation"]["name"] in (*MIXING, "cutout"):
        del settings["augmentation"]["degree"], settings["augmentation"]["outer_degree"]
    if settings["augmentation"]["name"] == "none":
        settings["augmentation"] = AugmentationSpec(name="none").model_dump(include={"name"})
    elif settings["augmentation"]["name"] == "cutout":
        del settings["augmentation"]["bce_reduction"]  # hard labels, cross-entropy
    elif training.augmentation.filter is not None:  # nothing is drawn
        order = settings["augmentation"]["order"]
        settings["augmentation"] = {"order": order, **training.augmentation.filter._asdict()}
    return settings


def training_identity(
    spec: TrialSpec, train_digest: str, user_code: Mapping[str, str], weights: str | None = None
) -> dict[str, Any]:
    """Everything that makes a training's numbers, as plain data.

    Args:
        spec: The trial; its measurement plays no part, and its training none where there are weights.
        train_digest: Of the training images, at the size trained on.
        user_code: Registered name -> digest of its source, for names the user's own modules registered.
        weights: Digest of those of `model.weights`.

    Returns:
        What `training_key` hashes, and what storage keeps beside the checkpoints.
    """
    identity: dict[str, Any] = {
        "recipe": TRAINING_RECIPE,
        "data": {"digest": train_digest, "image_size": spec.data.image_size, "validation": spec.held_out},
        "model": _without_later("model", _model(spec.model)),
        "training": _without_later("training", _training(spec.training)) if weights is None else {"epochs": 0},
        "seed": spec.seed,
    }
    if weights is not None:
        identity["weights"] = weights
    if user_code:
        identity["user_code"] = dict(user_code)
    return identity


def training_key(
    spec: TrialSpec, train_digest: str, user_code: Mapping[str, str] | None = None, weights: str | None = None
) -> str:
    """The name of the training a trial needs.

    Args:
        spec: The trial.
        train_digest: Of the training images.
        user_code: Digests of the user's own modules that it uses.
        weights: Digest of those of `model.weights`.

    Returns:
        20 hexadecimal digits.
    """
    return digest(training_identity(spec, train_digest, user_code or {}, weights))


def measurement_key(
    training: str,
    *,
    what: str,
    settings: str,
    network: str,
    test_digest: str,
    seen: Filter | None = None,
    adaptive: bool = False,
    batch_size: int | None = None,
    source: str | None = None,
    images: int | None = None,
    precision: str | None = None,
    parts: Sequence[str] = (),
    files: str | None = None,
    made_on: str | None = None,
) -> str:
    """The name of one attack, or one analysis, on one network of a training.

    Args:
        training: The training's key.
        what: Name of the attack or analysis.
        settings: All its hyperparameters, e.g. the attack's `repr`.
        network: As of `ablate.spaces.networks`: `last`, `best`, `ema:0.999@0`, `epoch:60`.
        test_digest: Of the test images.
        seen: The filter before the network; None without one.
        adaptive: Whether the attack sees the filter.
        batch_size: Only for what depends on the evaluation batch.
        source: Digest of the user's module that registered it.
        images: How many test images, where those are not all.
        precision: In which an attack searches, where that is not float32.
        parts: Of a column made of others, the keys of these, in their order.
        files: Digest of other images that it is measured on.
        made_on: Training key and network that the examples are made on, where that is another one.

    Returns:
        20 hexadecimal digits.
    """
    identity: dict[str, Any] = {
        "training": training,
        "what": what,
        "settings": settings,
        "network": network,
        "test": test_digest,
        "recipe": MEASUREMENT_RECIPES.get(what, 1),
    }
    optional: dict[str, Any] = {
        "degree": None if seen is None else seen.degree,
        "outer": None if seen is None else seen.outer,
        "keep_mean": (seen is not None and seen.keep_mean) or None,
        "filter": None if seen is None or seen.kind == "lowpass" else seen.kind,  # once there was but one kind
        "adaptive": adaptive or None,
        "batch_size": batch_size,
        "source": source,
        "images": images,
        "precision": precision,
        "parts": list(parts) or None,
        "files": files,
        "made_on": made_on,
    }
    identity |= {name: value for name, value in optional.items() if value is not None}
    if seen is not None:
        identity["filter_recipe"] = MEASUREMENT_RECIPES.get(seen.kind, 1)
    return digest(identity)
