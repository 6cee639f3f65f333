"""Two bundles of one training, each with some of its columns: launches, pages and `make` take both, and no other's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ablate.core.errors import StorageError
from ablate.storage import plans
from ablate.storage.deletion import delete_records
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.bundle.support import changed, run
from tests.bundle.test_other_storages import go_on
from tests.bundle.test_page import written
from tests.bundle.test_round_trip import edited_record
from tests.support.helpers import numbers

COLUMNS = {"a.zip": "accuracy/natural", "b.zip": "accuracy/pgd20"}


@pytest.fixture(scope="module")
def halves(launched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two bundles, each without networks and with one column of all that was launched."""
    folder = tmp_path_factory.mktemp("halves")
    for name, column in COLUMNS.items():
        place = folder / f"storage of {name}"
        shutil.copytree(launched / "storage", place)
        storage = Storage(str(place))
        for trial in plans.load(storage).trials:
            delete_records(storage, trial.training, [key for label, key in trial.columns.items() if label != column])
        code, told = run("make", folder / name, "--space", "tiny", "--storage", place)
        assert code == 0, told
        shutil.rmtree(place)
    return folder


def conflicting(launched: Path, halves: Path, folder: Path) -> Path:
    """The first of them, and a bundle of all columns, of which the first one's has other numbers there."""
    folder.mkdir()
    shutil.copy(halves / "a.zip", folder / "a.zip")
    run("make", folder / "all.zip", "--space", "tiny", "--storage", launched / "storage")

    def better(record: Record) -> Record:
        right = np.ones(len(record.arrays["correct"]), np.bool_)
        return Record(record.key, {"accuracy": 100.0}, {"correct": right}, record.meta)

    def edit(files: dict[str, bytes]) -> None:
        for path in [name for name in files if "/record-" in name]:
            if Record.from_bytes(files[path]).meta["what"] == "natural":
                edited_record(files, better, path)

    changed(folder / "all.zip", folder / "b.zip", edit)
    (folder / "all.zip").unlink()
    return folder


@pytest.mark.parametrize("order", [["a.zip", "b.zip"], ["b.zip", "a.zip"]])
def test_a_launch_takes_both_and_trains_nothing(launched: Path, halves: Path, tmp_path: Path, order: list[str]) -> None:
    also = [halves / name for name in order]
    assert "2 to reuse" in go_on(tmp_path, launched, *also, dry_run=True)
    told = go_on(tmp_path, launched, *also)
    assert f"its measurements are from bundle {order[0]} and bundle {order[1]}" in told and "2 to reuse" in told
    own, theirs = numbers(tmp_path / "own"), numbers(launched / "storage")
    assert len(own) == 6 and all(theirs[name] == found for name, found in own.items())


def test_what_a_second_one_has_comes_to_what_was_taken_from_the_first(
    launched: Path, halves: Path, tmp_path: Path
) -> None:
    only = {"sets": ["measurement.attacks=[natural]"]}
    assert "2 to reuse" in go_on(tmp_path, launched, halves / "a.zip", **only)
    assert "2 to reuse" in go_on(tmp_path, launched, halves / "b.zip")
    assert len(numbers(tmp_path / "own")) == 6


def test_a_page_over_both_has_the_numbers_of_one_that_holds_all(halves: Path, bundle: Path, tmp_path: Path) -> None:
    text = "{tiny/small/natural} {tiny/large/pgd20.seed1} {tiny/small/pgd20.n}\n"
    pages = [written(tmp_path, text, each) for each in (halves / "a.zip", bundle)]
    assert [code for code, *_ in pages] == [0, 0], pages
    assert pages[0][2] == pages[1][2]


def test_two_that_differ_in_a_number_are_named(launched: Path, halves: Path, tmp_path: Path) -> None:
    folder = conflicting(launched, halves, tmp_path / "both")
    for order in (["a.zip", "b.zip"], ["b.zip", "a.zip"]):
        with pytest.raises(StorageError, match=r"--also: tiny/small, seed 0: .*\(natural\).*has other numbers"):
            go_on(tmp_path, launched, *(folder / name for name in order))
    assert not Storage(str(tmp_path / "own")).keys()
    code, told, _ = written(tmp_path, "{tiny/small/natural}\n", folder / "a.zip")
    assert code == 2 and "(natural)" in told and "has other numbers of it than" in told
    of = ["--space", "tiny", "--storage", launched / "storage"]
    code, told = run("make", folder / "c.zip", *of, "--without", folder / "b.zip")
    assert code == 2 and "(natural)" in told and not (folder / "c.zip").exists()


def test_a_number_that_is_here_stays_and_another_one_is_told(launched: Path, halves: Path, tmp_path: Path) -> None:
    go_on(tmp_path, launched, halves / "a.zip", sets=["measurement.attacks=[natural]"])
    before = numbers(tmp_path / "own")
    told = go_on(tmp_path, launched, conflicting(launched, halves, tmp_path / "both") / "b.zip")
    assert "2 to reuse" in told and told.count("those here count") == 2
    assert len(before) == 4 and before.items() <= numbers(tmp_path / "own").items()
    assert len(numbers(tmp_path / "own")) == 6
