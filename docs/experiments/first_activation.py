"""R = |LFI| / |HFI| of the first activation, in every way the paper's words can be read (Section 3.1.3).

After `python -m ablate.launch --preset reduced --space frequency --set data.root=IMAGES --storage STORAGE`:

    python docs/experiments/first_activation.py IMAGES STORAGE --seeds 0 1 2

Prints a line for each reading, the mean over the seeds for the untrained, the natural and the robust network.
"""

from __future__ import annotations

import argparse
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ablate
from ablate.analysis.energy import lfi_hfi_ratio
from ablate.learning.data import load, split_validation
from ablate.learning.models import build_network
from ablate.learning.monitoring import PROBE_IMAGES
from ablate.spaces.specs import DataSpec, ModelSpec

ACTIVATIONS = {"hardtanh": F.hardtanh, "relu": F.relu, "none": lambda x: x}


def ratio(network: nn.Module, images: Tensor, activation: str, batch_statistics: bool, mean_over: str) -> float:
    """R of one network, read one way."""
    with torch.no_grad():
        x = network.conv1(images)
        norm = network.bn1
        running = (None, None) if batch_statistics else (norm.running_mean, norm.running_var)
        x = F.batch_norm(x, *running, norm.weight, norm.bias, training=batch_statistics, eps=norm.eps)
        x = ACTIVATIONS[activation](x)
        if mean_over == "channels":  # x as a signal of n = C samples in d = H * W channels
            x = x.flatten(2).transpose(1, 2)[..., None]
        return lfi_hfi_ratio(x).item()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="Folder with train/<class>/ and test/<class>/.")
    parser.add_argument("storage", help="Where the networks were trained.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    sets = {"data.root": asked.images}
    plan = ablate.load_space("frequency").plan(preset="reduced", sets=sets, seeds=asked.seeds, storage=asked.storage)
    spec = DataSpec(name="imagefolder", root=asked.images, validation=0.1)
    data = load(spec, None)
    trained_on, _ = split_validation(data.train_labels, spec.validation)
    images = torch.from_numpy(data.train_images[trained_on[:PROBE_IMAGES]]).float() / 255
    networks = {
        "untrained": [build_network(ModelSpec(), 10, 32, seed).eval() for seed in asked.seeds],
        "natural": [plan.network("Natural", seed) for seed in asked.seeds],
        "robust": [plan.network("Adversarial", seed) for seed in asked.seeds],
    }
    print("| mean over | bn1 by | activation | " + " | ".join(networks) + " |")
    print("| --- | --- | --- |" + " ---: |" * len(networks))
    for mean_over, batch, activation in product(("positions", "channels"), (False, True), ACTIVATIONS):
        found = [
            sum(ratio(network, images, activation, batch, mean_over) for network in group) / len(group)
            for group in networks.values()
        ]
        statistics = "the batch" if batch else "running statistics"
        print(f"| {mean_over} | {statistics} | {activation} | " + " | ".join(f"{r:.2f}" for r in found) + " |")


if __name__ == "__main__":
    main()
