"""What leaves the checkout is whole: the wheel, and the folder of a submitted job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.execution import package
from tests.support.helpers import environment, write_space

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def shipped() -> set[str]:
    """Every module and data file of the package and of the shipped spaces, with the names they have when installed."""
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "ablate").rglob("*") if path.is_file()}
    spaces = {str(path.relative_to(ROOT)) for path in (ROOT / "search_spaces").rglob("*") if path.is_file()}
    return {path for path in code | spaces if "__pycache__" not in path}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_module_and_data_file_arrives_in_a_submitted_job(tmp_path: Path) -> None:
    package.gather([], []).write(tmp_path)
    guides = {path for path in shipped() if path.endswith(".md")}  # for people, who do not look there
    assert shipped() - guides <= files(tmp_path)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment of its own with the wheel in it, and nothing else.

    What the package depends on is seen where it is installed here: a folder that a .pth names is looked into after the
    environment's own packages, and no .pth file in it counts, so that the checkout installed there is out of sight.
    """
    source, wheels, venv = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "venv"))
    for folder in ("ablate", "search_spaces"):  # a copy: what an earlier build left behind would be taken in
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    made = venv / "bin" / "python"
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), str(source)]
    # Seen through PYTHONPATH, which other tests of a process set, the checkout would pass for what is installed.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ([sys.executable, "-m", "venv", "--without-pip", str(venv)], build):
        subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=source)
    install = [*pip, "--python", str(made), "install", "--no-deps", "--no-index", str(next(wheels.glob("*.whl")))]
    subprocess.run(install, check=True, capture_output=True, text=True, env=env, cwd=source)
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_of(made) / "dependencies.pth").write_text("\n".join(dependencies))
    return made


def site_of(python: Path) -> Path:
    """Where an environment has its packages."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder where nothing of the checkout is seen."""
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_every_module_and_data_file_is_in_the_wheel(python: Path) -> None:
    installed = {
        path.replace("search_spaces/", "ablate/search_spaces/", 1) if path[0] == "s" else path for path in shipped()
    }
    assert installed <= files(site_of(python))


def test_the_installed_wheel_launches_a_space(python: Path, tmp_path: Path) -> None:
    code = "import ablate; print(ablate.__file__); print(ablate.space_names())"
    place, names = run(tmp_path, python, "-c", code).splitlines()
    assert Path(place).is_relative_to(site_of(python)) and "batch_size" in names
    assert "Table 2" in run(tmp_path, python, "-m", "ablate.launch", "--space", "batch_size", "--dry-run")
    space = write_space(tmp_path, epochs=1)
    arguments = ("--space", str(space), "--row", "small", "--local", "--no-tracking", "--cpus-per-trial", "1")
    assert "finished" in run(tmp_path, python, "-m", "ablate.launch", *arguments)


@pytest.mark.parametrize("command", ["launch", "report", "status", "serve", "bench", "bundle"])
def test_the_console_scripts_run(python: Path, tmp_path: Path, command: str) -> None:
    said = run(tmp_path, python.parent / f"ablate-{command}", "--help")
    assert "--" in said and list(tmp_path.iterdir()) == []
