"""What a submitted job carries: the code and the user's own space files and modules, and nothing else.

Files are chosen by name, not left out by pattern, so that storage, data, `mlflow.db`, environments and secrets that lie
beside them cannot travel.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ablate import spaces
from ablate.errors import UserError
from ablate.spaces import SpaceFile

SPACES = "spaces"
"""The folder of a package with the user's own space files."""

_CODE = {".py", ".yaml", ".yml", ".json", ".typed"}
_NEVER = {"__pycache__", ".git", ".venv", "storage", "data", "mlruns", "mlartifacts"}


def own_spaces(loaded: Iterable[SpaceFile]) -> dict[str, Path]:
    """The spaces that are not shipped with the package.

    Args:
        loaded: Those of a launch.

    Returns:
        Path inside the package -> the file here.

    Raises:
        UserError: Two files of one name.
    """
    shipped = spaces.folder().resolve()
    found: dict[str, Path] = {}
    for space in loaded:
        path = Path(space.file.path).resolve()
        if path.parent == shipped:
            continue
        name = f"{SPACES}/{path.name}"
        if found.setdefault(name, path) != path:
            raise UserError(f"--space: expected files of different names, got {found[name]} and {path}")
    return found


def build(target: Path, loaded: Sequence[SpaceFile], imports: Sequence[str]) -> None:
    """Gather a job's working folder.

    Args:
        target: An empty folder.
        loaded: The launch's spaces.
        imports: The user's modules, as given to `--import`; they have been imported here already.

    Raises:
        UserError: Two files of one name, or a module that cannot be found as a file.
    """
    package = Path(__file__).resolve().parent.parent
    _copy_tree(package, target / "ablate")
    shipped = spaces.folder().resolve()
    if not shipped.is_relative_to(package):
        _copy_tree(shipped, target / "search_spaces")
    for name, path in own_spaces(loaded).items():
        (target / SPACES).mkdir(exist_ok=True)
        shutil.copyfile(path, target / name)
    for module in imports:
        _copy_module(module, target)


def _copy_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_file() and path.suffix in _CODE and not _NEVER & set(inside.parts[:-1]):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)


def _copy_module(module: str, target: Path) -> None:
    """A user's module with everything it imported from the same folder; installed ones are the cluster's business."""
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    places = list(found.submodule_search_locations or []) if found else []
    origin = Path(places[0]) if places else Path(found.origin) if found and found.origin else None
    if origin is None or not origin.exists():
        raise UserError(f"--import {module}: expected a module with a file that can be sent, got {found}")
    origin = origin.resolve()
    if _installed(origin):
        return
    if origin.is_dir():
        _copy_tree(origin, target / top)
    else:
        shutil.copyfile(origin, target / origin.name)
    for other in list(sys.modules.values()):  # helpers beside it
        file = getattr(other, "__file__", None)
        path = Path(file) if isinstance(file, str) else Path()
        if not path.is_absolute() or not path.is_file():  # torch.ops says it is a file called _ops.py
            continue
        path = path.resolve()
        if path.suffix != ".py" or _installed(path) or not path.is_relative_to(origin.parent):
            continue
        inside = path.relative_to(origin.parent)
        if inside.parts[0] != "ablate" and not _NEVER & set(inside.parts):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)


def _installed(path: Path) -> bool:
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return "site-packages" in path.parts or any(path.is_relative_to(prefix) for prefix in prefixes)
