"""Where the shipped spaces and presets lie, and presets by name."""

from __future__ import annotations

from pathlib import Path

from ablate.core.errors import SpecError, nearest
from ablate.spaces.space import Preset, PresetFile
from ablate.spaces.yamlfile import YamlFile


def folder() -> Path:
    """Where the shipped space files lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "search_spaces", package.parent / "search_spaces"):
        if candidate.is_dir():
            return candidate
    raise SpecError(f"expected the folder search_spaces inside or beside {package}, got neither; install ablate again")


def space_names() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in (folder() / "presets").glob("*.yaml"))


def load_preset(name: str) -> PresetFile:
    """A preset by its name.

    Args:
        name: `paper`, `reduced` or `smoke`.

    Raises:
        SpecError: No such preset, or a file that is refused.
    """
    path = folder() / "presets" / f"{name}.yaml"
    if name not in preset_names():
        raise SpecError(f"--preset: expected a preset's name, got {name!r}; {nearest(name, preset_names())}")
    file = YamlFile(path)
    return PresetFile(name, file.validate(Preset), file)


def decides_claims(name: str) -> bool:
    """Whether claims are judged by trainings under a preset; of one that is not there any more, they are."""
    return name not in preset_names() or load_preset(name).preset.decides_claims
