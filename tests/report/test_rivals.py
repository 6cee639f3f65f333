"""Claims of several papers that answer one question: side by side, and who is right."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from ablate.core.errors import SpecError
from ablate.report.contents import page_of
from ablate.report.page import render
from ablate.report.results import Results
from ablate.report.serialization import results_as_json
from ablate.report.terminal import print_results
from ablate.report.verdicts.rivals import Answer, Rivalry, rivalries
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, Decision, judge
from ablate.spaces.claims import Claim
from ablate.spaces.loading import load_space
from ablate.spaces.masking import on_the_worst
from tests.report.test_masking import table, with_claims

QUESTION = "Is a more robust than b?"


def answer(statement: str, source: str, question: str | None = QUESTION, metric: str = "pgd20") -> Claim:
    told = {"row": "a", "rows": ["b"], "metrics": [metric]}
    return Claim.model_validate({"says": f"it is {statement}", "source": source, "question": question, statement: told})


def results(*claims: Claim) -> Results:
    return with_claims(table({"a": {"square": 0, "fgsm": 0}, "b": {"square": 0, "fgsm": 120}}), *claims)


def sentence(*verdicts: tuple[str, Decision]) -> str:
    answers = [Answer(number, source, "so", verdict, None) for number, (source, verdict) in enumerate(verdicts)]
    return Rivalry(QUESTION, tuple(answers)).sentence


def test_who_is_right_is_told_by_all_that_each_source_says() -> None:
    assert sentence(("A", HOLDS), ("B", FAILS)) == "A is right, and not B."
    assert sentence(("A", HOLDS), ("A", FAILS), ("B", HOLDS)) == "B is right, and not A."
    assert sentence(("A", HOLDS), ("B", HOLDS)).startswith("All of them hold")
    assert sentence(("A", FAILS), ("B", FAILS)).startswith("Nobody is right")
    assert sentence(("A", FAILS), ("B", UNDECIDED)) == "Not decided yet: A wrong; not enough evidence for B."
    assert sentence(("A", UNDECIDED), ("B", UNDECIDED)) == "Not decided yet; not enough evidence for A and B."
    assert sentence(("A", HOLDS), ("B", FAILS), ("C", FAILS), ("D", FAILS)) == "A is right, and not B, C or D."


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_source_is_wrong_by_one_answer_that_fails_and_right_only_by_all_in_any_order(count: int) -> None:
    for own in itertools.product((HOLDS, FAILS, UNDECIDED), repeat=count):
        told = sentence(("B", HOLDS), *(("A", verdict) for verdict in own))
        if FAILS in own:
            assert told == "B is right, and not A.", own
        elif UNDECIDED in own:
            assert told == "Not decided yet: B so far right; not enough evidence for A.", own
        else:
            assert told.startswith("All of them hold"), own


def test_the_report_sets_rivals_side_by_side_on_page_terminal_and_as_json() -> None:
    found = results(
        answer("above", "Smith 2017", metric="fgsm"),
        answer("below", "Jones 2018", metric="fgsm"),
        answer("above", "Smith 2017", None),
    )
    told = results_as_json([found])["rivals"]
    assert [(each["source"], each["ours"]) for each in told[0]["answers"]] == [
        ("Smith 2017", HOLDS),
        ("Jones 2018", FAILS),
    ]
    assert len(told) == 1 and told[0]["who_is_right"] == "Smith 2017 is right, and not Jones 2018."
    stream = io.StringIO()
    print_results(found, Console(file=stream, width=200))
    assert f"Who is right? {QUESTION}" in stream.getvalue() and "“it is below” (Jones 2018)" in stream.getvalue()
    page = render(page_of([found], {}))
    assert "Who is right?" in page and "<cite>Smith 2017</cite>" in page and "and not Jones 2018." in page
    assert results_as_json([results(answer("above", "Smith 2017", None))])["rivals"] == []


def test_an_answer_on_a_masked_column_counts_by_the_worst_of_all_attacks() -> None:
    claims: Sequence[Claim] = [answer("above", "Smith 2017"), answer("below", "Jones 2018")]
    lost = {"a": {"square": 0, "worst": 0}, "b": {"square": 60, "worst": 60}}
    made = with_claims(table(lost), *claims)
    verdicts = [(judge(claim, made), None) for claim in claims]
    second = {number: judge(claim, made) for number in (0, 1) if (claim := on_the_worst(claims[number])) is not None}
    [first], [counted] = rivalries(verdicts, {}), rivalries(verdicts, second)
    assert [each.ours for each in first.answers] == [UNDECIDED, UNDECIDED]
    assert [(each.ours, each.on_worst) for each in counted.answers] == [(HOLDS, True), (FAILS, True)]


TWO = """\
title: T
rows: [{label: a}, {label: b}]
claims:
  - says: "yes"
    above: {row: a, rows: [b], metrics: [pgd20]}
    source: A
    question: "Is it so?"
  - {says: "no", below: {row: a, rows: [b], metrics: [pgd20]}, MORE}
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('source: B, question: "Is it sO?"', r"own.yaml:7: claims.0.question: expected a question .* 'Is it sO\?'"),
        ('source: A, question: "Is it so?"', r"own.yaml:7: claims.0.question: expected a question .* of 'A' alone"),
        ('question: "Is it so?"', r"own.yaml:8: claims.1: expected a source beside question, got none"),
        ('source: ""', r"own.yaml:8: claims.1.source: expected at least 1 character"),
    ],
)
def test_a_question_of_one_source_alone_is_refused_by_its_line(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TWO.replace("MORE", more))
    with pytest.raises(SpecError, match=message):
        load_space(str(path))
    path.write_text(TWO.replace("MORE", 'source: B, question: "Is it so?"'))
    assert load_space(str(path)).space.claims[1].source == "B"


def test_table_1_has_its_rival() -> None:
    claims = load_space("lowpass").space.claims
    sources = {claim.source for claim in claims if claim.question is not None}
    assert any("1802.00420" in str(source) for source in sources) and len(sources) == 2
