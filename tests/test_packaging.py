"""What leaves the checkout is whole: the wheel, and the folder of a submitted job."""

from __future__ import annotations

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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed into it, and nothing else."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for folder in ("ablate", "search_spaces"):  # a copy: what an earlier build left behind would be taken in
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), str(source)]
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    subprocess.run([*install, str(next(wheels.glob("*.whl")))], check=True, capture_output=True, text=True)
    return site


def run(site: Path, folder: Path, *command: str) -> str:
    """Run a command with the installed package, away from the checkout."""
    found = subprocess.run(
        command, cwd=folder, env=environment(PYTHONPATH=str(site)), capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_every_module_and_data_file_is_in_the_wheel(site: Path) -> None:
    installed = {
        path.replace("search_spaces/", "ablate/search_spaces/", 1) if path[0] == "s" else path for path in shipped()
    }
    assert installed <= files(site)


def test_the_installed_wheel_launches_a_space(site: Path, tmp_path: Path) -> None:
    code = "import ablate; print(ablate.__file__); print(ablate.space_names())"
    place, names = run(site, tmp_path, sys.executable, "-c", code).splitlines()
    assert Path(place).is_relative_to(site) and "batch_size" in names
    space = write_space(tmp_path, epochs=1)
    arguments = ("--space", str(space), "--row", "small", "--local", "--no-tracking", "--cpus-per-trial", "1")
    assert "finished" in run(site, tmp_path, sys.executable, "-m", "ablate.launch", *arguments)


@pytest.mark.parametrize("command", ["launch", "report", "bench"])
def test_the_installed_commands_say_what_they_take(site: Path, tmp_path: Path, command: str) -> None:
    assert "--" in run(site, tmp_path, sys.executable, "-m", f"ablate.{command}", "--help")


@pytest.mark.parametrize("command", ["ablate-launch", "ablate-report"])
def test_the_console_scripts_run(site: Path, tmp_path: Path, command: str) -> None:
    assert "--space" in run(site, tmp_path, sys.executable, str(site / "bin" / command), "--help")
