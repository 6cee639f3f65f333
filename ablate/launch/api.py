"""Ablations from Python: `load_space(...).plan(...)`, `.run()`, `.results()`, as a notebook wants them.

    space = ablate.load_space("batch_size")
    plan = space.plan(preset="smoke", seeds=[0, 1])
    plan                                # in a notebook: what it would train, share and reuse
    plan.run(local=True)                # 0 once everything is there; again: reuses and goes on
    plan.results()["accuracy/pgd20"]    # a pandas frame with a line for each row and seed
    plan.figures()["columns"]           # published against ours, as a picture
    plan.network("64", seed=1)          # the trained network itself, in evaluation mode

The arguments are the options of the command line by name, and plans, keys and storage are the same: what a notebook has
trained a launch reuses, and the other way round.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from ablate import spaces
from ablate.core.errors import SpecError, UserError, nearest
from ablate.core.places import local_path
from ablate.core.text import open_console
from ablate.core.user_code import import_modules
from ablate.launch.options import OPTIONS, Option, Options, parse_gpus, parse_hours, parse_per_process
from ablate.launch.request import Request
from ablate.spaces import space_names as space_names

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ablate.planning.plan import Plan
    from ablate.report.figures.pictures import Picture


def load_space(name_or_path: str | Path) -> Ablation:
    """An ablation or search by its name or by its file's path.

    Args:
        name_or_path: `batch_size`, or the path of a `.yaml` file of your own.

    Returns:
        The space, validated; nothing heavy is imported yet.

    Raises:
        UserError: No such space, or a file that is refused, with the line and the nearest valid name.
    """
    with _worded_for_python():
        return Ablation(str(name_or_path), spaces.load_space(str(name_or_path)))


def _plain(value: Any) -> Any:
    """What JSON lacks, as it has it: a path, NumPy's and PyTorch's numbers and arrays."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        raise SpecError(f"expected a list, whose order is kept, got a {type(value).__name__}")
    for method in ("tolist", "item"):
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    raise SpecError(f"expected a plain value (a number, text, a list, a dict), got {type(value).__name__}")


def _written(path: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (SpecError, TypeError, ValueError) as error:  # a key that is no text, a list inside itself
        raise SpecError(f"sets[{path!r}]: {error}") from error


def _seeds(seeds: Sequence[int]) -> list[int]:
    """Seeds as plain numbers, each once."""
    found: list[int] = []
    # Of one number nobody knows whether it is a seed or how many.
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise SpecError(f"seeds: expected whole numbers from 0 up, like [0, 1, 2], got {seeds!r}")
    for seed in seeds:
        try:
            number = -1 if isinstance(seed, bool) else operator.index(seed)
        except TypeError:
            number = -1
        if not 0 <= number < 2**31:
            raise SpecError(f"seeds: expected whole numbers from 0 up, like [0, 1, 2], got {seed!r}")
        if number in found:
            raise SpecError(f"seeds: expected distinct numbers, got {number} twice")
        found.append(number)
    if not found:
        raise SpecError("seeds: expected at least one, got none")
    return found


def _assignments(sets: Mapping[str, Any] | None) -> list[str]:
    """Settings as `--set` takes them."""
    if sets is not None and not isinstance(sets, Mapping):
        raise SpecError(f"sets: expected a dict of dotted paths, like {{'training.epochs': 3}}, got {sets!r}")
    for path in sets or ():
        if not isinstance(path, str) or not path.strip() or "=" in path:
            raise SpecError(f"sets: expected dotted paths, like 'training.epochs', got {path!r}")
    return [f"{path}={_written(path, value)}" for path, value in (sets or {}).items()]


def _whole(value: Any, least: int, name: str) -> int:
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool) and operator.index(value) >= least:
            return operator.index(value)
    raise SpecError(f"{name}: expected a whole number from {least} up, got {value!r}")


