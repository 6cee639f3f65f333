"""A row of weights that were trained elsewhere: measured with every column and analysis, trained never."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ablate.attacks import build_attack, evaluate
from ablate.core.errors import DataError, SpecError
from ablate.learning import data
from ablate.learning.models import build_network
from ablate.report.__main__ import app
from ablate.spaces.specs import DataSpec, MeasurementSpec, ModelSpec
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, numbers, options_of, plan_of, write_space

pytestmark = pytest.mark.slow

MODEL = ModelSpec(depth=8, width=0.25)
ROWS = """  - {label: foreign, set: {model.weights: w.pt, data.validation: 0.1, measurement.analyses: [first_kernels]}}
  - {label: copy, set: {model.weights: copy.pt, training.epochs: 9}}
  - {label: trained, set: {}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A space with two rows of the same weights in two files, beside one that is trained."""
    monkeypatch.chdir(tmp_path)
    path = write_space(tmp_path, epochs=1)
    text = path.read_text()
    path.write_text(text[: text.index("  - {label: small")] + ROWS)
    save(tmp_path, 7)
    return tmp_path


def save(folder: Path, seed: int) -> nn.Module:
    network = build_network(MODEL, 10, 8, seed)
    torch.save(network.state_dict(), folder / "w.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": wrapped}, folder / "copy.pt")
    return network.eval()


def planned(folder: Path) -> dict[str, str]:
    """Row -> its training."""
    return {each.trial.label: each.training for each in plan_of(options_of(folder)).trials}


def test_it_is_measured_and_never_trained(folder: Path) -> None:
    code, output = launch_here(options_of(folder, dry_run=True))
    assert code == 0 and output.count("nothing to train") == 2 and "train 1 epoch" in output
    assert not (folder / "storage").exists()
    code, output = launch_here(options_of(folder))
    assert code == 0, output
    storage = Storage(str(folder / "storage"))
    views = {key: storage.view(key) for key in list(storage.keys())}
    assert sorted(view.epoch for view in views.values()) == [0, 1]  # one of both files, and the trained one
    [foreign] = [view for view in views.values() if view.epoch == 0]
    [entry] = storage.history(foreign.key)
    assert {"energy/ratio", "train/accuracy_natural"} <= set(entry["metrics"])
    accuracies = {
        record.meta["what"]: record.scalars.get("accuracy")
        for name in foreign.records
        if (record := storage.record(foreign, name)) is not None
    }
    assert "first_kernels" in accuracies
    digits = data.load(DataSpec(name="digits", image_size=8), folder)
    images, labels = torch.from_numpy(digits.test_images), torch.from_numpy(digits.test_labels)
    for name in ("natural", "pgd20"):
        attack = build_attack(name, MeasurementSpec())
        right = evaluate(save(folder, 7), attack, images, labels, seed=0, batch_size=500)[None]
        assert accuracies[name] == pytest.approx(100 * right.double().mean().item(), abs=0.3)


def test_the_same_command_is_the_resume_and_measures_what_is_new(folder: Path) -> None:
    assert launch_here(options_of(folder))[0] == 0
    before = numbers(folder / "storage")
    (folder / "storage" / "weights").rename(folder / "elsewhere")  # they have served
    code, output = launch_here(options_of(folder, prune=True))
    assert code == 0 and "2 to reuse" in output
    assert numbers(folder / "storage") == before and not (folder / "storage" / "weights").exists()
    code, output = launch_here(options_of(folder, rows=["foreign"], sets=["measurement.attacks=[natural, bim20]"]))
    assert code == 0, output
    assert len(numbers(folder / "storage")) == len(before) + 1


def test_other_weights_at_the_same_place_are_another_row_and_damaged_ones_are_brought_again(folder: Path) -> None:
    before = planned(folder)
    save(folder, 8)
    after = planned(folder)
    assert before["foreign"] != after["foreign"] == after["copy"]
    assert before["trained"] == after["trained"]
    assert launch_here(options_of(folder, rows=["copy"], sets=["measurement.attacks=[natural]"]))[0] == 0
    [kept] = (folder / "storage" / "weights").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100])
    assert launch_here(options_of(folder, rows=["copy"], sets=["measurement.attacks=[gn]"]))[0] == 0
    assert kept.read_bytes() == whole


def test_weights_that_do_not_fit_are_refused_with_their_line_before_anything_runs(folder: Path) -> None:
    torch.save(build_network(ModelSpec(depth=8), 10, 8, 0).state_dict(), folder / "copy.pt")
    with pytest.raises(SpecError, match=r"tiny\.yaml:7: model\.weights: .*conv1\.weight of 4x3x3x3, got one of 16x3"):
        launch_here(options_of(folder))
    (folder / "w.pt").unlink()
    with pytest.raises(DataError, match=r"tiny\.yaml:6: model\.weights: expected a file, got 'w\.pt'"):
        launch_here(options_of(folder))
    assert not (folder / "storage").exists()


def test_a_search_trains_and_takes_no_weights(folder: Path) -> None:
    (folder / "looking.yaml").write_text(
        "title: Looking\nbase: {data: {name: digits, image_size: 8, validation: 0.1}, model.weights: w.pt}\n"
        "search: {parameters: {training.learning_rate: {loguniform: [0.01, 1]}}, samples: 2,\n"
        "         objective: {metric: validation/attack, mode: max}}\n"
    )
    with pytest.raises(SpecError, match=r"looking\.yaml:2: .*model\.weights: expected none in a search"):
        launch_here(options_of(folder, "looking"))


def test_its_runs_in_mlflow_are_whole_and_reported(folder: Path, template: Path) -> None:
    store = folder / "mlflow.db"
    shutil.copy(template, store)
    uri = f"sqlite:///{store}"
    code, output = launch_here(options_of(folder, rows=["foreign"], tracking=True, tracking_uri=uri))
    assert code == 0 and "Left out" not in output, output
    done = CliRunner().invoke(app, ["--space", "tiny", "--tracking-uri", uri, "--out", str(folder / "report")])
    assert done.exit_code == 0 and "Left out" not in done.output, done.output
