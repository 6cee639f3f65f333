"""Who may ask the live page for what: own names of this machine, GET and HEAD, the printed link's token elsewhere."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "ablate-token"
TOKEN = "token"
"""The query's name of it in the printed link."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer. No other site's page may read, frame or script this one."""


def is_loopback(host: str) -> bool:
    """Whether a name or address is reached from this machine alone.

    Args:
        host: As of `--host`.

    Returns:
        False for a name that is nobody's.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def own_names(host: str) -> frozenset[str]:
    """What a browser may call a server that listens on a host: never a name that somebody else can point at us."""
    names = {"localhost", "127.0.0.1", "::1", host.casefold()}
    if not is_loopback(host):
        names |= {socket.gethostname().casefold(), socket.getfqdn().casefold()}
    return frozenset(names)


class Guard:
    """Lets through what may be asked, and gives every answer its headers.

    Args:
        app: What answers.
        names: Whom a browser may take us for, as of `own_names`.
        token: What the printed link carries; none: on loopback, where it needs none.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], token: str | None = None) -> None:
        self._app = app
        self._names = names
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if not self._is_ours(request.headers):
            told = "expected one of this machine's own names or addresses as Host; start with --host NAME"
            return PlainTextResponse(f"{told}\n", 421)
        if request.method not in ("GET", "HEAD"):
            told = f"expected GET or HEAD, as this page only reads, got {request.method}"
            return PlainTextResponse(f"{told}\n", 405, {"Allow": "GET, HEAD"})
        if self._token is None:
            return None
        given = request.query_params.get(TOKEN)
        if given is not None and _equal(given, self._token):
            return self._let_in(request)
        if _equal(request.cookies.get(self._cookie(request), ""), self._token):
            return None
        return PlainTextResponse("expected the link that python -m ablate.serve printed, with its token\n", 403)

    def _is_ours(self, headers: Headers) -> bool:
        """Whether Host is a name of ours, or off loopback any address: what no foreign name can lead here by."""
        given = headers.getlist("host")
        if len(given) != 1:
            return False
        name = given[0].casefold()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._names:
            return True
        try:
            return self._token is not None and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _let_in(self, request: Request) -> Response:
        """The same page under an address without the token, which is kept as a cookie: addresses are shown and sent."""
        rest = urlencode([each for each in parse_qsl(request.url.query) if each[0] != TOKEN])
        path = "/" + quote(request.url.path).lstrip("/")  # one slash: two would name another machine
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        assert self._token is not None
        answer.set_cookie(
            self._cookie(request), self._token, httponly=True, samesite="lax"
        )  # a strict one is not sent on from a mail's link
        return answer

    @staticmethod
    def _cookie(request: Request) -> str:
        """By port: a browser sends every server of a machine all of its cookies."""
        return f"{COOKIE}-{(request.scope.get('server') or ('', 0))[1]}"


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())
