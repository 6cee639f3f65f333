"""Searches on real Ray processes: Tune's schedulers stop them, and whatever is killed goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablate.launch.options import Options
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import results_of
from ablate.report.search import SearchSummary, search_of
from ablate.storage.storage import Storage
from tests.support.helpers import plan_of, start_launch, until
from tests.support.launches import Process
from tests.support.search_helpers import trained_epochs, write_search

RAY = ("--no-tracking", "--cpus-per-trial", "1")
MODULE = """\
from ablate import register_augmentation

@register_augmentation("invert")
def invert(images, targets, draws, spec):
    return 1.0 - images, targets
"""


def start(folder: Path, *more: str) -> Process:
    return start_launch(folder, "--space", "tiny_search.yaml", *RAY, *more, out=folder / "out.txt")


def finish(folder: Path, *more: str) -> str:
    process = start(folder, *more)
    code = process.wait(240)
    text = (folder / "out.txt").read_text()
    assert code == 0, text
    return text


def results(folder: Path) -> SearchSummary:
    options = Options(space=[str(folder / "tiny_search.yaml")], storage=str(folder / "storage"))
    return search_of(results_of(plan_file_of(plan_of(options)), Storage(str(folder / "storage"))))


def test_asha_trains_fewer_epochs_also_when_killed_in_the_middle(tmp_path: Path, on_cluster: Any) -> None:
    write_search(tmp_path, scheduler={"name": "asha", "grace_epochs": 1, "reduction": 2})
    process = start(tmp_path)
    until(lambda: trained_epochs(tmp_path / "storage") >= 5, what="the fifth epoch")
    process.kill_group()
    text = finish(tmp_path)
    found = results(tmp_path)
    assert len(found.samples) == 6
    assert {sample.state for sample in found.samples} == {"complete", "stopped"}
    assert found.epochs < 6 * 4
    # Killed workers may repeat the epoch they were in; nothing else is trained twice.
    assert trained_epochs(tmp_path / "storage") <= found.epochs + 2
    assert "stopped early" in text and "Best on the validation split:" in text
    before = trained_epochs(tmp_path / "storage")
    finish(tmp_path)
    assert trained_epochs(tmp_path / "storage") == before


def test_a_users_module_reaches_the_workers_and_optuna_asks(tmp_path: Path, on_cluster: Any) -> None:
    (tmp_path / "my_inversion.py").write_text(MODULE)
    base = {"training.augmentation.name": "invert", "training.epochs": 1}
    write_search(tmp_path, base=base, scheduler="fifo", searcher="optuna", samples=2)
    finish(tmp_path, "--import", "my_inversion")
    states = [path.name for path in (tmp_path / "storage" / "searches").iterdir()]
    assert sorted(name.rsplit(".")[-1] for name in states) == ["db", "json"]
    assert trained_epochs(tmp_path / "storage") == 2
