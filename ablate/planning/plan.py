"""Trials -> distinct trainings and measurements; the one place that decides reuse, continue, train, wait."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from ablate.analysis.registry import analysis_source, declared_scalars, declared_settings, get_analysis
from ablate.attacks import Attack, Ensemble, attack_source, build_attack
from ablate.core.errors import DataError, SpecError, nearest
from ablate.core.filters import Filter
from ablate.learning import data, pretrained_weights
from ablate.learning.augmentation import augmentation_source, get_augmentation
from ablate.learning.cifar10_c import CORRUPTIONS, digest_of, load_official
from ablate.learning.models import check_model, source_digest
from ablate.learning.objectives import get_objective, objective_source, refuse_mixed_labels
from ablate.planning import keys
from ablate.planning.metrics import refuse_unknown
from ablate.spaces.metrics import Metric, analysis_label, refused_scalar, transfer_column
from ablate.spaces.networks import asked_of_training, can_have, measured_networks
from ablate.spaces.planned_measurement import MadeOn, PlannedMeasurement
from ablate.spaces.settings import values_of
from ablate.spaces.space import PresetFile, SpaceFile, Trial
from ablate.spaces.specs import DataSpec, TrialSpec
from ablate.storage.origins import origins_of
from ablate.storage.plans import id_of
from ablate.storage.registrations import RegistrationPart
from ablate.storage.status import TrainingStatus, TrainingView, never_measured
from ablate.storage.storage import Storage

Parts = tuple[tuple[str, str], ...]
"""Names and measurement keys of what a column is made of."""

Action = Literal["reuse", "continue", "train", "wait", "failed", "stopped"]


@dataclass(frozen=True)
class PlannedTrial:
    """One row with one seed, and where its numbers come from.

    Args:
        trial: What was asked for.
        training: The training's key.
        columns: Metric (`accuracy/pgd20`) -> measurement key.
        analyses: Analysis -> measurement key.
        data: What the data turned out to be.
    """

    trial: Trial
    training: str
    columns: Mapping[str, str]
    analyses: Mapping[str, str]
    data: data.DataSummary


@dataclass
class PlannedTraining:
    """One distinct training with everything that is measured on it.

    Args:
        key: Its training key.
        identity: What the key stands for.
        spec: Of the first trial that needs it; others differ in their measurements only.
        rows: `space/row` of every trial that shares it.
        measurements: By key.
        action: What this launch does about it.
        epoch: Of its furthest checkpoint; -1 without one.
        missing: Measurement keys without a record.
        failure: Why it failed, where it did.
        weights: Digest of the weights from elsewhere that it has, and is not trained.
        keep: Networks that its trials want beside `last` and `best`, as keys call them.
        origin: Where its results were taken from, in words; empty where it is this storage's own.
    """

    key: str
    identity: dict[str, object]
    spec: TrialSpec
    rows: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    measurements: dict[str, PlannedMeasurement] = field(default_factory=dict)
    action: Action = "train"
    epoch: int = -1
    missing: frozenset[str] = frozenset()
    failure: str | None = None
    view: TrainingView | None = None
    weights: str | None = None
    origin: str = ""

    @property
    def lacks_network(self) -> bool:
        """Whether it is whole but for a network that it keeps only if it is trained once more; also once that began.

        Told once it is decided about.
        """
        view = self.view
        if view is None or not view.finished or view.failure is not None or self.weights is not None:
            return False
        begun = self.action in ("train", "continue") and view.epoch < self.spec.epochs
        return begun or self.action == "failed"


@dataclass
class Plan:
    """What one launch decided.

    Args:
        id: The same for the same trials, whoever launches them and wherever.
        spaces: The spaces asked for.
        preset: Under which they stand.
        overrides: `--set` arguments as given.
        seeds: In their order.
        trials: In their order.
        trainings: By key, in the order of their first trial.
        search: Whether the trials are samples of a search, where stopping early is an end; a table wants them whole.
        registrations: Space -> what was registered of its claims, once a launch has begun.
        until: The largest number of seeds a row, of a plan that goes on until claims are decided; None of others.
        not_needed: Space -> row -> why it gets no more seeds, of such a plan.
    """

    id: str
    spaces: list[SpaceFile]
    preset: PresetFile
    overrides: list[str]
    seeds: list[int]
    trials: list[PlannedTrial]
    trainings: dict[str, PlannedTraining]
    search: bool = False
    registrations: dict[str, RegistrationPart] = field(default_factory=dict)
    until: int | None = None
    not_needed: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def grows(self) -> bool:
        """Whether a launch of it may find more to train."""
        return self.search or self.until is not None

    def counts(self) -> dict[Action, int]:
        """How many trainings there are of each action."""
        counts: dict[Action, int] = {}
        for training in self.trainings.values():
            counts[training.action] = counts.get(training.action, 0) + 1
        return counts

    def left(self) -> list[PlannedTraining]:
        """The trainings that a launch would do something about, or wait for."""
        return [t for t in self.trainings.values() if t.action in ("continue", "train", "wait")]


def make_plan(
    spaces: Sequence[SpaceFile],
    trials: Sequence[Trial],
    *,
    preset: PresetFile,
    overrides: Sequence[str],
    seeds: Sequence[int],
    data_root: Path,
) -> Plan:
    """The distinct trainings and measurements that trials need, before storage is asked.

    Args:
        spaces: Where the trials came from.
        trials: In the order of their tables.
        preset: Under which they stand.
        overrides: `--set` arguments as given.
        seeds: In their order.
        data_root: Where data sets are kept.

    Returns:
        The plan; `decide` fills in the actions.

    Raises:
        SpecError: A name nobody registered, also of a metric in a claim, or a batch larger than the data.
        DataError: Data or weights that are missing or corrupt.
    """
    summaries: dict[tuple[str, str | None, int, str | None], data.DataSummary] = {}

    def summary_of(spec: DataSpec) -> data.DataSummary:
        what = (spec.name, spec.root, spec.image_size, spec.label)
        if what not in summaries:
            summaries[what] = data.describe(spec, data_root)
        return summaries[what]

    @functools.cache
    def official(spec: DataSpec) -> str | None:
        found = load_official(spec, data_root)
        return None if found is None else digest_of(found)

    for loaded in spaces:
        refuse_unknown(loaded)
    trainings: dict[str, PlannedTraining] = {}
    planned = []
    for trial in trials:
        try:
            summary = summary_of(trial.spec.data)
        except SpecError as error:
            place = _place_of(trial, str(error))
            asked = place.startswith(f"{preset.file.path}:") and preset.preset.description  # it says what it needs
            about = f"; preset {preset.name}: {preset.preset.description}" if asked else ""
            raise SpecError(f"{place}: {error}{about}") from error
        _check_batch(trial, summary)
        try:
            user_code = _user_code(trial.spec)
            _refuse_mixed_labels(trial.spec, summary)
            weights = _weights(trial.spec, summary)
            key = keys.training_key(trial.spec, summary.train_digest, user_code, weights)
            measurements = list(_measurements(trial.spec, key, summary, official))
        except SpecError as error:  # a name nobody registered: say where it was written
            raise SpecError(f"{_place_of(trial, str(error))}: {error}") from error
        except DataError as error:
            raise DataError(f"{_place_of(trial, str(error))}: {error}") from error
        training = trainings.get(key)
        if training is None:
            content = keys.training_identity(trial.spec, summary.train_digest, user_code, weights)
            training = trainings[key] = PlannedTraining(key, content, trial.spec, weights=weights)
        training.rows.append(f"{trial.space}/{trial.label}")
        training.keep += [name for name in asked_of_training(trial.spec) if name not in training.keep]
        columns: dict[str, str] = {}
        analyses: dict[str, str] = {}
        for metric, measurement in measurements:
            training.measurements[measurement.key] = measurement
            (columns if measurement.kind == "attack" else analyses)[metric] = measurement.key
        planned.append(PlannedTrial(trial, key, columns, analyses, summary))
    _plan_transfers(spaces, planned, trainings)
    plan_id = id_of(
        preset.name,
        [(t.trial.space, t.trial.label, t.trial.seed, t.training, t.columns, t.analyses) for t in planned],
    )
    return Plan(plan_id, list(spaces), preset, list(overrides), list(seeds), planned, trainings)


def _plan_transfers(
    spaces: Sequence[SpaceFile], planned: list[PlannedTrial], trainings: Mapping[str, PlannedTraining]
) -> None:
    """Give the trials that ask for it the columns of examples made on other rows' networks of the same seed.

    Such a column is a measurement of the row that classifies: its key names the training and the network of the other
    row, so it is a record of its own that waits for the other training and for nothing else. Rows that are not in the
    plan have no such network, and no column.
    """
    by_place = {(each.trial.space, each.trial.label, each.trial.seed): each for each in planned}
    labels = {loaded.name: [row.label for row in loaded.space.rows] for loaded in spaces}
    for number, each in enumerate(planned):
        trial, settings = each.trial, each.trial.spec.measurement
        columns = dict(each.columns)
        for label in settings.transfer_from:
            known = labels.get(trial.space)
            where = f"{trial.where('measurement.transfer_from')}: measurement.transfer_from"
            if known is not None and label not in known:
                raise SpecError(f"{where}: expected a row's label, got {label!r}; {nearest(label, known)}")
            alike = [other for other in settings.transfer_from if transfer_column(other) == transfer_column(label)]
            if len(alike) > 1:
                raise SpecError(f"{where}: expected labels that differ in letters and digits, got {alike}")
            source = by_place.get((trial.space, label, trial.seed))
            if source is None:
                continue
            if source.data.test_digest != each.data.test_digest:
                raise SpecError(f"{where}: expected a row with the same test images, got {label!r}")
            made_on = MadeOn(source.training, measured_networks(source.trial.spec)["last"], source.trial.spec)
            measurement = transfer_measurement(each, made_on, transfer_column(label))
            trainings[each.training].measurements[measurement.key] = measurement
            columns[Metric(measurement.name).run_name] = measurement.key
        planned[number] = replace(each, columns=columns)


def transfer_measurement(planned: PlannedTrial, made_on: MadeOn, column: str) -> PlannedMeasurement:
    """A row measured on examples that were made on another training's network."""
    settings = planned.trial.spec.measurement
    network = measured_networks(planned.trial.spec)["last"]
    seen = _effective_filter(planned.trial.spec)
    key = keys.measurement_key(
        planned.training,
        what="transfer",
        settings=repr(build_attack("pgd20", made_on.spec.measurement)),
        network=network,
        test_digest=planned.data.test_digest,
        seen=seen,
        made_on=f"{made_on.training}/{made_on.network}",
    )
    return PlannedMeasurement(key, "transfer", column, network, seen, False, settings, made_on=made_on)


