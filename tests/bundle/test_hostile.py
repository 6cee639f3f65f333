"""Bundles of people who mean ill, or that were damaged: refused by name, in one line, before anything is used."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablate.core.errors import StorageError
from ablate.storage.bundles import ABOUT, CHECKSUMS, SMALL, BundleFiles, write_bundle
from ablate.storage.checksums import sha256
from ablate.storage.records import MOST_BYTES, arrays_in
from ablate.storage.storage import Storage
from tests.bundle.support import run, sums

ABOUT_IT = json.dumps({"layout": 1, "reader": "0.2.0", "plan": "ab"}).encode()
GOOD = {ABOUT: ABOUT_IT, "storage/plans/ab.json": b"{}"}


def written(path: Path, files: dict[str, bytes], listed: dict[str, bytes] | None = None) -> zipfile.ZipFile:
    """A zip file with checksums; left open, for more to be put into it."""
    made = zipfile.ZipFile(path, "w")
    for name, content in {**files, CHECKSUMS: sums(files if listed is None else listed)}.items():
        made.writestr(name, content)
    return made


def named(name: str, content: bytes = b"x", **how: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        info = zipfile.ZipInfo(name)
        for attribute, value in how.items():
            setattr(info, attribute, value)
        with written(path, GOOD, {**GOOD, name: content}) as made:
            made.writestr(info, content)

    return make


def patched(place: int, value: bytes) -> Callable[[Path], None]:
    """What a bundle's index says of its last file, changed."""

    def make(path: Path) -> None:
        written(path, GOOD).close()
        content = path.read_bytes()
        begin = content.rindex(b"PK\x01\x02") + place
        path.write_bytes(content[:begin] + value + content[begin + len(value) :])

    return make


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), written(path, GOOD) as made:
        made.writestr(ABOUT, ABOUT_IT)


def listed_otherwise(files: dict[str, bytes], listed: dict[str, bytes]) -> Callable[[Path], None]:
    return lambda path: written(path, files, listed).close()


def without_checksums(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(ABOUT, ABOUT_IT)


def about(content: bytes) -> Callable[[Path], None]:
    return lambda path: written(path, {**GOOD, ABOUT: content}).close()


LINK, DEVICE = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFCHR | 0o777) << 16

HOSTILE = {
    "above": (named("storage/../../evil"), r"paths inside it.*\.\./evil"),
    "absolute": (named("/etc/passwd"), "paths inside it.*/etc/passwd"),
    "backslash": (named("storage\\..\\evil"), "paths inside it"),
    "drive": (named("C:evil"), "paths inside it"),
    "terminal": (named("storage/\x1b[2J"), "paths inside it"),
    "link": (named("storage/link", external_attr=LINK, create_system=3), "the link 'storage/link'"),
    "device": (named("storage/dev", external_attr=DEVICE, create_system=3), "which is none"),
    "bomb": (patched(24, (SMALL + 1).to_bytes(4, "little")), "a zip bomb"),
    "twice": (twice, "each path once.*twice"),
    "encrypted": (patched(8, b"\x01\x00"), "the encrypted"),
    "compression": (patched(10, b"\x63\x00"), "stored or deflated.*compression 99"),
    "overlap": (patched(20, b"\xff\xff\x00\x00"), "they overlap"),
    "checksum": (listed_otherwise(GOOD, {**GOOD, "storage/plans/ab.json": b"[]"}), "changed or damaged"),
    "unlisted": (listed_otherwise({**GOOD, "storage/x": b"x"}, GOOD), "only files that .* names, got 'storage/x'"),
    "lacking": (listed_otherwise(GOOD, {**GOOD, "storage/x": b"x"}), "expected the file 'storage/x'.* got none"),
    "no checksums": (without_checksums, "expected checksums"),
    "newer": (about(b'{"layout": 2, "reader": "0.9.1"}'), "layout 1, got 2, which wants ablate 0.9.1"),
    "newer in words": (about(b'{"layout": 2, "reader": "; rm"}'), "which wants a newer ablate"),
    "no layout": (about(b"[]"), "a whole bundle.json"),
    "deep": (about(b"[" * 100_000), "a whole bundle.json"),
    "no zip": (lambda path: path.write_bytes(b"PK no"), "a zip file"),
    "no bundle": (lambda path: zipfile.ZipFile(path, "w").close(), "a bundle with bundle.json"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_bundle_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, told = HOSTILE[kind]
    path = tmp_path / "hostile.zip"
    make(path)
    with pytest.raises(StorageError, match=rf"hostile\.zip: expected .*{told}|hostile\.zip: {told}"):
        BundleFiles(path).read("plans/ab.json")
    code, output = run("verify", path)
    assert code == 2 and "hostile.zip" in output and "Traceback" not in output
    assert [each.name for each in tmp_path.iterdir()] == ["hostile.zip"]


@pytest.mark.parametrize("given", ["there is none.zip", "."])
def test_what_is_no_file_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("verify", given)
    assert code == 2 and "expected" in output


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled() -> None:
    with pytest.raises(StorageError, match=r"expected an array of numbers, got 'head\.npy' of object"):
        arrays_in(npz(head=np.array([Evil()], dtype=object)))


def test_an_array_that_says_it_is_larger_than_it_is_gets_no_memory() -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("head.npy", stream.getvalue())
    with pytest.raises(StorageError, match="expected an array of numbers"):
        arrays_in(packed.getvalue())


def test_a_record_that_is_a_bomb_is_not_unpacked() -> None:
    content = bytearray(npz(head=np.zeros(8, np.uint8)))
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = (MOST_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(StorageError, match="a zip bomb"):
        arrays_in(bytes(content))


@pytest.mark.parametrize("content", [b"", b"PK", npz(other=np.zeros(3))])
def test_what_is_no_record_is_said_so(content: bytes, tmp_path: Path) -> None:
    attempt = "0001-" + "ab" * 4
    manifest = {"layout": 1, "sequence": 1, "epoch": 1, "finished": True, "checkpoints": [], "histories": [],
                "records": {"cd" * 10: ["record.npz", sha256(content)]}, "failure": None}  # fmt: skip
    body = json.dumps(manifest)
    base = f"storage/{'ab' * 10}/attempts/{attempt}"
    sealed = json.dumps({"sha256": sha256(body.encode()), "body": body}).encode()
    path = tmp_path / "b.zip"
    write_bundle(path, {**GOOD, f"{base}/record.npz": content, f"{base}/manifest-000001.json": sealed}.items())
    storage = Storage(str(path))
    with pytest.raises(StorageError, match="expected"):
        storage.record(storage.view("ab" * 10), "cd" * 10)
