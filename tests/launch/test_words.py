"""What a mistyped command line is answered: the one word that was meant, in one line, with exit code 2."""

from __future__ import annotations

import io
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import ablate
from ablate.__main__ import main as commands
from ablate.core.errors import SpecError, nearest
from ablate.launch.__main__ import arguments
from ablate.spaces.loading import load_space
from tests.support.search_helpers import write_search

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ("--set", "data.name=digits", "--set", "data.image_size=8")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code of a launch and what it printed."""
    with pytest.raises(SystemExit) as ended:
        arguments(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--space", "batch_size", "--set", "training.lr=3"], "did you mean 'training.learning_rate'?"),
        (["--space", "batch_size", "--set", "training.wd=3"], "did you mean 'training.weight_decay'?"),
        (["--space", "batch_size", "--set", "lr=3"], "did you mean 'training.learning_rate'?"),
        (["--space", "batch_size", "--set", "training.Epochs=3"], "did you mean 'training.epochs'?"),
        (["--space", "bit_width", "--row", "qm-4"], "did you mean 'QM-4'?"),
        (["--space", "bit_width", "--row", "QM 32 FAT"], "did you mean 'QM-32 + FAT'?"),
        (["--space", "batch_size", "--row", "64,128"], "did you mean --row 64 --row 128?"),
        (["--space", "bit_width", "--row", "QM-4, QM-4 + FAT"], "did you mean --row QM-4 --row 'QM-4 + FAT'?"),
        (["--space", "batch_size,lowpass"], "did you mean --space batch_size --space lowpass?"),
        (["--space", "all,robust_recipe"], "did you mean --space all --space robust_recipe?"),
        (["--space", "batch_size.yaml"], "did you mean 'batch_size'?"),
        (["--space", "elsewhere/lowpass.yml"], "did you mean 'lowpass'?"),
        (["--space", "batch_size", "--import", "my_net.py"], "did you mean my_net?"),
        (["--space", "batch_size", "--import", "./nets/mine.py"], "did you mean nets.mine?"),
        (["--space", "batch_size", "--import", "one,two"], "did you mean --import one --import two?"),
        (["--space", "batch_size", "--preset", "Smoke"], "did you mean 'smoke'?"),
    ],
)
def test_a_slip_is_answered_by_what_was_meant(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *words, "--dry-run")
    assert (code, out) == (2, "") and err.endswith(hint)
    assert list(tmp_path.iterdir()) == []


def test_what_means_nothing_lists_what_there_is_and_nothing_is_guessed_between_two() -> None:
    assert nearest("zzz", ["paper", "smoke"]) == "valid: paper, smoke"
    assert nearest("ab", ["a_bit", "all_black"]) == "valid: a_bit, all_black"
    assert nearest("---", ["a", "b"]) == "valid: a, b"
    assert nearest("maximize", ["max", "min"]) == "did you mean 'max'?"
    assert nearest("FAT", []) == "there is none"


@pytest.mark.parametrize("objective", [{"mode": "maximize"}, {"metric": 3}, {"modes": "max"}])
def test_one_mistake_in_an_objective_is_one_line(tmp_path: Path, objective: dict[str, Any]) -> None:
    path = write_search(tmp_path, objective={"metric": "validation/natural", **objective})
    with pytest.raises(SpecError) as caught:
        load_space(str(path))
    assert len(str(caught.value).splitlines()) == 1 and "objective" in str(caught.value)
    path = write_search(tmp_path, objective=[])
    with pytest.raises(SpecError, match=r"search\.objective: expected at least 1 item, got 0"):
        load_space(str(path))


def test_a_row_of_one_space_shows_no_empty_table_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spaces = ("--space", "batch_size", "--space", "bit_width")
    code, out, _ = said(capsys, *spaces, "--row", "64", *SMALL, "--dry-run")
    assert code == 0 and "batch_size: " in out and "bit_width: " not in out
    code, out, _ = said(capsys, *spaces, "--row", "64", "--row", "QM-4", *SMALL, "--dry-run", "--json")
    assert code == 0 and [trial["row"] for trial in json.loads(out)["trials"]] == ["64", "QM-4"]


@pytest.mark.parametrize("searcher", ["optuna", "random"])
def test_a_dry_run_of_a_search_never_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], searcher: str
) -> None:
    path = write_search(tmp_path, searcher=searcher, samples=2)
    code, out, _ = said(capsys, "--space", str(path), "--storage", str(tmp_path / "storage"), "--dry-run")
    assert code == 0 and "nothing to do" not in out and "estimated time: none" not in out
    if searcher == "optuna":
        assert "no sample yet" in out and "2 more samples will be suggested by optuna" in out
        assert "shared with" not in out  # the head of an empty table
    else:
        assert "2 to train" in out


def test_the_version_and_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version")[:2] == (0, f"ablate {ablate.__version__}\n")
    assert commands(["--version"]) == 0 and capsys.readouterr().out == f"ablate {ablate.__version__}\n"
    assert commands([]) == 0
    shown = capsys.readouterr().out
    for name in re.findall(r"python -m (ablate\.\w+)", shown):
        assert import_module(f"{name}.__main__").__doc__
    assert {path.parent.name for path in ROOT.glob("ablate/*/__main__.py")} == set(COMMANDS)
    assert set(re.findall(r"(?<=-m ablate\.)\w+", shown)) == set(COMMANDS)
    assert max(map(len, shown.splitlines())) <= 80
    assert commands(["launch", "--space", "x"]) == 2
    assert "did you mean python -m ablate.launch?" in capsys.readouterr().err
    assert commands(["lanch"]) == 2 and "did you mean 'launch'?" in capsys.readouterr().err


COMMANDS = {
    "launch": [[]], "report": [[]], "status": [[]], "serve": [[]], "bench": [[]],
    "bundle": [[], ["make"], ["verify"], ["page"]],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_fits_eighty_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for sub in COMMANDS[name]:
        told = CliRunner().invoke(import_module(f"ablate.{name}.__main__").app, [*sub, "--help"])
        assert told.exit_code == 0 and [line for line in told.output.splitlines() if len(line) > 80] == []


def test_a_folded_title_stays_in_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.StringIO()
    monkeypatch.setattr(
        "ablate.launch.__main__.open_console", lambda: Console(file=narrow, force_terminal=True, width=50)
    )
    with pytest.raises(SystemExit):
        arguments(["--list"])
    names, titles = zip(*((line[:15].strip(), line[25:]) for line in narrow.getvalue().splitlines()), strict=True)
    assert "" in names and all(titles) and not any(title.startswith(" ") for title in titles)


@pytest.mark.parametrize("name", ["launch", "report", "bench"])
def test_every_command_helps_with_h_and_is_a_script_too(name: str) -> None:
    module = import_module(f"ablate.{name}.__main__")
    short, long = (CliRunner().invoke(module.app, [flag]) for flag in ("-h", "--help"))
    assert short.exit_code == long.exit_code == 0 and short.output == long.output
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    place, _, function = scripts[f"ablate-{name}"].partition(":")
    assert callable(getattr(import_module(place), function))


@pytest.mark.parametrize("name", ["launch", "report", "status", "serve", "bundle", "bench"])
def test_every_option_says_what_it_is_and_what_it_takes(name: str) -> None:
    """And no type of Python stands where a value is meant."""
    command = typer.main.get_command(import_module(f"ablate.{name}.__main__").app)
    for each in getattr(command, "commands", {"": command}).values():
        with each.make_context("ablate", ["--help"], resilient_parsing=True) as context:
            options = [parameter for parameter in each.params if parameter.param_type_name == "option"]
            for words in [option.get_help_record(context) for option in options if not option.hidden]:
                assert words and words[1] and "<" not in words[0]


def test_make_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert targets is not None and ".DEFAULT_GOAL := help" in text
    for target in targets[1].split():
        assert target == "help" or re.search(rf"@echo '.*make {target}[ ,]", text), target
