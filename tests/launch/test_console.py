"""What the terminal shows of a plan and after a launch."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from ablate import spaces
from ablate.core.text import open_console
from ablate.launch.console import failures, plan_as_json, show_next_steps, show_plan, summary
from ablate.planning.plan import Plan, make_plan
from ablate.report.next_steps import show_live_page, show_watching
from ablate.spaces.presets import load_preset
from ablate.storage.status import TrainingView

DIGITS = ["data.name=digits", "data.image_size=8", "training.batch_size=32", "training.epochs=12"]
ODD = "[bold]QM-32[/bold] [link=x]"


def space_file(folder: Path, name: str, rows: str) -> spaces.SpaceFile:
    path = folder / f"{name}.yaml"
    path.write_text(f"title: The title of {name}\ntable: 2\nrows:\n{rows}")
    return spaces.load_space(str(path))


def plan_of(loaded: list[spaces.SpaceFile], tmp_path: Path, seeds: list[int] | None = None) -> Plan:
    overrides = spaces.parse_overrides(DIGITS)
    seeds = seeds or [0]
    trials = []
    for space in loaded:
        for row in space.space.rows:
            settings = [*(spaces.Setting(path, value, "test") for path, value in row.set.items()), *overrides]
            for seed in seeds:
                spec = spaces.build_spec(settings, seed, "test")
                trials.append(spaces.Trial(space.name, row.label, spec, row.published, row.note, (), "test"))
    return make_plan(loaded, trials, preset=load_preset("paper"), overrides=DIGITS, seeds=seeds, data_root=tmp_path)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two spaces; rows a and b share a training with the other space's row."""
    first = space_file(
        tmp_path,
        "first",
        "  - {label: a}\n"
        "  - {label: b, set: {measurement.lowpass_degree: 4}}\n"
        f"  - {{label: '{ODD}', set: {{training.momentum: 0.5}}}}\n"
        "  - {label: d, set: {training.momentum: 0.6}}\n"
        "  - {label: e, set: {training.momentum: 0.7}}\n"
        "  - {label: f, set: {training.momentum: 0.8}}\n",
    )
    second = space_file(tmp_path, "second", "  - {label: base}\n")
    made = plan_of([first, second], tmp_path)
    one, two, three, four, five = made.trainings.values()
    one.action = "reuse"
    two.action, two.epoch = "continue", 7
    three.action, three.failure = "failed", "loss became nan in epoch 3 [red]see[/red] " + "x" * 150
    four.action = "wait"
    five.action = "train"
    return made


def shown(plan: Plan, width: int, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    show_plan(plan, Console(file=stream, width=width, force_terminal=terminal, highlight=False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 100])
def test_plan_fits_the_width_and_has_no_escape_codes_in_a_file(plan: Plan, width: int) -> None:
    text = shown(plan, width)
    assert "\x1b" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [60, 100])
def test_of_many_spaces_a_line_each_is_shown_whose_trainings_add_up(tmp_path: Path, width: int) -> None:
    loaded = [space_file(tmp_path, f"space_{n}", f"  - {{label: row-{n}}}\n  - {{label: base}}\n") for n in range(5)]
    loaded[0] = space_file(
        tmp_path, "space_0", "  - {label: row-0, set: {training.momentum: 0.5}}\n  - {label: base}\n"
    )
    made = plan_of(loaded, tmp_path)
    for training in made.trainings.values():
        training.action = "train"
    lines = shown(made, width).splitlines()
    found = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("space_")}
    assert found["space_0"] == "2 2 2 0 2 to train"
    assert all(found[f"space_{n}"] == "2 2 1 1" for n in range(1, 5))
    assert "row-0" not in "".join(lines) and any("--space NAME --dry-run" in line for line in lines)
    assert max(cell_len(line) for line in lines if "python" not in line) <= width
    assert "row-0" in shown(plan_of(loaded[:3], tmp_path), width)


def test_plan_colours_a_terminal(plan: Plan) -> None:
    assert "\x1b[" in shown(plan, 100, terminal=True)


def test_plan_names_every_row_training_and_action(plan: Plan) -> None:
    lines = shown(plan, 120).splitlines()
    keys = list(plan.trainings)
    for label, key, action in [
        ("a", keys[0], "reuse"),
        ("b", keys[0], "reuse"),
        (ODD, keys[1], "continue from epoch 7 of 12"),
        ("d", keys[2], "failed, see below"),
        ("e", keys[3], "wait"),
        ("f", keys[4], "train 12 epochs"),
        ("base", keys[0], "reuse"),
    ]:
        assert any(line.strip().startswith(label) and key[:8] in line and action in line for line in lines), label


def test_plan_says_which_rows_share_a_training(plan: Plan) -> None:
    lines = shown(plan, 100).splitlines()
    assert any(line.startswith("a ") and line.rstrip().endswith(" b, second/base") for line in lines)
    assert any(line.startswith("b ") and line.rstrip().endswith(" as a") for line in lines)
    assert any(line.startswith("base ") and "first/a, first/b" in line for line in lines)
    assert not any(line.startswith("f ") and "first/" in line for line in lines)


