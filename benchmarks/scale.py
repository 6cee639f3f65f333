"""How far one driver and each MLflow store carry: launches of trainings that do no work.

    python benchmarks/scale.py --trainings 100 1000
    python benchmarks/scale.py --trainings 1000 --postgres postgresql+psycopg2://user@127.0.0.1/empty --mlflow PATH

For each number of trainings: the launch itself (time per training, and the driver's largest resident memory), and the
same results sent with `python -m ablate.report --sync` to SQLite, to `mlflow server` over SQLite and over PostgreSQL:
rows of metrics, parameters and tags per second. PostgreSQL is left out without --postgres, an empty database.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SPACE = """\
title: Trainings of no work
base: {data.name: digits, data.image_size: 8, training.epochs: 3, training.batch_size: 64}
rows:
  - {label: nothing, set: {}}
"""

# Imported by the driver and every worker: a training is three epochs of made-up metrics, a measurement 360 ones.
NO_WORK = """\
import numpy as np
import torch
from ablate.execution import worker
from ablate.learning.state import TrainingState
from ablate.storage.records import Record

METRICS = ("train/loss", "train/accuracy_attack", "energy/lfi_hfi_ratio", "learning_rate", "images_per_second")

def train_in_turns(spec, dataset, *, state=None, on_epoch=lambda state: None, **_):
    history = []
    for epoch in range(spec.training.epochs + 1):
        metrics = {name: 1.0 / (1 + epoch) for name in METRICS}
        history = [*history, {"epoch": epoch, "timestamp_ms": worker.now_ms(), "metrics": metrics}]
        state = TrainingState(epoch, {"weight": torch.zeros(1)}, {}, history, None)
        on_epoch(state)
        yield
    return state

def measure(self, attempt, state, missing):
    for measurement in missing:
        arrays = {"correct": np.ones(360, np.bool_)}
        attempt.save_record(Record(measurement.key, {"accuracy": 50.0}, arrays, {"what": measurement.name}))
        yield

for place, name, stub in ((worker, "train_in_turns", train_in_turns), (worker.TaskRun, "measure", measure)):
    getattr(place, name)  # else trainings would do their work, and be timed with it
    setattr(place, name, stub)
"""


def environment(**more: str) -> dict[str, str]:
    """Of the processes that are measured."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": path, **quiet, **more}


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run a module to its end.

    Returns:
        Seconds, and the largest resident memory of its process in MB.
    """
    start, peak, done = time.monotonic(), 0.0, threading.Event()
    with (folder / "out.txt").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment(), stdout=out, stderr=subprocess.STDOUT
        )

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                except OSError:
                    return
                peak = max([peak, *(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))])

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise SystemExit((folder / "out.txt").read_text()[-3000:])
    return time.monotonic() - start, peak


COUNT = """\
import sys
from sqlalchemy import create_engine, inspect, text
engine = create_engine(sys.argv[1])
with engine.connect() as connection:
    there = [name for name in ("metrics", "params", "tags") if inspect(engine).has_table(name)]
    print(sum(connection.execute(text(f"select count(*) from {name}")).scalar() for name in there))
"""


def rows_in(database: str, mlflow: str) -> int:
    """Rows of metrics, parameters and tags in a database, asked with the driver that MLflow's own Python has."""
    python = str(Path(mlflow).parent / "python")
    done = subprocess.run([python, "-c", COUNT, database], capture_output=True, text=True, check=True)
    return int(done.stdout)


@contextmanager
def server(folder: Path, mlflow: str, database: str) -> Iterator[str]:
    """`mlflow server` over a database, while the block runs."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [mlflow, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "served")]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def send(folder: Path, what: str, uri: str, database: str, mlflow: str) -> None:
    """Send all results to one store, and again, which must send nothing."""
    before = rows_in(database, mlflow)
    seconds, peak = timed(folder, "ablate.report", "--sync", "--storage", "storage", "--tracking-uri", uri)
    again, _ = timed(folder, "ablate.report", "--sync", "--storage", "storage", "--tracking-uri", uri)
    count = rows_in(database, mlflow) - before
    print(
        f"  {what:<26} {seconds:>7.1f} s {count:>8} rows {count / seconds:>6.0f} rows/s {peak:>6.0f} MB, "
        f"again {again:.1f} s",
        flush=True,
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--postgres", help="SQLAlchemy URI of an empty database; without it PostgreSQL is left out")
    parser.add_argument(
        "--mlflow", default=str(Path(sys.executable).parent / "mlflow"), help="with PostgreSQL's driver"
    )
    parser.add_argument("--no-servers", action="store_true", help="SQLite alone: a server takes minutes for 1,000")
    asked = parser.parse_args()
    for count in asked.trainings:
        folder = Path(tempfile.mkdtemp(prefix="ablate-scale-"))
        try:
            (folder / "nothing.yaml").write_text(SPACE)
            (folder / "no_work.py").write_text(NO_WORK)
            launch = ["ablate.launch", "--space", "./nothing.yaml", "--seeds", ",".join(map(str, range(count)))]
            launch += ["--cpus-per-trial", "1", "--import", "no_work", "--no-tracking", "--yes"]
            seconds, peak = timed(folder, *launch)
            again, _ = timed(folder, *launch)
            print(f"{count} trainings of no work: {seconds:.1f} s, {1000 * seconds / count:.0f} ms each, ", end="")
            print(f"driver {peak:.0f} MB; again, all reused: {again:.1f} s", flush=True)
            local = f"sqlite:///{folder}/mlflow.db"
            send(folder, "SQLite", local, local, asked.mlflow)
            table, _ = timed(folder, "ablate.report", "--tracking-uri", local)
            print(f"  the table again, from MLflow alone: {table:.1f} s", flush=True)
            if asked.no_servers:
                continue
            behind = f"sqlite:///{folder}/server.db"
            with server(folder, asked.mlflow, behind) as uri:
                send(folder, "mlflow server, SQLite", uri, behind, asked.mlflow)
            if asked.postgres:
                with server(folder, asked.mlflow, asked.postgres) as uri:
                    send(folder, "mlflow server, PostgreSQL", uri, asked.postgres, asked.mlflow)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
