"""What a filter in front of a network is called: settings, plans, measurements and records share the word."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Filter(NamedTuple):
    """A filter of images, which `ablate.analysis.lowpass.filtered` applies.

    Attributes:
        kind: `lowpass` keeps the central degree x degree of the shifted spectrum, `highpass` what that one takes away,
            `bandstop` all but what the low-pass filter of the outer degree keeps and that of the inner one does not.
        degree: Rows and columns of the spectrum; of `bandstop` the inner ones.
        outer: Of `bandstop`, the rows and columns within which it takes away.
        keep_mean: Of `highpass`, whether each channel keeps its mean, which it takes away otherwise.
    """

    kind: Literal["lowpass", "highpass", "bandstop"]
    degree: int
    outer: int | None = None
    keep_mean: bool = False
