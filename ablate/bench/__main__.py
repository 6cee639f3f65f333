"""python -m ablate.bench: how fast this machine trains and attacks, beside the loops everybody writes."""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from ablate.core.errors import SpecError, UserError, nearest
from ablate.core.text import open_closed_streams, open_console

if TYPE_CHECKING:
    import torch

    from ablate.bench.cases import Case, Result
    from ablate.spaces.specs import ModelSpec

EPILOG = """\b
Examples:
  python -m ablate.bench                 training steps and the seven columns
  python -m ablate.bench --what columns --what attacks     measuring alone
  python -m ablate.bench --network resnet20:4:fat --batch 512
  python -m ablate.bench --what packing --network all      1, 2, 4 processes
  python -m ablate.bench --what streams --storage ./storage     taking turns
  python -m ablate.bench --what recipes  TRADES, MART and AWP beside PGD-7
Exit codes: 0 measured, 2 refused input."""

NETWORKS = ("resnet20", "mobilenet_v2", "efficientnet_b0", "wrn_34_10")
ALL_NETWORKS = ("resnet20", "resnet20:8", "resnet20:4", "resnet20:4:fat", "resnet20:2", "resnet20:2:fat", *NETWORKS[1:])
DEFAULT_NETWORKS = ("resnet20", "resnet20:4:fat", "mobilenet_v2")
MOST_FLOPS_ON_A_CPU = 7e12
"""Of one timed piece of work on a CPU, about a minute at most: larger networks get fewer images."""


class What(StrEnum):
    """What is timed."""

    STEPS = "steps"
    ATTACKS = "attacks"
    COLUMNS = "columns"
    PACKING = "packing"
    STREAMS = "streams"
    RECIPES = "recipes"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EPILOG, context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
def main(
    what: Annotated[
        list[What] | None,
        typer.Option(
            show_default=False, metavar="WHAT", help=f"{', '.join(What)}; may repeat; default: steps and columns."
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCH[:BITS][:fat]",
            help="May repeat, or all; default: resnet20, resnet20:4:fat, mobilenet_v2.",
        ),
    ] = None,
    activation: Annotated[str, typer.Option(metavar="NAME", help="relu or hardtanh.")] = "relu",
    mode: Annotated[
        list[str] | None,
        typer.Option(metavar="MODE", help="float32, tf32 or bfloat16, +compile; may repeat, or all; default: all."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=2, metavar="N", help="Images at once; may repeat.")] = None,
    images: Annotated[
        int, typer.Option(min=0, metavar="N", show_default=False, help="Test images of a column; default: one batch.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Measurements of each, in turn.")] = 5,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda; auto: a GPU where there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads; default: all cores.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Keep the speeds there: --dry-run will estimate by them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts, on standard output.")] = False,
) -> None:
    """Time training and attacks on this machine, paired in one run with the textbook loop and torchattacks.

    Ratios are round by round: median (smallest to largest); each round is a steady stream of at least half a second.
    The loops beside ours run under torch's own defaults, on a GPU TF32 convolutions, and once more in IEEE float32, the
    precision of our float32. The share of the peak is that of the best matrix product
    in the same precision on the same device; ops: operations that the host hands out for a step.
    """
    open_closed_streams()
    console = open_console(sys.stderr if as_json else None)
    try:
        wanted = [_model(name, activation) for name in _named(network)]
        found = _run(wanted, what or [What.STEPS, What.COLUMNS], mode, batch, images, rounds, device, threads, console)
        if storage is not None:
            from ablate.storage.speeds import keep
            from ablate.storage.storage import Storage

            packing = _rates(found["packing"])
            streams = _rates(
                {**each, "images_per_second": each["images_per_second"]["median"]} for each in found["streams"]
            )
            keep(Storage(storage).files, found["speeds"], found["device_key"], found["cores"], packing, streams)
            console.print(Text(f"Speeds kept in {storage}: --dry-run of launches with this storage goes by them."))
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if as_json:
        sys.stdout.write(
            json.dumps({name: value for name, value in found.items() if name not in _INNER}, indent=1) + "\n"
        )


def _named(names: Iterable[str] | None) -> list[str]:
    given = list(names or DEFAULT_NETWORKS)
    return [each for name in given for each in (ALL_NETWORKS if name == "all" else (name,))]


