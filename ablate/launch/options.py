"""What a launch is asked for: the one list of options, for the command line, notebooks and submitted jobs.

The command line is made from the fields of `Options`, `to_arguments` writes it, and a notebook's calls take the fields
by name: a new option is one field here. Nothing heavy is imported.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from ablate.core.errors import SpecError
from ablate.core.places import local_path
from ablate.launch import completion
from ablate.spaces.seeds import parse_seeds


def parse_gpus(text: str | None) -> float | Literal["auto"] | None:
    """`--gpus-per-trial`: a number, or `auto`.

    Args:
        text: As given; none: not given.

    Raises:
        SpecError: Anything else; Ray takes a part of one GPU, or several whole ones.
    """
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        gpus = float(text)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
        raise SpecError(f"--gpus-per-trial: expected auto, a part of 1 like 0.25, or a whole number, got {text!r}")
    return gpus


def parse_per_process(text: str | None) -> int | Literal["auto"] | None:
    """`--trials-per-process`: a number, or `auto`.

    Args:
        text: As given; none: not given.

    Raises:
        SpecError: Anything else.
    """
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) < 1:
        raise SpecError(f"--trials-per-process: expected auto or a whole number from 1 up, got {text[:80]!r}")
    return int(text)


def parse_hours(text: str, flag: str = "--budget-hours") -> float:
    """`--budget-hours`, `--max-hours`: a number above 0.

    Raises:
        SpecError: Anything else.
    """
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 < hours < math.inf:
        raise SpecError(f"{flag}: expected hours, a number above 0, got {text[:80]!r}")
    return hours


def parse_max_hours(text: str) -> float:
    """`--max-hours`; as of `parse_hours`."""
    return parse_hours(text, "--max-hours")


def _parse_folder(text: str) -> Path:
    return local_path(text, "--data-root")


def _write_folder(folder: Path) -> str:
    # A folder may be called ~ or s3:x, which would be read as something else without ./ before it.
    return str(folder) if folder.is_absolute() else f"./{folder}"


def _write_seeds(seeds: Iterable[int]) -> str:
    return ",".join(map(str, seeds))


@dataclass(frozen=True)
class Option:
    """How an option is given.

    Args:
        help: What `--help` says of it.
        metavar: What stands there for its value; None of a switch.
        heading: What stands above it, and so above all that follow, in the help text; empty: as before.
        flag: Its name on the command line, where that is not its name here.
        least: The smallest number that it takes.
        complete: What a shell offers for what was typed.
        parse: The value of a text, where that is no text, number or list of texts.
        write: The text of a value.
        call: The call of a notebook that takes it.
        hidden: Whether `--help` leaves it out.
        name: Of the field.
        kind: Of the value, without None.
        default: What it is when it is not given.
    """

    help: str
    metavar: str | None = None
    heading: str = ""
    flag: str = ""
    least: int | None = None
    complete: Callable[[str], Iterable[Any]] | None = None
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] = str
    call: Literal["plan", "run"] | None = None
    hidden: bool = False
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value: named, it is the opposite of its default."""
        return self.kind is bool

    @property
    def repeats(self) -> bool:
        """Whether it may be given several times, a value each."""
        return get_origin(self.kind) is list and self.parse is None


def _given(metavar: str | None, help: str, **how: Any) -> dict[str, Option]:
    return {"option": Option(help, metavar, **how)}