def _texts(name: str, what: str, like: str) -> Callable[[Sequence[str] | None], list[str]]:
    def read(texts: Sequence[str] | None) -> list[str]:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts or ()):
            raise SpecError(f"{name}: expected a list of {what}, like ['{like}'], got {texts!r}")
        return list(dict.fromkeys(texts or ()))

    return read


def _preset(preset: str) -> str:
    if not isinstance(preset, str):
        raise SpecError(f"preset: expected a preset's name, got {preset!r}")
    return preset


def _storage(storage: str | Path) -> str:
    return str(storage)


def _data_root(data_root: str | Path) -> Path:
    return local_path(data_root, "data_root")


def _gpus(gpus: float | Literal["auto"] | None) -> float | Literal["auto"] | None:
    return None if gpus is None else parse_gpus(str(gpus))


def _per_process(per_process: int | Literal["auto"] | None) -> int | Literal["auto"] | None:
    return None if per_process is None else parse_per_process(str(per_process))


def _hours(flag: str) -> Callable[[float | None], float | None]:
    def read(hours: float | None) -> float | None:
        return None if hours is None else parse_hours(str(hours), flag)

    return read


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "preset": _preset,
    "sets": _assignments,
    "seeds": _seeds,
    "rows": _texts("rows", "rows' labels", "64"),
    "storage": _storage,
    "also": _texts("also", "bundles or storages", "study.zip"),
    "data_root": _data_root,
    "budget_hours": _hours("--budget-hours"),
    "max_hours": _hours("--max-hours"),
    "gpus_per_trial": _gpus,
    "trials_per_process": _per_process,
    "imports": _texts("imports", "modules' names", "my_module"),
}
"""Option -> what takes it from Python, where its kind alone does not say it."""


def _value(option: Option, given: Any) -> Any:
    if option.name in _READERS:
        return _READERS[option.name](given)
    if given is None and option.default is None:
        return None
    if option.is_switch:
        if not isinstance(given, bool):
            raise SpecError(f"{option.name}: expected True or False, got {given!r}")
        return given
    if option.kind is int:
        return _whole(given, option.least or 0, option.name)
    if not isinstance(given, option.kind):
        raise SpecError(f"{option.name}: expected a text, got {given!r}")
    return given


