"""`launch --also`: what others trained is taken over and told, the rest is trained, and theirs stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import StorageError
from ablate.launch.options import Options
from ablate.launch.request import Request, submission_of
from ablate.report.from_storage import all_results
from ablate.report.tables import build_table, table_input
from ablate.storage import plans
from ablate.storage.deletion import training_files
from ablate.storage.records import Record
from ablate.storage.registrations import read_all
from ablate.storage.storage import Storage
from tests.bundle.support import changed, run
from tests.bundle.test_round_trip import edited_record
from tests.support.helpers import launch_here, numbers, options_of


def go_on(folder: Path, launched: Path, *also: Path, **changes: Any) -> str:
    """A launch of the space into a storage of its own."""
    given = {"rows": ["small"], "seeds": [0, 1], **changes}
    asked = options_of(launched, storage=str(folder / "own"), also=list(map(str, also)), **given)
    code, told = launch_here(asked)
    assert code == 0, told
    return told


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_only_the_rest_is_trained_and_the_origin_is_told(launched: Path, bundle: Path, tmp_path: Path) -> None:
    told = go_on(tmp_path, launched, bundle, seeds=[0, 1, 2])
    assert told.count("reuse, from bundle bundle.zip") == 2 and "2 to reuse" in told
    own, theirs = numbers(tmp_path / "own"), numbers(bundle)
    shared = own.keys() & theirs.keys()
    assert len(Storage(str(tmp_path / "own")).keys()) == 3
    assert len(shared) == 6 and all(own[name] == theirs[name] for name in shared)  # histories, and two records each
    storage = Storage(str(tmp_path / "own"))
    [results] = all_results(plans.load(storage), storage)
    [row] = [row for row in build_table(table_input(results)).rows if row.label == "small"]
    assert "2 of 3 seeds from bundle bundle.zip" in row.notes
    assert "2 of 3 seeds from bundle bundle.zip" in told
    # Again, without the bundle: it is all there, and still told.
    again = go_on(tmp_path, launched, seeds=[0, 1, 2])
    assert "2 of 3 seeds from bundle bundle.zip" in again and "3 to reuse" in again
    # What is made of it tells it, too.
    code, said = run("make", tmp_path / "next.zip", "--space", "tiny", "--storage", tmp_path / "own")
    assert code == 0, said
    third = go_on(tmp_path / "third", launched, tmp_path / "next.zip", seeds=[0, 1, 2])
    assert "2 of 3 seeds from bundle bundle.zip and 1 from bundle next.zip" in third


def test_two_places_and_a_bundle_without_networks(launched: Path, bundle: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.zip"
    run("make", small, "--space", "tiny", "--row", "small", "--seeds", "0", "--storage", launched / "storage")
    place = tmp_path / "theirs" / "storage"
    shutil.copytree(launched / "storage", place)
    before = digests(place) | digests(tmp_path)
    told = go_on(tmp_path, launched, small, place, rows=["small", "large"])
    assert told.count("reuse, from bundle small.zip") == 1
    assert told.count("reuse, from storage theirs/storage") == 3 and "4 to reuse" in told
    assert {path: digest for path, digest in digests(tmp_path).items() if path in before} == before


def test_a_folder_gives_each_of_its_bundles(launched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    of = ["--space", "tiny", "--storage", launched / "storage"]
    run("make", folder / "b.zip", *of, "--row", "small", "--seeds", "1")
    run("make", folder / "a.zip", *of, "--without", folder / "b.zip")
    (folder / ".tmp-c.zip").write_bytes(b"being written")
    (folder / "notes.txt").touch()
    told = go_on(tmp_path, launched, folder, folder / "a.zip", rows=["small", "large"])
    assert told.count("reuse, from bundle a.zip") == 3 and told.count("reuse, from bundle b.zip") == 1
    code, said = run("verify", folder, folder / "b.zip")
    assert code == 0 and said.count("nothing differs") == 2
    (folder / "c.zip").write_bytes(b"not a bundle")
    with pytest.raises(StorageError, match=r"c\.zip: expected a zip file"):
        go_on(tmp_path, launched, folder)


def test_a_dry_run_tells_it_and_writes_nothing(launched: Path, bundle: Path, tmp_path: Path) -> None:
    told = go_on(tmp_path, launched, bundle, dry_run=True)
    assert told.count("reuse, from bundle bundle.zip") == 2
    assert not (tmp_path / "own").exists()


def test_a_new_column_is_measured_where_the_network_came_along_else_trained(
    launched: Path, bundle: Path, tmp_path: Path
) -> None:
    column = {"sets": ["measurement.attacks=[natural, fgsm]"], "seeds": [0]}
    told = go_on(tmp_path / "with", launched, bundle, **column)
    assert "continue: trained, 1 measurement to go" in told
    without = tmp_path / "without.zip"
    run("make", without, "--space", "tiny", "--storage", launched / "storage")
    told = go_on(tmp_path / "without", launched, without, **column)
    assert "bundle without.zip lacks measurements of it, and its network; it is trained here" in told
    assert "from bundle" not in told.replace("bundle without.zip lacks", "")


def test_registrations_come_along(launched: Path, bundle: Path, tmp_path: Path) -> None:
    go_on(tmp_path, launched, bundle)
    [theirs], _ = read_all(Storage(str(launched / "storage")).files)
    [own], _ = read_all(Storage(str(tmp_path / "own")).files)
    assert own == theirs
    part = plans.load(Storage(str(tmp_path / "own"))).spaces[0].registration
    assert part is not None and part.claims[0].registered and part.claims[0].registered_ms == theirs.registered_ms


def test_what_others_measured_was_known_when_another_claim_is_registered(
    launched: Path, bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.yaml"
    text = (launched / "tiny.yaml").read_text()
    path.write_text(text.replace("metrics: [natural]", "metrics: [pgd20]"))
    asked = options_of(tmp_path, storage=str(tmp_path / "own"), also=[str(bundle)], rows=["small"], seeds=[0])
    code, told = launch_here(asked)
    assert code == 0, told
    part = plans.load(Storage(str(tmp_path / "own"))).spaces[0].registration
    assert part is not None and not part.claims[0].registered and "had been measured" in part.claims[0].why


def test_places_that_are_none_are_refused(launched: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(bundle.read_bytes()[:100])
    for also, told in {
        tmp_path / "empty": "expected a bundle, a folder of bundles, or a storage with trainings, got none there",
        tmp_path / "none.zip": "expected a bundle, got",
        tmp_path / "own": "expected another storage than --storage",
        broken: "expected a zip file",
    }.items():
        with pytest.raises(StorageError, match=told):
            go_on(tmp_path, launched, also)
    assert not (tmp_path / "own").exists()


def test_json_tells_the_origin(
    launched: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on(tmp_path, launched, bundle, as_json=True, seeds=[0])
    found = json.loads(capsys.readouterr().out)
    assert [trial["origin"] for trial in found["trials"]] == ["bundle bundle.zip"]


def test_what_is_deleted_here_and_trained_anew_is_ones_own(launched: Path, bundle: Path, tmp_path: Path) -> None:
    go_on(tmp_path, launched, bundle, seeds=[0])
    storage = Storage(str(tmp_path / "own"))
    [key] = storage.keys()
    origin = json.loads(storage.files.read(f"origins/{key}.json") or b"")
    assert origin["digest"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert "1 of 1 seed from bundle bundle.zip" in go_on(tmp_path, launched, seeds=[0])
    shutil.rmtree(tmp_path / "own" / key)
    assert "from bundle" not in go_on(tmp_path, launched, seeds=[0])
    assert "from bundle" not in go_on(tmp_path, launched, bundle, seeds=[0])  # nor does the bundle claim it
    assert f"origins/{key}.json" in training_files(storage, key)


def test_a_bundle_travels_with_a_job(launched: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(launched)
    asked = Options(space=["tiny.yaml"], also=[str(bundle), "s3://bucket/theirs"], cluster="http://head:8265")
    sent = submission_of(Request.read(asked), None)
    assert sent.include == ["bundle.zip"]
    assert sent.arguments[sent.arguments.index("--also") + 1] == "bundle.zip" and "s3://bucket/theirs" in sent.arguments


def test_edited_numbers_are_not_taken_over(launched: Path, bundle: Path, tmp_path: Path) -> None:
    def better(record: Record) -> Record:
        return Record(record.key, {"accuracy": 99.0}, record.arrays, record.meta)

    def edit(files: dict[str, bytes]) -> None:
        for path in [name for name in files if "/record-" in name]:
            edited_record(files, better, path)

    path = changed(bundle, tmp_path / "edited.zip", edit)
    with pytest.raises(StorageError, match=r"edited\.zip: tiny/small: record .* it states 99 %, its images give"):
        go_on(tmp_path, launched, path)
    assert not Storage(str(tmp_path / "own")).keys()