def test_markup_in_labels_and_reasons_is_shown_as_it_is(plan: Plan) -> None:
    text = shown(plan, 200)
    assert ODD in text
    assert "first/d: failed: loss became nan in epoch 3 [red]see[/red]" in text


def test_summary_counts_rows_trials_trainings_and_savings(plan: Plan) -> None:
    assert summary(plan) == (
        "7 rows, 7 trials, 5 distinct trainings (one for each trial: 2 more): "
        "1 to reuse, 1 to continue, 1 to train, 1 waiting, 1 failed"
    )


def test_seeds_are_trials_of_their_own(tmp_path: Path) -> None:
    loaded = space_file(tmp_path, "own", "  - {label: a}\n")
    made = plan_of([loaded], tmp_path, seeds=[0, 1])
    assert summary(made) == "1 row, 2 trials, 2 distinct trainings: 2 to train"
    assert [row["seed"] for row in plan_as_json(made)["trials"]] == [0, 1]


def test_trained_but_not_measured_says_how_much_is_to_measure(plan: Plan) -> None:
    training = list(plan.trainings.values())[1]
    training.view = TrainingView(training.key, epoch=12, finished=True, has_checkpoint=True)
    training.missing = frozenset({"x", "y"})
    assert "2 measurements to go" in shown(plan, 120)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ((False, False), "2 trainings failed:"),
        ((False, True), "1 training failed, 1 lacks measurements, which failed:"),
        ((True,), "1 training lacks measurements, which failed:"),
        ((True, True), "2 trainings lack measurements, which failed:"),
    ],
)
def test_a_training_that_is_whole_is_not_said_to_have_failed(
    plan: Plan, tmp_path: Path, whole: tuple[bool, ...], said: str
) -> None:
    for training in plan.trainings.values():
        training.action = "reuse"
    for training, finished in zip(plan.trainings.values(), whole, strict=False):
        training.action, training.failure = "failed", "pgd20: expected finite logits"
        training.view = TrainingView(training.key, epoch=12, finished=finished, has_checkpoint=True)
    assert said in steps(plan, tmp_path, None)


def test_json_is_plain_and_agrees_with_the_plan(plan: Plan) -> None:
    again = json.loads(json.dumps(plan_as_json(plan)))
    assert again["id"] == plan.id
    assert [trial["training"] for trial in again["trials"]] == [planned.training for planned in plan.trials]
    assert {key: training["action"] for key, training in again["trainings"].items()} == {
        key: training.action for key, training in plan.trainings.items()
    }
    assert again["summary"]["saved"] == 2
    assert sum(again["summary"][action] for action in ("reuse", "continue", "train", "wait", "failed")) == 5


def steps(plan: Plan, folder: Path, uri: str | None, **options: object) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=60, highlight=False)
    given = {"pages": (), "storage": "./storage", "interrupted": False, **options}
    with contextlib.chdir(folder):
        show_next_steps(plan, console, tracking_uri=uri, **given)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("absolute", [False, True])
def test_the_default_store_needs_a_plain_mlflow_ui(plan: Plan, tmp_path: Path, absolute: bool) -> None:
    text = steps(plan, tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}" if absolute else "sqlite:///mlflow.db")
    assert "mlflow ui\n" in text
    assert "--tracking-uri" not in text
    assert "-m ablate.report --space first\n" in text
    assert "-m ablate.report --space second\n" in text


def test_another_store_is_named_in_both_commands(plan: Plan, tmp_path: Path) -> None:
    uri = "sqlite:////elsewhere/with a very long path that no terminal of sixty columns has room for/mlflow.db"
    text = steps(plan, tmp_path, uri)
    assert f"mlflow ui --backend-store-uri '{uri}'\n" in text  # never broken over lines
    assert f"--space first --tracking-uri '{uri}'\n" in text


