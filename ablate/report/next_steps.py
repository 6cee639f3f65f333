"""How a person gets from a terminal to MLflow's pages: commands, and addresses behind a server's own."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ablate.core.redaction import redact, without_login
from ablate.storage.bundles import bundles_in

DEFAULT_STORE = "mlflow.db"
"""What MLflow takes by itself in the folder where it is started."""


DEFAULT_STORAGE = "./storage"
"""Where results go, and are looked for, by themselves."""


def bundle_there(place: str) -> str:
    """What to say of a storage without plans, where it is a folder of bundles; else nothing."""
    found = bundles_in(Path(place))
    return f"; a bundle is read by its name: --storage {shlex.quote(str(found[0]))}" if found else ""


def show_step(out: Console, words: str, *commands: str | None) -> None:
    """Print what can be done next, and how, in lines that can be copied.

    Args:
        out: Where to.
        words: What it does.
        commands: Commands or addresses; none: the words say it.
    """
    out.print(Text(words, overflow="fold"))
    for command in commands:
        if command is not None:
            out.print(Text(f"  {command}", style="bold"), soft_wrap=True)


def show_pages(out: Console, uri: str, pages: Sequence[tuple[str, str]], *, apart: bool = False) -> None:
    """Print where MLflow shows runs, and where it compares them.

    Args:
        out: Where to.
        uri: The tracking URI.
        pages: Of each space the paths of both, as of `ablate.tracking.views`, the second empty
            where nothing can be compared; none: the UI alone is named.
        apart: Whether an empty line is printed first.
    """
    if apart:
        out.print()
    rows, compared = [runs for runs, _ in pages], [compare for _, compare in pages if compare]
    if is_server(uri):
        address = without_login(uri).rstrip("/")
        show_step(out, "To see every number:", *([f"{address}{path}" for path in rows] or [redact(uri)]))
        if compared:
            show_step(out, "To compare the rows:", *(f"{address}{path}" for path in compared))
        return
    show_step(out, "To see every number:", _command(uri))
    if pages:
        show_step(out, "and behind its address, as a table:", *rows)
    if compared:
        show_step(out, "or compared:", *compared)


def show_watching(out: Console, uri: str, pages: Sequence[tuple[str, str]]) -> None:
    """Print where a launch that begins can be watched, if a server runs.

    Args:
        out: Where to.
        uri: The tracking URI.
        pages: As of `show_pages`.
    """
    if is_server(uri) and pages:
        show_step(out, "To watch it in MLflow:", *(f"{without_login(uri).rstrip('/')}{rows}" for rows, _ in pages))


def show_live_page(out: Console, storage: str) -> None:
    """Print what shows a launch in a browser while it goes on."""
    where = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(redact(storage))}"
    show_step(out, "To watch it in a browser:", f"{own_python()} -m ablate.serve{where}")


def is_server(uri: str) -> bool:
    """Whether a browser reaches the store at its tracking URI."""
    return uri.startswith(("http://", "https://"))


def _command(uri: str) -> str:
    """What opens the MLflow UI where no server runs."""
    beside = shutil.which("mlflow")
    mlflow = "mlflow" if beside and Path(beside).parent == Path(sys.executable).parent else f"{own_python()} -m mlflow"
    if _is_default(uri):
        return f"{mlflow} ui"
    return f"{mlflow} ui --backend-store-uri {shlex.quote(redact(uri))}"


def _is_default(uri: str) -> bool:
    """Whether a plain `mlflow ui` in the working directory opens this store.

    It does not where the environment names another one, nor beside an old file store, which MLflow then prefers.
    """
    if os.environ.get("MLFLOW_BACKEND_STORE_URI") or any(Path("mlruns").glob("[0-9]*/meta.yaml")):
        return False
    return _is_default_store(uri)


def _is_default_store(uri: str) -> bool:
    return uri.startswith("sqlite:///") and Path.cwd() / uri.removeprefix("sqlite:///") == Path.cwd() / DEFAULT_STORE


def needs_no_uri(uri: str) -> bool:
    """Whether the report, started in the working directory, finds a store by itself."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return uri == given if given else _is_default_store(uri)


def own_python() -> str:
    """How this Python is called from the working directory."""
    folder, found, own = Path.cwd(), shutil.which("python"), Path(sys.executable)
    if found and Path(found).absolute() == own.with_name("python"):
        return "python"
    return shlex.quote(str(own.relative_to(folder) if own.is_relative_to(folder) else own))
