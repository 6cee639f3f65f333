"""A finished launch of two trainings, and the bundle of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.support import run
from tests.support.helpers import launch_here, options_of, write_space

CLAIMS = """
claims:
  - {says: "Larger steps are worse", above: {row: small, rows: [large], metrics: [natural]}}
figures: ["5"]
looks: [2, 3]
"""


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space, `tiny`, and its storage: nothing may be changed in it."""
    folder = tmp_path_factory.mktemp("launched")
    path = write_space(folder, epochs=1, attacks="natural, pgd20")
    path.write_text(path.read_text() + CLAIMS)
    code, told = launch_here(options_of(folder, rows=["small", "large"], seeds=[0, 1]))
    assert code == 0, told
    return folder


@pytest.fixture(scope="session")
def bundle(launched: Path) -> Path:
    """The bundle of it, with its networks."""
    path = launched / "bundle.zip"
    code, told = run("make", path, "--space", "tiny", "--storage", launched / "storage", "--checkpoints")
    assert code == 0, told
    return path
