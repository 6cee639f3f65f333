"""From arrays to pictures: any figure by its name, as PNG and as SVG, without a screen and without a network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import QuadMesh
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from ablate.report.figures import curves, filters, frequencies, heat_map, kernels  # noqa: F401 (they say which they draw)
from ablate.report.figures.style import PHONE_IN, STYLE, WIDTH_IN
from ablate.spaces.figures import Drawing, FigureData, drawer_of, figure_kind

MOST_PNG_BYTES = 200_000
"""Figures are drawn with fewer pixels until they fit."""

_PRINTED_PER_IN = 69
_HALF_PAGE = 500  # pixels of a style; what is a little higher than half a page is made smaller by the style
_RESOLUTIONS_DPI = (170, 140, 110, 85, 60)


_NUMBERS_ALONE = ContextVar("numbers alone", default=False)


@contextlib.contextmanager
def numbers_alone() -> Iterator[None]:
    """What is drawn meanwhile has the numbers that it shows, and no pictures of them, which take most of the time."""
    token = _NUMBERS_ALONE.set(True)
    try:
        yield
    finally:
        _NUMBERS_ALONE.reset(token)


@dataclass(frozen=True)
class Picture:
    """A figure as files.

    Args:
        name: Of the figure, as spaces list it.
        title: Of the figure.
        caption: What to see in it.
        png: The picture, below 200 kB.
        svg: The same with lines and text of any size.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes
    lines: bool = False
    """Whether it is of lines and text alone, so that a dark page may show it with light and dark exchanged."""
    width_in: float = WIDTH_IN
    """How wide it was drawn, in inches: by it the text of all figures is of one size on paper."""
    numbers: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False)
    """What it shows, part by part: the same with every version of what draws it."""

    @property
    def narrow(self) -> bool:
        """Whether it is legible as wide as a phone's screen, and no wider than a column of text elsewhere."""
        return self.width_in <= PHONE_IN

    @property
    def tall(self) -> bool:
        """Whether it takes more than half a page of paper, as `printed` has it."""
        down, across = (int.from_bytes(self.png[place : place + 4], "big") for place in (20, 16))
        return bool(across) and self.printed * down / across > _HALF_PAGE

    @property
    def printed(self) -> int:
        """How wide it is on paper, in pixels of a style, 96 an inch: 9 inches fit a page, and text has 6.5 points."""
        return round(_PRINTED_PER_IN * self.width_in)

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        return self.png


def draw(name: str, data: FigureData) -> Picture | None:
    """Draws a figure.

    The same data give the same bytes. No state outside is touched, and no window is opened.

    Args:
        name: As spaces list it.
        data: What to draw it from.

    Returns:
        The picture; None where no row has what it is drawn from.

    Raises:
        SpecError: There is no figure of that name.
    """
    kind = figure_kind(name)
    drawer = drawer_of(name)
    with matplotlib.rc_context(STYLE):
        drawing = drawer(data)
        if drawing is None:
            return None
        return picture(name, kind.title, drawing)


def picture(name: str, title: str, drawing: Drawing) -> Picture:
    """A drawing as files; to be called inside the style that it was drawn in."""
    if _NUMBERS_ALONE.get():
        return Picture(name, title, drawing.caption, b"", b"", numbers=_numbers(drawing))
    # A colour bar is a mesh: lines in its colours would lose their meaning, and the best its light, where they turn.
    lines = not drawing.figure.findobj(lambda part: isinstance(part, AxesImage | QuadMesh))
    width_in = float(drawing.figure.get_figwidth())
    return Picture(name, title, drawing.caption, _png(drawing), _svg(drawing), lines, width_in, _numbers(drawing))


def _numbers(drawing: Drawing) -> dict[str, NDArray[Any]]:
    """Lines, bars, points and images of each panel, in their own units."""
    found: dict[str, NDArray[Any]] = {}
    for panel, axes in enumerate(drawing.figure.axes):
        shown: list[Any] = [line.get_xydata() for line in axes.lines]
        shown += [image.get_array() for image in axes.images]
        shown += [points.get_offsets() for points in axes.collections]
        shown += [bar.get_bbox().get_points() for bar in axes.patches if isinstance(bar, Rectangle)]
        for part, values in enumerate(shown):
            found[f"{panel}.{part}"] = np.ma.filled(np.ma.asarray(values, dtype=np.float32), np.nan)
    return found


def _png(drawing: Drawing) -> bytes:
    content = b""
    for dpi in _RESOLUTIONS_DPI:
        drawn = io.BytesIO()
        drawing.figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
        image = Image.open(drawn).convert("RGB")
        content = _packed(image, dpi)
        if len(content) >= MOST_PNG_BYTES:
            # Noise hardly packs. 256 colours, chosen to cover all there are, cost the eye less than pixels do.
            content = _packed(image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE), dpi)
        if len(content) < MOST_PNG_BYTES:
            break
    return content


def _packed(image: Image.Image, dpi: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="png", optimize=True, dpi=(dpi, dpi))
    return stream.getvalue()


def _svg(drawing: Drawing) -> bytes:
    stream = io.BytesIO()
    drawing.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
