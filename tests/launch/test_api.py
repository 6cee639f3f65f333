"""Ablations from Python: lazy, typed, and the same storage as the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablate
from ablate.spaces.specs import DataSpec
from ablate.storage.storage import Storage
from tests.support.helpers import environment, run_launch, write_space

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("torch", "ray", "mlflow", "pandas", "numpy", "sklearn", "matplotlib", "pydantic")


def test_importing_ablate_loads_nothing_heavy() -> None:
    code = f"import ablate, sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = "import ablate, sys; ablate.load_space('lowpass').rows; print({'torch', 'ray', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there() -> None:
    for name in ablate.__all__:
        assert getattr(ablate, name) is not None
        assert name in dir(ablate)
    with pytest.raises(AttributeError, match="no attribute 'lod_space'"):
        ablate.lod_space  # noqa: B018


@pytest.mark.slow
def test_plan_run_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = ablate.load_space(write_space(tmp_path, epochs=1))
    assert space.name == "tiny" and space.title == "A tiny space"
    assert space.rows == ["small", "large", "large again"]
    plan = space.plan(seeds=[0, 1], storage=tmp_path / "storage", sets={"measurement.attacks": ["natural"]})
    frame = plan.trials()
    assert len(frame) == 6 and set(frame["action"]) == {"train"} and frame["training"].nunique() == 4
    assert "6 trials, 4 distinct trainings" in repr(plan)
    assert "<table" in plan._repr_html_()
    assert set(plan.results()["state"]) == {"missing"}
    assert plan.estimate()["seconds"] > 0
    assert plan.run(local=True, tracking=False, cpus_per_trial=1, quiet=True) == 0
    assert capsys.readouterr().out == ""
    results = plan.results()
    assert list(results.index.names) == ["row", "seed"]
    assert set(results["state"]) == {"finished"}
    accuracy = results["accuracy/natural"]
    assert accuracy.between(0, 100).all()
    assert results.loc[("large again", 0), "accuracy/natural"] >= 0
    assert "accuracy_adaptive/natural" not in results.columns
    assert set(plan.trials()["action"]) == {"reuse"}
    shared = run_launch(
        tmp_path,
        *("--space", str(tmp_path / "tiny.yaml"), "--seeds", "0,1", "--dry-run", "--json"),
        *("--set", "measurement.attacks=[natural]"),
    )
    assert json.loads(shared)["id"] == plan.id
    assert {training["action"] for training in json.loads(shared)["trainings"].values()} == {"reuse"}


KEPT = [("last", "accuracy/natural")] + [
    (name, f"accuracy_{name}/natural") for name in ("best", "ema", "ema_best", "epoch:1")
]


@pytest.mark.slow
def test_trained_networks_are_those_that_were_measured(tmp_path: Path) -> None:
    import torch

    from ablate.learning.data import load

    space = ablate.load_space(write_space(tmp_path, epochs=2))
    averaged = {"training.ema.decay": 0.5, "training.keep": [1]}
    sets = {"measurement.attacks": ["natural"], "data.validation": 0.25, **averaged}
    plan = space.plan(seeds=[3, 4], storage=tmp_path / "storage", sets=sets)
    with pytest.raises(ablate.UserError, match="expected a finished training of small, seed 3, got none"):
        plan.network("small")
    assert plan.run(local=True, tracking=False, cpus_per_trial=1, quiet=True) == 0
    data = load(DataSpec(name="digits", image_size=8), tmp_path)
    images = torch.from_numpy(data.test_images).float() / 255
    results = plan.results()
    weights = []
    for row in ("small", "large"):
        for seed in (3, 4):
            for which, metric in KEPT:
                network = plan.network(row, seed, which=which)
                assert not network.training
                with torch.no_grad():
                    right = (network(images).argmax(dim=1).numpy() == data.test_labels).mean()
                # Measured with batch normalizations folded into the convolutions: a tie may fall the other way.
                assert results.loc[(row, seed), metric] == pytest.approx(100 * right, abs=0.3)
                weights.append(torch.cat([value.flatten() for value in network.parameters()]))
    assert torch.equal(weights[0], torch.cat([value.flatten() for value in plan.network("small").parameters()]))
    assert not torch.equal(weights[0], weights[len(KEPT)]), "another seed, the same network"
    with pytest.raises(ablate.UserError, match="expected the label of a row, got 'smal'; did you mean 'small'"):
        plan.network("smal")
    with pytest.raises(ablate.UserError, match=r"expected a seed of the plan \(3, 4\), got 0"):
        plan.network("small", 0)
    without = space.plan(seeds=[3], storage=tmp_path / "storage", sets={"measurement.attacks": ["natural"]})
    with pytest.raises(ablate.UserError, match=r"expected data\.validation above 0"):
        without.network("small", which="best")
    storage = Storage(str(tmp_path / "storage"))
    for key in plan.trials()["training"]:
        storage.prune(key)
    with pytest.raises(
        ablate.UserError, match=r"the last checkpoint of small, seed 3, got none left; a launch that prunes"
    ):
        plan.network("small")


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ablate.UserError, match="did you mean 'batch_size'"):
        ablate.load_space("batch_sise")
    with pytest.raises(ablate.UserError, match=r"training\.epochs"):
        ablate.load_space("batch_size").plan(sets={"training.epoch": 3}, storage=tmp_path)


def test_the_example_is_a_notebook_too() -> None:
    _, *cells = re.split("^# %% ", (ROOT / "examples" / "first_ablation.py").read_text(), flags=re.MULTILINE)
    notebook = json.loads((ROOT / "examples" / "first_ablation.ipynb").read_text())
    _, *shown = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert list(zip(shown[::2], shown[1::2], strict=True)) == [
        (words, code.strip().removesuffix("  # noqa: B018"))
        for words, _, code in (cell.partition("\n") for cell in cells)
    ]
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds == ["markdown", *["markdown", "code"] * len(cells)] and not any(
        cell.get("outputs") for cell in notebook["cells"]
    )


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "first_ablation.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "first_ablation.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy/fgsm" in done.stdout and "Caution" not in done.stdout
    assert (tmp_path / "storage").is_dir()
    assert (tmp_path / "first_ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": [0, 1, 0]}, "seeds: expected distinct numbers, got 0 twice"),
        ({"seeds": np.array([3, 3])}, "seeds: expected distinct numbers, got 3 twice"),
        ({"seeds": [0.5]}, "seeds: expected whole numbers from 0 up, like [0, 1, 2], got 0.5"),
        ({"seeds": [-1]}, "seeds: expected whole numbers from 0 up, like [0, 1, 2], got -1"),
        ({"seeds": "012"}, "seeds: expected whole numbers from 0 up, like [0, 1, 2], got '012'"),
        ({"seeds": []}, "seeds: expected at least one, got none"),
        ({"preset": "smok"}, "preset: expected a preset's name, got 'smok'; did you mean 'smoke'?"),
        (
            {"sets": {"training.epochs": "three"}},
            "sets['training.epochs']: expected a whole number, got 'three'",
        ),
        (
            {"sets": {"training.epoch": 3}},
            "sets['training.epoch']: expected a known setting, got 'training.epoch'; did you mean 'training.epochs'?",
        ),
        ({"sets": {"measurement.attacks": {"gn"}}}, "sets['measurement.attacks']: expected a list, whose order is"),
        ({"sets": {"training.epochs": object()}}, "sets['training.epochs']: expected a plain value"),
        ({"storage": "s3:/bucket"}, "storage: expected a folder or an address"),
        ({"data_root": "s3:/bucket"}, "data_root: expected a path of this machine"),
    ],
)
def test_errors_name_the_arguments_of_the_call(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    space = ablate.load_space(write_space(tmp_path))
    with pytest.raises(ablate.UserError) as caught:
        space.plan(**{"storage": tmp_path / "storage", **given})
    assert str(caught.value).startswith(said)
    assert "--" not in str(caught.value)


def test_numpy_values_and_paths_are_taken_as_what_they_hold(tmp_path: Path) -> None:
    space = ablate.load_space(write_space(tmp_path))
    plain = {"training.epochs": 3, "training.learning_rate": 0.5, "training.flip": False, "measurement.attacks": ["gn"]}
    odd = {
        "training.epochs": np.int64(3),
        "training.learning_rate": np.float32(0.5),
        "training.flip": np.bool_(False),
        "measurement.attacks": np.array(["gn"]),
    }
    ids = [
        space.plan(sets=sets, seeds=seeds, storage=tmp_path / "storage", data_root=tmp_path / "data").id
        for sets, seeds in ((plain, [0, 1]), (odd, np.arange(2)), (plain, range(2)))
    ]
    assert len(set(ids)) == 1
    with pytest.raises(ablate.UserError, match=str(tmp_path / "images")):
        space.plan(sets={"data.name": "imagefolder", "data.root": tmp_path / "images"}, storage=tmp_path / "storage")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sets": ["training.epochs=3"]}, "sets: expected a dict of dotted paths"),
        ({"sets": {3: 4}}, "sets: expected dotted paths, like 'training.epochs', got 3"),
        ({"sets": {"": 4}}, "sets: expected dotted paths"),
        ({"sets": {"training": {"epochs": "x"}}}, "sets['training']: training.epochs: expected a whole number"),
        (
            {"sets": {"model.arch": "resnet2"}},
            "sets['model.arch']: expected a registered name, got 'resnet2'; did you mean 'resnet20'?",
        ),
        ({"sets": {"measurement.lowpass_degree": 99}}, "sets['measurement.lowpass_degree']: expected at most"),
        ({"seeds": 3}, "seeds: expected whole numbers from 0 up, like [0, 1, 2], got 3"),
        ({"preset": None}, "preset: expected a preset's name, got None"),
    ],
)
def test_a_name_stands_once_and_odd_arguments_are_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    space = ablate.load_space(write_space(tmp_path))
    with pytest.raises(ablate.UserError) as caught:
        space.plan(**{"storage": tmp_path / "storage", **given})
    assert str(caught.value).startswith(said)


def test_errors_of_results_networks_and_runs_name_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ablate.load_space(write_space(tmp_path)).plan(storage=tmp_path / "storage")
    asked: list[tuple[Any, str]] = [
        (lambda: plan.network("smal"), "row: expected the label of a row, got 'smal'; did you mean 'small'?"),
        (lambda: plan.network(3), "row: expected the label of a row, got 3"),  # type: ignore[arg-type]
        (lambda: plan.network("small", 7), "seed: expected a seed of the plan (0), got 7"),
        (
            lambda: plan.network("small", which="bst"),
            "which: expected last, best, ema, ema_best or epoch:60, got 'bst'",
        ),
        (lambda: plan.network("small", which="best"), "which: expected data.validation above 0"),
        (lambda: plan.run(imports="my_module"), "imports: expected a list of modules' names"),
        (lambda: plan.run(imports=["no_such_module"]), "imports no_such_module: expected a module"),
        (lambda: plan.run(cpus_per_trial=0), "cpus_per_trial: expected a whole number from 1 up, got 0"),
        (lambda: plan.run(max_concurrent=-1), "max_concurrent: expected a whole number from 0 up, got -1"),
        (lambda: plan.run(gpus_per_trial="lots"), "gpus_per_trial: expected auto, a part of 1"),  # type: ignore
    ]

    def away(*_: object) -> None:
        raise ablate.UserError("--storage /x: expected claims to be readable, got Permission denied")

    for call, said in asked:
        with pytest.raises(ablate.UserError) as caught:
            call()
        assert str(caught.value).startswith(said)
    monkeypatch.setattr(Storage, "view", away)
    for call in (plan.results, plan.trials, plan.estimate, lambda: plan.network("small"), lambda: repr(plan)):
        with pytest.raises(ablate.UserError, match=r"^storage /x: expected claims to be readable"):
            call()
