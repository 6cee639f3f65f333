"""How errors and other people's words are told in one line."""

from __future__ import annotations

import errno
import os

import pytest

from ablate.core.text import aside, first_line, left_over, listed, named_line, plural, reason_of, shown


@pytest.mark.parametrize("text", ["", "  \n", "one", "\n one\ntwo", "x" * 900])
def test_one_line_of_whatever_was_said(text: str) -> None:
    for line in (first_line(text, "nothing"), first_line(ValueError(text)), named_line(ValueError(text))):
        assert line and "\n" not in line and len(line) <= 320
    assert text.strip()[:3] in first_line(text, "nothing")
    assert named_line(ValueError(text)).startswith("ValueError")
    assert named_line(ValueError(text)).count("ValueError") == 1


def test_the_reason_of_a_system_error_names_neither_number_nor_file() -> None:
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/secret/place")
    assert reason_of(error) == "permission denied"
    assert reason_of(OSError("no number")) == "no number"
    assert reason_of(ValueError("what it says\nand more")) == "what it says"


@pytest.mark.parametrize(
    ("count", "most", "line"),
    [(0, 2, ""), (1, 2, "0"), (2, 2, "0, 1"), (3, 2, "0, 1 and 1 more"), (1202, 1, "0 and 1,201 more")],
)
def test_long_lists_end_with_how_many_are_left_out(count: int, most: int, line: str) -> None:
    texts = [str(number) for number in range(count)]
    assert listed(texts, most) == line
    assert shown(texts, most)[:most] == texts[:most]
    assert shown(texts, most)[most:] == left_over(count, most)


def test_brackets_within_brackets_are_square() -> None:
    assert aside("plain") == "(plain)"
    assert aside("not needed (given up (at 3))") == "(not needed [given up [at 3]])"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 cycles"), (1, "1 cycle"), (1.0, "1 cycle"), (0.5, "0.5 cycles"), (2, "2 cycles"), (1234, "1,234 cycles")],
)
def test_a_number_and_its_noun_agree(count: float, words: str) -> None:
    assert plural(count, "cycle") == words
