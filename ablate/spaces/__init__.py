"""What a user writes: settings, rows, searches, claims, names of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablate.core.lazy import lazy_exports

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
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
