"""What a filter in front of a network is called: settings, plans, measurements and records share the word."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Filter(NamedTuple):
    """A filter of images, which `ablate.analysis.lowpass.filtered` applies.

    Attributes:
        kind: `lowpass` keeps the central degree x degree of the shifted spectrum, `highpass` what that one takes away.
        degree: Rows and columns of the spectrum.
    """

    kind: Literal["lowpass", "highpass"]
    degree: int
