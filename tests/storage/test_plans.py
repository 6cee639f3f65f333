from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.learning import data
from ablate.planning.plan_file import plan_file_of
from ablate.spaces import loading
from ablate.spaces import space as space_module
from ablate.spaces import trials as trials_module
from ablate.spaces.claims import Claim
from ablate.spaces.presets import load_preset
from ablate.spaces.specs import DataSpec, TrialSpec
from ablate.storage import plans
from ablate.storage.checksums import seal
from ablate.storage.plans import PlanFile
from ablate.storage.registrations import RegistrationPart
from ablate.storage.storage import Storage
from tests.support.tracking_world import T0, plan_of

SPACE = """
title: Two
description: Of two rows
table: 2
rows:
  - {label: one, set: {training.epochs: 3}, published: {natural: 75.0}, note: as printed}
  - {label: two, set: {training.epochs: 4}}
claims:
  - {says: one is better, above: {row: one, rows: [two], metrics: [natural]}}
smoke: {rows: {one: {set: {training.epochs: 1}, note: shortened}}}
"""


@dataclass
class Planned:
    """What `PlannedTrial` has that is kept."""

    trial: space_module.Trial
    training: str
    columns: dict[str, str]
    analyses: dict[str, str]
    data: data.DataSummary


@dataclass
class Plan:
    """What `Plan` has that is kept."""

    id: str
    spaces: list[space_module.SpaceFile]
    preset: space_module.PresetFile
    overrides: list[str]
    seeds: list[int]
    trials: list[Planned]
    registrations: dict[str, RegistrationPart] = field(default_factory=dict)
    until: int | None = None
    not_needed: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def trainings(self) -> dict[str, SimpleNamespace]:
        """None of them came from elsewhere."""
        return {each.training: SimpleNamespace(origin="") for each in self.trials}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "two.yaml"
    path.write_text(SPACE)
    loaded = loading.load_space(str(path))
    summary = data.describe(DataSpec(), tmp_path)
    trials = [
        Planned(trial, f"{number:020x}", {"accuracy/natural": "a" * 20}, {"spectrum": "b" * 20}, summary)
        for number, trial in enumerate(trials_module.expand(loaded, load_preset("smoke"), [], [0, 1]))
    ]
    return Plan("abcdef0123", [loaded], load_preset("smoke"), ["data.image_size=32"], [0, 1], trials)


def test_a_plan_keeps_what_reports_need(plan: Any) -> None:
    file = plan_file_of(plan, {"git_commit": "c0ffee"})
    (space,) = file.spaces
    assert (space.title, space.table, space.description) == ("Two", 2, "Of two rows")
    assert [(row.label, row.note, row.published) for row in space.rows] == [
        ("one", "shortened", {"natural": 75.0}),  # the preset's note in the row's place
        ("two", None, {}),
    ]
    assert [Claim.model_validate(claim) for claim in space.claims] == plan.spaces[0].space.claims
    assert [(t.row, t.seed, t.training) for t in file.trials] == [
        (p.trial.label, p.trial.seed, p.training) for p in plan.trials
    ]
    assert [TrialSpec.model_validate_json(json.dumps(t.spec)) for t in file.trials] == [
        planned.trial.spec for planned in plan.trials
    ]
    assert file.trials[0].measurements == {"a" * 20, "b" * 20}
    assert file.provenance == {"git_commit": "c0ffee"}


@pytest.mark.parametrize(
    ("name", "change", "paper"),
    [
        ("cifar10", {}, True),
        ("cifar10", {"test_digest": "another"}, False),
        ("cifar10", {"train_digest": "another"}, False),
        ("imagefolder", {}, False),
    ],
)
def test_only_the_whole_cifar10_is_the_papers_data(plan: Any, name: str, change: dict[str, str], paper: bool) -> None:
    first = plan.trials[0]
    first.data = replace(first.data, **change)
    spec = first.trial.spec.model_copy(update={"data": DataSpec(name=name, root="there")})  # type: ignore[arg-type]
    first.trial = replace(first.trial, spec=spec)
    assert plan_file_of(plan).trials[0].data.paper == paper


