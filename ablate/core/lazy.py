"""Names that a package hands on without importing the modules that hold them before they are used."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What makes a package's imports under `if TYPE_CHECKING:` its public names when it runs, too.

        if TYPE_CHECKING:
            from ablate.storage.storage import Storage as Storage
        else:
            __getattr__, __dir__, __all__ = lazy_exports(__name__)

    The imports are the one list: type checkers and editors read it as it stands, with every name's own type, and Python
    reads it from the package's source. Hidden from type checkers, `__getattr__` lets no mistyped name pass them.

    Args:
        package: Its `__name__`.

    Returns:
        Its `__getattr__`, `__dir__` and `__all__`.

    Raises:
        ImportError: Its source is not there to be read.
    """
    module = sys.modules[package]
    get_source = getattr(module.__loader__, "get_source", None)
    source = get_source(package) if get_source is not None else None
    if source is None:
        raise ImportError(f"expected the source of {package}, which lists its names, got none", name=package)
    places = {
        alias.asname or alias.name: (found.module, alias.name)
        for found in _under_type_checking(ast.parse(source))
        for alias in found.names
    }

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place, attribute = places[name]
        return getattr(importlib.import_module(str(place)), attribute)

    return get, lambda: sorted({*vars(module), *places}), sorted(places)


def _under_type_checking(tree: ast.Module) -> list[ast.ImportFrom]:
    return [
        line
        for part in tree.body
        if isinstance(part, ast.If) and isinstance(part.test, ast.Name) and part.test.id == "TYPE_CHECKING"
        for line in part.body
        if isinstance(line, ast.ImportFrom)
    ]
