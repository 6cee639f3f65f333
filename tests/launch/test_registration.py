"""Claims are registered before anything is trained, and whoever changes one afterwards is told of."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from ablate.core.digest import digest
from ablate.launch.registration import register
from ablate.planning.plan import Plan
from ablate.planning.plan_file import plan_file_of
from ablate.report.from_storage import results_of
from ablate.report.verdicts.verdicts import standing_of
from ablate.storage.plans import PlanFile, parse
from ablate.storage.registrations import Registration, RegistrationPart, path_of, read_all, write_first
from ablate.storage.storage import Record, Storage
from tests.support.helpers import launch_here, options_of, plan_of, write_space

ABOVE = "above: {row: small, rows: [large], metrics: [natural]}"
BELOW = "below: {row: small, rows: [large], metrics: [natural]}"
OTHER = 'above: {row: large, rows: ["large again"], metrics: [fgsm]}'
PROVENANCE = {"git_commit": "c0ffee"}


def space(folder: Path, *claims: str, more: str = "", **how: str) -> Path:
    path = write_space(folder, **how)
    listed = "".join(f'  - {{says: "{claim[:5]}", {claim}}}\n' for claim in claims)
    path.write_text(path.read_text() + f"{more}\nclaims:\n{listed}")
    return path


def registered(folder: Path, seeds: list[int] | None = None) -> tuple[Plan, RegistrationPart]:
    plan = plan_of(options_of(folder, seeds=seeds or [0]))
    plan.registrations = register(plan, Storage(str(folder / "storage")), PROVENANCE, folder)
    return plan, plan.registrations["tiny"]


def measure(folder: Path, plan: Plan, *rows: str, columns: Container[str] | None = None) -> None:
    """Leave what trainings of some rows would: one record of each measurement, or of some columns alone."""
    storage = Storage(str(folder / "storage"))
    for trial in plan.trials:
        if trial.trial.label in rows:
            attempt = storage.attempt(trial.training)
            measured = {**trial.columns, **trial.analyses}
            for key in {key for name, key in measured.items() if columns is None or name in columns}:
                attempt.save_record(Record(key, {"accuracy": 50.0}))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "storage" / "registrations").glob("*.json"))


def rewritten(folder: Path, content: dict[str, Any]) -> Registration:
    """The one registration of a storage, as an earlier version would have written it there."""
    storage = Storage(str(folder / "storage"))
    [[old], _] = read_all(storage.files)
    [file] = files(folder)
    file.unlink()
    old = old.model_copy(update={"content": content, "digest": digest(content)})
    write_first(storage.files, old)
    return old


def test_the_first_launch_registers_and_later_ones_with_other_seeds_and_rows_find_it(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    _, first = registered(tmp_path)
    before = files(tmp_path)[0].read_bytes()
    plan, again = registered(tmp_path, [0, 1, 2])
    only = plan_of(options_of(tmp_path, rows=["small"]))
    part = register(only, Storage(str(tmp_path / "storage")), {"git_commit": "other"}, tmp_path)["tiny"]
    assert first == again == part
    assert [path.read_bytes() for path in files(tmp_path)] == [before]
    assert first.commit == "c0ffee" and files(tmp_path)[0].stem == first.digest
    assert first.claims[0].registered and not first.claims[0].why
    told = standing_of(parse(plan_file_of(plan, {}).to_json(), "plan").spaces[0], 0)
    assert told.startswith("registered 20") and first.digest[:12] in told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("metrics: [natural]", "metrics: [fgsm]"),
        ("learning_rate: 0.05", "learning_rate: 0.06"),
        ("looks: [3]", "looks: [3, 5]"),
        ("looks: [3]", "looks: [3]\nseeds: [5, 6, 7]"),
        ("looks: [3]", "looks: [3]\nfailures: worst"),
    ],
)
def test_the_digest_covers_what_a_verdict_rests_on(tmp_path: Path, old: str, new: str) -> None:
    path = space(tmp_path, ABOVE, more="looks: [3]")
    _, first = registered(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    _, second = registered(tmp_path)
    assert first.digest != second.digest and len(files(tmp_path)) == 2


def test_a_claim_that_is_turned_round_after_its_results_is_exploratory(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    plan, first = registered(tmp_path)
    measure(tmp_path, plan, "small", "large")
    assert registered(tmp_path)[1] == first, "what was registered before stays so"
    space(tmp_path, BELOW)
    _, turned = registered(tmp_path)
    assert not turned.claims[0].registered
    assert "large and small had been measured" in turned.claims[0].why and "claim 1" in turned.claims[0].why
    assert len(files(tmp_path)) == 2
    space(tmp_path, ABOVE)
    assert registered(tmp_path)[1] == first, "the older registration is not lost"


def test_a_claim_that_is_added_leaves_the_others_registered(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    plan, first = registered(tmp_path)
    measure(tmp_path, plan, "small", "large", "large again")
    space(tmp_path, ABOVE, OTHER)
    _, both = registered(tmp_path)
    assert [claim.registered for claim in both.claims] == [True, False]
    assert both.claims[0].digest == first.digest != both.digest


def test_a_single_known_row_is_named_and_does_no_harm(tmp_path: Path) -> None:
    path = space(tmp_path, ABOVE)
    measure(tmp_path, plan_of(options_of(tmp_path)), "large")
    assert path.exists()
    _, part = registered(tmp_path)
    assert part.claims[0].registered and part.claims[0].why == "known by then: large"


@pytest.mark.parametrize(
    ("claim", "known"),
    [
        ("above: {row: small, rows: [large], metrics: [natural, fgsm]}", True),
        ("gain: {rows: [small], over: large, metrics: [natural], than: fgsm}", False),
    ],
)
def test_one_comparison_that_can_be_computed_makes_a_claim_exploratory_and_half_of_one_does_not(
    tmp_path: Path, claim: str, known: bool
) -> None:
    space(tmp_path, claim)
    measure(tmp_path, plan_of(options_of(tmp_path)), "small", "large", columns={"accuracy/natural"})
    assert registered(tmp_path)[1].claims[0].registered is not known


@pytest.mark.parametrize(("measured", "launched"), [([0], [1]), ([99], [99])])
def test_what_is_known_is_known_at_any_seed_of_the_looks_or_of_the_launch(
    tmp_path: Path, measured: list[int], launched: list[int]
) -> None:
    space(tmp_path, ABOVE)
    measure(tmp_path, plan_of(options_of(tmp_path, seeds=measured)), "small", "large")
    assert not registered(tmp_path, launched)[1].claims[0].registered


def test_a_claim_has_the_date_of_the_first_registration_that_it_stands_in(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    _, first = registered(tmp_path)
    space(tmp_path, ABOVE, OTHER)
    _, both = registered(tmp_path)
    assert [claim.digest for claim in both.claims] == [first.digest, both.digest]


def test_whose_claim_it_is_changes_no_digest(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    _, first = registered(tmp_path)
    space(tmp_path, f"{ABOVE}, source: a paper")
    plan, again = registered(tmp_path)
    assert again == first and plan_file_of(plan, {}).spaces[0].claims[0]["source"] == "a paper"


# Second claims, on masked columns

ON_PGD = "above: {row: small, rows: [large], metrics: [pgd20]}"
SEARCHED = "natural, fgsm, pgd20, square, worst"


def test_what_is_claimed_of_masked_columns_is_registered_with_the_claim_itself(tmp_path: Path) -> None:
    space(tmp_path, ABOVE, ON_PGD, attacks=SEARCHED)
    plan, part = registered(tmp_path)
    assert list(part.second) == ["1"] and part.second["1"].registered
    assert part.content["second"]["1"]["above"]["metrics"] == ["worst"]
    measure(tmp_path, plan, "small", "large")
    assert registered(tmp_path)[1] == part, "what was registered before stays so"
    kept = parse(plan_file_of(plan, {}).to_json(), "plan").spaces[0]
    assert standing_of(kept, 1, second=True).startswith("registered 20")
    assert standing_of(kept, 0, second=True) == "exploratory: its claim was registered without it"


def test_a_second_claim_whose_rows_were_measured_before_is_exploratory_and_the_first_stays(tmp_path: Path) -> None:
    space(tmp_path, ON_PGD)
    plan, first = registered(tmp_path)
    assert "second" not in first.content, "nothing was searched, so the digest is that of earlier versions"
    measure(tmp_path, plan, "small", "large")
    space(tmp_path, ON_PGD, attacks=SEARCHED)
    plan, later = registered(tmp_path)
    assert later.second["0"].registered and not later.second["0"].why, "worst was not known"
    assert later.claims[0].registered and later.claims[0].digest == first.digest, "columns that were added change none"
    measure(tmp_path, plan, "small", "large")
    space(tmp_path, ON_PGD, attacks=SEARCHED, more="looks: [3]")
    _, turned = registered(tmp_path)
    assert not turned.second["0"].registered
    assert "small and large had been measured" in turned.second["0"].why and turned.second["0"].why.endswith("looks")


def test_registrations_of_earlier_versions_have_no_second_claims_and_keep_their_word(tmp_path: Path) -> None:
    space(tmp_path, ON_PGD, attacks=SEARCHED)
    plan, now = registered(tmp_path)
    old = rewritten(tmp_path, {name: value for name, value in now.content.items() if name != "second"})
    measure(tmp_path, plan, "small", "large")
    _, again = registered(tmp_path)
    assert again.claims[0].registered and again.claims[0].digest == old.digest
    assert not again.second["0"].registered and again.digest == now.digest


def test_columns_and_analyses_that_are_added_change_no_claim_but_one_on_the_worst_of_all(tmp_path: Path) -> None:
    worst = "above: {row: small, rows: [large], metrics: [worst]}"
    space(tmp_path, ABOVE, worst, attacks=SEARCHED)
    plan, first = registered(tmp_path)
    measure(tmp_path, plan, "small", "large")
    space(
        tmp_path,
        ABOVE,
        worst,
        attacks=f"{SEARCHED}, bim20], measurement.others: [natural], measurement.analyses: [spectrum",
    )
    _, later = registered(tmp_path)
    assert later.digest != first.digest
    assert [(claim.registered, claim.digest) for claim in later.claims] == [(True, first.digest), (True, later.digest)]


@pytest.mark.parametrize(
    ("part", "setting"), [("measurement", "others"), ("training", "awp"), ("model", "weights"), ("data", "validation")]
)
def test_a_setting_that_earlier_versions_did_not_have_changes_no_claim(tmp_path: Path, part: str, setting: str) -> None:
    space(tmp_path, ABOVE)
    plan, now = registered(tmp_path)
    rows = json.loads(json.dumps(now.content["rows"]))
    assert all(row[part].pop(setting, "not there") in (None, "not there", 0.0) for row in rows.values())
    old = rewritten(tmp_path, {**now.content, "rows": rows})
    measure(tmp_path, plan, "small", "large")
    _, again = registered(tmp_path)
    assert again.claims[0].registered and again.claims[0].digest == old.digest


@pytest.mark.parametrize("damage", ["edited", "cut", "no seal"])
def test_damaged_registrations_are_named_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    space(tmp_path, ABOVE)
    plan, first = registered(tmp_path)
    [file] = files(tmp_path)
    content: dict[str, Any] = json.loads(file.read_text())
    content["registered_ms"] = 5
    if damage == "no seal":
        del content["sha256"]
    text = json.dumps(content)
    file.write_text(text[: len(text) // 2] if damage == "cut" else text)
    left = file.read_bytes()
    # By a report of what was launched before it was damaged, and by the next launch.
    told = results_of(plan_file_of(plan, {}), Storage(str(tmp_path / "storage"))).space
    assert standing_of(told, 0).startswith(f"exploratory: {path_of(first.digest)} is damaged or was edited")
    assert told.registration is not None and told.registration.problems
    _, part = registered(tmp_path)
    assert not part.claims[0].registered
    assert f"{path_of(first.digest)} is damaged or was edited" in part.claims[0].why
    assert any(first.digest in problem for problem in part.problems)
    assert file.read_bytes() == left
    file.unlink()
    told = results_of(plan_file_of(plan, {}), Storage(str(tmp_path / "storage"))).space
    assert standing_of(told, 0).startswith("registered"), "a plan may have travelled without it"


def test_nothing_is_registered_where_nothing_is_decided(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    storage = Storage(str(tmp_path / "storage"))
    assert register(plan_of(options_of(tmp_path, preset="smoke")), storage, {}, tmp_path) == {}
    write_space(tmp_path)
    assert register(plan_of(options_of(tmp_path)), storage, {}, tmp_path) == {}
    assert read_all(storage.files) == ([], {})


def test_a_launch_registers_before_it_trains_and_pruning_leaves_it(tmp_path: Path) -> None:
    space(tmp_path, ABOVE)
    asked = options_of(tmp_path, rows=["small"], sets=["training.epochs=1"], prune=True)
    code, said = launch_here(asked)
    assert code == 0, said
    [file] = files(tmp_path)
    [plan] = (tmp_path / "storage" / "plans").glob("*.json")
    kept: PlanFile = parse(plan.read_text(), "plan")
    assert kept.spaces[0].registration is not None and kept.spaces[0].registration.digest == file.stem
    assert kept.spaces[0].registration.claims[0].registered
    trained = list((tmp_path / "storage").glob("*/attempts/*/manifest-*"))
    assert trained and all(path.stat().st_mtime_ns >= file.stat().st_mtime_ns for path in trained)
    assert launch_here(options_of(tmp_path, rows=["small"], sets=["training.epochs=1"], dry_run=True))[0] == 0
    assert files(tmp_path) == [file]
