"""Instalments of the study on a borrowed GPU: the order of their parts, their limit, and what comes home."""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from ablate.spaces.loading import load_space
from ablate.storage.storage import Storage
from tests.benchmarks.test_first_run import FEW, ROOT, SMALL, brought_home, make_images
from tests.support.helpers import environment, launch_here, options_of

SCRIPT = ROOT / "benchmarks" / "gpu" / "instalment.sh"

FAKE = """#!/bin/bash
case "$*" in
  -c*) exit 0 ;;
  *home.py*) exec {python} "$@" ;;
esac
while [ $# -gt 0 ] && [ "$1" != --space ]; do shift; done
echo "$2" >> {told}
mkdir -p "$W/storage"; echo {{}} > "$W/storage/$2"
read -r code < {codes}; sed -i 1d {codes}; exit "$code"
"""
"""In Python's place: it knows what was launched, and with which code each ends."""


def instalment(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    brought = str(folder / "brought")
    places = {"OUT": str(out), "TMPDIR": str(folder), "BROUGHT": brought, "DATA": str(folder), "DEVICE": "cpu"}
    command = ["bash", str(SCRIPT), *arguments]
    env = environment(**{**places, **variables})
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=590)


def pretended(folder: Path, codes: list[int], *arguments: str) -> tuple[list[str], str]:
    """The spaces that were launched, and what the script said last."""
    told, ends, fake = folder / "told", folder / "codes", folder / "python"
    ends.write_text("".join(f"{code}\n" for code in codes))
    fake.write_text(FAKE.format(python=sys.executable, told=told, codes=ends))
    fake.chmod(0o755)
    done = instalment(folder, *arguments, PYTHON=str(fake))
    assert done.returncode == 0, done.stdout + done.stderr
    return told.read_text().split() if told.exists() else [], done.stdout.splitlines()[-1]


def test_parts_are_launched_in_order_of_value(tmp_path: Path) -> None:
    launched, last = pretended(tmp_path, [0, 0, 1, 2, 0])
    assert launched == ["lowpass", "batch_size", "bit_width", "augmentation", "architecture"]
    assert "not all there" in last
    assert {f"storage/{space}" for space in launched} <= set(brought_home(tmp_path / "out"))


def test_nothing_is_launched_after_the_one_whose_time_was_over(tmp_path: Path) -> None:
    launched, last = pretended(tmp_path, [0, 124, 0])
    assert launched == ["lowpass", "batch_size"] and "out of time in: --space batch_size" in last
    assert "storage/batch_size" in brought_home(tmp_path / "out")


def test_a_launch_that_its_time_does_not_suffice_for_is_not_begun(tmp_path: Path) -> None:
    launched, last = pretended(tmp_path, [], "--max-seconds=60")
    assert not launched and "out of time before: --space lowpass" in last


@pytest.mark.parametrize("arguments", [["--max-second", "5"], ["--max-seconds"], ["--max-seconds", "5m"]])
def test_mistyped_arguments_are_told(tmp_path: Path, arguments: list[str]) -> None:
    done = instalment(tmp_path, *arguments)
    assert done.returncode == 2 and "expected" in done.stdout


def test_its_parts_name_spaces_and_rows_that_there_are() -> None:
    found = re.search(r'PARTS=\$\{PARTS:-"(.*?)"\}', SCRIPT.read_text(), re.DOTALL)
    assert found is not None
    for part in found[1].splitlines():
        words = shlex.split(part)
        values = [(option, value) for option, value in itertools.pairwise(words) if option.startswith("--")]
        spaces = [load_space(value) for option, value in values if option == "--space"]
        labels = {row.label for each in spaces for row in each.space.rows}
        assert spaces and {value for option, value in values if option == "--row"} <= labels


# What comes home


