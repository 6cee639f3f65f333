"""Space files become rows and trials; what is wrong in them is told where it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.core.errors import SpecError
from ablate.spaces import presets as presets_module
from ablate.spaces.loading import load_space, table_names
from ablate.spaces.presets import load_preset
from ablate.spaces.settings import Setting, build_spec, parse_overrides, setting_paths
from ablate.spaces.specs import TrialSpec
from ablate.spaces.trials import expand
from ablate.spaces.yamlfile import flatten

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped files in which a test says what the presets are."""
    folder = tmp_path / "shipped"
    (folder / "presets").mkdir(parents=True)
    (folder / "presets" / "paper.yaml").write_text("set: {}\n")
    monkeypatch.setattr(presets_module, "folder", lambda: folder)
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_space(str(path))
    return str(caught.value)


ROWS = "title: Mine\nrows:\n"


@pytest.mark.parametrize("name", presets_module.space_names())
@pytest.mark.parametrize("preset", presets_module.preset_names())
def test_every_shipped_space_expands_under_every_preset(name: str, preset: str) -> None:
    loaded = load_space(name)
    trials = expand(loaded, load_preset(preset), [], [0, 1])
    assert [(trial.label, trial.seed) for trial in trials] == [
        (row.label, seed) for row in loaded.space.rows for seed in (0, 1)
    ]
    assert loaded.name == name


def test_a_users_own_file_is_a_space_of_its_own(write: Write) -> None:
    loaded = load_space(str(write(ROWS + "  - {label: a}\n", "my_ablation.yaml")))
    assert loaded.name == "my_ablation"
    assert [trial.space for trial in expand(loaded, load_preset("paper"), [], [0])] == ["my_ablation"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("batch_siz", "--space: expected a space's name or a path, got 'batch_siz'; did you mean 'batch_size'?"),
        ("zzz", "valid: all, architecture"),
        ("nowhere/mine.yaml", "got no file 'nowhere/mine.yaml'"),
        ("mine.yaml", "got no file 'mine.yaml'"),
        ("", "--space: expected a space's name"),
        (".", "--space: expected a space's name"),
        ("/", "--space: expected a space's name"),
        ("../batch_size", "--space: expected a space's name"),
        ("x" * 300, "--space: expected a space's name"),
        ("x" * 300 + ".yaml", "--space: expected a space's name"),
        ("a\x00b", "--space: expected a space's name"),
    ],
)
def test_a_space_that_is_not_there(given: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_space(given)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["Mine.yaml", "my-space.yaml", "1st.yaml", "a b.yaml", "x" * 65 + ".yaml"])
def test_a_file_name_that_cannot_name_an_experiment(write: Write, name: str) -> None:
    message = refusal(write(ROWS + "  - {label: a}\n", name))
    assert "expected a file name of small letters, digits and _" in message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("rows:\n  - {label: a}\n", 1, "title: expected a value, got nothing"),
        ("title: T\n", 1, "expected either rows or search, got neither"),
        ("title: T\nrows: []\n", 1, "expected either rows or search, got neither"),
        ("title: T\nrows: {a: 1}\n", 2, "rows: expected a list, got a mapping"),
        ("title: T\ntabel: 2\nrows:\n  - {label: a}\n", 2, "expected a known key, got 'tabel'; did you mean 'table'?"),
        (ROWS + "  - {lable: a}\n", 3, "rows.0.lable: expected a known key, got 'lable'; did you mean 'label'?"),
        (ROWS + "  - {label: 512}\n", 3, "rows.0.label: expected text (quote it), got 512"),
        (ROWS + "  - {label: ''}\n", 3, "rows.0.label: expected at least 1 character, got 0"),
        (ROWS + f"  - {{label: {'x' * 81}}}\n", 3, "rows.0.label: expected at most 80 characters, got 81"),
        (
            ROWS + "  - label: a\n  - label: b\n  - label: a\n",
            5,
            "each row's label once, got 'a' again (first on line 3)",
        ),
        (ROWS + "  - {label: a, published: {natural: high}}\n", 3, "published.natural: expected a number, got 'high'"),
        (ROWS + "  - {label: a, published: {natural: .nan}}\n", 3, "natural: expected a finite number, got nan"),
        (ROWS + "  - label: a\n    set:\n      training.epoch: 3\n", 5, "did you mean 'training.epochs'?"),
        (
            ROWS + "  - label: a\n    set:\n      training.epochs: 0\n",
            5,
            "training.epochs: expected greater than or equal",
        ),
        (ROWS + "  - label: a\n    set:\n      training:\n        epochs: x\n", 5, "training.epochs: expected a whole"),
        (ROWS + "  - {label: a, set: {training: fast}}\n", 3, "training: expected a mapping, got 'fast'"),
        (ROWS + "  - {label: a, set: {seed: 3}}\n", 3, "use --seeds"),
        (ROWS + "  - {label: a}\nbase:\n  epochs: 3\n", 5, "did you mean 'training.epochs'?"),
        (ROWS + "  - {label: a}\nbase: [training.epochs]\n", 4, "base: expected a mapping, got a list"),
        (
            ROWS + "  - label: a\n    set: {measurement.lowpass_degree: 40}\n",
            4,
            "measurement.lowpass_degree of at most data.image_size (32), got 40",
        ),
        (
            ROWS + "  - label: a\n    set:\n      training.epochs: 10\n      training.milestones:\n"
            "        - {epoch: 12, factor: 0.1}\n",
            6,
            "expected milestones before the last epoch (10), got one at epoch 12",
        ),
        (
            ROWS + "  - {label: a}\nsmoke:\n  rows:\n    b: {set: {}}\n",
            6,
            "smoke.rows: expected a row's label, got 'b'; valid: a",
        ),
        (
            ROWS + "  - {label: 'a1'}\n  - {label: b}\nclaims:\n  - {says: no statement}\n",
            6,
            "expected exactly one of",
        ),
        (
            ROWS + "  - {label: a1}\n  - {label: b}\nclaims:\n"
            "  - says: it is\n    above: {row: a, rows: [b], metrics: [pgd20]}\n",
            6,
            "did you mean 'a1'?",
        ),
    ],
)
def test_mistakes_are_told_with_file_line_path_and_the_nearest_name(
    write: Write, text: str, line: int, said: str
) -> None:
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: "), message
    assert said in message


