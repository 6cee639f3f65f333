"""One name of a metric, in tables and in runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import ablate
from ablate.analysis.registry import AnalysisContext, AnalysisResult, register_analysis
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.spaces.metrics import (
    Metric,
    Network,
    analysis_label,
    from_analysis_label,
    from_array,
    is_accuracy,
    meant_by,
    refused_scalar,
    scalar_of,
)
from tests.support.helpers import launch_here, options_of, plan_of, write_space

networks = st.sampled_from(["last", "best", "ema", "ema_best", "epoch:60"])
words = st.text(alphabet="abest_0:. -", min_size=1, max_size=12) | st.sampled_from(
    ["best", "adaptive", "accuracy", "ema", "ema_best", "epoch:60"]
)
columns = words
slashed = st.lists(words, min_size=2, max_size=3).map("/".join)
accuracies = st.builds(Metric, columns | slashed, networks, st.booleans())
scalars = st.builds(Metric, words | slashed, networks, accuracy=st.just(False))


@given(accuracies | scalars)
@example(Metric("pgd20", "best", adaptive=True))
@example(Metric("accuracy_gap/mean", accuracy=False))
@example(Metric("best/pgd20", "best"))
def test_what_runs_call_it_says_everything(metric: Metric) -> None:
    assume(metric.accuracy or refused_scalar(metric.column) is None)
    assert Metric.from_run(metric.run_name) == metric


@given(words | slashed)
def test_every_name_of_a_run_is_of_one_metric(name: str) -> None:
    assert Metric.from_run(name).run_name == name


@given(
    st.builds(Metric, columns, networks, st.booleans()) | st.builds(Metric, slashed, networks, accuracy=st.just(False))
)
def test_what_tables_call_it_says_all_but_the_network(metric: Metric) -> None:
    assume(metric.accuracy or refused_scalar(metric.column) is None)
    assert Metric.from_name(metric.name, metric.network) == metric
    assert is_accuracy(metric.name) == metric.accuracy


@pytest.mark.parametrize(
    ("name", "run_name", "of_best"),
    [
        ("pgd20", "accuracy/pgd20", "accuracy_best/pgd20"),
        ("adaptive/pgd20", "accuracy_adaptive/pgd20", "accuracy_adaptive_best/pgd20"),
        ("energy/ratio", "energy/ratio", "best/energy/ratio"),
    ],
)
def test_the_names_of_earlier_versions_stay(name: str, run_name: str, of_best: str) -> None:
    assert (Metric.from_name(name).run_name, Metric.from_name(name, "best").run_name) == (run_name, of_best)
    assert [Metric.from_run(each).name for each in (run_name, of_best)] == [name, name]
    assert meant_by(name) is None and meant_by(of_best) == Metric.from_name(name, "best")


@given(words, networks, words)
def test_an_analysis_and_its_arrays_say_which_network(analysis: str, network: Network, array: str) -> None:
    assume(not re.search("_(best|ema|epoch:[0-9]+)$", analysis))
    label = analysis_label(analysis, network)
    assert from_analysis_label(label) == (analysis, network)
    assert from_array(f"{label}/{array}") == (f"{analysis}/{array}", network)
    assert scalar_of(label, array) == Metric(array, network, accuracy=False)


@pytest.fixture(autouse=True)
def _known_analyses_stay() -> Iterator[None]:
    with temporary_registrations():
        yield


def nothing(context: AnalysisContext) -> AnalysisResult:
    return AnalysisResult({"best/size": 1.0})


@pytest.mark.parametrize(
    ("name", "declared", "said"),
    [
        ("kernel_best", None, "did you mean 'kernel'"),
        ("kernel_ema_best", None, "did you mean 'kernel'"),
        ("mine", ["best/size"], "another network, got 'best/size'"),
        ("mine", ["accuracy/size"], "got 'accuracy/size'"),
        ("mine", ["adaptive/size"], "got 'adaptive/size'"),
    ],
)
def test_names_that_would_be_taken_for_other_numbers_are_refused_before_anything_is_trained(
    tmp_path: Path, name: str, declared: list[str] | None, said: str
) -> None:
    register_analysis(name, scalars=declared)(nothing)
    write_space(tmp_path)
    with pytest.raises(SpecError, match=r"--set measurement\.analyses.*" + re.escape(said)):
        plan_of(options_of(tmp_path, sets=[f"measurement.analyses=[{name}]"]))


def test_a_scalar_that_was_not_declared_and_would_be_taken_for_another_number_fails_its_analysis(
    tmp_path: Path,
) -> None:
    register_analysis("mine")(nothing)
    write_space(tmp_path, epochs=1)
    sets = ["measurement.analyses=[mine]", "measurement.attacks=[natural]"]
    code, text = launch_here(options_of(tmp_path, sets=sets, rows=["small"]))
    assert code == 1 and "mine: expected a scalar's name" in " ".join(text.split())


def test_nobody_else_cuts_or_joins_such_names() -> None:
    """Strings of the code, docstrings aside, that begin or end as parts of these names do."""
    other = "best|ema|ema_best"
    parts = re.compile(
        rf"(accuracy(_adaptive)?(_({other}))?|adaptive(_({other}))?|({other}))/|.*_({other})$|_({other})", re.DOTALL
    )
    root = Path(ablate.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in prose and parts.match(text):
                found.append((str(path.relative_to(root)), text))
    assert {(path, text) for path, text in found if path != "spaces/metrics.py"} <= {
        ("report/search.py", "_best.yaml"),  # a search's best samples, as a space of their own
        ("report/search.py", "_best.yaml --seeds 0,1,2\n"),
        ("report/page_files.py", "_best.yaml"),
        ("spaces/networks.py", "ema_best"),  # a network's own name
    }
