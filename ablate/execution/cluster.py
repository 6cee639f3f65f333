"""The connection to Ray, and what its nodes have: the cluster of `RAY_ADDRESS`, or one started for this launch."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from ablate.core.errors import UserError
from ablate.core.text import plural, reason_of
from ablate.execution import local_ray, ray_head
from ablate.execution.addresses import ray_address

# Before Ray is imported: it reads these once. Its own progress tables and signal handler would fight with ours.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # pages about each lost process, printed past all loggers

# Workers report more than epochs, which early stopping does not judge.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")

# How long a worker whose training was stopped waits for its thread to end before it is used again. After Ray's own two
# seconds, in which a slow storage may not have taken the log, the next training would end as if it had been lost.
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")

import ray

ANSWER_S = 10.0
"""How long a cluster may take to accept a connection."""

NODE_WAIT_S = 1.0
"""How often a launch looks for the first node of a cluster that is still starting."""


@contextlib.contextmanager
def cluster(note: Callable[[str], None] = print) -> Iterator[None]:
    """A connection to Ray: the cluster that `RAY_ADDRESS` names, or one started here for this launch.

    Args:
        note: Told that its head is gone.

    Raises:
        UserError: The cluster does not answer.
        HeadLost: Its head is gone.
    """
    if ray.is_initialized():
        with ray_head.watching(ray.get_runtime_context().gcs_address, note):
            yield
        return
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune's tracebacks of lost processes: what was lost and why is told by our own lines.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    address = ray_address()
    with contextlib.ExitStack() as stack:
        check_cluster()
        # Without an address Ray would join any cluster that somebody else has started on this machine.
        options = {} if address else stack.enter_context(local_ray.sheltered())
        try:
            ray.init(logging_level="ERROR", log_to_driver=False, **options)
        except Exception as error:  # whatever keeps Ray from starting, it is told in a line
            if address is None:
                why = local_ray.why_not_started(error)
                raise UserError(
                    f"expected Ray to start on this machine, got: {why}; --local does without it"
                ) from error
            raise _unanswered(address, error) from error
        stack.callback(ray.shutdown)
        stack.enter_context(ray_head.watching(ray.get_runtime_context().gcs_address, note))
        yield


def check_cluster() -> None:
    """Refuse a `RAY_ADDRESS` where nobody listens: Ray itself would try for a minute.

    Raises:
        UserError: Nobody answers there.
    """
    address = ray_address()
    parts = urlsplit(address if "://" in (address or "") else f"//{address or ''}")
    try:
        host, port = str(parts.hostname or ""), parts.port
    except ValueError as error:
        raise UserError(f"RAY_ADDRESS: expected an address like head:6379, got {address!r}: {error}") from error
    if address is None or not host or not port:
        return
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            pass
    except OSError as error:
        raise _unanswered(address, error) from error


def check_folder() -> None:
    """Refuse a temporary folder in which the Ray that a launch would start here has no room for its sockets.

    Raises:
        UserError: There is none.
    """
    if ray_address() is None and not ray.is_initialized():
        local_ray.session_folder()


def _unanswered(address: str, error: Exception) -> UserError:
    why = reason_of(error)
    return UserError(f"RAY_ADDRESS: expected a Ray cluster at {address}, got no answer: {why}")


def share(trainings: int, cpus: int | None, gpus: float | None, say: Callable[[str], None]) -> tuple[int, float]:
    """What each training gets of the connected cluster.

    Args:
        trainings: How many there are in the plan.
        cpus: As asked for; None: an equal share, as long as a node has so many.
        gpus: As asked for; None: one where there are any.
        say: Told when this has to wait for a node.

    Raises:
        UserError: More than any node of a cluster started here has: it would wait for ever.
    """
    nodes = _nodes()
    if not nodes:
        say("The cluster has no node for trainings yet; waiting for the first.")
    while not nodes:
        time.sleep(NODE_WAIT_S)
        nodes = _nodes()
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
    if cpus is None:
        fitting = [node for node in nodes if node.get("GPU", 0) >= gpus] or nodes
        # The largest node, not the cluster: a training that asks for more than a node has is never placed.
        largest = max(node["CPU"] for node in fitting)
        cpus = max(1, int(min(sum(node["CPU"] for node in nodes) // trainings, largest)))
    if not _fits(nodes, cpus, gpus):
        if ray_address() is None:
            raise _too_much(nodes, cpus, gpus)
        there = _largest(nodes)
        asked = f"{plural(cpus, 'CPU')} and {plural(gpus, 'GPU')}"
        say(f"No node has {asked} (the largest: {there}); waiting for the cluster to add one.")
    return cpus, gpus


def check_share(cpus: int | None, gpus: float | None) -> None:
    """Refuse what no node of the Ray that a launch would start here could place; nothing is started.

    Args:
        cpus: As asked for.
        gpus: As asked for.

    Raises:
        UserError: As of `share`.
    """
    if (cpus is None and not gpus) or ray_address() is not None:
        return
    nodes = _nodes() if ray.is_initialized() else [_this_machine()]
    if nodes and not _fits(nodes, cpus or 1, gpus or 0.0):
        raise _too_much(nodes, cpus or 1, gpus or 0.0)


def _this_machine() -> dict[str, float]:
    import torch
    from ray._private.utils import get_num_cpus

    # As many cores as Ray will count, by a container's limits too.
    return {"CPU": get_num_cpus(override_docker_cpu_warning=True), "GPU": torch.cuda.device_count()}


def _fits(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> bool:
    return any(node["CPU"] >= cpus and node.get("GPU", 0) >= gpus for node in nodes)


def _largest(nodes: Sequence[Mapping[str, float]]) -> str:
    most = max(nodes, key=lambda node: (node.get("GPU", 0), node["CPU"]))
    return f"{plural(most['CPU'], 'CPU')} and {plural(most.get('GPU', 0), 'GPU')}"


def _too_much(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> UserError:
    most = _largest(nodes)
    return UserError(
        f"expected --cpus-per-trial and --gpus-per-trial within this machine's {most}, got {cpus} and {gpus:g}"
    )


def has_gpus() -> bool:
    """Whether a node of the connected cluster has a GPU."""
    return any(node.get("GPU", 0) for node in _nodes())


def gpu_count() -> int:
    """GPUs of the connected cluster."""
    return int(sum(node.get("GPU", 0) for node in _nodes()))


def _nodes() -> list[dict[str, float]]:
    """Resources of the nodes that take trainings; a cluster's head often takes none."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
