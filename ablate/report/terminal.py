"""What a terminal shows of a plan: its table, its verdicts, how a search went."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ablate.core.text import plural, printable
from ablate.report.formats import to_terminal
from ablate.report.results import Results
from ablate.report.search import best_space, search_of, shares_sentences, summary_lines
from ablate.report.tables import build_table, table_input
from ablate.report.verdicts.masking import SECOND, Masked, second_verdicts
from ablate.report.verdicts.noise import lines as noise_lines
from ablate.report.verdicts.noise import table_noise
from ablate.report.verdicts.rivals import rivalries
from ablate.report.verdicts.verdicts import standing_of, verdicts_of
from ablate.storage.registrations import SHORT_DIGEST


def print_results(results: Results, console: Console) -> Sequence[Masked]:
    """Print a table, its verdicts, and how a search went, wherever they were read from."""
    console.print()
    given = table_input(results)
    if results.bare:
        console.print(Text(f"{given.title}: no results yet.", overflow="fold"))
        return given.masked
    console.print(to_terminal(build_table(given), width=console.width))
    _print_verdicts(results, given.masked, console)
    if results.space.search is not None:
        _print_search(results, console)
    return given.masked


def _print_verdicts(results: Results, masked: Sequence[Masked], console: Console) -> None:
    if not results.claims:
        return
    console.print()
    preset = results.planned.preset
    if not results.planned.judges_claims:
        claims = len(results.claims)
        console.print(
            f"No verdicts on {plural(claims, 'claim')}: the {preset} preset trains too briefly to decide any."
        )
        return
    data = " and ".join(results.planned.data_labels)
    paper = "the paper's data" if results.is_paper_data else "not the paper's data"
    console.print(Text(f"Verdicts on {printable(data)} ({paper})", style="bold"))
    seconds, verdicts = second_verdicts(results, masked), verdicts_of(results)
    for number, (ours, published) in enumerate(verdicts):
        whose = f" ({ours.claim.source})" if ours.claim.source else ""
        console.print(Text(printable(f"“{ours.claim.says}”{whose}")))
        lines = [f"ours: {ours.sentence()}" if ours.verdict in ours.sentence() else f"ours: {ours.verdict}"]
        if ours.test and ours.test != "none":
            lines.append(f"by {ours.test}")
        if number in seconds:
            second = seconds[number]
            told = second.sentence() if second.verdict in second.sentence() else second.verdict
            lines.append(f"{SECOND.lower()}, since a column is masked: {told}")
        if published is not None:
            lines.append(f"published: {published.sentence()}")
        if ours.claim.note:
            lines.append(ours.claim.note)
        _print_indented(lines, console)
    for rivalry in rivalries(verdicts, seconds):
        console.print(Text(f"Who is right? {printable(rivalry.question)}", style="bold"))
        _print_indented([*rivalry.lines(), rivalry.sentence], console)
    noise = table_noise(results)
    if noise is not None:
        console.print(Text("What makes the noise of a comparison, in points", style="bold"))
        _print_indented([*noise_lines(noise), noise.sentence], console)


def _print_indented(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        # In a file lines stay whole; padding would cut them at the width of no terminal.
        shown = Text(printable(line))
        console.print(Text("  ") + shown if console.soft_wrap else Padding(shown, (0, 0, 0, 2)))


def print_registration(results: Results, console: Console) -> None:
    """The digest of a plan's claims, to be printed in a paper, and how each of them stands."""
    found = results.space.registration
    if found is None:
        console.print(Text(f"{results.space.name}, plan {results.planned.id}: nothing was registered."))
        return
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.registered_ms / 1000))
    when = when if found.registered_ms else "nobody can tell when"
    commit = f", commit {found.commit[:SHORT_DIGEST]}" if found.commit else ""
    told = f"{results.space.name}: registration {found.digest[:SHORT_DIGEST]}, {when}{commit} ({found.digest})"
    console.print(Text(printable(told), style="bold", overflow="fold"))
    for number, claim in enumerate(results.space.claims):
        lines = [f"“{claim['says']}”: {standing_of(results.space, number)}"]
        if str(number) in found.second:
            lines.append(f"  on the worst of all attacks: {standing_of(results.space, number, second=True)}")
        for line in lines:
            console.print(Text(printable(f"  {line}"), overflow="fold"))
    for problem in found.problems:
        console.print(Text(printable(problem), overflow="fold"))


def _print_search(plan: Results, console: Console) -> None:
    """How a search went, what matters, and the best as a space file, whole lines that can be copied."""
    results = search_of(plan)
    console.print()
    for line in [*summary_lines(results), *shares_sentences(results)]:
        console.print(Text(printable(line), overflow="fold"))
    best = best_space(results)
    if best is not None:
        console.print()
        for line in best.splitlines():
            console.print(Text(line), soft_wrap=True)