def test_an_unknown_preset_points_to_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"--preset: expected a preset's name, got 'smok'; did you mean 'smoke'"):
        presets_module.load_preset("smok")


def test_a_mistake_in_a_preset_names_its_file_and_line(write: Write, presets: Path) -> None:
    bad = presets / "presets" / "fast.yaml"
    bad.write_text("description: fast\nset:\n  training.epoch: 3\n")
    loaded = load_space(str(write(ROWS + "  - {label: a}\n")))
    with pytest.raises(SpecError, match=r"presets/fast.yaml:3: training.epoch: expected a known setting"):
        expand(loaded, load_preset("fast"), [], [0])


def test_the_later_of_base_row_preset_smoke_smoke_row_and_command_line_wins(write: Write, presets: Path) -> None:
    (presets / "presets" / "smoke.yaml").write_text(
        "section: smoke\nset: {training.weight_decay: 0.03, training.batch_size: 3}\n"
    )
    path = write(
        "title: T\n"
        "base: {training.momentum: 0.01, training.learning_rate: 0.01, training.weight_decay: 0.01,"
        " training.batch_size: 11, training.epochs: 11, training.crop_padding: 1}\n"
        "rows:\n"
        "  - {label: a, set: {training.learning_rate: 0.02, training.weight_decay: 0.02, training.batch_size: 12,"
        " training.epochs: 12, training.crop_padding: 2}}\n"
        "  - {label: b}\n"
        "smoke:\n"
        "  set: {training.batch_size: 14, training.epochs: 14, training.crop_padding: 4}\n"
        "  rows: {a: {set: {training.epochs: 15, training.crop_padding: 5}, note: shortened}}\n"
    )
    a, b = expand(load_space(str(path)), load_preset("smoke"), parse_overrides(["training.crop_padding=6"]), [0])

    def values(spec: TrialSpec) -> list[float]:
        t = spec.training
        return [t.momentum, t.learning_rate, t.weight_decay, t.batch_size, t.epochs, t.crop_padding]

    assert values(a.spec) == [0.01, 0.02, 0.03, 14, 15, 6]
    assert values(b.spec) == [0.01, 0.01, 0.03, 14, 14, 6]
    assert (a.note, b.note) == ("shortened", None)
    paper = expand(load_space(str(path)), load_preset("paper"), [], [0])[0]
    assert values(paper.spec) == [0.01, 0.02, 0.02, 12, 12, 2]
    assert a.where("training.epochs") == f"{path}:8"
    assert a.where("training.momentum") == f"{path}:2"
    assert a.where("training.crop_padding") == "--set training.crop_padding=6"
    assert a.where("training.flip") == f"{path}:4"


