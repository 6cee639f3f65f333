"""A folder and a shell in which the commands of a document are run as they stand there, by trainings of no work."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.io

from tests.support import no_work
from tests.support.documents import ROOT
from tests.support.helpers import environment
from tests.support.launches import SOCKET_VARIABLE, start_server

# In the place of Python and of what is installed beside it: a process forked from one that has loaded what is slow.
_PYTHON = """\
#!{python} -SE
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.forks import Fork
own = Path(sys.argv[0]).name
arguments = sys.argv[1:] if own.startswith("python") else [own, *sys.argv[1:]]
fork = Fork(os.environ[{socket!r}], "tests.support.scratch:be_python", arguments, os.environ, Path.cwd(), [0, 1, 2])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(fork.pid, number))
sys.exit(fork.wait())
"""

# As they are installed, below a shell: completion asks which one it is started from.
_OWN = """\
#!/bin/bash
{python} -m ablate.{tool} "$@"
"""

# There is no other machine: what would be fetched from one lies beside.
_RSYNC = """\
#!/bin/bash
for each; do case $each in gpu:*) from=$THERE/${each#gpu:};; *) to=$each;; esac; done
mkdir -p "$to" && tar -C "$from" --exclude 'checkpoint-*' -c . | tar -C "$to" -x
"""

TOOLS = ("launch", "report", "status", "serve", "bench", "bundle")


def be_python(*arguments: str) -> None:
    """What a forked process does: `python arguments`, or a command that is installed beside it."""
    from tests.support.launches import run, run_script

    first, *rest = arguments
    if first == "-m":
        run(str(Path.cwd()), *rest)
    elif first == "mlflow":
        run(str(Path.cwd()), first, *rest)
    else:
        run_script(first, *rest)


class Scratch:
    """A reader's folder, with a shell.

    Args:
        folder: Empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ablate"
        self.there = folder / "gpu" / "ablate"
        for each in (self.folder / ".venv" / "bin", self.there, folder / "bin", folder / "home"):
            each.mkdir(parents=True)
        python = _PYTHON.format(python=sys.executable, root=str(ROOT), socket=SOCKET_VARIABLE)
        programs = {"python": python, "mlflow": python, "rsync": _RSYNC}
        programs |= {f"ablate-{tool}": _OWN.format(python=sys.executable, tool=tool) for tool in TOOLS}
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for name in ("Makefile", "pyproject.toml", "examples", "docs"):
            (self.folder / name).symlink_to(ROOT / name)
        # As if `make` had installed: it asks whether these are newer than pyproject.toml.
        (self.folder / ".venv" / "bin" / "python").symlink_to(folder / "bin" / "python")
        for name in ("bin/pip", ".installed", ".installed-test"):
            (self.folder / ".venv" / name).touch()
        for place in (self.folder, self.there):
            write_data(place / "data")
        socket = os.environ.get(SOCKET_VARIABLE) or start_server().path
        told = {no_work.VARIABLE: "1", SOCKET_VARIABLE: socket, "HOME": str(folder / "home"), "COLUMNS": "120"}
        told |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "THERE": str(folder / "gpu")}
        self.environment = environment(**told, MLFLOW_DISABLE_TELEMETRY="true", SHELL="/bin/bash")
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "MAKEFLAGS", "MAKELEVEL"):
            self.environment.pop(name, None)

    def run(self, command: str, *, there: bool = False) -> tuple[int, str]:
        """Run a command to its end.

        Args:
            command: As bash takes it.
            there: On the other machine.

        Returns:
            Its exit code, and all that it printed.
        """
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.there if there else self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    def serve(self, command: str, until: str) -> tuple[int, str]:
        """Run a command that serves, and end it by Ctrl-C once it has printed something; as of `run`."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        printed = ""
        while until not in printed and (line := process.stdout.readline()):
            printed += line
        os.kill(process.pid, signal.SIGINT)
        printed += process.stdout.read()
        return process.wait(), printed


def write_data(root: Path) -> None:
    """CIFAR-10, CIFAR-100 and SVHN of a few made-up images each, as the files that torchvision reads."""
    draws = np.random.default_rng(0)

    def batch(path: Path, count: int, label: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (count, 3072), dtype=np.uint8)
        path.write_bytes(pickle.dumps({"data": pixels, label: [place % 10 for place in range(count)]}))

    for number in range(1, 6):
        batch(root / "cifar-10-batches-py" / f"data_batch_{number}", 16, "labels")
    batch(root / "cifar-10-batches-py" / "test_batch", no_work.IMAGES, "labels")
    for split, count in (("train", 40), ("test", no_work.IMAGES)):
        batch(root / "cifar-100-python" / split, count, "fine_labels")
        (root / "svhn").mkdir(exist_ok=True)
        pixels = draws.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1)[:, None]
        scipy.io.savemat(str(root / "svhn" / f"{split}_32x32.mat"), {"X": pixels, "y": labels})
    for folder, name, key, count in (
        ("cifar-10-batches-py", "batches.meta", "label_names", 10),
        ("cifar-100-python", "meta", "fine_label_names", 100),
    ):
        (root / folder / name).write_bytes(pickle.dumps({key: [f"class {number}" for number in range(count)]}))
