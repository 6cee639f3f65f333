"""What `verify` compares: every number that is stated, and what a plan says of registrations."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.bundle.statement import by_network, differences, results_in
from ablate.bundle.verification import open_bundle, verify
from ablate.core.digest import digest
from ablate.storage.checksums import SEAL, seal
from tests.bundle.support import changed, run

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def stated_in(path: Path, space: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as opened:
        said: dict[str, Any] = json.loads(opened.read(f"results/{space}.json"))
    return said


# Statements


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from leaves(each, (*path, name))
    if not isinstance(value, (dict, list)) or not value:
        yield path


def with_other(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy that differs at one place."""
    if not path:
        return change(value)
    made = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = with_other(value[path[0]], path[1:], change)
    return made


def other(leaf: Any) -> Any:
    if isinstance(leaf, bool):
        return not leaf
    if isinstance(leaf, (int, float)):
        return leaf + 0.00001 * (1 + abs(leaf))
    return {None: 1.0}.get(leaf, f"{leaf}x") if isinstance(leaf, (str, type(None))) else [1]


def close(leaf: Any) -> Any:
    return leaf * (1 + 1e-9) if isinstance(leaf, float) else leaf


@pytest.mark.parametrize("bundle", ["h200-baseline", "reduced-lowpass-0"])
def test_every_number_and_word_that_is_stated_is_compared(bundle: str) -> None:
    said = stated_in(RESULTS / f"{bundle}.zip", "lowpass")
    assert list(differences(said, said)) == []
    every = list(leaves(said))
    for path in every[:: max(1, len(every) // 150)]:
        [told] = differences(with_other(said, path, other), said, ("lowpass",))
        steps = [str(step + 1 if isinstance(step, int) else step) for step in path]
        assert told.startswith(" · ".join(["lowpass", *steps]) + ": it states "), told
        assert list(differences(with_other(said, path, close), said)) == []
    lists = {path[:-1] for path in every if path and isinstance(path[-1], int)}
    assert lists
    for path in lists:
        [told] = differences(with_other(said, path, lambda each: each[:-1]), said)
        assert told.startswith(" · ".join(map(str, path)))
    for name in said:
        less = {key: value for key, value in said.items() if key != name}
        assert list(differences(said, less)) == [f": it states {name!r}, its records give nothing of it"]
        assert list(differences(less, said)) == []  # a later version may say more of the same records


def test_a_bundle_states_tables_verdicts_figures_and_trials_in_numbers(bundle: Path) -> None:
    said = stated_in(bundle, "tiny")
    assert said["tables"]["last"].keys() == {"small", "large"}
    cells = [said["tables"]["last"][row]["ours"] for row in ("small", "large")]
    assert all(cell["n"] == 2 and {"natural", "pgd20"} <= cell.keys() for cell in cells)
    [ours], [published] = said["verdicts"].values(), said["published"].values()
    for verdict, trainings in ((ours, 2), (published, 0)):
        [comparison] = verdict["comparisons"].values()
        assert {"effect", "low", "high", "p", "confidence", "n", "region"} <= comparison.keys()
        assert trainings == 0 or set(comparison["n"].values()) == {trainings}
    assert (
        said["figures"] and len(said["shown"]) == 4 and all("energy/ratio" in each for each in said["shown"].values())
    )
    assert len(said["trials"]) == 4
    for trial in said["trials"].values():
        assert trial["state"] == "finished" and trial["metrics"].keys() >= {"accuracy/natural", "accuracy/pgd20"}


def test_every_network_has_a_table_of_its_own() -> None:
    opened = open_bundle(RESULTS / "reduced-frequency-1.zip")
    [results] = results_in(opened.plan, opened.storage)
    found = dict(by_network(results))
    assert found.keys() == stated_in(opened.path, "frequency")["tables"].keys() == {"last", "best", "ema", "ema_best"}
    assert all(each.network == name for name, each in found.items())


# Registrations


def edited(files: dict[str, bytes], folder: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A sealed file of a bundle, sealed anew with other content."""
    name = next(name for name in files if f"/{folder}/" in name)
    content = {key: value for key, value in json.loads(files[name]).items() if key != SEAL}
    change(content)
    files[name] = json.dumps(seal(content)).encode()


def turned_round(plan: dict[str, Any]) -> None:
    above = plan["spaces"][0]["claims"][0]["above"]
    above["row"], above["rows"] = above["rows"][0], [above["row"]]


def turned_with_its_registration(plan: dict[str, Any]) -> None:
    turned_round(plan)
    plan["spaces"][0]["registration"]["content"]["claims"] = plan["spaces"][0]["claims"]


def turned_with_its_digest(plan: dict[str, Any]) -> None:
    turned_with_its_registration(plan)
    registration = plan["spaces"][0]["registration"]
    registration["digest"] = digest(registration["content"])


def turned_with_another_registration(plan: dict[str, Any]) -> None:
    turned_with_its_digest(plan)
    registration = plan["spaces"][0]["registration"]
    registration["claims"][0]["digest"] = registration["digest"]


def earlier(plan: dict[str, Any]) -> None:
    plan["spaces"][0]["registration"]["claims"][0]["registered_ms"] -= 10**9


def other_looks(plan: dict[str, Any]) -> None:
    plan["spaces"][0]["design"]["looks"] = [2]


def exploratory(registration: dict[str, Any]) -> None:
    registration["exploratory"] = [0]


def other_content(registration: dict[str, Any]) -> None:
    registration["content"]["looks"] = [2]


@pytest.mark.parametrize(
    ("folder", "change", "told"),
    [
        ("plans", turned_round, "its claims, or when they are decided, are not what was registered"),
        ("plans", other_looks, "its claims, or when they are decided, are not what was registered"),
        ("plans", turned_with_its_registration, "what it says was registered is not what its digest says"),
        ("plans", turned_with_its_digest, "before its results"),
        ("plans", turned_with_another_registration, "which is not here or another"),
        ("plans", earlier, "which is not here or another"),
        ("registrations", exploratory, "was not registered in "),
        ("registrations", other_content, "its content is not what its digest says"),
    ],
)
def test_a_claim_is_not_registered_because_its_plan_says_so(
    bundle: Path, tmp_path: Path, folder: str, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    path = changed(bundle, tmp_path / "b.zip", lambda files: edited(files, folder, change))
    assert any(told in line for line in verify(open_bundle(path)).differs)


def test_a_registration_that_was_taken_out_is_missed(bundle: Path, tmp_path: Path) -> None:
    def take_out(files: dict[str, bytes]) -> None:
        for name in [name for name in files if "/registrations/" in name]:
            del files[name]

    code, told = run("verify", changed(bundle, tmp_path / "b.zip", take_out))
    assert code == 1 and "which is not here or another" in told


@pytest.mark.parametrize("content", [b"{}", b"{", b'{"sha256": "ab", "layout": 1}'])
def test_a_registration_that_is_none_is_told_also_where_the_plan_names_it_not(
    bundle: Path, tmp_path: Path, content: bytes
) -> None:
    made = changed(
        bundle, tmp_path / "made.zip", lambda found: found.update({"storage/registrations/ab.json": content})
    )
    assert [line for line in verify(open_bundle(made)).differs if line.startswith("registration ab: ")]