def test_dotted_and_nested_settings_are_the_same(write: Write) -> None:
    text = ROWS + (
        "  - {label: a, set: {training.attack.steps: 3, training.attack.eps_255: 4}}\n"
        "  - {label: b, set: {training: {attack: {steps: 3, eps_255: 4}}}}\n"
        "  - {label: c, set: {training.attack: {steps: 3}, training: {attack.eps_255: 4}}}\n"
    )
    a, b, c = expand(load_space(str(write(text))), load_preset("paper"), [], [0])
    assert a.spec == b.spec == c.spec


def test_a_group_set_later_changes_only_what_it_names() -> None:
    def steps(*values: dict[str, Any]) -> tuple[int, float]:
        settings = [Setting(path, value, "x") for value in values for path, value in flatten(value)]
        attack = build_spec(settings, 0, "x").training.attack
        return attack.steps, attack.eps_255

    assert steps({"training.attack.steps": 3}, {"training.attack": {"eps_255": 4}}) == (3, 4)
    assert steps({"training.attack.steps": 3}, {"training.attack": {}}) == (3, 8)
    assert steps({"training.attack.steps": 3}, {"training": {"attack": {}}}) == (3, 8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.epochs", "expected path=value, got 'training.epochs'"),
        ("=3", "expected path=value, got '=3'"),
        (" =3", "expected path=value"),
        ("", "expected path=value"),
        ("training.epochs=[1", "expected a value in YAML, got '[1'"),
        ("training={epochs: 1, epochs: 2}", "expected a value in YAML"),
        ("training.epochs=!!python/object:os.x y", "expected a value in YAML"),
        ("training.epochs=!!bool maybe", "expected a value in YAML"),
    ],
)
def test_a_set_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_overrides([text])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.epoch=3", "expected a known setting, got 'training.epoch'; did you mean 'training.epochs'?"),
        ("epochs=3", "did you mean 'training.epochs'?"),
        ("trainin.epochs=3", "did you mean 'training.epochs'?"),
        ("training.attack.zzz=3", "valid: eps_255, name, network_mode, random_start, step_255, steps"),
        ("zzz=3", "valid: data, measurement, model, seed, training"),
        ("epoch=3", "did you mean 'training.epochs'?"),
        ("training.attack.eps=3", "did you mean 'training.attack.eps_255'?"),
        ("attack.steps=3", "did you mean 'training.attack.steps'?"),
        ("model.bits=4", "did you mean 'model.quantization.bits'?"),
        ("training.epochs.x=4", "expected a known setting"),
        ("seed=3", "use --seeds"),
        ("training.epochs=three", "training.epochs: expected a whole number, got 'three'"),
        ("training.epochs=", "training.epochs: expected a whole number, got nothing"),
        ("training.epochs=3=4", "training.epochs: expected a whole number, got '3=4'"),
        ("training.epochs={}", "training.epochs: expected a whole number, got a mapping"),
        ("training.attack.name=pgf", "did you mean 'pgd'?"),
        ("training={epoch: 3}", "did you mean 'training.epochs'?"),
        ("measurement.lowpass_degree=40", "of at most data.image_size (32), got 40"),
        ("training.milestones=[{epoch: 500, factor: 0.1}]", "got one at epoch 500"),
        ("training.milestones=[{epohc: 5, factor: 0.1}]", "did you mean 'epoch'?"),
        ("measurement.attacks=[pgd20, pgd20]", "expected each name once, got 'pgd20' twice"),
    ],
)
def test_a_set_that_is_refused_names_itself(write: Write, text: str, said: str) -> None:
    loaded = load_space(str(write(ROWS + "  - {label: a}\n")))
    with pytest.raises(SpecError) as caught:
        expand(loaded, load_preset("paper"), parse_overrides([text]), [0])
    assert str(caught.value).startswith(f"--set {text}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.root=/data/imgs #2", "/data/imgs #2"),
        ("data.root= /data/ ", " /data/ "),
        ("data.root = /data", "/data"),
        ("data.root=a=b", "a=b"),
        ("data.root=0512", "0512"),
        ("data.root='/data'", "/data"),
        ('data.root="/d\\u00e4ta"', "/däta"),  # as JSON writes it
        ("data.root='a' 'b'", "'a' 'b'"),
        ("data.root=~", "~"),
        ("data.label=~", None),
        ("data.label=", None),
        ("data.label=null", None),
        ("data.label=a: b", "a: b"),
        ("data.label=[x]", "[x]"),
        ("data.label=512", "512"),
        ("data.label=true", "true"),
        ("model.arch=1e5", "1e5"),
        ("training.attack.name=no", "no"),
        ("search.searcher=on", "on"),
        ("search.samples=8", 8),
    ],
)
def test_a_setting_that_is_text_is_what_stands_after_the_sign(text: str, value: str | None) -> None:
    [setting] = parse_overrides([text])
    assert setting.value == value


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("training.batch_size=010", "a whole number, got '010'; did you mean 10?"),
        ("training.batch_size=0512", "a whole number, got '0512'; did you mean 512?"),
        ("training.batch_size=0x1F", "a whole number, got '0x1F'; did you mean 31?"),
        ("training.batch_size=1_000", "a whole number, got '1_000'; did you mean 1000?"),
        ("training.batch_size=1,000", "a whole number, got '1,000'; did you mean 1000?"),
        ("training.batch_size=64.0", "a whole number, got 64.0; did you mean 64?"),
        ("training.epochs=1:30", "a whole number, got '1:30'; did you mean 90?"),
        ("training.epochs=3 #2", "a whole number, got '3 #2'"),
        ("training.learning_rate=1/2", "a number, got '1/2'; did you mean 0.5?"),
        ("training.attack.eps_255=8/255", "a number, got '8/255'; did you mean 8?"),
        ("model.quantization.fat=no", "true or false, got 'no'; did you mean false?"),
        ("training.flip=True", "true or false, got 'True'; did you mean true?"),
    ],
)
def test_a_number_or_truth_value_that_is_not_spelled_so_is_refused_with_what_is_meant(text: str, got: str) -> None:
    path = text.partition("=")[0]
    with pytest.raises(SpecError) as caught:
        build_spec(parse_overrides([text]), 0, "x")
    assert str(caught.value) == f"--set {text}: {path}: expected {got}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("training.batch_size: 010", "training.batch_size: expected a whole number, got '010'; did you mean 10?"),
        ("training.flip: no", "training.flip: expected true or false, got 'no'; did you mean false?"),
        ("training.attack.eps_255: 8/255", "expected a number, got '8/255'; did you mean 8?"),
        ("training.attack: {eps_255: 0_8.0}", "expected a number, got '0_8.0'; did you mean 8?"),
    ],
)
def test_a_file_that_does_not_spell_numbers_so_is_refused_by_its_line(write: Write, given: str, said: str) -> None:
    path = write(ROWS + f"  - label: '010'\n    set:\n      {given}\n")
    message = refusal(path)
    assert message.startswith(f"{path}:5: ")
    assert said in message


