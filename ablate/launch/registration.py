"""What a launch registers before it trains: the claims of its spaces, and what is known of them by then."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.core.digest import digest
from ablate.core.text import now_ms, plural
from ablate.planning.plan import Plan, PlannedTrial, make_plan
from ablate.report.results import columns_of
from ablate.report.verdicts.contrasts import contrasts
from ablate.report.verdicts.looks import needs
from ablate.spaces.claims import Claim
from ablate.spaces.masking import WORST, second_claims
from ablate.spaces.metrics import Metric, is_accuracy
from ablate.spaces.settings import parse_overrides
from ablate.spaces.space import SpaceFile
from ablate.spaces.specs import TrialSpec
from ablate.spaces.trials import expand
from ablate.storage.registrations import (
    LAYOUT,
    ClaimStanding,
    Registration,
    RegistrationPart,
    claim_content,
    claims_in,
    path_of,
    read_all,
    second_places,
    write_first,
)
from ablate.storage.status import TrainingView
from ablate.storage.storage import Storage

_RULES = ("looks", "seeds", "failures")
_ASKED_FOR = {"attacks", "analyses", "others", "transfer_from"}
"""Settings that say which numbers there are, and change none of them; `worst` is made of the attacks there are."""


def register(
    plan: Plan, storage: Storage, provenance: Mapping[str, str], data_root: Path
) -> dict[str, RegistrationPart]:
    """Register what a plan can decide, unless it is so already.

    Args:
        plan: Of tables; nothing of it has been trained by this launch.
        storage: Where to.
        provenance: Of the launch.
        data_root: Where data sets are kept.

    Returns:
        Space -> its registration; none of spaces without claims, or under a preset that decides none.

    Raises:
        StorageError: Storage cannot be written.
    """
    deciding = [loaded for loaded in plan.spaces if loaded.space.claims and plan.preset.preset.decides_claims]
    there = read_all(storage.files) if deciding else ([], {})
    commit = provenance.get("git_commit", "")
    return {loaded.name: _register(loaded, plan, storage, there, commit, data_root) for loaded in deciding}


def content_of(loaded: SpaceFile, plan: Plan) -> dict[str, Any]:
    """What a registration's digest covers: the same for every launch of a space, whichever rows and seeds it trains."""
    rows = {}
    for trial in expand(loaded, plan.preset, parse_overrides(plan.overrides), [0]):
        rows[trial.label] = _settings(trial.spec.model_dump(mode="json"))
    columns = {name for settings in rows.values() for name in settings["measurement"]["attacks"]}
    second = second_claims(loaded.space.claims, columns)
    return {
        "space": loaded.name,
        "claims": [claim_content(claim) for claim in loaded.space.claims],
        # Left out where there are none, so that the digest of what was registered without them stays.
        **({"second": {str(number): claim_content(claim) for number, claim in second.items()}} if second else {}),
        "rows": rows,
        **loaded.space.design.model_dump(mode="json"),
    }


def _settings(spec: dict[str, Any]) -> dict[str, Any]:
    """What of a row's settings bears on its results: not the seed, nor where data lie and how reports call them."""
    data = {name: value for name, value in spec["data"].items() if name not in ("root", "label")}
    return {**{name: value for name, value in spec.items() if name != "seed"}, "data": data}


def _register(
    loaded: SpaceFile,
    plan: Plan,
    storage: Storage,
    there: tuple[list[Registration], dict[str, str]],
    commit: str,
    data_root: Path,
) -> RegistrationPart:
    content = content_of(loaded, plan)
    name = digest(content)
    found, damaged = there
    earlier = [each for each in found if each.space == loaded.name]
    mine = next((each for each in earlier if each.digest == name), None)
    if mine is None and name not in damaged:
        known = _known(loaded, plan, storage, content, data_root)
        made = Registration(
            layout=LAYOUT,
            digest=name,
            space=loaded.name,
            registered_ms=now_ms(),
            commit=commit,
            content=content,
            known={str(number): rows for number, (rows, _) in known.items() if rows},
            exploratory=[number for number, (_, computable) in known.items() if computable],
            changed=_changes(earlier[-1], content) if earlier else [],
        )
        write_first(storage.files, made)
        found, damaged = read_all(storage.files)  # another launch's may be the first
        earlier = [each for each in found if each.space == loaded.name]
        mine = next((each for each in earlier if each.digest == name), None)
    if mine is not None:
        standings = _standings(mine, earlier)
    else:
        why = damaged.get(name, f"{path_of(name)} cannot be read")
        unread = ClaimStanding(registered=False, digest=name, registered_ms=0, why=why)
        standings = [unread] * len(claims_in(content))
    return RegistrationPart(
        digest=name,
        registered_ms=mine.registered_ms if mine is not None else 0,
        commit=mine.commit if mine is not None else "",
        claims=standings[: len(content["claims"])],
        second={number: standings[place] for number, place in second_places(content).items()},
        content=content,
        problems=list(damaged.values()),
    )


def _needs(claim: Mapping[str, Any], labels: list[str]) -> dict[str, tuple[str, ...]]:
    return needs(contrasts(Claim.model_validate(claim), labels))