def test_whether_claims_are_judged_is_the_launchs_word_and_of_older_plans_the_presets(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = plan_file_of(plan, {})
    assert told.preset == "smoke" and told.decides_claims is False
    told = told.model_copy(update={"decides_claims": True})  # as if the preset's file had changed since
    older = {name: value for name, value in told.model_dump().items() if name != "decides_claims"}
    assert told.judges_claims and not plans.parse(json.dumps(seal(older)), "older").judges_claims
    monkeypatch.setattr(plans, "preset_decides_claims", lambda name: pytest.fail(f"{name} was read"))
    assert plans.parse(told.to_json(), "plan").judges_claims


def test_saved_and_loaded_it_is_the_same(plan: Any, storage: Storage) -> None:
    saved = plans.save(plan_file_of(plan, {"command": "launch"}), storage)
    assert plans.load(storage, plan.id) == saved
    assert plans.load(storage) == saved
    assert plans.load(storage, space="two") == saved
    assert storage.keys() == []  # beside the trainings, not among them


def test_launched_again_it_keeps_when_it_was_first(storage: Storage) -> None:
    plans.save(plan_of(launched_ms=T0), storage)
    later = plan_of(launched_ms=T0 + 5).model_copy(update={"created_ms": T0 + 5})
    assert plans.save(later, storage).created_ms == T0
    assert plans.load(storage).launched_ms == T0 + 5


def test_the_one_launched_last_is_loaded(storage: Storage) -> None:
    for plan_id, launched_ms in (("1", T0), ("2", T0 + 2), ("3", T0 + 1)):
        plans.save(plan_of(plan_id=plan_id, launched_ms=launched_ms), storage)
    plans.save(plan_of(plan_id="4", space="other", launched_ms=T0 + 9), storage)
    assert plans.load(storage).id == "4"
    assert plans.load(storage, space="batch_size").id == "2"
    assert set(plans.plan_ids(storage)) == {"1", "2", "3", "4"}


def test_an_unknown_plan_is_named_with_the_nearest(storage: Storage) -> None:
    with pytest.raises(StorageError, match="expected a plan launched into it, got none"):
        plans.load(storage)
    with pytest.raises(StorageError, match="expected a plan launched into it, got none"):
        plans.load(storage, "aaaaaaaaab")  # there is none that could be named
    plans.save(plan_of(), storage)
    with pytest.raises(StorageError, match="did you mean 'aaaaaaaaaa'"):
        plans.load(storage, "aaaaaaaaab")
    with pytest.raises(StorageError, match="a plan of 'lowpass'"):
        plans.load(storage, space="lowpass")
    with pytest.raises(StorageError, match="expected a plan launched"):
        plans.load(storage, "../../etc/passwd")


def test_a_plan_under_anothers_name_is_refused_and_in_nobodys_way(storage: Storage) -> None:
    plans.save(plan_of(plan_id="aa", launched_ms=T0), storage)
    storage.files.write("plans/bb.json", plan_of(plan_id="cc", launched_ms=T0 + 9).to_json().encode())
    with pytest.raises(StorageError, match="expected plan bb, got a file of plan 'cc'"):
        plans.load(storage, "bb")
    told: list[str] = []
    assert [found.id for found in plans.load_all(storage, told.append)] == ["aa"]
    assert plans.load(storage).id == "aa" and "expected plan bb" in told[0]


def test_another_layout_is_refused_by_name() -> None:
    text = plan_of().model_copy(update={"layout": 99}).to_json()
    with pytest.raises(StorageError, match="expected plan layout 1, got 99"):
        plans.parse(text, "plan.json")


@given(st.integers(0, 2000), st.binary(max_size=8))
def test_a_damaged_file_is_refused_or_read_whole(at: int, noise: bytes) -> None:
    content = bytearray(plan_of(rows=("512",)).to_json().encode())
    content[at : at + len(noise)] = noise
    try:
        assert isinstance(plans.parse(bytes(content), "plan.json"), PlanFile)
    except StorageError as error:
        assert "plan.json" in str(error)


def test_a_damaged_file_is_replaced_by_the_next_launch(storage: Storage) -> None:
    plans.save(plan_of(), storage)
    storage.files.write("plans/aaaaaaaaaa.json", b"{")
    plans.save(plan_of(), storage)
    assert plans.load(storage).id == "aaaaaaaaaa"


def test_trainings_are_shared_in_order() -> None:
    file = plan_of(rows=("32", "16"), seeds=(0, 1), shared=True)
    assert [[(t.row, t.seed) for t in trials] for trials in file.trainings().values()] == [
        [("32", 0), ("16", 0)],
        [("32", 1), ("16", 1)],
    ]


def test_no_secret_is_kept(plan: Any, storage: Storage) -> None:
    plan.overrides = ["data.root=s3://key:hunter2@bucket"]
    plans.save(plan_file_of(plan, {"command": "launch --tracking-uri http://me:hunter2@server"}), storage)
    assert b"hunter2" not in (storage.files.read(f"plans/{plan.id}.json") or b"")


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@server/x",
        "http://me:hunter2@hunter2@server",
        "s3://KEY:hunter2/hunter2@bucket/prefix?region=eu",
        "postgresql://me:hunter2@db/mlflow and then http://hunter2@other",
        "launch --set a.token=hunter2 --tracking-uri 'http://me:hunter2@server'",
    ],
)
def test_secrets_are_redacted_wherever_they_stand(uri: str) -> None:
    assert "hunter2" not in redact(uri) and "***" in redact(uri)


@pytest.mark.parametrize(
    "plain", ["sqlite:////home/me/mlflow.db", "http://127.0.0.1:5000", "s3://bucket/a@b", "training.epochs=3", "a@b.c"]
)
def test_what_is_no_secret_stays(plain: str) -> None:
    assert redact(plain) == plain


def test_a_damaged_plan_is_in_nobody_elses_way(storage: Storage) -> None:
    file = plans.save(plan_of(), storage)
    storage.files.write("plans/0000000000.json", b"{")
    assert plans.load(storage).id == file.id
    with pytest.raises(StorageError, match=r"0000000000.json: expected a plan as JSON"):
        plans.load(storage, "0000000000")


def test_a_space_is_named_like_a_file_of_spaces_for_reports_make_a_folder_of_it() -> None:
    content = json.dumps(seal(json.loads(plan_of().model_dump_json().replace('"batch_size"', '"../../escape"'))))
    with pytest.raises(StorageError, match="name"):
        plans.parse(content, "plan.json")


def test_a_path_of_other_bytes_can_be_written_down(plan: Any, storage: Storage) -> None:
    file = plans.save(plan_file_of(plan, {"command": "launch --data-root /data/\udcff"}), storage)
    assert plans.load(storage, file.id).provenance["command"].startswith("launch --data-root /data/")
