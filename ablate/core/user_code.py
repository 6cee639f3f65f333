"""The user's own modules, as `--import` names them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable

from ablate.core.errors import SpecError, UserError, place_of
from ablate.core.text import named_line


def import_modules(modules: Iterable[str]) -> None:
    """Load the user's own modules, also from the working directory.

    Args:
        modules: Their dotted names.

    Raises:
        SpecError: One cannot be imported.
    """
    for module in modules:
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
            sys.path.insert(0, os.getcwd())  # noqa: PTH109
        if module.endswith(".py") or "/" in module or module.startswith("."):
            meant = module.removesuffix(".py").lstrip("./").replace("/", ".")
            raise SpecError(f"--import {module}: expected the name of a module, got a file's; did you mean {meant}?")
        if "," in module:
            asked = " ".join(f"--import {part.strip()}" for part in module.split(","))
            raise SpecError(f"--import {module}: expected the name of one module, got several; did you mean {asked}?")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SpecError(f"--import {module}: expected a module that can be imported, got {error}") from error
        except Exception as error:  # it is the user's own code, and this is where it went wrong
            place = traceback.extract_tb(error.__traceback__)[-1]
            file, line = place.filename, place.lineno
            if isinstance(error, SyntaxError):
                file, line = error.filename or file, error.lineno or line
            where = f" ({file}:{line})"
            if isinstance(error, UserError):  # a name that is refused
                raise SpecError(f"--import {module}: {error}{place_of(error) or where}") from error
            what = named_line(error)
            raise SpecError(f"--import {module}: expected a module that can be imported, got {what}{where}") from error
