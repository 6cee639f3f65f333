"""What an attack is, and the names under which attacks become columns of a table."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ablate.attacks.threats import Threat
from ablate.core.errors import SpecError
from ablate.core.registry import Registry
from ablate.spaces.specs import MeasurementSpec

Network = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] in [0, 1] to logits [N, classes]; differentiable, in evaluation mode."""


LATER = "left out of repr at"
"""Key of a field's metadata: the value at which `repr` is silent about it, for fields added after version 0.1."""


def later(value: Any) -> Any:
    """A dataclass field that was added when keys were stored already: its default keeps the `repr` of before."""
    return dataclasses.field(default=value, metadata={LATER: value})


class Attack(ABC):
    """One way to change images so that a network errs: one column of a table.

    Make it a frozen dataclass whose fields are its hyperparameters: its `repr` is what tells one measurement from
    another in storage, so it must print every one of them and nothing that changes from run to run.
    """

    name: str
    """The column; metrics are called `accuracy/<name>`, and the attack's random numbers hang on it."""

    batch_dependent: ClassVar[bool] = False
    """Whether what happens to one image depends on the others in its batch."""

    uses_network: ClassVar[bool] = True
    """Whether `perturb` asks the network anything; where not, an attacker who knows of a filter can do no other."""

    uses_clean_logits: ClassVar[bool] = False
    """Whether `perturb` looks at `clean_logits`; where it does, evaluation hands over the ones it already has."""

    least_classes: ClassVar[int] = 2
    """Of a data set that it can attack."""

    reducible: ClassVar[bool] = False
    """Whether it is measured on `measurement.images` test images, where those are not all."""

    spares_broken: ClassVar[bool] = False
    """Whether an image costs nothing any more once it is wrong: estimates foresee less of it."""

    kept_name: ClassVar[str | None] = None
    """What keys and records call its class, where an earlier version called it otherwise; no subclass has it too."""

    @property
    def threat(self) -> Threat | None:
        """The ball it stays in; None where it does not say, and nothing can be made of it together with others."""
        return None

    def searches_in(self, precision: str) -> str | None:
        """`measurement.precision` where it changes what this attack does: None of float32, and of what asks nothing."""
        return precision if self.uses_network and precision != "float32" else None

    @abstractmethod
    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """The images an adversary would hand in.

        Args:
            network: Gives logits; in evaluation mode, perhaps composed with a filter.
            images: [N, C, H, W] float in [0, 1].
            labels: [N] int64, the true classes.
            index: [N] int64, the examples' places in the data set: what their random numbers hang on.
            seed: The trial's seed.
            clean_logits: [N, classes], what `network` says of `images`, where the caller knows it already.

        Returns:
            [N, C, H, W] in [0, 1], detached. An attack that changes nothing returns the very tensor it was given.
        """

    def __repr__(self) -> str:
        # Of dataclasses made with repr=False, and of attacks that are none: object's own repr is an address, which
        # would make a new key each run.
        settings: Mapping[str, Any] = dict(sorted(vars(self).items()))
        if dataclasses.is_dataclass(self):
            fields = dataclasses.fields(self)
            known = {field.name: getattr(self, field.name) for field in fields}
            silent = {f.name for f in fields if LATER in f.metadata and known[f.name] == f.metadata[LATER]}
            settings = {name: value for name, value in known.items() if name not in silent}
        kind = vars(type(self)).get("kept_name") or type(self).__name__
        return f"{kind}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


Factory = Callable[[MeasurementSpec], Attack]
_attacks: Registry[Factory] = Registry("measurement.attacks", metrics=True)
attack_names = _attacks.names
attack_source = _attacks.source_digest


def register_attack(name: str) -> Callable[[Factory], Factory]:
    """Decorator: makes an attack a column that `measurement.attacks` may name.

    Example, in a module of your own that is loaded with `--import my_module`:

        @register_attack("pgd50")
        def pgd50(spec: MeasurementSpec) -> Attack:
            return PGD(name="pgd50", eps_255=spec.eps_255, step_255=spec.step_255, steps=50)

    Args:
        name: The column's name.

    Returns:
        The decorator; it takes a function of a `MeasurementSpec` that returns an attack of that name.

    Raises:
        SpecError: The name is another factory's, or one that MLflow takes for no metric.
    """
    return _attacks.register(name)


def build_attack(name: str, spec: MeasurementSpec) -> Attack:
    """The attack of a column, with the hyperparameters of a measurement.

    Args:
        name: As given to `register_attack`.
        spec: Where eps, step size and the like come from.

    Raises:
        SpecError: No attack of that name is registered, or its factory makes something else.
    """
    attack = _attacks.get(name)(spec)
    if not isinstance(attack, Attack) or attack.name != name:
        raise SpecError(f"expected the factory of {name!r} to return an Attack named {name!r}, got {attack!r}")
    return attack


def refuse_negative(attack: Attack, *fields: str) -> None:
    """Refuses hyperparameters below 0, NaN included.

    Args:
        attack: Whose fields are looked at.
        fields: Their names.

    Raises:
        SpecError: One is negative or NaN.
    """
    for field in fields:
        value = getattr(attack, field)
        if not value >= 0:
            raise SpecError(f"expected {type(attack).__name__}.{field} of at least 0, got {value}")


def full_precision(logits: Tensor) -> Tensor:
    """Logits that autocast left in half precision, as float32: a loss of 8 bits has too few distinct values.

    Args:
        logits: [N, classes] of any float type.

    Returns:
        The same in float32 where they were bfloat16 or float16, else as they are.
    """
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
