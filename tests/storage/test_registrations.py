"""Registrations in a bucket, and what MLflow gets of them."""

from __future__ import annotations

import json
from pathlib import Path

from ablate.launch.registration import register
from ablate.planning.plan import Plan
from ablate.planning.plan_file import plan_file_of
from ablate.storage.registrations import SHORT_DIGEST, RegistrationPart, parse, path_of, read_all
from ablate.storage.storage import Storage
from tests.support.helpers import options_of, plan_of, write_space
from tests.support.tracking_world import tracker_at

CLAIM = '\nclaims:\n  - {says: "small is above", above: {row: small, rows: [large], metrics: [natural]}}\n'


def registered(folder: Path, storage: Storage, commit: str = "c0ffee") -> tuple[Plan, RegistrationPart]:
    path = write_space(folder)
    path.write_text(path.read_text() + CLAIM)
    plan = plan_of(options_of(folder))
    plan.registrations = register(plan, storage, {"git_commit": commit}, folder)
    return plan, plan.registrations["tiny"]


def test_in_a_bucket_the_first_writer_keeps_time_and_commit(tmp_path: Path, bucket: str) -> None:
    storage = Storage(bucket)
    _, first = registered(tmp_path, storage)
    content = storage.files.read(path_of(first.digest))
    _, again = registered(tmp_path, Storage(bucket), "another")
    assert again == first and first.commit == "c0ffee" and first.claims[0].registered
    assert storage.files.read(path_of(first.digest)) == content
    assert [each.digest for each in read_all(storage.files)[0]] == [first.digest]


def test_in_a_bucket_one_that_was_edited_is_named_and_stays(tmp_path: Path, bucket: str) -> None:
    storage = Storage(bucket)
    _, first = registered(tmp_path, storage)
    path = path_of(first.digest)
    edited = (storage.files.read(path) or b"").replace(b"c0ffee", b"decade")
    storage.files.write(path, edited)
    _, part = registered(tmp_path, storage)
    assert not part.claims[0].registered and f"{path} is damaged or was edited" in part.claims[0].why
    assert storage.files.read(path) == edited


def test_the_digest_is_a_tag_of_the_plans_run_and_the_registration_an_artifact(tmp_path: Path, template: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    plan, part = registered(tmp_path, storage)
    tracker = tracker_at(template)(tmp_path)
    tracker.open_plan(plan_file_of(plan, {}), storage)
    store = tracker.store
    experiment = store.experiment("tiny")
    assert experiment is not None
    [run] = store.runs(experiment, {"ablate.kind": "plan"})
    assert run.tags["ablate.registration"] == part.digest
    kept = json.loads(store.download(run.id, "registration.json"))
    assert kept["digest"] == part.digest and kept["content"]["claims"] == part.content["claims"]
    assert len(part.digest[:SHORT_DIGEST]) == SHORT_DIGEST
    assert parse(storage.files.read(path_of(part.digest)), part.digest).content == part.content
