"""python -m ablate.launch: the command line. It loads neither torch, Ray nor MLflow before there is something to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ablate import spaces
from ablate.core.errors import SpecError, UserError
from ablate.core.places import local_path
from ablate.core.text import open_closed_streams, open_console, plural, printable
from ablate.core.user_code import import_modules
from ablate.launch import completion
from ablate.launch.options import Options, parse_gpus, parse_seeds

WIDTH = 100
"""Columns of the help text."""

EPILOG = """\b
Examples:
  python -m ablate.launch --space batch_size --preset smoke      minutes on a laptop
  python -m ablate.launch --space all --seeds 0,1,2 --dry-run    the time it would take
  python -m ablate.launch --watch                                follow a running launch
Exit codes: 0 all there, 1 something failed, 2 refused input, 130 interrupted (again: goes on)."""

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EPILOG, context_settings={"max_content_width": WIDTH, "help_option_names": ["-h", "--help"]})
def main(
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A space, a .yaml file, or all; may repeat.", autocompletion=completion.space_names
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="paper (default): full; smoke: minutes on a laptop.",
            autocompletion=completion.preset_names,
        ),
    ] = "paper",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Any setting, training.epochs=3; may repeat.",
            autocompletion=completion.settings,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="0,1,2", show_default=False, help="Every row with each; 0-9 is ten; default 0.")
    ] = "0",
    rows: Annotated[list[str] | None, typer.Option("--row", metavar="LABEL", help="Only this row; may repeat.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show trials, sharing, reuse, time; stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Go on if it takes more than a day.")] = False,
    list_spaces: Annotated[bool, typer.Option("--list", help="Show the spaces, one line each; stop.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow a running launch, read-only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON: the plan (--dry-run) or the results.")] = False,
    storage: Annotated[
        str, typer.Option(metavar="PLACE", show_default=False, help="Folder or bucket; default ./storage.")
    ] = "./storage",
    data_root: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Downloaded data; default ./data.")
    ] = Path("data"),
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Default $MLFLOW_TRACKING_URI or ./mlflow.db.")
    ] = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="No MLflow; storage only, sync later.")] = False,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    cluster: Annotated[str | None, typer.Option(metavar="URL", help="Submit to a Ray job server.")] = None,
    storage_is_shared: Annotated[
        bool, typer.Option("--storage-is-shared", help="With --cluster: all nodes mount it.")
    ] = False,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="PATH", help="With --cluster: a file or folder to send.")
    ] = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU cores of a training; default: a share.")
    ] = None,
    gpus_per_trial: Annotated[
        str | None, typer.Option(metavar="N|auto", help="GPUs of a training; 0.25 packs four.")
    ] = None,
    max_concurrent: Annotated[
        int, typer.Option(min=0, metavar="N", show_default=False, help="Trainings at once; default: all that fit.")
    ] = 0,
    max_failures: Annotated[
        int, typer.Option(min=0, metavar="N", show_default=False, help="Restarts of a lost process; default 2.")
    ] = 2,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trainings again.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop checkpoints of what is finished.")] = False,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Your own code to load; may repeat.")
    ] = None,
) -> None:
    """Train and measure every row of a space, reusing whatever is done already."""
    open_closed_streams()
    try:
        if list_spaces:
            code = _list(open_console(), as_json)
        else:
            options = Options(
                space=space or [],
                preset=preset,
                sets=sets or [],
                seeds=parse_seeds(seeds),
                rows=rows or [],
                storage=storage,
                data_root=local_path(data_root, "--data-root"),
                tracking_uri=tracking_uri,
                tracking=not no_tracking,
                local=local,
                cpus_per_trial=cpus_per_trial,
                gpus_per_trial=parse_gpus(gpus_per_trial),
                max_concurrent=max_concurrent,
                max_failures=max_failures,
                retry_failed=retry_failed,
                prune=prune,
                dry_run=dry_run,
                as_json=as_json,
                imports=imports or [],
                cluster=cluster,
                storage_is_shared=storage_is_shared,
                include=include or [],
                yes=yes,
            )
            code = _watch(options) if watch else _launch(options)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)


def _launch(options: Options) -> int:
    if not options.space:
        raise SpecError("--space: expected a space's name or the path of its file, got none; --list shows the names")
    import_modules(options.imports)
    _check_names(options)
    # Mistakes are told by now, before seconds of imports.
    from ablate.launch import session

    # With --json standard output is for the script alone.
    return session.launch(options, open_console(sys.stderr if options.as_json else None), sys.stdout)


def _watch(options: Options) -> int:
    from ablate.launch import watch as watch_module

    import_modules(options.imports)
    _check_names(options)
    return watch_module.watch_options(options, open_console())


def _check_names(options: Options) -> None:
    for name in options.space:
        if name != "all":
            spaces.load_space(name)
    spaces.load_preset(options.preset)
    spaces.parse_overrides(options.sets)


def _list(console: Console, as_json: bool) -> int:
    loaded = [spaces.load_space(name) for name in spaces.space_names()]
    if as_json:
        sys.stdout.write(json.dumps([_listed(space) for space in loaded], indent=1) + "\n")
        return 0
    width = max(len(space.name) for space in loaded)
    for space in loaded:
        what = _listed(space)
        console.print(Text(f"{space.name:<{width}}  {what['size']:>8}  {printable(what['title'])}"))
    return 0


def _listed(space: spaces.SpaceFile) -> dict[str, object]:
    size = plural(len(space.space.rows), "row")
    return {
        "name": space.name,
        "title": space.space.title,
        "table": space.space.table,
        "size": size if space.space.search is None else "search",
        "description": space.space.description,
    }


def arguments(argv: Sequence[str] | None = None) -> None:
    """The console script `ablate-launch`, which shells can complete."""
    app(args=list(argv) if argv is not None else None, prog_name="ablate-launch")


if __name__ == "__main__":
    app()
