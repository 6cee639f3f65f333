"""Files in a folder or a bucket: the few operations storage needs, each all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import parse_qs, urlparse

from ablate.core.errors import StorageError
from ablate.core.redaction import redact

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO)
"""What the system says where there is something else than a file, or nothing."""


class Files(Protocol):
    """A tree of small files; a reader never sees half of one."""

    location: str

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write or replace a file, all or nothing. Raises StorageError where it cannot."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a file only if there is none; False where there is one. Exactly one of many at once succeeds."""

    def list(self, path: str) -> list[str]:
        """Names in a folder, sorted; none where there is no folder."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def delete(self, path: str) -> None:
        """Remove a file, if there is one."""

    def probe(self) -> None:
        """Prove that files can be created, and leave nothing behind. Raises StorageError where they cannot."""


class LocalFiles:
    """Files in a folder, local or on a network drive.

    Args:
        root: The folder; made by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        try:
            opened = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(opened).st_mode):  # a pipe would never end
                os.close(opened)
                return None
            with os.fdopen(opened, "rb") as stream:
                return stream.read()
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise self._error("readable", path, error) from error

    def write(self, path: str, content: bytes) -> None:
        """See `Files`; written beside, flushed to the disk, then renamed over."""
        target = self.root / path
        beside = self._write_beside(target, content)
        try:
            self._set_folder_aside(target)
            beside.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise self._error("writable", path, error) from error

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`; a hard link, which is exclusive on network drives too, and never half written."""
        target = self.root / path
        beside = self._write_beside(target, content)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise self._error("writable", path, error) from error
            try:  # a file system without hard links
                stream = target.open("xb")
            except FileExistsError:
                return False
            except OSError as inner:
                raise self._error("writable", path, inner) from inner
            try:
                with stream:
                    stream.write(content)
            except OSError as inner:
                with contextlib.suppress(OSError):  # half of it would be there for good: nobody could create it again
                    target.unlink()
                raise self._error("writable", path, inner) from inner
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        return True

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        try:
            return sorted(name for name in os.listdir(self.root / path) if not name.startswith(".tmp-"))
        except OSError as error:
            if error.errno in _NO_FILE:
                return []
            raise self._error("readable", path, error) from error

    def size(self, path: str) -> int | None:
        """See `Files`."""
        try:
            found = (self.root / path).stat()
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise self._error("readable", path, error) from error

    def delete(self, path: str) -> None:
        """See `Files`."""
        try:
            if not self._set_folder_aside(self.root / path):
                (self.root / path).unlink()
        except OSError as error:
            if error.errno in _NO_FILE:
                return
            raise self._error("deletable", path, error) from error

    def drop_empty(self, *folders: str) -> None:
        """Remove folders in which nothing is left; others stay."""
        for folder in folders:
            with contextlib.suppress(OSError):
                (self.root / folder).rmdir()

    def probe(self) -> None:
        """See `Files`; a folder that is not there yet is not made: what it would be made in is tried."""
        try:
            there = self.root
            while not _is_there(there):
                there = there.parent
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=there) as folder:
                (Path(folder) / "probe").write_bytes(b"ablate")
        except OSError as error:
            raise self._error("writable", "a folder there", error) from error

    @staticmethod
    def _set_folder_aside(target: Path) -> bool:
        """Rename a folder that lies where a file belongs; whoever made it may want what is in it."""
        if target.is_symlink() or not target.is_dir():
            return False
        target.rename(target.with_name(f"aside-{target.name}-{uuid.uuid4().hex[:8]}"))
        return True

    def _write_beside(self, target: Path, content: bytes) -> Path:
        beside = target.parent / f".tmp-{uuid.uuid4().hex}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise self._error(f"writable, with room for {len(content):,} bytes", target.name, error) from error
        return beside

    def _error(self, expected: str, path: str, error: OSError) -> StorageError:
        return StorageError(f"--storage {self.root}: expected {path} to be {expected}, got {error.strerror or error}")


def _is_there(path: Path) -> bool:
    """Whether there is anything at a path; raises OSError where there can be nothing."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


class BucketFiles:
    """Files in a bucket, through `pyarrow.fs`; exclusive creation through S3's conditional PUT.

    Args:
        uri: What `pyarrow.fs.FileSystem.from_uri` takes.

    Raises:
        StorageError: The URI is refused.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs  # only a bucket needs it; a GPU machine with a local folder may lack it

        self._fs = fs
        self.location = uri
        try:
            self._system, prefix = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise StorageError(
                redact(f"--storage {uri}: expected a folder or a URI of pyarrow.fs, got {error}")
            ) from error
        if not prefix and uri.partition("://")[0] in ("s3", "gs", "gcs"):
            raise StorageError(
                redact(f"--storage {uri}: expected a folder or a URI of pyarrow.fs, got one without a bucket")
            )
        self._prefix = PurePosixPath(prefix)

    def _path(self, path: str) -> str:
        return str(self._prefix / path)

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        try:
            with self._system.open_input_stream(self._path(path)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("readable", path, error) from error

    def write(self, path: str, content: bytes) -> None:
        """See `Files`; an object appears when its upload is whole."""
        try:
            with self._system.open_output_stream(self._path(path)) as stream:
                stream.write(content)
        except OSError as error:
            raise self._error("writable", path, error) from error

    def probe(self) -> None:
        """See `Files`; it tries what leases need, too: to create what nobody else has."""
        path = f"probe-{uuid.uuid4().hex}"
        self.create(path, b"ablate")
        self.delete(path)

    def create(self, path: str, content: bytes) -> bool:
        """See `Files`; refused where the bucket has no conditional write."""
        if not self.location.startswith("s3://"):
            raise StorageError(
                f"--storage {redact(self.location)}: expected a folder or an s3:// bucket, where launches that overlap "
                "can tell who trains what, got a bucket without conditional writes"
            )
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise StorageError(
                f"--storage {redact(self.location)}: expected boto3 beside s3:// storage, got none; pip install boto3"
            ) from error
        bucket, _, key = self._path(path).partition("/")
        try:
            region = self._option("region")
            client: Any = boto3.client("s3", endpoint_url=self._endpoint(), region_name=region)
            client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise self._error("writable", path, error) from error
        except BotoCoreError as error:
            raise self._error("writable", path, error) from error
        return True

    def _endpoint(self) -> str | None:
        override = self._option("endpoint_override")
        if override is None or "://" in override:
            return override
        return f"{self._option('scheme') or 'https'}://{override}"

    def _option(self, name: str) -> str | None:
        return parse_qs(urlparse(self.location).query).get(name, [None])[0]

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        selector = self._fs.FileSelector(self._path(path), allow_not_found=True)
        try:
            return sorted(info.base_name for info in self._system.get_file_info(selector))
        except OSError as error:
            raise self._error("readable", path, error) from error

    def size(self, path: str) -> int | None:
        """See `Files`."""
        try:
            info = self._system.get_file_info(self._path(path))
        except OSError as error:
            raise self._error("readable", path, error) from error
        return int(info.size) if info.type == self._fs.FileType.File else None

    def delete(self, path: str) -> None:
        """See `Files`."""
        try:
            self._system.delete_file(self._path(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error("deletable", path, error) from error

    def drop_empty(self, *folders: str) -> None:
        """See `LocalFiles.drop_empty`; a bucket keeps an empty object for a folder."""
        for folder in folders:
            if not self.list(folder):
                with contextlib.suppress(OSError):
                    self._system.delete_dir(self._path(folder))

    def _error(self, expected: str, path: str, error: Exception) -> StorageError:
        return StorageError(redact(f"--storage {self.location}: expected {path} to be {expected}, got {error}"))
