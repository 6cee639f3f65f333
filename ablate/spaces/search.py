"""What a search looks through: distributions on dotted paths, what it judges by, and how it stops.

A search never sees the test split: its objectives are accuracies on the images held out for validation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ablate.core.errors import nearest
from ablate.spaces.settings import setting_paths
from ablate.spaces.specs import Spec

Scalar = bool | int | float | str | None

MOST_STEPS = 2.0**40
"""Of a quniform, whose values are rounded to 12 places; and MOST_WHOLE: of a randint, drawn by a double."""
MOST_WHOLE = 2**52

MOST_SAMPLES = 100_000
"""Of one search; also of a grid that says nothing of samples."""

_ATTACK = "training.attack."
_NOT_SEARCHED = {
    "seed": "is an option of its own, --seeds",
    "measurement": "is about the test split, which a search never sees",
    "data": "would change what samples are judged on",
}


class Parameter(Spec):
    """A distribution of one setting; exactly one of loguniform, uniform, quniform, randint and choice."""

    loguniform: Annotated[tuple[float, float], Field(strict=False)] | None = Field(
        None, description="[low, high], both above 0: every order of magnitude alike."
    )
    uniform: Annotated[tuple[float, float], Field(strict=False)] | None = Field(None, description="[low, high].")
    quniform: Annotated[tuple[float, float, float], Field(strict=False)] | None = Field(
        None, description="[low, high, step]: low, low + step, ... up to high."
    )
    randint: Annotated[tuple[int, int], Field(strict=False)] | None = Field(
        None, description="[low, high], whole numbers, both ends included."
    )
    choice: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1, max_length=1000)] | None = Field(
        None, description="One of these values."
    )
    when: dict[str, Scalar | Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)]] = Field(
        {}, description="Searched only where these other parameters have this value, or one of these."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}")
        if self.choice is not None:
            if len({repr(value) for value in self.choice}) != len(self.choice):
                raise ValueError("expected each choice once, got one twice")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"expected low below high in {self.kind}, got {low} and {high}")
        if self.randint is not None and not max(-low, high, high - low) <= MOST_WHOLE:
            raise ValueError(f"expected randint within {-MOST_WHOLE} .. {MOST_WHOLE}, got {low} .. {high}")
        if self.loguniform is not None and low <= 0:
            raise ValueError(f"expected loguniform above 0, got {low}")
        if self.quniform is not None and not 0 < self.quniform[2] <= high - low:
            raise ValueError(f"expected a step above 0 and within {low} .. {high}, got {self.quniform[2]}")
        if self.quniform is not None and not (high - low) / self.quniform[2] < MOST_STEPS:
            raise ValueError(f"expected a step of at least {(high - low) / MOST_STEPS:.2g}, got {self.quniform[2]}")
        return self

    @property
    def kind(self) -> str:
        """Which distribution it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value; of numbers only."""
        values = getattr(self, self.kind)
        return values[0], values[1]

    def at(self, u: float) -> Scalar:
        """The value at a number from a uniform distribution.

        Args:
            u: In [0, 1).
        """
        count = self.count()
        if count is not None:
            return self.point(min(int(u * count), count - 1))
        low, high = self.bounds
        if self.loguniform is not None:
            return float(min(high, math.exp(math.log(low) + u * (math.log(high) - math.log(low)))))
        return float(low + u * (high - low))

    def count(self) -> int | None:
        """How many values it can take; None where they are not finitely many. None of them is made for it."""
        if self.choice is not None:
            return len(self.choice)
        if self.randint is not None:
            return self.randint[1] - self.randint[0] + 1
        if self.quniform is not None:
            low, high, step = self.quniform
            steps = (high - low) / step
            return int(steps + max(1e-9, steps * 1e-15)) + 1
        return None

    def point(self, k: int) -> Scalar:
        """One of finitely many values.

        Args:
            k: From 0 to `count() - 1`.
        """
        if self.choice is not None:
            return self.choice[k]
        if self.randint is not None:
            return self.randint[0] + k
        assert self.quniform is not None
        low, _, step = self.quniform
        # Rounded, so that 0.1 + 2 * 0.1 is the 0.3 which a space file would say, with the same key.
        return round(low + k * step, 12)

    def holds(self, value: Any) -> bool:
        """Whether it can take a value."""
        if self.choice is not None:
            return any(_among(value, choice) for choice in self.choice)
        low, high = self.bounds
        slack = 0.0 if self.quniform is None else self.quniform[2]  # its last point may be rounded up
        if isinstance(value, bool) or not isinstance(value, int | float) or not low - slack <= value <= high + slack:
            return False
        count = self.count()
        if count is None:
            return True
        near = int((value - low) / (slack or 1))
        return any(value == self.point(k) for k in range(max(0, near - 1), min(count, near + 2)))

    def extremes(self) -> list[Scalar]:
        """Values whose settings must all be valid: every choice, or both ends."""
        if self.choice is not None:
            return list(self.choice)
        count = self.count()
        return list(self.bounds) if count is None else [self.point(0), self.point(count - 1)]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether it is searched beside these values of the other parameters."""
        return all(path in values and _among(values[path], wanted) for path, wanted in self.when.items())


