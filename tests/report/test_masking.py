"""Masked columns: found by the evidence of all verdicts, marked, and judged a second time on the worst."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
import pytest
from rich.console import Console

from ablate.report.formats import to_csv, to_latex, to_markdown, to_terminal
from ablate.report.names import reduced_headers
from ablate.report.results import Outcome, Results
from ablate.report.tables import Table, TableInput, build_table
from ablate.report.tags import mark_runs
from ablate.report.verdicts.masking import Masked, as_json, holm, masked_columns, second_verdicts
from ablate.report.verdicts.verdicts import verdicts_of
from ablate.spaces.claims import Claim
from ablate.spaces.masking import can_be_masked, on_the_worst
from ablate.storage.plans import PlanFile, RowPart, SpacePart
from ablate.storage.registrations import ClaimStanding, RegistrationPart

IMAGES = 400
PGD_RIGHT = 160


def correct(rng: np.random.Generator, lost: Mapping[str, int], gained: int = 0) -> dict[str, np.ndarray]:
    """PGD-20 is right on 160 images; `lost` says of how many of them other columns are wrong."""
    right = np.zeros(IMAGES, bool)
    places = rng.permutation(IMAGES)
    right[places[:PGD_RIGHT]] = True
    columns = {"pgd20": right}
    for name, count in lost.items():
        columns[name] = right.copy()
        columns[name][rng.choice(places[:PGD_RIGHT], count, replace=False)] = False
        columns[name][rng.choice(places[PGD_RIGHT:], gained, replace=False)] = True
    return columns


def table(rows: Mapping[str, Mapping[str, int]], seeds: int = 3, gained: int = 0, cut: int = IMAGES) -> Results:
    rng = np.random.default_rng(0)
    outcomes = {}
    for row, lost in rows.items():
        for seed in range(seeds):
            arrays = correct(rng, lost, gained)
            arrays = {name: a[:cut] if name.endswith("square") else a for name, a in arrays.items()}
            values = {name: 100.0 * float(a.mean()) for name, a in arrays.items()}
            outcomes[row, seed] = Outcome(f"{row} {seed}", values, arrays, "test", IMAGES)
    return Results(outcomes)


def found(results: Results) -> dict[tuple[str, str], float]:
    return {(each.row, each.column): each.points for each in masked_columns(results)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_column_is_masked_where_the_search_is_right_on_fewer_images(seeds: int) -> None:
    results = table({"QM-2": {"square": 50, "bim20": 2}, "QM-32": {"square": 0, "bim20": 2}}, seeds)
    points = found(results)
    assert points.keys() == {("QM-2", "pgd20"), ("QM-2", "bim20")}
    assert points["QM-2", "pgd20"] == pytest.approx(12.5) and points["QM-2", "bim20"] == pytest.approx(12.0)


def test_a_search_that_is_right_on_more_or_as_many_images_masks_nothing() -> None:
    assert found(table({"a": {"square": 20}}, gained=60)) == {}
    assert found(table({"a": {"square": 20}}, gained=20)) == {}
    assert found(table({"a": {"bim20": 50}})) == {}  # nobody searched


def test_only_attacks_that_follow_the_labels_gradient_can_be_masked() -> None:
    names = ("fgsm", "tpgd20", "gn", "cw20", "cw20_exact", "natural", "aa", "worst")
    results = table({"a": {"square": 80, **dict.fromkeys(names, 1), **dict.fromkeys(("apgd_t", "fab_t"), 1)}})
    assert found(results).keys() == {("a", "pgd20"), ("a", "apgd_t"), ("a", "fab_t")}
    assert not any(map(can_be_masked, names)) and can_be_masked("adaptive/apgd_ce")


def test_the_adaptive_twin_is_compared_with_the_adaptive_search() -> None:
    results = table({"a": {"square": 0, "adaptive/pgd20": 2, "adaptive/square": 60}})
    assert found(results).keys() == {("a", "adaptive/pgd20")}


def test_columns_are_compared_on_the_images_that_both_were_measured_on() -> None:
    points = found(table({"a": {"square": 50}}, cut=200))
    whole = table({"a": {"square": 50}})
    gone = [(o.correct["pgd20"][:200] & ~o.correct["square"][:200]).mean() for o in whole.outcomes.values()]
    assert points["a", "pgd20"] == pytest.approx(100 * np.mean(gone))


def test_the_rate_of_false_marks_is_at_most_one_in_a_hundred() -> None:
    rng = np.random.default_rng(7)
    marked = 0
    for _ in range(300):
        outcomes = {}
        for seed in range(3):
            chance = rng.uniform(size=IMAGES)
            arrays = {name: rng.uniform(size=IMAGES) < chance for name in ("pgd20", "bim20", "square")}
            values = {name: 100.0 * float(a.mean()) for name, a in arrays.items()}
            outcomes["a", seed] = Outcome(f"a {seed}", values, arrays, "test", IMAGES)
        marked += bool(masked_columns(Results(outcomes)))
    assert marked <= 8  # of 300 at 1 % more than 8 are met once in 300 suites; the numbers are always the same


def test_a_rows_columns_are_corrected_step_by_step() -> None:
    """Values of R's p.adjust(method = "holm")."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.01, "b": 0.011, "c": 0.6}) == pytest.approx({"a": 0.03, "b": 0.03, "c": 0.6})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


