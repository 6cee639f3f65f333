"""The guides name places that are there, and every package; every command in a document is one that is understood."""

from __future__ import annotations

import importlib
import re
import shlex
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.core

from ablate.core.registry import temporary_registrations
from ablate.launch.options import Options
from ablate.launch.request import Request

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"`((?:ablate|search_spaces|tests|jobs|docs|examples|benchmarks)/[\w/.-]*)`")


@pytest.mark.parametrize("guide", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_place_that_a_guide_names_is_there(guide: str) -> None:
    named = PLACE.findall((ROOT / guide).read_text())
    assert named
    assert [place for place in named if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("guide", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_a_guide_names_every_package(guide: str) -> None:
    named = set(PLACE.findall((ROOT / guide).read_text()))
    packages = {f"ablate/{path.parent.name}/" for path in (ROOT / "ablate").glob("*/__init__.py")}
    assert packages <= named


DOCUMENTS = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "search_spaces/README.md", "jobs/README.md",
    "jobs/mlflow/README.md",
    "docs/results.md", "docs/verdicts.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("jobs/*.yaml"))),
]  # fmt: skip
COMMAND = re.compile(r"python -m ablate\.(\w+)([^`\n|&]*)")
OWN = re.compile(r"(?<=--space )(?:\./)?(my_\w+|momentum)(?:\.yaml)?")
"""Files that a document has the reader write."""


def commands(document: str) -> Iterator[tuple[str, list[str]]]:
    """(tool, arguments) of each command in a document, whole and with its variables."""
    text = re.sub(r"\\\n[#$> ]*", " ", (ROOT / document).read_text(encoding="utf-8"))
    variables: dict[str, str] = {}
    for name, value in re.findall(r'^\$ (\w+)="(.*)"$', text, re.MULTILINE):
        variables[name] = string.Template(value).safe_substitute(variables)
    for tool, arguments in COMMAND.findall(text):
        line = string.Template(OWN.sub("batch_size", arguments)).safe_substitute(variables)
        given = shlex.split(re.sub(r"[,;:.)]+$", "", line.strip()), comments=True)
        yield tool, given


def asked(tool: str, given: list[str]) -> dict[str, object]:
    """The options of a command line, by the tool's own parser."""
    command = typer.main.get_command(importlib.import_module(f"ablate.{tool}.__main__").app)
    if isinstance(command, typer.core.TyperGroup) and given and given[0] in command.commands:
        return command.commands[given[0]].make_context(given[0], list(given[1:])).params
    return command.make_context(tool, list(given)).params


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_document_is_understood(
    document: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    for tool, given in commands(document):
        if "-h" in given:
            continue
        options = asked(tool, [each for each in given if each != "--import" and not each.startswith("my_")])
        if tool == "launch" and options["space"]:
            with temporary_registrations():
                request = Request.read(Options.parsed(options))
                assert request.trials() or any(space.space.search for space in request.spaces), given


OF_OTHERS = {"--num-cpus", "--workers"}
"""Options of Ray and of MLflow."""


def test_every_option_that_a_document_names_is_there() -> None:
    known = set(OF_OTHERS)
    for tool in {tool for document in DOCUMENTS for tool, _ in commands(document)}:
        whole = typer.main.get_command(importlib.import_module(f"ablate.{tool}.__main__").app)
        for each in [whole, *getattr(whole, "commands", {}).values()]:
            known |= {name for option in each.params for name in (*option.opts, *option.secondary_opts)}
    named = {
        (document, option)
        for document in DOCUMENTS
        for span in re.findall(r"(?<!`)`(--[^`]+)`", (ROOT / document).read_text(encoding="utf-8"))
        for option in re.findall(r"--[a-z][\w-]*", span)
    }
    assert len(named) > 30 and {each for each in named if each[1] not in known} == set()


def test_documents_have_commands_of_every_tool() -> None:
    found = {tool for document in DOCUMENTS for tool, _ in commands(document)}
    tools = {path.parent.name for path in (ROOT / "ablate").glob("*/__main__.py")} - {"spaces"}
    assert found >= tools


@pytest.mark.parametrize("wrong", [["--spaec", "batch_size"], ["--space", "batch_sise"], ["--seeds", "a"]])
def test_a_command_that_is_not_understood_is_noticed(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"--spaec|batch_sise|--seeds: expected"):
        Request.read(Options.parsed(asked("launch", wrong))).trials()