def not_to_come(
    plan: Plan, view_of: Callable[[str], TrainingView], training: PlannedTraining, *, retry_failed: bool = False
) -> set[str]:
    """Columns of transferred examples that a training will never have: the other one failed, or has no network left.

    Args:
        plan: With both trainings.
        view_of: Training key -> what storage holds of it.
        training: Its view is up to date.
        retry_failed: Failed trainings are tried again.

    Returns:
        Measurement keys.
    """
    found = set[str]()
    records = training.view.records if training.view is not None else {}
    for key, each in training.measurements.items():
        source = each.made_on
        if source is None or key in records or source.training == training.key:
            continue
        view = view_of(source.training)
        if view.finished:
            gone = not (view.has_checkpoint and can_have(source.network, view.keeps, view.epoch))
        else:
            gone = source.training not in plan.trainings or (view.failure is not None and not retry_failed)
        if gone:
            found.add(key)
    return found


def decide(
    plan: Plan,
    storage: Storage,
    *,
    retry_failed: bool = False,
    held_elsewhere: Callable[[str], bool] = lambda key: False,
    only: Iterable[str] | None = None,
) -> None:
    """Set each training's action from what storage holds.

    Args:
        plan: Changed in place.
        storage: The truth.
        retry_failed: Try failed trainings again.
        held_elsewhere: Whether another live launch trains a key.
        only: Decide anew about these keys alone.
    """
    decided = list(only) if only is not None else list(plan.trainings)
    # Nothing comes from elsewhere once it is queued: a queue, which decides twice about each training, does not ask.
    asked = [key for key in decided if only is None or plan.trainings[key].view is None]
    came_from = origins_of(storage.files, asked)
    for key in asked:
        plan.trainings[key].origin = came_from[key].words if key in came_from else ""
    view_of = functools.cache(storage.view)  # trainings look at those that their examples are made on
    for key in decided:
        training = plan.trainings[key]
        view = _up_to_date(view_of(key), training, storage)
        training.view = view
        training.epoch = view.epoch
        gone = not_to_come(plan, view_of, training, retry_failed=retry_failed)
        wanted = {name: each.network for name, each in training.measurements.items() if name not in gone}
        training.missing = frozenset(wanted) - view.records.keys()
        training.failure = view.reason
        status = view.status(wanted)
        never = never_measured(view, wanted)
        if status is TrainingStatus.FINISHED:
            training.action = "reuse"
        elif held_elsewhere(key):
            training.action = "wait"
        elif status is TrainingStatus.FAILED and not retry_failed:
            training.action = "failed"
        elif never is not None:
            training.action, training.failure = "failed", never
        elif status is TrainingStatus.STOPPED and plan.search:
            training.action = "stopped"
        elif view.has_checkpoint:
            training.action = "continue"
        else:
            training.action = "train"


