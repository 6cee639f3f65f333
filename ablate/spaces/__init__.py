"""What a user writes: settings, rows, searches, claims, names of figures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.spaces.loading import load_space as load_space
    from ablate.spaces.loading import table_names as table_names
    from ablate.spaces.presets import folder as folder
    from ablate.spaces.presets import load_preset as load_preset
    from ablate.spaces.presets import preset_names as preset_names
    from ablate.spaces.presets import space_names as space_names
    from ablate.spaces.settings import Setting as Setting
    from ablate.spaces.settings import build_spec as build_spec
    from ablate.spaces.settings import parse_overrides as parse_overrides
    from ablate.spaces.settings import setting_paths as setting_paths
    from ablate.spaces.space import Preset as Preset
    from ablate.spaces.space import PresetFile as PresetFile
    from ablate.spaces.space import Row as Row
    from ablate.spaces.space import Space as Space
    from ablate.spaces.space import SpaceFile as SpaceFile
    from ablate.spaces.space import Trial as Trial
    from ablate.spaces.trials import expand as expand

_PLACES = {
    "load_space": "ablate.spaces.loading",
    "table_names": "ablate.spaces.loading",
    "folder": "ablate.spaces.presets",
    "load_preset": "ablate.spaces.presets",
    "preset_names": "ablate.spaces.presets",
    "space_names": "ablate.spaces.presets",
    "Setting": "ablate.spaces.settings",
    "build_spec": "ablate.spaces.settings",
    "parse_overrides": "ablate.spaces.settings",
    "setting_paths": "ablate.spaces.settings",
    "Preset": "ablate.spaces.space",
    "PresetFile": "ablate.spaces.space",
    "Row": "ablate.spaces.space",
    "Space": "ablate.spaces.space",
    "SpaceFile": "ablate.spaces.space",
    "Trial": "ablate.spaces.space",
    "expand": "ablate.spaces.trials",
}

__all__ = [
    "Preset",
    "PresetFile",
    "Row",
    "Setting",
    "Space",
    "SpaceFile",
    "Trial",
    "build_spec",
    "expand",
    "folder",
    "load_preset",
    "load_space",
    "parse_overrides",
    "preset_names",
    "setting_paths",
    "space_names",
    "table_names",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
