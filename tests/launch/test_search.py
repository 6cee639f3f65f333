"""Searches: what is asked for, what is told, what a killed one goes on with; in one process, on tiny digits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import ablate
from ablate.core.errors import SpecError, UserError
from ablate.execution.base import Outcome
from ablate.launch import sources
from ablate.launch.options import Options
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.planning.plan_file import plan_file_of
from ablate.planning.search import Search
from ablate.report import search as report_search
from ablate.report.from_storage import results_of
from ablate.report.search import SearchSummary, best_space, pareto_front
from ablate.spaces.loading import load_space
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of
from tests.support.search_helpers import search_of, trained_epochs, write_search
from tests.support.tasks import have_tasks_run_by, what_runs_tasks

pytestmark = pytest.mark.slow


def options(folder: Path, **changes: Any) -> Options:
    return options_of(folder, "tiny_search", **changes)


def run(folder: Path, **changes: Any) -> tuple[int, str]:
    return launch_here(options(folder, **changes))


def results(folder: Path, **changes: Any) -> SearchSummary:
    plan = plan_file_of(plan_of(options(folder, **changes)))
    return report_search.search_of(results_of(plan, Storage(str(folder / "storage"))))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished local search with ASHA."""
    folder = tmp_path_factory.mktemp("searched")
    write_search(folder)
    code, text = run(folder)
    assert code == 0, text
    return folder


def test_asha_stops_early_and_says_so(searched: Path) -> None:
    found = results(searched)
    states = [sample.state for sample in found.samples]
    assert len(states) == 6 and {"complete", "stopped"} == set(states)
    assert found.epochs == trained_epochs(searched / "storage") < 6 * 4
    storage = Storage(str(searched / "storage"))
    for planned, sample in zip(plan_of(options(searched)).trials, found.samples, strict=True):
        view = storage.view(planned.training)
        assert view.stopped == (sample.epoch if sample.state == "stopped" else None)
        assert view.finished == (sample.state == "complete")
        assert bool(view.records) == (sample.state == "complete")
    best = pareto_front(found)[0]
    assert best.objectives[0] == max(sample.objectives[0] for sample in found.complete)


def test_the_same_command_again_trains_nothing(searched: Path) -> None:
    before = trained_epochs(searched / "storage")
    code, text = run(searched)
    assert code == 0 and "stopped early" in text
    assert trained_epochs(searched / "storage") == before
    code, text = run(searched, dry_run=True)
    assert code == 0 and "estimated time: none" in text
    out = io.StringIO()
    assert launch(Request.read(options(searched, as_json=True)), Console(file=io.StringIO()), out) == 0
    content = json.loads(out.getvalue())
    assert content["search"]["best"][0]["row"] == pareto_front(results(searched))[0].label
    assert {trial["state"] for trial in content["trials"]} == {"finished", "stopped"}


def test_more_samples_go_on_with_the_same_search(searched: Path) -> None:
    before = [sample.values for sample in results(searched).samples]
    code, text = run(searched, sets=["search.samples=7"])
    assert code == 0 and "sample 6 of 7" in text and "sample 5 of 7" not in text
    assert [sample.values for sample in results(searched, sets=["search.samples=7"]).samples][:6] == before


def test_another_search_reuses_the_trainings_and_judges_for_itself(searched: Path) -> None:
    """Without early stopping the same samples: finished ones are reused, stopped ones are taken up and finished."""
    before = trained_epochs(searched / "storage")
    kept = sum(sample.epoch for sample in results(searched).samples[:6])
    code, text = run(searched, sets=["search.scheduler.name=fifo", "search.samples=6"])
    assert code == 0 and "was trained before" in text
    found = results(searched, sets=["search.scheduler.name=fifo", "search.samples=6"])
    assert [sample.state for sample in found.samples] == ["complete"] * 6
    assert trained_epochs(searched / "storage") - before == 6 * 4 - kept
    # The first search now knows more of what it had stopped, and trains nothing.
    assert run(searched)[0] == 0
    assert {sample.state for sample in results(searched).samples} == {"complete"}


