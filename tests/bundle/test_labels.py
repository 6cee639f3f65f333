"""What rows, seeds and columns are called, held against what was trained and measured: checksums hold of any label."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.bundle.statement import differences, results_in, statement_of, summed
from ablate.bundle.verification import open_bundle, verify
from ablate.storage import plans
from ablate.storage.bundles import ABOUT
from ablate.storage.checksums import seal, unseal
from tests.bundle.support import changed, run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Trials = list[dict[str, Any]]


def of(trials: Trials, row: str, seed: int) -> dict[str, Any]:
    [found] = [trial for trial in trials if (trial["row"], trial["seed"]) == (row, seed)]
    return found


def swapped(*names: str, rows: tuple[str, str] = ("small", "large"), seeds: tuple[int, int] = (0, 0)) -> Any:
    """Two trials with each other's."""

    def change(trials: Trials) -> None:
        one, other = (of(trials, row, seed) for row, seed in zip(rows, seeds, strict=True))
        for name in names:
            one[name], other[name] = other[name], one[name]

    return change


def columns_swapped(trials: Trials) -> None:
    columns = of(trials, "small", 0)["columns"]
    columns["accuracy/natural"], columns["accuracy/pgd20"] = columns["accuracy/pgd20"], columns["accuracy/natural"]


def set_to(group: str, name: str, value: Any) -> Callable[[Trials], None]:
    def change(trials: Trials) -> None:
        of(trials, "small", 0)["spec"][group][name] = value

    return change


RESULTS = ("training", "columns", "analyses")
FORGED: dict[str, tuple[Callable[[Trials], None], str]] = {
    "rows": (swapped(*RESULTS), "was made with other settings than its own"),
    "seeds": (swapped(*RESULTS, rows=("small", "small"), seeds=(0, 1)), "was made with other settings than its own"),
    "seeds' names": (
        swapped("seed", rows=("small", "small"), seeds=(0, 1)),
        "was made with other settings than its own",
    ),
    "columns": (columns_swapped, "accuracy/natural: expected a record of what natural, got one of pgd20"),
    "radius": (set_to("measurement", "eps_255", 4.0), "accuracy/pgd20: expected a record of settings PGD("),
    "filter": (set_to("measurement", "lowpass_degree", 6), "expected a record of degree 6, got one of None"),
    "epochs": (set_to("training", "epochs", 50), "was made with other settings than its own"),
    "network": (set_to("model", "activation", "hardtanh"), "was made with other settings than its own"),
    "no settings": (set_to("training", "epochs", "many"), "expected settings of a trial, got others"),
}


def forged(bundle: Path, target: Path, change: Callable[[Trials], None]) -> Path:
    """A bundle of another plan, with its id, its checksums and everything that it states made anew."""

    def plan(found: dict[str, bytes]) -> None:
        [name] = [name for name in found if name.startswith("storage/plans/")]
        content = unseal(found.pop(name))
        change(content["trials"])
        identities = [
            (trial["space"], trial["row"], trial["seed"], trial["training"], trial["columns"], trial["analyses"])
            for trial in content["trials"]
        ]
        content["id"] = plans.id_of(content["preset"], identities)
        found[f"storage/plans/{content['id']}.json"] = json.dumps(seal(content)).encode()
        found[ABOUT] = json.dumps({**json.loads(found[ABOUT]), "plan": content["id"]}).encode()

    opened = open_bundle(changed(bundle, target, plan))
    said = {each.space.name: statement_of(each) for each in results_in(opened.plan, opened.storage)}
    stated = {f"results/{name}.json": json.dumps(each).encode() for name, each in said.items()}
    return changed(target, target.with_stem("stated"), lambda found: found.update(stated))


@pytest.mark.parametrize("name", FORGED)
def test_a_row_with_anothers_results_is_told(bundle: Path, tmp_path: Path, name: str) -> None:
    change, told = FORGED[name]
    differs = verify(open_bundle(forged(bundle, tmp_path / "forged.zip", change))).differs
    assert any("/small, seed 0" in line and told in line for line in differs), differs
    assert not any("/large, seed 1" in line for line in differs)


def test_what_a_launch_wrote_is_called_what_it_is(bundle: Path, tmp_path: Path) -> None:
    assert verify(open_bundle(forged(bundle, tmp_path / "same.zip", lambda trials: None))).differs == []


def test_so_is_what_an_earlier_version_wrote(tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / "storage.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    code, told = run("make", tmp_path / "old.zip", "--space", "tiny", "--storage", tmp_path / "storage")
    assert code == 0, told
    assert verify(open_bundle(tmp_path / "old.zip")).differs == []


def test_a_training_that_is_said_to_stand_for_something_else_is_told(bundle: Path, tmp_path: Path) -> None:
    def another(found: dict[str, bytes]) -> None:
        name = next(name for name in sorted(found) if name.endswith("/training.json"))
        found[name] = json.dumps({**json.loads(found[name]), "seed": 99}).encode()

    differs = verify(open_bundle(changed(bundle, tmp_path / "made.zip", another))).differs
    assert any("what it is said to stand for has the key" in line for line in differs)


def test_what_figures_are_drawn_from_is_told_apart_in_another_order() -> None:
    numbers = np.random.default_rng(0).random((4, 5))
    one = summed(numbers)
    assert summed(numbers.copy()) == one
    for other in (numbers[::-1], np.roll(numbers, 1, axis=1), numbers.T, numbers + 1e-3, 2 * numbers):
        assert list(differences(one, summed(other)))
