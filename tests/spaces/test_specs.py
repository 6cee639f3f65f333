"""Specs: the paper's settings as defaults, and every impossible value refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ablate.core.filters import Filter
from ablate.spaces.specs import (
    COLUMNS,
    AugmentationSpec,
    DataSpec,
    MeasurementSpec,
    Milestone,
    ModelSpec,
    QuantizationSpec,
    TrainingAttackSpec,
    TrainingSpec,
    TrialSpec,
)


def nested(path: str, value: Any) -> dict[str, Any]:
    for step in reversed(path.split(".")):
        value = {step: value}
    assert isinstance(value, dict)
    return value


def test_the_defaults_are_the_papers_settings() -> None:
    spec = TrialSpec()
    assert (spec.data.name, spec.data.image_size, spec.data.validation) == ("cifar10", 32, 0.0)
    assert (spec.model.arch, spec.model.quantization.bits) == ("resnet20", 32)
    assert (spec.training.epochs, spec.training.batch_size, spec.training.learning_rate) == (120, 512, 0.1)
    assert (spec.training.momentum, spec.training.weight_decay) == (0.9, 5e-4)
    attack = spec.training.attack
    assert (attack.name, attack.steps, attack.eps_255, attack.step_255, attack.random_start) == ("pgd", 7, 8, 2, True)
    assert spec.measurement.attacks[: len(COLUMNS)] == COLUMNS
    assert (spec.measurement.eps_255, spec.measurement.step_255) == (8, 2)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("seed", 1.0),
        ("seed", True),
        ("data.name", "imagenet"),
        ("data.image_size", 6),
        ("data.image_size", 258),
        ("data.image_size", 31),
        ("data.image_size", "32"),
        ("data.image_size", None),
        ("data.validation", -0.1),
        ("data.validation", 0.51),
        ("data.validation", float("nan")),
        ("data.root", 7),
        ("model.arch", ""),
        ("model.arch", None),
        ("model.activation", "tanh"),
        ("model.width", 0),
        ("model.width", 4.1),
        ("model.width", float("inf")),
        ("model.depth", 3),
        ("model.depth", 20.0),
        ("model.quantization.bits", 1),
        ("model.quantization.bits", 33),
        ("model.quantization.bits", 4.0),
        ("model.quantization.activation_bits", 1),
        ("model.quantization.weights", "minmax"),
        ("model.quantization.fat", 1),
        ("model.quantization.fat", "yes"),
        ("model.quantization.fat_learning_rate", 0),
        ("model.quantization.fat_weight_decay", -1e-9),
        ("model.quantization", 4),
        ("training.epochs", 0),
        ("training.epochs", -1),
        ("training.epochs", 100_001),
        ("training.epochs", 1.5),
        ("training.batch_size", 1),
        ("training.batch_size", "512"),
        ("training.learning_rate", 0),
        ("training.learning_rate", -0.1),
        ("training.learning_rate", float("inf")),
        ("training.learning_rate", "1e-3"),
        ("training.learning_rate_scaling", "sqrt"),
        ("training.momentum", 1.0),
        ("training.momentum", -0.1),
        ("training.weight_decay", -1),
        ("training.milestones", 60),
        ("training.milestones", [60]),
        ("training.milestones", [{"epoch": 0, "factor": 0.1}]),
        ("training.milestones", [{"epoch": 120, "factor": 0.1}]),
        ("training.milestones", [{"epoch": 5, "factor": 0}]),
        ("training.milestones", [{"epoch": 5}]),
        ("training.milestones", [{"epoch": 5, "factor": 0.1, "gamma": 1}]),
        ("training.crop_padding", -1),
        ("training.crop_padding", 65),
        ("training.flip", "true"),
        ("training.attack.name", "fgsm"),
        ("training.attack.steps", 0),
        ("training.attack.steps", 1001),
        ("training.attack.eps_255", -1),
        ("training.attack.eps_255", 256),
        ("training.attack.step_255", -0.5),
        ("training.attack.random_start", 0),
        ("training.attack.network_mode", "test"),
        ("training.augmentation.name", ""),
        ("training.augmentation.order", "after"),
        ("training.augmentation.beta", 0),
        ("training.augmentation.bce_reduction", "none"),
        ("training.precision", "float16"),
        ("training.compile", None),
        ("measurement.attacks", []),
        ("measurement.attacks", "pgd20"),
        ("measurement.attacks", ["pgd20", "pgd20"]),
        ("measurement.attacks", [20]),
        ("measurement.analyses", ["cka", "cka"]),
        ("measurement.eps_255", -8),
        ("measurement.step_255", 300),
        ("measurement.noise_std", -0.1),
        ("measurement.cw_c", -1),
        ("measurement.cw_kappa", -1),
        ("measurement.cw_learning_rate", 0),
        ("measurement.batch_size", 0),
        ("measurement.lowpass_degree", 1),
        ("measurement.highpass_degree", 0),
        ("measurement.lowpass_degree", 34),
        ("measurement.lowpass_adaptive", "no"),
        ("training", None),
        ("training", []),
    ],
)
def test_impossible_values_are_refused(path: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        TrialSpec.model_validate(nested(path, value))


@pytest.mark.parametrize(
    "path",
    [
        "sed",
        "data.nam",
        "model.architecture",
        "model.quantization.bit",
        "training.lr",
        "training.attack.eps",
        "training.augmentation.alpha",
        "measurement.attack",
    ],
)
def test_unknown_keys_are_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TrialSpec.model_validate(nested(path, 1))


@pytest.mark.parametrize("spec", [TrialSpec(), DataSpec(), ModelSpec(), TrainingSpec(), MeasurementSpec()])
def test_specs_are_frozen_and_hashable(spec: Any) -> None:
    field = next(iter(type(spec).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, field, getattr(spec, field))
    assert hash(spec) == hash(type(spec)())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 4, "standardize_only": True}, "bits: 32"),
        ({"fat": True, "standardize_only": True}, "fat: false"),
    ],
)
def test_the_standardize_only_control_stands_alone(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QuantizationSpec(**settings)
    assert QuantizationSpec(standardize_only=True).bits == 32


def test_a_milestone_after_the_last_epoch_names_both_epochs() -> None:
    with pytest.raises(ValidationError, match=r"last epoch \(10\), got one at epoch 12"):
        TrainingSpec(epochs=10, milestones=(Milestone(epoch=12, factor=0.1),))


def test_a_degree_above_the_image_size_names_both() -> None:
    with pytest.raises(ValidationError, match=r"data.image_size \(16\), got 20"):
        TrialSpec(data=DataSpec(image_size=16), measurement=MeasurementSpec(lowpass_degree=20))
    assert TrialSpec(data=DataSpec(image_size=16), measurement=MeasurementSpec(lowpass_degree=16))
    with pytest.raises(ValidationError, match=r"highpass_degree below data.image_size \(16\), .* nothing, got 16"):
        TrialSpec(data=DataSpec(image_size=16), measurement=MeasurementSpec(highpass_degree=16))
    with pytest.raises(ValidationError, match=r"expected one of .*lowpass_degree and .*highpass_degree, got 8 and 4"):
        MeasurementSpec(lowpass_degree=8, highpass_degree=4)
    assert MeasurementSpec(highpass_degree=4).filter == Filter("highpass", 4)
    assert MeasurementSpec(highpass_degree=4, highpass_keep_mean=True).filter == Filter("highpass", 4, keep_mean=True)
    assert MeasurementSpec(bandstop_degrees=(5, 9)).filter == Filter("bandstop", 5, 9)
    with pytest.raises(ValidationError, match=r"a smaller and a larger one, .* removed, got 9 and 9"):
        MeasurementSpec(bandstop_degrees=(9, 9))
    with pytest.raises(ValidationError, match=r"lowpass_degree and measurement.bandstop_degrees, got 8 and \(3, 5\)"):
        MeasurementSpec(lowpass_degree=8, bandstop_degrees=(3, 5))
    with pytest.raises(ValidationError, match=r"bandstop_degrees of at most data.image_size \(16\), got 17"):
        TrialSpec(data=DataSpec(image_size=16), measurement=MeasurementSpec(bandstop_degrees=(5, 17)))
    with pytest.raises(ValidationError, match=r"augmentation.degree of at most data.image_size \(16\), got 17"):
        TrialSpec.model_validate(
            {"data": {"image_size": 16}, "training": {"augmentation": {"name": "lowpass", "degree": 17}}}
        )


def test_whole_numbers_are_taken_where_a_number_is_meant() -> None:
    assert TrainingAttackSpec.model_validate({"eps_255": 8}) == TrainingAttackSpec(eps_255=8.0)
    assert AugmentationSpec.model_validate({"beta": 1}) == AugmentationSpec()


def test_lists_from_a_file_become_tuples() -> None:
    spec = TrialSpec.model_validate(
        {
            "training": {"milestones": [{"epoch": 5, "factor": 0.1}]},
            "measurement": {"attacks": ["natural"], "analyses": []},
        }
    )
    assert spec.training.milestones == (Milestone(epoch=5, factor=0.1),)
    assert spec.measurement.attacks == ("natural",)


def test_a_spec_survives_json() -> None:
    spec = TrialSpec(
        training=TrainingSpec(milestones=(Milestone(epoch=5, factor=0.1),), attack=TrainingAttackSpec(steps=3)), seed=4
    )
    assert TrialSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_papers_schedule() -> None:
    rates = [TrainingSpec().learning_rate_at(epoch) for epoch in (1, 60, 61, 90, 91, 110, 111, 120)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005])


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(240, [120, 180, 220]), (12, [6, 9, 11]), (4, [2, 3]), (3, [2, 2]), (2, [1]), (1, []), (60, [30, 45, 55])],
)
def test_the_schedule_scales_with_the_epochs_and_keeps_an_epoch_after_each_step(epochs: int, steps: list[int]) -> None:
    schedule = TrainingSpec(epochs=epochs).steps_of_rate()
    assert [milestone.epoch for milestone in schedule][: len(steps)] == steps
    assert all(1 <= milestone.epoch < epochs for milestone in schedule)


def test_given_milestones_are_sorted_and_not_scaled() -> None:
    spec = TrainingSpec(epochs=30, milestones=(Milestone(epoch=20, factor=0.5), Milestone(epoch=3, factor=2.0)))
    assert [milestone.epoch for milestone in spec.steps_of_rate()] == [3, 20]
    assert [spec.learning_rate_at(epoch) for epoch in (3, 4, 21)] == pytest.approx([0.1, 0.2, 0.1])


def test_no_milestones_is_a_constant_rate() -> None:
    spec = TrainingSpec(milestones=())
    assert {spec.learning_rate_at(epoch) for epoch in range(1, 121)} == {0.1}


def test_linear_scaling_multiplies_by_the_share_of_512() -> None:
    assert TrainingSpec(batch_size=128, learning_rate_scaling="linear").learning_rate_at(1) == pytest.approx(0.025)
    assert TrainingSpec(batch_size=128).learning_rate_at(1) == 0.1
