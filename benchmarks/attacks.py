"""AutoAttack and its parts beside two independent implementations, on one trained network, in one run.

    python benchmarks/attacks.py --data FOLDER --images 1000
    python benchmarks/attacks.py --only apgd_ce aa

Trains a small network with PGD (on a folder of images as of `data.name: imagefolder`, or on digits), then measures its
robust accuracy by our columns, by pyautoattack's (`pip install --no-deps pyautoattack`), and by torchattacks' classes
with 100 steps: its own `AutoAttack` runs 10. All are given the network as it was trained; ours fold its batch
normalization themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ablate.attacks import CleanLogits, Ensemble, build_attack, evaluate, evaluate_ensemble  # noqa: E402
from ablate.learning import data  # noqa: E402
from ablate.learning.models import build_network, frozen_parameters  # noqa: E402
from ablate.learning.models.folding import as_measured, as_searched  # noqa: E402
from ablate.learning.precision import memory_format  # noqa: E402
from ablate.learning.training import train  # noqa: E402
from ablate.spaces.specs import MeasurementSpec, TrialSpec  # noqa: E402

PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")
THEIR_NAMES = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
RIVALS = ("pyautoattack", "torchattacks")
BATCH = 250
"""pyautoattack's default."""


def trained(
    folder: str | None, size: int, width: float, epochs: int, bits: int, device: torch.device
) -> tuple[Any, ...]:
    """A network after some epochs of PGD-3, and its test images."""
    spec = TrialSpec.model_validate(
        {
            "data": {"name": "imagefolder" if folder else "digits", "root": folder, "image_size": size},
            "model": {"width": width, "quantization": {"bits": bits}},
            "training": {"epochs": epochs, "batch_size": 64, "attack": {"steps": 3, "step_255": 4.0}},
        }
    )
    dataset = data.load(spec.data, Path())
    state = train(spec, dataset, device=device)
    network = build_network(spec.model, len(dataset.classes), size, 0)
    network.load_state_dict(state.network)
    network.to(device, memory_format=memory_format(device, "float32"))
    return network.eval(), torch.from_numpy(dataset.test_images), torch.from_numpy(dataset.test_labels)


def ours(network: nn.Module, name: str, images: Tensor, labels: Tensor, spec: MeasurementSpec) -> Tensor:
    """[N] bool, which images withstand our column."""
    attack = build_attack(name, spec)
    with frozen_parameters(network):
        asked = as_measured(network, images.shape[-1])
        search = as_searched(network, images.shape[-1], spec.precision)
        clean = CleanLogits(asked, images, spec.batch_size)
        more: dict[str, Any] = {"seed": 0, "batch_size": spec.batch_size, "clean": clean, "search": search}
        if isinstance(attack, Ensemble):
            return evaluate_ensemble(asked, attack, images, labels, **more)[None].correct
        return evaluate(asked, attack, images, labels, **more)[None]


def pyautoattacks(network: nn.Module, name: str, images: Tensor, labels: Tensor, eps: float, queries: int) -> Tensor:
    """[N] bool, which images withstand pyautoattack's."""
    from pyautoattack import AutoAttack

    version = {"version": "standard"} if name == "aa" else {"version": "custom", "attacks": [THEIR_NAMES[name]]}
    theirs = AutoAttack(network, eps=eps, seed=0, device=images.device, **version)
    theirs.square.n_queries = queries
    if name == "fab_t":  # as the standard version has it
        theirs.fab.n_restarts = 1
    made = theirs.run_standard_evaluation(images, labels, batch_size=BATCH)[0]
    return right(network, made, labels)


def torchattacks_by_hand(
    network: nn.Module, name: str, images: Tensor, labels: Tensor, eps: float, queries: int
) -> Tensor:
    """[N] bool, which images withstand torchattacks' class with AutoAttack's settings."""
    import torchattacks

    classes = 10
    attack = {
        "apgd_ce": lambda: torchattacks.APGD(network, eps=eps, steps=100, seed=0),
        "apgd_t": lambda: torchattacks.APGDT(network, eps=eps, steps=100, seed=0, n_classes=classes),
        "fab_t": lambda: torchattacks.FAB(network, eps=eps, steps=100, seed=0, multi_targeted=True, n_classes=classes),
        "square": lambda: torchattacks.Square(network, eps=eps, n_queries=queries, resc_schedule=False, seed=0),
    }[name]()
    made = [attack(some, truth) for some, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True)]
    return right(network, torch.cat(made), labels)


def right(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """[N] bool, classified correctly."""
    with torch.no_grad():
        return torch.cat([network(some) for some in images.split(BATCH)]).argmax(1) == labels


def main() -> None:
    """Train, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="with train/ and test/; default: digits")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--eps", type=float, default=8.0, help="in 1/255")
    parser.add_argument("--queries", type=int, default=5000, help="of square")
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "aa"), default=[*PARTS, "aa"])
    parser.add_argument("--without", nargs="+", choices=("ours in bfloat16", *RIVALS), default=[])
    parser.add_argument("--keep", metavar="FILE", help="the trained network: read where it is there, else written")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if given.keep and Path(given.keep).exists():
        network, images, labels = torch.load(given.keep, weights_only=False, map_location=device)
    else:
        network, images, labels = trained(given.data, given.size, given.width, given.epochs, given.bits, device)
        if given.keep:
            torch.save((network, images, labels), given.keep)
    images, labels = images[: given.images].to(device), labels[: given.images].to(device)
    floats = images.float() / 255
    spec = MeasurementSpec(eps_255=given.eps, square_queries=given.queries)
    lower = MeasurementSpec(eps_255=given.eps, square_queries=given.queries, precision="bfloat16")
    natural = right(network, floats, labels).double().mean().item()
    print(
        f"{len(images)} images, natural {100 * natural:.1f} %, {device}, {torch.get_num_threads()} threads", flush=True
    )
    eps, queries = given.eps / 255, given.queries
    for name in given.only:
        contestants: dict[str, Callable[[str], Tensor]] = {
            "ours": lambda name: ours(network, name, images, labels, spec),
            "ours in bfloat16": lambda name: ours(network, name, images, labels, lower),
            "pyautoattack": lambda name: pyautoattacks(network, name, floats, labels, eps, queries),
            "torchattacks": lambda name: torchattacks_by_hand(network, name, floats, labels, eps, queries),
        }
        told: dict[str, Any] = {"what": name}
        for who, run in contestants.items():
            if who in given.without or (who == "torchattacks" and name == "aa"):
                continue
            start = time.perf_counter()
            correct = run(name)
            told[who] = {
                "robust": round(100 * correct.double().mean().item(), 2),
                "seconds": round(time.perf_counter() - start, 2),
            }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
