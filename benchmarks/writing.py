"""What writing costs: a checkpoint after an epoch, and a record after a measurement.

    python benchmarks/writing.py [FOLDER]

The folder is one on the disk that storage will be on; default: the system's temporary one.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time

import numpy as np
import torch

from ablate.bench.cases import random_dataset
from ablate.learning.training import TrainingRun
from ablate.spaces.specs import TrialSpec
from ablate.storage.checkpoints import save_state
from ablate.storage.records import Record
from ablate.storage.storage import Storage

EPOCHS = 120
ROUNDS = 12
IMAGES = 10_000


def main() -> None:
    """Run it."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for arch in ("resnet20", "mobilenet_v2", "wrn_34_10"):
            spec = TrialSpec.model_validate({"model": {"arch": arch}, "training": {"batch_size": 2}})
            run = TrainingRun(spec, random_dataset(2), torch.device("cpu"))
            for parameter in run.network.parameters():  # the optimizer keeps a momentum of each
                parameter.grad = torch.zeros_like(parameter)
            run.optimizer.step()
            history = [
                {"epoch": epoch, "timestamp_ms": epoch, "metrics": {f"metric-{number}": 0.1 for number in range(12)}}
                for epoch in range(EPOCHS)
            ]
            attempt = Storage(folder).attempt("ab" * 10)
            checkpoints, records = [], []
            for number in range(ROUNDS):
                start = time.perf_counter()
                state = run.snapshot(number, {}, history, None)
                attempt.save_checkpoint(number, save_state(state), state.history)
                checkpoints.append(time.perf_counter() - start)
                start = time.perf_counter()
                arrays = {"correct": np.ones(IMAGES, np.bool_)}
                attempt.save_record(Record(f"{number:020x}", {"accuracy": 50.0}, arrays, {}))
                records.append(time.perf_counter() - start)
            median = statistics.median
            print(f"{arch:<14} checkpoint {1e3 * median(checkpoints):7.1f} ms, record {1e3 * median(records):5.1f} ms")


if __name__ == "__main__":
    main()
