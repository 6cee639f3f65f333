"""Imports run downwards, and what runs on a GPU machine with PyTorch alone needs neither Ray nor MLflow."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers import environment, write_space

ROOT = Path(__file__).resolve().parent.parent
# As on a machine without them: importing fails, and looking for them finds nothing.
BLOCK = "import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n"


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def test_only_tracking_imports_mlflow_and_only_scheduling_imports_ray() -> None:
    for path in (ROOT / "ablate").rglob("*.py"):
        inside = path.relative_to(ROOT / "ablate")
        if inside.parts[0] != "scheduling":
            assert "ray" not in imports_of(path), path
        if not inside.name.startswith("track"):
            assert "mlflow" not in imports_of(path), path


@pytest.mark.parametrize("layer", ["worker", "learning", "attacks", "analysis"])
def test_lower_layers_import_no_upper_ones(layer: str) -> None:
    forbidden = ("ablate.launch", "ablate.report", "ablate.scheduling", "ablate.tracking", "ablate.reporting")
    places = (ROOT / "ablate" / layer).rglob("*.py") if layer != "worker" else [ROOT / "ablate" / "worker.py"]
    for path in places:
        text = path.read_text()
        assert not any(f"from {name}" in text or f"import {name}" in text for name in forbidden), path


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ablate").rglob("__init__.py")}
    assert set(listed) == there | {"ablate.search_spaces"}


def test_a_local_launch_runs_with_neither_ray_nor_mlflow_nor_pyarrow(tmp_path: Path) -> None:
    space = write_space(tmp_path, epochs=1)
    blocked = ("ray", "mlflow", "pyarrow", "pandas", "boto3", "optuna")
    arguments = ["launch", "--space", str(space), "--local", "--no-tracking", "--cpus-per-trial", "1"]
    code = BLOCK.format(blocked=blocked) + (
        f"sys.argv = {arguments!r}\nimport runpy\nrunpy.run_module('ablate.launch', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "mlflow.db").exists()
