from __future__ import annotations

import csv
import functools
import io
import shutil
from pathlib import Path

import pytest
import yaml

from ablate.core.errors import SpecError
from ablate.planning.metrics import refuse_unknown
from ablate.report.results import PAPER_BASELINES, published_results
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, judge
from ablate.spaces import presets
from ablate.spaces.loading import load_space
from ablate.spaces.presets import folder, load_preset, preset_names
from ablate.spaces.space import Trial
from ablate.spaces.specs import COLUMNS, TrialSpec
from ablate.spaces.trials import expand

TABLES = """\
space,row,natural,gn,fgsm,pgd20,bim20,tpgd20,cw20
lowpass,32,76.67,71.24,49.34,43.12,43.01,62.45,39.78
lowpass,28,76.60,72.38,49.56,43.76,43.64,62.85,61.06
lowpass,24,76.28,73.34,49.52,44.22,44.12,63.27,64.69
lowpass,20,75.70,73.90,49.57,44.99,44.92,64.03,64.80
lowpass,16,74.18,73.00,49.67,46.12,45.98,64.53,63.83
batch_size,512,75.02,70.70,48.09,42.89,42.87,62.40,40.75
batch_size,256,76.38,70.67,49.43,43.11,43.03,62.30,39.08
batch_size,128,76.89,71.33,50.14,44.31,44.23,63.60,40.58
batch_size,64,75.97,71.54,49.51,43.71,43.72,62.86,40.86
batch_size,32,74.92,69.97,47.05,41.71,41.80,61.77,40.05
augmentation,None,74.91,70.44,47.93,42.13,42.15,62.32,40.64
augmentation,A-mixup,73.98,69.73,45.65,39.87,39.90,58.46,40.31
augmentation,C-mixup,62.66,61.10,43.23,40.89,40.87,56.11,46.29
augmentation,A-cutout,69.72,68.07,35.92,27.61,27.56,52.88,28.46
augmentation,C-cutout,70.10,66.04,41.86,36.49,36.46,57.00,40.84
augmentation,A-cutmix,72.15,67.17,45.84,40.61,40.55,59.38,44.14
augmentation,C-cutmix,62.63,59.37,42.95,40.72,40.75,56.59,48.35
architecture,ResNet-20,76.67,71.24,49.34,43.12,43.01,62.45,39.78
architecture,MobileNet-V2,82.97,75.07,53.41,44.42,44.44,65.25,30.24
architecture,EfficientNet,76.10,71.64,49.02,45.41,45.40,63.91,46.39
architecture,WRN-34-10,85.85,78.54,54.94,44.45,45.60,68.47,26.58
bit_width,QM-32,76.67,71.24,49.34,43.12,43.01,62.45,39.78
bit_width,QM-32 + FAT,74.84,69.41,48.49,43.49,43.47,62.40,42.25
bit_width,QM-4,67.58,65.13,42.16,38.75,38.50,56.81,43.81
bit_width,QM-4 + FAT,74.58,68.98,48.11,42.47,42.80,61.92,38.82
bit_width,QM-2,57.10,54.96,34.92,32.68,32.70,50.51,38.52
bit_width,QM-2 + FAT,70.37,66.79,45.90,40.45,39.99,58.95,39.25
"""
SPACES = {"lowpass": 1, "batch_size": 2, "augmentation": 3, "architecture": 4, "bit_width": 5}
CONTROL = "QM-32, standardized only"
PUBLISHED = {
    (line["space"], line["row"]): {column: float(line[column]) for column in COLUMNS}
    for line in csv.DictReader(io.StringIO(TABLES))
}


@functools.cache
def trials(space: str, preset: str) -> dict[str, Trial]:
    return {trial.label: trial for trial in expand(load_space(space), load_preset(preset), [], [0])}


def training_of(spec: TrialSpec) -> str:
    return spec.model_copy(update={"measurement": TrialSpec().measurement}).model_dump_json()


