"""Bundles beside one another: what one has of another's trainings is that of the very file it was made beside."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from ablate.bundle.verification import open_bundle, verify
from ablate.storage.bundles import ABOUT, BundleFiles, write_bundle
from ablate.storage.checksums import sha256

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def beside() -> tuple[str, str, str]:
    """A bundle of the project, the one that it was made beside, and yet another."""
    for path in sorted(RESULTS.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            others = [*json.loads(archive.read(ABOUT))["elsewhere"]["bundles"]]
        if len(others) == 1:
            third = next(each.name for each in sorted(RESULTS.glob("*.zip")) if each.name not in (path.name, *others))
            return path.name, others[0], third
    raise AssertionError("no bundle of the project has another beside it")


def bundle(path: Path, files: dict[str, bytes], beside: dict[str, str] | None = None) -> Path:
    about = {"layout": 1, "reader": "0.2.0", "plan": "ab", "elsewhere": {"bundles": beside or {}}}
    stored = {f"storage/{name}": content for name, content in files.items()}
    write_bundle(path, {ABOUT: json.dumps(about).encode(), **stored}.items())
    return path


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes())


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """One, and the other that it was made beside."""
    other = bundle(tmp_path / "other.zip", {"a/both": b"theirs", "a/more": b"more", "plans/cd.json": b"{}"})
    own = bundle(tmp_path / "own.zip", {"a/both": b"own", "plans/ab.json": b"{}"}, {other.name: digest_of(other)})
    return own, other


def test_what_is_only_in_the_other_is_read_from_it(pair: tuple[Path, Path]) -> None:
    files = BundleFiles(pair[0])
    assert files.lacking == [] and files.list("a") == ["both", "more"]
    assert (files.read("a/both"), files.read("a/more"), files.size("a/more")) == (b"own", b"more", 4)
    assert files.list("plans") == ["ab.json"]  # of which it is, and no other
    alone = BundleFiles(pair[0], alone=True)
    assert alone.list("a") == ["both"] and alone.read("a/more") is None and alone.size("a/more") is None


@pytest.mark.parametrize("how", ["another", "gone"])
def test_nothing_is_read_of_another_one_of_its_name(pair: tuple[Path, Path], how: str) -> None:
    own, other = pair
    if how == "another":
        bundle(other, {"a/more": b"made since"})
    else:
        other.unlink()
    files = BundleFiles(own)
    [told] = files.lacking
    assert "other.zip" in told and told.endswith("got another" if how == "another" else "got none")
    assert files.list("a") == ["both"] and files.read("a/more") is None and files.size("a/more") is None


@pytest.mark.parametrize("how", ["whole", "another", "gone"])
def test_verify_tells_of_one_that_is_not_there_or_another(tmp_path: Path, how: str) -> None:
    own, other, third = beside()
    for name in (own, other)[: 1 if how == "gone" else 2]:
        shutil.copy(RESULTS / name, tmp_path)
    if how == "another":
        shutil.copy(RESULTS / third, tmp_path / other)
    differs = verify(open_bundle(tmp_path / own)).differs
    assert any(f"expected {'the ' if how == 'another' else ''}{other}" in line for line in differs) == (how != "whole")
    assert how != "whole" or not differs
