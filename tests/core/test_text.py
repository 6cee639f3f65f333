"""How errors and other people's words are told in one line."""

from __future__ import annotations

import errno
import os

import pytest

from ablate.core.text import first_line, named_line, reason_of


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
