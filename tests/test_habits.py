"""How this project is written: modules of one idea, tests of what is public, one place for what every module needs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHED = re.compile(r"""setattr\(\s*(?:"[\w.]*\.|[^,()]+,\s*")(_[a-z]\w*|_[A-Z]\w*)\"""")


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


def test_nobody_compares_with_a_presets_name() -> None:
    compared = re.compile(r"""(==|!=|\bin\b)\s*[(\[]?\s*["'](smoke|paper)["']""")
    found = [path.name for path in (ROOT / "ablate").rglob("*.py") if compared.search(path.read_text())]
    assert found == []


def test_long_lists_are_cut_in_one_place() -> None:
    cut = re.compile(r"""\band \{[^}]*\}(?:\{[^}]*\})? more\b""")
    found = {path.name for path in (ROOT / "ablate").rglob("*.py") if cut.search(path.read_text())}
    assert found == {"text.py"}, "use listed, shown or left_over of ablate.core.text"
