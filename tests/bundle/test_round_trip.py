"""A bundle says what its storage says, to everybody who reads it; and what was edited in it is found."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from ablate.bundle.selection import Words, plan_by_words
from ablate.bundle.statement import plain, results_in, statement_of
from ablate.core.errors import StorageError
from ablate.report import from_storage
from ablate.report.__main__ import app as report_app
from ablate.report.formats import to_markdown
from ablate.report.tables import build_table, table_input
from ablate.status.__main__ import app as status_app
from ablate.storage import plans
from ablate.storage.attempts import attempts_of, read_manifest, seal_manifest
from ablate.storage.bundles import BundleFiles
from ablate.storage.checksums import sha256
from ablate.storage.layers import LayeredFiles
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.bundle.support import changed, contents, run

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "storage.tar.xz"


def tables(storage: Storage) -> list[str]:
    return [to_markdown(build_table(table_input(each))) for each in results_in(plans.load(storage), storage)]


def test_a_bundle_gives_the_tables_verdicts_and_figures_of_its_storage(launched: Path, bundle: Path) -> None:
    before, after = Storage(str(launched / "storage")), Storage(str(bundle))
    assert tables(before) == tables(after)
    [ours], [theirs] = (results_in(plans.load(each), each) for each in (before, after))
    assert statement_of(ours) == statement_of(theirs)
    code, told = run("verify", bundle)
    assert code == 0 and "nothing differs" in told and "4 trainings, 8 records, 1 table, 1 verdict" in told
    assert "verdicts for each image, numbers of analyses, curves. --spot N" in told  # taken as they are


def test_the_same_content_is_the_same_bytes(launched: Path, bundle: Path, tmp_path: Path) -> None:
    storage = launched / "storage"
    run("make", tmp_path / "again.zip", "--space", "tiny", "--storage", storage, "--checkpoints")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_no_checkpoint_travels_unasked_nor_any_log(launched: Path, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.zip"
    code, told = run("make", path, "--space", "tiny", "--storage", launched / "storage")
    assert code == 0 and "4 trainings" in told
    assert not [name for name in contents(path) if "checkpoint-" in name or "log.txt" in name]
    assert [name for name in contents(bundle) if "checkpoint-" in name]
    assert path.stat().st_size < 4 * 100_000
    storage = Storage(str(path))
    assert all(storage.view(key).finished and not storage.damage(key) for key in storage.keys())  # noqa: SIM118


def test_nothing_of_the_machine_travels(launched: Path, bundle: Path) -> None:
    text = b"".join(content for name, content in contents(bundle).items() if name.endswith(".json"))
    assert str(launched).encode() not in text


def test_the_words_of_a_launch_choose_what_it_is_of(launched: Path, tmp_path: Path) -> None:
    storage = launched / "storage"
    by_words, by_id = tmp_path / "words.zip", tmp_path / "id.zip"
    words = ("--space", "tiny", "--preset", "paper", "--seeds", "1", "--row", "small")
    assert run("make", by_words, *words, "--storage", storage)[0] == 0
    plan = plans.load(Storage(str(by_words)))
    assert [(trial.row, trial.seed) for trial in plan.trials] == [("small", 1)]
    assert run("verify", by_words)[0] == 0
    whole = plans.load(Storage(str(storage)))
    assert run("make", by_id, "--plan", whole.id, "--storage", storage)[0] == 0
    assert plans.load(Storage(str(by_id))).trials == whole.trials


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--space", "tinyy"], "did you mean 'tiny'"),
        (["--space", "tiny", "--seeds", "7"], "expected seeds launched of tiny, got 7"),
        (["--space", "tiny", "--seeds", "x"], "expected whole numbers"),
        (["--space", "tiny", "--row", "smal"], "did you mean 'small'"),
        (["--space", "tiny", "--preset", "smoke"], "expected a launch of tiny by these words"),
        (["--space", "tiny", "--plan", "ab"], "expected --space or --plan, got both"),
        ([], "expected --space or --plan, got neither"),
        (["--plan", "ab"], "expected a plan"),
        (["--plan", "ab", "--seeds", "1"], "in place of"),
        (["--space", "tiny", "--sign", "no key"], "expected sigstore or the file of a key"),
        (["--space", "tiny", "--without", "/nowhere/b.zip"], "in the folder of"),
    ],
)
def test_words_that_chose_nothing_are_refused(launched: Path, tmp_path: Path, words: list[str], told: str) -> None:
    code, output = run("make", tmp_path / "b.zip", *words, "--storage", launched / "storage")
    assert code == 2 and told in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_bundles_hold_a_shared_training_once(launched: Path, tmp_path: Path) -> None:
    storage, first, second = launched / "storage", tmp_path / "first.zip", tmp_path / "second.zip"
    run("make", first, "--space", "tiny", "--row", "small", "--storage", storage)
    code, told = run("make", second, "--space", "tiny", "--storage", storage, "--without", first)
    assert code == 0 and "2 trainings more in first.zip" in told
    keys = [set(Storage.of(BundleFiles(path, alone=True)).keys()) for path in (first, second)]
    assert [len(each) for each in keys] == [2, 2] and not keys[0] & keys[1]
    [results] = results_in(plans.load(Storage(str(second))), Storage(str(second)))  # as a report reads it
    assert len(results.outcomes) == 4
    assert run("verify", first, second)[0] == 0
    first.rename(tmp_path / "elsewhere.zip")
    code, told = run("verify", second)
    assert code == 1 and "expected first.zip beside second.zip" in told


@pytest.mark.slow
def test_many_small_bundles_are_read_as_the_one_they_would_be(launched: Path, bundle: Path, tmp_path: Path) -> None:
    code, told = run("make", tmp_path / "s.zip", "--space", "tiny", "--storage", launched / "storage", "--split")
    assert code == 0, told
    paths = [tmp_path / "s-tiny-0.zip", tmp_path / "s-tiny-1.zip"]
    assert sorted(tmp_path.iterdir()) == paths and run("verify", *paths)[0] == 0
    union = Storage.of(LayeredFiles(*map(BundleFiles, paths)))
    joined = plan_by_words(union, Words(["tiny"]), lambda told: None)
    [whole] = results_in(plans.load(Storage(str(bundle))), Storage(str(bundle)))
    [found] = results_in(joined, union)
    stated = [statement_of(each) for each in (whole, found)]
    assert stated[0] == stated[1] | {"id": stated[0]["id"]} and joined.id == stated[0]["id"]


def test_a_bundle_is_only_read(bundle: Path) -> None:
    storage = Storage(str(bundle))
    for act in (storage.check, lambda: storage.prune(storage.keys()[0]), lambda: storage.describe("ab" * 10, {})):
        with pytest.raises(StorageError, match=r"which is only read; .*--also"):
            act()


def test_an_edited_statement_is_found(bundle: Path, tmp_path: Path) -> None:
    def edit(files: dict[str, bytes]) -> None:
        said = json.loads(files["results/tiny.json"])
        said["tables"]["last"]["small"]["ours"]["natural"]["value"] += 0.5
        next(iter(said["verdicts"].values()))["verdict"] = "holds"
        said["shown"]["small, seed 0"]["energy/ratio"]["size"] *= 1.01
        files["results/tiny.json"] = json.dumps(said).encode()

    code, told = run("verify", changed(bundle, tmp_path / "b.zip", edit))
    assert code == 1 and "3 differences" in told
    for place in (
        "tables · last · small · ours · natural · value",
        "verdicts · ",
        "shown · small, seed 0 · energy/ratio · size",
    ):
        assert place in told


def edited_record(files: dict[str, bytes], change: object, path: str | None = None) -> None:
    """A record changed with all of its checksums."""
    path = path or next(name for name in files if "/record-" in name and b"correct" in files[name])
    record = Record.from_bytes(files[path])
    content = change(record).to_bytes()  # type: ignore[operator]
    files[path] = content
    manifest = next(name for name in files if name.startswith(path.rpartition("/")[0]) and "manifest-" in name)
    body = json.loads(json.loads(files[manifest])["body"])
    body["records"][record.key][1] = sha256(content)
    files[manifest] = seal_manifest(body)


def test_an_edited_accuracy_is_not_that_of_its_images(bundle: Path, tmp_path: Path) -> None:
    def better(record: Record) -> Record:
        return Record(record.key, {"accuracy": 99.0}, record.arrays, record.meta)

    path = changed(bundle, tmp_path / "b.zip", lambda files: edited_record(files, better))
    code, told = run("verify", path)
    assert code == 1 and "it states 99 %, its images give" in told


def test_edited_images_are_not_what_was_stated(bundle: Path, tmp_path: Path) -> None:
    def better(record: Record) -> Record:
        return Record(record.key, {"accuracy": 100.0}, {"correct": np.ones_like(record.arrays["correct"])}, record.meta)

    path = changed(bundle, tmp_path / "b.zip", lambda files: edited_record(files, better))
    code, told = run("verify", path)
    assert code == 1 and "its records give 100" in told


def test_a_record_of_another_measurement_or_training_is_found(bundle: Path, tmp_path: Path) -> None:
    def other(record: Record) -> Record:
        return Record("ef" * 10, record.scalars, record.arrays, record.meta)

    def retold(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.endswith("training.json"))
        files[name] = files[name].replace(b'"seed": 0', b'"seed": 7').replace(b'"seed": 1', b'"seed": 8')
        plan = next(name for name in files if "/plans/" in name)
        told = json.loads(files[plan])
        told["trials"][0]["row"] = "large"
        files[plan] = json.dumps({key: value for key, value in told.items() if key != "sha256"}).encode()

    path = tmp_path / "b.zip"
    code, told = run("verify", changed(bundle, path, lambda files: edited_record(files, lambda r: other(r))))
    assert code in (1, 2) and "ef" * 10 in told
    code, told = run("verify", changed(bundle, path, retold))
    assert code == 1 and "has the key" in told and "its trials are those of plan" in told


def other_history(files: dict[str, bytes]) -> None:
    for path in [name for name in files if "/history-" in name]:
        files[path] = b'[{"epoch": "never", "metrics": [1]}]'
        manifest = next(name for name in files if name.startswith(path.rpartition("/")[0]) and "manifest-" in name)
        body = json.loads(json.loads(files[manifest])["body"])
        body["histories"] = [[path.rpartition("/")[2], sha256(files[path])]]
        files[manifest] = seal_manifest(body)


def other_arrays(files: dict[str, bytes]) -> None:
    def shapeless(record: Record) -> Record:
        return Record(record.key, {"accuracy": "high"}, {"correct": np.zeros((2, 2))}, record.meta)  # type: ignore[dict-item]

    edited_record(files, shapeless)


def other_statement(files: dict[str, bytes]) -> None:
    files["results/tiny.json"] = b"[1, 2"


def other_plan(files: dict[str, bytes]) -> None:
    files[next(name for name in files if "/plans/" in name)] = b'{"layout": 1}'


@pytest.mark.parametrize("change", [other_history, other_arrays, other_statement, other_plan])
def test_what_no_launch_writes_is_told_in_a_line(bundle: Path, tmp_path: Path, change: Callable[..., None]) -> None:
    code, told = run("verify", changed(bundle, tmp_path / "b.zip", change))
    assert code in (1, 2) and "b.zip" in told and "Traceback" not in told


def test_what_is_damaged_in_storage_makes_no_bundle(launched: Path, tmp_path: Path) -> None:
    shutil.copytree(launched / "storage", tmp_path / "storage")
    record = next((tmp_path / "storage").rglob("record-*"))
    record.write_bytes(b"cut")
    code, told = run("make", tmp_path / "b.zip", "--space", "tiny", "--storage", tmp_path / "storage")
    assert code == 2 and "got a damaged" in told and not (tmp_path / "b.zip").exists()


def test_numbers_that_are_none_are_compared_by_name() -> None:
    assert plain({"a": [float("nan"), np.float32(0.5), None, True]}) == {"a": ["nan", 0.5, None, True]}


def test_manifests_name_what_is_there(bundle: Path) -> None:
    files = BundleFiles(bundle)
    for key in Storage.of(files).keys():  # noqa: SIM118 - a storage is no mapping
        for attempt in attempts_of(files, key):
            assert read_manifest(files, key, attempt) == read_manifest(files, key, attempt, present=False)


def test_a_bundle_describes_itself_and_is_verified_where_nobody_can_describe_one(
    launched: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(tmp_path / "unpacked")
    crate = ROCrate(tmp_path / "unpacked")
    assert crate.root_dataset["name"] == "tiny: A tiny space"
    assert {each.id for each in crate.data_entities} >= {"bundle.json", "results/tiny.json"}
    assert crate.get("#ablate")["softwareVersion"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "rocrate"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rocrate", None)
    assert run("verify", bundle)[0] == 0
    code, told = run("make", tmp_path / "b.zip", "--space", "tiny", "--storage", launched / "storage")
    assert code == 2 and "pip install rocrate" in told and not (tmp_path / "b.zip").exists()


def test_a_storage_of_the_first_version_and_a_search_are_bundled_and_verified(tmp_path: Path) -> None:
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(tmp_path, filter="data")
    for name in ("tiny", "tiny_search"):
        path = tmp_path / f"{name}.zip"
        code, told = run("make", path, "--space", name, "--storage", tmp_path / "storage")
        assert code == 0 and "3 trainings" in told
        code, told = run("verify", path)
        assert code == 0, told
    code, told = run("make", path, "--space", "tiny_search", "--row", "a", "--storage", tmp_path / "storage")
    assert code == 2 and "expected none of the search" in told


def test_how_a_training_came_out_again_travels_along(launched: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "storage"
    shutil.copytree(launched / "storage", theirs)
    plan = plans.load(Storage(str(theirs)))
    key = plan.trials[0].training
    shutil.copytree(theirs / key, theirs / "replications" / "0001" / key)
    request = {"layout": 1, "keys": [key], "requested_ms": 1}
    (theirs / "replications" / "0001" / "request.json").write_text(json.dumps(request))
    path = tmp_path / "b.zip"
    assert run("make", path, "--space", "tiny", "--storage", theirs)[0] == 0
    before, after = (from_storage.results_of(plan, Storage(str(each))) for each in (theirs, path))
    assert before.replications == after.replications
    [[found]] = after.replications.values()
    assert found.ending == "the same bits"
    assert run("verify", path)[0] == 0


def test_report_and_status_show_a_bundle_as_they_show_its_storage(launched: Path, bundle: Path) -> None:
    told = []
    for place in (launched / "storage", bundle):
        shown = CliRunner().invoke(report_app, ["--storage", str(place)])
        state = CliRunner().invoke(status_app, ["--storage", str(place), "--json"])
        assert (shown.exit_code, state.exit_code) == (0, 0)
        told.append((shown.output, [trial["state"] for trial in json.loads(state.output)[0]["trials"]]))
    assert told[0] == told[1]
