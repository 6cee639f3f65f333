"""A package's public names are listed once: its imports for type checkers are what Python hands on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ablate

LAZY = ("ablate", "ablate.planning", "ablate.spaces", "ablate.storage", "ablate.tracking")
FACE = """\
from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

if TYPE_CHECKING:
    from {name}.inner import given as given
    from {name}.inner import other as renamed
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
"""


@pytest.fixture
def face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose inner module says when it is loaded."""
    folder = tmp_path / "a_lazy_face"
    folder.mkdir()
    (folder / "__init__.py").write_text(FACE.format(name=folder.name))
    (folder / "inner.py").write_text("given, other = 1, 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_name_is_loaded_when_it_is_used(face: str) -> None:
    package = importlib.import_module(face)
    assert package.__all__ == ["given", "renamed"] and {"given", "renamed", "__name__"} <= set(dir(package))
    assert f"{face}.inner" not in sys.modules
    assert (package.given, package.renamed) == (1, 2)
    sys.modules[f"{face}.inner"].given = 3  # type: ignore[attr-defined]
    assert package.given == 3  # never a second copy
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        package.other  # noqa: B018


def test_a_package_without_its_source_says_so(face: str, tmp_path: Path) -> None:
    import py_compile

    source = tmp_path / face / "__init__.py"
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
    source.unlink()
    with pytest.raises(ImportError, match=rf"expected the source of {face}"):
        importlib.import_module(face)


@pytest.mark.parametrize("name", LAZY)
def test_every_name_of_a_package_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert len(set(package.__all__)) == len(package.__all__) > 0
    for each in package.__all__:
        assert getattr(package, each) is not None and each in dir(package)


def test_no_package_lists_its_lazy_names_in_another_way() -> None:
    top = Path(ablate.__file__).parent
    lazy = {
        ".".join(["ablate", *path.parent.relative_to(top).parts])
        for path in top.rglob("__init__.py")
        if "__getattr__" in path.read_text()
    }
    assert lazy == set(LAZY)
    for name in LAZY:
        source = Path(importlib.import_module(name).__file__ or "").read_text()
        assert "lazy_exports(__name__)" in source and "def __getattr__" not in source
