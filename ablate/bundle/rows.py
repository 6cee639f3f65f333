"""A row of a bundle planned once more by this version on this machine: is it still the same training?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate import spaces
from ablate.bundle.verification import Opened
from ablate.core.errors import DataError, SpecError, each_on_its_own, nearest
from ablate.core.user_code import import_modules
from ablate.planning.plan import PlannedTraining, make_plan
from ablate.spaces.settings import Setting, build_spec, parse_overrides
from ablate.spaces.space import Trial
from ablate.spaces.yamlfile import flatten
from ablate.storage.checksums import read_json
from ablate.storage.plans import TrialPart


@dataclass(frozen=True)
class Here:
    """What a row needs of this machine.

    Args:
        sets: `--set` arguments: where its data are.
        data_root: Downloaded data.
        imports: The user's own modules.
    """

    sets: Sequence[str]
    data_root: Path
    imports: Sequence[str] = ()


def find_row(opened: Opened, asked: str, seed: int | None) -> TrialPart:
    """A row of a bundle.

    Args:
        opened: The bundle.
        asked: Its label, or `space/label`.
        seed: None: the first that is finished.

    Raises:
        SpecError: There is none.
    """
    trials = [t for t in opened.plan.trials if asked in (t.row, f"{t.space}/{t.row}")]
    if not trials:
        labels = {trial.row for trial in opened.plan.trials}
        hint = each_on_its_own("--retrain", asked, labels) or nearest(asked, labels)
        raise SpecError(f"--retrain: expected the label of a row of {opened.path.name}, got {asked!r}; {hint}")
    whole = [t for t in trials if _finished(opened, t) and seed in (None, t.seed)]
    if not whole:
        seeds = ", ".join(str(t.seed) for t in trials if _finished(opened, t)) or "none"
        got = "no finished seed" if seed is None else f"seed {seed}"
        raise SpecError(f"--retrain: expected a finished seed of {asked!r}, got {got}; finished: {seeds}")
    return whole[0]


def _finished(opened: Opened, trial: TrialPart) -> bool:
    view = opened.storage.view(trial.training)
    return view.finished and trial.required <= view.records.keys()


def planned(opened: Opened, part: TrialPart, here: Here) -> tuple[PlannedTraining, list[str]]:
    """What this version makes of a row.

    Args:
        opened: The bundle.
        part: The row, with a seed.
        here: What it needs of this machine.

    Returns:
        The training, and a line for each reason why its bits cannot be those of the bundle.

    Raises:
        UserError: Its data or modules are not here.
    """
    import_modules(list(here.imports))
    where = f"{part.row}, seed {part.seed}"
    written = f"{where}, as another version of ablate wrote it"  # if anything is wrong with it
    settings = [Setting(path, value, written) for path, value in flatten(part.spec) if path != "seed"]
    spec = build_spec([*settings, *parse_overrides(here.sets)], part.seed, where)
    trial = Trial(part.space, part.row, spec, {}, None, (), f"{opened.path.name}, {where}")
    try:
        plan = make_plan(
            [], [trial], preset=spaces.load_preset("paper"), overrides=[], seeds=[], data_root=here.data_root
        )
    except DataError as error:
        if spec.data.root is not None and not any(each.startswith("data.root") for each in here.sets):
            raise DataError(f"{error}; --set data.root=DIR says where {part.data.label} is here") from error
        raise
    [training] = plan.trainings.values()
    if training.key == part.training:
        lacking = sorted(part.required - training.measurements.keys())
        return training, [
            f"{where}: this version of ablate measures {name} in another way"
            for name, key in {**part.columns, **part.analyses}.items()
            if key in lacking
        ]
    stated = read_json(opened.storage.files.read(f"{part.training}/training.json") or b"{}")
    reasons = list(_differing(stated, json.loads(json.dumps(training.identity))))
    return training, [f"{where}: here it is another training ({'; '.join(reasons) or training.key})"]


def _differing(stated: Any, found: Any, path: str = "") -> Iterator[str]:
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        for name in dict.fromkeys([*stated, *found]):
            yield from _differing(stated.get(name), found.get(name), f"{path}.{name}".strip("."))
    elif stated != found:
        yield f"{path}: {stated!r} there, {found!r} here"