def _values(call: Literal["plan", "run"], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call as `Options` holds them."""
    known = [name for name, option in OPTIONS.items() if option.call == call]
    for name in given:
        if name not in known:
            raise SpecError(f"{call}: expected one of its arguments, got {name!r}; {nearest(name, known)}")
    return {name: _value(OPTIONS[name], value) for name, value in given.items()}


_Call = TypeVar("_Call", bound=Callable[..., Any])


def _takes(call: Literal["plan", "run"]) -> Callable[[_Call], _Call]:
    """Show the options of a call in its signature and docstring, as if they were written there."""

    def shown(function: _Call) -> _Call:
        signature = inspect.signature(function)
        hints = get_type_hints(Options)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        lines = []
        for option in (option for option in OPTIONS.values() if option.call == call):
            default = tuple(option.default) if isinstance(option.default, list) else option.default
            parameter = inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default)
            reader = _READERS.get(option.name)
            annotation = hints[option.name]
            if reader is not None:
                annotation = next(iter(inspect.signature(reader).parameters.values())).annotation
            own.append(parameter.replace(annotation=annotation))
            lines.append(f"            {option.name}: As of {option.flag}: {option.help}")
        function.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        function.__doc__ = re.sub(r"(?m)^ +options: .*$", lambda _: "\n".join(lines), function.__doc__ or "")
        return function

    return shown


_OPTION = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)\b")
_NAMES = {option.flag.removeprefix("--"): name for name, option in OPTIONS.items()} | {"no-tracking": "tracking=False"}
_SET = re.compile(r"(?m)^--set ([\w.]+)\s*=.*?: (?=expected |\1: |[\w.]+: expected )")


@contextlib.contextmanager
def _worded_for_python() -> Iterator[None]:
    """Errors name the arguments of a call, where the command line has options."""
    try:
        yield
    except UserError as error:
        text = _SET.sub(lambda found: f"sets[{found[1]!r}]: ", str(error))
        # What the argument names is not named again; what lies inside a dict is.
        text = re.sub(r"(?m)^(sets\['([^']+)'\]: )\2: ", r"\1", text)
        text = re.sub(r"(?m)^(sets\['([^']+)'\]: expected )\2 to be ", r"\1", text)
        text = re.sub(r"(?m)^(sets\['([^']+)'\]: expected )\2 of ", r"\1", text)
        text = _OPTION.sub(lambda found: _NAMES.get(found[1], found[1].replace("-", "_")), text)
        raise type(error)(text) from error


class Ablation:
    """One space: what varies, what was published, what is claimed.

    Args:
        given: The name or path it was loaded by.
        file: The validated space.
    """

    def __init__(self, given: str, file: spaces.SpaceFile) -> None:
        self._given = given
        self.file = file

    @property
    def name(self) -> str:
        """The space's name."""
        return self.file.name

    @property
    def title(self) -> str:
        """The space's title."""
        return self.file.space.title

    @property
    def rows(self) -> list[str]:
        """Labels of its rows; none of a search, whose samples are found while it runs."""
        return [row.label for row in self.file.space.rows]

    @_takes("plan")
    def plan(self, **options: Any) -> LaunchPlan:
        """What a launch would do; nothing is trained.

        `sets` is a dict of settings by their dotted paths, `{"training.epochs": 3}`, NumPy's values and paths too;
        `seeds` and `rows` are lists.

        Args:
            options: By name.

        Returns:
            The plan, decided against storage.

        Raises:
            UserError: A setting, preset or data set that cannot be used.
        """
        with _worded_for_python():
            asked = Options(space=[self._given], **_values("plan", options))
            return LaunchPlan(Request.read(asked, [self.file]))

    def __repr__(self) -> str:
        return f"<Ablation {self.name}: {self.title}>"


class LaunchPlan:
    """One plan of a space: what is trained, shared and reused, and its results.

    Args:
        request: As of the command line.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._options = request.options
        self._plan: Plan | None = None
        self._decided()

    @property
    def id(self) -> str:
        """The same for the same trials, whoever launches them and wherever; reports take it as `--plan`."""
        return self._decided().id

    def trials(self) -> pd.DataFrame:
        """What a launch would do now, trial by trial.

        Returns:
            A frame with `space`, `row`, `seed`, `training` (its key), `action` (reuse, continue, train, wait, failed,
            stopped), `epoch` and `epochs`.
        """
        import pandas as pd

        plan = self._decided()
        return pd.DataFrame(
            [
                {
                    "space": planned.trial.space,
                    "row": planned.trial.label,
                    "seed": planned.trial.seed,
                    "training": planned.training,
                    "action": plan.trainings[planned.training].action,
                    "epoch": max(0, plan.trainings[planned.training].epoch),
                    "epochs": plan.trainings[planned.training].spec.epochs,
                }
                for planned in plan.trials
            ],
            columns=["space", "row", "seed", "training", "action", "epoch", "epochs"],
        )

    def estimate(self) -> dict[str, Any]:
        """How long what is left would take on this machine.

        Returns:
            `seconds`, `gpu_hours`, `core_hours`, `device`, `gpus`, and the `basis` of the numbers.
        """
        from ablate.launch.other_storages import opened
        from ablate.planning.estimates import estimate

        with _worded_for_python():
            return estimate(self._decided(), opened(self._options)).as_json()

    @_takes("run")
    def run(self, *, quiet: bool = False, **options: Any) -> int:
        """Train and measure what is left, to its end; interrupted, the same call goes on.

        Args:
            quiet: Print nothing.
            options: By name.

        Returns:
            0: everything is there; 1: something failed; 130: interrupted.

        Raises:
            UserError: Something given cannot be used; nothing was lost.
        """
        from ablate.launch.session import launch

        with _worded_for_python():
            # Whoever calls this has asked for it; `estimate` tells how long.
            asked = replace(self._options, **_values("run", options), yes=True)
            import_modules(asked.imports)
        console = open_console()
        console.quiet = quiet
        with _worded_for_python():
            return launch(replace(self._request, options=asked), console)

    def results(self) -> pd.DataFrame:
        """What there is, from storage: also while a launch runs, here or elsewhere.

        Returns:
            A frame with an index of (`row`, `seed`) (of (`space`, `row`, `seed`) where there are several spaces), a
            column `state` (finished, training, stopped, failed, missing) and one for each metric: `accuracy/pgd20` and
            the like in percent on the test split, what analyses found; missing numbers are NaN.
        """
        import pandas as pd

        from ablate.launch.other_storages import opened
        from ablate.planning.plan_file import plan_file_of
        from ablate.report.from_storage import all_results

        with _worded_for_python():
            plan = self._decided()
            lines = [
                {"space": trial.part.space, "row": trial.part.row, "seed": trial.part.seed, "state": trial.state}
                | dict(trial.metrics)
                for results in all_results(plan_file_of(plan, {}), opened(self._options))
                for trial in results.trials.values()
            ]
        frame = pd.DataFrame(lines)
        if frame.empty:
            return frame
        index = ["row", "seed"] if len(plan.spaces) == 1 else ["space", "row", "seed"]
        return frame.drop(columns=["space"] if len(plan.spaces) == 1 else []).set_index(index)

    def figures(self) -> dict[str, Picture]:
        """The figures of a report, from storage: `plan.figures()["columns"]` shows itself in a notebook.

        Returns:
            Name -> picture with its `title`, `caption`, `png` and `svg`: `columns`, `verdicts` and `training` of any
            table, then those that its space lists; those without anything to draw are absent. With several spaces names
            are `<space>/<name>`.
        """
        from ablate.launch.other_storages import opened
        from ablate.planning.plan_file import plan_file_of
        from ablate.report.contents import draw_all
        from ablate.report.figures.pictures import Picture
        from ablate.report.from_storage import all_results

        with _worded_for_python():
            plan = self._decided()
            return {
                name if len(plan.spaces) == 1 else f"{results.space.name}/{name}": drawn
                for results in all_results(plan_file_of(plan, {}), opened(self._options))
                for name, drawn in draw_all(results).items()
                if isinstance(drawn, Picture)
            }

    def network(self, row: str, seed: int | None = None, *, which: str = "last") -> nn.Module:
        """A trained network, to look into or to attack in other ways.

        Args:
            row: The label of its row.
            seed: One of the plan's; none: the first.
            which: `last`, the `best` on the images held out for validation, `ema`, `ema_best` or `epoch:60`.

        Returns:
            In evaluation mode, float32, on the CPU; [N, 3, H, W] float in [0, 1] -> [N, classes] logits.

        Raises:
            UserError: No such row or seed, not trained to its end, or its checkpoints were dropped.
        """
        from ablate.launch.other_storages import opened
        from ablate.planning.networks import trained_network

        with _worded_for_python():
            plan = self._decided()
            return trained_network(plan, opened(self._options), row, plan.seeds[0] if seed is None else seed, which)

    def _decided(self) -> Plan:
        from ablate.launch.other_storages import opened
        from ablate.planning.plan import decide

        with _worded_for_python():
            if self._plan is None or self._plan.grows:  # while it runs
                self._plan = self._request.plan()
            decide(self._plan, opened(self._options))
            return self._plan

    def __repr__(self) -> str:
        from ablate.launch.console import summary

        plan = self._decided()
        return f"<plan {plan.id}, preset {plan.preset.name}: {summary(plan)}>"

    def _repr_html_(self) -> str:
        from ablate.launch.console import summary

        plan = self._decided()
        return f"<p>plan {plan.id}, preset {plan.preset.name}: {summary(plan)}</p>{self.trials().to_html(index=False)}"
