"""What a page shows, in pieces: each viewer is sent those that changed since it looked last."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Piece:
    """An element of the page.

    Attributes:
        id: Its id in the document.
        parent: The id of the element that it stands in.
        order: Its place among that one's children.
        html: Itself, everything in it escaped.
        svg: Whether it is a part of a drawing.
    """

    id: str
    parent: str
    order: int
    html: str
    svg: bool = False


@dataclass(frozen=True)
class Attributes:
    """Attributes of an element that is there already.

    Attributes:
        id: Its id.
        values: Name -> value.
    """

    id: str
    values: dict[str, str]


class Board:
    """The pieces of one page, written by who follows a plan and read by its viewers, each at a pace of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: dict[str, tuple[int, Piece | Attributes]] = {}
        self._gone: dict[str, int] = {}
        self.version = 0

    def put(self, *pieces: Piece | Attributes) -> None:
        """Show pieces, or what became of them; one that is the same as before is sent to nobody."""
        with self._lock:
            for piece in pieces:
                name = _name(piece)
                if name in self._pieces and self._pieces[name][1] == piece:
                    continue
                self.version += 1
                self._gone.pop(name, None)
                self._pieces[name] = (self.version, piece)

    def drop(self, *ids: str) -> None:
        """Show pieces no more."""
        with self._lock:
            for name in ids:
                if self._pieces.pop(name, None) is not None:
                    self.version += 1
                    self._gone[name] = self.version

    def has(self, piece: str) -> bool:
        """Whether a piece is shown."""
        with self._lock:
            return piece in self._pieces

    def since(self, version: int) -> tuple[int, list[dict[str, Any]]]:
        """What changed.

        Args:
            version: As of the last call; 0 at first.

        Returns:
            The version now, and what a viewer does to be there: parents stand before what is in them.
        """
        with self._lock:
            news: list[dict[str, Any]] = [{"id": name, "gone": True} for name, at in self._gone.items() if at > version]
            for at, piece in self._pieces.values():
                if at > version:
                    news.append({"id": piece.id, "set": piece.values} if isinstance(piece, Attributes) else vars(piece))
            return self.version, news


def _name(piece: Piece | Attributes) -> str:
    return f"{piece.id} attributes" if isinstance(piece, Attributes) else piece.id