def _up_to_date(view: TrainingView, training: PlannedTraining, storage: Storage) -> TrainingView:
    """The view without records of examples that were made on a network which has been trained anew since."""
    made = [key for key, each in training.measurements.items() if each.made_on and key in view.records]
    gone = {key for key in made if (found := storage.stored_record(view, key)) and storage.outdated(found)}
    return replace(view, records={key: entry for key, entry in view.records.items() if key not in gone})


def _check_batch(trial: Trial, summary: data.DataSummary) -> None:
    left = summary.train_count - round(summary.train_count * trial.spec.data.validation)
    if trial.spec.epochs and trial.spec.training.batch_size > left:
        path = "training.batch_size"
        raise SpecError(
            f"{trial.where(path)}: {path}: expected at most the {left} training images of {summary.label}, "
            f"got {trial.spec.training.batch_size}"
        )


def _refuse_mixed_labels(spec: TrialSpec, summary: data.DataSummary) -> None:
    """A user's augmentation is tried on two grey images: nothing is downloaded to plan."""
    if spec.epochs:
        size = spec.data.image_size
        images, labels = torch.full((2, 3, size, size), 0.5), torch.arange(2) % summary.classes
        refuse_mixed_labels(spec.training, spec.seed, images, labels, summary.classes)


def _place_of(trial: Trial, message: str) -> str:
    named = [setting for setting in trial.settings if setting.path in message]
    return named[-1].origin if named else trial.origin


