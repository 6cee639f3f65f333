"""Which plan a bundle is of: by its id, or by the words that launched it; and what of it stays at home."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ablate.core.errors import SpecError, StorageError, each_on_its_own, nearest
from ablate.core.redaction import redact
from ablate.spaces.loading import table_names
from ablate.storage import plans
from ablate.storage.plans import PlanFile, SpacePart, TrialPart
from ablate.storage.storage import Storage

_ROOT = re.compile(r"(?:[A-Za-z]:)?[/\\~][^\s'\"]*[/\\](?=[^\s'\"/\\]+)")


@dataclass(frozen=True)
class Words:
    """What a launch was asked for, as far as it tells plans apart.

    Args:
        spaces: Names, files or `all`.
        preset: None: that of the plan launched last.
        sets: `--set` arguments; none: those of the plan launched last.
        seeds: None: all that were launched.
        rows: None: all.
    """

    spaces: Sequence[str]
    preset: str | None = None
    sets: Sequence[str] = ()
    seeds: Sequence[int] | None = None
    rows: Sequence[str] = ()


def plan_by_words(storage: Storage, words: Words, tell: Callable[[str], None]) -> PlanFile:
    """What was launched under some words, from the plans that storage keeps: neither data nor networks are needed.

    Args:
        storage: Where it was launched into.
        words: Space by space the plan launched last of them says preset and settings; seeds and rows may come from
            earlier ones under the same.
        tell: Called with a message for each plan that cannot be read.

    Returns:
        The plan itself where it is asked for whole, else one of its trials, as a launch of these would make it.

    Raises:
        UserError: Nothing was launched by these words.
    """
    everything = plans.load_all(storage, tell)
    files = [file for file in everything if not _is_search(file)]
    where = redact(storage.location)
    searches = {part.name: file for file in reversed(everything) if _is_search(file) for part in file.spaces}
    if len(words.spaces) == 1 and words.spaces[0] in searches and _said(searches[words.spaces[0]], words):
        if words.seeds or words.rows:
            raise SpecError(f"--seeds, --row: expected none of the search {words.spaces[0]}, which is one whole")
        return searches[words.spaces[0]]
    parts: list[tuple[PlanFile, SpacePart, list[TrialPart]]] = []
    for name in _names(words.spaces, files, where):
        of_space = [file for file in files if any(part.name == name for part in file.spaces)]
        latest = next((file for file in of_space if _said(file, words)), None)
        if latest is None:
            given = _options_of(of_space[0])
            raise SpecError(f"expected a launch of {name} by these words into {where}, got others, the latest {given}")
        alike = [file for file in of_space if _settings(file) == _settings(latest)]
        parts.append((latest, latest.space(name), _trials(alike, name, words)))
    return _joined(parts)


def _is_search(file: PlanFile) -> bool:
    return any(part.search for part in file.spaces)


def _names(asked: Sequence[str], files: Sequence[PlanFile], where: str) -> list[str]:
    there = list(dict.fromkeys(part.name for file in files for part in file.spaces))
    if not there:
        raise StorageError(f"--storage {where}: expected plans of tables launched into it, got none")
    found: list[str] = []
    for given in asked:
        if hint := each_on_its_own("--space", given, [*there, "all"]):
            raise SpecError(f"--space: expected one space, got {given!r}; {hint}")
        name = Path(given).stem if given.endswith((".yaml", ".yml")) else given
        if name != "all" and name not in there:
            hint = nearest(name, there)
            raise SpecError(f"--space: expected a space launched into {where}, got {given!r}; {hint}")
        order = table_names()
        of_all = sorted(there, key=lambda each: (order.index(each) if each in order else len(order), each))
        found += of_all if name == "all" else [name]
    return list(dict.fromkeys(found))


def _settings(file: PlanFile) -> tuple[str, list[str]]:
    return file.preset, sorted(file.overrides)


def _said(file: PlanFile, words: Words) -> bool:
    return words.preset in (None, file.preset) and (
        not words.sets or sorted(map(redact, words.sets)) == sorted(file.overrides)
    )


def _options_of(file: PlanFile) -> str:
    """Preset and settings as a command line has them."""
    sets = "".join(f" --set {shlex.quote(each)}" for each in file.overrides)
    return f"--preset {file.preset}{sets}"


def _trials(files: Sequence[PlanFile], space: str, words: Words) -> list[TrialPart]:
    found: dict[tuple[str, int], TrialPart] = {}
    for file in files:  # the one launched last first
        for trial in file.of_space(space).trials:
            found.setdefault((trial.row, trial.seed), trial)
    seeds = list(dict.fromkeys(seed for _, seed in found))
    for seed in words.seeds or ():
        if seed not in seeds:
            told = ", ".join(map(str, sorted(seeds)))
            raise SpecError(f"--seeds: expected seeds launched of {space}, got {seed}; launched: {told}")
    rows = [row.label for row in files[0].space(space).rows if any(label == row.label for label, _ in found)]
    for row in words.rows:
        if row not in rows:
            hint = each_on_its_own("--row", row, rows) or nearest(row, rows)
            raise SpecError(f"--row: expected the label of a row launched of {space}, got {row!r}; {hint}")
    return [
        found[row, seed]
        for row in rows
        if not words.rows or row in words.rows
        for seed in (words.seeds or sorted(seeds))
        if (row, seed) in found
    ]


def _joined(parts: Sequence[tuple[PlanFile, SpacePart, list[TrialPart]]]) -> PlanFile:
    latest = max((file for file, _, _ in parts), key=lambda file: file.launched_ms)
    for file, space, _ in parts:
        if _settings(file) != _settings(latest):
            raise SpecError(
                f"--space: expected spaces launched by the same words, got {_options_of(latest)} and, of {space.name}, "
                f"{_options_of(file)}; name one, or make a bundle of each"
            )
    trials = [trial for _, _, chosen in parts for trial in chosen]
    spaces = [space for _, space, _ in parts]
    known = {(t.space, t.row, t.seed) for t in latest.trials}
    if known == {(t.space, t.row, t.seed) for t in trials} and len(latest.spaces) == len(spaces):
        return latest
    created_ms = min(file.created_ms for file, _, _ in parts)
    return _of_trials(latest.model_copy(update={"created_ms": created_ms}), spaces, trials)


def _of_trials(plan: PlanFile, spaces: Sequence[SpacePart], trials: Sequence[TrialPart]) -> PlanFile:
    """The plan as a launch of these trials alone would make it."""
    return plan.model_copy(
        update={
            "id": plans.id_of(plan.preset, [trial.identity for trial in trials]),
            "seeds": sorted({trial.seed for trial in trials}),
            "spaces": list(spaces),
            "trials": list(trials),
        }
    )


def by_space_and_seed(plan: PlanFile, out: Path) -> list[tuple[Path, PlanFile]]:
    """The parts of a plan for several small bundles.

    Args:
        plan: Of tables.
        out: `study.zip`: the parts are `study-<space>-<seed>.zip`.

    Returns:
        In the order of its spaces and seeds.
    """
    found = []
    for space in plan.spaces:
        for seed in plan.seeds:
            trials = [trial for trial in plan.trials if (trial.space, trial.seed) == (space.name, seed)]
            if trials:
                name = f"{out.stem}-{space.name}-{seed}.zip"
                found.append((out.with_name(name), _of_trials(plan, [space], trials)))
    return found


def public(plan: PlanFile) -> PlanFile:
    """The plan without the folders of the machine it was launched on; what lies in them is known by its digest."""
    trials = []
    for trial in plan.trials:
        spec = dict(trial.spec)
        for group, name in (("data", "root"), ("model", "weights")):
            if isinstance(spec.get(group), dict) and isinstance(spec[group].get(name), str):
                spec[group] = {**spec[group], name: PurePath(spec[group][name]).name}
        trials.append(trial.model_copy(update={"spec": spec}))
    return plan.model_copy(
        update={
            "trials": trials,
            "overrides": [_ROOT.sub("", text) for text in plan.overrides],
            "provenance": {name: _ROOT.sub("", text) for name, text in plan.provenance.items()},
        }
    )