def _identities(content: Mapping[str, Any]) -> list[str]:
    """Of each claim, the digest of what its verdict rests on.

    A claim or a column that is added beside it changes nothing of it, nor does a setting that an earlier version did
    not have yet, at the value that it had all the same.
    """
    labels = list(content["rows"])
    full = {row: _in_full(settings) for row, settings in content["rows"].items()}
    found = []
    for claim in claims_in(content):
        rows = {}
        for row, metrics in _needs(claim, labels).items():
            of_worst = any(Metric.from_name(name).column == WORST for name in metrics)
            unused = _ASKED_FOR - {"attacks"} if of_worst else _ASKED_FOR
            measurement = {name: value for name, value in full[row]["measurement"].items() if name not in unused}
            rows[row] = {**full[row], "measurement": measurement}
        found.append(digest({"claim": claim, "rows": rows, **{rule: content[rule] for rule in _RULES}}))
    return found


def _in_full(settings: dict[str, Any]) -> dict[str, Any]:
    """A row's settings with today's, at their defaults; as they are where this version cannot read them."""
    try:
        full = TrialSpec.model_validate({**settings, "seed": 0}).model_dump(mode="json")
    except ValidationError:
        return settings
    return _settings(full)


def _standings(mine: Registration, earlier: list[Registration]) -> list[ClaimStanding]:
    """Of each claim, by the first registration that it stands in and that came before its results."""
    wanted, first = _identities(mine.content), dict[str, ClaimStanding]()
    for each in earlier:
        if first.keys() >= set(wanted):
            break
        for number, identity in enumerate(_identities(each.content)):
            if number not in each.exploratory and identity not in first:
                rows = each.known.get(str(number), [])
                why = f"known by then: {', '.join(rows)}" if rows else ""
                first[identity] = ClaimStanding(
                    registered=True, digest=each.digest, registered_ms=each.registered_ms, why=why
                )
    return [first.get(each) or _exploratory(number, mine) for number, each in enumerate(wanted)]


def _exploratory(number: int, mine: Registration) -> ClaimStanding:
    rows = mine.known.get(str(number), [])
    why = f"{' and '.join(rows)} had been measured when it was registered"
    if mine.changed:
        why += f"; changed since the registration before: {', '.join(mine.changed)}"
    return ClaimStanding(registered=False, digest=mine.digest, registered_ms=mine.registered_ms, why=why)


def _changes(before: Registration, content: Mapping[str, Any]) -> list[str]:
    day = time.strftime("%Y-%m-%d", time.gmtime(before.registered_ms / 1000))
    told = [
        f"claim {number + 1}" for number, claim in enumerate(content["claims"]) if claim not in before.content["claims"]
    ]
    rows = {row: _in_full(settings) for row, settings in before.content["rows"].items()}
    told += [f"row {row}" for row, settings in content["rows"].items() if rows.get(row) != settings]
    told += ["what masked columns are judged by"] if before.content.get("second") != content.get("second") else []
    told += [rule for rule in _RULES if before.content.get(rule) != content[rule]]
    gone = [claim for claim in before.content["claims"] if claim not in content["claims"]]
    told += [f"{plural(len(gone), 'claim')} of {day} gone"] if gone else []
    return told


def _known(
    loaded: SpaceFile, plan: Plan, storage: Storage, content: Mapping[str, Any], data_root: Path
) -> dict[int, tuple[list[str], bool]]:
    """Claim's number -> (its rows with a measured seed, whether one of its comparisons can be computed)."""
    there = set(storage.keys())
    design = loaded.space.design
    seeds = list(dict.fromkeys([*design.first(design.looks[-1]), *plan.seeds]))
    trials: list[PlannedTrial] = []
    if there:
        asked = expand(loaded, plan.preset, parse_overrides(plan.overrides), seeds)
        trials = make_plan(
            [loaded], asked, preset=plan.preset, overrides=plan.overrides, seeds=seeds, data_root=data_root
        ).trials
    of_row: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        if trial.training in there:
            of_row.setdefault(trial.trial.label, []).append(trial)

    view = functools.cache(storage.view)

    def measured(row: str, metrics: tuple[str, ...]) -> bool:
        return any(
            all(_has(view(trial.training), trial, metric) for metric in metrics) for trial in of_row.get(row, [])
        )

    found = {}
    for number, claim in enumerate(claims_in(content)):
        asked_of = contrasts(Claim.model_validate(claim), list(content["rows"]))
        rows = [row for row, metrics in needs(asked_of).items() if measured(row, metrics)]
        computable = any(
            all(measured(row, tuple(metrics)) for row, metrics in contrast.weights.items()) for contrast in asked_of
        )
        found[number] = (rows, computable)
    return found


def _has(view: TrainingView, trial: PlannedTrial, metric: str) -> bool:
    """Whether storage holds a metric of a trial; a curve or its end, once an epoch is there."""
    columns = columns_of(trial.columns)
    if metric in columns:
        return trial.columns[columns[metric]] in view.records
    if is_accuracy(metric):  # of a column that the row is not measured with
        return False
    kind = metric.partition("/")[0]
    if kind in trial.analyses:
        return trial.analyses[kind] in view.records
    return view.epoch >= 0
