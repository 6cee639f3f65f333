"""Speeds that `ablate.bench` measured, kept in storage by device: what `--dry-run` estimates by.

<storage>/speed/cpu-<cores>.json, <storage>/speed/<gpu>.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ablate.spaces.specs import ModelSpec, TrainingSpec, TrialSpec
from ablate.storage.checksums import read_json
from ablate.storage.files import Files

Kind = tuple[str, str, bool, bool, str]
"""Network, activation, whether quantized, whether with FAT, mode of training: with the batch size, what a speed hangs
on."""

UNTOLD_BATCH = 128
"""The batch size of entries of earlier versions, which do not say it: what `ablate.bench` times by default."""

StreamKind = tuple[Kind, float, int]
"""Kind, width and batch size: what it hangs on how many trainings fill a GPU."""


_Of = Callable[[dict[str, Any]], Any]
"""What is read off an entry; raises what a damaged one makes it raise."""


def keep(
    files: Files,
    speeds: list[dict[str, Any]],
    device: str,
    cores: int,
    packing: list[dict[str, Any]] | None = None,
    streams: list[dict[str, Any]] | None = None,
) -> None:
    """Add speeds to those of this kind of device; a newer one of the same network and mode replaces the older.

    Args:
        files: The storage's.
        speeds: `{"model", "mode", "batch_size", "flops"}` each: the spec as plain data, of `ablate.bench.cases.MODES`,
            images, operations per second.
        device: `cpu`, or the GPU's name.
        cores: CPU threads used.
        packing: `{"model", "mode", "batch_size", "rates": {count: images per second of all}}` each, of processes.
        streams: The same, of trainings in one process.
    """
    path = _path(device, cores)
    parts: tuple[tuple[str, list[dict[str, Any]], _Of, _Of], ...] = (
        ("speeds", speeds, _kind_and_batch, _flops),
        ("packing", packing or [], _kind_and_batch, _rates),
        ("streams", streams or [], _stream_kind, _rates),
    )
    content = {
        part: list({kind(entry): entry for entry in [*_entries(files, path, part, kind, value), *added]}.values())
        for part, added, kind, value in parts
    }
    files.write(path, json.dumps({"device": device, "cores": cores, **content}, indent=1).encode())


def known_speeds(files: Files, device: str, cores: int) -> dict[Kind, dict[int, float]]:
    """The speeds of networks on a kind of device.

    Args:
        files: The storage's.
        device: As in `keep`.
        cores: As in `keep`.

    Returns:
        Kind -> batch size -> operations per second.
    """
    found: dict[Kind, dict[int, float]] = {}
    for entry in _entries(files, _path(device, cores), "speeds", _kind_and_batch, _flops):
        found.setdefault(_kind(entry), {})[_batch(entry)] = _flops(entry)
    return found


def known_packing(files: Files) -> dict[Kind, dict[int, dict[int, float]]]:
    """What trainings of a network do together on a GPU, by how many there are at once.

    Returns:
        Kind -> batch size -> count -> images per second of all; of several GPUs the first in the order of their names.
    """
    found: dict[Kind, dict[int, dict[int, float]]] = {}
    for (kind, batch), measured in _known_rates(files, "packing", _kind_and_batch).items():
        found.setdefault(kind, {})[batch] = measured
    return found


def known_streams(files: Files) -> dict[StreamKind, dict[int, float]]:
    """What trainings that take turns in one process do together on a GPU, by how many there are.

    Returns:
        Kind -> count -> images per second of all; as of `known_packing`. Only what was measured is in it.
    """
    return _known_rates(files, "streams", _stream_kind)


def _known_rates(files: Files, part: str, kind: _Of) -> dict[Any, dict[int, float]]:
    found: dict[Any, dict[int, float]] = {}
    for name in files.list("speed"):
        if not name.startswith("cpu-"):
            for entry in _entries(files, f"speed/{name}", part, kind, _rates):
                found.setdefault(kind(entry), _rates(entry))
    return found


def kind_of(model: ModelSpec, training: TrainingSpec) -> Kind:
    """What the speed of a training hangs on; width and depth play no part.

    Args:
        model: Its network.
        training: Its precision and compilation.
    """
    return _kind({"model": model.model_dump(mode="json"), "mode": mode_of(training.precision, training.compile)})


def stream_kind_of(spec: TrialSpec) -> StreamKind:
    """What it hangs on how many trainings like this one fill a GPU."""
    return kind_of(spec.model, spec.training), spec.model.width, spec.training.batch_size


def mode_of(precision: str, compiled: bool) -> str:
    """Precision and compilation in a word, `bfloat16+compile`."""
    return precision + ("+compile" if compiled else "")


def _kind(entry: dict[str, Any]) -> Kind:
    model = entry["model"]
    quantization = model["quantization"]
    return model["arch"], model["activation"], quantization["bits"] < 32, bool(quantization["fat"]), entry["mode"]


def _batch(entry: dict[str, Any]) -> int:
    return int(entry.get("batch_size", UNTOLD_BATCH))


def _kind_and_batch(entry: dict[str, Any]) -> tuple[Kind, int]:
    return _kind(entry), _batch(entry)


def _stream_kind(entry: dict[str, Any]) -> StreamKind:
    return _kind(entry), float(entry["model"]["width"]), int(entry["batch_size"])


def _flops(entry: dict[str, Any]) -> float:
    return float(entry["flops"])


def _rates(entry: dict[str, Any]) -> dict[int, float]:
    return {int(count): float(rate) for count, rate in entry["rates"].items()}


def _entries(files: Files, path: str, part: str, kind: _Of, value: _Of) -> list[dict[str, Any]]:
    try:
        entries = read_json(files.read(path))[part]
        for entry in entries:
            kind(entry), value(entry)
    except (ValueError, KeyError, TypeError, AttributeError):  # none, damaged, or another version's: one can do without
        return []
    return list(entries)


def _path(device: str, cores: int) -> str:
    # A GPU's speed hardly hangs on the CPU cores beside it.
    return f"speed/cpu-{cores}.json" if device == "cpu" else f"speed/{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
