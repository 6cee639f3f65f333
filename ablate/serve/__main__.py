"""python -m ablate.serve: a storage's plans live in a browser; it only reads."""

from __future__ import annotations

import errno
import secrets
import socket
import sys
from typing import Annotated

import typer
from rich.text import Text

from ablate.core.errors import SpecError, UserError
from ablate.core.redaction import redact
from ablate.core.text import open_closed_streams, open_console, printable
from ablate.core.user_code import import_modules
from ablate.report.next_steps import DEFAULT_STORAGE

PORT = 8421

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    storage: Annotated[str, typer.Option(metavar="PLACE", help="A folder or bucket.")] = DEFAULT_STORAGE,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen at; off this machine the printed link's token is needed."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port to listen at; 0: any free one.")] = PORT,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Draw the report's figures as rows end, a core for seconds.")
    ] = True,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Your own module with figures; may repeat.")
    ] = None,
) -> None:
    """Show a storage's plans live in a browser: what runs, waits and failed, curves, tables and verdicts."""
    open_closed_streams()
    console = open_console()
    try:
        from ablate.serve.guard import is_loopback
        from ablate.serve.server import LiveServer, link_of  # brings what draws figures, which -h does without
        from ablate.storage.storage import Storage

        import_modules(imports or [])
        opened = Storage(storage)
        listening = listen(host, port)
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        where = printable(redact(opened.location))
        console.print(Text(f"The plans of {where}, live, until Ctrl-C:", overflow="fold"))
        console.print(Text(f"  {link_of(host, listening.getsockname()[1], token)}", style="bold"), soft_wrap=True)
        LiveServer(opened, host, token, figures=figures).run(listening)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: A name or address of this machine.
        port: Its port; 0: any free one.

    Raises:
        SpecError: The port is another program's, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise SpecError(f"--port: expected a number from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            told = f"--port: expected a free port of {host}, got {port}, where another program listens; 0 takes any"
        elif error.errno == errno.EACCES:
            told = f"--port: expected a port that may be listened at, got {port}; those from 1024 on are free to all"
        else:
            told = f"--host: expected a name or address of this machine, got {host!r} ({error.strerror or error})"
        raise SpecError(told) from error


if __name__ == "__main__":
    app()
