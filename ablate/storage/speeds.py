"""Speeds that `ablate.bench` measured, kept in storage by device: what `--dry-run` estimates by.

<storage>/speed/cpu-<cores>.json, <storage>/speed/<gpu>.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ablate.spaces.specs import ModelSpec, TrainingSpec
from ablate.storage.checksums import read_json
from ablate.storage.files import Files

Kind = tuple[str, str, bool, bool, str]
"""Network, activation, whether quantized, whether with FAT, mode of training: what a speed hangs on."""


def keep(
    files: Files, speeds: list[dict[str, Any]], device: str, cores: int, packing: list[dict[str, Any]] | None = None
) -> None:
    """Add speeds to those of this kind of device; a newer one of the same network and mode replaces the older.

    Args:
        files: The storage's.
        speeds: `{"model", "mode", "flops"}` each: the spec as plain data, of `ablate.bench.cases.MODES`, operations
            per second.
        device: `cpu`, or the GPU's name.
        cores: CPU threads used.
        packing: `{"model", "mode", "rates": {count: images per second of all}}` each.
    """
    path = _path(device, cores)
    there = {"speeds": _entries(files, path, "speeds", _flops), "packing": _entries(files, path, "packing", _rates)}
    added = {"speeds": speeds, "packing": packing or []}
    content = {
        part: list({_kind(entry): entry for entry in [*entries, *added[part]]}.values())
        for part, entries in there.items()
    }
    files.write(path, json.dumps({"device": device, "cores": cores, **content}, indent=1).encode())


def known_speeds(files: Files, device: str, cores: int) -> dict[Kind, float]:
    """The speeds of networks on a kind of device.

    Args:
        files: The storage's.
        device: As in `keep`.
        cores: As in `keep`.

    Returns:
        Kind -> operations per second.
    """
    return {_kind(entry): _flops(entry) for entry in _entries(files, _path(device, cores), "speeds", _flops)}


def known_packing(files: Files) -> dict[Kind, dict[int, float]]:
    """What trainings of a network do together on a GPU, by how many there are at once.

    Args:
        files: The storage's.

    Returns:
        Kind -> count -> images per second of all; of several GPUs the first in the order of their names.
    """
    found: dict[Kind, dict[int, float]] = {}
    for name in files.list("speed"):
        if not name.startswith("cpu-"):
            for entry in _entries(files, f"speed/{name}", "packing", _rates):
                found.setdefault(_kind(entry), _rates(entry))
    return found


def kind_of(model: ModelSpec, training: TrainingSpec) -> Kind:
    """What the speed of a training hangs on; width and depth play no part.

    Args:
        model: Its network.
        training: Its precision and compilation.
    """
    return _kind({"model": model.model_dump(mode="json"), "mode": mode_of(training.precision, training.compile)})


def mode_of(precision: str, compiled: bool) -> str:
    """Precision and compilation in a word, `bfloat16+compile`."""
    return precision + ("+compile" if compiled else "")


def _kind(entry: dict[str, Any]) -> Kind:
    model = entry["model"]
    quantization = model["quantization"]
    return model["arch"], model["activation"], quantization["bits"] < 32, bool(quantization["fat"]), entry["mode"]


def _flops(entry: dict[str, Any]) -> float:
    return float(entry["flops"])


def _rates(entry: dict[str, Any]) -> dict[int, float]:
    return {int(count): float(rate) for count, rate in entry["rates"].items()}


def _entries(files: Files, path: str, part: str, value: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    try:
        entries = read_json(files.read(path))[part]
        for entry in entries:
            _kind(entry), value(entry)
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged, or another version's: one can do without
        return []
    return list(entries)


def _path(device: str, cores: int) -> str:
    # A GPU's speed hardly hangs on the CPU cores beside it.
    return f"speed/cpu-{cores}.json" if device == "cpu" else f"speed/{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