def test_an_old_file_store_or_the_environment_would_win_over_the_default(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "mlruns" / "0"
    old.mkdir(parents=True)
    assert "--backend-store-uri" not in steps(plan, tmp_path, "sqlite:///mlflow.db")
    (old / "meta.yaml").write_text("")
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in steps(plan, tmp_path, "sqlite:///mlflow.db")
    (old / "meta.yaml").unlink()
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:///other.db")
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in steps(plan, tmp_path, "sqlite:///mlflow.db")


def test_the_report_needs_no_uri_that_the_environment_gives(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert "--tracking-uri" not in steps(plan, tmp_path, "http://server:5000")
    assert "--tracking-uri sqlite:///mlflow.db" in steps(plan, tmp_path, "sqlite:///mlflow.db")


def test_a_server_is_opened_not_started_and_its_password_not_printed(plan: Plan, tmp_path: Path) -> None:
    text = steps(plan, tmp_path, "https://me:secret@server:5000")
    assert "https://***@server:5000" in text
    assert "secret" not in text
    assert "mlflow ui" not in text


PAGES = [("/#/experiments/1/runs?a=b", "/#/compare-runs?runs=%5B%22" + "0" * 90), ("/#/experiments/2/runs", "/#/two")]


def test_where_runs_and_compare_are_is_whole_addresses_of_a_server(plan: Plan, tmp_path: Path) -> None:
    text = steps(plan, tmp_path, "https://me:secret@server:5000/", pages=PAGES)
    for path in (path for pages in PAGES for path in pages):
        assert f"  https://server:5000{path}\n" in text  # never broken over lines
    assert "secret" not in text


def test_a_launch_can_be_watched_where_a_server_runs() -> None:
    told = {}
    for uri in ("https://me:secret@server:5000", "sqlite:///mlflow.db"):
        show_watching(Console(file=(stream := io.StringIO()), width=60), uri, PAGES)
        told[uri[:5]] = stream.getvalue()
    assert "  https://server:5000/#/experiments/1/runs?a=b\n" in told["https"] and "compare" not in told["https"]
    assert told["sqlit"] == ""


def test_a_launch_can_be_watched_in_a_browser_by_a_command_that_finds_its_storage() -> None:
    told = {}
    for storage in ("./storage", "my results", "s3://bucket/a"):
        show_live_page(Console(file=(stream := io.StringIO()), width=60), storage)
        told[storage] = shlex.split(stream.getvalue().splitlines()[1])
    assert all(words[1:3] == ["-m", "ablate.serve"] for words in told.values())
    assert [words[3:] for words in told.values()] == [[], ["--storage", "my results"], ["--storage", "s3://bucket/a"]]


def test_where_nothing_can_be_compared_nothing_is_said_of_it(plan: Plan, tmp_path: Path) -> None:
    for uri in ("https://server:5000", "sqlite:///mlflow.db"):
        assert "compare" not in steps(plan, tmp_path, uri, pages=[("/#/experiments/1/runs", "")])


def test_where_runs_and_compare_are_is_told_behind_the_command_that_opens_them(plan: Plan, tmp_path: Path) -> None:
    lines = steps(plan, tmp_path, "sqlite:///mlflow.db", pages=PAGES).splitlines()
    command = next(number for number, line in enumerate(lines) if line.endswith("mlflow ui"))
    told = [line.strip() for line in lines[command + 1 :] if line.startswith("  /#/")]
    assert told == [PAGES[0][0], PAGES[1][0], PAGES[0][1], PAGES[1][1]]


def test_failures_are_listed_with_their_reasons_and_how_to_go_on(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ablate/launch/__main__.py", "--space", "first"])
    command = " -m ablate.launch --space first"
    text = steps(plan, tmp_path, "sqlite:///mlflow.db")
    assert "first/d: failed: loss became nan in epoch 3 [red]see[/red]" in " ".join(text.split())
    assert f"{command}\n" in text
    assert f"{command} --retry-failed\n" in text
    [key] = [key for key, training in plan.trainings.items() if training.action == "failed"]
    assert f"-m ablate.status --log {key[:8]}\n" in text
    elsewhere = steps(plan, tmp_path, "sqlite:///mlflow.db", storage="/data/my storage")
    assert f"-m ablate.status --storage '/data/my storage' --log {key[:8]}\n" in elsewhere
    assert "3 trainings to go" in text
    [(rows, reason)] = failures(plan)
    assert rows == "first/d"
    assert reason.startswith("loss became nan")


def test_when_all_is_done_only_the_two_next_commands_are_left(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ablate/launch/__main__.py"])
    for training in plan.trainings.values():
        training.action = "reuse"
    text = steps(plan, tmp_path, "sqlite:///mlflow.db")
    assert "-m ablate.launch" not in text
    assert "retry" not in text
    assert "mlflow ui" in text


def test_without_tracking_it_says_how_to_send_the_numbers(plan: Plan, tmp_path: Path) -> None:
    text = steps(plan, tmp_path, None, storage="my folder")
    assert f"ablate.report --sync --storage 'my folder' --plan {plan.id}\n" in text


def test_open_console_is_no_terminal_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    out = open_console(stream)
    assert not out.is_terminal
    out.print("a · b", style="red")
    stream.flush()
    assert stream.buffer.getvalue() == b"a ? b\n"  # type: ignore[attr-defined]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, _Terminal])
def test_no_character_of_a_text_steers_the_terminal(stream: type[io.StringIO]) -> None:
    given = "a\x1b]0;owned\x07b\x1b[2Jc\x9bd\u202ee\x7f\tf\ng\rh"
    out = open_console(stream())
    for what in (given, Text(given, style="bold"), Text(f"expected a name, got {given!r}"), Group(given, Text(given))):
        out.print(what, markup=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.file.getvalue())  # type: ignore[attr-defined]  # rich's own styles
    assert [letter for letter in text if not letter.isprintable() and letter not in "\n\t"] == []
    assert text.count("owned") == 5
