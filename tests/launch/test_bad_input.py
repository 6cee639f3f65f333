"""Whatever is written into a space file, a preset or --set: it works, or a message says where and what was expected."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate import spaces
from ablate.core.errors import SpecError
from ablate.spaces import presets
from ablate.spaces.loading import load_space
from ablate.spaces.presets import load_preset
from ablate.spaces.settings import parse_overrides, setting_paths
from ablate.spaces.trials import expand

SPACE = """\
title: A space with a bit of everything
description: text
table: 2
base: {training.attack: {name: pgd, steps: 7}, training.learning_rate: 0.1}
rows:
  - label: a
    set: {training.batch_size: 512, measurement.lowpass_degree: 16}
    published: {natural: 75.02, pgd20: 42.89}
  - label: b
    set: {training: {milestones: [{epoch: 3, factor: 0.1}], epochs: 10}}
    note: own
claims:
  - says: a is better
    above: {row: a, rows: [b], metrics: [natural]}
figures: []
smoke:
  set: {training.flip: false}
  rows: {a: {set: {training.batch_size: 32}}}
"""
PRESET = "description: quick\nset:\n  data: {name: digits, image_size: 16}\n  training.epochs: 8\n"

TOKENS = st.sampled_from(
    [
        *":{}[],-&*!|>%@`#?'\"~\t\n ",
        "\n---\n",
        "\n...\n",
        "<<: *a",
        "&a ",
        "*a",
        "!!python/object/apply:os.system [ls]",
        "!!bool x",
        "!!timestamp y",
        "!!set {a, b}",
        "!!binary a",
        "!!int ''",
        "!!map [a]",
        "2024-13-45",
        "1:30",
        "0o7",
        ".inf",
        ".nan",
        "1e400",
        "9" * 5000,
        "[" * 400,
        "{a: " * 200,
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "on",
        "null",
        "training.epochs: ",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "b", "pgd", "natural", "[bold]", "x" * 300, "training.epochs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FEW = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@st.composite
def edited_text(draw: st.DrawFn, text: str) -> str:
    """A text with a few characters or lines lost, doubled, or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        middle = draw(st.sampled_from(["", text[at:end] * 2]) | TOKENS | st.text(max_size=4))
        text = text[:at] + middle + text[end:]
    return text


@st.composite
def edited_data(draw: st.DrawFn, text: str) -> str:
    """A file with one value, key or item exchanged for another one."""
    data = yaml.safe_load(text)
    spot: Any = data
    for _ in range(draw(st.integers(0, 5))):
        inner = list(spot.values()) if isinstance(spot, dict) else spot
        inner = [value for value in inner if isinstance(value, (dict, list)) and value]
        if not inner:
            break
        spot = draw(st.sampled_from(inner))
    if isinstance(spot, dict):
        key = draw(st.sampled_from(list(spot)))
        old = copy.deepcopy(spot[key])
        if draw(st.booleans()):
            del spot[key]
            key = draw(st.text(max_size=6) | st.sampled_from([*setting_paths(), "labl", "title", "set"]))
        spot[key] = draw(st.just(old) | VALUES)
    else:
        spot[draw(st.integers(0, len(spot) - 1))] = draw(VALUES)
    return yaml.safe_dump(data, allow_unicode=True)


def check(act: Any, *names: str) -> None:
    try:
        act()
    except SpecError as error:
        message = str(error)
        assert any(name in message for name in names), message
        assert "expected" in message, message


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "presets").mkdir()
    (folder / "presets" / "paper.yaml").write_text("set: {}\n")
    (folder / "presets" / "smoke.yaml").write_text("set: {training.epochs: 8}\n")
    (folder / "good.yaml").write_text(SPACE)
    return folder


@pytest.fixture(autouse=True)
def _shipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "folder", lambda: place)


@settings(max_examples=900, **FEW)
@given(text=edited_text(SPACE) | edited_data(SPACE), preset=st.sampled_from(["paper", "smoke"]))
@pytest.mark.slow
def test_any_space_file_works_or_is_refused_by_name(place: Path, text: str, preset: str) -> None:
    path = place / "space.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    check(lambda: expand(load_space(str(path)), load_preset(preset), [], [0]), str(path))


@settings(max_examples=300, **FEW)
@given(text=edited_text(PRESET) | edited_data(PRESET))
def test_any_preset_works_or_is_refused_by_name(place: Path, text: str) -> None:
    path = place / "presets" / "own.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    check(lambda: expand(load_space("good"), load_preset("own"), [], [0]), str(path), str(place / "good.yaml"))


@settings(max_examples=300, **FEW)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_by_name(place: Path, content: bytes) -> None:
    path = place / "bytes.yaml"
    path.write_bytes(content)
    check(lambda: load_space(str(path)), str(path))


@settings(max_examples=1000, **FEW)
@given(
    path=st.sampled_from(setting_paths()) | st.text(max_size=12) | edited_text("training.attack.steps"),
    value=VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)) | TOKENS | st.text(max_size=12),
)
@pytest.mark.slow
def test_any_set_works_or_is_refused_by_name(place: Path, path: str, value: str) -> None:
    loaded = load_good(place)
    text = f"{path}={value}"
    check(lambda: expand(loaded, load_preset("paper"), parse_overrides([text]), [0]), f"--set {text}", "lowpass_degree")


@settings(max_examples=200, **FEW)
@given(name=st.text(max_size=40) | edited_text("search_spaces/batch_size.yaml") | st.text(min_size=250, max_size=300))
def test_any_name_of_a_space_works_or_is_refused(name: str) -> None:
    check(lambda: load_space(name), "--space", name)


_LOADED: list[spaces.SpaceFile] = []


def load_good(place: Path) -> spaces.SpaceFile:
    if not _LOADED:
        _LOADED.append(load_space(str(place / "good.yaml")))
    return _LOADED[0]


def test_the_unedited_files_work(place: Path) -> None:
    assert len(expand(load_good(place), load_preset("smoke"), [], [0])) == 2
