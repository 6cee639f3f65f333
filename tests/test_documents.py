"""Every command and example of the two guides is run as it stands there, in order, by trainings of no work.

A command that is new in one of them is run, or the test names it. What cannot be had here is in `NOT_RUN`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ablate.learning.models import build_network
from ablate.spaces.specs import ModelSpec
from tests.support.documents import ROOT, Step, shape, steps
from tests.support.scratch import Scratch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NOT_RUN = {
    "make test": "runs this",
    "pip install .": "tests/test_packaging.py builds and installs the package",
    "make results": "verifies ten bundles for minutes; tests/bundle/test_page.py makes pages",
    "ssh -L 8421:localhost:8421 machine": "needs another machine",
    "python -m ablate.launch": "is a name there",
}
"""Commands of the documents that are not run, and why."""

SERVES = {"python -m ablate.serve": "http://127.0.0.1:"}
"""What runs until Ctrl-C, and what it prints once it is there."""


DOCUMENTS = ("README.md", "search_spaces/README.md")


def bare(step: Step) -> str:
    """A command without its comment and with single spaces."""
    return " ".join(re.sub(r"\s#\s.*", "", step.text).split())


class Reader:
    """Who works through a document.

    Args:
        scratch: Where.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.plan = ""
        self.faults: list[str] = []
        self.times: list[tuple[float, str]] = []
        self.printed = ""
        self.run = 0

    def work_through(self, document: str) -> None:
        """Do every step."""
        does = {"command": self._command, "file": self._file, "script": self._script, "expression": self._expression}
        for step in steps((ROOT / document).read_text(encoding="utf-8")):
            if step.kind == "shown":
                self._compare(document, step)
                continue
            began = time.monotonic()
            code, printed = does[step.kind](step)
            self.times.append((time.monotonic() - began, step.text))
            if code or "Traceback" in printed:
                self._fault(document, step, f"ended with {code}:\n{printed}")

    def _fault(self, document: str, step: Step, what: str) -> None:
        self.faults.append(f"{document}:{step.line}: {step.text.strip()}\n{what}")

    def _compare(self, document: str, step: Step) -> None:
        """Each line that is shown is printed, in its shape; where lines are broken hangs on the terminal."""
        printed = shape(self.printed)
        missing = [line for line in step.text.splitlines() if line.strip("… .") and shape(line) not in printed]
        if missing:
            self._fault(document, step, "not printed:\n" + "\n".join(missing) + f"\nof:\n{self.printed}")

    def _command(self, step: Step) -> tuple[int, str]:
        command = bare(step)
        if command in NOT_RUN:
            return 0, ""
        for name, until in SERVES.items():
            if command.startswith(name):
                self.run += 1
                code, self.printed = self.scratch.serve(command, until)
                return (0 if code == 130 else code), self.printed
        return self._run(command, there="# there" in step.text)

    def _run(self, command: str, *, there: bool = False) -> tuple[int, str]:
        self.run += 1
        code, self.printed = self.scratch.run(command, there=there)
        return code, self.printed

    def _file(self, step: Step) -> tuple[int, str]:
        if not step.name:
            return 1, "a file without a name: begin it with `# name.yaml`"
        (self.scratch.folder / step.name).write_text(step.text)
        return 0, ""

    def _script(self, step: Step) -> tuple[int, str]:
        (self.scratch.folder / "script.py").write_text(step.text)
        return self._run("python script.py")

    def _expression(self, step: Step) -> tuple[int, str]:
        """A plan, and what is called on it."""
        if not step.text.startswith("."):
            self.plan = step.text
            return self._python(f"print({step.text})")
        return self._python(f"print({self.plan}{step.text})")

    def _python(self, text: str) -> tuple[int, str]:
        (self.scratch.folder / "script.py").write_text(f"import ablate\n{text}\n")
        return self._run("python script.py")


def nothing(scratch: Scratch) -> None:
    """What a reader of README.md has: a machine."""


def of_others(scratch: Scratch) -> None:
    """What a reader of search_spaces/README.md is said to have: weights of others, and unpacked Tiny ImageNet."""
    weights = build_network(ModelSpec(arch="preact_resnet18"), 10, 32, 0).state_dict()
    torch.save(weights, scratch.folder / "cifar_linf_8.pt")
    tiny = scratch.folder / "tiny-imagenet-200"
    for name in ("train/n01/images/a.JPEG", "val/images/b.JPEG"):
        (tiny / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny / name).touch()
    (tiny / "val" / "val_annotations.txt").write_text("b.JPEG\tn01\t0\t0\t1\t1\n")


@pytest.mark.parametrize(("document", "given"), list(zip(DOCUMENTS, (nothing, of_others), strict=True)))
def test_what_a_document_has_its_reader_do_is_done(
    document: str, given: Callable[[Scratch], None], tmp_path: Path
) -> None:
    reader = Reader(Scratch(tmp_path))
    given(reader.scratch)
    reader.work_through(document)
    for seconds, text in sorted(reader.times, reverse=True)[:12]:
        print(f"{seconds:6.1f} s  {text.strip().splitlines()[0][:100]}")
    print(reader.run, "commands")
    assert not reader.faults, "\n\n".join(reader.faults)


def named() -> Iterator[str]:
    """Every command of both documents."""
    for document in DOCUMENTS:
        for step in steps((ROOT / document).read_text(encoding="utf-8")):
            if step.kind == "command":
                yield bare(step)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_written_is_used(document: str) -> None:
    found = steps((ROOT / document).read_text(encoding="utf-8"))
    commands = " ".join(step.text for step in found if step.kind == "command")
    written = {step.name for step in found if step.kind == "file"}
    assert written and {name for name in written if Path(name).stem not in commands} == set()


def test_what_is_not_run_is_in_a_document() -> None:
    assert set(NOT_RUN) - set(named()) == set()
