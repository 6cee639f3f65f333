from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ablate.spaces.claims import KINDS, Claim
from ablate.spaces.metrics import is_accuracy

STATEMENTS = {
    "above": {"row": "128", "rows": ["512", "32"], "metrics": ["natural", "pgd20"]},
    "below": {"row": "32", "rows": ["128"], "metrics": ["pgd20"]},
    "pairwise": {"pairs": [["128", "512"], ["64", "32"]], "metrics": ["cw20"]},
    "best": {"row": "128", "metrics": ["pgd20"]},
    "ordering": {"rows": ["512", "256", "128"], "direction": "decreases", "metrics": ["energy/ratio"]},
    "difference": {"row": "128", "minus": "512", "within": 1, "metrics": ["adaptive/pgd20"]},
    "gain": {"rows": ["128"], "over": "512", "than": "pgd20", "metrics": ["natural"]},
    "interaction": {"both": "512", "one": "256", "other": "128", "neither": "64", "metrics": ["pgd20"]},
    "value": {"row": "32", "reference": 77.14, "within": 1.0, "metrics": ["natural"]},
    "trend": {"row": "32", "metrics": ["energy/ratio"]},
}


def claim(**statement: object) -> Claim:
    return Claim.model_validate({"says": "words", **statement})


def test_every_kind_has_a_statement_here() -> None:
    assert set(STATEMENTS) == set(KINDS)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_kind_is_told_by_its_key_and_survives_a_round_trip(kind: str) -> None:
    made = claim(**{kind: STATEMENTS[kind]})
    assert made.kind == kind
    assert Claim.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.says = "other"  # type: ignore[misc]


@pytest.mark.parametrize("kind", STATEMENTS)
def test_unknown_keys_and_wrong_types_are_refused_where_they_are(kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        claim(**{kind: {**STATEMENTS[kind], "colour": 1}})
    assert caught.value.errors()[0]["loc"] == (kind, "colour")
    with pytest.raises(ValidationError) as caught:
        claim(**{kind: {**STATEMENTS[kind], "metrics": [3]}})
    assert caught.value.errors()[0]["loc"] == (kind, "metrics", 0)
    with pytest.raises(ValidationError) as caught:
        claim(**{kind: {**STATEMENTS[kind], "metrics": []}})
    assert caught.value.errors()[0]["loc"] == (kind, "metrics")


def test_exactly_one_statement() -> None:
    with pytest.raises(ValidationError, match=r"exactly one of above.*got none"):
        claim()
    with pytest.raises(ValidationError, match=r"exactly one of above.*got above and best"):
        claim(above=STATEMENTS["above"], best=STATEMENTS["best"])


def test_numbers_as_row_labels_are_refused() -> None:
    with pytest.raises(ValidationError, match="valid string"):
        claim(above={"row": 128, "rows": ["512"], "metrics": ["natural"]})


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ({"above": {"row": "a", "rows": ["a"], "metrics": ["pgd20"]}}, "each row once, got 'a' twice"),
        ({"best": {"row": "a", "metrics": ["pgd20", "pgd20"]}}, "each metric once, got 'pgd20' twice"),
        ({"pairwise": {"pairs": [["a", "a"]], "metrics": ["pgd20"]}}, "got 'a' twice"),
        ({"ordering": {"rows": ["a"], "metrics": ["pgd20"]}}, "at least 2"),
        ({"difference": {"row": "a", "minus": "b", "metrics": ["pgd20"]}}, "exactly one of at_least.*got none"),
        (
            {"difference": {"row": "a", "minus": "b", "at_least": 1, "within": 1, "metrics": ["pgd20"]}},
            "got at_least and within",
        ),
        ({"difference": {"row": "a", "minus": "b", "within": -1, "metrics": ["pgd20"]}}, "greater than 0"),
        ({"interaction": {"both": "c", "one": "a", "other": "a", "neither": "d", "metrics": ["pgd20"]}}, "'a' twice"),
        ({"interaction": {"both": "c", "one": "a", "metrics": ["pgd20"]}}, "four rows, both.*got no other"),
        ({"interaction": {"both": "c", "factors": ["a", "b"], "metrics": ["pgd20"]}}, "either factors or the four"),
        (
            {"interaction": {"factors": ["a", "b"], "at_least": 1, "within": 1, "metrics": ["pgd20"]}},
            "got at_least and within",
        ),
        ({"value": {"row": "a", "within": 1, "metrics": ["pgd20"]}}, "reference and within together"),
        ({"value": {"row": "a", "at_least": float("nan"), "metrics": ["pgd20"]}}, "finite"),
        ({"gain": {"rows": ["a"], "over": "b", "than": "pgd20", "metrics": ["pgd20"]}}, "got 'pgd20' twice"),
    ],
)
def test_statements_that_say_nothing_are_refused(statement: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(**statement)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_rows_of_every_kind_are_checked(kind: str) -> None:
    made = claim(**{kind: STATEMENTS[kind]})
    assert made.problems(["512", "256", "128", "64", "32"]) == []
    named = {label for _, label in made.statement.named_rows()}
    assert named
    for label in named:
        found = made.problems({"512", "256", "128", "64", "32"} - {label})
        assert len(found) == 1
        assert found[0].startswith(f"{kind}.")
        assert f"got {label!r}" in found[0]


def test_unknown_row_names_the_place_and_the_nearest_label() -> None:
    made = claim(pairwise={"pairs": [["C-mixup", "A-mixupp"]], "metrics": ["pgd20"]})
    assert made.problems(["128", "A-mixup", "C-mixup"]) == [
        "pairwise.pairs.0.1: expected a row of this space, got 'A-mixupp'; did you mean 'A-mixup'?"
    ]


@given(st.text(alphabet="abcdefghij0123456789_", min_size=1))
def test_columns_are_accuracies_with_and_without_the_adaptive_attack_and_scalars_are_not(name: str) -> None:
    assert is_accuracy(name)
    assert is_accuracy(f"adaptive/{name}")
    assert not is_accuracy(f"energy/{name}")
