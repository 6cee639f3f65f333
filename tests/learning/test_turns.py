"""Trainings that take turns in a process: each gives what it gives alone, whatever becomes of the others."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ablate.learning.precision import slower_than_asked, without_tensor_cores
from ablate.learning.state import TrainingError, TrainingState
from ablate.learning.training import TrainingRun, train, train_in_turns
from ablate.learning.turns import OwnRandomNumbers, Turns, in_turn
from tests.support.tiny_training import CPU, DATASET, assert_same, run, spec_of

MEMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"model__arch": "test-dropout", "data__validation": 0.2},
    "its second seed": {"model__arch": "test-dropout", "seed": 1, "training__epochs": 2},
    "natural": {"training__attack": {"name": "none"}, "training__augmentation": {"name": "mixup", "beta": 0.5}},
    "quantized": {"model__quantization": {"bits": 4, "fat": True}, "training__precision": "bfloat16"},
    "averaged": {"training__ema": {"decay": 0.9, "normalization": "recalibrated"}, "training__keep": [2]},
}


def together(
    members: dict[str, dict[str, Any]], on_epoch: Callable[[str, TrainingState], None] = lambda name, state: None
) -> dict[str, TrainingState]:
    ended: dict[str, TrainingState] = {}

    def member(name: str) -> Turns[TrainingState]:
        return train_in_turns(
            spec_of(**members[name]), DATASET, device=CPU, on_epoch=lambda state: on_epoch(name, state)
        )

    in_turn({name: member(name) for name in members}, ended.__setitem__)
    return ended


def test_together_each_gives_the_bits_that_it_gives_alone() -> None:
    outside = torch.get_rng_state()
    seen: list[str] = []
    ended = together(MEMBERS, lambda name, state: seen.append(name))
    assert torch.equal(torch.get_rng_state(), outside)
    assert next(iter(ended)) == "its second seed"  # of two epochs
    # In turn: all before their first epoch, then the first of any.
    assert set(seen[: len(MEMBERS)]) == set(MEMBERS)
    for name, changes in MEMBERS.items():
        torch.rand(7)  # where the default generator is does not matter
        assert_same(ended[name], run(**changes))


def test_a_broken_member_leaves_the_others_as_they_are() -> None:
    def member(**changes: Any) -> Turns[TrainingState | Exception]:
        try:
            return (yield from train_in_turns(spec_of(**changes), DATASET, device=CPU))
        except Exception as error:
            return error

    ended: dict[str, Any] = {}
    in_turn(
        {
            "nan": member(training__learning_rate=1e30),
            "dropout": member(**MEMBERS["dropout"]),
            "too large": member(training__batch_size=1000),
        },
        ended.__setitem__,
    )
    assert isinstance(ended["nan"], TrainingError) and "training.batch_size" in str(ended["too large"])
    assert_same(ended["dropout"], run(**MEMBERS["dropout"]))


def test_killed_together_and_resumed_together_they_end_as_they_do_alone() -> None:
    kept: dict[str, TrainingState] = {}

    class Killed(BaseException):
        pass

    def on_epoch(name: str, state: TrainingState) -> None:
        if state.epoch == 2:
            raise Killed
        kept[name] = state

    members = {name: MEMBERS[name] for name in ("plain", "dropout")}
    with pytest.raises(Killed):
        together(members, on_epoch)
    assert {name: state.epoch for name, state in kept.items()} == {"plain": 1, "dropout": 1}
    ended: dict[str, TrainingState] = {}
    works = {
        name: train_in_turns(spec_of(**changes), DATASET, device=CPU, state=kept[name])
        for name, changes in members.items()
    }
    in_turn(works, ended.__setitem__)
    for name, changes in members.items():
        assert_same(ended[name], run(**changes))


def test_as_many_as_there_are_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo as dynamo

    limit, count = 2, 4
    # Followed by the compiler's front end, whose limits these are; what it makes of it is not the matter.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    quick = {"training__compile": True, "training__epochs": 1, "training__milestones": []}
    members: dict[str, dict[str, Any]] = {str(seed): {"seed": seed, **quick} for seed in range(count)}
    refused: list[str] = []

    def on_epoch(name: str, state: TrainingState) -> None:
        refused.extend(text for text in dynamo.utils.counters["unimplemented"] if "limit" in text)

    # monkeypatch deletes what torch's settings do not hold as attributes, and a deleted setting is gone for all.
    with dynamo.config.patch(recompile_limit=limit):
        assert len(together(members, on_epoch)) == count and not refused
        assert dynamo.config.recompile_limit == limit


def test_what_is_broken_off_puts_everything_back() -> None:
    outside = torch.get_rng_state()
    work = train_in_turns(spec_of(**MEMBERS["dropout"]), DATASET, device=CPU)
    for _ in itertools.islice(work, 2):
        assert torch.equal(torch.get_rng_state(), outside)
    work.close()
    assert torch.equal(torch.get_rng_state(), outside)


def test_the_default_generator_goes_on_where_its_owner_left_it() -> None:
    torch.manual_seed(3)
    one, other = OwnRandomNumbers(CPU), OwnRandomNumbers(CPU)
    drawn: dict[OwnRandomNumbers, list[float]] = {one: [], other: []}
    for owner in (one, other, other, one):
        with owner.turn():
            drawn[owner].append(torch.rand(()).item())
    torch.manual_seed(3)
    wanted = [torch.rand(()).item() for _ in range(2)]
    assert drawn[one] == drawn[other] == wanted


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_how_convolutions_round_and_are_chosen_is_a_trainings_own(precision: str, deterministic: bool) -> None:
    seen = []

    def look(state: TrainingState) -> None:
        seen.append((cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark))

    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=deterministic, allow_tf32=True):
        train(
            spec_of(training__precision=precision, training__milestones=[], training__epochs=1),
            DATASET,
            device=CPU,
            on_epoch=look,
        )
        assert (cudnn.allow_tf32, cudnn.benchmark) == (True, False)
    tf32 = precision == "tf32"
    assert set(seen) == {(tf32, tf32, not deterministic)}


def test_a_precision_that_a_gpu_lacks_is_told() -> None:
    assert without_tensor_cores("float32", (7, 0)) is None and without_tensor_cores("bfloat16", (9, 0)) is None
    assert "tf32 wants a GPU of compute capability 8.0, got 7.5" in str(without_tensor_cores("tf32", (7, 5)))
    told = str(without_tensor_cores("bfloat16", (7, 0), "measurement"))
    assert told.startswith("measurement.precision: bfloat16 wants")


@pytest.mark.parametrize(("architecture", "name"), [("x86_64", "amx_bf16"), ("arm64", "sve_bf16")])
def test_a_precision_that_a_cpu_lacks_is_told_in_the_training_and_in_the_measurement(
    architecture: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = {"architecture": architecture, "avx2": True, name: False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    told: list[str] = []
    TrainingRun(spec_of(training__precision="bfloat16"), DATASET, CPU, told.append)
    TrainingRun(spec_of(training__precision="float32"), DATASET, CPU, told.append)
    assert told == [slower_than_asked("bfloat16", CPU)] and name in told[0]
    assert str(slower_than_asked("bfloat16", CPU, "measurement")).startswith("measurement.precision: bfloat16 wants a")
    has[name] = True
    assert slower_than_asked("bfloat16", CPU) is None
    has.clear()  # an architecture that nothing is known of
    assert slower_than_asked("bfloat16", CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_streams_and_graphs_change_no_bit() -> None:
    device = torch.device("cuda")
    ended: dict[str, TrainingState] = {}
    members = {name: {**MEMBERS[name], "training__epochs": 6} for name in ("plain", "dropout", "its second seed")}
    works = {name: train_in_turns(spec_of(**changes), DATASET, device=device) for name, changes in members.items()}
    torch.backends.cudnn.deterministic = True
    try:
        in_turn(works, ended.__setitem__)
        for name, changes in members.items():
            assert_same(ended[name], train(spec_of(**changes), DATASET, device=device))
    finally:
        torch.backends.cudnn.deterministic = False
