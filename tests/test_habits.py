"""How this project is written: modules of one idea, tests of what is public, one place for what every module needs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHED = re.compile(r"""setattr\(\s*(?:"[\w.]*\.|[^,()]+,\s*")(_[a-z]\w*|_[A-Z]\w*)\"""")


OWN = re.compile(r"(?:\bdef |\bclass |^)(_[A-Za-z]\w*)\b(?<!_)|\bself\.(_[A-Za-z]\w*)(?=,|:| =)", re.MULTILINE)
REACHED = re.compile(r"(?<!\bself)(?<!\bcls)(?<=[\w)\]])\.(_[A-Za-z]\w*)")
TAKEN = re.compile(r"^ *from ablate[\w.]* import [^#\n]*?\b(_[A-Za-z]\w*)", re.MULTILINE)


def longer(folder: str, most: int) -> list[str]:
    """Modules of more lines."""
    counted = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    return [f"{path.relative_to(ROOT)}: {lines}" for path, lines in sorted(counted.items()) if lines > most]


def test_no_module_is_long() -> None:
    assert longer("ablate", 500) == [] and longer("tests", 400) == []


def test_no_test_patches_a_private_name() -> None:
    assert PATCHED.search('monkeypatch.setattr(module, "_hidden", 1)') and PATCHED.search('setattr("a.b._hidden", 1)')
    assert PATCHED.search('monkeypatch.setattr(thing, "__init__", 1)') is None
    found = {
        f"{path.relative_to(ROOT)}: {match[1]}"
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != Path(__file__).name
        for match in PATCHED.finditer(path.read_text())
    }
    assert found == set()


def private(text: str) -> set[str]:
    """What a module calls private; names that begin and end so are others' protocols."""
    return {name for found in OWN.findall(text) for name in found if name}


def test_no_test_reaches_for_a_private_name() -> None:
    """Also within the text of a program that a test starts; what a test module calls private itself is its own."""
    assert [REACHED.findall(text) for text in ("a._b.c", "f(x)._b = 1", "self._b", "a.__b__")] == [["_b"]] * 2 + [
        []
    ] * 2
    assert TAKEN.search("from ablate.core import places, _hidden") and not TAKEN.search("from ablate import core")
    assert private("def _a(): ...\n_B = 1\nclass C:\n    self._d, self._e = self._f()\n") == {"_a", "_B", "_d", "_e"}
    hidden = {name for path in (ROOT / "ablate").rglob("*.py") for name in private(path.read_text())}
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != Path(__file__).name
        for text in [path.read_text()]
        for name in {*TAKEN.findall(text), *(hidden & {*REACHED.findall(text)} - private(text))}
    }
    assert found == set(), "give it a public name, or test what it is for"


def test_nobody_compares_with_a_presets_name() -> None:
    compared = re.compile(r"""(==|!=|\bin\b)\s*[(\[]?\s*["'](smoke|paper)["']""")
    found = [path.name for path in (ROOT / "ablate").rglob("*.py") if compared.search(path.read_text())]
    assert found == []


def test_long_lists_are_cut_in_one_place() -> None:
    cut = re.compile(r"""\band \{[^}]*\}(?:\{[^}]*\})? more\b""")
    found = {path.name for path in (ROOT / "ablate").rglob("*.py") if cut.search(path.read_text())}
    assert found == {"text.py"}, "use listed, shown or left_over of ablate.core.text"