KINDS = ("loguniform", "uniform", "quniform", "randint", "choice")


def _among(value: Any, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, tuple) else (wanted,)
    # True == 1 in Python, and not in a space file.
    return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in options)


class Objective(Spec):
    """What is made as large, or as small, as can be; judged after the last epoch, in percent."""

    metric: Literal["validation/natural", "validation/attack", "validation/robust"] = Field(
        description="On the validation images: natural accuracy; under the sample's own training attack; under the "
        "paper's PGD-7 of 8/255, the same for all samples."
    )
    mode: Literal["max", "min"] = "max"


class Scheduler(Spec):
    """How trainings are stopped early, by Ray Tune's schedulers, after whole epochs."""

    name: Literal["fifo", "asha", "median"] = Field(
        "fifo", description="fifo: never; asha: successive halving (arXiv 1810.05934); median: below the median so far."
    )
    grace_epochs: int = Field(1, ge=1, description="No training is stopped before this epoch.")
    reduction: float = Field(3.0, gt=1, description="asha: the best 1/reduction goes on at each rung.")
    least_samples: int = Field(3, ge=1, description="median: so many others must have come as far.")


def _one_objective(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Objectives = Annotated[
    tuple[Objective, ...], Field(strict=False, min_length=1, max_length=2), BeforeValidator(_one_objective)
]
NamedScheduler = Annotated[Scheduler, BeforeValidator(_named)]


class SearchSpec(Spec):
    """A hyperparameter search: in place of a space's rows."""

    parameters: dict[str, Parameter] = Field(min_length=1, description="Dotted path -> distribution.")
    objective: Objectives = Field(description="One, or two for a Pareto front.")
    samples: int | None = Field(None, ge=1, le=MOST_SAMPLES, description="So many configurations; a grid: at most.")
    time_budget_minutes: float | None = Field(
        None, gt=0, description="So long in all, over every launch; what runs then is stopped."
    )
    start: list[dict[str, Scalar]] = Field([], description="Configurations tried first, as the one to beat.")
    searcher: Literal["random", "grid", "optuna"] = Field(
        "random", description="optuna: TPE, and NSGA-II with two objectives (needs the extra [search])."
    )
    scheduler: NamedScheduler = Scheduler()
    seed: int = Field(0, ge=0, lt=2**31, description="Of the searcher; trainings have their own.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for path in self.parameters:
            _check_path(path)
        self._check_conditions()
        self._check_start()
        metrics = [objective.metric for objective in self.objective]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"expected two different metrics in objective, got {metrics[0]!r} twice")
        attacked = [path for path in self.parameters if path.startswith(_ATTACK)]
        if attacked and "validation/attack" in metrics:
            raise ValueError(
                f"expected objective validation/robust with {attacked[0]} searched, got validation/attack: each sample "
                "would be judged by its own attack, and the weakest would win"
            )
        if len(metrics) > 1 and self.scheduler.name != "fifo":
            raise ValueError(f"expected scheduler fifo with two objectives, got {self.scheduler.name}")
        if "training.epochs" in self.parameters and self.scheduler.name != "fifo":
            raise ValueError(f"expected scheduler fifo with training.epochs searched, got {self.scheduler.name}")
        if self.searcher == "grid":
            for path, parameter in self.parameters.items():
                if parameter.count() is None:
                    raise ValueError(f"{path}: expected choice, randint or quniform in a grid, got {parameter.kind}")
            self._check_grid()
        elif self.samples is None and self.time_budget_minutes is None:
            raise ValueError("expected samples or time_budget_minutes, got neither")
        return self

    def _check_grid(self) -> None:
        """Refuse a grid that nobody would train to its end, without going through more of it than that takes."""
        if self.samples is not None or math.prod(p.count() or 0 for p in self.parameters.values()) <= MOST_SAMPLES:
            return
        if next(itertools.islice(self.grid(), MOST_SAMPLES, None), None) is not None:
            raise ValueError(f"expected a grid of at most {MOST_SAMPLES:,} configurations, or samples, got more")

    def _check_conditions(self) -> None:
        for path, parameter in self.parameters.items():
            for other, wanted in parameter.when.items():
                if other not in self.parameters or other == path:
                    others = [known for known in self.parameters if known != path]
                    raise ValueError(
                        f"{path}.when: expected another parameter of this search, got {other!r}; "
                        f"{nearest(other, others)}"
                    )
                known = self.parameters[other]
                for value in wanted if isinstance(wanted, tuple) else (wanted,):
                    if known.count() is not None and not known.holds(value):
                        raise ValueError(f"{path}.when: expected a value that {other} can take, got {value!r}")
        self.order()

    def _check_start(self) -> None:
        for number, values in enumerate(self.start):
            for path in values:
                if path not in self.parameters:
                    raise ValueError(
                        f"start.{number}: expected parameters of this search, got {path!r}; "
                        f"{nearest(path, self.parameters)}"
                    )
            for path, parameter in self.parameters.items():
                if parameter.active(values) and path not in values:
                    raise ValueError(f"start.{number}: expected a value of {path}, got none")
                if path in values and not (parameter.active(values) and parameter.holds(values[path])):
                    raise ValueError(f"start.{number}: expected a value that {path} can take, got {values[path]!r}")

    def order(self) -> list[str]:
        """The parameters, each after those it hangs on, else as they are listed.

        Raises:
            ValueError: They hang on each other in a circle.
        """
        ordered: list[str] = []
        left = list(self.parameters)
        while left:
            ready = [path for path in left if all(other in ordered for other in self.parameters[path].when)]
            if not ready:
                raise ValueError(f"expected conditions without a circle, got one among {', '.join(left)}")
            ordered.append(ready[0])
            left.remove(ready[0])
        return ordered

    def grid(self) -> Iterator[dict[str, Scalar]]:
        """Every configuration of a grid once: the parameters that a condition turns off are no difference.

        Yields:
            Path -> value, the last parameter changing fastest.
        """
        yield from self._grid(self.order(), {})

    def _grid(self, left: list[str], values: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
        if not left:
            yield dict(values)
            return
        path, *others = left
        parameter = self.parameters[path]
        if not parameter.active(values):
            yield from self._grid(others, values)
            return
        for k in range(parameter.count() or 0):
            yield from self._grid(others, {**values, path: parameter.point(k)})

    def settled(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """What is left to search where some parameters have been set.

        Args:
            fixed: Dotted path -> value that a preset or the command line gave.

        Returns:
            The spec's content, less the parameters that are set, or that a set one turns off.
        """
        content = self.model_dump(exclude_unset=True)
        dropped = set()
        for path, parameter in self.parameters.items():
            conditions = {other: wanted for other, wanted in parameter.when.items() if other in fixed}
            off = any(not _among(fixed[other], wanted) for other, wanted in conditions.items())
            if path in fixed or off:
                del content["parameters"][path]
                dropped.add(path)
            elif conditions:
                when = content["parameters"][path]["when"]
                content["parameters"][path]["when"] = {k: v for k, v in when.items() if k not in conditions}
        if self.start:
            kept = [{k: v for k, v in values.items() if k not in dropped} for values in self.start]
            content["start"] = [values for number, values in enumerate(kept) if values not in kept[:number]]
        return content


def _check_path(path: str) -> None:
    for group, reason in _NOT_SEARCHED.items():
        if path == group or path.startswith(f"{group}."):
            raise ValueError(f"{path}: expected a setting of the network or its training, got one that {reason}")
    if path not in searchable():
        raise ValueError(f"expected a known setting, got {path!r}; {nearest(path, searchable())}")


def searchable() -> list[str]:
    """The dotted paths that a search may look through: every setting of the network and its training."""
    paths = setting_paths()
    leaves = [known for known in paths if not any(other.startswith(f"{known}.") for other in paths)]
    return [path for path in leaves if path.startswith(("model.", "training."))]
