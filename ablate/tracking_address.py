"""An MLflow store's address: how it is understood, and how patient and how quiet MLflow is with it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from ablate.errors import TrackingError
from ablate.places import local_path
from ablate.redaction import redact

DEFAULT_URI = "sqlite:///mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BEGUN = re.compile(r"((?:sqlite|postgresql|mysql|mssql)(?:\+\w+)?|https?)(?::/?/?|//)(?!/*\Z)")
_PROBING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_WORKING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
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

    Returns:
        The URI.

    Raises:
        TrackingError: Its scheme is none that MLflow keeps runs at, or it is half an address.
        SpecError: Its path is in the home folder of nobody.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    scheme = urlsplit(uri).scheme.split("+")[0] if "://" in uri else ""
    if scheme == "sqlite":
        path = uri.partition("://")[2].removeprefix("/")
        if not path or path == ":memory:":
            raise TrackingError(f"--tracking-uri: expected sqlite:///<file>, got {redact(uri)!r} without a file")
        return f"{uri.partition('://')[0]}:///{local_path(path, '--tracking-uri').absolute()}"
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


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Little patience with a server inside, which is being probed, and more afterwards; what the user set stays."""
    mine = [name for name in _PROBING if name not in os.environ]
    os.environ.update({name: _PROBING[name] for name in mine})
    try:
        yield
    finally:
        os.environ.update({name: _WORKING[name] for name in mine})


def quieten() -> None:
    """Keep MLflow's and its libraries' chatter from the terminal; before mlflow is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
