"""Averages of weights from a space's file to its report: measured beside the training, or as rows of their own."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ablate.execution import worker
from ablate.execution.tune import pack, unpack
from ablate.learning.data import load
from ablate.report import overfitting
from ablate.report.__main__ import app, table_of
from ablate.report.contents import draw_all
from ablate.report.figures.pictures import Picture
from ablate.report.from_storage import results_of
from ablate.report.results import Results
from ablate.spaces.specs import TrialSpec
from ablate.storage.plans import load as load_plan
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of
from tests.support.tasks import planned, task

pytestmark = pytest.mark.slow

SPACE = """\
title: With and without averages
base: {model: {width: 0.25, depth: 8}, training: {batch_size: 64, crop_padding: 1, attack.steps: 1, epochs: 3},
       data: {name: digits, image_size: 8, validation: 0.2}, measurement.attacks: [natural]}
rows:
  - {label: own, set: {measurement.network: last}}
  - {label: averaged, set: {training.ema.decay: 0.9, measurement.network: ema}}
  - {label: averaged later, set: {training.ema: {decay: 0.5, start: 1}, measurement.network: ema_best}}
  - {label: of epoch 2, set: {measurement.network: "epoch:2"}}
claims:
  - {says: Averages help, above: {row: averaged, rows: [own], metrics: [natural]}}
