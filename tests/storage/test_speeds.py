"""Speeds kept in storage: found again for the same network and mode, and what a GPU is shared by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.execution.packing import gpu_share
from ablate.planning import estimates
from ablate.planning.plan import decide, make_plan
from ablate.spaces.loading import load_space
from ablate.spaces.presets import load_preset
from ablate.spaces.settings import parse_overrides
from ablate.spaces.specs import ModelSpec, TrainingSpec, TrialSpec
from ablate.spaces.trials import expand
from ablate.storage.files import LocalFiles
from ablate.storage.speeds import keep, kind_of, known_packing, known_speeds
from ablate.storage.storage import Storage
from tests.support.helpers import write_space

MODEL = ModelSpec().model_dump(mode="json")
FAT = ModelSpec.model_validate({"quantization": {"bits": 4, "fat": True}})
EAGER = TrainingSpec()


def speed(flops: float, mode: str = "float32", model: dict[str, Any] = MODEL) -> dict[str, Any]:
    return {"model": model, "mode": mode, "flops": flops}


def test_a_speed_is_that_of_its_network_mode_and_device(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    keep(files, [speed(1e9), speed(3e9, "bfloat16+compile"), speed(5e9, model=FAT.model_dump(mode="json"))], "cpu", 2)
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), EAGER)) == {128: 1e9}
    fast = TrainingSpec(precision="bfloat16", compile=True)
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), fast)) == {128: 3e9}
    assert known_speeds(files, "cpu", 2).get(kind_of(FAT, EAGER)) == {128: 5e9}
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(arch="wrn_34_10"), EAGER)) is None
    assert known_speeds(files, "cpu", 8).get(kind_of(ModelSpec(), EAGER)) is None
    assert known_speeds(files, "NVIDIA H100", 2).get(kind_of(ModelSpec(), EAGER)) is None


def test_a_speed_is_that_of_its_batch_size(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    keep(files, [speed(1e9), {**speed(2e9), "batch_size": 512}], "cpu", 2)
    keep(files, [{**speed(3e9), "batch_size": 512}], "cpu", 2)
    assert known_speeds(files, "cpu", 2)[kind_of(ModelSpec(), EAGER)] == {128: 1e9, 512: 3e9}
    rates = [
        {"model": MODEL, "mode": "float32", "batch_size": size, "rates": {"1": 10, "2": two}}
        for size, two in ((32, 19), (512, 10))
    ]
    keep(files, [], "NVIDIA H100", 8, rates)
    shares = {
        size: gpu_share(TrialSpec.model_validate({"training": {"batch_size": size}}), known_packing(files))
        for size in (16, 32, 64, 512, 1024)
    }
    assert shares == {16: 0.5, 32: 0.5, 64: 1.0, 512: 1.0, 1024: 1.0}


def test_no_batch_size_is_estimated_faster_than_a_step_of_the_measured_one_allows() -> None:
    measured = {128: 8.0, 512: 10.0}
    batches = (16, 32, 128, 200, 512, 2048)
    speeds = [estimates.speed_at(measured, batch, gpu=True) for batch in batches]
    # More images at once are done no slower, and a step of fewer takes no longer than one of more.
    assert speeds == sorted(speeds)
    steps_a_second = [speed / batch for speed, batch in zip(speeds, batches, strict=True)]
    assert steps_a_second == sorted(steps_a_second, reverse=True)
    assert estimates.speed_at(measured, 32, gpu=True) == 2.0  # as many steps a second
    assert estimates.speed_at(measured, 32, gpu=False) == 8.0


def test_a_newer_speed_replaces_the_older_and_leaves_the_others(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    keep(files, [speed(1e9), speed(2e9, "bfloat16")], "cpu", 2)
    keep(files, [speed(4e9)], "cpu", 2)
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), EAGER)) == {128: 4e9}
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), TrainingSpec(precision="bfloat16"))) == {128: 2e9}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"speeds": [{"mode": 1}]}', b'{"speeds": 3, "packing": 4}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    files = LocalFiles(tmp_path)
    files.write("speed/cpu-2.json", content)
    files.write("speed/gpu.json", content)
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), EAGER)) is None
    assert known_packing(files) == {}
    keep(files, [speed(1e9)], "cpu", 2)
    assert known_speeds(files, "cpu", 2).get(kind_of(ModelSpec(), EAGER)) == {128: 1e9}


@pytest.mark.parametrize(
    ("rates", "share"),
    [
        ({"1": 100, "2": 190, "4": 300}, 0.25),
        ({"1": 100, "2": 190, "4": 195}, 0.5),
        ({"1": 100, "2": 101, "4": 102}, 1.0),
    ],
)
def test_a_gpu_is_shared_as_long_as_it_pays(tmp_path: Path, rates: dict[str, float], share: float) -> None:
    files = LocalFiles(tmp_path)
    keep(files, [], "NVIDIA H100", 8, [{"model": MODEL, "mode": "float32", "rates": rates}])
    assert gpu_share(TrialSpec(), known_packing(files)) == share
    other = TrialSpec.model_validate({"training": {"precision": "bfloat16"}})
    assert gpu_share(other, known_packing(files)) == 0.25  # not measured


def test_unmeasured_a_large_or_unknown_network_gets_a_whole_gpu(tmp_path: Path) -> None:
    shares = {
        arch: gpu_share(TrialSpec.model_validate({"model": {"arch": arch}}), known_packing(LocalFiles(tmp_path)))
        for arch in ("resnet20", "mobilenet_v2", "wrn_34_10")
    }
    assert shares["resnet20"] < shares["mobilenet_v2"] < shares["wrn_34_10"] == 1.0


def test_estimates_go_by_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(estimates.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(estimates, "calibrated_speeds", lambda gpu, batches: dict.fromkeys(batches, 1e9))
    storage = Storage(str(tmp_path / "storage"))
    space = load_space(str(write_space(tmp_path)))
    trials = expand(space, load_preset("paper"), parse_overrides([]), [0])
    plan = make_plan([space], trials, preset=load_preset("paper"), overrides=[], seeds=[0], data_root=tmp_path)
    decide(plan, storage)
    slow = estimates.estimate(plan, storage)
    assert "calibration" in slow.basis
    models = [json.loads(t.spec.model.model_dump_json()) for t in plan.trainings.values()]
    keep(storage.files, [speed(4e9, model=model) for model in models], "cpu", 2)
    fast = estimates.estimate(plan, storage)
    assert "ablate.bench" in fast.basis
    assert fast.work_s == pytest.approx(slow.work_s / 4)
