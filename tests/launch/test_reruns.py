"""`--rerun`: a finished row trained again, kept apart from results, and compared with them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ablate.core.errors import SpecError, UserError
from ablate.execution import jobs
from ablate.launch import session
from ablate.launch.options import Options
from ablate.launch.request import Request, submission_of
from ablate.launch.reruns import Reruns
from ablate.planning.estimates import DAY_S, Estimate
from ablate.planning.plan import Plan
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import results_of
from ablate.report.replications import from_tag, to_tag
from ablate.report.serialization import results_as_json
from ablate.report.tables import build_table, table_input
from ablate.storage import plans, replications
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of, write_space

IMAGES = 360


def tiny(folder: Path) -> Storage:
    path = write_space(folder, epochs=1, attacks="natural")
    path.write_text(
        path.read_text() + "claims:\n  - {says: so, above: {row: small, rows: [large], metrics: [natural]}}\n"
    )
    return Storage(str(folder / "storage"))


def done(storage: Storage, plan: Plan, right: dict[int, int], device: str = "cpu", loss: float = 1.0) -> None:
    """Leave what trainings of row `small` would: so many images right, by seed."""
    for trial in plan.trials:
        if trial.trial.label == "small" and trial.trial.seed in right:
            attempt = storage.attempt(trial.training)
            attempt.save_checkpoint(
                1, b"network", [{"epoch": 1, "metrics": {"train/loss": loss, "seconds": 1}}], finished=True
            )
            correct = np.arange(IMAGES) < right[trial.trial.seed]
            for key in trial.columns.values():
                scalars, meta = {"accuracy": 100.0 * float(correct.mean())}, {"device": device, "torch": "2.15"}
                attempt.save_record(Record(key, scalars, {"correct": correct}, meta))


def endings(folder: Path, before: dict[int, int], again: dict[int, int], **how: Any) -> dict[int, list[str]]:
    storage = tiny(folder)
    plan = plan_of(options_of(folder, seeds=sorted(before), rows=["small"]))
    done(storage, plan, before)
    plans.save(plan_file_of(plan, {}), storage)
    wanted = {plan.trials[seed].training: plan.trials[seed].columns.values() for seed in again}
    _, inner = replications.open_one(storage, wanted)
    done(inner, plan, again, **how)
    results = results_of(plans.load(storage).of_space("tiny"), storage)
    return {seed: [each.words for each in found] for (_, seed), found in results.replications.items()}


def test_a_rerun_trains_again_beside_the_results_and_tells_that_the_bits_are_the_same(tmp_path: Path) -> None:
    storage = tiny(tmp_path)
    asked = options_of(tmp_path, rows=["small"], seeds=[0])
    assert launch_here(asked)[0] == 0
    plan = plan_of(asked)
    [key] = plan.trainings
    before, registered = storage.view(key), storage.files.list("registrations")
    again = options_of(tmp_path, rerun=["small"], seeds=[], prune=True, cpus_per_trial=None)  # as many as before
    assert "replications" not in storage.files.list(""), launch_here(
        options_of(tmp_path, rerun=["small"], dry_run=True)
    )
    code, said = launch_here(again)
    assert code == 0 and "small, seed 0: the same bits (both on cpu (1 thread), torch" in said, said
    assert storage.view(key) == before and storage.keys() == [key]
    assert storage.files.list("registrations") == registered and len(storage.files.list("plans")) == 1
    inner = replications.storage_of(storage, "0001")
    assert inner.view(key).finished and not inner.view(key).has_checkpoint and not inner.files.list("registrations")
    results = results_of(plans.load(storage).of_space("tiny"), storage)
    notes = dict(build_table(table_input(results)).footnotes())
    assert notes["small"].startswith("replicated 1 time: seed 0 the same bits")
    [told] = results_as_json([results])["replications"]
    assert (told["row"], told["seed"], told["ending"]) == ("small", 0, "the same bits")
    assert launch_here(options_of(tmp_path, rows=["small"], prune=True))[0] == 0, "pruning results"
    assert len(results_of(plans.load(storage).of_space("tiny"), storage).replications) == 1


def test_other_bits_are_judged_by_the_rows_seeds(tmp_path: Path) -> None:
    rows = {0: 180, 1: 190, 2: 200}
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "one").mkdir()
    [inside] = endings(tmp_path / "in", rows, {1: 195}, device="H100")[1]
    assert inside == (
        "inside the 95 % prediction interval of the row's 3 seeds (cpu, torch 2.15, again on H100, torch 2.15)"
    )
    [outside] = endings(tmp_path / "out", rows, {1: 300})[1]
    # t of 2 degrees of freedom, 4.303, times the deviation of 10 images, 2.778 points, times the root of 4/3.
    assert outside.startswith(
        "outside the 95 % prediction interval of the row's 3 seeds: Natural 83.33, expected 38.98 to"
    )
    [alone] = endings(tmp_path / "one", {0: 180}, {0: 181})[0]
    assert alone.startswith("not the same bits; cannot tell more (n = 1)")


@pytest.mark.parametrize(("right", "loss", "ending"), [(190, 1.0, "the same bits"), (190, 1.1, "inside")])
def test_the_same_bits_are_those_of_curves_too(tmp_path: Path, right: int, loss: float, ending: str) -> None:
    [words] = endings(tmp_path, {0: 180, 1: 190, 2: 200}, {1: right}, loss=loss)[1]
    assert words.startswith(ending)


def test_an_unfinished_request_is_gone_on_with_and_a_finished_one_is_followed_by_another(tmp_path: Path) -> None:
    storage = tiny(tmp_path)
    plan = plan_of(options_of(tmp_path, seeds=[0, 1], rows=["small"]))
    wanted = {trial.training: list(trial.columns.values()) for trial in plan.trials}
    assert replications.open_one(storage, wanted, write=False)[0] == "0001" and not replications.names(storage)
    name, inner = replications.open_one(storage, wanted)
    done(inner, plan, {0: 5})
    assert replications.open_one(storage, wanted)[0] == name == "0001"
    assert replications.open_one(storage, dict([*wanted.items()][:1]))[0] == "0002", "another request"
    done(inner, plan, {1: 5})
    assert replications.open_one(storage, wanted)[0] == "0003"
    for number, damaged in enumerate(("{", "[]", "[" * 100_000), 3):  # the last is deeper than Python reads
        (Path(storage.location) / f"replications/{number:04d}/request.json").write_text(damaged)
        following = replications.open_one(storage, wanted)[0]
        assert following == f"{number + 1:04d}", "nobody knows what a damaged request is of"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rerun": ["smal"]}, "--rerun: expected the label of a row, got 'smal'; did you mean 'small'"),
        ({"rerun": ["small"], "seeds": []}, "expected a finished row, got 'small' without a finished seed"),
        ({"rerun": ["small"], "seeds": [3]}, "expected finished seeds, got seed 3 of 'small'"),
        ({"rerun": ["small"], "rows": ["small"]}, "--row: expected --rerun alone"),
    ],
)
def test_rows_that_cannot_be_trained_again_are_refused(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    storage = tiny(tmp_path)
    with pytest.raises(SpecError, match=message):
        launch_here(options_of(tmp_path, **how))
    assert storage.files.list("") == []


def test_without_seeds_all_are_meant_also_in_a_job(tmp_path: Path) -> None:
    assert Options.parsed({"rerun": ["small"]}).seeds == [] and Options.parsed({}).seeds == [0]
    assert Options.parsed({"rerun": ["small"], "seeds": "0"}).to_arguments() == ["--rerun", "small", "--seeds", "0"]
    tiny(tmp_path)
    asked = options_of(tmp_path, rerun=["small"], seeds=[], cluster="http://127.0.0.1:1", local=False)
    submission = submission_of(Request.read(asked), None)
    assert "--rerun small" in " ".join(submission.arguments) and "--seeds" not in submission.arguments
    assert [trial.label for trial in submission.trials] == ["small"]


def test_a_rerun_of_days_is_asked_about_as_any_launch_and_only_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tiny(tmp_path)
    plan = plan_of(options_of(tmp_path, rows=["small"]))
    done(storage, plan, {0: 180})
    monkeypatch.setattr(Reruns, "expected", lambda *_: Estimate(2 * DAY_S, 0, 1, "cpu", "by trainings in storage"))
    monkeypatch.setattr(session.Session, "run", lambda self: 0)
    monkeypatch.setattr(session, "check_reach", lambda *_: None)
    asked = options_of(tmp_path, rerun=["small"], local=False)
    monkeypatch.setattr(session, "ray_address", lambda: None)
    with pytest.raises(UserError, match="expected a launch of less than a day on this machine, or --yes"):
        launch_here(asked)
    assert not replications.names(storage)
    monkeypatch.setattr(session, "ray_address", lambda: "10.0.0.1:6379")
    assert launch_here(asked)[0] == 0 and replications.names(storage) == ["0001"]


def test_a_job_that_trains_a_row_again_is_another_one_than_that_which_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    sent: list[jobs.Submission] = []

    def submit(submission: jobs.Submission, console: Console) -> int:
        sent.append(submission)
        return 0

    monkeypatch.setattr(jobs, "submit", submit)
    far: dict[str, Any] = {"cluster": "http://127.0.0.1:1", "local": False, "storage_is_shared": True}
    for how in ({"rows": ["small"]}, {"rerun": ["small"]}):
        assert launch_here(options_of(tmp_path, seeds=[0], **how, **far))[0] == 0
    assert sent[0].plan_id is not None and sent[1].plan_id is None, "its name is of what was asked for, word by word"


def test_what_travels_for_a_rerun_is_told_to_a_script_too(tmp_path: Path) -> None:
    tiny(tmp_path)
    out = io.StringIO()
    far: dict[str, Any] = {"cluster": "http://127.0.0.1:1", "local": False, "storage_is_shared": True}
    asked = options_of(tmp_path, rerun=["small"], seeds=[], dry_run=True, as_json=True, **far)
    assert session.launch(Request.read(asked), Console(file=io.StringIO()), out) == 0
    assert any("tiny" in name for name in json.loads(out.getvalue())["travels"])


def test_a_tag_keeps_what_was_found_and_an_edited_one_says_nothing(tmp_path: Path) -> None:
    endings(tmp_path, {0: 180, 1: 190}, {1: 100})
    storage = Storage(str(tmp_path / "storage"))
    found = results_of(plans.load(storage).of_space("tiny"), storage).replications["small", 1]
    assert from_tag(to_tag(found)) == list(found) and to_tag([]) is None
    assert [from_tag(text) for text in (None, "[", "[{}]", json.dumps([{"colour": 1}]), "3")] == [[]] * 5
