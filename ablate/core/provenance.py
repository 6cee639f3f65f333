"""Where numbers come from: commit, versions, machine, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("ablate", "torch", "torchvision", "ray", "mlflow", "numpy")


def provenance(command: Sequence[str] = ()) -> dict[str, str]:
    """Commit, versions, machine and command, as text for tags.

    Args:
        command: The arguments as started.

    Returns:
        Name -> text; what cannot be found is left out.
    """
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if head := commit():
        found["git_commit"] = head
    if command:
        found["command"] = "python -m ablate.launch " + shlex.join(command[1:])
    return found


def commit() -> str | None:
    """The commit of the checkout this package runs from, with a + when files differ from it.

    Returns:
        None outside a checkout. A submitted job runs from a copy: there it is the commit of what was copied.
    """
    here = Path(__file__).resolve().parent.parent
    if not (here.parent / ".git").exists():
        return os.environ.get("ABLATE_COMMIT") or None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
