"""A plan as plain data: what storage and MLflow keep of it, so that reports need no space file and no data set.

Launches write it to `<storage>/plans/<plan id>.json`; tracking sends it along as `plan.json`. Both are this one format.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from ablate.core.digest import digest
from ablate.core.errors import StorageError, nearest
from ablate.core.redaction import redact
from ablate.spaces.looks import Design
from ablate.spaces.metrics import Metric, from_analysis_label, transferred
from ablate.spaces.networks import measured_networks
from ablate.spaces.presets import decides_claims as preset_decides_claims
from ablate.spaces.space import NAME
from ablate.spaces.specs import Spec, TrialSpec
from ablate.storage.checksums import seal, unseal
from ablate.storage.registrations import RegistrationPart
from ablate.storage.status import TrainingView, never_measured

if TYPE_CHECKING:
    from ablate.storage.storage import Storage

LAYOUT = 1
"""Of plan files; a newer one than this is refused by name."""


class DataPart(Spec):
    """Which images a trial was trained on and measured with."""

    name: str
    label: str
    train_digest: str
    test_digest: str
    train_count: int
    test_count: int
    classes: int
    paper: bool
    """Whether it is the paper's data set, so that published numbers can be compared with."""


class RowPart(Spec):
    """One line of a table."""

    label: str
    note: str | None = None
    published: dict[str, float] = {}
    sample: dict[str, Any] | None = None
    """Of a search: the values of the parameters that were searched in it."""


class SpacePart(Spec):
    """What a report needs of a space file."""

    name: str = Field(pattern=f"^{NAME.pattern}$")  # it becomes a folder of the report
    title: str
    description: str = ""
    table: int | None = None
    rows: list[RowPart]
    claims: list[dict[str, Any]] = []
    design: Design = Design()
    """When its claims are decided; plans of earlier versions say nothing of it, and have the usual looks."""
    registration: RegistrationPart | None = None
    """Of its claims; none of plans of earlier versions, of searches, and where nothing can be decided."""
    not_needed: dict[str, str] = {}
    """Of a plan that goes on until claims are decided: row -> why it gets no more seeds."""
    figures: list[str] = []
    search: dict[str, Any] | None = None
    """What was searched, as of `ablate.spaces.search.SearchSpec`; its samples are the rows."""

    @property
    def published(self) -> dict[str, dict[str, float]]:
        """Row -> metric -> published value; rows without numbers are left out."""
        return {row.label: dict(row.published) for row in self.rows if row.published}


class TrialPart(Spec):
    """One row with one seed.

    `columns` and `analyses` are metric -> measurement key, of what a trial needs.
    """

    space: str
    row: str
    seed: int
    training: str = Field(pattern="^[0-9a-f]{1,64}$")  # it becomes a folder of storage
    columns: dict[str, str]
    analyses: dict[str, str] = {}
    data: DataPart
    spec: dict[str, Any]
    origin: str = ""
    """Where its results were taken from, in words; empty where they were made for this storage."""

    @property
    def identity(self) -> Identity:
        """What the plan's id is made of."""
        return self.space, self.row, self.seed, self.training, self.columns, self.analyses

    @property
    def epochs(self) -> int:
        """How many its training is to have; 0 where its settings say nothing of it."""
        return int(self.spec.get("training", {}).get("epochs", 0))

    @property
    def measurements(self) -> set[str]:
        """Every measurement key it needs."""
        return {*self.columns.values(), *self.analyses.values()}

    @property
    def required(self) -> set[str]:
        """What there must be of it before it is finished: all but what hangs on another training."""
        return {*(key for name, key in self.columns.items() if transferred(name) is None), *self.analyses.values()}

    def lacking(self, view: TrainingView) -> list[str]:
        """What there is not of it, though it must be, of a training that was trained: names as `columns` have them."""
        required = self.required - view.records.keys() if view.finished else set()
        return [name for name, key in {**self.columns, **self.analyses}.items() if key in required]

    def never_measured(self, view: TrainingView) -> str | None:
        """Why nothing more will be measured of it, as of `ablate.storage.status.never_measured`."""
        if not view.finished or self.required <= view.records.keys():  # told without reading the settings
            return None
        try:
            names = measured_networks(TrialSpec.model_validate_json(json.dumps(self.spec)))
        except ValidationError:  # of another version
            return None
        of_columns = {key: Metric.from_run(name).network for name, key in self.columns.items()}
        of_analyses = {key: from_analysis_label(label)[1] for label, key in self.analyses.items()}
        return never_measured(view, {key: names.get(n, n) for key, n in (of_columns | of_analyses).items()})


