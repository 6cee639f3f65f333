"""python -m ablate.launch: the command line. It loads neither torch, Ray nor MLflow before there is something to do."""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
from rich.text import Text

from ablate import __version__, spaces
from ablate.core.errors import SpecError, UserError
from ablate.core.text import busy, open_closed_streams, open_console, plural, printable
from ablate.launch.options import OPTIONS, Option, Options
from ablate.launch.request import Request

WIDTH = 100
"""Columns of the help text."""

EPILOG = """\b
Example: python -m ablate.launch --space batch_size --preset smoke
Exit codes: 0 all there, 1 something failed, 2 refused input, 130 interrupted."""


class _Command(typer.core.TyperCommand):
    """The command, whose help leaves out how a shell learns to complete it: it fits one screen without."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See click."""
        found = super().get_params(ctx)
        for parameter in found:
            if parameter.name in ("install_completion", "show_completion"):
                parameter.hidden = True  # type: ignore[attr-defined]
        return found

    def get_help_option(self, ctx: Any) -> Any:
        """Without a line in the help text, which whoever reads it has found."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.hidden = True
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """See click; under the headings that `OPTIONS` has, which stand in place of blank lines."""
        heading = "Options"
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            option = OPTIONS.get(parameter.name)
            heading = option.heading or heading if option is not None else heading
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(heading, []).append(record)
        self.format_usage(ctx, formatter)
        with formatter.indentation():
            formatter.write_text(self.help)
        for name, options in sections.items():
            formatter.write_heading(name)
            with formatter.indentation():
                formatter.write_dl(options, col_max=28)
        formatter.write_text(self.epilog)


app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _parameter(option: Option) -> inspect.Parameter:
    """An option as Typer reads it off a function; what is not given is None or False, and `Options` has the default."""
    how = typer.Option(
        option.flag,
        metavar=option.metavar,
        help=option.help,
        min=option.least,
        autocompletion=option.complete,
        show_default=False,
        hidden=option.hidden,
    )
    kind: Any = option.kind if option.parse is None else str
    default, kind = (False, bool) if option.is_switch else (None, kind | None)
    parameter = inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default)
    return parameter.replace(annotation=Annotated[kind, how])


def main(**given: Any) -> None:
    """Train and measure every row of a space, reusing whatever is done already."""
    open_closed_streams()
    try:
        options = Options.parsed(given)
        code = _do(options)
    except UserError as error:
        open_console(sys.stderr).print(Text(str(error)))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)


main.__signature__ = inspect.Signature([_parameter(option) for option in OPTIONS.values()])  # type: ignore[attr-defined]
app.command(
    cls=_Command, epilog=EPILOG, context_settings={"max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
)(main)


def _do(options: Options) -> int:
    if options.version:
        sys.stdout.write(f"ablate {__version__}\n")
        return 0
    if options.list_spaces:
        return _list(options)
    return _watch(options) if options.watch else _launch(options)


def _launch(options: Options) -> int:
    if not options.space:
        raise SpecError("--space: expected a space's name or the path of its file, got none; --list shows the names")
    request = Request.read(options)
    # With --json standard output is for the script alone.
    console = open_console(sys.stderr if options.as_json else None)
    # Mistakes are told by now, before seconds of imports.
    with busy(console, "Loading PyTorch…"):
        from ablate.launch import session

    return session.launch(request, console, sys.stdout)


def _watch(options: Options) -> int:
    request = Request.read(options)
    from ablate.launch import watch as watch_module

    return watch_module.watch_request(request, open_console())


def _list(options: Options) -> int:
    console = open_console()
    loaded = [spaces.load_space(name) for name in spaces.space_names()]
    if options.as_json:
        sys.stdout.write(json.dumps([_listed(space) for space in loaded], indent=1) + "\n")
        return 0
    width = max(len(space.name) for space in loaded)
    for space in loaded:
        what = _listed(space)
        before = f"{space.name:<{width}}  {what['size']:>8}  "
        room = max(20, console.width - len(before)) if console.is_terminal else sys.maxsize
        title = textwrap.wrap(printable(what["title"]), room)  # what is folded stays in its column
        console.print(Text(before + f"\n{' ' * len(before)}".join(title)))
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
