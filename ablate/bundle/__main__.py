"""python -m ablate.bundle: a plan's results as one file, and what others make of it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from ablate.core.errors import SpecError, UserError
from ablate.core.places import local_path
from ablate.core.text import listed, open_closed_streams, open_console, plural, printable, shown
from ablate.spaces.seeds import parse_seeds

if TYPE_CHECKING:
    from ablate.bundle.archive import Made
    from ablate.bundle.verification import Opened

MOST_LINES = 40

TAKEN = (
    "Nothing else in a bundle speaks for what was observed: verdicts for each image, numbers of analyses, curves. "
    "--spot N and --retrain ROW make such again."
)
"""What `verify` cannot hold against anything."""

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)
_CONTEXT = {"help_option_names": ["-h", "--help"]}


@app.callback(context_settings=_CONTEXT)
def about() -> None:
    """Results that travel: make a bundle of a plan, or verify one."""


def _print_line(console: Console, line: str) -> None:
    """Print a line, folded where it is too long, whoever wrote what is in it."""
    console.print(Text(printable(line), overflow="fold"))


@app.command(context_settings=_CONTEXT)
def make(
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="The file to write; replaced where it is there.")],
    space: Annotated[
        list[str], typer.Option(metavar="NAME", help="As it was launched: a name, a file or all; may repeat.")
    ] = [],  # noqa: B006
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Default: that of the launch before.")] = None,
    sets: Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="As it was launched.")] = [],  # noqa: B006
    seeds: Annotated[str | None, typer.Option(metavar="0,1,2", help="Default: all that were launched.")] = None,
    row: Annotated[list[str], typer.Option(metavar="LABEL", help="Only this row; may repeat.")] = [],  # noqa: B006
    plan: Annotated[str | None, typer.Option(metavar="ID", help="A plan's id, in place of all these words.")] = None,
    storage: Annotated[str, typer.Option(metavar="PLACE", help="A folder or bucket.")] = "./storage",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="With the networks.")] = False,
    without: Annotated[
        list[Path],
        typer.Option(metavar="BUNDLE", help="Leave out trainings that this one beside it holds; may repeat."),
    ] = [],  # noqa: B006
    split: Annotated[
        bool, typer.Option("--split", help="One for each space and seed, OUT-<space>-<seed>.zip, a training in one.")
    ] = False,
    sign: Annotated[
        str | None, typer.Option(metavar="KEY", help="Sign it: a key of ssh-keygen's, or sigstore.")
    ] = None,
) -> None:
    """Write every record, history, specification and registration of a plan, and what they come to, as one file."""
    with _exits() as console:
        from ablate.bundle import archive, selection, signing
        from ablate.storage import plans
        from ablate.storage.storage import Storage

        out = local_path(out, "OUT.zip")
        if out.suffix != ".zip":
            raise SpecError(f"expected a file that ends with .zip, got {out}")
        if bool(space) == (plan is not None):
            got = "both" if space else "neither"
            raise SpecError(f"expected --space or --plan, got {got}")
        words = selection.Words(space, preset, sets, None if seeds is None else parse_seeds(seeds), row)
        if plan is not None and (preset or sets or seeds or row):
            raise SpecError("--plan: expected it in place of --preset, --set, --seeds and --row, got both")
        for other in without:
            if other.absolute().parent != out.absolute().parent:
                raise SpecError(f"--without: expected a bundle in the folder of {out.name}, got {other}")
        opened, tell = Storage(storage), functools.partial(_print_line, console)
        chosen = plans.load(opened, plan) if plan is not None else selection.plan_by_words(opened, words, tell)
        signer = signing.signer(sign) if sign is not None else None
        parts = selection.by_space_and_seed(chosen, out) if split else [(out, chosen)]
        before = list(without)
        for path, part in parts:
            made = archive.make(path, part, opened, checkpoints=checkpoints, without=before)
            before.append(path)
            _tell_made(path, part.id, made, tell)
            if signer is not None:
                tell(f"signed: {signer(path)}")


def _tell_made(path: Path, plan: str, made: Made, tell: Callable[[str], None]) -> None:
    each = f", {made.bytes / 1000 / made.trainings:.0f} kB each" if made.trainings else ""
    tell(f"{path}: plan {plan}, {plural(made.trainings, 'training')}, {made.bytes / 1000:.0f} kB{each}")
    for name in dict.fromkeys(made.elsewhere.values()):
        count = sum(other == name for other in made.elsewhere.values())
        tell(f"{plural(count, 'training')} more in {name}, which has to lie beside it")
    if made.unfinished:
        some = listed(made.unfinished, 5)
        tell(f"not whole: {plural(len(made.unfinished), 'trial')} without all results ({some})")


@app.command(context_settings=_CONTEXT)
def verify(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Of ablate.bundle make, or folders of them.")
    ],
    spot: Annotated[
        int, typer.Option(min=0, metavar="N", help="Attack so many random images again, with its networks.")
    ] = 0,
    retrain: Annotated[str | None, typer.Option(metavar="ROW", help="Train this row again, and compare bits.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of --retrain; default: the row's first.")] = None,
    sets: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Where its data are here: data.root=DIR.")
    ] = [],  # noqa: B006
    data_root: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Downloaded data; default ./data.")
    ] = Path("data"),
    imports: Annotated[list[str], typer.Option("--import", metavar="MODULE", help="Code that its rows use.")] = [],  # noqa: B006
    signers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whose signatures count, as ssh-keygen has it.")
    ] = None,
    signer: Annotated[str | None, typer.Option(metavar="WHO", help="Who has to have signed it.")] = None,
    issuer: Annotated[str | None, typer.Option(metavar="URL", help="Of a sigstore identity.")] = None,
) -> None:
    """Compute every table, verdict and figure again from the records; exit code 1 where one differs."""
    with _exits() as console:
        from ablate.bundle import signing, verification

        differs = False
        for path in verification.paths_of(local_path(path, "BUNDLE") for path in bundles):
            opened = verification.open_bundle(path)
            told = signing.check(opened.path, signers=signers, signer=signer, issuer=issuer)
            found = verification.verify(opened)
            lines = list(found.differs)
            if (spot or retrain is not None) and not lines:
                lines += _again(opened, spot, retrain, seed, (sets, data_root, imports), console)
            for line in shown(lines, MOST_LINES):
                _print_line(console, line)
            said = f"{plural(len(lines), 'difference')}" if lines else "nothing differs"
            _print_line(console, f"{path}: {found.sentence()}; {told}; {said} (made by {verification.made_by(opened)})")
            differs = differs or bool(lines)
        if not spot and retrain is None:
            _print_line(console, TAKEN)
        if differs:
            raise SystemExit(1)


@app.command(context_settings=_CONTEXT)
def page(
    template: Annotated[Path, typer.Argument(metavar="PROSE", help="The page's text; {space/row/column} is a number.")],
    out: Annotated[Path, typer.Option(metavar="PAGE", help="The page to write.")],
    bundles: Annotated[Path, typer.Option(metavar="DIR", help="Where its bundles lie.")],
    figures: Annotated[Path, typer.Option(metavar="DIR", help="Where its figures go.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where it differs.")] = False,
) -> None:
    """Fill in a page's numbers, tables and figures from bundles. In its prose stand:

    \b
    {batch_size/64/pgd20}        a mean over seeds; {...:.1f} as in Python
    {batch_size/64/pgd20.std}    also .n, .published, .seed0 for one seed
    {lowpass/16/cw20 - lowpass/32/cw20:+.1f}
    {frequency/Adversarial/energy/ratio@1}           a curve at an epoch
    {frequency/Adversarial/trend/energy/ratio}       its Kendall's tau
    {lowpass/32/pgd20[best]}     of another network than the last
    {verdict batch_size/2}       of the second claim
    {seeds lowpass}  {data lowpass}  {hours lowpass}  {commit lowpass}
    {from reduced-*.zip}         the bundles of what follows
    {table lowpass}  {verdicts lowpass}  {figure frequency/5}
                                 on lines of their own
    {{ and }}                    braces
    """
    with _exits() as console:
        from ablate.bundle import page as pages

        link = os.path.relpath(figures, out.parent).replace(os.sep, "/")
        if check:
            lines = pages.check(template, bundles, out, figures, link)
            for line in lines:
                _print_line(console, line)
            if lines:
                raise SystemExit(1)
            return
        for path in pages.write(pages.render(template, bundles, link), out, figures):
            _print_line(console, str(path))


def _again(
    opened: Opened,
    spot: int,
    retrain: str | None,
    seed: int | None,
    given: tuple[Sequence[str], Path, Sequence[str]],
    console: Console,
) -> list[str]:
    """What differs once it is computed from the images again; this takes PyTorch and the data."""
    from ablate.bundle import replication, spot_checks
    from ablate.bundle.rows import Here

    sets, data_root, imports = given
    here = Here(sets, local_path(data_root, "--data-root"), imports)
    tell = functools.partial(_print_line, console)
    lines = spot_checks.check(opened, spot, here, tell) if spot else []
    if retrain is not None and not lines:
        lines += replication.check(opened, retrain, seed, here, tell)
    return lines


class _exits:  # noqa: N801 - reads as what it does
    """Errors of a user as one line and exit code 2."""

    def __enter__(self) -> Console:
        open_closed_streams()
        return open_console()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError):
            open_console(sys.stderr).print(Text(printable(str(error)), overflow="fold"))
            raise SystemExit(2) from None
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None


if __name__ == "__main__":
    app()
