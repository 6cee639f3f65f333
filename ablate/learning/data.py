"""Data sets as uint8 arrays: those torchvision downloads, any folder of images, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablate.core.errors import DataError, SpecError
from ablate.core.places import local_path
from ablate.core.randomness import permutation, stream
from ablate.learning import downloads, imagefolder
from ablate.learning.cifar10_c import Corrupted, load_official
from ablate.learning.downloads import PUBLISHED
from ablate.learning.images import RECIPE, resize
from ablate.spaces.specs import DataSpec

_DIGITS_DIGEST = "a0d5d6d04a2cada264d67267c2f35cd4"  # pixels, labels, split: planning needs no scikit-learn
_DIGITS_COUNTS = (1_437, 360)


@dataclass(frozen=True)
class Dataset:
    """Images and labels of both splits, in a fixed order.

    Attributes:
        name: `DataSpec.name`.
        label: How reports name the data.
        classes: The class names; a label is an index into them.
        train_images: [N, 3, H, W] uint8, H = W = `DataSpec.image_size`.
        train_labels: [N] int64.
        test_images: [M, 3, H, W] uint8.
        test_labels: [M] int64.
        corrupted: Official corruptions of its first test images; None where they were not asked for, or are not there.
    """

    name: str
    label: str
    classes: tuple[str, ...]
    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    corrupted: Corrupted | None = None


@dataclass(frozen=True)
class DataSummary:
    """What planning needs to know about a data set.

    Attributes:
        label: How reports name the data.
        train_digest: Identifies the training pixels and labels.
        test_digest: Identifies the test pixels and labels.
        train_count: Training images, the ones held out for validation included.
        test_count: Test images.
        classes: How many classes.
        passed_over: Images of a folder that are not taken, since their names do not end like one's.
    """

    label: str
    train_digest: str
    test_digest: str
    train_count: int
    test_count: int
    classes: int
    passed_over: tuple[str, ...] = ()


def describe(spec: DataSpec, data_root: Path) -> DataSummary:
    """Identify and count a data set, without decoding an image and without downloading anything.

    Args:
        spec: Which data.
        data_root: Where downloaded data lie; not looked at, for their digests are constants.

    Raises:
        DataError: An image folder that is missing or does not fit the layout.
        SpecError: `data.root` is missing where it is needed, or given where it means nothing.
    """
    _check_root(spec)
    passed_over: tuple[str, ...] = ()
    if spec.name in PUBLISHED:
        found = PUBLISHED[spec.name]
        digests = {name: _digest(spec.name, found.md5[name], name, spec.image_size) for name in imagefolder.SPLITS}
        counts, classes = found.counts, found.classes
    elif spec.name == "digits":
        digests = {split: _digest("digits", _DIGITS_DIGEST, split, spec.image_size) for split in imagefolder.SPLITS}
        counts, classes = _DIGITS_COUNTS, 10
    else:
        names, splits = imagefolder.scan(_root(spec))
        digests = {name: imagefolder.digest(split, spec.image_size) for name, split in splits.items()}
        counts, classes = (len(splits["train"].files), len(splits["test"].files)), len(names)
        passed_over = tuple(f"{name}/{file}" for name, split in splits.items() for file in split.passed_over)
    return DataSummary(
        label=_label(spec),
        train_digest=digests["train"],
        test_digest=digests["test"],
        train_count=counts[0],
        test_count=counts[1],
        classes=classes,
        passed_over=passed_over,
    )


def load(spec: DataSpec, data_root: Path, *, corrupted: bool = False) -> Dataset:
    """Load a data set; the same spec gives the same arrays in the same order on every machine.

    Args:
        spec: Which data, at which size.
        data_root: Where downloaded data lie or are downloaded to, checked against their checksums.
        corrupted: Also the official corruptions, where they lie there.

    Raises:
        DataError: The data are missing and cannot be downloaded, or a file is corrupt.
        SpecError: `data.root` is missing where it is needed, or given where it means nothing.
    """
    _check_root(spec)
    if spec.name == "cifar10" or spec.name == "cifar100" or spec.name == "svhn":
        classes, arrays = downloads.load(spec.name, data_root)
    elif spec.name == "digits":
        pixels, targets, test = _raw_digits()
        gray = (pixels.astype(np.uint16) * 255 + 8) // 16  # 0 .. 16 to 0 .. 255, rounded
        rgb = np.repeat(gray.astype(np.uint8)[:, None], 3, axis=1)
        classes = tuple(str(digit) for digit in range(10))
        arrays = (rgb[~test], targets[~test], rgb[test], targets[test])
    else:
        classes, splits = imagefolder.scan(_root(spec))
        train, test_split = splits["train"], splits["test"]
        arrays = (
            imagefolder.load(train, spec.image_size),
            train.labels,
            imagefolder.load(test_split, spec.image_size),
            test_split.labels,
        )
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        name=spec.name,
        label=_label(spec),
        classes=classes,
        train_images=resize(train_images, spec.image_size),
        train_labels=train_labels,
        test_images=resize(test_images, spec.image_size),
        test_labels=test_labels,
        corrupted=load_official(spec, data_root) if corrupted else None,
    )


def split_validation(
    labels: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hold out a fixed part of the training images, the same share of every class to within one image.

    Fixed: it depends on the order of the labels alone, so every seed and every setting is judged on the same images,
    and a smaller share is a part of a larger one.

    Args:
        labels: [N] int64, of the training images.
        share: From 0 to 0.5; round(share * N) images are held out.

    Returns:
        The places of the images to train on and of those held out, both ascending; none is held out at share 0.

    Raises:
        DataError: A share above 0 that holds out nothing.
    """
    held_out = _stratified(labels, round(share * len(labels)), "validation")
    if share > 0 and not held_out.any():
        raise DataError(f"expected data.validation to hold out at least one image, got {share} of {len(labels)} images")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _stratified(labels: npt.NDArray[np.int64], count: int, purpose: str) -> npt.NDArray[np.bool_]:
    # Each image gets its quantile within its class, in a random order; the images of the lowest quantiles are chosen.
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        order = permutation(stream(0, purpose, int(label)), len(places)).numpy()
        quantile[places[order]] = (np.arange(len(places)) + 0.5) / len(places)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[np.lexsort((labels, quantile))[:count]] = True
    return chosen


