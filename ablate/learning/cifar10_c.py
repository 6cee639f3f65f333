"""The official images of CIFAR-10-C, where they lie beside the data: `<data root>/CIFAR-10-C/<corruption>.npy`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablate.analysis.corruptions import NAMES, OFFICIAL, SEVERITIES
from ablate.analysis.examples import ANALYSED_IMAGES
from ablate.core.errors import DataError
from ablate.spaces.specs import DataSpec

CORRUPTIONS = "corruptions"
"""The analysis that is measured on them."""

IMAGES = 10_000
_SIZE = 32
SHAPE = (SEVERITIES * IMAGES, _SIZE, _SIZE, 3)

Corrupted = Mapping[str, npt.NDArray[np.uint8]]
"""Corruption -> [5, N, 3, 32, 32] uint8, of the first test images under each severity."""


def load_official(spec: DataSpec, data_root: Path) -> Corrupted | None:
    """The official corruptions of a data set's first test images.

    Args:
        spec: Which data.
        data_root: Where data sets are kept.

    Returns:
        None where the data are not CIFAR-10 at 32x32, or the files are not there.

    Raises:
        DataError: A file that is not one of CIFAR-10-C.
    """
    folder = data_root / OFFICIAL
    if spec.name != "cifar10" or spec.image_size != _SIZE or not folder.is_dir():
        return None
    found = {name: _read(folder / f"{name}.npy") for name in NAMES if (folder / f"{name}.npy").is_file()}
    if not found:
        raise DataError(f"expected corruptions as {folder}/gaussian_noise.npy and others, got none")
    return found


def digest_of(corrupted: Corrupted) -> str:
    """What tells these images from others."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(corrupted):
        content.update(name.encode())
        content.update(np.ascontiguousarray(corrupted[name]).tobytes())
    return content.hexdigest()


def _read(path: Path) -> npt.NDArray[np.uint8]:
    want = f"uint8 images of shape {SHAPE}, five severities of the 10,000 test images"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: expected {want}, got no array that can be read") from error
    if images.shape != SHAPE or images.dtype != np.uint8:
        raise DataError(f"{path}: expected {want}, got {images.dtype} of shape {images.shape}")
    first = images.reshape(SEVERITIES, IMAGES, _SIZE, _SIZE, 3)[:, :ANALYSED_IMAGES]
    return np.ascontiguousarray(first.transpose(0, 1, 4, 2, 3))
