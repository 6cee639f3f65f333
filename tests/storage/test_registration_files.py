"""Registrations in a folder: the first writer's stands, and one whose content is not what its digest says is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.core.digest import digest
from ablate.storage.checksums import seal
from ablate.storage.files import LocalFiles
from ablate.storage.registrations import Registration, path_of, read_all, write_first


def made(number: int, registered_ms: int) -> Registration:
    content = {"claims": [], "rows": {"a": number}}
    return Registration(layout=1, digest=digest(content), space="tiny", registered_ms=registered_ms, content=content)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "storage")


def test_the_earliest_comes_first_and_the_first_writer_keeps_its_time(files: LocalFiles) -> None:
    for number, registered_ms in ((0, 30), (1, 10), (2, 20), (1, 5)):
        write_first(files, made(number, registered_ms))
    found, damaged = read_all(files)
    assert [(each.content["rows"]["a"], each.registered_ms) for each in found] == [(1, 10), (2, 20), (0, 30)]
    assert damaged == {}


@pytest.mark.parametrize(
    "change",
    [
        {"content": {"claims": [], "rows": {"a": 7}}},
        {"digest": "ab" * 10},
        {"layout": 2},
        {"registered_ms": "long ago"},
    ],
)
def test_one_that_was_edited_is_none_though_its_checksum_was_made_anew(
    files: LocalFiles, change: dict[str, Any]
) -> None:
    first = made(0, 10)
    files.write(path_of(first.digest), json.dumps(seal({**first.model_dump(), **change})).encode())
    found, damaged = read_all(files)
    assert found == [] and damaged.keys() == {first.digest}
