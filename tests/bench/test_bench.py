"""The benchmark: what it compares does the same work, and its command line says what it wants."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ablate.attacks import APGD, Ensemble, Natural, Square, build_attack
from ablate.bench import __main__ as bench
from ablate.bench import autoattack, cases, packing, recipes, streams, textbook, timing
from ablate.bench.autoattack import standard as autoattack_whole
from ablate.bench.cases import operations_of
from ablate.bench.timing import Timed, in_turn
from ablate.learning.models import build_network
from ablate.spaces.specs import COLUMNS, MeasurementSpec, ModelSpec
from ablate.storage.files import LocalFiles
from ablate.storage.speeds import known_streams

TINY = ["--batch", "4", "--images", "4", "--rounds", "1", "--network", "resnet20", "--mode", "float32"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of one piece of work each."""
    monkeypatch.setattr(timing, "LEAST_ROUND_S", 0.0)


def test_a_round_is_a_steady_stream_of_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now, done = [0.0], []

    def work() -> None:
        now[0] += 0.03
        done.append(now[0])

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    stream, count = timing.steady(work, torch.device("cpu"))
    done.clear()
    before = now[0]
    stream()
    assert len(done) == count and now[0] - before >= timing.LEAST_ROUND_S == 0.5
    assert Timed((now[0] - before,), 0.0).over(count).seconds[0] == pytest.approx(0.03)


def test_rivals_run_under_torchs_own_defaults_and_once_more_in_our_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as trainings here have it; torch's default is True
    for device, rivals in (("cpu", ["loop"]), ("cuda", ["loop", "loop IEEE"])):
        found = textbook.settings("loop", lambda: seen.append(torch.backends.cudnn.allow_tf32), torch.device(device))
        assert list(found) == rivals
        for run in found.values():
            run()
        assert not torch.backends.cudnn.allow_tf32
    assert seen == [True, True, False]


@pytest.mark.slow
def test_trainings_in_turn_are_timed_beside_the_same_ones_one_by_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench.app, ["--what", "streams", "--json", "--storage", str(tmp_path), *TINY])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["streams"]
    assert [each["count"] for each in found] == list(streams.COUNTS_ON_A_CPU)
    assert all(each["ratio"]["median"] > 0 and each["images_per_second"]["median"] > 0 for each in found)
    kept = json.loads(next((tmp_path / "speed").iterdir()).read_text())["streams"]
    [entry] = kept
    assert entry["batch_size"] == 4 and set(entry["rates"]) == {"1", "2"}
    assert known_streams(LocalFiles(tmp_path)) == {}  # of a CPU, which gains nothing by it


def test_operations_are_counted_with_those_of_gradients_and_without_views() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert operations_of(lambda: weight.view(3, 1)[:2].detach()) == 0
    assert operations_of(lambda: (2 * weight).sum()) == 2
    assert operations_of(lambda: torch.autograd.grad((2 * weight).sum(), weight)) > 3


@pytest.mark.slow
def test_recipes_are_timed_beside_pgd7(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"TRADES", "MART", "AWP", "TRADES + AWP"} <= recipes.RECIPES.keys()
    monkeypatch.setattr(recipes, "RECIPES", {name: recipes.RECIPES[name] for name in ("PGD-7", "TRADES")})
    done = CliRunner().invoke(bench.app, ["--what", "recipes", "--json", *TINY])
    assert done.exit_code == 0, done.output
    found = {each["name"]: each for each in json.loads(done.stdout)["recipes"]}
    assert found["PGD-7"]["cost"]["median"] == found["PGD-7"]["counted"] == 1
    assert all(each["cost"]["median"] > 0 and each["images_per_second"]["median"] > 0 for each in found.values())
    assert found["TRADES"]["counted"] == (2 * 10 + 1 + 6) / (2 * 7 + 3)


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


@pytest.mark.slow
def test_a_step_is_timed_beside_its_rivals_as_json() -> None:
    done = CliRunner().invoke(bench.app, ["--what", "steps", "--json", *TINY])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {(row["whose"], row["mode"]) for row in found["results"]} >= {("ours", "float32"), ("theirs", "written out")}
    for row in found["results"]:
        assert row["images_per_second"]["median"] > 0
        assert (row["operations"] is not None) == (row["what"] == "step")
        assert 0 < row["share_of_peak"] < float("inf")  # of a peak that a busy machine may not have reached
    [ours] = [row for row in found["results"] if row["whose"] == "ours"]
    assert ours["ratio"]["written out"]["median"] > 0


def brief_autoattack() -> Ensemble:
    parts = (Natural(), APGD(steps=2), Square(queries=2))
    return Ensemble(name="aa", eps_255=8.0, parts=parts)


class Rival:
    """Stands for pyautoattack."""

    def __init__(self, network: nn.Module, **_: object) -> None:
        self.network = network

    def run_standard_evaluation(self, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int) -> None:
        assert batch_size == 2
        assert torch.equal(self.network(images).argmax(1), labels)  # every image is attacked