# What tables say


def marked_table(**more: object) -> Table:
    results = table({"QM-2": {"square": 50, "adaptive/pgd20": 0, "adaptive/square": 50}, "QM-32": {"square": 0}})
    return build_table(
        TableInput("Bits", ["QM-2", "QM-32"], results, masked=masked_columns(results), **more)  # type: ignore[arg-type]
    )


def test_tables_mark_the_cell_and_say_why_below() -> None:
    made = marked_table()
    lines = {line.source: line for line in made.rows[0].lines}
    assert lines["ours"].cells["pgd20"].masked and lines["ours, adaptive"].cells["pgd20"].masked
    assert not lines["ours"].cells["square"].masked
    assert not any(cell.masked for line in made.rows[1].lines for cell in line.cells.values())
    [(row, note)] = made.footnotes()
    assert row == "QM-2" and note.startswith("masked, Square is below: PGD-20 by 12.5 points, PGD-20 adaptive by")
    stream = io.StringIO()
    Console(file=stream, width=150).print(to_terminal(made, 150))
    assert "40.00†" in stream.getvalue()
    assert "40.00†" in to_markdown(made) and r"$^\dagger$" in to_latex(made)
    assert "†" not in to_csv(made) and "masked, Square" in to_csv(made)


def test_headers_say_what_was_left_out() -> None:
    headers = reduced_headers([(100, 200), (100, 200)])
    assert headers["aa"] == "AA, reduced (100 queries, 200 images)"
    assert headers["square"] == "Square (100 queries, 200 images)"
    assert headers["apgd_ce"] == "APGD-CE (200 images)"
    assert "pgd20" not in headers and reduced_headers([(None, None)]) == {}
    assert reduced_headers([(None, 200), (None, None)])["worst"] == "Worst (200 or all images)"
    assert "AA, reduced (100 queries)" in to_markdown(marked_table(headers={"square": "AA, reduced (100 queries)"}))


# The second verdict


def claim(**statement: object) -> Claim:
    return Claim.model_validate({"says": "so", **statement})


def test_what_is_claimed_the_second_time_follows_from_the_claim() -> None:
    pairs = {"pairs": [["a", "b"]], "metrics": ["natural", "pgd20", "bim20", "adaptive/apgd_ce"]}
    second = on_the_worst(claim(pairwise=pairs))
    assert second is not None and second.statement.metrics == ("worst", "adaptive/worst")
    assert second.statement.model_dump()["pairs"] == (("a", "b"),) and second.says == "so"
    assert on_the_worst(claim(above={"row": "a", "rows": ["b"], "metrics": ["natural", "fgsm"]})) is None
    gain = {"rows": ["a"], "over": "b", "metrics": ["pgd20"], "than": "natural"}
    assert on_the_worst(claim(gain=gain)).statement.model_dump()["than"] == "natural"
    assert on_the_worst(claim(gain={**gain, "than": "bim20"})) is None


