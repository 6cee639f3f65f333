"""CIFAR-10, CIFAR-100 and SVHN: what is known of them without a download, and how torchvision's files become arrays."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ablate.core.errors import DataError

_DOWNLOAD_PATIENCE_S = 30.0

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images and labels of the training split, then of the test split."""


@dataclass(frozen=True)
class Published:
    """A data set that torchvision downloads, and checks against checksums.

    Args:
        label: How reports name it.
        reader: torchvision's class.
        folder: Below the data root.
        archives: What is downloaded; one brought by hand is looked for in the data root.
        md5: Of what each split is read from.
        counts: Images of each split.
        classes: How many.
        split_argument: What the class calls the choice of a split, and the two choices.
    """

    label: str
    reader: str
    folder: str
    archives: tuple[str, ...]
    md5: Mapping[str, str]
    counts: tuple[int, int]
    classes: int
    split_argument: tuple[str, Any, Any] = ("train", True, False)

    def open(self, root: Path, *, download: bool = False) -> list[Any]:
        """torchvision's objects of both splits.

        Args:
            root: With the folder.
            download: Whether to fetch what is not there.

        Raises:
            RuntimeError: torchvision's "not found or corrupted".
        """
        from torchvision import datasets

        name, *choices = self.split_argument
        below = root / self.folder if self.reader == "SVHN" else root  # the others make their folder themselves
        below.mkdir(parents=True, exist_ok=True)
        reader = getattr(datasets, self.reader)
        if not download:
            return [reader(str(below), **{name: choice}) for choice in choices]
        # One archive holds both splits.
        return [reader(str(below), **{name: choice}, download=True) for choice in choices[: len(self.archives)]]


def _of_one_archive(md5: str) -> dict[str, str]:
    return {"train": md5, "test": md5}


PUBLISHED: Mapping[str, Published] = {
    "cifar10": Published(
        label="CIFAR-10",
        reader="CIFAR10",
        folder="cifar-10-batches-py",
        archives=("cifar-10-python.tar.gz",),
        md5=_of_one_archive("c58f30108f718f92721af3b95e74349a"),
        counts=(50_000, 10_000),
        classes=10,
    ),
    "cifar100": Published(
        label="CIFAR-100",
        reader="CIFAR100",
        folder="cifar-100-python",
        archives=("cifar-100-python.tar.gz",),
        md5=_of_one_archive("eb9058c3a382ffc7106e4002c42a8d85"),
        counts=(50_000, 10_000),
        classes=100,
    ),
    "svhn": Published(
        label="SVHN",
        reader="SVHN",
        folder="svhn",
        archives=("train_32x32.mat", "test_32x32.mat"),
        md5={"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"},
        counts=(73_257, 26_032),
        classes=10,
        split_argument=("split", "train", "test"),
    ),
}


def load(name: Literal["cifar10", "cifar100", "svhn"], data_root: Path) -> tuple[tuple[str, ...], Arrays]:
    """The names of the classes, and the arrays at the size they have.

    Args:
        name: Which.
        data_root: Where it lies or is downloaded to.

    Returns:
        Images as [N, 3, 32, 32].

    Raises:
        DataError: It is not there and cannot be downloaded, or a file is corrupt.
    """
    published = PUBLISHED[name]
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        splits = _brought(published, data_root)
    except (OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        label = published.label
        raise DataError(f"expected {label} in {data_root} or a network to download it, got: {reason}") from error
    arrays: list[Any] = []
    for split in splits:
        if hasattr(split, "targets"):
            arrays += [split.data.transpose(0, 3, 1, 2), split.targets]
        else:
            arrays += [split.data, split.labels]
    images = [np.ascontiguousarray(array, dtype=np.uint8) for array in arrays[::2]]
    labels = [np.asarray(array, dtype=np.int64) for array in arrays[1::2]]
    classes = getattr(splits[0], "classes", None) or [str(number) for number in range(published.classes)]
    return tuple(classes), (images[0], labels[0], images[1], labels[1])


def _brought(published: Published, data_root: Path) -> list[Any]:
    """Download beside the final place and move the whole folder in: two launches at once never see half a file."""
    target = data_root / published.folder
    if target.exists():
        with contextlib.suppress(RuntimeError):  # torchvision's "not found or corrupted"
            return published.open(data_root)
    with tempfile.TemporaryDirectory(prefix=f".{published.folder}-", dir=data_root) as scratch:
        beside = Path(scratch)
        for name in published.archives:
            archive = data_root / name
            if archive.is_file():  # brought here by hand: torchvision checks it and downloads only if it is wrong
                place = beside / published.folder if published.reader == "SVHN" else beside
                place.mkdir(exist_ok=True)
                shutil.copy(archive, place)
        with _patience(_DOWNLOAD_PATIENCE_S):
            published.open(beside, download=True)
        if target.exists():
            target.rename(beside / "replaced")
        try:
            (beside / published.folder).rename(target)
        except OSError:
            if not target.exists():  # else another launch has just put it there; it is checked when loaded
                raise
    return published.open(data_root)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    # torchvision sets no time-out: behind a firewall that drops packets it would wait for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
