"""A document as its reader works through it: files to write, commands to run and what they are shown to print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ("python", "python3", "pip", "make", "mlflow", "ray", "ssh", "rsync", "aws", "sbatch", "kubectl")
"""A span of code that begins with one of these and goes on is a command; so is one that begins with a tool of ours."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_NAMED = re.compile(r"# (\w+\.(?:py|yaml))\n")
_TOOL = re.compile(r"ablate\.(launch|report|status|serve|bench|bundle) .")
_OWN = re.compile(r"ablate-\w+ .")
_CALL = re.compile(r"ablate\.\w+\(.*\)$")
_METHOD = re.compile(r"\.\w+\(.*\)$")


@dataclass
class Step:
    """Something to do.

    Attributes:
        line: Of the document.
        kind: A command of a shell, a file to be written, a script to be run, an expression of Python, or what the
            last of these that was run is shown to print.
        text: The command, the file's content, and so on.
        name: Of the file.
    """

    line: int
    kind: Literal["command", "file", "script", "expression", "shown"]
    text: str
    name: str = ""


def steps(text: str) -> list[Step]:
    """All that a document in Markdown has its reader do, in its order."""
    found: list[Step] = []
    end = 0
    for fence in _FENCE.finditer(text):
        found += _spans(text, end, fence.start())
        found += _block(text, fence)
        end = fence.end()
    return [*found, *_spans(text, end, len(text))]


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _block(text: str, fence: re.Match[str]) -> Iterator[Step]:
    language, content = fence.groups()
    line = _line(text, fence.start()) + 1
    if language in ("console", "sh"):
        begin = "$ " if language == "console" else ""
        for at, whole in _logical(content):
            if whole.startswith(begin) and whole.strip():
                yield Step(line + at, "command", whole.removeprefix(begin))
    elif language == "text":
        yield Step(line, "shown", content)
    elif language in ("python", "yaml"):
        own = _NAMED.match(content)
        told = re.findall(rf"here `(\w+\.{'py' if language == 'python' else 'yaml'})`[^`]*\Z", text[: fence.start()])
        name = own[1] if own else told[-1] if told else ""
        yield Step(line, "script" if not name and language == "python" else "file", content, name)


def _logical(content: str) -> Iterator[tuple[int, str]]:
    """Lines, those that end in a backslash with what follows, and where each begins."""
    at, held = 0, ""
    for number, line in enumerate(content.splitlines()):
        at = at if held else number
        held += line
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield at, held
        held = ""


def _spans(text: str, begin: int, end: int) -> Iterator[Step]:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for span in _SPAN.finditer(text, begin, end):
        code = " ".join(span[1].split())
        first, _, rest = code.partition(" ")
        line = _line(text, span.start())
        if first == "make" and rest.split(" ")[0] not in targets:  # of `python -m ablate.bundle`
            continue
        if (first in PROGRAMS and rest) or _OWN.match(code):
            yield Step(line, "command", code)
        elif _TOOL.match(code):
            yield Step(line, "command", f"python -m {code}")
        elif _CALL.match(code) or _METHOD.match(code):
            yield Step(line, "expression", code)


def shape(line: str) -> str:
    """A text without what differs from run to run: numbers, times, keys, colours and how wide its columns are."""
    line = re.sub(r"%5B.*?%5D", "%5B…%5D", line)
    line = re.sub(r"\S*/python -m", "python -m", line)
    line = re.sub(r"\b(?=\w*\d)[0-9a-f]{8,}\b", "K", line)
    line = re.sub(r"(?<![\w-])(?:< )?\d+(?:\.\d+)?h?( \d+m| min| s| ms)?(?!\w)", "N", line)
    line = line.replace("finished in N", "finished")  # what takes no time is told without one
    return re.sub(r"[\s─]+", " ", line.replace("—", "N")).strip()
