from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ablate.attacks import __name__ as a_module_of_ablate
from ablate.core.errors import SpecError
from ablate.core.registry import Registry

Maker = Callable[[], int]


@pytest.fixture
def registry() -> Registry[Maker]:
    return Registry("thing.name")


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_what_is_registered_is_found_under_its_name_and_returned_unchanged(registry: Registry[Maker]) -> None:
    def one() -> int:
        return 1

    assert registry.register("one")(one) is one
    assert registry.get("one") is one
    assert registry.names() == ["one"]


def test_an_unknown_name_is_refused_with_the_field_and_the_nearest_name(registry: Registry[Maker]) -> None:
    registry.register("cutmix")(lambda: 1)
    for ask in (registry.get, registry.source_digest):
        with pytest.raises(SpecError, match=r"expected thing\.name .* got 'cutmx'; did you mean 'cutmix'\?"):
            ask("cutmx")


def test_a_name_is_given_once_but_the_same_function_may_come_again(registry: Registry[Maker]) -> None:
    def define() -> Maker:
        def same() -> int:
            return 1

        return same

    def other() -> int:
        return 2

    registry.register("name")(define())
    again = registry.register("name")(define())
    assert registry.get("name") is again
    with pytest.raises(SpecError, match=r"expected a new name for thing\.name, got 'name'"):
        registry.register("name")(other)


def test_users_code_has_the_digest_of_its_file_as_it_was_imported(
    registry: Registry[Maker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_things.py"
    file.write_text("def mine():\n    return 1\n")
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.delitem(sys.modules, "my_things", raising=False)
    registry.register("mine")(_module(file, "my_things").mine)
    file.write_text("def mine():\n    return 2\n")
    assert registry.source_digest("mine") == before
    registry.register("mine")(_module(file, "my_things").mine)
    assert registry.source_digest("mine") == hashlib.sha256(file.read_bytes()).hexdigest() != before


def test_what_ships_with_ablate_has_no_digest(registry: Registry[Maker]) -> None:
    def built_in() -> int:
        return 1

    built_in.__module__ = a_module_of_ablate
    registry.register("built-in")(built_in)
    assert registry.source_digest("built-in") is None


def test_code_without_a_source_is_refused(registry: Registry[Maker]) -> None:
    namespace: dict[str, Maker] = {}
    exec("def typed_in(): return 1", {"__name__": "nowhere"}, namespace)
    with pytest.raises(SpecError, match=r"nowhere\.typed_in"):
        registry.register("typed")(namespace["typed_in"])
