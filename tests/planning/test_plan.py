"""What a launch decides: which rows share, and reuse, continue, train, wait or failed from what storage holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ablate import spaces
from ablate.analysis.registry import AnalysisResult, register_analysis
from ablate.attacks import Natural, register_attack
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.learning.augmentation import register_augmentation
from ablate.learning.cost import measurement_cost
from ablate.learning.objectives import register_objective
from ablate.planning import keys
from ablate.planning.plan import Plan, decide, make_plan
from ablate.spaces.planned_measurement import PlannedMeasurement
from ablate.spaces.specs import MeasurementSpec
from ablate.storage.origins import FOLDER, LAYOUT, Origin, write_first
from ablate.storage.records import Record
from ablate.storage.storage import Storage
from tests.support.helpers import BATCH, write_space

TABLES = ("lowpass", "batch_size", "augmentation", "architecture", "bit_width")


def plan_of(names: list[str], folder: Path, *sets: str, seeds: tuple[int, ...] = (0,), preset: str = "paper") -> Plan:
    loaded = [spaces.load_space(name) for name in names]
    overrides = spaces.parse_overrides(sets)
    trials = [trial for space in loaded for trial in spaces.expand(space, spaces.load_preset(preset), overrides, seeds)]
    return make_plan(
        loaded, trials, preset=spaces.load_preset(preset), overrides=list(sets), seeds=list(seeds), data_root=folder
    )


def test_the_paper_needs_no_data_to_be_planned_and_shares_its_baseline(tmp_path: Path) -> None:
    plan = plan_of(list(TABLES), tmp_path)
    published = [trial for trial in plan.trials if trial.trial.published]
    assert len(published) == 27
    assert len({trial.training for trial in published}) == 19
    assert max(Counter(trial.training for trial in published).values()) == 9
    assert list(tmp_path.iterdir()) == []


def test_bit_width_after_lowpass_trains_six_more_networks(tmp_path: Path) -> None:
    first, second = plan_of(["lowpass"], tmp_path), plan_of(["bit_width"], tmp_path)
    assert len(first.trainings) == 2  # the robust and the natural one
    assert len(second.trainings.keys() - first.trainings.keys()) == 6


def test_natural_and_adversarial_training_of_figure_5_share_the_baseline(tmp_path: Path) -> None:
    both = plan_of(["frequency", "lowpass"], tmp_path)
    assert len(both.trainings) == 2


def test_a_plan_is_named_by_what_it_trains_and_measures(tmp_path: Path) -> None:
    plan = plan_of(["batch_size"], tmp_path)
    assert plan.id == plan_of(["batch_size"], tmp_path / "elsewhere").id
    others = [
        plan_of(["batch_size"], tmp_path, seeds=(1,)),
        plan_of(["batch_size"], tmp_path, "training.epochs=3"),
        plan_of(["batch_size"], tmp_path, "measurement.eps_255=4"),
        plan_of(["batch_size"], tmp_path, preset="smoke"),
        plan_of(["lowpass"], tmp_path),
    ]
    assert len({plan.id, *(other.id for other in others)}) == 6


def test_measuring_otherwise_keeps_the_training(tmp_path: Path) -> None:
    plain, other = plan_of(["lowpass"], tmp_path), plan_of(["lowpass"], tmp_path, "measurement.eps_255=4")
    (a, natural), (b, other_natural) = plain.trainings.values(), other.trainings.values()
    assert a.key == b.key and natural.key == other_natural.key
    shared = a.measurements.keys() & b.measurements.keys()
    names = {a.measurements[key].name for key in shared}
    assert {"natural", "gn", "cw20"} <= names and not {"fgsm", "pgd20"} & names


def test_networks_beside_the_rows_own_get_the_columns_that_are_named(tmp_path: Path) -> None:
    sets = ("data.validation=0.1", "training.ema.decay=0.9", "data.name=digits", "data.image_size=8")
    whole = plan_of(["frequency"], tmp_path, *sets).trials[0]
    few = plan_of(["frequency"], tmp_path, *sets, "measurement.others=[natural, pgd20]").trials[0]
    own = {name: key for name, key in whole.columns.items() if name.startswith("accuracy/")}
    beside = [f"accuracy_{which}/{name}" for which in ("best", "ema", "ema_best") for name in ("natural", "pgd20")]
    assert few.columns.items() <= whole.columns.items() and few.training == whole.training  # keys stay as they are
    assert set(few.columns) == {*own, *beside}
    assert set(few.analyses) == {name for name in whole.analyses if not name.endswith(("_best", "_ema"))}
    assert plan_of(["frequency"], tmp_path, *sets, "measurement.others=[]").trials[0].columns == own
    alone = ("measurement.network=ema", "measurement.others=[]")  # then it is the row's own, with all of it
    assert len(plan_of(["frequency"], tmp_path, *sets, *alone).trials[0].columns) == len(own)


def test_where_results_came_from_is_read_once_for_a_plan_and_what_joins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = plan_of([str(write_space(tmp_path))], tmp_path), Storage(str(tmp_path / "storage"))
    keys, listed, list_files = list(plan.trainings), list[str](), storage.files.list
    attempt = storage.attempt(keys[0])
    attempt.save_checkpoint(1, b"one", [])
    origin = Origin(layout=LAYOUT, kind="bundle", name="b.zip", digest="", taken_ms=0, attempts=[attempt.name])
    write_first(storage.files, keys[0], origin)
    monkeypatch.setattr(storage.files, "list", lambda path: listed.append(path) or list_files(path))
    decide(plan, storage, only=keys[:1])  # it joins
    assert plan.trainings[keys[0]].origin == "bundle b.zip" and listed.count(FOLDER) == 1
    decide(plan, storage)
    assert [training.origin for training in plan.trainings.values()] == ["bundle b.zip", *[""] * (len(keys) - 1)]
    assert listed.count(FOLDER) == 2
    for key in keys:
        decide(plan, storage, only=[key])  # as a queue does
    assert plan.trainings[keys[0]].origin == "bundle b.zip" and listed.count(FOLDER) == 2


def test_every_state_of_storage_has_its_action(tmp_path: Path) -> None:
    plan = plan_of([str(write_space(tmp_path))], tmp_path)
    storage = Storage(str(tmp_path / "storage"))
    key = next(iter(plan.trainings))
    training = plan.trainings[key]

    def action(**options: object) -> str:
        decide(plan, storage, **options)  # type: ignore[arg-type]
        return training.action

    assert action() == "train"
    assert action(held_elsewhere=lambda asked: asked == key) == "wait"
    attempt = storage.attempt(key)
    attempt.save_checkpoint(1, b"one", [])
    assert action() == "continue" and training.epoch == 1
    storage.attempt(key).save_stopped(1)
    assert action() == "continue"  # a table wants it whole
    plan.search = True
    assert action() == "stopped"
    plan.search = False
    attempt = storage.attempt(key)
    attempt.save_failure("the loss became nan", "", 0)
    assert action() == "failed" and training.failure == "the loss became nan"
    assert action(retry_failed=True) == "continue"
    again = storage.attempt(key)
    again.save_checkpoint(2, b"two", [], finished=True)
    assert action() == "continue" and training.missing == frozenset(training.measurements)
    for measurement in training.measurements:
        again.save_record(Record(measurement, {"accuracy": 50.0}))
    assert action() == "reuse"
    assert action(held_elsewhere=lambda asked: True) == "reuse"


def test_a_batch_larger_than_the_data_names_the_line_that_set_it(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    space.write_text(space.read_text().replace(f"training.batch_size: {BATCH}", "training.batch_size: 4096"))
    with pytest.raises(SpecError, match=r"tiny.yaml:2: training.batch_size: expected at most .* got 4096"):
        plan_of([str(space)], tmp_path)
    with pytest.raises(SpecError, match=r"--set training.batch_size=2000"):
        plan_of([str(write_space(tmp_path))], tmp_path, "training.batch_size=2000")


YARDSTICK = "measurement.attacks=[natural, pgd20, apgd_ce, square, aa, worst]"


def columns_of(folder: Path, *sets: str) -> dict[str, str]:
    return dict(plan_of(["batch_size"], folder, *sets).trials[0].columns)


def test_queries_and_images_enter_the_keys_of_what_they_change_and_away_from_their_defaults(tmp_path: Path) -> None:
    plain = columns_of(tmp_path, YARDSTICK)
    queries = columns_of(tmp_path, YARDSTICK, "measurement.square_queries=100")
    images = columns_of(tmp_path, YARDSTICK, "measurement.images=1000")

    def changed(other: dict[str, str]) -> set[str]:
        return {name.removeprefix("accuracy/") for name, key in other.items() if key != plain[name]}

    assert changed(queries) == {"square", "aa", "worst"}
    assert changed(images) == {"apgd_ce", "square", "aa", "worst"}
    assert changed(columns_of(tmp_path, YARDSTICK, "measurement.images=10000")) == set()  # that is all of them


def test_the_precision_of_searches_enters_the_keys_of_what_asks_a_network(tmp_path: Path) -> None:
    columns = "measurement.attacks=[natural, gn, pgd20, aa, worst]"
    analyses = "measurement.analyses=[spectrum, heat_map]"

    def keys_of(*sets: str) -> dict[str, str]:
        trial = plan_of(["batch_size"], tmp_path, columns, analyses, *sets).trials[0]
        return {**trial.columns, **trial.analyses}

    plain, other = keys_of(), keys_of("measurement.precision=bfloat16")
    assert keys_of("measurement.precision=float32") == plain
    changed = {name.removeprefix("accuracy/") for name, key in other.items() if key != plain[name]}
    assert changed == {"pgd20", "aa", "worst"}


def test_what_a_measurement_is_made_with_enters_its_key_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*sets: str) -> dict[str, str]:
        trial = plan_of(["batch_size"], tmp_path, *sets, "measurement.analyses=[spectrum, corruptions]").trials[0]
        return {**trial.columns, **trial.analyses}

    plain = made()
    columns, analyses = {name for name in plain if name.startswith("accuracy/")}, {"spectrum", "corruptions"}
    assert set(plain) == columns | analyses

    def changed(*sets: str) -> set[str]:
        return {name for name, key in made(*sets).items() if key != plain[name]}

    assert changed("measurement.batch_size=7") == {"accuracy/cw20"}
    for what, named in (("attack_source", columns), ("analysis_source", analyses)):
        with monkeypatch.context() as other:
            other.setattr(f"ablate.planning.plan.{what}", lambda name: "code of a user's own")
            assert changed() == named
    monkeypatch.setattr(
        "ablate.planning.plan.load_official", lambda *of: {"fog": np.zeros((5, 1, 3, 32, 32), np.uint8)}
    )
    with_official = changed(), made()["corruptions"]
    monkeypatch.setattr("ablate.planning.plan.load_official", lambda *of: {"fog": np.ones((5, 1, 3, 32, 32), np.uint8)})
    assert changed() == with_official[0] == {"corruptions"} and made()["corruptions"] != with_official[1]


def test_a_column_made_of_others_hangs_on_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = columns_of(tmp_path, YARDSTICK)
    monkeypatch.setitem(keys.MEASUREMENT_RECIPES, "fab_t", 2)
    mended = columns_of(tmp_path, YARDSTICK)
    assert {name for name in plain if plain[name] != mended[name]} == {"accuracy/aa", "accuracy/worst"}
    fewer = columns_of(tmp_path, "measurement.attacks=[natural, pgd20, aa, worst]")
    assert fewer["accuracy/aa"] == mended["accuracy/aa"] and fewer["accuracy/worst"] != mended["accuracy/worst"]


def test_what_aa_and_worst_cannot_be_made_of_is_refused_with_its_line(tmp_path: Path) -> None:
    with temporary_registrations():
        register_attack("silent")(lambda spec: Silent(name="silent"))
        with pytest.raises(SpecError, match=r"measurement.attacks: worst: expected .* declare its threat .* 'silent'"):
            plan_of(["batch_size"], tmp_path, "measurement.attacks=[pgd20, silent, worst]")


class Silent(Natural):
    """Says nothing of its ball."""

    threat = None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("training.objective=mart", "hard labels with training.objective: mart"),
        ("training.label_smoothing=0.1", "hard labels with training.label_smoothing"),
    ],
)
def test_an_augmentation_of_ones_own_that_mixes_labels_is_refused_where_they_have_to_be_hard(
    tmp_path: Path, settings: str, words: str
) -> None:
    sets = ["training.augmentation.name=soften", "training.augmentation.order=clean", settings]
    with temporary_registrations():
        register_augmentation("soften")(lambda images, targets, draws, spec: (images, 0.9 * targets + 0.01))
        with pytest.raises(SpecError, match=f"^--set .*: expected {words}, got .*soften, which mixes them$"):
            plan_of(["batch_size"], tmp_path, *sets)
        register_augmentation("darken")(lambda images, targets, draws, spec: (0.5 * images, targets))
        sets[0] = "training.augmentation.name=darken"
        assert len(plan_of(["batch_size"], tmp_path, *sets).trainings) == 5


def test_an_objective_of_ones_own_that_needs_hard_labels_refuses_shipped_mixing_too(tmp_path: Path) -> None:
    sets = ["training.augmentation.name=mixup", "training.augmentation.order=clean", "training.objective=first_label"]
    with temporary_registrations():
        register_objective("first_label", hard_labels=True)(lambda batch: batch.adversarial_logits.sum())
        with pytest.raises(SpecError, match=r"expected hard labels with training\.objective: first_label, got .*mixup"):
            plan_of(["batch_size"], tmp_path, *sets)


def test_an_analysis_is_measured_anew_for_the_settings_it_names_alone(tmp_path: Path) -> None:
    analyses = "measurement.analyses=[spectrum, heat_map]"

    def made(*sets: str) -> dict[str, str]:
        return dict(plan_of(["batch_size"], tmp_path, analyses, *sets).trials[0].analyses)

    plain = made()
    for sets, changed in (
        ("measurement.heat_map_norm=2", "heat_map"),
        ("measurement.heat_map_images=100", "heat_map"),
        ("measurement.eps_255=4", "spectrum"),  # it looks at PGD-20's examples
    ):
        other = made(sets)
        assert {name for name in plain if plain[name] != other[name]} == {changed}, sets


def test_an_analysis_that_names_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    with temporary_registrations():
        register_analysis("mine", settings=["heat_map_nrom"])(lambda context: AnalysisResult())
        with pytest.raises(SpecError, match="got 'heat_map_nrom'; did you mean 'heat_map_norm'"):
            plan_of(["batch_size"], tmp_path, "measurement.analyses=[mine]")


def test_an_analysis_is_foreseen_with_the_cost_that_it_declares() -> None:
    spec = MeasurementSpec(heat_map_images=50)

    def cost(name: str) -> float:
        return measurement_cost(PlannedMeasurement("k", "analysis", name, "last", None, False, spec), 1000, 32)

    assert cost("heat_map") == 50 * (1 + 514)
    with temporary_registrations():
        register_analysis("mine", settings=["heat_map_images"], passes=lambda asked, images, size: images + size)(
            lambda context: AnalysisResult()
        )
        register_analysis("silent")(lambda context: AnalysisResult())
        assert cost("mine") == 1032
        assert cost("silent") == cost("spectrum") == 1000 * 41


def test_an_attack_that_leaves_broken_images_alone_is_foreseen_with_less_than_it_may_take() -> None:
    def cost(name: str, *, at_most: bool) -> float:
        asked = PlannedMeasurement("k", "attack", name, "last", None, False, MeasurementSpec())
        return measurement_cost(asked, 1000, 32, at_most=at_most)

    for name in ("natural", "gn", "fgsm", "pgd20", "tpgd20", "cw20"):  # each image costs them the same
        assert cost(name, at_most=False) == cost(name, at_most=True), name
    for name in ("square", "apgd_ce", "apgd_t", "fab_t", "aa"):
        assert cost(name, at_most=False) < cost(name, at_most=True), name
    assert cost("square", at_most=True) == 1000 * 5001
