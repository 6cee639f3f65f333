"""What a dry run tells of the seeds that claims need."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.launch.power import PowerAnalysis, in_short
from ablate.launch.request import Request
from ablate.launch.session import launch
from tests.support.helpers import launch_here, options_of, write_space

CLAIM = "says: small is better, above: {row: small, rows: [large], metrics: [natural]}"


def space(folder: Path, *claims: str, large: float = 60.0) -> None:
    path = write_space(folder)
    listed = "".join(f"  - {{{claim}}}\n" for claim in claims)
    text = path.read_text().replace("large, set: {}", f"large, set: {{}}, published: {{natural: {large}}}")
    path.write_text(f"{text}\nclaims:\n{listed}")


def foreseen(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    out = io.StringIO()
    asked = options_of(folder, dry_run=True, as_json=True, **changes)
    assert launch(Request.read(asked), Console(file=io.StringIO()), out) == 0
    found: list[dict[str, Any]] = json.loads(out.getvalue()).get("claims", [])
    return found


def test_the_published_effect_against_the_published_noise_tells_the_seeds(tmp_path: Path) -> None:
    needed = []
    for large in (60.0, 67.0, 70.4):
        space(tmp_path, CLAIM, large=large)
        [claim] = foreseen(tmp_path, seeds=[0, 1, 2])
        assert claim["effect"] == pytest.approx(70.5 - large) and claim["effect_from"] == "published"
        assert claim["noise_from"] == "of the published baselines" and claim["noise"] > 0
        assert claim["asked"] == 3 and 0 < claim["smallest"] < 10
        needed.append(claim["seeds"])
    assert needed[0] == 3 < needed[1] and needed[2] is None
    assert claim["asked_hours"] > 0 and claim["unit"].endswith("hours")


def test_what_a_claim_expects_goes_before_what_was_published(tmp_path: Path) -> None:
    space(tmp_path, f"expects: 1.5, {CLAIM}")
    [claim] = foreseen(tmp_path, seeds=list(range(8)))
    assert (claim["effect"], claim["effect_from"], claim["asked"]) == (1.5, "expected", 8)
    assert claim["smallest"] < foreseen(tmp_path, seeds=[0, 1, 2])[0]["smallest"]


def test_it_is_told_in_a_line_and_where_the_seeds_reach_no_look(tmp_path: Path) -> None:
    space(tmp_path, CLAIM)
    code, said = launch_here(options_of(tmp_path, dry_run=True))
    told = " ".join(said.split())
    assert code == 0 and "What these seeds can decide" in told
    assert "small − large, Natural, published +10.50" in told and "verdicts begin with 3 seeds a row" in told
    assert "3 seeds a row decide it with 80 %" in told


def test_where_nothing_is_decided_nothing_is_foreseen(tmp_path: Path) -> None:
    space(tmp_path, CLAIM)
    assert foreseen(tmp_path, preset="smoke") == []


def test_many_claims_are_counted_by_the_seeds_that_decide_them() -> None:
    def one(seeds: int | None, effect: float | None = 1.0, asked: int | None = None) -> PowerAnalysis:
        return PowerAnalysis(
            "it is", "a − b", effect, "published", 0.5, "known", seeds, 1.0, 3, asked, 0.1, 1.0, "GPU-hours"
        )

    told = in_short([one(3), one(3, asked=3), one(8), one(None), one(None, effect=None)])
    assert told.startswith("5 claims, of which these seeds reach a look of 1;")
    assert (
        "2 with 3 seeds a row, 1 with 8 seeds a row" in told and "1 by no look" in told and "of 1 nobody knows" in told
    )
    assert in_short([one(None, effect=None)]) == (
        "1 claim, of which these seeds reach a look of none; of 1 nobody knows what to expect"
    )