def with_claims(results: Results, *claims: Claim) -> Results:
    rows = [RowPart(label=row) for row in results.rows()]
    told = [each.model_dump(mode="json", exclude_none=True) for each in claims]
    space = SpacePart(name="bits", title="Bits", rows=rows, claims=told)
    plan = PlanFile(
        layout=1, id="abc", preset="paper", overrides=[], seeds=[0, 1, 2], spaces=[space], trials=[], provenance={},
        created_ms=0, launched_ms=0,
    )  # fmt: skip
    return dataclasses.replace(results, plan=plan)


def test_a_claim_on_a_masked_column_keeps_its_verdict_and_gets_a_second_one() -> None:
    def above(row: str, other: str, *metrics: str) -> Claim:
        return claim(above={"row": row, "rows": [other], "metrics": metrics})

    claims = (above("QM-2", "QM-4", "pgd20"), above("QM-32", "QM-4", "pgd20"), above("QM-2", "QM-4", "square"))
    lost = {"QM-2": 60, "QM-4": 0, "QM-32": 0}
    results = with_claims(table({row: {"square": n, "worst": n} for row, n in lost.items()}), *claims)
    second = second_verdicts(results)
    assert list(second) == [0]  # of the others no column is masked, or none can be
    assert second[0].claim.statement.metrics == ("worst",)
    assert second[0].sentence().endswith("exploratory: it was never registered")
    assert second[0].verdict == "fails" and second[0].comparisons[0].effect == pytest.approx(-15.0)
    first = verdicts_of(results)[0][0]
    assert first.claim == claims[0] and first.verdict == "not enough evidence"
    bare = with_claims(table({row: {"square": n} for row, n in lost.items()}), *claims)
    assert "no Worst for 'QM-2'" in (second_verdicts(bare)[0].reason or "")
    assert [each["row"] for each in as_json([results])] == ["QM-2"]
    assert as_json([results])[0].keys() == {"space", "network", "row", "column", "points", "p"}


@pytest.mark.parametrize("first", [True, False])
def test_a_second_verdict_tells_its_own_standing(first: bool) -> None:
    made = claim(above={"row": "QM-2", "rows": ["QM-4"], "metrics": ["pgd20"]})
    results = with_claims(table({"QM-2": {"square": 60, "worst": 60}, "QM-4": {"square": 0, "worst": 0}}), made)
    claims, second = (
        ClaimStanding(registered=registered, digest="abc", registered_ms=0, why="" if registered else "it was known")
        for registered in (first, not first)
    )
    part = RegistrationPart(digest="abc", registered_ms=0, claims=[claims], second={"0": second}, content={})
    space = results.space.model_copy(update={"registration": part})
    results = dataclasses.replace(results, plan=results.planned.model_copy(update={"spaces": [space]}))
    words = {True: "registered 1970-01-01", False: "exploratory: it was known"}
    assert verdicts_of(results)[0][0].standing.startswith(words[first])
    assert second_verdicts(results)[0].standing.startswith(words[not first])


# Runs


class Runs:
    """Stands for a tracker."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str | None]] = []

    def tag(self, run_id: str, name: str, value: str | None) -> None:
        self.told.append((run_id, name, value))


def test_runs_of_masked_rows_say_so_and_others_say_nothing() -> None:
    trial = dataclasses.make_dataclass("trial", ["run_id"])
    part = dataclasses.make_dataclass("part", ["columns"])
    plan = dataclasses.make_dataclass("plan", ["trials", "plan"])
    of = {("QM-2", 0): trial("r1"), ("QM-2", 1): trial(None), ("QM-32", 0): trial("r3")}
    searched, plain = ([part(dict.fromkeys(names, "key"))] for names in (["accuracy/square"], ["accuracy/fgsm"]))
    marks = [Masked("QM-2", "pgd20", 9.0, 0.0), Masked("QM-2", "adaptive/pgd20", 9.0, 0.0)]
    runs = Runs()
    mark_runs(runs, plan(of, dataclasses.make_dataclass("p", ["trials"])(searched)), marks)
    assert runs.told == [
        ("r1", "ablate.masked", "accuracy/pgd20, accuracy_adaptive/pgd20"),
        ("r3", "ablate.masked", None),
    ]
    runs = Runs()
    mark_runs(runs, plan(of, dataclasses.make_dataclass("p", ["trials"])(plain)), marks)
    assert runs.told == []
