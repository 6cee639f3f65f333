"""One training: train, then measure, alone in its process or in turn with others; knows neither Ray nor MLflow."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.attacks import CleanLogits, Ensemble, build_attack, evaluate, evaluate_ensemble
from ablate.core import memory
from ablate.core.errors import DeviceError, LeaseError, MeasurementError, StorageError, UserError, place_of
from ablate.core.filters import Filter
from ablate.core.memory import ran_out_of_memory
from ablate.core.text import first_line, named_line, now_ms, plural
from ablate.execution.analyses import AnalysisInputs, analyse
from ablate.execution.base import Event, Kind, Listener, Outcome, Task
from ablate.execution.crashes import Stacks, death
from ablate.execution.faults import fault_of, passes
from ablate.execution.measurements import MeasurementProgress, by_attack, described, with_its_name
from ablate.execution.transfer import lacking, transferred
from ablate.learning import pretrained_weights
from ablate.learning.cost import attack_cost
from ablate.learning.data import Dataset
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, as_searched
from ablate.learning.precision import memory_format, slower_than_asked
from ablate.learning.resident import resident
from ablate.learning.state import TrainingError, TrainingState
from ablate.learning.training import train_in_turns
from ablate.learning.turns import OwnRandomNumbers, Turns, finish, within
from ablate.spaces.planned_measurement import MadeOn, PlannedMeasurement
from ablate.storage import checkpoints, leases
from ablate.storage.attempts import Attempt
from ablate.storage.heartbeat import Heartbeat
from ablate.storage.records import Record
from ablate.storage.status import same_curves
from ablate.storage.storage import Storage

PROGRESS_S = 5.0
"""A measurement of minutes tells this often how far it is."""


def run(task: Task, dataset: Dataset, listen: Listener) -> Outcome:
    """Train and measure, without a rest. See `run_in_turns`."""
    return finish(run_in_turns(task, dataset, listen))


def run_in_turns(task: Task, dataset: Dataset, listen: Listener) -> Turns[Outcome]:
    """Train and measure, an update or a measurement a turn; what would go wrong again becomes a stored failure.

    Args:
        task: What to do.
        dataset: The images.
        listen: Called at every step.

    Raises:
        DeviceError: The GPU failed this process for good; another process may go on from the checkpoint.
        KeyboardInterrupt: As it came.
    """
    training = TaskRun(task, dataset, listen)
    try:
        outcome = yield from training.run()
    except DeviceError:
        training.give_back()
        raise
    # What breaks a training off from outside leaves the lease to the launch, which may have to write down why.
    training.give_back()
    return outcome


class TaskRun:
    """A task on its way; arguments as of `run`."""

    def __init__(self, task: Task, dataset: Dataset, listen: Listener) -> None:
        self.task = task
        self.dataset = dataset
        self.storage = Storage(task.storage)
        self.listen = listen
        self.device = torch.device(task.device)
        self.log = _Log()
        self.attempt: Attempt | None = None
        self.stacks: Stacks | None = None
        self.death: str | None = None  # of the process before
        self.lease: int | None = None
        self.asked: nn.Module = nn.Identity()  # the network being measured, as measurements ask it
        self._searched: dict[str, nn.Module | None] = {}  # by precision: what attacks ask in place of it
        self._examples: dict[tuple[str, int], Tensor] = {}  # of the network being measured
        self._correct: dict[str, Tensor] = {}  # measurement key -> [n] bool, of what was measured here

    def run(self) -> Turns[Outcome]:
        """See `run`."""
        try:
            torch.set_num_threads(self.task.threads)
            # Reduced-precision convolutions are a setting of training (training.precision), never a default.
            torch.backends.cudnn.allow_tf32 = False
            if self.device.type == "cuda":
                # What a packed training takes beyond its share, another one would lack. Workers are used again, so
                # that a whole GPU has to be asked for, too.
                share = 1.0
                if self.task.gpu_share < 1:
                    share = memory.share_to_fill(self.task.gpu_share, memory.device_memory(self.device))
                torch.cuda.set_per_process_memory_fraction(share, self.device.index or 0)
            ended = self._begin()
            if ended is not None:
                return ended
            self.death = death(self.storage, self.task.key)  # of an earlier attempt: this one has no log yet
            self.attempt = self.storage.attempt(self.task.key)
            self.stacks = Stacks(self.storage, self.attempt.log)
            heartbeat = Heartbeat(self.storage.files, self.attempt.alive, self._has(), self._is_ours)
            with self.stacks.open(), heartbeat:
                # A user's network may draw while it is measured, too.
                own = OwnRandomNumbers(self.device)
                yield from within(lambda: self._turn(own), self._train_and_measure(self.attempt))
        except Exception as error:
            return self._ended_by(error)
        self._tell("finished")
        return Outcome(self.task.key, "finished")

    @contextlib.contextmanager
    def _turn(self, own: OwnRandomNumbers) -> Iterator[None]:
        if self.stacks is not None and self.task.together > 1:
            self.stacks.enable()  # behind the log of whose turn it is
        with own.turn():
            yield

    def _begin(self) -> Outcome | None:
        """Take the lease; an outcome where there is nothing to do, which another launch has done or does."""
        task = self.task
        if task.lease is None:
            return None
        self.lease = leases.take(self.storage.files, task.key, task.lease.owner, task.lease.free)
        if self.lease is None:
            return Outcome(task.key, "not_mine", "another launch trains it")
        view = self.storage.view(task.key)  # between the launch's decision and this moment it may have been done
        if view.finished and not lacking(task.measurements, view, self.storage):
            return Outcome(task.key, "finished")
        if view.failure and not (task.retry_failed and view.failure.get("timestamp_ms") == task.failed_at):
            return Outcome(task.key, "failed", str(view.failure["reason"]))
        return None

    def give_back(self) -> None:
        """Give the lease back, where it was taken."""
        if self.lease is not None:
            with contextlib.suppress(StorageError):  # then its launch's end gives it back
                leases.give_back(self.storage.files, self.task.key, self.lease)

    def _ended_by(self, error: Exception) -> Outcome:
        line = first_line(error)
        fault = fault_of(error)
        if fault.spoils_process:
            # Nothing can be computed in this process any more, and workers are used again: it must not live on to
            # fail every training that comes after. Its retry is another process.
            self._interrupted(str(error))
            raise DeviceError(f"expected a GPU that works, got {line}; the same command goes on") from error
        if isinstance(error, LeaseError):  # its new owner writes now, and tells
            return Outcome(self.task.key, "not_mine", line)
        if fault.ending == "interrupted":
            reason = first_line(error) if isinstance(error, UserError) else named_line(error)
            self._interrupted(f"{reason}\n{traceback.format_exc()}")
            self._tell("interrupted", text=reason)
            return Outcome(self.task.key, "interrupted", reason)
        if isinstance(error, (TrainingError, MeasurementError)):
            reason, details = str(error), "" if error.__cause__ is None else traceback.format_exc()
        elif ran_out_of_memory(error):
            reason, details = f"out of memory: {line}", traceback.format_exc()
            if self.task.gpu_share < 1 or self.task.together > 1:
                among = f", one of {self.task.together} in its process" if self.task.together > 1 else ""
                self._interrupted(f"{reason} (in {self.task.gpu_share:g} of a GPU{among})")
                return Outcome(self.task.key, "failed", reason, needs_more_memory=True)
        else:
            where = "" if isinstance(error, UserError) else place_of(error)
            reason, details = f"{named_line(error)}{where}", traceback.format_exc()
        reason = self._failed(reason, details)
        self._tell("failed", text=reason)
        return Outcome(self.task.key, "failed", reason)

    def _interrupted(self, text: str) -> None:
        """Keep why in the log, where that can be written."""
        self.log.error(text.rstrip())
        with contextlib.suppress(StorageError):
            if self.attempt is not None:
                self._save_log(self.attempt)

    def _failed(self, reason: str, details: str) -> str:
        self.log.error(f"{reason}\n{details}".rstrip())
        try:
            if self.attempt is not None:
                self.attempt.save_failure(reason, details, now_ms())
                self._save_log(self.attempt, last=True)
        except StorageError as error:
            return f"{reason} (and the failure could not be stored: {error})"
        return reason

    def _save_log(self, attempt: Attempt, *, last: bool = False) -> None:
        attempt.save_log(self.log.text(), last=last)
        if self.stacks is not None:
            self.stacks.follow()

    def _tell(
        self,
        kind: Kind,
        done: int = 0,
        total: int = 0,
        text: str = "",
        *,
        share: float | None = None,
        **metrics: float,
    ) -> None:
        self.listen(Event(self.task.key, kind, done, total, metrics, text, now_ms(), share))

    def _is_ours(self) -> bool:
        return self.lease is None or leases.in_force(self.storage.files, self.task.key, self.lease)

    def _check_lease(self) -> None:
        if not self._is_ours():
            raise LeaseError("another launch has taken this training over")

    def _train_and_measure(self, attempt: Attempt) -> Turns[None]:
        task = self.task
        self._check_lease()
        self.log.info(
            f"training {task.key} on {task.device}, {plural(task.threads, 'thread')}, torch {torch.__version__}"
        )
        self._save_log(attempt)
        state = yield from self._train(attempt)
        view = self.storage.view(task.key)
        missing = lacking(task.measurements, view, self.storage)
        if missing:
            yield from self.measure(attempt, state, missing)
        self.log.info("finished")
        self._save_log(attempt, last=True)

    def _train(self, attempt: Attempt) -> Turns[TrainingState]:
        epochs = self.task.spec.epochs
        state = None
        content, warnings = self.storage.checkpoint(self.task.key)
        for warning in [*([self.death] if self.death else []), *warnings]:
            self.log.warning(warning)
            self._tell("started", text=warning)
        if content is not None:
            state = TrainingState(**checkpoints.load_state(content))
            self.log.info(f"continuing from epoch {state.epoch}")
        self._tell("started", done=state.epoch if state else 0, total=epochs)
        # Once finished, and its last checkpoint gone since: what was measured is of the network that was.
        once = self.storage.view(self.task.key).finished and (state is None or state.epoch < epochs)
        before = self.storage.history(self.task.key) if once else []

        def on_epoch(now: TrainingState) -> None:
            self._check_lease()
            content = checkpoints.save_state(now)
            finished = now.epoch == epochs
            anew = once and finished and not same_curves(before, now.history)
            attempt.save_checkpoint(now.epoch, content, now.history, finished=finished, keeps=now.keeps, anew=anew)
            if anew:
                self.log.warning("trained once more, and other numbers came of it: all is measured on this network")
            metrics = now.history[-1]["metrics"]
            self.log.info(f"epoch {now.epoch}/{epochs} " + " ".join(f"{k}={v:.6g}" for k, v in metrics.items()))
            self._save_log(attempt)
            self._tell("epoch", done=now.epoch, total=epochs, **metrics)

        if state is not None and state.epoch == epochs:
            return state
        if self.task.weights is not None:
            self.log.info(f"weights {self.task.weights} from elsewhere: nothing is trained")
            weights = checkpoints.load_network(self.storage.weights(self.task.weights))
            if pretrained_weights.digest(weights) != self.task.weights:
                raise StorageError(f"weights {self.task.weights} in storage are damaged; the same command mends them")
            state = pretrained_weights.untrained(self.task.spec, self.dataset, self.device, weights)
            on_epoch(state)
            return state
        return (
            yield from train_in_turns(
                self.task.spec,
                self.dataset,
                device=self.device,
                state=state,
                keep=self.task.keep,
                on_epoch=on_epoch,
                warn=self.log.warning,
            )
        )

    def measure(self, attempt: Attempt, state: TrainingState, missing: list[PlannedMeasurement]) -> Turns[None]:
        """Measure what is missing, and store it."""
        spec = self.task.spec
        layout = memory_format(self.device, "float32")
        shared = resident(self.dataset.test_images, self.dataset.test_labels, None, self.device, layout)
        images, labels = shared.images, shared.labels
        network = build_network(spec.model, len(self.dataset.classes), spec.data.image_size, spec.seed)
        network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        networks = dict.fromkeys(sorted((m.network for m in missing), key=lambda name: name != "last"))
        groups = {which: by_attack(m for m in missing if m.network == which) for which in networks}
        far = MeasurementProgress(groups.values(), len(labels), spec.data.image_size)
        broken: list[MeasurementError] = []
        self._tell_of_slow({m.settings.precision for m in missing})
        for which, waiting in groups.items():
            try:
                chosen = state.network_of(which)
            except MeasurementError as error:
                self.log.warning(str(error))  # the plan tells of it
                for same in waiting:
                    far.add(same)
                continue
            network.load_state_dict(chosen["network"])
            network.eval()
            self._examples.clear()
            with frozen_parameters(network):  # quantized weights are transformed once, not at every step of an attack
                size, precisions = spec.data.image_size, {m.settings.precision for same in waiting for m in same}
                self.asked = as_measured(network, size)
                self._searched = {each: as_searched(network, size, each) for each in precisions}
                clean = CleanLogits(self.asked, images, spec.measurement.batch_size)  # of these weights
                while waiting:
                    same = waiting.pop(0)
                    epoch = chosen["epoch"]
                    try:
                        self._measure_together(attempt, network, same, images, labels, clean, epoch, far)
                    except Exception as error:  # what cannot be measured keeps nothing else from being measured
                        if ran_out_of_memory(error) or passes(error):
                            raise
                        if len(same) > 1 and isinstance(error, MeasurementError):
                            # Perhaps behind one of the filters alone.
                            waiting[:0] = [[measurement] for measurement in same]
                            continue
                        self.log.error(f"{same[0].name} of {which}: {type(error).__name__}: {error}")
                        broken.append(with_its_name(error, same[0].name))
                    far.add(same)
                    yield
        if broken:
            raise MeasurementError("; ".join(dict.fromkeys(map(str, broken)))) from broken[0].__cause__

    def _tell_of_slow(self, precisions: Iterable[str]) -> None:
        for note in filter(None, (slower_than_asked(each, self.device, "measurement") for each in precisions)):
            self.log.warning(note)

    def _measure_together(
        self,
        attempt: Attempt,
        network: nn.Module,
        same: list[PlannedMeasurement],
        images: Tensor,
        labels: Tensor,
        clean: CleanLogits,
        epoch: int,
        far: MeasurementProgress,
    ) -> None:
        first = same[0]
        self._check_lease()
        self._tell("measuring", far.done, far.total, first.name, share=far.share(same, 0.0))
        start = time.perf_counter()
        progress = self._progress(same, far)
        if first.kind == "analysis":
            inputs = AnalysisInputs(
                network, self.asked, images, labels, self.task.spec.seed, self.dataset.corrupted, self._examples
            )
            records = [analyse(first, inputs, progress)]
        elif first.made_on is not None:
            records = self._transfer(same, first.made_on, images, labels)
        else:
            records = self._attack(same, images, labels, clean, progress)
        seconds = time.perf_counter() - start
        self._check_lease()
        for record in records:
            record.meta.update(self._provenance(), seconds=seconds / len(same), network=first.network, epoch=epoch)
            attempt.save_record(record)
        self.log.info(f"measured {first.name} of {first.network} in {seconds:.3g} s")
        self._save_log(attempt)
        self._tell("measured", far.done + len(same), far.total, first.name, share=far.share(same, 1.0))

    def _progress(self, same: list[PlannedMeasurement], far: MeasurementProgress) -> Callable[[int, int], None]:
        """Tells how far a long measurement has come, now and then: that also says that it does not hang."""
        told = time.monotonic()

        def tell(part: int, whole: int) -> None:
            nonlocal told
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                text = f"{same[0].name} {100 * part // whole} %"
                self._tell("measuring", far.done, far.total, text, share=far.share(same, part / whole))

        return tell

    def _attack(
        self,
        same: list[PlannedMeasurement],
        images: Tensor,
        labels: Tensor,
        clean: CleanLogits,
        progress: Callable[[int, int], None],
    ) -> list[Record]:
        first = same[0]
        attack = build_attack(first.name, first.settings)
        if attack.reducible and first.settings.images is not None and first.settings.images < len(images):
            count = first.settings.images  # the order of test images mixes the classes
            clean = clean.of(torch.arange(count))
            images, labels = clean.images, labels[:count]
        asked: dict[str, Any] = {
            "seed": self.task.spec.seed,
            "batch_size": first.settings.batch_size,
            "filters": [m.filter for m in same],
            "adaptive": first.adaptive,
            "clean": clean,
            "search": self._searched[first.settings.precision],
            "progress": progress,
        }
        arrays: dict[Filter | None, dict[str, Any]]
        more: dict[Filter | None, dict[str, Any]] = {}
        if isinstance(attack, Ensemble):
            known = self._known(same, len(images))
            costs = [attack_cost(part) for part in attack.parts]
            withstood = evaluate_ensemble(self.asked, attack, images, labels, known=known, costs=costs, **asked)
            arrays = {seen: {"correct": each.correct, "broken_by": each.broken_by} for seen, each in withstood.items()}
            names = [part.name for part in attack.parts]
            for measurement in same:
                attacked = dict(zip(names, withstood[measurement.filter].attacked, strict=True))
                more[measurement.filter] = {"made_of": dict(measurement.parts), "attacked": attacked}
        else:
            correct = evaluate(self.asked, attack, images, labels, **asked)
            arrays = {seen: {"correct": right} for seen, right in correct.items()}
        records = []
        for measurement in same:
            seen = measurement.filter
            found = {name: values.cpu().numpy() for name, values in arrays[seen].items()}
            right = found["correct"] = found["correct"].astype(np.bool_)
            self._correct[measurement.key] = torch.from_numpy(right)
            accuracy = 100.0 * float(right.mean())
            meta = {**described(measurement, attack), "images": len(right), **more.get(seen, {})}
            records.append(Record(measurement.key, {"accuracy": accuracy}, found, meta))
        return records

    def _transfer(
        self, same: list[PlannedMeasurement], made_on: MadeOn, images: Tensor, labels: Tensor
    ) -> list[Record]:
        try:
            return transferred(same, made_on, self.asked, images, labels, len(self.dataset.classes), self.storage)
        except StorageError as error:  # the other training is gone: it costs this column alone
            self.log.warning(f"{same[0].name}: {error}")
            return []

    def _known(self, same: Iterable[PlannedMeasurement], count: int) -> dict[tuple[str, Filter | None], Tensor]:
        """What was found of a column's parts already, on the first images: part and filter -> [n] bool."""
        known = {}
        view = self.storage.view(self.task.key)
        for measurement in same:
            for name, key in measurement.parts:
                right = self._correct.get(key)
                if right is None:
                    record = self.storage.record(view, key)
                    stored = None if record is None else record.correct
                    right = None if stored is None else torch.from_numpy(stored)
                if right is not None:
                    known[name, measurement.filter] = right[:count]
        return known

    def _has(self) -> dict[str, Any]:
        """What it has for itself."""
        return {
            "device": self.device.type,
            "threads": self.task.threads,
            **({"trainings_per_process": self.task.together} if self.task.together > 1 else {}),
            **({"gpu_share": self.task.gpu_share} if self.task.gpu_share < 1 else {}),
        }

    def _provenance(self) -> dict[str, Any]:
        return {
            **self._has(),
            "device": "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "timestamp_ms": now_ms(),
        }


class _Log:
    """The training's log: kept in memory, stored with every checkpoint."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._logger = logging.Logger("ablate.execution.worker")
        self._logger.addHandler(handler)
        self.info, self.warning, self.error = self._logger.info, self._logger.warning, self._logger.error

    def text(self) -> str:
        return self._stream.getvalue()
