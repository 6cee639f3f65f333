"""Makes the frozen results of this folder, by the version of ablate that is to be kept readable.

    git archive COMMIT | tar -x -C OLD
    ABLATE_COMMIT=COMMIT PYTHONPATH=OLD python tests/golden/make.py

It was run with commit 80aefa5 and writes, beside itself:

    keys.json        plan ids, training keys and measurement keys of `spaces/` (the shipped ones then), and the
                     attacks' `repr`s, of which keys are made
    storage.tar.xz   a storage folder: `tiny.yaml` with trainings finished, failed and cut off after some epochs,
                     and `tiny_search.yaml` with samples stopped early; beside it MLflow's artifacts of them
    mlflow.db.xz     what MLflow was told of them, as in the folder `/home/user/ablation`
    results.json     the results of both as that version told them, from storage and from MLflow

`later.json` holds the same of commit e669528, made by `keys_of` and `REPRS`: the attacks and spaces that came since, as
they were before anything was called otherwise.

Only commands are used, so that any version can be asked. None of these files is to be made anew for a new version:
they stand for what users have. A newer version's results are a second set beside this one.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = "/home/user/ablation"
LOCAL = ("--local", "--cpus-per-trial", "1")
CUT_AFTER = 2
"""Epochs after which the last training of `tiny.yaml` is cut off."""

REPRS = """\
import json
from ablate.attacks import attack_names, build_attack
from ablate.spaces.specs import MeasurementSpec
changed = MeasurementSpec(eps_255=4, step_255=1)
print(json.dumps({name: [repr(build_attack(name, spec)) for spec in (MeasurementSpec(), changed)]
                  for name in attack_names()}))
"""


STORED = """\
import sys, ablate
plan = ablate.load_space(sys.argv[1]).plan()
print(plan.results().to_json(orient="index"))
"""


def output(folder: Path, *arguments: str) -> str:
    """Run Python in a folder; its standard output."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def keys_of(space: str, preset: str) -> dict[str, Any]:
    """What a dry run says of a space: the plan's id, and each row's keys."""
    with tempfile.TemporaryDirectory() as name:
        command = ("-m", "ablate.launch", "--space", space, "--preset", preset, "--dry-run", "--json")
        plan = json.loads(output(Path(name), *command))
    rows = {trial["row"]: {"training": trial["training"], **trial["measurements"]} for trial in plan["trials"]}
    return {"id": plan["id"], "rows": rows}


def cut_off(folder: Path) -> None:
    """Launch `tiny.yaml`, and end the launch in order once its last training has some epochs."""
    command = [sys.executable, "-m", "ablate.launch", "--space", "tiny.yaml", *LOCAL]
    process = subprocess.Popen(command, cwd=folder)
    while not list(folder.glob(f"storage/*/attempts/*/checkpoint-{CUT_AFTER + 1:06}-*")):
        if process.poll() is not None:
            raise SystemExit("the launch ended before it could be cut off")
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 130:
        raise SystemExit(f"expected exit code 130, got {process.returncode}")


def move(database: Path, old: str, new: str) -> None:
    """Have MLflow look for its artifacts in another folder."""
    with closing(sqlite3.connect(database)) as opened, opened:  # closed: else changes stay in a file beside it
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            opened.execute(f"update {table} set {column} = replace({column}, ?, ?)", (old, new))


def main() -> None:
    """Make all four."""
    os.environ |= {"OMP_NUM_THREADS": "1", "LOGNAME": "user"}
    spaces = sorted(path.stem for path in (HERE / "spaces").glob("*.yaml"))
    presets = sorted(path.stem for path in (HERE / "spaces" / "presets").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {preset: {space: keys_of(space, preset) for space in spaces} for preset in presets}
        keys["attacks"] = json.loads(output(folder, "-c", REPRS))
        for file in ("tiny.yaml", "tiny_search.yaml"):
            shutil.copy(HERE / file, folder)
        cut_off(folder)
        output(folder, "-m", "ablate.launch", "--space", "tiny_search.yaml", *LOCAL)
        results = {}
        for space in ("tiny", "tiny_search"):
            report = ("-m", "ablate.report", "--space", space)
            results[space] = {
                "stored": json.loads(output(folder, "-c", STORED, f"{space}.yaml")),
                "last": output(folder, *report, "--format", "csv"),
                "best": output(folder, *report, "--format", "csv", "--network", "best"),
            }
        with tarfile.open(HERE / "storage.tar.xz", "w:xz") as archive:
            archive.add(folder / "storage", "storage")
            archive.add(folder / "mlartifacts", "mlartifacts")
        move(folder / "mlflow.db", str(folder), FOLDER)
        (HERE / "mlflow.db.xz").write_bytes(lzma.compress((folder / "mlflow.db").read_bytes(), preset=9))
    for file, content in (("keys.json", keys), ("results.json", results)):
        (HERE / file).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
