"""python -m ablate: which commands there are."""

from __future__ import annotations

import sys

from ablate import __version__
from ablate.core.errors import nearest

COMMANDS = {
    "launch": "train and measure every row of a space, or search",
    "report": "tables, verdicts, figures, a page",
    "status": "what a storage holds, how far it is, why it failed",
    "serve": "the same page live in a browser, from a storage",
    "bundle": "results that travel: make or verify one file of a plan",
    "bench": "images a second beside the textbook loop",
}


def main(arguments: list[str]) -> int:
    """Show the commands.

    Args:
        arguments: Empty, `-h`, `--help` or `--version`.

    Returns:
        The exit code: 2 for other arguments.
    """
    if arguments == ["--version"]:
        print(f"ablate {__version__}")
        return 0
    if arguments and arguments[0] not in ("-h", "--help"):
        asked = arguments[0]
        hint = f"did you mean python -m ablate.{asked}?" if asked in COMMANDS else nearest(asked, COMMANDS)
        print(f"expected no arguments, as commands are modules, got {asked!r}; {hint}", file=sys.stderr)
        return 2
    for name, what in COMMANDS.items():
        print(f"python -m ablate.{name:<8} {what}")
    print("Each tells its options with -h.")
    print("From Python: import ablate; ablate.load_space(...).plan(...).run()")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
