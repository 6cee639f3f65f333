"""An application asked in this process, as a server would ask it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    app: Any,
    target: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    until: bytes | None = None,
    port: int = 8421,
) -> Answer:
    """One request.

    Args:
        app: An ASGI application.
        target: Path and query as they stand in the request.
        method: Of the request.
        headers: Beside a Host of this machine, which they may replace.
        until: The viewer goes away once this has come: of an answer that does not end by itself.
        port: Of the server.
    """
    path, _, query = target.partition("?")
    given = {"host": f"127.0.0.1:{port}", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", port),
    }  # fmt: skip
    answer = Answer()

    async def whole() -> None:
        enough = asyncio.Event()
        began = False

        async def receive() -> dict[str, Any]:
            nonlocal began
            if not began:
                began = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")
                if until is not None and until in answer.body:
                    enough.set()

        await asyncio.wait_for(app(scope, receive, send), 120)

    asyncio.run(whole())
    return answer