def _model(name: str, activation: str) -> ModelSpec:
    from ablate.learning.models import network_names
    from ablate.spaces.specs import ModelSpec

    arch, *rest = name.split(":")
    if arch not in network_names():
        raise SpecError(f"--network: expected a network's name, got {arch!r}; {nearest(arch, network_names())}")
    quantization: dict[str, Any] = {}
    for part in rest:
        if part == "fat":
            quantization["fat"] = True
        elif part.isdigit() and 2 <= int(part) <= 32:
            quantization["bits"] = int(part)
        else:
            raise SpecError(f"--network {name}: expected 2 to 32 bits or fat after the colon, got {part!r}")
    if activation not in ("relu", "hardtanh"):
        raise SpecError(f"--activation: expected relu or hardtanh, got {activation!r}")
    return ModelSpec.model_validate({"arch": arch, "activation": activation, "quantization": quantization})


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise SpecError(f"--device: expected cpu, cuda or auto, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("--device cuda: expected a GPU that torch can use, got none")
    return torch.device(name)


def _modes(given: list[str] | None, device: torch.device) -> list[str]:
    from ablate.bench.cases import MODES

    every = [mode for mode in MODES if device.type != "cpu" or not mode.startswith("tf32")]  # which a CPU has not
    chosen = every if not given or "all" in given else given
    for mode in chosen:
        if mode not in MODES:
            raise SpecError(f"--mode: expected one of {', '.join(MODES)}, got {mode!r}; {nearest(mode, MODES)}")
    return chosen


Measured = TypeVar("Measured")
Part = TypeVar("Part", int, str)
"""How many trainings at once, or what else a row is about."""


class _Row(Protocol):
    """Something timed, as a row of its table."""

    def line(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


def _run(
    models: list[ModelSpec],
    what: list[What],
    mode: list[str] | None,
    batches: list[int] | None,
    images: int,
    rounds: int,
    device_name: str,
    threads: int | None,
    console: Console,
) -> dict[str, Any]:
    import os

    import torch

    from ablate.bench import packing, recipes, streams
    from ablate.bench.autoattack import time_autoattack
    from ablate.bench.cases import Case, time_columns, time_step
    from ablate.bench.machine import device_name as name_of
    from ablate.bench.machine import matmul_peak
    from ablate.core.memory import ran_out_of_memory
    from ablate.learning.turns import convolutions_in
    from ablate.spaces.specs import COLUMNS

    device = _device(device_name)
    modes = _modes(mode, device)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.backends.cudnn.allow_tf32 = False
    peaks = {name: matmul_peak(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    if device.type != "cpu":
        with convolutions_in("tf32"):
            peaks["tf32"] = matmul_peak(device, torch.float32)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = f"{name_of(device)}; torch {torch.__version__}; {date}"
    console.print(Text(head))
    console.print(
        Text("matrix product: " + ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {name}" for name, peak in peaks.items()))
    )
    rows: list[dict[str, Any]] = []
    speeds: list[dict[str, Any]] = []

    def show(result: Result, count: int) -> None:
        table = _rows(result, count, peaks)
        rows.extend(table)
        for line in table:
            console.print(Text(_line(line)))
        for name, timed in result.ours.items():
            if result.case.what == "step":
                rate = timed.rate(count).median * result.case.flops
                what = {"model": result.case.model.model_dump(mode="json"), "mode": name}
                speeds.append({**what, "batch_size": result.case.batch_size, "flops": rate})

    def timed_or_none(row: str, timed: Callable[[], Measured]) -> Measured | None:
        """None where it needs more memory than there is, which is told in its row: the rest may fit."""
        try:
            return timed()
        except packing.PackingError as error:
            why = str(error)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            why = "out of memory"
        console.print(Text(f"{row} {why}"))
        return None

    def attempt(case: Case, count: int, timed: Callable[[], Result]) -> None:
        result = timed_or_none(f"{case.label:<24} {case.what:<8} {case.batch_size:>5}", timed)
        if result is not None:
            show(result, count)

    def table(
        title: str,
        head: str,
        modes: Sequence[str],
        parts: Sequence[Part],
        timed: Callable[[ModelSpec, int, Part, str], Sequence[_Row]],
    ) -> list[dict[str, Any]]:
        """Rows of training steps: mode by mode, network by network, and part by part for as long as these fit."""
        found: list[dict[str, Any]] = []
        for mode in modes:
            console.print(Text(f"\n{title}, {mode}\n{head}"))
            for model in models:
                for batch in _step_batches(model, batches, device):
                    label = Case(model, batch, "step").label
                    for part in parts:
                        rows = timed_or_none(
                            f"{label:<24} {batch:>5} {part:>7}", partial(timed, model, batch, part, mode)
                        )
                        if rows is None:
                            break  # more of them at once need more
                        for each in rows:
                            console.print(Text(each.line()))
                            found.append(each.as_json())
        return found

    if What.STEPS in what:
        console.print(Text("\nA step of PGD-7 adversarial training with its update\n" + _HEAD))
        for model in models:
            for batch in _step_batches(model, batches, device):
                case = Case(model, batch, "step")
                attempt(case, batch, partial(time_step, case, modes, rounds, device))
    for kind, names in ((What.ATTACKS, COLUMNS), (What.COLUMNS, ("columns",))):
        if kind not in what:
            continue
        console.print(Text(("\nAttacks" if kind == What.ATTACKS else "\nAll seven columns") + "\n" + _HEAD))
        for model in models:
            for batch in batches or [128]:
                for name in names:
                    count = _fitting(model, images or batch, "pgd20" if kind == What.ATTACKS else "columns", device)
                    case = Case(model, min(count, batch), name)
                    attempt(case, count, partial(time_columns, case, count, rounds, device))
    if What.ATTACKS in what:
        console.print(Text("\nAutoAttack, standard version; in torchattacks' place pyautoattack\n" + _HEAD))
        for model in models:
            for batch in batches or [128]:
                count = images or _fitting(model, batch, "aa", device)
                case = Case(model, min(count, batch), "aa")
                attempt(case, count, partial(time_autoattack, case, count, rounds, device))
    tables: dict[What, list[dict[str, Any]]] = {What.PACKING: [], What.STREAMS: [], What.RECIPES: []}
    if What.PACKING in what:
        tables[What.PACKING] = table(
            "Trainings packed on one device",
            packing.HEAD,
            modes[-1:],
            packing.COUNTS,
            lambda model, batch, count, mode: [packing.time_packed(model, batch, count, mode, device)],
        )
    if What.STREAMS in what:
        tables[What.STREAMS] = table(
            "Trainings that take turns in one process",
            streams.HEAD,
            modes,
            streams.COUNTS_ON_A_CPU if device.type == "cpu" else streams.COUNTS_ON_A_GPU,
            lambda model, batch, count, mode: [streams.time_streams(model, batch, count, mode, rounds, device)],
        )
    if What.RECIPES in what:
        tables[What.RECIPES] = table(
            "A step of training recipes",
            recipes.HEAD,
            modes,
            ["recipes"],
            lambda model, batch, _, mode: recipes.time_recipes(model, batch, mode, rounds, device),
        )
    return {
        "device": name_of(device),
        "torch": torch.__version__,
        "date": date,
        "matmul_flops": peaks,
        "results": rows,
        **{str(kind): found for kind, found in tables.items()},
        "speeds": speeds,
        "device_key": "cpu" if device.type == "cpu" else name_of(device),
        "cores": torch.get_num_threads(),
    }


def _step_batches(model: ModelSpec, asked: list[int] | None, device: torch.device) -> list[int]:
    return asked or [_fitting(model, 128, "step", device)]


def _fitting(model: ModelSpec, count: int, what: str, device: torch.device) -> int:
    """So many of the images that a slow device is done in seconds."""
    from ablate.bench.cases import Case

    if device.type != "cpu":
        return count
    most = MOST_FLOPS_ON_A_CPU / Case(model, count, what).flops
    while count > 2 and count > most:
        count //= 2
    return count


def _rates(measured: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By network, mode and batch size what the counts did, as `ablate.storage.speeds.keep` takes it."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for each in measured:
        what = {**{name: each[name] for name in ("model", "mode", "batch_size")}, "rates": {}}
        entry = found.setdefault((each["label"], each["mode"], each["batch_size"]), what)
        entry["rates"][str(each["count"])] = each["images_per_second"]
    return list(found.values())


_INNER = ("cores",)

_HEAD = (
    f"{'network':<24} {'what':<8} {'batch':>5} {'mode':<17} {'images/s':>8} {'torchattacks':>21} "
    f"{'in IEEE float32':>21} {'written out':>21} {'peak':>5} {'ops':>6} {'memory':>9}"
)


def _rows(result: Result, count: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    case = result.case
    rows: list[dict[str, Any]] = []
    everyone: list[tuple[str, Any, str]] = [(name, timed, "theirs") for name, timed in result.theirs.items()]
    everyone += [(name, timed, "ours") for name, timed in result.ours.items()]
    for name, timed, whose in everyone:
        rate = timed.rate(count)
        peak = peaks.get(name.partition("+")[0], peaks["float32"])
        rows.append(
            {
                "network": case.label,
                "what": case.what,
                "batch": case.batch_size,
                "whose": whose,
                "mode": name,
                "images_per_second": rate.as_json(),
                "ratio": {rival: timed.faster_than(their).as_json() for rival, their in result.theirs.items()}
                if whose == "ours"
                else {},
                "operations": result.operations.get(name),
                "share_of_peak": rate.median * case.flops / peak,
                "peak_bytes": None if math.isnan(timed.peak_bytes) else timed.peak_bytes,
            }
        )
    return rows


def _line(row: dict[str, Any]) -> str:
    def ratio(rival: str) -> str:
        found = row["ratio"].get(rival)
        return "" if found is None else Spread(**found).times()

    from ablate.bench.textbook import IEEE
    from ablate.bench.timing import Spread

    library = ratio("torchattacks") or ratio("pyautoattack")
    first = "torchattacks" if "torchattacks" in row["ratio"] else "written out"
    equal = ratio(f"{first} {IEEE}") or ratio(first)  # a CPU has no other precision
    mode = row["mode"] if len(row["mode"]) <= 17 else row["mode"].replace("torchattacks", "t.attacks")
    memory = row["peak_bytes"]
    operations = "" if row["operations"] is None else f"{row['operations']:,}"
    held = "" if memory is None else f"{memory / 2**20:>5,.0f} MiB"
    return (
        f"{row['network']:<24} {row['what']:<8} {row['batch']:>5} {mode:<17} "
        f"{row['images_per_second']['median']:>8,.1f} {library:>21} {equal:>21} "
        f"{ratio('written out'):>21} {row['share_of_peak']:>5.0%} {operations:>6} {held}"
    )


if __name__ == "__main__":
    app()
