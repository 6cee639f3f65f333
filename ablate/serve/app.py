"""The live page as a web application: a page for each plan, the events that keep it so, and its figures."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import ablate.report
from ablate.core.text import now_ms
from ablate.serve import views
from ablate.serve.board import Board
from ablate.serve.shelf import Shelf

SEND_S = 0.2
"""Between two looks at a board for what a viewer has not been sent."""

STILL_S = 10.0
"""After so long without anything new a viewer is told that all is well; a dead connection is noticed by it too."""

_FILES = {
    "page.css": (Path(ablate.report.__file__).parent / "page.css", "text/css"),
    "live.css": (Path(__file__).parent / "files" / "live.css", "text/css"),
    "live.js": (Path(__file__).parent / "files" / "live.js", "text/javascript"),
}
"""Every file there is to be asked for; no address becomes a path."""


class Pages:
    """What is answered to whom.

    Args:
        shelf: The plans, and who follows them.
        ending: Whether the server is about to end, so that no stream keeps it.
    """

    def __init__(self, shelf: Shelf, ending: Callable[[], bool] = lambda: False) -> None:
        self._shelf = shelf
        self._ending = ending
        self._files = {name: (path.read_bytes(), kind) for name, (path, kind) in _FILES.items()}
        self._own = uuid.uuid4().hex[:8]  # versions of an earlier server mean nothing here

    def app(self) -> Starlette:
        """The application, unguarded."""
        app = Starlette(
            routes=[
                Route("/", self._newest),
                Route("/plan/{plan}", self._plan),
                Route("/events/{plan}", self._events),
                Route("/figures/{name}", self._figure),
                Route("/files/{name}", self._file),
            ],
            exception_handlers={404: lambda request, error: _nothing()},
        )
        app.router.redirect_slashes = False
        return app

    async def _newest(self, request: Request) -> Response:
        return await self._page(await run_in_threadpool(self._shelf.newest))

    async def _plan(self, request: Request) -> Response:
        plan = request.path_params["plan"]
        return await self._page(plan) if await run_in_threadpool(self._shelf.has, plan) else _nothing()

    async def _page(self, plan: str | None) -> Response:
        title, several = await run_in_threadpool(self._shelf.title, plan)
        html = views.shell(
            title=title, several=several, where=f"Storage {self._shelf.where}" + (f", plan {plan}." if plan else "."),
            events=f"/events/{plan or self._shelf.NONE}", now_ms=now_ms(),
        )  # fmt: skip
        return HTMLResponse(html)

    async def _events(self, request: Request) -> Response:
        board = await run_in_threadpool(self._shelf.board, request.path_params["plan"])
        if board is None:
            return _nothing()
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        own, _, version = request.headers.get("last-event-id", "").partition("-")
        seen = int(version) if own == self._own and version.isdecimal() else 0
        stream = self._stream(request, request.path_params["plan"], board, seen, fresh=not own or own == self._own)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _stream(
        self, request: Request, plan: str, board: Board, version: int, *, fresh: bool
    ) -> AsyncIterator[str]:
        if not fresh:  # of a server that has been started anew: what the page shows may be gone
            yield _event("reload", "")
            return
        last = time.monotonic()
        yield "retry: 1000\n\n"
        while not self._ending() and not await request.is_disconnected():
            if not await run_in_threadpool(self._shelf.touch, plan, board):
                yield _event("reload", "")
                return
            if board.version > version:
                version, changes = board.since(version)
                yield _event("pieces", json.dumps(changes), f"{self._own}-{version}")
                last = time.monotonic()
            elif time.monotonic() - last > STILL_S:
                yield _event("still", "")
                last = time.monotonic()
            await asyncio.sleep(SEND_S)

    async def _figure(self, request: Request) -> Response:
        content = self._shelf.picture(request.path_params["name"])
        if content is None:
            return _nothing()
        # The name is its content's, so it never changes.
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        return _nothing() if found is None else Response(found[0], media_type=found[1])


def _event(name: str, data: str, number: str = "") -> str:
    return (f"id: {number}\n" if number else "") + f"event: {name}\ndata: {data}\n\n"


def _nothing() -> Response:
    return PlainTextResponse("expected an address that the page links to, got another\n", 404)
