"""The first run on a GPU, rehearsed on one CPU core: the script finds every module that it reaches into."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.helpers import environment

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("training.batch_size=16", "model.width=0.25", "model.depth=8", "training.attack.steps=1")
FEW = "measurement.attacks=[natural,fgsm]"


def make_images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{number}.png")
    return folder


@pytest.mark.slow
def test_the_first_run_on_a_gpu_can_be_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    switches = {
        "DEVICE": "cpu",
        "TINY": "1",
        "EAGER": "1",
        "EPOCHS": "1",
        "LIMIT": "570",
        "SPEED_S": "250",
        "CHECK_S": "150",
    }
    rows = ("--row", "Natural", "--row", "Adversarial", "--row", "32")
    extra = " ".join(["--cpus-per-trial 1", *rows, *(f"--set {setting}" for setting in (*SMALL, FEW))])
    brought = str(tmp_path / "brought")  # what lies ready here for another machine is not for this one
    places = {
        "OUT": str(out),
        "TMPDIR": str(scratch),
        "BROUGHT": brought,
        "DATA": str(make_images(tmp_path / "images")),
    }
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu" / "first_run.sh")],
        cwd=ROOT,
        env=environment(**switches, **places, EXTRA=extra, PYTHON=os.path.relpath(sys.executable, ROOT)),
        capture_output=True,
        text=True,
        timeout=590,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for file in ("check.json", "speed.json"):
        found = json.loads((out / file).read_text())
        assert found, output
        failed = {name: entry for name, entry in found.items() if "FAILED" in str(entry)}
        assert not failed, output
    names = brought_home(out)
    assert any("record-" in name for name in names), (out / "launch.log").read_text()
    assert any(name.startswith("storage/speed/") for name in names)  # what trainings in turn did
    assert sum("checkpoint-" in name for name in names) == 4  # of two trainings with two seeds
    assert not any(name.startswith("storage/claims/") for name in names)
    assert len(list(out.iterdir())) <= 8


def brought_home(out: Path) -> list[str]:
    pieces = sorted(out.glob("home.tgz.*"))
    assert all(piece.stat().st_size <= 16_000_000 for piece in pieces)
    with tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))) as archive:
        return archive.getnames()