@pytest.mark.parametrize("space", SPACES)
def test_published_numbers_are_those_of_the_paper(space: str) -> None:
    loaded = load_space(space).space
    assert loaded.table == SPACES[space]
    expected = {row: numbers for (name, row), numbers in PUBLISHED.items() if name == space}
    assert {row.label: row.published for row in loaded.rows if row.published} == expected
    assert [row.label for row in loaded.rows if row.published] == list(expected), "in the paper's order"


def test_only_the_controls_have_no_published_numbers() -> None:
    bare = {row.label for space in SPACES for row in load_space(space).space.rows if not row.published}
    behind_filters = {row.label for row in load_space("lowpass").space.rows} - {str(d) for d in (32, 28, 24, 20, 16)}
    assert bare == {CONTROL, *behind_filters}


def test_the_control_of_table_1_is_its_filters_before_a_natural_network_and_what_they_take_away() -> None:
    rows = trials("lowpass", "paper")
    high = [f"High-pass {degree}{mean}" for degree in (2, 4, 8, 16) for mean in ("", " with mean")]
    for label in ("32", "28", "24", "20", "16", "8", "4", *high):
        robust, natural = rows[label].spec, rows[f"Natural {label[0].lower() + label[1:]}"].spec
        assert natural.measurement.filter == robust.measurement.filter
        assert natural.training.attack.name == "none" and robust.training.attack.name == "pgd"
        assert training_of(natural) == training_of(trials("frequency", "paper")["Natural"].spec)  # no new training
        assert training_of(robust) == training_of(trials("frequency", "paper")["Adversarial"].spec)
        assert ("with mean" in label) == robust.measurement.highpass_keep_mean


def test_the_paper_preset_leaves_the_paper_s_settings() -> None:
    for space in SPACES:
        for row in trials(space, "paper").values():
            assert row.spec.training.epochs == 120
            assert row.spec.data.name == "cifar10"
            papers = (*COLUMNS, "cw20_exact")
            if row.published:
                assert row.spec.measurement.attacks[: len(papers)] == papers  # a space may add what it asks besides
    assert trials("augmentation", "paper")["None"].spec == TrialSpec()


@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_rows_of_all_tables_share_nine_baselines_and_come_to_nineteen_trainings(preset: str) -> None:
    published = {key: training_of(trials(key[0], preset)[key[1]].spec) for key in PUBLISHED}
    assert len(published) == 27
    assert len(set(published.values())) == 19
    baseline = training_of(trials("bit_width", preset)["QM-32"].spec)
    assert sum(training == baseline for training in published.values()) == 9
    assert training_of(trials("bit_width", preset)[CONTROL].spec) not in published.values()


@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_rows_of_a_space_differ_in_what_they_measure_or_train(preset: str) -> None:
    for space in SPACES:
        specs = [trial.spec.model_dump_json() for trial in trials(space, preset).values()]
        assert len(set(specs)) == len(specs), space


def test_a_preset_says_itself_what_it_reads_and_whether_it_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(presets.folder(), tmp_path / "search_spaces")
    monkeypatch.setattr(presets, "folder", lambda: tmp_path / "search_spaces")
    own = tmp_path / "search_spaces" / "presets" / "night.yaml"
    own.write_text("set: {training.epochs: 40}\nsection: smoke\ndecides_claims: false\n")
    degrees = [trial.spec.measurement.lowpass_degree for trial in trials("lowpass", "night").values()]
    assert degrees == [trial.spec.measurement.lowpass_degree for trial in trials("lowpass", "smoke").values()]
    assert [presets.decides_claims(name) for name in ("night", "smoke", "paper", "gone")] == [False, False, True, True]
    own.write_text("set: {training.epochs: 40}\n")
    assert trials("lowpass", "night").keys() == trials("lowpass", "paper").keys()
    assert presets.load_preset("night").preset.section is None and presets.decides_claims("night")
    own.rename(own.with_name("smoke.yaml"))
    assert presets.load_preset("smoke").preset.section is None, "its name says nothing"
    own.write_text("section: smoek\n")
    with pytest.raises(SpecError, match=r"night.yaml:1: section: expected"):
        presets.load_preset("night")


