"""What a run on a borrowed machine takes home of its storage: one archive, in a few files of a few megabytes.

python benchmarks/gpu/home.py STORAGE OUT        -> OUT/home.tgz.00, .01, ...;  cat home.tgz.* | tar -xz

Records, histories and manifests come first, so that an archive that is cut short still has them; then of each training
the checkpoint it goes on from, those that are not finished before the others. What does not fit is told.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from pathlib import Path

from ablate.storage.attempts import attempts_of, read_manifest
from ablate.storage.storage import Storage

FILES, BYTES = 6, 15_500_000


class Pieces:
    """A file to write to that is split."""

    def __init__(self, base: Path, size: int) -> None:
        self.base, self.size, self.written = base, size, 0

    def write(self, data: bytes) -> int:
        """Append."""
        for start in range(0, len(data), 1 << 16):
            part = data[start : start + (1 << 16)]
            while part:
                number, filled = divmod(self.written, self.size)
                now = part[: self.size - filled]
                with self.base.with_name(f"{self.base.name}.{number:02d}").open("ab") as piece:
                    piece.write(now)
                self.written += len(now)
                part = part[len(now) :]
        return len(data)


def newest_checkpoints(storage: Path) -> list[Path]:
    """Of each training the one it goes on from: unfinished trainings first, of those the furthest first."""
    opened = Storage(str(storage))
    found: list[tuple[bool, int, Path]] = []
    for folder in storage.iterdir():
        best: tuple[int, str] | None = None
        finished = False
        for attempt in attempts_of(opened.files, folder.name) if (folder / "attempts").is_dir() else []:
            manifest = read_manifest(opened.files, folder.name, attempt)
            if manifest is None:
                continue
            finished = finished or bool(manifest["finished"])
            for epoch, name, _ in manifest["checkpoints"]:
                best = max(best or (-1, ""), (epoch, f"{folder.name}/attempts/{attempt}/{name}"))
        if best is not None:
            found.append((finished, -best[0], storage / best[1]))
    return [path for *_, path in sorted(found)]


def pack(storage: Path, out: Path, files: int = FILES, size: int = BYTES) -> list[Path]:
    """Write the archive's pieces.

    Args:
        storage: The folder; `storage/` in the archive.
        out: Gets the pieces.
        files: So many of them at most.
        size: Of each, in bytes.

    Returns:
        What was left out for want of room.
    """
    room = files * size - (1 << 16)
    # Leases are of the machine that is given back.
    small = sorted(
        path
        for path in storage.rglob("*")
        if path.is_file()
        and not path.name.startswith(("checkpoint-", ".tmp-"))
        and path.relative_to(storage).parts[0] != "claims"
    )
    left_out = []
    with tarfile.open(fileobj=Pieces(out / "home.tgz", size), mode="w|gz") as archive:  # type: ignore[call-overload]
        for path in [*small, *newest_checkpoints(storage)]:
            needed = path.stat().st_size + 2048  # nothing of it may shrink
            if needed > room:
                left_out.append(path)
                continue
            room -= needed
            archive.add(path, f"storage/{path.relative_to(storage)}")
    return left_out


def main() -> None:
    """Pack as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storage", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if not given.storage.is_dir():
        sys.exit(f"expected a storage, got none in {given.storage}")
    for path in pack(given.storage, given.out):
        print(f"left out, no room: {path}")


if __name__ == "__main__":
    main()
