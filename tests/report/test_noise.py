"""What makes the noise of a table, and whether more seeds or more test images would help."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from ablate.report.contents import page_of
from ablate.report.page import render
from ablate.report.results import Outcome, Results
from ablate.report.serialization import results_as_json
from ablate.report.terminal import print_results
from ablate.report.verdicts.noise import table_noise
from tests.report.test_masking import with_claims
from tests.support.verdict_tables import ABOVE, simulated


def made(seeds: int = 5, noise: float = 0.08, images: int = 400) -> Results:
    rng = np.random.default_rng(1)
    return with_claims(simulated(rng, {"a": 0.3, "b": 0.0}, seeds=seeds, noise=noise, images=images), ABOVE)


def test_the_parts_come_to_the_effects_variance_and_are_of_the_model_they_are_drawn_from() -> None:
    rng, drawn = np.random.default_rng(2), []
    for _ in range(60):
        found = table_noise(with_claims(simulated(rng, {"a": 0.0, "b": 0.0}, seeds=8, noise=0.3), ABOVE))
        assert found is not None and found.columns[0].n == 8 and found.columns[0].images == 400
        drawn.append(found.parts)
    # Independent lucks of 0.3 among deviates of variance 1.34: 100 phi(0) 0.3/sqrt(1.34 + 0.09) points in each row.
    expected = 2 * (100 * 0.3989 * 0.3 / 1.43**0.5) ** 2 / 8
    assert np.mean([parts.seeds for parts in drawn]) == pytest.approx(expected, rel=0.15)
    assert all(0 < parts.both < parts.seeds for parts in drawn)


def test_noisy_trainings_ask_for_seeds_and_few_images_for_images() -> None:
    seeds, images = table_noise(made(noise=1.0)), table_noise(made(noise=0.0, images=100))
    assert seeds is not None and seeds.sentence.startswith("More seeds: of the variance")
    assert images is not None and images.sentence.startswith("More test images: ")
    assert table_noise(made(seeds=1)) is None


def test_what_twice_as_many_would_bring_is_told_from_the_parts() -> None:
    found = table_noise(made())
    assert found is not None
    parts = found.parts
    assert f"to {(parts.images + (parts.seeds + parts.both) / 2) ** 0.5:.2f} points" in found.sentence
    assert f"images to {(parts.seeds + (parts.images + parts.both) / 2) ** 0.5:.2f}." in found.sentence


def test_without_claims_every_row_is_compared_with_the_first_and_scalars_are_left_out() -> None:
    results = made()
    bare = dataclasses.replace(
        with_claims(results),
        outcomes={
            key: Outcome(o.training_key, {**o.values, "energy/ratio": 1.0}, o.correct, o.test_key, o.images)
            for key, o in results.outcomes.items()
        },
    )
    found, claimed = table_noise(bare), table_noise(results)
    assert found is not None and [column.metric for column in found.columns] == ["pgd20"]
    assert claimed is not None and found.parts == claimed.parts


def test_page_terminal_and_json_tell_it() -> None:
    results = made(noise=1.0)
    noise = table_noise(results)
    assert noise is not None
    [told] = results_as_json([results])["noise"]
    assert told["sentence"] == noise.sentence
    [column] = told["columns"]
    squares = [column[name] ** 2 for name in ("from_seeds", "from_images", "from_both")]
    assert column["metric"] == "pgd20" and column["error"] ** 2 == pytest.approx(sum(squares))
    stream = io.StringIO()
    print_results(results, Console(file=stream, width=400))
    assert noise.sentence in stream.getvalue()
    assert noise.sentence in render(page_of([results], {})).replace("&#39;", "'").replace("\N{NO-BREAK SPACE}", " ")
    assert results_as_json([made(seeds=1)])["noise"] == []