def test_the_best_is_a_space_whose_first_seed_is_trained_already(searched: Path) -> None:
    text = best_space(results(searched))
    assert text is not None
    path = searched / "tiny_search_best.yaml"
    path.write_text(text)
    assert load_space(str(path)).space.rows[0].label == pareto_front(results(searched))[0].label
    plan = plan_of(options(searched, space=[str(path)], seeds=[0, 1]))
    from ablate.planning.plan import decide

    decide(plan, Storage(str(searched / "storage")))
    assert [training.action for training in plan.trainings.values()] == ["reuse", "train"]


def test_a_table_takes_up_what_a_search_stopped(tmp_path: Path) -> None:
    write_search(tmp_path, samples=3)
    assert run(tmp_path)[0] == 0
    stopped = next(sample for sample in results(tmp_path).samples if sample.state == "stopped")
    table = tmp_path / "table.yaml"
    base = yaml.safe_load((tmp_path / "tiny_search.yaml").read_text())["base"]
    rows = [{"label": "again", "set": dict(stopped.values)}]
    table.write_text(yaml.safe_dump({"title": "A table", "base": base, "rows": rows}))
    before = trained_epochs(tmp_path / "storage")
    code, text = run(tmp_path, space=[str(table)])
    assert code == 0 and f"continue from epoch {stopped.epoch} of 4" in text
    assert trained_epochs(tmp_path / "storage") - before == 4 - stopped.epoch


class Killed(BaseException):
    pass


