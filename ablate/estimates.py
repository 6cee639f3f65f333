"""How long a plan will take on this machine: by trainings of before, by `ablate.bench`, or by a quick calibration."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ablate.learning.models import build_network
from ablate.options import Options, ray_address
from ablate.planning import Plan, PlannedTraining
from ablate.specs import ModelSpec, TrainingAttackSpec, TrialSpec
from ablate.speed.known import kind_of, known_speeds, mode_of
from ablate.storage import Storage
from ablate.terminal import duration, hours, plural
from ablate.work import STEP_COST, UPDATE_COST, attack_steps, forward_flops, work_flops

DAY_S = 86_400.0
MOST_EXAMPLES = 20
"""So many stored trainings are read at most to learn how fast this machine is."""

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
    """

    work_s: float
    gpus: int
    cores: int
    device: str
    basis: str

    @property
    def wall_s(self) -> float:
        """From start to end, in seconds, on this machine."""
        return self.work_s / max(1, self.gpus)

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together; 0 on a machine without."""
        return self.work_s / 3600 if self.gpus else 0.0

    def sentence(self) -> str:
        """The estimate in words."""
        if not self.work_s:
            return "estimated time: none, everything is there"
        if self.gpus:
            here = f"{plural(self.gpus, 'GPU')}, {self.device}"
            cost = f"{hours(self.work_s)} GPU-hours"
        else:
            here = f"{plural(self.cores, 'CPU core')}, no GPU"
            cost = f"0 GPU-hours, {hours(self.work_s * self.cores)} core-hours"
        return f"estimated time: {duration(self.wall_s)} on this machine ({here}); {cost}; {self.basis}."

    def as_json(self) -> dict[str, Any]:
        """The estimate as plain data."""
        return {
            "seconds": self.wall_s,
            "gpu_hours": self.gpu_hours,
            "core_hours": 0.0 if self.gpus else self.work_s / 3600 * self.cores,
            "device": self.device,
            "gpus": self.gpus,
            "basis": self.basis,
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
    work = {
        key: work_flops(training, counts[key].train_count, counts[key].test_count, counts[key].classes)
        for key, training in plan.trainings.items()
        if training.action in ("train", "continue")
    }
    work = {key: flops for key, flops in work.items() if flops > 0}
    if not work:
        return Estimate(0.0, gpus, cores, device, "nothing to do")
    known = measured_speed(storage, (plan.trainings[key] for key in work), device, cores)
    benched = known_speeds(storage.files, device, cores)
    calibrated = None
    seconds = 0.0
    bases: Counter[str] = Counter()
    for key, flops in work.items():
        spec = plan.trainings[key].spec
        trained, timed = _kind_trained(spec), kind_of(spec.model, spec.training)
        if trained in known:
            speed, basis = known[trained], "by the speed of trainings in storage"
        elif timed in benched:
            speed, basis = benched[timed], "by ablate.bench"
        else:
            calibrated = calibrated or calibrated_speed(bool(gpus))
            speed, basis = calibrated, "by a quick calibration"
        seconds += flops / speed
        bases[basis] += 1
    if len(bases) == 1:
        basis = next(iter(bases))
    else:
        basis = ", ".join(f"{count} of {len(work)} trainings {basis}" for basis, count in bases.most_common())
    return Estimate(seconds, gpus, cores, device, basis)


def runs_here(options: Options) -> bool:
    """Whether a launch would run on this machine, and not on a cluster."""
    return options.cluster is None and (options.local or ray_address() is None)


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
) -> dict[tuple[str, str], float]:
    """How fast networks were trained on this kind of device before.

    Args:
        storage: Where the trainings are.
        trainings: What is planned; trainings of the same network are looked for.
        device: The device's name, `cpu` for any CPU.
        cores: Of this machine; what was trained with fewer threads counts in proportion.

    Returns:
        Network and mode of training (`mode_of`) -> operations per second, the median over what was found.
    """
    wanted = {_kind_trained(training.spec) for training in trainings}
    found: dict[tuple[str, str], list[float]] = {}
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
        flops = _flops_per_image(identity)
        if flops:
            found.setdefault(kind, []).append(sorted(rates)[len(rates) // 2] * flops / share)
    return {kind: sorted(speeds)[len(speeds) // 2] for kind, speeds in found.items()}


def _identity(storage: Storage, key: str) -> dict[str, Any]:
    content = storage.files.read(f"{key}/training.json")
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _kind_trained(spec: TrialSpec) -> tuple[str, str]:
    return spec.model.arch, mode_of(spec.training.precision, spec.training.compile)


def _kind(identity: Mapping[str, Any]) -> tuple[str, str]:
    training = identity.get("training", {})
    mode = mode_of(training.get("precision", "float32"), training.get("compile", False))
    return str(identity.get("model", {}).get("arch")), mode


def _flops_per_image(identity: Mapping[str, Any]) -> float | None:
    settings = identity["model"]
    try:
        model = ModelSpec.model_validate({name: settings[name] for name in ("arch", "width", "depth")})
        attack = TrainingAttackSpec.model_validate(identity["training"]["attack"])
        size = int(identity["data"]["image_size"])
        return forward_flops(model, size, 10) * (STEP_COST * attack_steps(attack) + UPDATE_COST)
    except (ValueError, KeyError, TypeError):  # another version's
        return None


def calibrated_speed(gpu: bool) -> float:
    """Operations per second of this machine, measured for a moment on a small network.

    Args:
        gpu: Whether to measure a GPU; in a process of its own, since a CUDA context would stay in this one.

    Returns:
        Operations per second.
    """
    if not gpu:
        return _measure(torch.device("cpu"), 8)
    code = (
        "import torch; from ablate import estimates; torch.backends.cudnn.allow_tf32 = False; "  # as in a worker
        "print(estimates._measure(torch.device('cuda'), 512))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return _ASSUMED_GPU_FLOPS


def _measure(device: torch.device, batch: int) -> float:
    model = ModelSpec()
    size = 32
    network = build_network(model, 10, size, 0).to(device)
    images = torch.rand(batch, 3, size, size, device=device, requires_grad=True)

    def step() -> None:
        torch.autograd.grad(network(images).sum(), images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    start, steps = time.perf_counter(), 0
    while steps < 2 or (time.perf_counter() - start < 0.3 and steps < 50):
        step()
        steps += 1
    seconds = time.perf_counter() - start
    return steps * batch * STEP_COST * forward_flops(model, size, 10) / seconds