class PlanFile(Spec):
    """What one launch decided.

    `created_ms` is when the plan was launched first, `launched_ms` when last; `provenance` is the last launch's.
    """

    layout: int
    id: str = Field(pattern="^[0-9a-f]{1,64}$")  # it becomes the name of a file
    preset: str
    overrides: list[str]
    seeds: list[int]
    decides_claims: bool | None = None
    """Whether its preset trains long enough to judge claims by; plans of earlier versions leave it to the preset."""
    spaces: list[SpacePart]
    trials: list[TrialPart]
    provenance: dict[str, str]
    created_ms: int
    launched_ms: int
    until: int | None = None
    """The largest number of seeds a row, of a plan that goes on until claims are decided."""

    def trainings(self) -> dict[str, list[TrialPart]]:
        """Training key -> the trials that share it, in the order of their first trial."""
        shared: dict[str, list[TrialPart]] = {}
        for trial in self.trials:
            shared.setdefault(trial.training, []).append(trial)
        return shared

    @property
    def judges_claims(self) -> bool:
        """Whether its trainings are long enough to judge claims by."""
        return preset_decides_claims(self.preset) if self.decides_claims is None else self.decides_claims

    @property
    def data_labels(self) -> list[str]:
        """How the data sets of its trials are called."""
        return list(dict.fromkeys(trial.data.label for trial in self.trials))

    def space(self, name: str) -> SpacePart:
        """One of its spaces by name."""
        return next(space for space in self.spaces if space.name == name)

    def of_space(self, name: str) -> PlanFile:
        """The part that is about one space."""
        return self.model_copy(
            update={
                "spaces": [self.space(name)],
                "trials": [trial for trial in self.trials if trial.space == name],
            }
        )

    def to_json(self) -> str:
        """The file's text, with its checksum."""
        return json.dumps(seal(self.model_dump()), indent=1, ensure_ascii=False)


Identity = tuple[str, str, int, str, Mapping[str, str], Mapping[str, str]]
"""Space, row, seed, training, columns and analyses of a trial."""


def id_of(preset: str, trials: Iterable[Identity]) -> str:
    """The id of a plan of tables: the same for the same trials, whoever launches them and wherever.

    Args:
        preset: Under which they stand.
        trials: In their order.
    """
    listing = [[*fields, dict(columns), dict(analyses)] for *fields, columns, analyses in trials]
    return digest({"preset": preset, "trials": listing})[:10]


def parse(text: str | bytes, where: str) -> PlanFile:
    """A plan file's content.

    Args:
        text: As written by `PlanFile.to_json`.
        where: Names the file in errors.

    Raises:
        StorageError: It is damaged, or a newer version wrote it.
    """
    try:
        content = unseal(text)
        layout = content["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{where}: expected a plan as JSON, got {type(error).__name__}: {error}") from error
    if layout != LAYOUT:
        raise StorageError(f"{where}: expected plan layout {LAYOUT}, got {layout}; use the version that wrote it")
    try:
        return PlanFile.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise StorageError(f"{where}: {place}: expected a whole plan, got: {first['msg']}") from error


def save(file: PlanFile, storage: Storage) -> PlanFile:
    """Keep a plan beside its results, so that they can be sent to MLflow later and from elsewhere.

    Returns:
        What was written; `created_ms` is that of the first launch of this plan.

    Raises:
        StorageError: Storage cannot be written.
    """
    earlier = storage.files.read(_path(file.id))
    if earlier is not None:
        with contextlib.suppress(StorageError):  # a damaged or foreign file is replaced by the plan just made
            file = file.model_copy(update={"created_ms": parse(earlier, _path(file.id)).created_ms})
    storage.files.write(_path(file.id), file.to_json().encode())
    return file


def load(
    storage: Storage,
    plan_id: str | None = None,
    space: str | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> PlanFile:
    """A plan that was launched into this storage.

    Args:
        storage: Where.
        plan_id: Which; none: the one launched last.
        space: Only plans of this space.
        tell: Called with a message for each plan that cannot be read and is passed over.

    Raises:
        StorageError: There is none.
    """
    where = redact(storage.location)
    if plan_id is not None:
        content = storage.files.read(_path(plan_id)) if re.fullmatch(r"[0-9a-f]{1,64}", plan_id) else None
        if content is None:
            there = plan_ids(storage)
            if not there:
                raise StorageError(f"--storage {where}: expected a plan launched into it, got none")
            hint = nearest(plan_id, there)
            raise StorageError(f"--plan: expected a plan launched into {where}, got {plan_id!r}; {hint}")
        return _named(parse(content, f"{where}/{_path(plan_id)}"), plan_id, where)
    damaged: list[str] = []
    files = load_all(storage, damaged.append)
    found = [file for file in files if space is None or space in [part.name for part in file.spaces]]
    if not found and damaged:
        raise StorageError(damaged[0])
    if not found:
        what = f"a plan of {space!r}" if space else "a plan"
        raise StorageError(f"--storage {where}: expected {what} launched into it, got none")
    for problem in damaged:
        tell(f"{problem}; it is passed over")
    return found[0]


def load_all(storage: Storage, tell: Callable[[str], None] = lambda message: None) -> list[PlanFile]:
    """Every plan that was launched into a storage.

    Args:
        storage: Where.
        tell: Called with a message for each plan that cannot be read and is left out.

    Returns:
        The one launched last first.
    """
    where = redact(storage.location)
    found = []
    for name in plan_ids(storage):
        try:
            found.append(_named(parse(storage.files.read(_path(name)) or b"", f"{where}/{_path(name)}"), name, where))
        except StorageError as error:
            tell(str(error))
    return sorted(found, key=lambda file: file.launched_ms, reverse=True)


def _named(file: PlanFile, plan_id: str, where: str) -> PlanFile:
    if file.id != plan_id:
        raise StorageError(f"{where}/{_path(plan_id)}: expected plan {plan_id}, got a file of plan {file.id!r}")
    return file


def plan_ids(storage: Storage) -> list[str]:
    """Ids of all plans that were launched into a storage."""
    return [name.removesuffix(".json") for name in storage.files.list("plans") if name.endswith(".json")]


def _path(plan_id: str) -> str:
    return f"plans/{plan_id}.json"
