"""How long a report over many runs takes: a finished plan of hand-made results, in MLflow alone.

    python benchmarks/reports.py --runs 1000 5000

For each number of trials (a row with a seed, one MLflow run each, and one more of its training): the time to send them
to SQLite, and of `python -m ablate.report` for the tables and verdicts, and with `--out` for the page with its figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ablate.spaces.loading import load_space  # noqa: E402
from ablate.storage.storage import Storage  # noqa: E402
from ablate.tracking.tracker import Tracker  # noqa: E402
from benchmarks.scale import environment  # noqa: E402
from tests.support.tracking_world import finish, plan_of  # noqa: E402


def timed(folder: Path, *arguments: str) -> float:
    """Run the report, and return its seconds."""
    command = [sys.executable, "-m", "ablate.report", *arguments]
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr)
    return time.monotonic() - start


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 5000])
    asked = parser.parse_args()
    claims = load_space("batch_size").space.claims
    rows = ("512", "256", "128", "64", "32")
    for count in asked.runs:
        with tempfile.TemporaryDirectory(prefix="ablate-reports-") as name:
            folder = Path(name)
            plan = plan_of(
                rows,
                range(count // len(rows)),
                claims=[claim.model_dump(mode="json", exclude_none=True) for claim in claims],
            )
            storage = Storage(str(folder / "storage"))
            finish(storage, plan)
            tracker = Tracker(f"sqlite:///{folder}/mlflow.db")
            tracker.prepare()
            start = time.monotonic()
            tracker.sync(plan, storage)
            print(f"{count} runs: sent in {time.monotonic() - start:.1f} s, ", end="", flush=True)
            print(f"tables and verdicts in {timed(folder):.1f} s, ", end="", flush=True)
            print(f"the page in {timed(folder, '--out', 'report'):.1f} s", flush=True)


if __name__ == "__main__":
    main()
