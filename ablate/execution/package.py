"""What a submitted job carries: the code, the user's own space files and modules, what was asked for, and nothing else.

Files are chosen by name and kind, not left out by pattern, so that storage, data, `mlflow.db`, environments and secrets
that lie beside them cannot travel. A symbolic link is followed only inside the folder it was found in.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablate import spaces
from ablate.core.errors import UserError
from ablate.core.places import local_path
from ablate.spaces.space import SpaceFile

SPACES = "spaces"
"""The folder of a package with the user's own space files."""

PACKAGE_DATA = {
    "ablate": ("py.typed",),
    "ablate.report": ("*.html", "*.css"),
    "ablate.serve": ("templates/*.html", "files/*"),
    "ablate.search_spaces": ("*.yaml", "schema.json", "presets/*.yaml", "presets/schema.json"),
}
"""Package -> its files that are no Python; as `pyproject.toml` lists them, but for what nobody runs."""

LIMIT_BYTES = 100 * 2**20
"""Of everything together: Ray takes no more."""

_RAYS_LISTS = (".gitignore", ".rayignore")
"""Ray would leave out what these name."""


@dataclass
class Parcel:
    """What a job carries.

    Args:
        files: Path in the job's working folder -> the file here.
        left_out: Why something that looks asked for does not travel, a sentence each.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(path.stat().st_size for path in self.files.values())

    def write(self, target: Path) -> None:
        """Copy everything into a folder.

        Args:
            target: An empty folder.
        """
        for name, path in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


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
        name = f"{SPACES}/{Path(space.file.path).name}"
        if found.setdefault(name, path) != path:
            raise UserError(f"--space: expected files of different names, got {found[name]} and {path}")
    return found


def gather(loaded: Sequence[SpaceFile], imports: Sequence[str], include: Sequence[str] = ()) -> Parcel:
    """Choose what a job carries.

    Args:
        loaded: The launch's spaces.
        imports: The user's modules, as given to `--import`; they have been imported here already.
        include: Other files and folders, as given to `--include`.

    Returns:
        The files; nothing is copied yet.

    Raises:
        UserError: Two files of one name, a module or file that cannot be sent, or too much of all.
    """
    parcel = Parcel(own_spaces(loaded))
    roots = [Path.cwd().resolve()]
    for module in imports:
        root = _add_module(module, parcel)
        if root is not None and root not in roots:
            roots.append(root)
    for asked in include:
        _add_asked(asked, roots, parcel)
    _add_ablate(parcel)
    if parcel.bytes > LIMIT_BYTES:
        largest = max(parcel.files, key=lambda name: parcel.files[name].stat().st_size)
        raise UserError(
            f"--cluster: expected at most {LIMIT_BYTES // 2**20} MiB of files to send, got {parcel.bytes / 2**20:.0f}; "
            f"the largest is {largest}"
        )
    return parcel


def _add_ablate(parcel: Parcel) -> None:
    package = Path(__file__).resolve().parent.parent
    for inside, path in _walk(package, parcel, "ablate", ".py"):
        parcel.files[f"ablate/{inside}"] = path.resolve()
    shipped = spaces.folder().resolve()
    for name, patterns in PACKAGE_DATA.items():
        subfolder = "/".join(name.split(".")[1:])
        folder, target = package / subfolder, f"ablate/{subfolder}".rstrip("/")
        if name == "ablate.search_spaces" and not shipped.is_relative_to(package):
            folder, target = shipped, "search_spaces"
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            place = f"{target}/{path.relative_to(folder).as_posix()}"
            if not _stays(path, folder):
                parcel.left_out.append(f"{place}: a link out of its folder")
            elif path.suffix == ".yaml" and not _is_ours(path, preset=path.parent != folder):
                parcel.left_out.append(f"{place}: neither a space nor a preset")
            else:
                parcel.files[place] = path.resolve()


def _is_ours(path: Path, *, preset: bool) -> bool:
    """Whether a YAML file among the shipped ones is a space or a preset, and not somebody's secrets."""
    try:
        if preset:
            spaces.load_preset(path.stem)
        else:
            spaces.load_space(str(path))
    except UserError:
        return False
    return True


