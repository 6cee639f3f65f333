"""A process that a signal ends leaves its stacks in its training's log, and the next one says so in a line."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import pytest

from ablate.execution import crashes
from ablate.storage.storage import Storage
from tests.support.helpers import run_launch, write_space

CRASHING = """\
import os, signal
from pathlib import Path
from ablate.learning import training

ascend, left = training.ascend, 6

def crash(*arguments, **named):
    global left
    left -= 1
    if left == 0 and (Path(__file__).parent / "crash").exists():
        os.kill(os.getpid(), signal.SIG{signal})
    return ascend(*arguments, **named)

training.ascend = crash
"""


@pytest.mark.parametrize(("name", "number"), [("SEGV", 11), ("ABRT", 6), ("BUS", 7)])
def test_stacks_are_in_the_log_and_the_next_launch_tells(tmp_path: Path, name: str, number: int) -> None:
    space = str(write_space(tmp_path, epochs=1, attacks="natural, gn, fgsm"))
    (tmp_path / "crashing.py").write_text(CRASHING.format(signal=name))
    (tmp_path / "crash").touch()
    arguments = ("--space", space, "--row", "small", "--no-tracking", "--local", "--cpus-per-trial", "1")
    arguments += ("--import", "crashing")
    run_launch(tmp_path, *arguments, expect=-number)
    (log,) = (tmp_path / "storage").glob("*/attempts/*/log.txt")
    text = log.read_text()
    assert "training" in text.splitlines()[0]  # what was logged before is still there
    assert 'crashing.py", line' in text  # where it was
    (tmp_path / "crash").unlink()
    told = [line for line in run_launch(tmp_path, *arguments).replace("\n  ", "").splitlines() if f"SIG{name}" in line]
    assert len(told) == 1


def test_a_killed_process_is_told_without_a_signal(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    attempt = storage.attempt("0" * 20)
    attempt.save_log("epoch 1\n")
    assert crashes.death(storage, "0" * 20) is None
    said = crashes.how_lost(storage, "0" * 20)
    assert attempt.log in said and "\n" not in said


def test_faulthandler_is_left_as_it_was_found(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    attempt = storage.attempt("0" * 20)
    attempt.save_log("")
    stacks = crashes.Stacks(storage, attempt.log)
    before = faulthandler.is_enabled()
    with stacks.open():
        stacks.follow()
        assert faulthandler.is_enabled()
    stacks.follow()  # what is logged after the end
    assert faulthandler.is_enabled() == before
