"""Pixels: decoding a file to 8-bit RGB, resizing, and a thread pool that keeps order and stops at the first error."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ablate.core.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif"})
"""What a file's name has to end with (in any case) to be taken for an image."""

RECIPE = "rgb8,bilinear-antialiased,1"
"""Names how files become pixels; part of the digests, so that mending it makes new keys."""

_PIECE = 64
_THUMBNAIL_BYTES = 16_384

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Map over a thread pool; the error of the first failing item is raised, whatever the threads' timing.

    Args:
        function: Must be safe to call from several threads.
        items: What to call it with.
        threads: How many; with one everything happens in the calling thread.

    Yields:
        The results in the order of the items.
    """
    if threads == 1:
        yield from map(function, items)
        return
    # One future for each small file costs more than reading it.
    pieces = [items[start : start + _PIECE] for start in range(0, len(items), _PIECE)]
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        for results in pool.map(lambda piece: [function(item) for item in piece], pieces):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def decoding_threads(bytes_each: float) -> int:
    """How many threads decode files of this size fastest.

    Args:
        bytes_each: Mean size of a file.

    Returns:
        One for thumbnails, whose time goes into Python itself (two threads take turns there and are slower than one);
        one for each core for larger files, whose time goes into codecs.
    """
    return 1 if bytes_each < _THUMBNAIL_BYTES else os.cpu_count() or 1


def read(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: The file cannot be read; the message names it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"expected a readable image, got {path}: {error.strerror or error}") from error


def decode(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """One image file as 8-bit RGB of the wanted size; pixels as stored (EXIF rotation is not applied).

    Grayscale, palette, bilevel and CMYK are converted, 16-bit grayscale is scaled by 255 / 65535, transparency is
    dropped, and of several frames the first is taken. Other aspect ratios are stretched to the square.

    Args:
        path: The file.
        size: Height and width in pixels.

    Returns:
        [3, size, size] uint8.

    Raises:
        DataError: No image, a truncated one, or pixels of a kind that has no range; the message names the file.
    """
    raw = read(path)
    try:
        with Image.open(io.BytesIO(raw)) as opened:
            opened.load()
            pixels = _resized(_to_rgb(opened), size)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on broken files
        reason = "no image in it" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"expected a whole image, got {path}: {reason}") from error
    return pixels.transpose(2, 0, 1)


def looks_like_image(path: Path) -> bool:
    """Whether a file begins as an image does, whatever its name; nothing of it is decoded."""
    try:
        with Image.open(path):
            return True
    except MemoryError:
        raise
    except Exception:  # decoders raise anything on files that are none of theirs
        return False


def resize(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize a stack of images, bilinear, antialiased when shrinking.

    Args:
        images: [N, 3, H, W] uint8.
        size: Height and width in pixels.

    Returns:
        [N, 3, size, size] uint8; the images themselves where they have that size already.
    """
    if images.shape[2:] == (size, size):
        return images
    resized = np.empty((len(images), 3, size, size), dtype=np.uint8)

    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        resized[index] = _resized(picture, size).transpose(2, 0, 1)
    return resized


def _resized(picture: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    if picture.size != (size, size):
        # PIL's bilinear filter widens its support when shrinking: that is the antialiasing.
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.uint8)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("expected 8 or 16 bits per channel, got 32-bit floats, which have no range")
    if picture.mode.startswith("I"):
        # PIL's own conversion clips at 255 and leaves 16-bit images almost white.
        values: npt.NDArray[Any] = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("expected 8 or 16 bits per channel, got 32-bit integers, which have no range")
        picture = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    return picture.convert("RGB")
