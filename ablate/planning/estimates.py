"""How long a plan will take on this machine: by trainings of before, by `ablate.bench`, or by a quick calibration."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ablate.core.errors import place_of
from ablate.core.text import duration, hours, named_line, plural, row_name
from ablate.learning.cost import STEP_COST, attack_steps, forward_flops, image_cost, measurement_cost
from ablate.learning.models import build_network
from ablate.learning.monitoring import PROBE_IMAGES
from ablate.planning.plan import Plan, PlannedTraining
from ablate.spaces.networks import AverageName
from ablate.spaces.specs import ModelSpec, TrainingSpec, TrialSpec
from ablate.storage.checksums import read_json
from ablate.storage.speeds import kind_of, known_speeds, mode_of
from ablate.storage.storage import Storage

DAY_S = 86_400.0
MOST_EXAMPLES = 20
"""So many stored trainings are read at most to learn how fast this machine is."""

BUSY_SHARE = 0.75
"""Of a machine's cores: wanted by more than that, it is busy."""

_CALIBRATION_S = 0.3
_CALIBRATION_MOST_S = 5.0  # on a machine so busy that this process hardly runs
_ASSUMED_GPU_FLOPS = 1e12  # where no calibration can be had: slow, so that nobody is surprised


@dataclass(frozen=True)
class Estimate:
    """What is left of a plan would take.

    Args:
        work_s: Seconds of this machine's whole capacity (all its CPU cores, or one GPU).
        gpus: Of this machine; 0: it trains on its CPU.
        cores: CPU cores of this machine.
        device: What it would train on.
        basis: What the numbers rest on.
        guessed: Whether a calibration stands in for what nobody has measured yet.
        load: Processes that want this machine's cores now, where they are enough to be in the way; 0: few.
        remarks: What could not be estimated, a line each.
    """

    work_s: float
    gpus: int
    cores: int
    device: str
    basis: str
    guessed: bool = False
    load: float = 0.0
    remarks: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """From start to end, in seconds, on this machine."""
        return self.work_s / max(1, self.gpus)

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together; 0 on a machine without."""
        return self.device_hours if self.gpus else 0.0

    @property
    def device_hours(self) -> float:
        """Hours of all GPUs together; on a machine without, of all its cores."""
        return self.work_s / 3600 * self._devices

    @property
    def _devices(self) -> int:
        """How many of what hours are counted by `work_s` keeps busy: it is of one GPU, or of all cores."""
        return 1 if self.gpus else self.cores

    def taking(self, hours: float, basis: str) -> Estimate:
        """The same machine with another amount of work.

        Args:
            hours: As of `device_hours`.
            basis: What they rest on.
        """
        return replace(self, work_s=hours * 3600 / self._devices, basis=basis)

    def sentence(self) -> str:
        """The estimate in words."""
        if not self.work_s and self.remarks:
            return "estimated time: unknown"
        if not self.work_s:
            return "estimated time: none, everything is there"
        if self.gpus:
            here = f"{plural(self.gpus, 'GPU')}, {self.device}"
            cost = f"{hours(self.work_s)} GPU-hours"
        else:
            here = f"{plural(self.cores, 'CPU core')}, no GPU"
            cost = f"0 GPU-hours, {hours(self.work_s * self.cores)} core-hours"
        busy = f"; other work keeps it busy now (load {self.load:.0f}): longer by that" if self.load else ""
        return f"estimated time: {duration(self.wall_s)} on this machine ({here}); {cost}; {self.basis}{busy}."

    def as_json(self) -> dict[str, Any]:
        """The estimate as plain data."""
        return {
            "seconds": self.wall_s,
            "gpu_hours": self.gpu_hours,
            "core_hours": 0.0 if self.gpus else self.device_hours,
            "device": self.device,
            "gpus": self.gpus,
            "basis": self.basis,
            "load": self.load,
            "remarks": list(self.remarks),
        }


def estimate(plan: Plan, storage: Storage) -> Estimate:
    """What is left of a plan would take on this machine.

    Args:
        plan: With its actions decided.
        storage: Where earlier trainings tell how fast this machine is.

    Returns:
        The estimate; the time of trainings that other launches hold is not in it.
    """
    gpus = torch.cuda.device_count()
    cores = os.cpu_count() or 1
    device = _gpu_name() if gpus else "cpu"
    counts = {planned.training: planned.data for planned in plan.trials}
    spaces = [space.name for space in plan.spaces]
    work, remarks = {}, []
    for key, training in plan.trainings.items():
        if training.action in ("train", "continue"):
            try:
                flops = work_flops(training, counts[key].train_count, counts[key].test_count, counts[key].classes)
            except Exception as error:  # the user's own code, which may yet do where it is trained
                rows = ", ".join(row_name(row, spaces) for row in dict.fromkeys(training.rows))
                what = f"{named_line(error)}{place_of(error)}"
                remarks.append(f"{rows}: cannot be estimated, its network fails on an empty image: {what}")
                continue
            if flops > 0:
                work[key] = flops
    if not work:
        return Estimate(0.0, gpus, cores, device, "nothing to do", remarks=tuple(remarks))
    known = measured_speed(storage, (plan.trainings[key] for key in work), device, cores)
    benched = known_speeds(storage.files, device, cores)
    calibrated: dict[int, float] = {}
    guessed: dict[int, float] = {}  # batch size -> operations
    seconds = 0.0
    bases: Counter[str] = Counter()
    for key, flops in work.items():
        spec = plan.trainings[key].spec
        batch = spec.training.batch_size
        trained, timed = known.get(_kind_trained(spec)), benched.get(kind_of(spec.model, spec.training))
        if trained:
            seconds += flops / speed_at(trained, batch, gpu=bool(gpus))
            bases["by the speed of trainings in storage"] += 1
        elif timed:
            seconds += flops / speed_at(timed, batch, gpu=bool(gpus))
            bases["by ablate.bench"] += 1
        else:
            guessed[batch] = guessed.get(batch, 0.0) + flops
            bases["by a quick calibration"] += 1
    if guessed:
        calibrated = calibrated_speeds(bool(gpus), sorted(guessed))
        seconds += sum(flops / calibrated[batch] for batch, flops in guessed.items())
    if len(bases) == 1:
        basis = next(iter(bases))
    else:
        basis = ", ".join(f"{count} of {plural(len(work), 'training')} {basis}" for basis, count in bases.most_common())
    load = 0.0 if gpus else load_of_others(cores)
    return Estimate(seconds, gpus, cores, device, basis, bool(guessed), load, tuple(remarks))


def speed_at(measured: Mapping[int, float], batch: int, *, gpu: bool) -> float:
    """How fast trainings are in batches of a size, by what was measured in batches of others: at least so fast.

    Args:
        measured: Batch size -> operations per second; of one at least.
        batch: Images.
        gpu: Whether on a GPU, where a step of fewer images may take as long as one of more: it waits for kernels to be
            launched. On a CPU the size hardly matters.
    """
    if batch in measured:
        return measured[batch]
    if not gpu:
        return measured[min(measured, key=lambda size: abs(math.log(size / batch)))]
    return max(speed * min(1.0, batch / size) for size, speed in measured.items())


def load_of_others(cores: int) -> float:
    """How many processes want this machine's cores, over the last minute.

    Args:
        cores: Of this machine.

    Returns:
        Their number where it leaves a launch less than a quarter of the cores, else 0; 0 also where nobody can tell.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 0.0
    return load if load > BUSY_SHARE * cores else 0.0