def test_labels_in_quotes_and_what_reads_as_nothing_else_are_text(write: Write) -> None:
    labels = ["'010'", "'no'", "no", "0x1F", "1:30", "2024-01-01"]
    loaded = load_space(str(write(ROWS + "".join(f"  - {{label: {label}}}\n" for label in set(labels) - {"'no'"}))))
    assert {row.label for row in loaded.space.rows} == {"010", "no", "0x1F", "1:30", "2024-01-01"}


def test_set_takes_any_value_in_yaml() -> None:
    settings = parse_overrides(
        ["training.weight_decay=5e-4", " training.flip = false", "training={attack: {steps: 3}}", "data.label=a: b"][:3]
    )
    spec = build_spec(settings, 0, "x")
    assert (spec.training.weight_decay, spec.training.flip, spec.training.attack.steps) == (5e-4, False, 3)


def test_setting_paths_name_groups_and_leaves_once() -> None:
    paths = setting_paths()
    assert len(set(paths)) == len(paths)
    assert {"training", "training.attack", "training.attack.steps", "training.milestones", "seed"} <= set(paths)
    assert not any(path.startswith("training.milestones.") for path in paths)  # a list is set as a whole


def test_a_setting_below_a_value_is_refused_where_it_stands() -> None:
    settings = [Setting("training.attack", "none", "first"), Setting("training.attack.steps", 3, "second")]
    with pytest.raises(SpecError, match=r"second: training.attack.steps: expected a mapping at 'attack', got 'none'"):
        build_spec(settings, 0, "x")


def test_all_goes_through_the_tables_in_their_order() -> None:
    names = table_names()
    assert names[:5] == ["lowpass", "batch_size", "augmentation", "architecture", "bit_width"]
    assert "frequency" in names[5:]