def _weights(spec: TrialSpec, summary: data.DataSummary) -> str | None:
    if spec.model.weights is None:
        return None
    return pretrained_weights.describe(spec.model, summary.classes, spec.data.image_size)


def _user_code(spec: TrialSpec) -> dict[str, str]:
    check_model(spec.model)
    get_augmentation(spec.training.augmentation.name)
    sources = {f"network:{spec.model.arch}": source_digest(spec.model.arch)}
    if spec.epochs:
        name, objective = spec.training.augmentation.name, spec.training.objective
        get_objective(objective)
        sources[f"objective:{objective}"] = objective_source(objective)
        sources[f"augmentation:{name}"] = augmentation_source(name)
    return {name: source for name, source in sources.items() if source is not None}


def _effective_filter(spec: TrialSpec) -> Filter | None:
    """The filter that a trial is measured behind; one that keeps everything is none."""
    asked = spec.measurement.filter
    return None if asked == Filter("lowpass", spec.data.image_size) else asked


def _measurements(
    spec: TrialSpec, training: str, summary: data.DataSummary, official: Callable[[DataSpec], str | None]
) -> Iterable[tuple[str, PlannedMeasurement]]:
    settings = spec.measurement
    asked, seen = settings.filter, _effective_filter(spec)
    images = settings.images or summary.test_count
    for own, network in measured_networks(spec).items():
        others = None if own == "last" else settings.others
        for name in settings.attacks:
            if others is not None and name not in others:
                continue
            attack = build_attack(name, settings)
            if summary.classes < attack.least_classes:
                raise SpecError(
                    f"measurement.attacks: {name}: expected data of at least {attack.least_classes} classes, "
                    f"got {summary.classes} of {summary.label}"
                )

            def key_of(attack: Attack, adaptive: bool, network: str = network) -> tuple[str, Parts]:
                parts: Parts = ()
                if isinstance(attack, Ensemble):
                    parts = tuple((p.name, key_of(p, adaptive and p.uses_network)[0]) for p in attack.parts)
                key = keys.measurement_key(
                    training,
                    what=attack.name,
                    settings=repr(attack),
                    network=network,
                    test_digest=summary.test_digest,
                    seen=seen,
                    adaptive=adaptive,
                    batch_size=settings.batch_size if attack.batch_dependent else None,
                    source=attack_source(attack.name),
                    images=settings.images if attack.reducible and images < summary.test_count else None,
                    precision=attack.searches_in(settings.precision),
                    parts=[key for _, key in parts],
                )
                return key, parts

            def planned(adaptive: bool, attack: Attack = attack, network: str = network) -> PlannedMeasurement:
                key, parts = key_of(attack, adaptive, network)
                return PlannedMeasurement(key, "attack", attack.name, network, seen, adaptive, settings, parts)

            yield Metric(name, own).run_name, planned(False)
            if asked is not None and settings.lowpass_adaptive and attack.uses_network:
                yield Metric(name, own, adaptive=True).run_name, planned(seen is not None)
        for name in settings.analyses if others is None else ():
            get_analysis(name)
            for problem in filter(None, map(refused_scalar, declared_scalars(name) or ())):
                raise SpecError(f"measurement.analyses: {name}: scalars: {problem}")
            used = declared_settings(name)
            key = keys.measurement_key(
                training,
                what=name,
                settings=repr(build_attack("pgd20", settings) if used is None else values_of(settings, used)),
                network=network,
                test_digest=summary.test_digest,
                source=analysis_source(name),
                files=official(spec.data) if name == CORRUPTIONS else None,
            )
            planned_analysis = PlannedMeasurement(key, "analysis", name, network, None, False, settings)
            yield analysis_label(name, own), planned_analysis