"""


def space_of(folder: Path, **changes: str) -> Path:
    text = SPACE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.yaml").write_text(text)
    return folder


def results(folder: Path, network: str = "last") -> Results:
    storage = Storage(str(folder / "storage"))
    return results_of(load_plan(storage), storage, network)


def test_rows_of_other_networks_share_the_training_and_are_tabulated(tmp_path: Path) -> None:
    asked = options_of(space_of(tmp_path))
    plan = plan_of(asked)
    [training] = plan.trainings.values()
    assert len(training.measurements) == 4
    assert training.keep == ["ema:0.9@0", "ema_best:0.9@0", "ema:0.5@1", "ema_best:0.5@1", "epoch:2"]
    code, told = launch_here(asked)
    assert code == 0 and "3 epochs" in told
    found = results(tmp_path)
    assert all(outcome.values.keys() >= {"natural"} for outcome in found.outcomes.values()) and len(found.outcomes) == 4
    storage = Storage(asked.storage)
    view = storage.view(training.key)
    networks = {
        record.meta["network"]: record.meta["epoch"] for key in view.records if (record := storage.record(view, key))
    }
    assert networks.keys() == {"last", "ema:0.9@0", "ema_best:0.5@1", "epoch:2"} and networks["epoch:2"] == 2
    averaged = results(tmp_path, "ema")  # a row that is about it is shown, and others say what they are about
    assert averaged.outcomes["averaged", 0].values == found.outcomes["averaged", 0].values
    assert averaged.problems["own", 0] == "measured on its last network alone, not on ema"
    # Every report of trainings with validation has the curve and the line.
    caption = table_of(found).caption
    best = overfitting.best_epochs(found)
    assert set(best) == {"own", "averaged"} and re.search(
        r"the best epoch would gain \d+\.\d\d points for own( and 1 more \(|.* for averaged \()epoch \d of 3\)", caption
    )
    curve = found.trials["own", 0].curves["validation/robust"]
    assert best["own"].gain == pytest.approx(max(list(curve.values())[1:]) - curve[3])
    other = found.trials["own", 0].curves["validation/robust/ema:0.9:0"]
    assert best["averaged"].gain == pytest.approx(max(other.values()) - other[3])
    picture = draw_all(found)["overfitting"]
    assert isinstance(picture, Picture) and "the best epoch would gain" in picture.caption


def test_networks_are_measured_beside_the_last_one_and_reported_on_request(tmp_path: Path) -> None:
    rows = SPACE[SPACE.index("  - {label: own") : SPACE.index("claims:")]
    asked = options_of(
        space_of(
            tmp_path,
            **{
                rows: "  - {label: own, set: {training: {ema.decay: 0.9, keep: [1]}}}\n",
                SPACE[SPACE.index("claims:") :]: "",
                "validation: 0.2": "validation: 0",
            },
        )
    )
    assert launch_here(asked)[0] == 0
    values = {name: results(tmp_path, name).outcomes["own", 0].values["natural"] for name in ("last", "ema", "epoch:1")}
    assert len(values) == 3
    assert "averaged networks" in table_of(results(tmp_path, "ema")).caption
    lacking = results(tmp_path, "ema_best").problems["own", 0]
    assert lacking == "no ema_best network, which needs training.ema and data.validation above 0"
    assert overfitting.sentence(results(tmp_path)) == "" and "overfitting" not in draw_all(results(tmp_path))


def test_a_finished_training_without_an_average_says_so_and_offers_to_run_again(tmp_path: Path) -> None:
    asked = options_of(space_of(tmp_path), sets=["training.ema=null", "measurement.network=last"])
    assert launch_here(asked)[0] == 0
    later = options_of(tmp_path)
    code, told = launch_here(later)
    told = " ".join(told.split())
    assert code == 1
    assert re.search(
        r"keeps ema:0\.9@0 \(training\.ema\), got one that went past it without; --rerun ROW trains it", told
    )
    found = results(tmp_path)
    assert set(found.outcomes) == set() or ("own", 0) in found.outcomes
    assert "--rerun ROW" in found.problems["averaged", 0]
    assert "--retry-failed" not in told  # which would do nothing
    # Without its checkpoints it would be trained once more, and then keep it.
    storage = Storage(later.storage)
    [key] = plan_of(later).trainings
    storage.prune(key)
    code, told = launch_here(later)
    assert code == 0 and set(results(tmp_path).outcomes) == {
        (row, 0) for row in ("own", "averaged", "averaged later", "of epoch 2")
    }


def test_a_row_that_lacks_an_average_is_trained_once_more_in_its_place_and_keeps_what_there_was(tmp_path: Path) -> None:
    asked = options_of(space_of(tmp_path), sets=["training.ema=null", "training.keep=[2]", "measurement.network=last"])
    assert launch_here(asked)[0] == 0
    storage, rows = Storage(asked.storage), ["averaged", "averaged later"]
    [key] = plan_of(asked).trainings
    before = storage.view(key).records
    dry = launch_here(dataclasses.replace(options_of(tmp_path, rerun=rows, seeds=[]), dry_run=True))
    assert dry[0] == 0 and "train 3 epochs" in dry[1] and storage.view(key).has_checkpoint
    code, told = launch_here(options_of(tmp_path, rerun=rows, seeds=[]))
    assert code == 0 and "continuing" not in told and "replications" not in told
    assert set(results(tmp_path).outcomes) == {(row, 0) for row in rows}
    after = storage.view(key)
    assert before.items() <= after.records.items()  # the same bits, and what is measured of them stays
    assert set(after.keeps) == {"ema:0.9@0", "ema_best:0.5@1", "ema:0.5@1", "ema_best:0.9@0", "epoch:2"}
    # Once it has all, another --rerun compares.
    code, told = launch_here(options_of(tmp_path, rerun=rows[:1], seeds=[]))
    assert code == 0 and "the same bits" in " ".join(told.split())


def test_a_worker_passes_over_what_was_not_kept_and_measures_the_rest(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    plain = task(planned(tmp_path), storage)
    data = load(plain.spec.data, tmp_path)
    assert worker.run(plain, data, lambda event: None).state == "finished"
    wanting = task(planned(tmp_path, "training.ema.decay=0.9", "measurement.attacks=[natural, gn]"), storage)
    assert wanting.key == plain.key and worker.run(wanting, data, lambda event: None).state == "finished"
    records = storage.view(plain.key).records
    measured = {each.network for each in wanting.measurements if each.key in records}
    assert measured == {"last"} and "keeps ema:0.9@0" in storage.log(plain.key)[1]


def test_what_is_kept_travels_with_a_task(tmp_path: Path) -> None:
    given = dataclasses.replace(
        task(planned(tmp_path, "training.keep=[1]"), Storage(str(tmp_path / "storage"))), keep=("epoch:1", "ema:0.9@0")
    )
    assert unpack(pack(given)) == given


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"measurement": {"network": "ema"}}, "expected training.ema with measurement.network: ema, got none"),
        ({"measurement": {"network": "best"}}, "expected data.validation above 0 with measurement.network: best"),
        (
            {"measurement": {"network": "ema_best"}, "training": {"ema": {}}},
            "expected training.ema and data.validation above 0 with measurement.network: ema_best",
        ),
        ({"measurement": {"network": "epoch:121"}}, "of an epoch up to 120, got epoch:121"),
        ({"measurement": {"network": "first"}}, "should match pattern"),
        ({"training": {"ema": {"start": 120}}}, "training.ema.start before the last epoch (120), got 120"),
        ({"training": {"keep": [121]}}, "training.keep of epochs up to the last one (120), got 121"),
        ({"training": {"keep": [60, 60]}}, "each epoch of training.keep once, got 60 twice"),
    ],
)
def test_what_cannot_be_kept_or_measured_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        TrialSpec.model_validate(settings)


def test_a_network_that_is_none_is_refused_by_reports() -> None:
    refused = CliRunner().invoke(app, ["--network", "emma"]).output
    assert "--network: expected last, best, ema, ema_best or epoch:60, got 'emma'" in " ".join(refused.split())
