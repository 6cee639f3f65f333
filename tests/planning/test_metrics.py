"""Names of metrics are looked at before anything is trained: those that nothing has, and those that MLflow refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.attacks import Attack, register_attack
from ablate.core.errors import SpecError
from ablate.core.metric_names import CURVES, LONGEST_NAME, refused
from ablate.core.registry import temporary_registrations
from ablate.launch.cautions import cautions
from ablate.spaces.specs import MeasurementSpec
from ablate.storage.storage import Storage
from tests.support.helpers import launch_here, options_of, plan_of, write_space

CLAIM = "claims:\n  - says: small is better\n    {statement}\n"


def space_with(folder: Path, statement: str, published: str = "pgd20: 40.25") -> Path:
    path = write_space(folder, epochs=1, **{"pgd20: 40.25": published})
    path.write_text(path.read_text() + CLAIM.format(statement=statement))
    return path


def above(*metrics: str) -> str:
    return f"above: {{row: small, rows: [large], metrics: [{', '.join(metrics)}]}}"


def trend(metric: str) -> str:
    return f"trend: {{row: small, metrics: [{metric}]}}"


@pytest.fixture
def own_analyses() -> Iterator[None]:
    """What a test registers is gone after it."""
    with temporary_registrations():
        yield


def nothing(context: AnalysisContext) -> AnalysisResult:
    return AnalysisResult()


@pytest.mark.parametrize(
    ("statement", "place", "meant"),
    [
        (above("natural", "pgd-20"), "claims.0.above.metrics.1", "pgd20"),
        (above("PGD-20"), "claims.0.above.metrics.0", "pgd20"),
        (above("adaptive/pgd2"), "claims.0.above.metrics.0", "adaptive/pgd20"),
        (above("accuracy/pgd20"), "claims.0.above.metrics.0", "pgd20"),
        (above("accuracy_adaptive_best/pgd20"), "claims.0.above.metrics.0", "adaptive/pgd20"),
        (above("best/energy/ratio"), "claims.0.above.metrics.0", "energy/ratio"),
        (above("energy/rato"), "claims.0.above.metrics.0", "energy/ratio"),
        (above("cka/shallow_deeper"), "claims.0.above.metrics.0", "cka/shallow_deep"),
        (above("kernel_spectra/smoothness_grop1"), "claims.0.above.metrics.0", "kernel_spectra/smoothness_group0"),
        ("gain: {rows: [small], over: large, metrics: [natural], than: cw21}", "claims.0.gain.than", "cw20"),
        (trend("train/los"), "claims.0.trend.metrics.0", "train/loss"),
        (trend("loss"), "claims.0.trend.metrics.0", "train/loss"),
    ],
)
def test_a_name_that_nothing_has_is_refused_before_anything_is_trained(
    tmp_path: Path, statement: str, place: str, meant: str
) -> None:
    path = space_with(tmp_path, statement)
    line = len(path.read_text().splitlines())
    with pytest.raises(SpecError) as caught:
        launch_here(options_of(tmp_path, tracking=True, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))
    said = str(caught.value)
    assert said.startswith(f"{path}:{line}: {place}: expected ") and f"did you mean {meant!r}?" in said
    assert sorted(left.name for left in tmp_path.iterdir()) == ["tiny.yaml"]


def test_a_published_name_that_nothing_has_is_refused_with_its_line(tmp_path: Path) -> None:
    path = space_with(tmp_path, above("natural"), published="pgd-20: 40.25")
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "pgd-20" in text)
    with pytest.raises(SpecError, match=rf"tiny\.yaml:{line}: rows\.0\.published\.pgd-20: .* did you mean 'pgd20'"):
        plan_of(options_of(tmp_path))


def test_own_attacks_and_analyses_have_names_and_what_is_not_declared_is_not_refused(
    tmp_path: Path, own_analyses: None
) -> None:
    space_with(tmp_path, above("sizes/mean", "layers/norm3", "norms/other"))
    with pytest.raises(SpecError, match=r"got 'sizes/mean'.*your own are loaded with --import"):
        plan_of(options_of(tmp_path))
    register_analysis("sizes", scalars=["sizes/mean", "layers/norm*"])(nothing)
    with pytest.raises(SpecError, match="got 'norms/other'"):
        plan_of(options_of(tmp_path))
    register_analysis("quiet")(nothing)
    plan_of(options_of(tmp_path))
    for wrong in ("sizes/maen", "layers/norm", "spectrum/share", "fat/mask", "pgd-20", "adaptive/quiet"):
        space_with(tmp_path, above(wrong))
        with pytest.raises(SpecError, match=f"got '{wrong}'"):
            plan_of(options_of(tmp_path))


@pytest.mark.parametrize(
    ("statement", "sets", "told"),
    [
        (above("cw20"), [], "cw20 of 'small', 'large', named by"),
        (above("natural"), ["measurement.attacks=[natural]"], "pgd20 of 'small', named by"),
        (above("adaptive/fgsm"), [], "adaptive/fgsm of 'small', 'large', named by"),
        (above("cka/shallow_deep"), [], "cka/shallow_deep of 'small', 'large', named by"),
        (above("fat/mask_min"), [], "fat/mask_min of 'small', 'large', named by"),
        (above("train/loss"), [], "train/loss of 'small', 'large', named by"),
        (trend("pgd20"), [], "pgd20 of 'small', named by"),
        (trend("validation/robust"), [], "validation/robust of 'small', named by"),
        (above("natural"), [], None),
        (above("energy/ratio"), [], None),
        (above("cka/shallow_deep"), ["measurement.analyses=[cka]"], None),
        (above("kernel_spectra/smoothness_group2"), ["measurement.analyses=[kernel_spectra]"], None),
        (above("adaptive/fgsm"), ["measurement.lowpass_degree=6"], None),
        (trend("train/loss"), [], None),
        (trend("validation/robust"), ["data.validation=0.25"], None),
        (above("fat/mask_min"), ["model.quantization.fat=true"], None),
    ],
)
def test_what_exists_and_is_not_measured_is_told(
    tmp_path: Path, statement: str, sets: list[str], told: str | None
) -> None:
    space_with(tmp_path, statement)
    found = [each for each in cautions(plan_of(options_of(tmp_path, sets=sets))) if "will not be measured" in each]
    if told is None:
        assert found == []
    else:
        assert len(found) == 1 and told in found[0] and found[0].startswith(f"{tmp_path}/tiny.yaml:")


@pytest.mark.parametrize("preset", ["paper", "smoke"])
def test_the_shipped_tables_measure_everything_they_speak_of(tmp_path: Path, preset: str) -> None:
    assert cautions(plan_of(options_of(tmp_path, space=["all"], preset=preset))) == []


def test_the_curves_that_a_trend_may_name_are_those_that_a_training_logs(tmp_path: Path) -> None:
    write_space(tmp_path, epochs=1)
    sets = ["data.validation=0.25", "model.quantization.fat=true", "measurement.attacks=[natural]"]
    assert launch_here(options_of(tmp_path, sets=sets, rows=["small"]))[0] == 0
    storage = Storage(str(tmp_path / "storage"))
    [key] = storage.keys()
    assert {name for entry in storage.history(key) for name in entry["metrics"]} == set(CURVES)


@given(st.text(min_size=1, max_size=250) | st.text(alphabet="ab/. -:_@\n", min_size=1, max_size=8))
@example("pgd@20")
@example("../x")
@example("a//b")
@example("x\n")
@example("p" * (LONGEST_NAME + 1))
def test_what_mlflow_refuses_is_refused(name: str) -> None:
    if refused(name) is None:
        _validate_metric_name(f"accuracy_adaptive_best/{name}")
        _validate_metric_name(name)
    else:
        assert "expected" in str(refused(name))


@pytest.mark.parametrize("name", ["pgd@20", "pgd20!", "../pgd20", "a" * 300])
def test_such_names_are_refused_where_they_are_written_and_where_they_are_registered(tmp_path: Path, name: str) -> None:
    def factory(spec: MeasurementSpec) -> Attack:
        raise NotImplementedError

    with pytest.raises(SpecError, match=r"measurement\.attacks: expected a name"):
        register_attack(name)
    with pytest.raises(SpecError, match=r"measurement\.analyses: expected a name"):
        register_analysis(name)
    with pytest.raises(SpecError, match=r"measurement\.analyses: mine: scalars: expected a name"):
        register_analysis("mine", scalars=[name])
    if len(name) > 250:
        return
    from ablate.spaces.loading import load_space

    path = space_with(tmp_path, above("natural"), published=f"{name}: 40.25")
    with pytest.raises(SpecError, match=r"tiny\.yaml:\d+: rows\.0\.published"):
        load_space(str(path))


def test_an_import_that_registers_such_a_name_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate.core.user_code import import_modules

    (tmp_path / "names_an_attack_badly.py").write_text(
        "from ablate import register_attack\n\n\n@register_attack('pgd@5')\ndef made(spec):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match=r"did you mean 'pgd5'\? \(.*names_an_attack_badly\.py:4\)"):
        import_modules(["names_an_attack_badly"])


def test_a_scalar_that_mlflow_refuses_fails_its_analysis_by_name(tmp_path: Path, own_analyses: None) -> None:
    register_analysis("at_sign")(lambda context: AnalysisResult({"size@first": 1.0}))
    write_space(tmp_path, epochs=1)
    sets = ["measurement.analyses=[at_sign]", "measurement.attacks=[natural]"]
    code, text = launch_here(options_of(tmp_path, sets=sets, rows=["small"]))
    assert code == 1 and "at_sign: expected a name" in " ".join(text.split())
