"""YAML files: every mistake with its file, line and path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ablate.core.errors import SpecError
from ablate.spaces.specs import TrialSpec
from ablate.spaces.yamlfile import MOST_VALUES, YamlFile, describe, explain, fields_at, flatten, read_value


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "file.yaml"
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str | bytes) -> str:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        YamlFile(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "expected" in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", ":3: expected"),
        ("a: 1\n\tb: 2\n", ":2: expected YAML, got a problem: found character '\\t'"),
        ("a: 1\na: 2\n", ":2: expected each key once, got 'a' again (first on line 1)"),
        ("a:\n  b: 1\n  b: 1\n", ":3: expected each key once, got 'b' again (first on line 2)"),
        ("1: one\n", ":1: expected text as a key, got 1 (quote it)"),
        ("true: one\n", ":1: expected text as a key, got True (quote it)"),
        ("? [a, b]\n: c\n", ":1: expected text as a key"),
        ("- a\n- b\n", ":1: expected a mapping of keys to values, got a list"),
        ("just text", ":1: expected a mapping of keys to values, got 'just text'"),
        ("", ":1: expected a mapping of keys to values, got nothing"),
        ("# only a comment\n", ":1: expected a mapping"),
        ("a: 1\n---\nb: 2\n", ":2: expected a single document"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: expected YAML"),
        ("a: !mine 1\n", ":1: expected YAML"),
        ("a: &x [*x]\n", ":1: expected YAML"),
        ("a: &x {b: *x}\n", ":1: expected YAML"),
        ("a: *nowhere\n", ":1: expected YAML"),
        ("a: !!int 010\n", ": expected YAML, got a value that does not fit"),
        ("a: !!float 1:30\n", ": expected YAML, got a value that does not fit"),
        ("a: !!bool yes\n", ": expected YAML, got a value that does not fit"),
        ("a: !!bool maybe\n", ": expected YAML, got a value that does not fit"),
        ("a: !!timestamp soon\n", ": expected YAML, got a value that does not fit"),
        ("a: !!int ''\n", ": expected YAML, got a value that does not fit"),
        ("a: !!map [b]\n", ": expected YAML, got a value that does not fit"),
        ("a: " + "[" * 5000 + "]" * 5000, ": expected"),
        ("a: b\x00c\n", ": expected"),
        (b"a: \xff\xfe\n", ": expected a readable UTF-8 file"),
        ("a: " + "9" * 5000, ": expected"),
    ],
)
def test_what_is_no_space_of_keys_is_refused_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refusal(tmp_path, text).startswith(said)


def test_a_few_lines_that_stand_for_billions_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert f"at most {MOST_VALUES:,} values" in refusal(tmp_path, "\n".join(lines))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none.yaml: expected a readable UTF-8 file, got no such file"):
        YamlFile(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="expected a readable UTF-8 file, got is a directory"):
        YamlFile(tmp_path)


def test_every_key_and_item_remembers_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufefftop:\n  inner: {x: 1,\n    y: 2}\nitems:\n  - a\n  -\n    b: 3\n")
    file = YamlFile(path)
    assert file.where(("top",)) == f"{path}:1"
    assert file.where(("top", "inner", "y")) == f"{path}:3"
    assert file.where(("items", 0)) == f"{path}:5"
    assert file.where(("items", 1, "b")) == f"{path}:7"
    assert file.where(("items", 1, "c", "d")) == f"{path}:7"  # the nearest place around
    assert file.where(("other",)) == f"{path}:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e5", 1e5),
        ("1.0e4", 1e4),
        ("-2E+3", -2e3),
        (".5e1", 5.0),
        ("0.1", 0.1),
        ("3", 3),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1e5x", "1e5x"),
        ("'1e5'", "1e5"),
        ("true", True),
        ("", None),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("-0", 0),
        ("010", "010"),
        ("+5", "+5"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("1_000.5", "1_000.5"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("no", "no"),
        ("True", "True"),
        ("[010, on]", ["010", "on"]),
        ("2024-01-01", "2024-01-01"),
        ("3 #2", "3 #2"),
        ("@x", "@x"),
        ("--- a", "--- a"),
    ],
)
def test_values_are_read_as_people_write_them(text: str, value: Any) -> None:
    read = read_value(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["[1] #2", "a: [1] #2", "{a: 1 #2\n}"])
def test_no_part_of_a_value_is_a_comment(text: str) -> None:
    with pytest.raises(SpecError, match="expected one value, got '#2' after it"):
        read_value(text)


def test_files_guess_at_no_value(tmp_path: Path) -> None:
    odd = ["010", "0x1F", "0o17", "1_000", "1:30", "yes", "no", "on", "Off", "2024-01-01", "+5"]
    text = "".join(f"v{number}: {value}\n" for number, value in enumerate(odd))
    assert list(YamlFile(written(tmp_path, text)).data.values()) == odd
    meant = YamlFile(written(tmp_path, "a: True\nb: FALSE\nc: ~\nd: -7\ne: 010.5\nf: .5\ng: 1e3\nh: '7'\n")).data
    assert list(meant.values()) == [True, False, None, -7, 10.5, 0.5, 1000.0, "7"]


@pytest.mark.parametrize("text", ["[", "{a: 1, a: 2}", "!!bool maybe", "!!python/name:os.system x", "*x", "a: b: c"])
def test_values_that_are_no_yaml_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected a value in YAML, got"):
        read_value(text)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    number: int = Field(0, ge=0)
    names: list[str] = Field(["x"], min_length=1, max_length=2)
    word: str = Field("w", min_length=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inner: Inner = Inner()
    many: list[Inner] = []
    flag: bool = False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inner:\n  numbr: 1\n", ":2: inner.numbr: expected a known key, got 'numbr'; did you mean 'number'?"),
        ("many:\n- {}\n- {xyz: 1}\n", ":3: many.1.xyz: expected a known key, got 'xyz'; valid: names, number, word"),
        ("\ninner: {number: -1}\n", ":2: inner.number: expected greater than or equal to 0, got -1"),
        ("inner: {number: 1.5}\n", ":1: inner.number: expected a whole number, got 1.5"),
        ("inner: {number: many}\n", ":1: inner.number: expected a whole number, got 'many'"),
        ("inner: {number: }\n", ":1: inner.number: expected a whole number, got nothing"),
        ("inner: {names: []}\n", ":1: inner.names: expected at least 1 item, got 0"),
        ("inner: {names: [a, b, c]}\n", ":1: inner.names: expected at most 2 items, got 3"),
        ("inner: {names: a}\n", ":1: inner.names: expected a list, got 'a'"),
        ("inner: {names: [1]}\n", ":1: inner.names.0: expected text (quote it), got 1"),
        ("inner: {word: ''}\n", ":1: inner.word: expected at least 1 character, got 0"),
        ("inner: 3\n", ":1: inner: expected a mapping, got 3"),
        ("flag: 1\n", ":1: flag: expected true or false, got 1"),
        ("\nflag: no\n", ":2: flag: expected true or false, got 'no'; did you mean false?"),
        ("flag: On\n", ":1: flag: expected true or false, got 'On'; did you mean true?"),
        ("inner: {number: 010}\n", ":1: inner.number: expected a whole number, got '010'; did you mean 10?"),
        ("inner: {number: 0x1F}\n", ":1: inner.number: expected a whole number, got '0x1F'; did you mean 31?"),
        ("inner: {number: 1_000}\n", ":1: inner.number: expected a whole number, got '1_000'; did you mean 1000?"),
        ("inner: {number: 1:30}\n", ":1: inner.number: expected a whole number, got '1:30'; did you mean 90?"),
        ("inner: {number: 64.0}\n", ":1: inner.number: expected a whole number, got 64.0; did you mean 64?"),
        ("inner: {number: '7'}\n", ":1: inner.number: expected a whole number, got '7'; did you mean 7?"),
    ],
)
def test_a_wrong_value_names_line_path_and_what_was_expected(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        YamlFile(path).validate(Outer)
    assert str(caught.value) == str(path) + said


def test_several_mistakes_are_told_at_once_up_to_five(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"wrong{n}: 1\n" for n in range(7)))
    with pytest.raises(SpecError) as caught:
        YamlFile(path).validate(Outer)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines[:5]] == ["1", "2", "3", "4", "5"]
    assert lines[5] == "and 2 more"


def test_a_mistyped_choice_points_to_the_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        TrialSpec.model_validate({"training": {"attack": {"name": "pgf"}}})
    text = explain(caught.value, TrialSpec, lambda place: "here")
    choices = "'pgd', 'fgsm_rs', 'n_fgsm' or 'none'"
    assert text == f"here: training.attack.name: expected {choices}, got 'pgf'; did you mean 'pgd'?"


def test_valid_keys_are_found_through_lists_and_unions() -> None:
    assert fields_at(Outer, ()) == ["flag", "inner", "many"]
    assert fields_at(Outer, ("many", 3)) == ["names", "number", "word"]
    assert "epoch" in fields_at(TrialSpec, ("training", "milestones", 0))
    assert fields_at(TrialSpec, ("seed",)) == []


def test_settings_flatten_to_dotted_paths_in_order() -> None:
    nested = {"a.b": 1, "c": {"d.e": {"f": 2}, "g": {}}, "h": [{"i": 1}]}
    assert list(flatten(nested)) == [("a.b", 1), ("c.d.e.f", 2), ("c.g", {}), ("h", [{"i": 1}])]


def test_long_values_are_cut_in_messages() -> None:
    assert len(describe("x" * 1000)) == 80
    assert describe({"a": 1}) == "a mapping"