def _add_module(module: str, parcel: Parcel) -> Path | None:
    """A user's module with everything it imported from the same folder; installed ones are the cluster's business.

    Returns:
        The folder it was imported from; None of one that is installed.
    """
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    places = list(found.submodule_search_locations or []) if found else []
    origin = Path(places[0]) if places else Path(found.origin) if found and found.origin else None
    if top in sys.stdlib_module_names or (origin is not None and origin.exists() and _installed(origin.resolve())):
        return None
    if origin is None or not (origin.is_dir() or (origin.is_file() and origin.suffix == ".py")):
        got = origin if origin is not None and origin.exists() else found
        raise UserError(f"--import {module}: expected a module with a Python file that can be sent, got {got}")
    root = origin.parent.resolve()
    if origin.is_dir():
        for inside, path in _walk(origin.resolve(), parcel, top, ".py"):
            parcel.files[f"{top}/{inside}"] = path.resolve()
    else:
        parcel.files[origin.name] = origin.resolve()
    resolved = functools.cache(Path.resolve)  # a process has thousands of modules in some hundred folders
    for other in list(sys.modules.values()):  # helpers beside it
        file = getattr(other, "__file__", None)
        path = Path(file) if isinstance(file, str) else Path()
        if path.suffix != ".py" or not path.is_absolute():
            continue
        path = resolved(path.parent) / path.name
        # torch.ops says it is a file called _ops.py
        if not path.is_relative_to(root) or not path.is_file() or _installed(path.resolve()):
            continue
        helper = path.relative_to(root)
        if helper.parts[0] == "ablate" or any(_passed_over(root / part) for part in list(helper.parents)[:-1]):
            continue
        if _stays(path, root):
            parcel.files.setdefault(helper.as_posix(), path.resolve())
        elif helper.as_posix() not in parcel.files:
            parcel.left_out.append(f"{helper.as_posix()}: a link out of its folder")
    return root


def _add_asked(asked: str, roots: Sequence[Path], parcel: Parcel) -> None:
    """A file or a folder of `--include`, at the same place below the job's working folder."""
    given = local_path(asked, "--include")
    path = given.parent.resolve() / given.name if given.name not in ("", "..") else given.resolve()
    root = next((root for root in roots if path.is_relative_to(root)), None)
    if not path.exists():
        raise UserError(f"--include {asked}: expected a file or folder, got none")
    if root is None or path == root:
        what = "the whole of it" if root is not None else str(path)
        raise UserError(
            f"--include {asked}: expected something in {roots[0]}, or beside a module of --import, got {what}"
        )
    if not _stays(path, root):
        raise UserError(f"--include {asked}: expected something in {root}, got a link to {path.resolve()}")
    found = [path] if path.is_file() else [file for _, file in _walk(path, parcel, path.relative_to(root).as_posix())]
    for file in found:
        inside = file.relative_to(root).as_posix()
        if file.name in _RAYS_LISTS:
            parcel.left_out.append(f"{inside}: Ray would leave out the files it names")
        elif inside.partition("/")[0] in ("ablate", "search_spaces"):
            raise UserError(f"--include {asked}: expected files of your own, got a part of ablate's folder: {inside}")
        else:
            parcel.files.setdefault(inside, file.resolve())


def _walk(folder: Path, parcel: Parcel, label: str, suffix: str = "") -> Iterator[tuple[str, Path]]:
    """The files below a folder whose names end so, by their path in it; environments and hidden folders are none."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        for name in sorted(folders):
            if (here / name).is_symlink() and not _passed_over(here / name):
                inside = (here / name).relative_to(folder).as_posix()
                parcel.left_out.append(f"{label}/{inside}: a link to a folder")
        folders[:] = sorted(name for name in folders if not _passed_over(here / name))
        for name in sorted(names):
            path = here / name
            inside = path.relative_to(folder).as_posix()
            if not name.endswith(suffix) or not (path.is_file() or path.is_symlink()):
                continue
            if not path.is_file() or not _stays(path, folder):
                parcel.left_out.append(f"{label}/{inside}: a link out of its folder")
                continue
            yield inside, path


def _passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "__pycache__" or (folder / "pyvenv.cfg").exists()


def _stays(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder also after every link to it is followed."""
    return path.resolve().is_relative_to(folder.resolve())


def _installed(path: Path) -> bool:
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return "site-packages" in path.parts or any(path.is_relative_to(prefix) for prefix in prefixes)