def _gpu_name() -> str:
    # torch would open a CUDA context in this process to tell.
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "GPU"


def measured_speed(
    storage: Storage, trainings: Iterable[PlannedTraining], device: str, cores: int
) -> dict[tuple[str, str], dict[int, float]]:
    """How fast networks were trained on this kind of device before.

    Args:
        storage: Where the trainings are.
        trainings: What is planned; trainings of the same network are looked for.
        device: The device's name, `cpu` for any CPU.
        cores: Of this machine; what was trained with fewer threads counts in proportion.

    Returns:
        Network and mode of training (`mode_of`) -> batch size -> operations per second, the median over what was found.
    """
    wanted = {_kind_trained(training.spec) for training in trainings}
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    read = 0
    for key in reversed(storage.keys()):
        if read >= MOST_EXAMPLES:
            break
        identity = _identity(storage, key)
        kind = _kind(identity)
        if kind not in wanted:
            continue
        read += 1
        view = storage.view(key)
        record = next((made for name in view.records if (made := storage.record(view, name)) is not None), None)
        rates = [entry["metrics"].get("images_per_second") for entry in storage.history(key)]
        rates = [rate for rate in rates if rate and math.isfinite(rate)]
        if record is None or not rates or str(record.meta.get("device", "cpu")) != device:
            continue
        share = min(1.0, int(record.meta.get("threads", cores)) / cores) if device == "cpu" else 1.0
        share /= int(record.meta.get("trainings_per_process", 1))  # those beside it had their turns
        flops = _flops_per_image(identity)
        if flops:
            batch = int(identity["training"]["batch_size"])
            speeds = found.setdefault(kind, {}).setdefault(batch, [])
            speeds.append(sorted(rates)[len(rates) // 2] * flops / share)
    return {
        kind: {batch: sorted(speeds)[len(speeds) // 2] for batch, speeds in by_batch.items()}
        for kind, by_batch in found.items()
    }


def _identity(storage: Storage, key: str) -> dict[str, Any]:
    content = storage.files.read(f"{key}/training.json")
    try:
        found = read_json(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _kind_trained(spec: TrialSpec) -> tuple[str, str]:
    return spec.model.arch, mode_of(spec.training.precision, spec.training.compile)


def _kind(identity: Mapping[str, Any]) -> tuple[str, str]:
    training = identity.get("training", {})
    mode = mode_of(training.get("precision", "float32"), training.get("compile", False))
    return str(identity.get("model", {}).get("arch")), mode


_COUNTED = ("attack", "objective", "awp")
"""Settings of training that tell how often an image passes through the network."""


def _flops_per_image(identity: Mapping[str, Any]) -> float | None:
    settings = identity["model"]
    try:
        model = ModelSpec.model_validate({name: settings[name] for name in ("arch", "width", "depth")})
        known = {name: identity["training"][name] for name in _COUNTED if name in identity["training"]}
        spec = TrialSpec(training=TrainingSpec.model_validate(known))
        size = int(identity["data"]["image_size"])
        return forward_flops(model, size, 10) * image_cost(spec)
    except Exception:  # another version's, or the user's network of another day
        return None


def calibrated_speeds(gpu: bool, batches: Sequence[int]) -> dict[int, float]:
    """Operations per second of this machine, measured for a moment on a small network.

    Args:
        gpu: Whether to measure a GPU; in a process of its own, since a CUDA context would stay in this one.
        batches: In batches of so many images.

    Returns:
        Batch size -> operations per second; on a CPU the size plays no part.
    """
    if not gpu:
        return dict.fromkeys(batches, measure_core() * (os.cpu_count() or 1))
    code = (
        "import torch; from ablate.planning import estimates; "
        "torch.backends.cudnn.allow_tf32 = False; "  # as in a worker
        f"print(*(estimates._measure_gpu(batch) for batch in {list(batches)!r}))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        speeds = [float(word) for word in done.stdout.splitlines()[-1].split()]
        return dict(zip(batches, speeds, strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return dict.fromkeys(batches, _ASSUMED_GPU_FLOPS)


def _measure_gpu(batch: int) -> float:
    step, work = calibration_step(torch.device("cuda"), batch)
    start, steps = time.perf_counter(), 0
    while steps < 2 or (time.perf_counter() - start < _CALIBRATION_S and steps < 50):
        step()
        torch.cuda.synchronize()
        steps += 1
    return steps * work / (time.perf_counter() - start)


@functools.cache
def measure_core() -> float:
    """Operations per second of one core, in time that it was this process's: others do not count.

    Measured once: a notebook or a queue plans many times.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step, work = calibration_step(torch.device("cpu"), 8)
        start = time.perf_counter()
        taken: list[float] = []
        while len(taken) < 2 or (
            sum(taken) < _CALIBRATION_S and len(taken) < 50 and time.perf_counter() - start < _CALIBRATION_MOST_S
        ):
            before = time.thread_time()
            step()
            taken.append(time.thread_time() - before)
    finally:
        torch.set_num_threads(threads)
    return work / max(min(taken), 1e-9)


def calibration_step(device: torch.device, batch: int) -> tuple[Callable[[], object], float]:
    """A step of an attack on a small network, done once before, and its operations."""
    model = ModelSpec()
    size = 32
    network = build_network(model, 10, size, 0).to(device)
    images = torch.rand(batch, 3, size, size, device=device, requires_grad=True)

    def step() -> object:
        return torch.autograd.grad(network(images).sum(), images)

    step()
    return step, batch * STEP_COST * forward_flops(model, size, 10)


def work_flops(training: PlannedTraining, train_count: int, test_count: int, classes: int) -> float:
    """What is left of a training with its measurements, in floating-point operations.

    Args:
        training: Decided.
        train_count: Training images, those held out for validation included.
        test_count: Test images.
        classes: Of the data.
    """
    spec = training.spec
    forward = forward_flops(spec.model, spec.data.image_size, classes)
    held_out = round(train_count * spec.held_out)
    attack = attack_steps(spec.training.attack)
    epochs = 0 if training.view and training.view.finished else max(0, spec.epochs - max(0, training.epoch))
    epoch = (train_count - held_out) * image_cost(spec)
    averages = {str(replace(name, best=False)) for name in map(AverageName.parse, training.keep) if name is not None}
    epoch += min(PROBE_IMAGES, train_count) * 2 + (1 + len(averages)) * held_out * (2 + STEP_COST * attack)
    done = {}
    for key, measurement in training.measurements.items():
        if key not in (training.missing or training.measurements if epochs else training.missing):
            continue
        # Filters of one unaware attack share its examples.
        what = (measurement.name, measurement.network, measurement.filter if measurement.adaptive else None)
        done[what] = measurement_cost(measurement, test_count, spec.data.image_size)
    return forward * (epochs * epoch + sum(done.values()))
