"""The images of the preset `reduced`: the first 1,017 of each of CIFAR-10's six batches, as PNG files in folders.

    python docs/experiments/reduced_images.py IMAGES [--data-root ./data]

Downloads CIFAR-10 into the data root where it is not there yet. The files are
`IMAGES/{train,test}/<class>/<index>.png`, the index being the place in the original training or test set. Pillow
writes the same bytes for the same pixels, so that keys of trainings made here are those of the study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchvision.datasets import CIFAR10

BATCH = 10_000
TAKEN = 1_017


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="the folder to write")
    parser.add_argument("--data-root", default="./data", help="where CIFAR-10 is or is downloaded to")
    asked = parser.parse_args()
    for split in ("train", "test"):
        source = CIFAR10(asked.data_root, train=split == "train", download=True)
        for index in range(len(source)):
            if index % BATCH < TAKEN:
                image, label = source[index]
                file = asked.images / split / source.classes[label] / f"{index:05d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file, optimize=True)
        print(f"{split}: {TAKEN * (len(source) // BATCH)} images")


if __name__ == "__main__":
    main()