@dataclass
class Options:
    """What the command line or a notebook asked for; each field says what it is."""

    space: list[str] = field(
        default_factory=list,
        metadata=_given(
            "NAME",
            "A space, a .yaml file, or all; may repeat.",
            heading="What is trained",
            complete=completion.space_names,
        ),
    )
    preset: str = field(
        default="paper",
        metadata=_given(
            "NAME",
            "paper (default): full; smoke: minutes on a laptop.",
            complete=completion.preset_names,
            call="plan",
        ),
    )
    sets: list[str] = field(
        default_factory=list,
        metadata=_given(
            "PATH=VALUE",
            "Any setting, training.epochs=3; may repeat.",
            flag="--set",
            complete=completion.settings,
            call="plan",
        ),
    )
    # Before the seeds, which mean another thing with it: none are all that are finished.
    rerun: list[str] = field(
        default_factory=list, metadata=_given("LABEL", "Train this finished row again; compare; may repeat.")
    )
    seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata=_given(
            "0,1,2",
            "Every row with each; 0-9 is ten; default 0.",
            parse=parse_seeds,
            write=_write_seeds,
            call="plan",
        ),
    )
    rows: list[str] = field(
        default_factory=list, metadata=_given("LABEL", "Only this row; may repeat.", flag="--row", call="plan")
    )
    until_decided: bool = field(
        default=False, metadata=_given(None, "Seeds only to rows of claims yet undecided.", call="plan")
    )
    budget_hours: float | None = field(
        default=None,
        metadata=_given(
            "H", "With it: GPU-hours, else core-hours, at most.", parse=parse_hours, write=repr, call="plan"
        ),
    )
    max_seeds: int | None = field(
        default=None, metadata=_given("N", "With it: of a row at most; default: the last look.", least=2, call="plan")
    )
    dry_run: bool = field(
        default=False,
        metadata=_given(None, "Show trials, sharing, reuse, time; stop.", heading="What is shown and asked"),
    )
    yes: bool = field(default=False, metadata=_given(None, "Go on if it takes more than a day."))
    list_spaces: bool = field(
        default=False, metadata=_given(None, "Show the spaces, one line each; stop.", flag="--list")
    )
    # Everybody tries it; the help fits one screen without.
    version: bool = field(default=False, metadata=_given(None, "Show the version; stop.", hidden=True))
    watch: bool = field(default=False, metadata=_given(None, "Follow a running launch, read-only."))
    as_json: bool = field(
        default=False, metadata=_given(None, "JSON: the plan (--dry-run) or the results.", flag="--json")
    )
    storage: str = field(
        default="./storage",
        metadata=_given("PLACE", "Folder or bucket; default ./storage.", heading="Where it is kept", call="plan"),
    )
    also: list[str] = field(
        default_factory=list,
        metadata=_given("BUNDLE|PLACE", "Reuse what bundles or a storage hold; may repeat.", call="plan"),
    )
    data_root: Path = field(
        default=Path("data"),
        metadata=_given(
            "DIR", "Downloaded data; default ./data.", parse=_parse_folder, write=_write_folder, call="plan"
        ),
    )
    tracking_uri: str | None = field(
        default=None, metadata=_given("URI", "Default $MLFLOW_TRACKING_URI or ./mlflow.db.", call="run")
    )
    tracking: bool = field(
        default=True, metadata=_given(None, "No MLflow; storage only, sync later.", flag="--no-tracking", call="run")
    )
    local: bool = field(
        default=False,
        metadata=_given(None, "In this process, without Ray.", heading="Where and how it runs", call="run"),
    )
    cluster: str | None = field(default=None, metadata=_given("URL", "Submit to a Ray job server."))
    # Of those clusters alone that jobs/README.md tells of it; the help fits one screen without.
    storage_is_shared: bool = field(
        default=False, metadata=_given(None, "With --cluster: all nodes mount it.", hidden=True)
    )
    include: list[str] = field(
        default_factory=list, metadata=_given("PATH", "With --cluster: a file or folder to send.")
    )
    cpus_per_trial: int | None = field(
        default=None, metadata=_given("N", "CPU cores of each; default: a share.", least=1, call="run")
    )
    # auto: a share by its network; None: one where there are any.
    gpus_per_trial: float | Literal["auto"] | None = field(
        default=None, metadata=_given("N|auto", "GPUs of a training; 0.25 packs four.", parse=parse_gpus, call="run")
    )
    # None: one; with --gpus-per-trial auto as many as were measured to fill a GPU.
    trials_per_process: int | Literal["auto"] | None = field(
        default=None,
        metadata=_given("N|auto", "Trainings of one shape that share a process.", parse=parse_per_process, call="run"),
    )
    max_concurrent: int = field(
        default=0, metadata=_given("N", "Trainings at once; default: all.", least=0, call="run")
    )
    max_failures: int = field(
        default=2, metadata=_given("N", "Restarts of a lost process; default 2.", least=0, call="run")
    )
    max_hours: float | None = field(
        default=None,
        metadata=_given(
            "H", "End in order after so long; goes on again.", parse=parse_max_hours, write=repr, call="run"
        ),
    )
    on_end: str | None = field(
        default=None, metadata=_given("COMMAND", "Run this at the end; $ABLATE_EXIT_CODE.", call="run")
    )
    retry_failed: bool = field(default=False, metadata=_given(None, "Try failed trainings again.", call="run"))
    prune: bool = field(default=False, metadata=_given(None, "Drop checkpoints of what is finished.", call="run"))
    imports: list[str] = field(
        default_factory=list,
        metadata=_given("MODULE", "Your own code to load; may repeat.", flag="--import", call="run"),
    )

    @classmethod
    def parsed(cls, given: Mapping[str, Any]) -> Self:
        """The options that a command line gives.

        Args:
            given: Name of a field -> its text, number, list of texts, or True of a switch; what is None, False or
                empty was not given.

        Returns:
            Them, with defaults for the others.

        Raises:
            SpecError: A text that is no value of its option.
        """
        values: dict[str, Any] = {}
        for name, option in OPTIONS.items():
            value = given.get(name)
            if value is None or value is False or value == () or value == []:
                continue
            if option.is_switch:
                values[name] = not option.default
            elif option.parse is not None:
                values[name] = option.parse(str(value))
            else:
                values[name] = list(value) if option.repeats else value
        if "rerun" in values:
            values.setdefault("seeds", [])
        return cls(**values)

    def to_arguments(self) -> list[str]:
        """The command line that gives these options, without those that have their defaults.

        Returns:
            Words, not yet quoted for a shell; parsed, they are these options again.
        """
        words: list[str] = []
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            told = name == "seeds" and bool(self.rerun)  # its default is another one then
            if value == ([] if told else option.default):
                continue
            if option.is_switch:
                words.append(option.flag)
            else:
                for each in value if option.repeats else [value]:
                    words += [option.flag, option.write(each)]
        return words


def _listed() -> dict[str, Option]:
    found = {}
    hints = get_type_hints(Options)
    for each in fields(Options):
        option: Option = each.metadata["option"]
        kinds = [hints[each.name]]
        if get_origin(hints[each.name]) in (Union, types.UnionType):
            kinds = [kind for kind in get_args(hints[each.name]) if kind is not types.NoneType]
        factory = each.default_factory
        default = each.default if factory is MISSING else factory()
        flag = option.flag or "--" + each.name.replace("_", "-")
        found[each.name] = replace(option, name=each.name, flag=flag, kind=kinds[0], default=default)
    return found


OPTIONS: Mapping[str, Option] = _listed()
"""Every option by the name of its field, in the order of the help text."""
