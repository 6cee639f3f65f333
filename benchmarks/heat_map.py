"""How long the Fourier heat map takes: every real wave of 32 x 32 pixels, on the images it looks at by default.

    python benchmarks/heat_map.py
    python benchmarks/heat_map.py --arch wrn_34_10 --images 100 --device cuda

It is asked as a measurement asks it: the folded network in float32, in the batches of `measurement.batch_size`. Beside
other work the time that threads were at work says what it takes on a quiet machine, nearly.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from ablate.analysis.heat_map import error_map, frequency_classes
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured
from ablate.learning.precision import memory_format
from ablate.spaces.specs import MeasurementSpec, ModelSpec

SIZE = 32
EVERY_S = 10.0


def main() -> None:
    """Time one map and print it."""
    settings = MeasurementSpec()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--images", type=int, default=settings.heat_map_images)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    layout = memory_format(device, "float32")
    network = build_network(ModelSpec(arch=given.arch), 10, SIZE, 0).to(device).eval()
    network.to(memory_format=layout)
    images = torch.rand(given.images, 3, SIZE, SIZE, device=device).contiguous(memory_format=layout)
    labels = torch.zeros(given.images, dtype=torch.int64, device=device)
    start = told = time.perf_counter()
    busy = time.process_time()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.perf_counter() - told > EVERY_S:
            told = time.perf_counter()
            print(f"{done} of {total} frequencies, {told - start:.0f} s", file=sys.stderr, flush=True)

    with frozen_parameters(network):
        asked = as_measured(network, SIZE)
        error_map(asked, images, labels, norm=settings.heat_map_norm, seed=0, batch_size=settings.batch_size,
                  progress=progress)  # fmt: skip
    seconds, count = time.perf_counter() - start, len(frequency_classes(SIZE))
    busy = time.process_time() - busy
    rate = count * given.images / seconds
    print(f"{given.arch}, {given.images} images, {count} frequencies, {given.threads} threads, {device}: "
          f"{seconds:.0f} s, {rate:.0f} images/s, {busy / given.threads:.0f} s of each thread at work")  # fmt: skip


if __name__ == "__main__":
    main()