def _label(spec: DataSpec) -> str:
    if spec.label is not None:
        return spec.label
    if spec.name == "imagefolder":
        return _root(spec).resolve().name
    return PUBLISHED[spec.name].label if spec.name in PUBLISHED else spec.name


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr((RECIPE, *parts)).encode(), digest_size=16).hexdigest()


def _root(spec: DataSpec) -> Path:
    return local_path(spec.root or "", "data.root")


def _check_root(spec: DataSpec) -> None:
    if spec.name == "imagefolder" and not spec.root:
        raise SpecError("expected data.root, the folder with train/ and test/, with data.name: imagefolder, got none")
    if spec.name != "imagefolder" and spec.root:
        raise SpecError(f"expected data.root only with data.name: imagefolder, got it with data.name: {spec.name}")


def _raw_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    # Imported here: scikit-learn takes a second to import and only this data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    test = _stratified(labels, _DIGITS_COUNTS[1], "digits test")
    content = hashlib.blake2b(pixels.tobytes() + labels.tobytes() + test.tobytes(), digest_size=16).hexdigest()
    if content != _DIGITS_DIGEST:
        raise DataError(
            f"expected scikit-learn's digits of digest {_DIGITS_DIGEST}, got {content}; install another one"
        )
    return pixels, labels, test


def dataset_name(spec: DataSpec) -> str:
    """What tells the data sets of trials apart."""
    return f"{spec.name}-{spec.image_size}-{spec.root or ''}"
