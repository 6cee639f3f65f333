"""The benchmark: what it compares does the same work, and its command line says what it wants."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from ablate import bench
from ablate.attacks import build_attack
from ablate.learning.models import build_network
from ablate.specs import COLUMNS, MeasurementSpec, ModelSpec
from ablate.speed import textbook
from ablate.speed.timing import Timed, in_turn

TINY = ["--batch", "4", "--images", "4", "--rounds", "1", "--network", "resnet20", "--mode", "float32"]


def test_contestants_run_in_turn_once_each_round() -> None:
    ran: list[str] = []
    timed = in_turn({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3, torch.device("cpu"))
    assert "".join(ran[4:]) == "abbaab"
    assert {name: len(each.seconds) for name, each in timed.items()} == {"a": 3, "b": 3}


def test_ratios_are_round_by_round() -> None:
    ours, theirs = Timed((1.0, 2.0, 4.0), 0.0), Timed((2.0, 6.0, 4.0), 0.0)
    ratio = ours.faster_than(theirs)
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 3.0)
    assert ours.rate(8).median == 4.0


def test_the_textbook_attack_is_ours_without_its_random_start() -> None:
    network = build_network(ModelSpec(), 10, 32, 0).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    theirs = textbook.written_out_pgd(network, 3, random_start=False)(images, labels)
    attack = build_attack("bim20", MeasurementSpec())
    ours = type(attack)(steps=3).perturb(network, images, labels, index=torch.arange(4), seed=0)  # type: ignore[call-arg]
    assert (ours - theirs).abs().max() < 1e-6


def test_with_torchattacks_every_column_has_a_rival() -> None:
    pytest.importorskip("torchattacks")
    assert set(textbook.columns(build_network(ModelSpec(), 10, 32, 0))) == set(COLUMNS)


def test_a_step_is_timed_beside_its_rivals_as_json() -> None:
    done = CliRunner().invoke(bench.app, ["--what", "steps", "--json", *TINY])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {(row["whose"], row["mode"]) for row in found["results"]} >= {("ours", "float32"), ("theirs", "written out")}
    for row in found["results"]:
        assert row["images_per_second"]["median"] > 0
        assert 0 < row["share_of_peak"] < 1
    [ours] = [row for row in found["results"] if row["whose"] == "ours"]
    assert ours["ratio"]["written out"]["median"] > 0


def test_columns_are_timed_and_speeds_are_kept(tmp_path: object) -> None:
    arguments = ["--what", "attacks", "--what", "steps", "--storage", str(tmp_path), *TINY]
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == 0, done.output
    for name in COLUMNS:
        assert f" {name} " in done.stdout
    assert "Speeds kept" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "resnet21"], "did you mean 'resnet20'"),
        (["--network", "resnet20:1"], "expected 2 to 32 bits or fat"),
        (["--mode", "float16"], "did you mean"),
        (["--activation", "gelu"], "expected relu or hardtanh"),
        (["--device", "tpu"], "expected cpu, cuda or auto"),
    ],
)
def test_mistakes_are_refused_with_what_would_do(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == 2
    assert words in done.output
