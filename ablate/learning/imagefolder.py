"""A data set in folders: `root/{train,test}/<class>/<image>`, the layout torchvision's ImageFolder reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablate.core.errors import DataError
from ablate.learning import images

SPLITS = ("train", "test")
_READING_THREADS = 8  # a file on a network drive waits for the drive, not for a core


@dataclass(frozen=True)
class Split:
    """One of the two halves of a data set: its files in order and their labels.

    The order mixes the classes and hangs on each file's own path alone: what looks at the first images (R, the probe
    of a training, an analysis) sees all classes, as it does in CIFAR-10, and so does a batch that cw20 ends early.
    """

    folder: Path
    files: tuple[str, ...]  # relative to the folder, with forward slashes
    labels: npt.NDArray[np.int64]
    passed_over: tuple[str, ...] = ()  # images whose names do not end like one's


def scan(root: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """List the classes and the files, opening none of them but those that are no images by their names.

    Hidden names (`.DS_Store`) and files whose suffix is not an image's (`README.txt`) are ignored, and counted where
    they are images all the same (`.jfif`, no suffix); whatever else does not fit the layout is refused rather than
    skipped.

    Args:
        root: The folder with `train/` and `test/`.

    Returns:
        The class names in sorted order, and the splits by name.

    Raises:
        DataError: A missing folder, an empty class, classes that differ between the splits, fewer than two classes,
            or images where none belong.
    """
    if not root.is_dir():
        raise DataError(f"expected data.root to be a folder with train/ and test/, got {str(root)!r}: no such folder")
    classes = {name: _classes(root / name) for name in SPLITS}
    if classes["train"] != classes["test"]:
        differing = sorted(set(classes["train"]) ^ set(classes["test"]))
        where = "train" if differing[0] in classes["train"] else "test"
        raise DataError(
            f"expected the same classes in train/ and test/ of {root}, got {differing[0]!r} in {where} only"
        )
    if len(classes["train"]) < 2:
        raise DataError(f"expected at least two class folders in {root / 'train'}, got {len(classes['train'])}")
    return classes["train"], {name: _split(root / name, classes[name]) for name in SPLITS}


def digest(split: Split, image_size: int) -> str:
    """What identifies a split's pixels: the sorted relative paths, the files' bytes, the size and the resize recipe.

    Args:
        split: From `scan`.
        image_size: Height and width in pixels that the images are resized to.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: A file cannot be read.
    """

    def hash_file(file: str) -> bytes:
        return hashlib.blake2b(images.read(split.folder / file), digest_size=16).digest()

    total = hashlib.blake2b(repr(("imagefolder", images.RECIPE, image_size)).encode(), digest_size=16)
    for file, content in zip(split.files, images.in_order(hash_file, split.files, _READING_THREADS), strict=True):
        name = file.encode(errors="surrogateescape")
        total.update(len(name).to_bytes(4, "big") + name + content)
    return total.hexdigest()


def load(split: Split, image_size: int) -> npt.NDArray[np.uint8]:
    """Decode and resize every image of a split.

    Args:
        split: From `scan`.
        image_size: Height and width in pixels.

    Returns:
        [N, 3, image_size, image_size] uint8, in the order of the split's files.

    Raises:
        DataError: A file is no image or a broken one; the message names the first such file.
    """
    pixels = np.empty((len(split.files), 3, image_size, image_size), dtype=np.uint8)

    def place(index: int) -> None:
        pixels[index] = images.decode(split.folder / split.files[index], image_size)

    paths = [split.folder / file for file in split.files[:: max(1, len(split.files) // 64)]]
    some = [path.stat().st_size for path in paths if path.exists()] or [0]  # a broken link is reported when decoded
    for _ in images.in_order(place, range(len(split.files)), images.decoding_threads(sum(some) / len(some))):
        pass
    return pixels


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in images.SUFFIXES


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(
            (entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError as error:
        raise DataError(f"expected a readable folder, got {folder}: {error.strerror or error}") from error


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"expected the folders train/ and test/ in {folder.parent}, got no {folder.name}/")
    names = []
    for entry in _entries(folder):
        if entry.is_dir():
            names.append(entry.name)
        elif _is_image(entry):
            raise DataError(f"expected every image inside a class folder of {folder}, got {entry}")
    return tuple(names)


def _split(folder: Path, classes: tuple[str, ...]) -> Split:
    found: list[tuple[str, int]] = []
    passed_over = [entry.name for entry in _entries(folder) if entry.is_file() and images.looks_like_image(entry)]
    for label, name in enumerate(classes):
        before = len(found)
        for entry in _entries(folder / name):
            if entry.is_dir():
                raise DataError(f"expected images and no folders in the class folder {folder / name}, got {entry}")
            if _is_image(entry):
                found.append((f"{name}/{entry.name}", label))
            elif images.looks_like_image(entry):
                passed_over.append(f"{name}/{entry.name}")
        if len(found) == before:
            ends = ", ".join(sorted(images.SUFFIXES))
            odd = f" whose name ends like an image's ({ends}): {passed_over[-1]} does not" if passed_over else ""
            raise DataError(f"expected images in every class folder, got none in {folder / name}{odd}")
    found.sort(key=lambda file: hashlib.blake2b(file[0].encode(errors="surrogateescape"), digest_size=8).digest())
    labels = np.asarray([label for _, label in found], dtype=np.int64)
    return Split(folder=folder, files=tuple(file for file, _ in found), labels=labels, passed_over=tuple(passed_over))