def test_autoattack_is_timed_beside_its_rival_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "standard", brief_autoattack)
    monkeypatch.setattr(autoattack, "rival", lambda: SimpleNamespace(AutoAttack=Rival))
    found = autoattack.time_autoattack(cases.Case(ModelSpec(), 2, "aa"), 4, 1, torch.device("cpu"))
    assert found.ours["float32"].seconds[0] > 0 and found.theirs["pyautoattack"].seconds[0] > 0
    monkeypatch.setattr(autoattack, "rival", lambda: None)
    assert autoattack.time_autoattack(cases.Case(ModelSpec(), 2, "aa"), 2, 1, torch.device("cpu")).theirs == {}
    assert [part.name for part in autoattack_whole().parts] == ["natural", "apgd_ce", "apgd_t", "fab_t", "square"]


@pytest.mark.slow
def test_columns_are_timed_and_speeds_are_kept(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "standard", brief_autoattack)
    monkeypatch.setattr(autoattack, "rival", lambda: None)
    arguments = ["--what", "attacks", "--what", "steps", "--storage", str(tmp_path), *TINY]
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == 0, done.output
    for name in (*COLUMNS, "aa"):
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


@pytest.mark.slow
def test_what_runs_out_of_memory_is_told_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    time_step = cases.time_step

    def on_a_small_device(case: cases.Case, *rest: Any) -> cases.Result:
        if case.batch_size == 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return time_step(case, *rest)

    monkeypatch.setattr(cases, "time_step", on_a_small_device)
    done = CliRunner().invoke(bench.app, ["--what", "steps", "--batch", "8", *TINY])
    assert done.exit_code == 0, done.output
    assert re.search(r"resnet20 +step +8 out of memory", done.output)
    assert re.search(r"resnet20 +step +4 float32 +\d", done.output)


@pytest.mark.parametrize(
    ("what", "told"), [("streams", "resnet20 4-bit FAT +8 +2"), ("recipes", "resnet20 4-bit FAT +8 recipes")]
)
def test_rows_of_a_table_that_run_out_of_memory_are_told_and_the_rest_is_measured(
    what: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = timing.Spread(1.0, 1.0, 1.0)

    def streamed(model: ModelSpec, batch: int, count: int, *rest: Any) -> streams.Streams:
        if batch == 8 and count > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return streams.Streams("some", {}, "float32", batch, count, one, one, 1.0)

    def timed_recipes(model: ModelSpec, batch: int, mode: str, *rest: Any) -> list[recipes.Recipe]:
        if batch == 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [recipes.Recipe("some", "PGD-7", mode, batch, one, one, 1.0)]

    monkeypatch.setattr(streams, "time_streams", streamed)
    monkeypatch.setattr(recipes, "time_recipes", timed_recipes)
    arguments = ["--what", what, "--json", "--batch", "8", *TINY, "--network", "resnet20:4:fat"]
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == 0, done.output
    assert re.search(rf"{told} out of memory", done.stderr)
    counts = {(each["batch_size"], each.get("count")) for each in json.loads(done.stdout)[what]}
    assert counts == ({(8, 1), (4, 1), (4, 2)} if what == "streams" else {(4, None)})


def _say(word: Any, results: Any, never: Any) -> None:
    """Put a result, end with a code or by a signal, or (None) wait for another."""
    if word is None:
        never.wait()
    elif not isinstance(word, int):
        results.put(word)
    elif word > 0:
        os._exit(word)
    else:
        os.kill(os.getpid(), -word)


def test_packed_trainings_are_gathered_or_their_end_is_told() -> None:
    context = multiprocessing.get_context("fork")
    never = context.Event()

    def gathered(*says: Any) -> list[tuple[float, float]]:
        results = context.Queue()
        processes = [context.Process(target=_say, args=(word, results, never), daemon=True) for word in says]
        for process in processes:
            process.start()
        try:
            return packing.gather(processes, results)
        finally:
            for process in processes:
                process.kill()

    assert sorted(gathered((1.0, 2.0), (3.0, 4.0))) == [(1.0, 2.0), (3.0, 4.0)]
    with pytest.raises(packing.PackingError, match="out of memory"):
        gathered(None, "out of memory")
    with pytest.raises(packing.PackingError, match="exit code 9"):
        gathered(None, 9)
    with pytest.raises(packing.PackingError, match="killed, mostly for want of memory"):
        gathered(None, -signal.SIGKILL)


@pytest.mark.slow
def test_packing_measures_trainings_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    found = packing.time_packed(ModelSpec(), 2, 2, "float32", torch.device("cpu"), window_s=0.0)
    assert found.count == 2 and found.images_per_second > 0 and found.peak_bytes > 0
    with pytest.raises(packing.PackingError, match="SpecError: expected"):
        packing.time_packed(ModelSpec(arch="resnet2"), 2, 2, "float32", torch.device("cpu"), window_s=0.0)
    monkeypatch.setattr(packing, "time_packed", lambda model, batch, count, *rest: _packed(model, batch, count))
    done = CliRunner().invoke(bench.app, ["--what", "packing", "--json", *TINY])
    assert done.exit_code == 0, done.output
    assert [each["count"] for each in json.loads(done.stdout)["packing"]] == [1, 2]
    assert re.search(r"resnet20 +4 +4 out of memory", done.stderr)


def _packed(model: ModelSpec, batch: int, count: int) -> packing.Packed:
    if count == 4:
        raise packing.PackingError("out of memory")
    return packing.Packed("ResNet-20", model.model_dump(mode="json"), "float32", batch, count, 100.0 * count, 2.0**30)
