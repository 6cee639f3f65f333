"""Averages of weights and networks of chosen epochs: beside a training, of which they change no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ablate.core.errors import MeasurementError
from ablate.learning import training as training_module
from ablate.learning.averages import Average, holding
from ablate.learning.models import build_network
from ablate.learning.models.calibration import estimating_anew
from ablate.learning.state import TrainingState
from ablate.learning.training import TrainingRun, train
from ablate.planning.keys import training_key
from ablate.spaces.networks import AverageName
from ablate.storage.checkpoints import load_state, save_state
from tests.support.tiny_training import CLASSES, CPU, DATASET, assert_same, run, same, spec_of, timeless

EMA, BEST = "ema:0.8@0", "ema_best:0.8@0"
ASKED: dict[str, Any] = {"training__ema": {"decay": 0.8}, "training__keep": [1, 3], "data__validation": 0.3}


def states(**changes: Any) -> list[TrainingState]:
    seen: list[TrainingState] = []
    train(spec_of(**changes), DATASET, device=CPU, on_epoch=seen.append)
    return seen


def test_no_bit_of_the_training_changes_and_its_key_is_the_same() -> None:
    plain, kept = run(data__validation=0.3), run(**ASKED)
    assert same(plain.network, kept.network) and same(plain.optimizer, kept.optimizer) and same(plain.best, kept.best)
    named = set(timeless(plain.history)[-1]["metrics"])
    for one, other in zip(timeless(plain.history), timeless(kept.history), strict=True):
        assert one["metrics"] == {name: value for name, value in other["metrics"].items() if name in named}
    assert training_key(spec_of(**ASKED), "0") == training_key(spec_of(data__validation=0.3), "0")


@pytest.mark.parametrize("start", [0, 1])
def test_an_average_is_that_of_a_plain_loop_over_every_update(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    """The bias-corrected mean of all networks since the start, in float64."""
    seen: list[dict[str, Tensor]] = []
    real = TrainingRun.update

    def watched(self: TrainingRun, epoch: int, number: int, batch: Tensor) -> Any:
        result = real(self, epoch, number, batch)
        if epoch > start:
            seen.append({name: value.double().clone() for name, value in self.network.state_dict().items()})
        return result

    monkeypatch.setattr(training_module.TrainingRun, "update", watched)
    state = run(training__ema={"decay": 0.7, "start": start})
    weights = torch.tensor([0.7 ** (len(seen) - 1 - place) for place in range(len(seen))], dtype=torch.float64)
    weights /= weights.sum()
    found = state.network_of(f"ema:0.7@{start}")["network"]
    assert len(seen) == (3 - start) * 4
    for name, value in found.items():
        if value.is_floating_point():
            wanted = sum(weight * each[name] for weight, each in zip(weights, seen, strict=True))
            torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=1e-7)
        else:
            assert torch.equal(value, state.network[name])


def test_epochs_that_are_kept_are_those_that_were() -> None:
    seen = states(**ASKED)
    last = seen[-1]
    assert last.network_of("epoch:1")["epoch"] == 1 and same(last.network_of("epoch:1")["network"], seen[1].network)
    assert same(last.network_of("epoch:3")["network"], last.network)
    assert last.best is not None and last.network_of("best") is last.best
    for name in ("epoch:2", "ema:0.9@0"):
        with pytest.raises(MeasurementError, match=rf"keeps {name} \(training\.(keep|ema)\).*--rerun ROW trains it"):
            last.network_of(name)


def test_the_best_average_is_chosen_on_the_held_out_images_alone() -> None:
    seen = states(**{**ASKED, "training__epochs": 5})
    last = seen[-1]
    curve = {entry["epoch"]: entry["metrics"].get("validation/attack/ema:0.8:0") for entry in last.history}
    assert curve.pop(0) is None
    best = last.network_of(BEST)
    assert best["accuracy"] == max(curve.values()) == curve[best["epoch"]]
    assert best["epoch"] == min(epoch for epoch, value in curve.items() if value == best["accuracy"])
    other = DATASET.__class__(
        **{**vars(DATASET), "test_labels": 1 - DATASET.test_labels, "test_images": DATASET.test_images * 0}
    )
    assert same(train(spec_of(**{**ASKED, "training__epochs": 5}), other, device=CPU).kept, last.kept)


def test_without_validation_there_is_an_average_and_no_best_one() -> None:
    state = run(training__ema={"decay": 0.8})
    assert list(state.kept) == [EMA] and state.keeps == [EMA]


@pytest.mark.parametrize("normalization", ["averaged", "recalibrated"])
@pytest.mark.parametrize("start", [0, 2])
def test_killed_and_resumed_the_averages_are_the_same_bits(normalization: str, start: int) -> None:
    changes = {
        **ASKED,
        "training__epochs": 4,
        "training__ema": {"decay": 0.8, "start": start, "normalization": normalization},
        "model__arch": "test-dropout",
    }
    seen = states(**changes)
    for state in seen[:-1]:
        again = TrainingState(**load_state(save_state(state)))
        assert_same(run(state=again, **changes), seen[-1])


def test_an_unfinished_training_takes_up_what_begins_later_and_nothing_else() -> None:
    plain = states(data__validation=0.3, training__epochs=4)
    late: dict[str, Any] = {"training__ema": {"decay": 0.8, "start": 2}, "training__keep": [1, 2, 4]}
    whole = run(data__validation=0.3, training__epochs=4, **late)
    for epoch, wanted in ((1, set(whole.kept)), (2, set(whole.kept) - {"epoch:1"}), (3, {"epoch:4"})):
        state = run(state=plain[epoch], data__validation=0.3, training__epochs=4, **late)
        assert set(state.kept) == wanted == set(state.keeps)
        assert all(same(state.kept[name], whole.kept[name]) for name in wanted)


def test_what_another_launch_asked_for_is_kept_on() -> None:
    begun = states(**ASKED)[1]
    state = run(state=begun, data__validation=0.3)
    assert_same(state, run(**ASKED))


def test_several_averages_share_a_training() -> None:
    names = ["ema:0.8@0", "ema:0.5@1", "ema:0.8@0:recalibrated"]
    together = train(spec_of(), DATASET, device=CPU, keep=names)
    for name, settings in zip(
        names,
        ({"decay": 0.8}, {"decay": 0.5, "start": 1}, {"decay": 0.8, "normalization": "recalibrated"}),
        strict=True,
    ):
        assert same(together.kept[name], run(training__ema=settings).kept[name])
    assert not same(together.kept[names[0]]["network"], together.kept[names[1]]["network"])


def test_recalibration_changes_batch_normalization_alone() -> None:
    kept = train(spec_of(), DATASET, device=CPU, keep=[EMA, f"{EMA}:recalibrated"]).kept
    averaged, other = kept[EMA]["network"], kept[f"{EMA}:recalibrated"]["network"]
    differing = {name for name in averaged if not torch.equal(averaged[name], other[name])}
    assert differing == {
        f"{layer}.{kind}" for layer in (1, 4) for kind in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_what_is_estimated_anew_is_of_what_the_attack_makes_of_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    real = TrainingRun.examples

    def watched(self: TrainingRun, pixels: Tensor, *rest: Any) -> Any:
        found = real(self, pixels, *rest)
        made.append(found[1].detach().clone())
        return found

    monkeypatch.setattr(training_module.TrainingRun, "examples", watched)
    name = f"{EMA}:recalibrated"
    left = train(spec_of(training__attack__eps_255=40.0), DATASET, device=CPU, keep=[name]).kept[name]["network"]
    batches = made[-3:]  # after the last epoch, whole ones alone
    assert [len(batch) for batch in batches] == [12, 12, 12]
    with torch.no_grad():
        means = [
            torch.nn.functional.conv2d(batch, left["0.weight"], padding=1).mean(dim=(0, 2, 3)) for batch in batches
        ]
    torch.testing.assert_close(left["1.running_mean"], torch.stack(means).mean(dim=0))


def test_estimating_anew_gives_the_mean_over_all_batches() -> None:
    network = build_network(spec_of().model, CLASSES, 8, 0)
    batches = [torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with torch.no_grad(), estimating_anew(network):
        for batch in batches:
            network(batch)
    first = dict(network.named_buffers())["1.running_mean"]
    with torch.no_grad():
        outputs = [network.get_submodule("0")(batch).mean(dim=(0, 2, 3)) for batch in batches]
    torch.testing.assert_close(first, torch.stack(outputs).mean(dim=0))
    assert network.get_submodule("1").momentum == 0.1


def test_a_network_that_holds_an_average_is_itself_again_afterwards() -> None:
    network = build_network(spec_of().model, CLASSES, 8, 0)
    average = Average(AverageName(0.5, 0), network)
    average.update()
    average.updates += 1
    before = {name: value.clone() for name, value in network.state_dict().items()}
    places = [value.data_ptr() for value in network.state_dict().values()]
    with holding(network, {name: value + 1 for name, value in average.values().items()}):
        assert not same(dict(network.state_dict()), before)
    assert same(dict(network.state_dict()), before)
    assert [value.data_ptr() for value in network.state_dict().values()] == places
    assert same(average.values(), before)  # of one update it is that network


@pytest.mark.parametrize("name", ["ema:0.999@0", "ema_best:0.99@60", "ema:1e-05@3:recalibrated"])
def test_names_of_averages_say_what_made_them(name: str) -> None:
    assert str(AverageName.parse(name)) == name
    assert AverageName.parse("epoch:60") is None and AverageName.parse("last") is None
