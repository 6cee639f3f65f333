"""Speeds that `ablate.bench` measured, kept in storage by device: what `--dry-run` estimates by.

<storage>/speed/cpu-<cores>.json, <storage>/speed/<gpu>.json
"""

from __future__ import annotations

import json
import re
from typing import Any

from ablate.files import Files
from ablate.specs import ModelSpec, TrainingSpec


def keep(
    files: Files, speeds: list[dict[str, Any]], device: str, cores: int, packing: list[dict[str, Any]] | None = None
) -> None:
    """Add speeds to those of this kind of device; a newer one of the same network and mode replaces the older.

    Args:
        files: The storage's.
        speeds: `{"model", "mode", "flops"}` each: the spec as plain data, of `ablate.speed.cases.MODES`, operations
            per second.
        device: `cpu`, or the GPU's name.
        cores: CPU threads used.
        packing: `{"model", "mode", "rates": {count: images per second of all}}` each.
    """
    merged = {_identity(entry): entry for entry in [*_read(files, device, cores), *speeds]}
    packed = {_identity(entry): entry for entry in [*_packing(files, _path(device, cores)), *(packing or [])]}
    content = {
        "device": device,
        "cores": cores,
        "speeds": list(merged.values()),
        "packing": list(packed.values()),
    }
    files.write(_path(device, cores), json.dumps(content, indent=1).encode())


def known_speed(files: Files, model: ModelSpec, training: TrainingSpec, device: str, cores: int) -> float | None:
    """The speed of a network on a kind of device.

    Args:
        files: The storage's.
        model: The network; width and depth play no part, quantization and activation do.
        training: Its precision and compilation.
        device: As in `keep`.
        cores: As in `keep`.

    Returns:
        Operations per second; None where it was not measured.
    """
    wanted = (*_kind(model.model_dump(mode="json")), mode_of(training))
    found = {_identity(entry): float(entry["flops"]) for entry in _read(files, device, cores)}
    return found.get(wanted)


def known_packing(files: Files, model: ModelSpec, mode: str) -> dict[int, float]:
    """What trainings of a network do together on a GPU, by how many there are at once.

    Args:
        files: The storage's.
        model: As in `known_speed`.
        mode: From `mode_of`.

    Returns:
        Count -> images per second of all; empty where it was not measured on any GPU.
    """
    wanted = (*_kind(model.model_dump(mode="json")), mode)
    for name in files.list("speed"):
        if name.startswith("cpu-"):
            continue
        for entry in _packing(files, f"speed/{name}"):
            if _identity(entry) == wanted:
                return {int(count): float(rate) for count, rate in entry["rates"].items()}
    return {}


def mode_of(training: TrainingSpec) -> str:
    """Precision and compilation in a word, `bfloat16+compile`."""
    return training.precision + ("+compile" if training.compile else "")


def _kind(model: dict[str, Any]) -> tuple[str, str, bool, bool]:
    quantization = model["quantization"]
    return model["arch"], model["activation"], quantization["bits"] < 32, bool(quantization["fat"])


def _identity(entry: dict[str, Any]) -> tuple[str, str, bool, bool, str]:
    return (*_kind(entry["model"]), entry["mode"])


def _read(files: Files, device: str, cores: int) -> list[dict[str, Any]]:
    content = files.read(_path(device, cores))
    if content is None:
        return []
    try:
        entries = json.loads(content)["speeds"]
        for entry in entries:
            _identity(entry), float(entry["flops"])
    except (ValueError, KeyError, TypeError):  # damaged, or another version's: an estimate can do without
        return []
    return list(entries)


def _packing(files: Files, path: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(files.read(path) or b"")["packing"]
        for entry in entries:
            _identity(entry), {int(count): float(rate) for count, rate in entry["rates"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return list(entries)


def _path(device: str, cores: int) -> str:
    # A GPU's speed hardly hangs on the CPU cores beside it.
    return f"speed/cpu-{cores}.json" if device == "cpu" else f"speed/{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
