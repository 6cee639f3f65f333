"""An MLflow store's address: how it is understood, and how patient and how quiet MLflow is with it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ablate.core.errors import TrackingError
from ablate.core.places import local_path
from ablate.core.redaction import redact

DEFAULT_URI = "sqlite:///mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BEGUN = re.compile(r"((?:sqlite|postgresql|mysql|mssql)(?:\+\w+)?|https?)(?::/?/?|//)(?!/*\Z)")
PROBING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
WORKING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_QUIET = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def resolve(uri: str | None) -> str:
    """The tracking URI in force, with a database file's path made absolute.

    Args:
        uri: As given; none: `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db` in the working directory.

    Raises:
        TrackingError: Its scheme is none that MLflow keeps runs at, or it is half an address.
        SpecError: Its path is in the home folder of nobody.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    scheme = urlsplit(uri).scheme.split("+")[0] if "://" in uri else ""
    if scheme == "sqlite":
        path, mark, options = uri.partition("://")[2].removeprefix("/").partition("?")
        if not path or path == ":memory:":
            raise TrackingError(f"--tracking-uri: expected sqlite:///<file>, got {redact(uri)!r} without a file")
        literal = local_path(path + mark + options, "--tracking-uri")
        if mark and literal.parent.is_dir() and literal.parent != local_path(path, "--tracking-uri").parent:
            path, mark, options = str(literal), "", ""  # a folder that is named so
        named = local_path(path, "--tracking-uri").absolute()
        if not named.parent.is_dir():
            named = local_path(file_of(f"sqlite:///{path}"), "--tracking-uri").absolute()
        return f"{sqlite_uri(named, uri.partition('://')[0])}{mark}{options}"
    if scheme in ("http", "https"):
        if not urlsplit(uri).hostname:
            raise TrackingError(f"--tracking-uri: expected http://<host>:<port>, got {redact(uri)!r}")
        return uri.rstrip("/")
    if scheme in _DATABASES and uri.partition("://")[2].strip("/"):
        return uri
    begun = _BEGUN.match(uri)
    hint = ""
    if begun is not None:
        slashes = "///" if begun[1].startswith("sqlite") else "//"
        hint = f"; did you mean {redact(begun[1] + ':' + slashes + uri[begun.end() :])!r}?"
    elif uri.endswith(".db") and not scheme:
        hint = f"; did you mean 'sqlite:///{uri}'?"
    raise TrackingError(
        f"--tracking-uri: expected sqlite:///<file>, http(s)://<host>:<port> or a database's URI, got {redact(uri)!r}"
        + hint
    )


def sqlite_uri(file: Path, scheme: str = "sqlite") -> str:
    """The URI of a database file.

    Args:
        file: Its absolute path, whatever characters are in it.
        scheme: `sqlite`, or with a driver.

    Returns:
        As the installed SQLAlchemy understands it: only newer ones take `%` for the beginning of an escape.
    """
    plain = f"{scheme}:///{file}"
    if file_of(plain) == str(file):
        return plain
    # With the driver's name, or MLflow makes a folder that is named as the URI is written.
    return f"sqlite+pysqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def file_of(uri: str) -> str:
    """The path in a database file's URI, as the installed SQLAlchemy understands it."""
    path = uri.partition(":///")[2]
    if "%" not in path and "?" not in path:
        return path
    from sqlalchemy.engine import make_url

    return make_url(uri).database or ""


def artifact_address(folder: Path) -> str:
    """How MLflow writes a local folder of artifacts: a path in which `%` is escaped."""
    return str(folder).replace("%", "%25")


def artifact_folder(address: str) -> Path | None:
    """The local folder that an artifact address of MLflow names; None where it is elsewhere."""
    path = urlsplit(address).path if address.startswith("file:") else address
    return Path(unquote(path)) if path.startswith("/") else None


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Little patience with a server inside, which is being probed, and more afterwards; what the user set stays."""
    mine = [name for name in PROBING if name not in os.environ]
    os.environ.update({name: PROBING[name] for name in mine})
    try:
        yield
    finally:
        os.environ.update({name: WORKING[name] for name in mine})


def quieten() -> None:
    """Keep MLflow's and its libraries' chatter from the terminal; before mlflow is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
