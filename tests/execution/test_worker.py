"""One training in one process: measured together, stored as it goes, failures kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablate.analysis.spectrum import central_energy_share
from ablate.attacks import FGSM, PGD, Ensemble, Natural, build_attack, evaluation, register_attack
from ablate.core import memory as memory_of
from ablate.core.errors import DeviceError
from ablate.core.filters import Filter
from ablate.core.registry import temporary_registrations
from ablate.execution import analyses, worker
from ablate.execution.base import Event
from ablate.learning import data
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured
from ablate.learning.state import TrainingState
from ablate.planning.plan import decide
from ablate.storage.checkpoints import load_state
from ablate.storage.heartbeat import life
from ablate.storage.storage import Storage
from tests.support.tasks import planned, task

LOW = Filter("lowpass", 6)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    from ablate.spaces.specs import DataSpec

    return data.load(DataSpec(name="digits", image_size=8), Path())


def test_an_attack_is_generated_once_for_all_filters(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))
    calls: list[tuple[str, list[Filter | None], bool]] = []
    original = worker.evaluate

    def counting(network: Any, attack: Any, *rest: Any, **named: Any) -> Any:
        calls.append((type(attack).__name__, list(named["filters"]), named["adaptive"]))
        return original(network, attack, *rest, **named)

    monkeypatch.setattr(worker, "evaluate", counting)
    outcome = worker.run(task(plan, storage), digits, lambda event: None)
    assert outcome.state == "finished", outcome.reason
    unaware = [call for call in calls if not call[2]]
    assert unaware == [("Natural", [None, LOW], False), ("FGSM", [None, LOW], False)]
    assert [call for call in calls if call[2]] == [("FGSM", [LOW], True)]
    decide(plan, storage)
    assert list(plan.trainings.values())[-1].action == "reuse"


def test_a_new_column_computes_only_itself(tmp_path: Path, digits: data.Dataset) -> None:
    storage = Storage(str(tmp_path / "storage"))
    first = planned(tmp_path)
    worker.run(task(first, storage), digits, lambda event: None)
    second = planned(tmp_path, "measurement.attacks=[natural, fgsm, gn]")
    events: list[Any] = []
    worker.run(task(second, storage), digits, events.append)
    assert [event.text for event in events if event.kind == "measured"] == ["gn"]
    assert not [event for event in events if event.kind == "epoch"]


def test_an_exception_is_a_stored_failure_with_its_reason(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(worker, "train_in_turns", broken)
    outcome = worker.run(task(plan, storage), digits, lambda event: None)
    assert outcome.state == "failed" and "fell off the bus" in outcome.reason
    failure = storage.view(outcome.key).failure
    assert failure is not None and "fell off the bus" in failure["reason"] and "Traceback" in failure["details"]
    log = next((tmp_path / "storage").glob("*/attempts/*/log.txt"))
    assert "fell off the bus" in log.read_text()
    said = life(storage.files, str(log.with_name("alive.json").relative_to(storage.location)))
    assert said is not None and said.began_ms <= said.alive_ms <= failure["timestamp_ms"] and said.on.threads == 1


def test_with_a_validation_split_both_networks_are_measured(tmp_path: Path, digits: data.Dataset) -> None:
    plan = planned(tmp_path, "data.validation=0.2", "training.epochs=2")
    storage = Storage(str(tmp_path / "storage"))
    doing = task(plan, storage, 0)
    worker.run(doing, digits, lambda event: None)
    view = storage.view(doing.key)
    found = {(m.name, m.network): storage.record(view, m.key) for m in doing.measurements}
    assert {network for _, network in found} == {"last", "best"}
    best = found["natural", "best"]
    assert best is not None and best.meta["epoch"] in (1, 2)


def test_every_record_is_of_the_network_filter_and_seed_that_it_names(tmp_path: Path, digits: data.Dataset) -> None:
    kept = ("training.epochs=2", "training.keep=[1]", "training.ema.decay=0.5")
    asked = ("measurement.attacks=[natural, gn, fgsm]", "measurement.noise_std=0.3", "measurement.analyses=[spectrum]")
    storage = Storage(str(tmp_path / "storage"))
    doing = task(planned(tmp_path, *kept, *asked, seed=5), storage)
    assert worker.run(doing, digits, lambda event: None).state == "finished"
    view, [content, _] = storage.view(doing.key), storage.checkpoint(doing.key)
    assert content is not None
    state, spec = TrainingState(**load_state(content)), doing.spec
    images, labels = torch.from_numpy(digits.test_images), torch.from_numpy(digits.test_labels)
    assert len(images) > analyses.EXAMPLES_BLOCK
    found: dict[str, set[bytes]] = {}
    for each in doing.measurements:
        record, left = storage.record(view, each.key), state.network_of(each.network)
        assert record is not None and record.meta["epoch"] == left["epoch"]
        network = build_network(spec.model, len(digits.classes), 8, spec.seed).eval()
        network.load_state_dict(left["network"])
        with frozen_parameters(network):
            measured = as_measured(network, 8)
            how: dict[str, Any] = {"seed": 5, "batch_size": each.settings.batch_size}
            if each.kind == "analysis":
                how["batch_size"] = analyses.EXAMPLES_BLOCK
                made = evaluation.adversarial_examples(measured, PGD(), images, labels, **how)
                share = central_energy_share(made - images / 255)
                assert record.scalars["spectrum/central_energy_share"] == pytest.approx(float(share), rel=1e-5)
                told = record.arrays["difference"].tobytes()
            else:
                how |= {"filters": [each.filter], "adaptive": each.adaptive}
                right = evaluation.evaluate(measured, build_attack(each.name, each.settings), images, labels, **how)
                assert record.correct is not None and np.array_equal(record.correct, right[each.filter].numpy())
                assert record.scalars["accuracy"] == pytest.approx(100 * float(record.correct.mean()))
                told = record.correct.tobytes()
        found.setdefault(each.name, set()).add(told)
    assert {each.network for each in doing.measurements} == {"last", "epoch:1", "ema:0.5@0"}
    assert len(found["spectrum"]) == 3 and all(
        len(different) > 3 for name, different in found.items() if name != "spectrum"
    )


def test_analyses_of_the_same_images_attack_them_once(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, "measurement.analyses=[spectrum, cka]", "measurement.attacks=[natural]")
    storage = Storage(str(tmp_path / "storage"))
    attacked: list[int] = []
    original = analyses.build_attack

    def counting(name: str, spec: Any) -> Any:
        attack = original(name, spec)
        if name == "pgd20":
            perturb = type(attack).perturb

            def counted(network: Any, images: Any, *rest: Any, **named: Any) -> Any:
                attacked.extend(named["index"].tolist())
                return perturb(attack, network, images, *rest, **named)

            object.__setattr__(attack, "perturb", counted)
        return attack

    monkeypatch.setattr(analyses, "build_attack", counting)
    outcome = worker.run(task(plan, storage), digits, lambda event: None)
    assert outcome.state == "finished", outcome.reason
    assert attacked and len(attacked) == len(set(attacked))


def test_what_cannot_be_measured_keeps_nothing_else_from_being_measured(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path, "data.validation=0.2"), Storage(str(tmp_path / "storage"))
    original = worker.evaluate

    def broken(network: Any, attack: Any, *rest: Any, **named: Any) -> Any:
        if type(attack).__name__ == "FGSM":
            raise RuntimeError("no gradient")
        return original(network, attack, *rest, **named)

    monkeypatch.setattr(worker, "evaluate", broken)
    doing = task(plan, storage, 0)
    outcome = worker.run(doing, digits, lambda event: None)
    assert outcome.state == "failed"
    assert re.fullmatch(
        rf"fgsm: RuntimeError: no gradient \({re.escape(__file__)}:\d+\)", outcome.reason
    )  # whose line it was
    view = storage.view(doing.key)
    measured = {(m.name, m.network) for m in doing.measurements if m.key in view.records}
    assert measured == {("natural", "last"), ("natural", "best")}
    monkeypatch.undo()
    events: list[Any] = []
    assert worker.run(doing, digits, events.append).state == "finished"
    assert {event.text for event in events if event.kind == "measured"} == {"fgsm"}


def test_a_share_of_a_gpu_is_set_on_a_device_that_torch_takes(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing = task(planned(tmp_path), Storage(str(tmp_path / "storage")))
    assert worker.run(doing, digits, lambda event: None).state == "finished"  # what is left to do needs no GPU
    given: list[tuple[float, int]] = []

    def strict(fraction: float, device: Any = None) -> None:
        given.append((fraction, torch.cuda._utils._get_device_index(device)))  # what torch itself asks of it

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", strict)
    monkeypatch.setattr(memory_of, "device_memory", lambda device: 80e9)
    for device, share in (("cuda", 1.0), ("cuda:1", 0.25), ("cuda", 2.0)):
        outcome = worker.run(replace(doing, device=device, gpu_share=share), digits, lambda event: None)
        assert outcome.state == "finished", outcome.reason
    assert given == [(1.0, 0), (pytest.approx(0.2375), 1), (1.0, 0)]


@pytest.mark.parametrize("memory", [8e9, 80e9, 140e9])
@pytest.mark.parametrize("count", [2, 4, 10, 15, 40])
def test_what_shares_a_gpu_fits_with_the_context_of_each(count: int, memory: float) -> None:
    each = memory_of.share_to_fill(1 / count, memory) * memory + memory_of.CONTEXT_BYTES
    assert count * each <= memory * 1.0001 or 1 / count <= memory_of.CONTEXT_BYTES / memory


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
def test_memory_that_lacks_outside_the_allocator_is_asked_for_again_too(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError(words)

    monkeypatch.setattr(worker, "train_in_turns", broken)
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))
    doing = task(plan, storage)
    outcome = worker.run(replace(doing, gpu_share=0.5), digits, lambda event: None)
    assert outcome.needs_more_memory and storage.view(doing.key).failure is None
    outcome = worker.run(doing, digits, lambda event: None)
    assert outcome.reason.startswith("out of memory") and not outcome.needs_more_memory
    assert storage.view(doing.key).failure is not None


def test_a_gpu_that_failed_takes_its_process_along(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))

    def broken(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(worker, "train_in_turns", broken)
    doing = task(plan, storage)
    with pytest.raises(DeviceError, match="expected a GPU that works, got CUDA error: an illegal memory access"):
        worker.run(doing, digits, lambda event: None)
    assert storage.view(doing.key).failure is None  # its retry goes on from the checkpoint


def test_what_cannot_be_counted_fails_its_own_measurement_alone(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))

    def bright(self: FGSM, network: Any, images: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        return images + 1

    monkeypatch.setattr(FGSM, "perturb", bright)
    doing = task(plan, storage)
    outcome = worker.run(doing, digits, lambda event: None)
    assert outcome.state == "failed" and outcome.reason == "fgsm: expected adversarial images in [0, 1], got 1 to 2"
    failure = storage.view(doing.key).failure
    assert failure is not None and failure["reason"] == outcome.reason
    measured = [m.name for m in doing.measurements if m.key in storage.view(doing.key).records]
    assert measured == ["natural", "natural"]
    monkeypatch.undo()
    assert worker.run(doing, digits, lambda event: None).state == "finished"


def test_logits_that_break_behind_one_filter_fail_there_alone(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path), Storage(str(tmp_path / "storage"))
    through = evaluation.through_filter

    def breaking(network: Any, seen: Filter | None) -> Any:
        behind = through(network, seen)
        return behind if seen is None else lambda images: behind(images) * torch.nan

    monkeypatch.setattr(evaluation, "through_filter", breaking)
    doing = task(plan, storage)
    outcome = worker.run(doing, digits, lambda event: None)
    assert outcome.state == "failed"
    assert "natural: expected finite logits" in outcome.reason and "fgsm: expected finite logits" in outcome.reason
    there = storage.view(doing.key).records
    assert {(m.name, m.filter) for m in doing.measurements if m.key in there} == {("natural", None), ("fgsm", None)}


CHEAP = ("measurement.eps_255=40", "measurement.square_queries=3", "measurement.images=12")


def records_of(storage: Storage, plan: Any) -> dict[str, Any]:
    trial = next(trial for trial in plan.trials if trial.training == list(plan.trainings)[-1])
    view = storage.view(trial.training)
    return {metric: storage.record(view, key) for metric, key in trial.columns.items()}


def test_a_column_made_of_others_is_the_same_whatever_lay_in_storage(tmp_path: Path, digits: data.Dataset) -> None:
    few = [replace(PGD(), name=name, eps_255=40.0, steps=steps) for name, steps in (("first", 1), ("second", 3))]
    with temporary_registrations():
        register_attack("both")(lambda spec: Ensemble(name="both", eps_255=40.0, parts=(Natural(), *few)))
        register_attack("first")(lambda spec: few[0])
        register_attack("second")(lambda spec: few[1])
        found = {}
        for columns in ("[both]", "[second, natural, both]"):
            folder = tmp_path / columns
            folder.mkdir()
            storage, plan = Storage(str(folder / "storage")), planned(folder, f"measurement.attacks={columns}", *CHEAP)
            outcome = worker.run(task(plan, storage), digits, lambda event: None)
            assert outcome.state == "finished", outcome.reason
            found[columns] = records_of(storage, plan)
        alone, beside = (each["accuracy/both"] for each in found.values())
    assert alone.key == beside.key and alone.scalars == beside.scalars
    for name in ("correct", "broken_by"):
        assert np.array_equal(alone.arrays[name], beside.arrays[name])
    assert len(alone.correct) == alone.meta["images"] == 12 < len(digits.test_labels)
    assert alone.meta["attacked"]["second"] == int((~np.isin(alone.arrays["broken_by"], (0, 1))).sum())
    assert beside.meta["attacked"]["second"] is None
    assert set(alone.meta["made_of"]) == {"natural", "first", "second"}
    assert beside.meta["made_of"] == alone.meta["made_of"]
    assert alone.meta["made_of"]["natural"] == found["[second, natural, both]"]["accuracy/natural"].key
    whole = found["[second, natural, both]"]["accuracy/natural"].correct
    assert len(whole) == len(digits.test_labels) and not (alone.correct & ~whole[:12]).any()


def test_worst_comes_after_the_columns_it_is_made_of(tmp_path: Path, digits: data.Dataset) -> None:
    storage = Storage(str(tmp_path / "storage"))
    plan = planned(tmp_path, "measurement.attacks=[worst, square, fgsm, gn]", *CHEAP)
    events: list[Any] = []
    assert worker.run(task(plan, storage), digits, events.append).state == "finished"
    assert [event.text for event in events if event.kind == "measured"][-1] == "worst"
    records = records_of(storage, plan)
    assert records["accuracy/worst"].meta["attacked"] == {"square": None, "fgsm": None}
    parts = records["accuracy/square"].correct & records["accuracy/fgsm"].correct[:12]
    assert np.array_equal(records["accuracy/worst"].correct, parts)


def test_a_heat_map_with_logits_that_are_not_finite_is_told_in_a_line_and_the_rest_is_measured(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, storage = planned(tmp_path, "measurement.analyses=[heat_map, spectrum]"), Storage(str(tmp_path / "storage"))
    real, events = worker.as_measured, list[Any]()

    class BreaksUnderWaves(torch.nn.Module):
        def __init__(self, network: Any, image_size: int) -> None:
            super().__init__()
            self.inner = real(network, image_size)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rough = (images - images.roll(1, 3)).abs().mean()  # of the highest frequencies alone
            return self.inner(images) * (torch.nan if rough > 0.6 else 1.0)

    monkeypatch.setattr(worker, "as_measured", BreaksUnderWaves)
    monkeypatch.setattr(worker, "PROGRESS_S", 0.0)
    doing = task(plan, storage)
    outcome = worker.run(doing, digits, events.append)
    assert outcome.state == "failed" and "\n" not in outcome.reason
    assert re.search(r"heat_map: expected finite logits, got others under \d+ of 64 frequencies", outcome.reason)
    there = storage.view(doing.key).records
    assert {m.name for m in doing.measurements if m.key not in there} == {"heat_map"}
    told = [event.text for event in events if event.kind == "measuring" and event.text.startswith("heat_map ")]
    assert told[0] == "heat_map 2 %" and told[-1] == "heat_map 100 %"


def test_a_long_attack_tells_how_far_it_is_and_shares_of_the_work_rise_to_all_of_it(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("natural", "square", "pgd20", "worst")
    few = ("measurement.batch_size=64", "measurement.square_queries=20")
    plan = planned(tmp_path, f"measurement.attacks=[{','.join(names)}]", *few)
    monkeypatch.setattr(worker, "PROGRESS_S", 0.0)
    events = list[Event]()
    assert worker.run(task(plan, Storage(str(tmp_path / "storage"))), digits, events.append).state == "finished"
    told = [event for event in events if event.kind in ("measuring", "measured")]
    shares = [event.share for event in told]
    assert None not in shares and shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    parts = {name: {event.text for event in told if event.text.startswith(f"{name} ")} for name in names}
    batches = -(-len(digits.test_labels) // 64)
    assert len(parts["square"]) == len(parts["pgd20"]) == batches and "square 100 %" in parts["square"]
