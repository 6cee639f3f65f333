"""Imports run downwards, and what runs on a GPU machine with PyTorch alone needs neither Ray nor MLflow.

`TABLE` says it all; `python -m tests.support.imports` prints the picture that the code makes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import imports
from tests.support.helpers import environment, write_space

ROOT = Path(__file__).resolve().parent.parent
# As on a machine without them: importing fails, and looking for them finds nothing.
BLOCK = """\
import sys


class Without:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in {blocked!r}):
            return None
        return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)


sys.meta_path[:] = [Without([finder for finder in sys.meta_path if hasattr(finder, "find_spec")])]
"""


@dataclass(frozen=True)
class Room:
    """What a package may import.

    Args:
        floor: It imports from packages of lower floors alone.
        without: What it can be imported without, packages of ablate and others.
    """

    floor: int
    without: tuple[str, ...] = ()


TABLE = {
    "launch": Room(6),
    "bundle": Room(6, ("ablate.launch",)),
    "status": Room(6, ("torch", "ray", "mlflow", "ablate.planning", "ablate.launch")),
    "serve": Room(6, ("torch", "ray", "mlflow", "ablate.planning", "ablate.launch")),
    "execution": Room(5, ("mlflow", "ablate.planning", "ablate.launch")),
    "planning": Room(5, ("ray", "mlflow")),
    "report": Room(5, ("torch", "ray", "ablate.planning")),
    "bench": Room(5, ("ray", "mlflow")),
    "learning": Room(4, ("ray", "mlflow", "ablate.storage")),
    "tracking": Room(4, ("torch", "ray", "ablate.planning", "ablate.learning")),
    "attacks": Room(3, ("ray", "mlflow", "ablate.storage")),
    "storage": Room(3, ("torch", "ray", "mlflow", "ablate.learning")),
    "analysis": Room(2, ("ray", "mlflow", "ablate.spaces")),
    "spaces": Room(2, ("torch", "ray", "mlflow")),
    "core": Room(1, ("ray", "mlflow")),
}
ONLY = {"ray": ("execution",), "mlflow": ("tracking",)}
"""Library -> the packages that may import it."""

CIRCLES = []
"""Still there; no other may come."""

UPWARDS: set[str] = set()
"""Still there; no other may come."""


def test_every_package_stands_in_the_table() -> None:
    folders = {path.parent.relative_to(ROOT / "ablate").parts[:1] for path in (ROOT / "ablate").rglob("__init__.py")}
    assert {folder for (folder,) in folders - {()}} == TABLE.keys()


def test_imports_run_downwards() -> None:
    graph = imports.modules()
    upwards = [
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if (here := imports.package_of(module)) != (there := imports.package_of(other))
        and here in TABLE
        and (there not in TABLE or TABLE[here].floor <= TABLE[there].floor)  # the face is above all
    ]
    print(f"modules: {imports.numbers(graph)}\npackages: {imports.numbers(imports.packages(graph))}")
    assert set(upwards) <= UPWARDS


@pytest.mark.parametrize("line", ["import ablate", "from ablate import load_space", "from .. import load_space"])
def test_an_import_of_the_face_is_seen(line: str, tmp_path: Path) -> None:
    for name, text in {"__init__": "def load_space(): ...", "storage/__init__": "", "storage/speeds": line}.items():
        path = tmp_path / "ablate" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert "ablate" in imports.modules(tmp_path)["ablate.storage.speeds"]


def test_there_is_no_new_circle() -> None:
    found = imports.circles(imports.modules())
    assert [circle for circle in found if circle not in CIRCLES] == []


@pytest.mark.parametrize("library", ONLY)
def test_one_package_alone_imports_a_library(library: str) -> None:
    found = {imports.package_of(module) for module, others in imports.third_party().items() if library in others}
    assert found <= set(ONLY[library])


def test_the_command_line_is_imported_without_what_takes_seconds(tmp_path: Path) -> None:
    code = BLOCK.format(blocked=("torch", "ray", "mlflow")) + "import ablate.launch.__main__\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


# Loading PyTorch takes longer than all of a package: it is loaded once, and a process is forked for each package.
IMPORT_EACH = """\
import json, os, sys, traceback

LOADED = ("torch", "ray", "mlflow")
packages, ended = json.load(sys.stdin), {}
for torch_is_there in (False, True):
    if torch_is_there:
        import torch, torch._dynamo, torchvision
    assert not [name for name in sys.modules if name.partition(".")[0] in ("ablate", *LOADED[torch_is_there:])]
    for package, (code, without) in packages.items():
        if ("torch" in without) == torch_is_there:
            continue
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                exec(code, {})
                failed = ""
            except BaseException:
                failed = traceback.format_exc()
            os.write(writing, failed.encode()[-60_000:])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            ended[package] = stream.read()
        assert os.wait()[1] == 0, package
json.dump(ended, sys.stdout)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Package -> the traceback of importing all of it in a process where what it may not need is missing."""
    packages = {}
    for package, room in TABLE.items():
        modules = [module for module in imports.module_files() if imports.package_of(module) == package]
        assert modules
        packages[package] = (
            BLOCK.format(blocked=room.without) + "".join(f"import {each}\n" for each in modules),
            room.without,
        )
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        cwd=tmp_path_factory.mktemp("empty"),
        env=environment(),
        input=json.dumps(packages),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", TABLE)
@pytest.mark.slow
def test_a_package_is_imported_without_what_it_may_not_need(package: str, failures: dict[str, str]) -> None:
    assert failures[package] == ""


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ablate").rglob("__init__.py")}
    assert set(listed) == there | {"ablate.search_spaces"}


@pytest.mark.slow
def test_a_local_launch_runs_with_neither_ray_nor_mlflow_nor_pyarrow(tmp_path: Path) -> None:
    space = write_space(tmp_path, epochs=1)
    blocked = ("ray", "mlflow", "pyarrow", "pandas", "boto3", "optuna", "matplotlib")
    arguments = ["launch", "--space", str(space), "--row", "small", "--local", "--no-tracking", "--cpus-per-trial", "1"]
    code = BLOCK.format(blocked=blocked) + (
        f"sys.argv = {arguments!r}\nimport runpy\nrunpy.run_module('ablate.launch', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert "PGD-20" in done.stdout  # the table, from storage
