"""Data sets that torchvision downloads: what is known before, and how their files are read."""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision

from ablate.core.errors import DataError
from ablate.learning.data import describe, load
from ablate.learning.downloads import PUBLISHED
from ablate.spaces.specs import DataSpec

# CIFAR-10


def test_planning_cifar10_needs_neither_files_nor_network(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    summary = describe(DataSpec(), missing)
    assert not missing.exists()
    assert (summary.label, summary.train_count, summary.test_count, summary.classes) == ("CIFAR-10", 50000, 10000, 10)
    other = describe(DataSpec(image_size=16), missing)
    assert len({summary.train_digest, summary.test_digest, other.train_digest, other.test_digest}) == 4


@contextlib.contextmanager
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def test_cifar10_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = socket.getdefaulttimeout()
    wanted = f"expected CIFAR-10 in {tmp_path} or a network to download it, got: .*no route"
    with no_network(monkeypatch), pytest.raises(DataError, match=wanted):
        load(DataSpec(), tmp_path)
    assert socket.getdefaulttimeout() == before
    assert not list(tmp_path.iterdir())


class FakeCifar10:
    """Stands for torchvision's class: present if its folder is, downloads one by making it."""

    base_folder = "cifar-10-batches-py"
    filename = "cifar-10-python.tar.gz"
    downloads = 0

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        folder = Path(root) / self.base_folder
        if download:
            FakeCifar10.downloads += 1
            folder.mkdir()
            (folder / "data").write_text("whole")
        if not (folder / "data").is_file() or (folder / "data").read_text() != "whole":
            raise RuntimeError("Dataset not found or corrupted")
        count = 6 if train else 2
        self.data = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
        self.targets = [index % 10 for index in range(count)]
        self.classes = [f"class {index}" for index in range(10)]


@pytest.fixture
def fake_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCifar10.downloads = 0
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCifar10)


@pytest.mark.usefixtures("fake_cifar10")
def test_cifar10_is_downloaded_once_and_mended(tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    dataset = load(DataSpec(), root)
    assert dataset.train_images.shape == (6, 3, 32, 32) and dataset.test_labels.tolist() == [0, 1]
    assert load(DataSpec(image_size=16), root).train_images.shape == (6, 3, 16, 16)
    assert FakeCifar10.downloads == 1
    (root / FakeCifar10.base_folder / "data").write_text("half")
    load(DataSpec(), root)
    assert FakeCifar10.downloads == 2
    assert [path.name for path in root.iterdir()] == [FakeCifar10.base_folder]


# CIFAR-100 and SVHN


@pytest.mark.parametrize(
    ("name", "label", "counts", "classes"),
    [("cifar100", "CIFAR-100", (50000, 10000), 100), ("svhn", "SVHN", (73257, 26032), 10)],
)
def test_planning_them_needs_neither_files_nor_network(
    name: str, label: str, counts: tuple[int, int], classes: int, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    summary = describe(DataSpec(name=name), missing)
    assert not missing.exists()
    assert (summary.label, summary.classes) == (label, classes)
    assert (summary.train_count, summary.test_count) == counts
    digests = [describe(DataSpec(name=other), missing) for other in ("cifar10", "cifar100", "svhn")]
    assert len({digest for each in digests for digest in (each.train_digest, each.test_digest)}) == 6
    assert summary.train_digest != describe(DataSpec(name=name, image_size=16), missing).train_digest


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_what_is_known_of_them_is_what_torchvision_checks(name: str) -> None:
    published = PUBLISHED[name]
    reader = getattr(torchvision.datasets, published.reader)
    if name == "svhn":
        assert {split: reader.split_list[split][2] for split in ("train", "test")} == published.md5
        assert tuple(reader.split_list[split][1] for split in ("train", "test")) == published.archives
    else:
        assert set(published.md5.values()) == {reader.tgz_md5}
        assert (published.folder, published.archives) == (reader.base_folder, (reader.filename,))


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of its layout, whose checksums torchvision is told."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    for file, count in (("train", 6), ("test", 2)):
        content = {"data": pixels[:count], "fine_labels": [99, 3, 5, 7, 9, 11][:count], "coarse_labels": [0] * count}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {number}" for number in range(100)]}))
    wanted = "expected CIFAR-100 in .* or a network to download it"
    with no_network(monkeypatch), pytest.raises(DataError, match=wanted):
        load(DataSpec(name="cifar100"), tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    dataset = load(DataSpec(name="cifar100"), tmp_path)
    assert len(dataset.classes) == 100 and dataset.train_labels.tolist() == [99, 3, 5, 7, 9, 11]
    np.testing.assert_array_equal(dataset.train_images, pixels.reshape(6, 3, 32, 32))
    assert dataset.label == "CIFAR-100" and dataset.test_images.shape == (2, 3, 32, 32)


def test_svhn_is_read_with_zero_as_the_first_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of its layout, brought by hand, whose checksums torchvision is told."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    for file, count in (("train_32x32.mat", 4), ("test_32x32.mat", 2)):
        scipy.io.savemat(tmp_path / file, {"X": pixels[..., :count], "y": np.array([[10], [1], [9], [10]])[:count]})
    for module in ("svhn", "utils"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *args: True)
    dataset = load(DataSpec(name="svhn"), tmp_path)
    assert dataset.train_labels.tolist() == [0, 1, 9, 0] and len(dataset.classes) == 10
    np.testing.assert_array_equal(dataset.train_images, pixels.transpose(3, 2, 0, 1))
    assert (tmp_path / "svhn" / "train_32x32.mat").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    (tmp_path / "train_32x32.mat").unlink()
    assert load(DataSpec(name="svhn", image_size=16), tmp_path).test_images.shape == (2, 3, 16, 16)
