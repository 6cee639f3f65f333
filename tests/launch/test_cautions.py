"""What is probably not meant is told in the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablate.launch.cautions import cautions
from tests.support.helpers import options_of, plan_of, write_space


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["training.learning_rate=0.2"], "overrides what the rows of tiny vary (training.learning_rate)"),
        (["measurement={lowpass_degree: 4}"], "overrides what the rows of tiny vary (measurement.lowpass_degree)"),
        (["training.learning_rate=0.2"], "rows 'small' and 'large' of tiny have the same settings"),
        (
            ["training.attack.eps_255=0.031"],
            "training.attack.eps_255: 0.031 is below one grey level, in 1/255: did you mean 8?",
        ),
        (
            ["measurement.step_255=0.00784"],
            "measurement.step_255: 0.00784 is below one grey level, in 1/255: did you mean 2?",
        ),
    ],
)
def test_what_is_probably_not_meant_is_told(tmp_path: Path, sets: list[str], told: str) -> None:
    write_space(tmp_path)
    assert any(told in each for each in cautions(plan_of(options_of(tmp_path, sets=sets))))


@pytest.mark.parametrize(
    "sets", [[], ["training.epochs=1"], ["training.attack.eps_255=4", "training.attack.step_255=0.5"]]
)
def test_nothing_is_told_of_what_is_meant(tmp_path: Path, sets: list[str]) -> None:
    write_space(tmp_path)
    assert cautions(plan_of(options_of(tmp_path, sets=sets))) == []


def test_a_range_of_a_search_gets_the_same_hint(tmp_path: Path) -> None:
    path = write_space(tmp_path, **{"data.name: digits,": "data.name: digits, data.validation: 0.2,"})
    base = path.read_text().partition("rows:")[0]
    path.write_text(
        f"{base}"
        "search:\n"
        "  parameters:\n"
        "    training.attack.eps_255: {uniform: [0.008, 0.031]}\n"
        "    training.attack.step_255: {choice: [0.0078, 2]}\n"
        "  objective: {metric: validation/robust}\n"
        "  samples: 3\n"
    )
    found = cautions(plan_of(options_of(tmp_path)))
    assert len(found) == 2
    line = len(base.splitlines()) + 3
    assert f"tiny.yaml:{line}: training.attack.eps_255: 0.008, 0.031 of what is searched" in found[0]
    assert "did you mean 2, 8?" in found[0] and "did you mean 2?" in found[1]


def test_images_that_are_passed_over_are_told_with_their_number(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(70):
            Image.fromarray(pixels).save(tmp_path / "images" / place / f"{number}.{'PNG' if number % 2 else 'png'}")
    write_space(tmp_path)
    asked = options_of(
        tmp_path, sets=["data.name=imagefolder", f"data.root={tmp_path}/images", "training.batch_size=64"]
    )
    (tmp_path / "images" / "train" / "cat" / "README").write_text("no image")
    assert [each for each in cautions(plan_of(asked)) if "passed over" in each] == []
    assert plan_of(asked).trials[0].data.train_count == 140
    Image.fromarray(pixels).save(tmp_path / "images" / "train" / "cat" / "a.jfif", "JPEG")
    [said] = [each for each in cautions(plan_of(asked)) if "passed over" in each]
    assert "data.root: 1 image passed over" in said and "(train/cat/a.jfif)" in said
    Image.fromarray(pixels).save(tmp_path / "images" / "test" / "dog" / "bare", "PNG")
    Image.fromarray(pixels).save(tmp_path / "images" / "test" / "stray.jpe", "JPEG")
    [said] = [each for each in cautions(plan_of(asked)) if "passed over" in each]
    assert "3 images passed over" in said


def test_settings_that_change_nothing_are_told_unless_some_row_needs_them(tmp_path: Path) -> None:
    write_space(tmp_path, **{"set: {training.learning_rate: 0.05}": "set: {training.attack.name: fgsm_rs}"})
    steps = ["training.attack.steps=3"]
    assert not [each for each in cautions(plan_of(options_of(tmp_path, sets=steps))) if "no effect" in each]
    found = cautions(plan_of(options_of(tmp_path, sets=[*steps, "training.attack.name=fgsm_rs"])))
    assert "--set training.attack.steps=3: training.attack.steps has no effect beside a training.attack.name of" in str(
        found
    )


@pytest.mark.parametrize(
    ("sets", "beside"),
    [
        (["training.attack.eps_255=4", "training.attack.name=none"], "training.attack.name: none"),
        (["training.augmentation.beta=0.5"], "training.augmentation.name: none"),
        (["training.schedule=cosine", "training.milestones=[{epoch: 1, factor: 0.1}]"], "a training.schedule other"),
        (["model.quantization.fat_weight_decay=0"], "model.quantization.fat: false"),
        (["model.quantization.weights=max_abs"], "model.quantization.bits: 32"),
        (["measurement.square_queries=10"], "measurement.attacks without square, aa and worst"),
        (
            ["measurement.precision=bfloat16", "measurement.attacks=[natural, gn]"],
            "measurement.attacks that ask the network nothing",
        ),
        (["measurement.cw_c=2"], "measurement.attacks without cw20"),
    ],
)
def test_what_takes_a_settings_effect_is_named(tmp_path: Path, sets: list[str], beside: str) -> None:
    write_space(tmp_path)
    assert any(f"has no effect beside {beside}" in each for each in cautions(plan_of(options_of(tmp_path, sets=sets))))
