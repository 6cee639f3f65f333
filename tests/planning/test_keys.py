"""Keys: they live long, inert settings leave them alone, and everything that changes numbers changes them."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.core.digest import canonical
from ablate.core.filters import Filter
from ablate.planning import keys as keys_module
from ablate.planning.keys import measurement_key, training_identity, training_key
from ablate.spaces.settings import Setting, build_spec, setting_paths
from ablate.spaces.specs import TrialSpec

DIGEST = "0" * 64
"""Stands for the training images, so that the pinned keys hang on the specs alone."""
LOW = Filter("lowpass", 16)


def spec(**settings: Any) -> TrialSpec:
    """A trial; dots in names are written as two underscores."""
    return build_spec([Setting(name.replace("__", "."), value, "test") for name, value in settings.items()], 0, "test")


def key(**settings: Any) -> str:
    return training_key(spec(**settings), DIGEST)


PINNED = {
    "": {},
    "batch_size/128": {"training__batch_size": 128},
    "augmentation/C-mix-up": {"training__augmentation__name": "mixup", "training__augmentation__order": "clean"},
    "architecture/WRN": {"model__arch": "wrn34_10"},
    "bit_width/QM-4 + FAT": {"model__quantization__bits": 4, "model__quantization__fat": True},
    "natural": {"training__attack__name": "none"},
}
GOLDEN: dict[str, str] = {
    "": "dc1fadca8e0b67f2ed5f",
    "batch_size/128": "295ce2b6376899c263b7",
    "augmentation/C-mix-up": "d3ad29746dfb149a3080",
    "architecture/WRN": "eee51fd7326408896788",
    "bit_width/QM-4 + FAT": "c877c59d58973aee31c1",
    "natural": "2b0a75e6fbabcf450605",
    "measurement": "0923aee7d7cc39e539cc",
    "filtered": "5437e57b840595663182",
}


@pytest.mark.parametrize("name", PINNED)
def test_keys_of_old_results_stay_what_they_are(name: str) -> None:
    # When this fails, stored trainings are orphaned: list a new field in identity.LATER instead of pinning anew.
    assert key(**PINNED[name]) == GOLDEN[name]


def test_the_key_of_an_old_measurement_stays_what_it_is() -> None:
    made = measurement_key("ab" * 10, what="pgd20", settings="PGD(eps=8)", network="last", test_digest=DIGEST)
    assert made == GOLDEN["measurement"]
    filtered = measurement_key(
        "ab" * 10, what="pgd20", settings="PGD(eps=8)", network="best", test_digest=DIGEST, seen=LOW, adaptive=True
    )
    assert filtered == GOLDEN["filtered"]


def test_a_high_pass_is_measured_apart_from_the_low_pass_of_its_degree() -> None:
    filters = [None, LOW, Filter("highpass", 16), Filter("highpass", 8), Filter("highpass", 8, keep_mean=True)]
    filters += [Filter("bandstop", 8, 16), Filter("bandstop", 8, 14)]
    keys = {measurement_key(**{**MEASUREMENT, "seen": seen}) for seen in filters}
    assert len(keys) == len(filters)


NATURAL = {"training__attack__name": "none"}
LOWPASS = {"training__augmentation__name": "lowpass", "training__augmentation__degree": 11}
BANDSTOP = {**LOWPASS, "training__augmentation__name": "bandstop", "training__augmentation__outer_degree": 21}
INERT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"data__root": "/elsewhere"}),
    ({}, {"data__label": "other words"}),
    ({}, {"measurement__eps_255": 4}),
    ({}, {"measurement__attacks": ["natural"]}),
    ({}, {"measurement__lowpass_degree": 16}),
    ({}, {"measurement__highpass_degree": 16}),
    ({}, {"measurement__highpass_degree": 16, "measurement__highpass_keep_mean": True}),
    ({}, {"measurement__bandstop_degrees": [5, 9]}),
    ({}, {"training__augmentation__degree": 11}),
    ({"training__augmentation__name": "cutmix"}, {"training__augmentation__outer_degree": 11}),
    (LOWPASS, {"training__augmentation__beta": 0.5}),
    (LOWPASS, {"training__augmentation__bce_reduction": "sum"}),
    (LOWPASS, {"training__augmentation__outer_degree": 21}),
    ({}, {"training__ema": {"decay": 0.9, "start": 60, "normalization": "recalibrated"}}),
    ({}, {"training__keep": [60, 90]}),
    ({"training__ema": {"decay": 0.9}}, {"measurement__network": "ema"}),
    (NATURAL, {"training__attack__steps": 20}),
    (NATURAL, {"training__attack__eps_255": 4}),
    (NATURAL, {"training__attack__step_255": 1}),
    (NATURAL, {"training__attack__random_start": False}),
    (NATURAL, {"training__attack__network_mode": "train"}),
    ({**NATURAL, "training__augmentation__name": "mixup"}, {"training__augmentation__order": "clean"}),
    ({}, {"training__augmentation__order": "clean"}),
    ({}, {"training__augmentation__beta": 0.5}),
    ({}, {"training__augmentation__bce_reduction": "sum"}),
    ({"training__augmentation__name": "cutout"}, {"training__augmentation__bce_reduction": "sum"}),
    ({"training__objective": "trades"}, {"training__objective_weight": 6.0}),
    ({"training__attack__name": "n_fgsm"}, {"training__attack__steps": 20}),
    ({"training__attack__name": "fgsm_rs"}, {"training__attack__random_start": False}),
    ({"training__schedule": "cosine"}, {"training__milestones": []}),
    ({}, {"model__quantization__weights": "max_abs"}),
    ({}, {"model__quantization__activation_bits": 32}),
    ({}, {"model__quantization__fat_learning_rate": 0.5}),
    ({}, {"model__quantization__fat_weight_decay": 0.5}),
    ({"model__quantization__bits": 4}, {"model__quantization__activation_bits": 4}),
    ({"model__quantization__bits": 4}, {"model__quantization__fat_learning_rate": 0.5}),
    ({}, {"training__learning_rate_scaling": "linear"}),  # 512 is what it scales by
    (
        {"training__batch_size": 1024, "training__learning_rate": 0.2},
        {"training__learning_rate": 0.1, "training__learning_rate_scaling": "linear"},
    ),
    (
        {},
        {
            "training__milestones": [
                {"epoch": 110, "factor": 0.5},
                {"epoch": 60, "factor": 0.1},
                {"epoch": 90, "factor": 0.1},
            ]
        },
    ),
]


@pytest.mark.parametrize(("base", "change"), INERT, ids=lambda settings: str(settings))
def test_settings_without_effect_share_the_training(base: dict[str, Any], change: dict[str, Any]) -> None:
    assert key(**base) == key(**{**base, **change})


FAT = {"model__quantization__bits": 4, "model__quantization__fat": True}
MIXUP = {"training__augmentation__name": "mixup"}
PIXELS = {"model__input_mean": [0, 0, 0], "model__input_std": [1, 1, 1]}
MATTERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.image_size": (16, {}),
    "data.validation": (0.1, {}),
    "model.arch": ("mobilenet_v2", {}),
    "model.activation": ("hardtanh", {}),
    "model.width": (0.5, {}),
    "model.depth": (32, {}),
    "model.input_mean": ([0.5, 0.5, 0.5], PIXELS),
    "model.input_std": ([0.5, 0.5, 0.5], PIXELS),
    "model.quantization.bits": (2, {}),
    "model.quantization.activation_bits": (8, {}),
    "model.quantization.weights": ("max_abs", {"model__quantization__bits": 4}),
    "model.quantization.fat": (True, {}),
    "model.quantization.standardize_only": (True, {}),
    "model.quantization.fat_learning_rate": (0.01, FAT),
    "model.quantization.fat_weight_decay": (0.0, FAT),
    "training.epochs": (60, {}),
    "training.batch_size": (256, {}),
    "training.learning_rate": (0.05, {}),
    "training.learning_rate_scaling": ("linear", {"training__batch_size": 128}),
    "training.momentum": (0.8, {}),
    "training.weight_decay": (0, {}),
    "training.milestones": ([{"epoch": 60, "factor": 0.2}], {}),
    "training.schedule": ("cosine", {}),
    "training.objective": ("trades", {}),
    "training.objective_weight": (1.0, {"training__objective": "mart"}),
    "training.awp": (0.005, {}),
    "training.label_smoothing": (0.1, {}),
    "training.crop_padding": (0, {}),
    "training.flip": (False, {}),
    "training.precision": ("bfloat16", {}),
    "training.compile": (True, {}),
    "training.attack.name": ("none", {}),
    "training.attack.steps": (10, {}),
    "training.attack.eps_255": (4, {}),
    "training.attack.step_255": (1, {}),
    "training.attack.random_start": (False, {}),
    "training.attack.network_mode": ("train", {}),
    "training.augmentation.name": ("cutout", {}),
    "training.augmentation.order": ("clean", MIXUP),
    "training.augmentation.beta": (0.5, MIXUP),
    "training.augmentation.bce_reduction": ("sum", MIXUP),
    "training.augmentation.degree": (9, LOWPASS),
    "training.augmentation.outer_degree": (19, BANDSTOP),
}
KEPT_BESIDE = {"training.ema.decay", "training.ema.start", "training.ema.normalization", "training.keep"}
NOT_IN_THE_KEY = {"seed", "data.name", "data.root", "data.label", "model.weights"} | KEPT_BESIDE
"""The seed is no setting; data's names and weights' paths stand behind digests; what is kept beside the network changes
no bit of it; the rest only says how it is called."""


def test_every_setting_is_thought_of() -> None:
    paths = set(setting_paths())
    leaves = {path for path in paths if not any(other.startswith(path + ".") for other in paths)}
    trained = {path for path in leaves if not path.startswith("measurement.")}
    assert trained == set(MATTERS) | NOT_IN_THE_KEY


@pytest.mark.parametrize("path", MATTERS)
def test_settings_with_an_effect_make_another_training(path: str) -> None:
    value, base = MATTERS[path]
    assert key(**base) != key(**{**base, path.replace(".", "__"): value})


def test_seed_data_and_user_code_make_another_training() -> None:
    keys = [
        training_key(spec(), DIGEST),
        training_key(spec().model_copy(update={"seed": 1}), DIGEST),
        training_key(spec(), "1" * 64),
        training_key(spec(), DIGEST, {"network:mine": "aa"}),
        training_key(spec(), DIGEST, {"network:mine": "bb"}),
    ]
    assert len(set(keys)) == len(keys)
    assert training_key(spec(), DIGEST, {}) == keys[0]


def test_a_new_recipe_makes_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(keys_module, "TRAINING_RECIPE", keys_module.TRAINING_RECIPE + 1)
    assert key() != before


def test_a_field_added_later_is_left_out_at_the_value_that_keeps_the_old_behaviour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = training_identity(spec(), DIGEST, {})
    monkeypatch.setattr(
        keys_module, "LATER", {**keys_module.LATER, "training.attack.network_mode": "eval", "model.width": 1.0}
    )
    without = training_identity(spec(), DIGEST, {})
    assert "network_mode" not in without["training"]["attack"]
    assert "width" not in without["model"]
    del full["training"]["attack"]["network_mode"], full["model"]["width"]
    assert without == full
    assert training_identity(spec(model__width=0.5), DIGEST, {})["model"]["width"] == 0.5
    assert key(training__attack__network_mode="train") != key()


def test_a_changed_default_never_changes_what_a_key_means(monkeypatch: pytest.MonkeyPatch) -> None:
    # The field is left out at the old behaviour's value, whatever the default has become since.
    monkeypatch.setattr(keys_module, "LATER", {"model.activation": "hardtanh"})
    assert "activation" not in training_identity(spec(model__activation="hardtanh"), DIGEST, {})["model"]
    assert training_identity(spec(), DIGEST, {})["model"]["activation"] == "relu"


def test_of_weights_from_elsewhere_the_content_counts_and_nothing_of_a_training() -> None:
    measured = spec(model__weights="a.pt")
    keys = {training_key(measured, DIGEST, None, weights) for weights in ("aa", "bb")}
    assert len(keys | {key()}) == 3
    for change in ({"model__weights": "b.pt"}, {"training__epochs": 3}, {"data__validation": 0.1}):
        assert training_key(spec(**{"model__weights": "a.pt", **change}), DIGEST, None, "aa") in keys
    for change in ({"model__arch": "mobilenet_v2"}, {"data__image_size": 16}):
        assert training_key(spec(**{"model__weights": "a.pt", **change}), DIGEST, None, "aa") not in keys


def test_whole_floats_and_integers_are_one_setting() -> None:
    assert key(training__attack__eps_255=4) == key(training__attack__eps_255=4.0)
    assert canonical({"a": 8.0, "b": [1.5, -0.0]}) == canonical({"b": [1.5, 0], "a": 8})
    assert canonical({"a": True}) != canonical({"a": 1})


def test_canonical_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


MEASUREMENT: dict[str, Any] = {
    "training": "ab" * 10,
    "what": "pgd20",
    "settings": "PGD(eps=8)",
    "network": "last",
    "test_digest": DIGEST,
}


@pytest.mark.parametrize(
    "change",
    [
        {"training": "cd" * 10},
        {"what": "bim20"},
        {"settings": "PGD(eps=4)"},
        {"network": "best"},
        {"test_digest": "1" * 64},
        {"seen": LOW},
        {"seen": Filter("highpass", 16)},
        {"seen": Filter("highpass", 16, keep_mean=True)},
        {"adaptive": True},
        {"batch_size": 500},
        {"source": "aa"},
        {"files": "aa"},
    ],
    ids=str,
)
def test_everything_about_a_measurement_changes_its_key(change: dict[str, Any]) -> None:
    assert measurement_key(**MEASUREMENT) != measurement_key(**{**MEASUREMENT, **change})


def test_a_mended_attack_recomputes_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [measurement_key(**MEASUREMENT), measurement_key(**{**MEASUREMENT, "what": "bim20"})]
    monkeypatch.setattr(keys_module, "MEASUREMENT_RECIPES", {"pgd20": 2})
    after = [measurement_key(**MEASUREMENT), measurement_key(**{**MEASUREMENT, "what": "bim20"})]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_mended_filter_recomputes_only_what_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = {**MEASUREMENT, "seen": LOW}
    before = [measurement_key(**MEASUREMENT), measurement_key(**filtered)]
    monkeypatch.setattr(keys_module, "MEASUREMENT_RECIPES", {"lowpass": 2})
    assert measurement_key(**MEASUREMENT) == before[0]
    assert measurement_key(**filtered) != before[1]
