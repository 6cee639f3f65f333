"""Names for things that a user's own module may add to: networks, augmentations, attacks, analyses."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from ablate.core.errors import SpecError, nearest
from ablate.core.metric_names import refused

T = TypeVar("T")
_TABLES: list[dict[str, Any]] = []


def table(entries: dict[str, T]) -> dict[str, T]:
    """Have `temporary_registrations` put a table of names back; returns the table itself."""
    _TABLES.append(entries)
    return entries


@contextlib.contextmanager
def temporary_registrations() -> Iterator[None]:
    """Forget at the end what was registered meanwhile."""
    kept = [(entries, dict(entries)) for entries in _TABLES]
    try:
        yield
    finally:
        for entries, before in kept:
            entries.clear()
            entries.update(before)


class Registry(Generic[T]):
    """Functions or classes by name, in the order in which they were registered.

    Args:
        field: The setting that holds such a name, for messages, e.g. `model.arch`.
        metrics: Whether names become those of metrics, so that MLflow must take them.
        in_keys: Whether keys tell one version of a user's code from another.
    """

    def __init__(self, field: str, *, metrics: bool = False, in_keys: bool = True) -> None:
        self.field = field
        self._metrics = metrics
        self._in_keys = in_keys
        self._entries: dict[str, T] = table({})
        self._digests: dict[str, str | None] = table({})

    def register(self, name: str) -> Callable[[T], T]:
        """The decorator that registers what it decorates, and returns it unchanged.

        Args:
            name: What space files call it.

        Raises:
            SpecError: The name belongs to another function already. The same one again (a module that is imported
                twice, as notebooks and worker processes do) takes the place of the first. Or it is no metric's, where
                it should be.
        """
        self.check_name(name)

        def decorate(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise SpecError(f"expected a new name for {self.field}, got {name!r}, registered by {_origin(known)}")
            self._digests[name] = _source_digest(self.field, name, entry) if self._in_keys else None
            self._entries[name] = entry
            return entry

        return decorate

    def check_name(self, name: str) -> None:
        """Refuse a name that MLflow takes for no metric, where it becomes one's.

        Raises:
            SpecError: It is such a name.
        """
        problem = refused(name) if self._metrics else None
        if problem is not None:
            raise SpecError(f"{self.field}: {problem}")

    def get(self, name: str) -> T:
        """What was registered under a name.

        Raises:
            SpecError: Nothing was.
        """
        self._require(name)
        return self._entries[name]

    def names(self) -> list[str]:
        """The registered names."""
        return list(self._entries)

    def source_digest(self, name: str) -> str | None:
        """What tells one version of a user's code from another, for keys that live long.

        Returns:
            None for what ships with ablate (recipe versions cover it); else the SHA-256 of the file that defines it,
            as it was when it was registered. Files which that file imports are not covered.

        Raises:
            SpecError: Nothing is registered under the name.
        """
        self._require(name)
        return self._digests[name]

    def _require(self, name: str) -> None:
        if name not in self._entries:
            raise SpecError(
                f"expected {self.field} to be a registered name, got {name!r}; {nearest(name, self.names())}"
            )


def _definition(entry: Any) -> Any:
    while isinstance(entry, functools.partial):
        entry = entry.func
    return inspect.unwrap(entry)


def _origin(entry: Any) -> str:
    definition = _definition(entry)
    return f"{definition.__module__}.{getattr(definition, '__qualname__', type(definition).__qualname__)}"


def _source_digest(field: str, name: str, entry: Any) -> str | None:
    definition = _definition(entry)
    module: str = definition.__module__
    if module == "ablate" or module.startswith("ablate."):
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None and Path(file).is_file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    try:
        # A notebook's cell has no file, but Python keeps its text.
        return hashlib.sha256(inspect.getsource(definition).encode()).hexdigest()
    except (OSError, TypeError):
        raise SpecError(
            f"expected {field} {name!r} to be defined in a file, got {_origin(entry)} without one"
        ) from None