def test_the_defaults_of_a_preset_hold_where_a_space_says_nothing() -> None:
    sizes = {label: trial.spec.training.batch_size for label, trial in trials("batch_size", "reduced").items()}
    assert sizes == {label: int(label) for label in sizes}  # its own subject
    baseline = training_of(trials("batch_size", "reduced")["64"].spec)
    for space, label in (("lowpass", "32"), ("frequency", "Adversarial"), ("bit_width", "QM-32")):
        assert training_of(trials(space, "reduced")[label].spec) == baseline, space
    specs = [trial.spec for space in SPACES for trial in trials(space, "reduced").values()]
    assert all(spec.data.validation == 0.1 and spec.training.epochs == 30 for spec in specs)
    assert presets.decides_claims("reduced")


def test_the_smoke_preset_is_small_and_says_what_it_narrows() -> None:
    for space in SPACES:
        plain, smoke = trials(space, "paper"), trials(space, "smoke")
        for label, trial in smoke.items():
            assert trial.spec.data.name == "digits" and trial.spec.data.image_size == 16
            assert trial.spec.training.epochs <= 12
            # The preset's own description says that its networks have half the width.
            same_network = trial.spec.model == plain[label].spec.model.model_copy(update={"width": 0.5})
            assert same_network or trial.note is not None, f"{space}, {label}: narrowed without a word"
    degrees = [trial.spec.measurement.lowpass_degree for trial in trials("lowpass", "smoke").values()]
    full = [trial.spec.measurement.lowpass_degree for trial in trials("lowpass", "paper").values()]
    assert degrees[:5] == [16, 14, 12, 10, 8]
    assert [degree and 2 * degree for degree in degrees] == full


@pytest.mark.parametrize("space", SPACES)
def test_every_claim_names_rows_and_columns_that_exist(space: str) -> None:
    file = load_space(space)
    loaded = file.space
    labels = [row.label for row in loaded.rows]
    assert loaded.claims
    for claim in loaded.claims:
        assert claim.problems(labels) == []
        assert claim.note, f"{claim.says}: what does the table say?"
    refuse_unknown(file)


@pytest.mark.parametrize(
    ("space", "words", "column", "verdict"),
    [
        ("lowpass", "improved slightly", "cw20", FAILS),
        ("augmentation", "on clean data is more robust", "tpgd20", FAILS),
        ("augmentation", "cannot improve the robustness", "cw20", FAILS),
        ("architecture", "all show better robustness", "cw20", FAILS),
        # Their noise is known from three trainings alone, which is too coarse for these.
        ("architecture", "by the same margin", "pgd20", UNDECIDED),
        ("bit_width", "improves by 3.72% and 7.77%", "pgd20", HOLDS),
        ("bit_width", "There is a big gap", "pgd20", UNDECIDED),
    ],
)
def test_the_published_tables_decide_what_is_beyond_their_noise(
    space: str, words: str, column: str, verdict: str
) -> None:
    loaded = load_space(space).space
    results = published_results({row.label: row.published for row in loaded.rows})
    claim = next(c for c in loaded.claims if words in c.says and column in c.statement.metrics)
    assert judge(claim, results, [row.label for row in loaded.rows]).verdict == verdict


def test_the_noise_of_published_tables_is_that_of_their_three_baselines() -> None:
    baselines = [("lowpass", "32"), ("batch_size", "512"), ("augmentation", "None")]
    assert list(PAPER_BASELINES) == [PUBLISHED[key] for key in baselines]


def test_shipped_files_are_plain_yaml_with_one_line_descriptions() -> None:
    for path in sorted(folder().rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "\n" not in content["description"].strip()
    assert {"paper", "smoke"} <= set(preset_names())
    assert load_preset("paper").preset.set == {}