def killing(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """End the process, as far as it can be told, after so many epochs of workers."""
    left = iter(range(epochs))
    real = what_runs_tasks()

    def dying(task: Any, dataset: Any, listen: Any) -> Any:
        def told(event: Any) -> None:
            if event.kind == "epoch" and event.done > 0 and next(left, None) is None:
                raise Killed
            listen(event)

        return real(task, dataset, told)

    have_tasks_run_by(dying, monkeypatch)


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_killed_search_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searcher: str
) -> None:
    # In batches of 256 the random search is killed at an epoch that would have stopped its sample.
    changes = {"searcher": searcher, "samples": 3, "base": {"training.epochs": 3, "training.batch_size": 256}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        write_search(folder, **changes)
    assert run(whole)[0] == 0
    with monkeypatch.context() as patch:
        killing(patch, epochs=4)
        with pytest.raises(Killed):
            run(cut)
    assert run(cut)[0] == 0
    ours, theirs = results(cut), results(whole)
    assert [sample.values for sample in ours.samples] == [sample.values for sample in theirs.samples]
    assert [sample.state for sample in ours.samples] == [sample.state for sample in theirs.samples]
    assert [sample.curves for sample in ours.samples] == [sample.curves for sample in theirs.samples]
    assert trained_epochs(cut / "storage") <= trained_epochs(whole / "storage") + 1  # the epoch it died in


def test_a_damaged_record_of_a_sample_that_was_trained_before_is_made_again(tmp_path: Path) -> None:
    write_search(tmp_path, samples=1)
    assert run(tmp_path, sets=["search.scheduler.name=fifo"])[0] == 0
    storage = Storage(str(tmp_path / "storage"))
    [key] = storage.keys()
    name = next(iter(storage.view(key).records))
    [path] = Path(storage.location, key).rglob(f"*{name}*")
    path.write_bytes(path.read_bytes()[:-40])
    assert storage.record(storage.view(key), name) is None
    code, said = run(tmp_path)
    assert code == 0 and storage.keys() == [key], said
    assert storage.record(storage.view(key), name) is not None


def test_start_configurations_come_first(tmp_path: Path) -> None:
    start = [{"training.learning_rate": 0.1, "model.activation": "relu"}]
    for searcher in ("random", "optuna"):
        search = Search(search_of(start=start, searcher=searcher), searcher, Storage(str(tmp_path)))
        first, second = search.ask(), search.ask()
        assert first is not None and dict(first.values) == start[0]
        assert second is not None and dict(second.values) != start[0]


def test_a_time_budget_ends_a_search_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_search(tmp_path, samples=None, time_budget_minutes=1, scheduler="fifo")
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(sources.time, "monotonic", lambda: float(next(clock)))
    code, _ = run(tmp_path)
    found = results(tmp_path)
    assert code in (0, 1) and 0 < len(found.samples) < 9
    records = json.loads(next((tmp_path / "storage" / "searches").glob("*.json")).read_text())
    assert records["spent_s"] >= 60
    before = trained_epochs(tmp_path / "storage")
    run(tmp_path)
    assert trained_epochs(tmp_path / "storage") == before  # its time is up


def test_a_failed_sample_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_search(tmp_path, samples=2, scheduler="fifo")
    real = what_runs_tasks()
    count = iter(range(10))

    def failing(task: Any, dataset: Any, listen: Any) -> Any:
        if next(count) == 0:
            return Outcome(task.key, "failed", "loss became nan in epoch 1")
        return real(task, dataset, listen)

    have_tasks_run_by(failing, monkeypatch)
    code, text = run(tmp_path)
    assert code == 0 and "nan in epoch 1" in text
    assert [sample.state for sample in results(tmp_path).samples] == ["failed", "complete"]
    code, _ = run(tmp_path, retry_failed=True)
    assert [sample.state for sample in results(tmp_path).samples] == ["complete", "complete"]


def test_a_search_is_launched_alone_with_one_seed(tmp_path: Path) -> None:
    write_search(tmp_path)
    path = str(tmp_path / "tiny_search.yaml")
    with pytest.raises(SpecError, match="one seed for a search"):
        run(tmp_path, seeds=[0, 1])
    with pytest.raises(SpecError, match="a search on its own"):
        run(tmp_path, space=[path, "batch_size"])


def test_two_launches_of_one_search_at_once(tmp_path: Path) -> None:
    from ablate.storage.leases import Leases

    write_search(tmp_path)
    plan = plan_of(options(tmp_path))
    with Leases(Storage(str(tmp_path / "storage")).files) as leases:
        assert leases.acquire(f"search-{plan.id}")
        with pytest.raises(UserError, match=r"another launch runs the search \w+ already; --watch follows it"):
            run(tmp_path, tracking=True, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        assert not (tmp_path / "mlflow.db").exists()


def test_a_search_is_watched_while_it_grows(tmp_path: Path) -> None:
    import threading
    import time

    from ablate.launch import watch

    write_search(tmp_path, samples=2, base={"training.epochs": 2}, scheduler="fifo")
    thread = threading.Thread(target=lambda: run(tmp_path), daemon=True)
    thread.start()
    storage = Storage(str(tmp_path / "storage"))
    while not (tmp_path / "storage").exists() or not storage.files.list("plans"):
        thread.join(0.02)
        assert thread.is_alive()
    out = Console(file=io.StringIO(), width=120)
    assert watch.watch(storage, out, sleep=lambda seconds: time.sleep(0.05)) == 0
    thread.join(60)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "sample 0: starts" in text and "sample 1" in text and "2 done" in text


def test_dry_run_foresees_random_samples_and_records_nothing(tmp_path: Path) -> None:
    write_search(tmp_path)
    code, text = run(tmp_path, dry_run=True)
    assert code == 0 and "sample 5" in text and "less what is stopped early" in text
    assert not (tmp_path / "storage").exists() or not any((tmp_path / "storage").rglob("*.json"))
    code, text = run(tmp_path, dry_run=True, sets=["search.searcher=optuna"])
    assert code == 0 and "6 more samples will be suggested by optuna" in text


def test_a_configuration_that_cannot_be_trained_counts_as_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    parameters = {"training.batch_size": {"choice": [128, 5000]}}
    write_search(tmp_path, samples=None, searcher="grid", parameters=parameters, scheduler="fifo")
    code, text = run(tmp_path)
    assert code == 0, text
    assert "cannot be trained" in " ".join(text.split()) and "got 5000" in " ".join(text.split())
    assert [sample.state for sample in results(tmp_path).samples] == ["complete"]
    epochs = trained_epochs(tmp_path / "storage")
    code, text = run(tmp_path)
    assert code == 0 and trained_epochs(tmp_path / "storage") == epochs == 4
    assert run(tmp_path, dry_run=True)[0] == 0


def test_results_of_a_search_are_there_after_its_run(tmp_path: Path) -> None:
    write_search(tmp_path, samples=1, scheduler="fifo")
    plan = ablate.load_space(tmp_path / "tiny_search.yaml").plan(storage=tmp_path / "storage")
    assert plan.results().empty
    assert plan.run(local=True, tracking=False, cpus_per_trial=1, quiet=True) == 0
    assert list(plan.results()["state"]) == ["finished"]
