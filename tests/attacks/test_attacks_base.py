from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ablate.attacks.base import Attack, attack_names, attack_source, build_attack, full_precision, register_attack
from ablate.attacks.linf import PGD
from ablate.core.errors import SpecError
from ablate.core.registry import temporary_registrations
from ablate.spaces.specs import COLUMNS, MeasurementSpec


@pytest.fixture(autouse=True)
def _registrations_end_with_the_test() -> Iterator[None]:
    with temporary_registrations():
        yield


def test_every_column_is_registered() -> None:
    assert {*COLUMNS, "cw20_exact"} <= set(attack_names())


def test_reprs_tell_the_columns_apart() -> None:
    attacks = [build_attack(name, MeasurementSpec()) for name in attack_names()]
    assert len({repr(attack) for attack in attacks}) == len(attacks)


def test_only_cw20_depends_on_its_batch() -> None:
    attacks = [build_attack(name, MeasurementSpec()) for name in attack_names()]
    assert [attack.name for attack in attacks if attack.batch_dependent] == ["cw20"]


def test_a_user_registers_an_attack() -> None:
    @register_attack("pgd3")
    def pgd3(spec: MeasurementSpec) -> Attack:
        return PGD(name="pgd3", eps_255=spec.eps_255, steps=3)

    assert "pgd3" in attack_names()
    assert build_attack("pgd3", MeasurementSpec(eps_255=4.0)) == PGD(name="pgd3", eps_255=4.0, steps=3)
    assert attack_source("pgd3") is not None and attack_source("pgd20") is None


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"measurement\.attacks.*'pgd21'; did you mean 'pgd20'"):
        build_attack("pgd21", MeasurementSpec())


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(SpecError, match="expected a new name"):

        @register_attack("pgd20")
        def mine(spec: MeasurementSpec) -> Attack:
            return PGD()


def test_a_factory_must_make_what_it_is_registered_as() -> None:
    @register_attack("strange")
    def strange(spec: MeasurementSpec) -> Attack:
        return PGD()

    with pytest.raises(SpecError, match="expected the factory of 'strange' to return an Attack named 'strange'"):
        build_attack("strange", MeasurementSpec())


def test_an_attack_that_is_no_dataclass_has_a_repr_without_an_address() -> None:
    class Plain(Attack):
        def __init__(self) -> None:
            self.name, self.strength = "plain", 3

        def perturb(self, network, images, labels, *, index, seed, clean_logits=None):
            return images

    assert repr(Plain()) == "Plain(name='plain', strength=3)"


def test_half_precision_alone_is_raised() -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    raised = [full_precision(torch.zeros(1, dtype=kind)).dtype for kind in kinds]
    assert raised == [torch.float32, torch.float32, torch.float32, torch.float64]
