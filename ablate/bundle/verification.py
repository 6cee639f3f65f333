"""`verify`: everything that a bundle states, computed again from its records."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.bundle.statement import differences, results_in, statement_of
from ablate.core.digest import digest
from ablate.core.errors import SpecError
from ablate.core.filters import Filter
from ablate.core.text import plural
from ablate.report.results import Results
from ablate.spaces.claims import Claim
from ablate.spaces.metrics import Metric, from_analysis_label, transferred
from ablate.spaces.networks import measured_networks
from ablate.spaces.specs import TrialSpec
from ablate.storage import plans
from ablate.storage.bundles import BundleFiles, bundles_in
from ablate.storage.checksums import read_json
from ablate.storage.export import faults
from ablate.storage.files import Files
from ablate.storage.plans import PlanFile, SpacePart
from ablate.storage.registrations import SHORT_DIGEST, claim_content, claims_in, read_all, second_places
from ablate.storage.registrations import parse as parse_registration
from ablate.storage.storage import Storage

_FORMLESS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RecursionError)
"""What comes of content whose checksums hold and that no launch has written."""


@dataclass
class Opened:
    """A bundle with those beside it that it needs.

    Attributes:
        path: Of it.
        files: Of it and of those beside it.
        storage: The same as a storage.
        plan: What it is of.
    """

    path: Path
    files: BundleFiles
    storage: Storage
    plan: PlanFile


@dataclass
class Checked:
    """What `verify` found.

    Attributes:
        counts: What was looked at -> how much of it.
        differs: A line for each difference.
    """

    counts: dict[str, int] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Note that something was looked at."""
        self.counts[what] = self.counts.get(what, 0) + number

    def sentence(self) -> str:
        """What was looked at."""
        return ", ".join(plural(number, what) for what, number in self.counts.items())


def paths_of(given: Iterable[Path]) -> list[Path]:
    """Bundles, and in place of a folder of bundles those in it; each once.

    Args:
        given: Their paths; one that is no bundle is left, for whoever opens it to say so.
    """
    return list(dict.fromkeys(each for path in given for each in bundles_in(path) or [path]))


def open_bundle(path: Path) -> Opened:
    """A bundle, and those beside it that hold trainings of it.

    Raises:
        StorageError: It is none, of a newer layout, one that nobody should open, or without a plan that can be read.
    """
    files = BundleFiles(path)
    storage = Storage.of(files)
    return Opened(path, files, storage, plans.load(storage, str(files.bundle.about.get("plan"))))


def verify(opened: Opened) -> Checked:
    """Compute again what a bundle states.

    Raises:
        StorageError: A file of it that is not what its checksum says, or that nobody should read.
    """
    try:
        return _verified(opened)
    except _FORMLESS as error:
        told = f"{type(error).__name__}: {error}"[:200]
        raise opened.files.bundle.refused("records of the form that a launch writes", f"others ({told})") from error


def _verified(opened: Opened) -> Checked:
    found = Checked()
    found.differs += opened.files.lacking
    for name in opened.files.bundle.names():
        opened.files.bundle.read(name)
        found.count("checksum")
    found.differs += _identity(opened)
    found.differs += _mislabelled(opened)
    for key, [first, *_] in opened.plan.trainings().items():
        found.count("training")
        found.count("record", len(opened.storage.view(key).records))
        told_of_it = [*faults(opened.storage, key), *opened.files.conflicts(key)]
        found.differs += [f"{first.space}/{first.row}, seed {first.seed}: {told}" for told in told_of_it]
    for results in results_in(opened.plan, opened.storage):
        found.differs += _stated(opened, results, found)
    return found


def _identity(opened: Opened) -> Iterator[str]:
    plan = opened.plan
    made = plans.id_of(plan.preset, [trial.identity for trial in plan.trials])
    if made != plan.id and not any(part.search for part in plan.spaces):  # its samples are found while it runs
        yield f"plan {plan.id}: its trials are those of plan {made}"
    for name in opened.files.list("registrations"):
        short = name.removesuffix(".json")
        try:
            parse_registration(opened.files.read(f"registrations/{name}"), short)
        except (ValueError, TypeError, KeyError) as error:
            yield f"registration {short}: {error}"
    for space in plan.spaces:
        yield from _registered(space, opened.files)