@pytest.fixture(scope="module")
def home() -> ModuleType:
    spec = importlib.util.spec_from_file_location("home", SCRIPT.parent / "home.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(folder: Path, sizes: dict[str, int], *finished: str) -> Path:
    storage = Storage(str(folder / "storage"))
    for number, (key, size) in enumerate(sizes.items()):
        attempt = storage.attempt(key)
        for epoch in (1, 2 + number):
            noise = (str(epoch) + key).encode() * size
            attempt.save_checkpoint(epoch, noise[:size], [], finished=key in finished)
    (folder / "storage" / "claims" / "a").mkdir(parents=True)
    (folder / "storage" / "claims" / "a" / "1.json").write_text("{}")
    return folder / "storage"


def names_in(pieces: list[Path]) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(each.read_bytes() for each in pieces)), mode="r:gz") as archive:
        return archive.getnames()


def test_the_newest_checkpoint_of_each_comes_home_the_unfinished_first(home: ModuleType, tmp_path: Path) -> None:
    storage = stored(tmp_path, {"a" * 20: 900, "b" * 20: 900, "c" * 20: 900}, "c" * 20)
    assert home.pack(storage, tmp_path, 8, 100_000) == []
    names = names_in(sorted(tmp_path.glob("home.tgz.*")))
    kept = [name for name in names if "checkpoint-" in name]
    assert [name.split("/")[1][0] for name in kept] == ["b", "a", "c"]
    assert names.index(kept[0]) > max(names.index(name) for name in names if "manifest-" in name)
    assert not any("claims" in name for name in names)
    again = tmp_path / "again"
    again.mkdir()
    pieces = b"".join(each.read_bytes() for each in sorted(tmp_path.glob("home.tgz.*")))
    with tarfile.open(fileobj=io.BytesIO(pieces)) as archive:
        archive.extractall(again, filter="data")
    for key, epoch in (("a" * 20, 2), ("b" * 20, 3), ("c" * 20, 4)):
        content, warnings = Storage(str(again / "storage")).checkpoint(key)
        assert content is not None and content.startswith(str(epoch).encode()) and not warnings


def test_what_does_not_fit_is_left_out_and_told(home: ModuleType, tmp_path: Path) -> None:
    storage = stored(tmp_path, {"a" * 20: 60_000, "b" * 20: 200_000, "c" * 20: 60_000})
    left_out = home.pack(storage, tmp_path, 3, 90_000)
    pieces = sorted(tmp_path.glob("home.tgz.*"))
    assert [path.parts[-4][0] for path in left_out] == ["b"]
    assert len(pieces) <= 3 and all(piece.stat().st_size <= 90_000 for piece in pieces)
    assert sum("checkpoint-" in name for name in names_in(pieces)) == 2


@pytest.mark.slow
def test_an_instalment_goes_on_with_what_was_brought_along(home: ModuleType, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    settings = [
        *("data.name=imagefolder", f"data.root={images}", "data.label=CIFAR-10, JPEG quality 75"),
        *("training.precision=bfloat16", "training.epochs=1", "training.milestones=[]", FEW, *SMALL),
    ]
    given = options_of(tmp_path, space=["frequency"], rows=["Natural"], sets=settings)
    assert launch_here(given)[0] == 0
    (tmp_path / "brought").mkdir()
    home.pack(tmp_path / "storage", tmp_path / "brought")
    extra = " ".join(["--cpus-per-trial 1", *(f"--set {each}" for each in settings[4:])])
    places = {"BROUGHT": str(tmp_path / "brought"), "DATA": str(images), "PYTHON": sys.executable}
    done = instalment(tmp_path, PARTS="--space frequency --seeds 0", EXTRA=extra, **places)
    log = (tmp_path / "out" / "launch.log").read_text()
    assert done.returncode == 0 and "done" in done.stdout.splitlines()[-1], done.stdout + done.stderr + log
    assert re.search(r"1 reused|reuse", log) and "Adversarial" in log, log
    assert sum("checkpoint-" in name for name in brought_home(tmp_path / "out")) == 2
