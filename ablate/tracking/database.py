"""MLflow's database file: created whole or not at all, migrated with a copy kept, safe to read while it is written."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import uuid
from pathlib import Path

from ablate.core.errors import TrackingError
from ablate.core.text import first_line, named_line
from ablate.tracking.address import artifact_address, artifact_folder, sqlite_uri

BUSY_S = 20.0
"""How long to wait for another process that writes."""

_LOCATIONS = "SELECT artifact_location FROM experiments"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow in which addresses of artifacts stand."""

_NETWORK_DRIVES = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "fuse", "afs")


def create(path: Path, artifacts: str) -> None:
    """Create a database file with MLflow's tables.

    It is made beside and linked into place: of many first users one wins, and nobody ever opens half a schema.

    Args:
        path: The file; its folder is made too.
        artifacts: Name of the folder beside it for the artifacts of MLflow's own default experiment.

    Raises:
        TrackingError: The folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        create_tables(beside, path.parent / artifacts)
        with contextlib.closing(sqlite3.connect(beside)) as database:
            # With a write-ahead log readers (the MLflow UI) and the writer do not wait for each other.
            database.execute(f"PRAGMA journal_mode={'DELETE' if on_network_drive(path.parent) else 'WAL'}")
        with contextlib.suppress(FileExistsError):
            try:
                os.link(beside, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                shutil.copyfile(beside, path)
    except Exception as error:
        raise TrackingError(f"--tracking-uri: expected to create {path}, got {named_line(error)}") from error
    finally:
        for leftover in path.parent.glob(f"{beside.name}*") if path.parent.is_dir() else []:
            leftover.unlink(missing_ok=True)


def check(path: Path, artifacts: str) -> None:
    """Prove that a database file can be written, and bring one of an older MLflow, or of another folder, up to date.

    Args:
        path: An existing file; an empty one gets MLflow's tables.
        artifacts: As of `create`.

    Raises:
        TrackingError: It is no database, cannot be written, or is of a newer MLflow.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise TrackingError(
            f"--tracking-uri: expected {path} to be a database that can be written, got: {error}"
        ) from error
    try:
        if _version(path) is None:
            create_tables(path, path.parent / artifacts)
        elif is_old(path):
            _migrate(path)
        _relocate(path, artifacts)
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"--tracking-uri: expected MLflow's tables in {path}, got: {first_line(error)}") from error


def _relocate(path: Path, artifacts: str) -> None:
    """Have addresses of artifacts follow the database's folder, where it was moved or copied with them.

    Where the database alone was copied its artifacts stay where they are.
    """
    here = path.parent.absolute()
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        locations = [artifact_folder(row[0] or "") for row in database.execute(_LOCATIONS)]
        former = {
            folder.parent.parent
            for folder in locations
            if folder is not None and folder.parent.name == artifacts and not _is_same(folder.parent.parent, here)
        }
        if not former:
            return
        database.execute("BEGIN IMMEDIATE")
        with database:  # all of them or none
            for table, column in _ADDRESSES:
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                if column not in columns:  # of an MLflow that has none
                    continue
                rows = database.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
                moved = [(after, row) for row, before in rows if (after := _moved(before, former, here))]
                database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", moved)


def _moved(address: str | None, former: set[Path], here: Path) -> str | None:
    """Where an address leads now, if that is another place than before."""
    folder = artifact_folder(address or "")
    old = next((old for old in former if folder is not None and folder.is_relative_to(old)), None)
    if folder is None or old is None:
        return None
    new = here / folder.relative_to(old)
    if folder.exists() and not new.exists():
        return None
    return new.as_uri() if (address or "").startswith("file:") else artifact_address(new)


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return one == other


def flush(path: Path) -> None:
    """Move the write-ahead log into the file, so that the file alone can be copied; at once or not at all."""
    if path.is_file():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=0)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def on_network_drive(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether a folder lies on a network drive, where SQLite's write-ahead log corrupts.

    Args:
        folder: An existing folder.
        mounts: The kernel's list of mounts; where there is none the answer is yes, the safe one.

    Returns:
        By the type of the innermost mount that holds it.
    """
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return True
    here = folder.resolve()
    holding = [(len(line[1]), line[2]) for line in lines if here.is_relative_to(line[1])]
    return max(holding, default=(0, ""))[1].startswith(_NETWORK_DRIVES)


def create_tables(path: Path, artifacts: Path) -> None:
    """Have MLflow make its tables in a file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(sqlite_uri(path), artifact_address(artifacts)).engine.dispose()


def _version(path: Path) -> str | None:
    """Of MLflow's tables in a file; none where it has none of them."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        try:
            found = database.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # no such table
            return None
    return None if found is None else str(found[0])


@functools.cache
def _newest() -> str:
    """The version of the installed MLflow, which loads all its migrations to tell."""
    from mlflow.store.db import utils

    return str(utils._get_latest_schema_revision())


def is_old(path: Path) -> bool:
    """Whether the file has MLflow's tables, of another version than the installed one."""
    return _version(path) not in (None, _newest())


def _migrate(path: Path) -> None:
    from mlflow.store.db import utils

    kept = path.with_name(f"{path.name}.before-migration")
    try:
        with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(kept)) as copy:
            old.backup(copy)
        engine = utils.create_sqlalchemy_engine_with_retry(sqlite_uri(path))
        utils._upgrade_db(engine)
        engine.dispose()
    except Exception as error:
        raise TrackingError(
            f"--tracking-uri: expected {path} to be of this MLflow's version or an older one, got: "
            f"{first_line(error)}; a copy of it is {kept}"
        ) from error