def _mislabelled(opened: Opened) -> Iterator[str]:
    """Rows whose training was made with other settings than theirs, and columns whose records are of something else."""
    from ablate.planning.keys import training_identity  # brings torch

    for trial in opened.plan.trials:
        where = f"{trial.space}/{trial.row}, seed {trial.seed}"
        try:
            spec = TrialSpec.model_validate_json(json.dumps(trial.spec))
        except ValidationError as error:
            yield f"{where}: expected settings of a trial, got others ({error.errors()[0]['msg']})"
            continue
        described = opened.files.read(f"{trial.training}/training.json")
        if described is not None:
            of_key = read_json(described)
            user_code, weights = of_key.get("user_code", {}), of_key.get("weights")
            made = training_identity(spec, trial.data.train_digest, user_code, weights)
            if trial.seed != spec.seed or digest({**made, "recipe": of_key.get("recipe")}) != trial.training:
                yield f"{where}: training {trial.training} was made with other settings than its own"
        view = opened.storage.view(trial.training)
        for label, key in {**trial.columns, **trial.analyses}.items():
            record = opened.storage.record(view, key)
            expected = _of_column(label, spec) if label in trial.columns else _of_analysis(label, spec)
            told = {} if record is None else {name: record.meta.get(name, value) for name, value in expected.items()}
            yield from (
                f"{where}: {label}: expected a record of {name} {expected[name]}, got one of {value}"
                for name, value in told.items()
                if value != expected[name]
            )


def _of_column(label: str, spec: TrialSpec) -> dict[str, Any]:
    """What the record of a column says that it is of; those of earlier versions say less."""
    from ablate.attacks import build_attack

    metric, seen = Metric.from_run(label), spec.measurement.filter
    found: dict[str, Any] = {"what": metric.column, "network": measured_networks(spec).get(metric.network)}
    if transferred(label) is None:
        whole = seen is None or seen == Filter("lowpass", spec.data.image_size)
        found |= {"degree": None if whole or seen is None else seen.degree, "adaptive": metric.adaptive and not whole}
        with contextlib.suppress(SpecError):  # a user's own, whose module is not here
            found["settings"] = repr(build_attack(metric.column, spec.measurement))
    return found


def _of_analysis(label: str, spec: TrialSpec) -> dict[str, Any]:
    name, network = from_analysis_label(label)
    return {"what": name, "network": measured_networks(spec).get(network)}


def _registered(space: SpacePart, files: Files) -> Iterator[str]:
    """Where a plan says more of a registration than was written down before its results."""
    part = space.registration
    if part is None:
        return
    if digest(part.content) != part.digest:
        yield f"{space.name}: what it says was registered is not what its digest says"
    rules = space.design.model_dump(mode="json")
    registered = _claims(part.content)
    decided_by = [claim_content(Claim.model_validate(claim)) for claim in space.claims], rules
    if decided_by != (
        registered[: len(part.content["claims"])],
        {name: part.content[name] for name in rules},
    ):
        yield f"{space.name}: its claims, or when they are decided, are not what was registered"
    written = {each.digest: each for each in read_all(files)[0]}
    second = (part.second[number] for number in second_places(part.content) if number in part.second)
    for claim, standing in zip(registered, [*part.claims, *second], strict=False):
        if not standing.registered:
            continue
        found, name = written.get(standing.digest), standing.digest[:SHORT_DIGEST]
        if found is None or found.registered_ms != standing.registered_ms:
            yield f"{space.name}: its plan names registration {name}, which is not here or another"
        elif claim not in [one for number, one in enumerate(_claims(found.content)) if number not in found.exploratory]:
            yield f"{space.name}: “{claim['says']}” was not registered in {name} before its results"


def _claims(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    # By way of the claim itself: of an earlier version a field may be missing that has its default now.
    return [claim_content(Claim.model_validate(claim)) for claim in claims_in(content)]


def _stated(opened: Opened, results: Results, found: Checked) -> list[str]:
    space, bundle = results.space.name, opened.files.bundle
    said = bundle.read(f"results/{space}.json")
    if said is None:
        return [f"{space}: it states no results"]
    try:
        stated = read_json(said)
    except ValueError as error:
        return [f"{space}: what it states cannot be read ({error})"]
    computed = json.loads(json.dumps(statement_of(results)))
    for what in ("table", "verdict", "figure"):
        found.count(what, len(computed[f"{what}s"]))
    return list(differences(stated, computed, (space,)))


def made_by(opened: Opened) -> str:
    """By what a bundle was made, in words."""
    by: Any = opened.files.bundle.about.get("made_by")
    version = by.get("ablate", "?") if isinstance(by, Mapping) else "?"
    commit = opened.plan.provenance.get("git_commit", "")
    return f"ablate {version}" + (f", launched at commit {commit[:12]}" if commit else "")
