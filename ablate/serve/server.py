"""The live page's server: uvicorn on a socket that listens already."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from ablate.serve.app import Pages
from ablate.serve.follower import LOOK_S
from ablate.serve.guard import TOKEN, Guard, is_loopback, own_names
from ablate.serve.shelf import Shelf
from ablate.storage.storage import Storage

_END_S = 2  # open streams end by themselves within


def link_of(host: str, port: int, token: str | None) -> str:
    """What a browser opens.

    Args:
        host: As of `--host`.
        port: That was taken.
        token: That the link carries; none on loopback.
    """
    if host in ("0.0.0.0", "::", ""):  # every address of this machine: it has a name
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")


class LiveServer:
    """Serves a storage until it is told to end.

    Args:
        storage: Which.
        host: As of `--host`.
        token: That is asked for; none on loopback.
        look_s: Between two looks at storage.
        figures: Whether the report's figures are drawn.
    """

    def __init__(
        self, storage: Storage, host: str, token: str | None, look_s: float = LOOK_S, *, figures: bool = True
    ) -> None:
        assert token is not None or is_loopback(host)
        self.shelf = Shelf(storage, look_s, figures=figures)
        pages = Pages(self.shelf, lambda: self._server.should_exit)
        self.app: ASGIApp = Guard(pages.app(), own_names(host), token)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
                timeout_graceful_shutdown=_END_S, proxy_headers=False,
            )
        )  # fmt: skip

    def run(self, listening: socket.socket) -> None:
        """Serve on a socket, until `end` or Ctrl-C."""
        try:
            self._server.run(sockets=[listening])
        finally:
            self.shelf.close()

    def end(self) -> None:
        """Serve no more."""
        self._server.should_exit = True
