"""Text made to fit a terminal: shortened, without control characters, with readable times."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What steers a terminal or turns the order of letters: all control characters but newline and tab."""

_FILLED = re.compile(r" +(?=\n)")


def harmless(text: str) -> str:
    """A text without control characters, its lines as they are; for what somebody else wrote."""
    return _CONTROLS.sub("", text)


class _Console(Console):
    """A console on which only its own styles and movements steer the terminal, never a character of a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of `Console`, each text without control characters."""
        for segment in super().render(renderable, options):
            if segment.control is None and _CONTROLS.search(segment.text):
                yield Segment(harmless(segment.text), segment.style)
            else:
                yield segment


class _Trimmed:
    """A stream of text without the spaces that tables fill their lines up with.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a stream; a line is written at once, as consoles do."""
        return self._stream.write(_FILLED.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed_streams() -> None:
    """Put /dev/null in the place of standard streams that were closed at the start, as by `>&-`.

    Otherwise the next files opened, a database or a checkpoint, would take their numbers, and all that is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)  # inheritable, also where it is the same
            if opened != number:
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for the life of the process


def open_console(stream: TextIO | None = None) -> Console:
    """The console a command prints on.

    Colours and live lines only where the stream is a terminal, whatever the environment claims: a log file stays
    readable, with its lines whole and none filled up with spaces. A character that the stream's encoding lacks is
    printed as `?` and ends no launch; control characters in a text are left out, whoever wrote it.

    Args:
        stream: Where to; none: standard output.

    Returns:
        A console that colours nothing by itself.
    """
    stream = stream or sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        with contextlib.suppress(ValueError, OSError):
            reconfigure(errors="replace")
    terminal = stream.isatty()
    out = stream if terminal else cast(TextIO, _Trimmed(stream))
    return _Console(file=out, force_terminal=terminal, highlight=False, soft_wrap=not terminal)


def busy(console: Console, words: str) -> contextlib.AbstractContextManager[object]:
    """Say on a terminal what takes seconds, for as long as it takes; a file gets no line of it.

    Args:
        console: Where.
        words: What goes on: `Planning…`.
    """
    return console.status(words) if console.is_interactive else contextlib.nullcontext()


def printable(text: object) -> str:
    """A text on one line without control characters, which a label or a reason could carry into the terminal.

    Where some stood there is one space; all other spaces stay, for they set columns apart and lines in.
    """
    kept = "".join(c if c.isprintable() else "\n" for c in str(text)).strip("\n")
    return re.sub(r" *\n[ \n]*", " ", kept).rstrip()


def fit(text: str, width: int, *, right: bool = False) -> str:
    """A text in exactly so many cells.

    Args:
        text: One line.
        width: In cells; wide characters take two.
        right: Flush right, for numbers.

    Returns:
        The text, padded, or cut with `…` at its end.
    """
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding


def duration(seconds: float) -> str:
    """A time span in at most seven characters, each with its unit: `47 s`, `2.5 min`, `51 min`, `12h 05m`, `2d 03h`.

    What rounds to nothing is `< 1 s`; nothing itself is `0 s`.
    """
    seconds = max(0.0, seconds)
    if 0 < seconds < 0.5:
        return "< 1 s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 597:
        return f"{seconds / 60:.1f} min".replace(".0 ", " ")
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    whole = round(seconds / 3600)
    return f"{whole // 24}d {whole % 24:02d}h"


def hours(seconds: float) -> str:
    """A time span in hours, to two digits: `under 0.01`, `0.25`, `33,000`."""
    value = float(f"{seconds / 3600:.2g}")
    return "under 0.01" if 0 < value < 0.01 else f"{value:,.0f}" if value >= 10 else f"{value:g}"


def first_line(text: object, otherwise: str = "") -> str:
    """The first line of a message, short enough for a terminal.

    Args:
        text: An error, or anybody's words.
        otherwise: Where it says nothing; none: of an error, its type.
    """
    if isinstance(text, BaseException):
        otherwise = otherwise or type(text).__name__
    return (str(text).strip().splitlines() or [otherwise])[0][:300]


def named_line(error: BaseException) -> str:
    """An error in a line, as Python ends a traceback: its type and what it says."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def reason_of(error: BaseException) -> str:
    """Why something failed: of the system's errors what went wrong, without number and file; else the first line."""
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else first_line(error)


def now_ms() -> int:
    """The time in milliseconds, as records, events and MLflow carry it."""
    return time.time_ns() // 1_000_000


def plural(count: float, noun: str) -> str:
    """`1 row`, `2 rows`, `0.5 rows`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:,g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def left_over(count: int, most: int) -> list[str]:
    """What stands for those beyond the first so many: `and 3 more`; nothing where there are none."""
    return [f"and {count - most:,} more"] if count > most else []


def shown(texts: Sequence[str], most: int) -> list[str]:
    """The first so many of some texts, and how many there are besides: `a`, `b`, `and 3 more`."""
    return [*texts[:most], *left_over(len(texts), most)]


def listed(texts: Sequence[str], most: int) -> str:
    """The first so many of some texts in a line, and how many there are besides: `a, b and 3 more`."""
    return " ".join([", ".join(texts[:most]), *left_over(len(texts), most)])


_SQUARE = str.maketrans("()", "[]")


def aside(text: str) -> str:
    """A text in round brackets, its own ones square, so that they nest: `(not needed [given up at 3 seeds])`."""
    return f"({text.translate(_SQUARE)})"


def row_name(row: str, spaces: Sequence[str]) -> str:
    """How a row (`space/label`) is called: by its label alone where only one space is planned."""
    space, _, label = row.partition("/")
    return printable(label if [space] == list(spaces) else row)
