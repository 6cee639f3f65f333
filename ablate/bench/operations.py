"""How many operations the host hands to the device: what small networks on a fast device wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Another view of the same memory computes nothing, nor does the profiler's own.
        self.count += bool(not func.is_view and func.namespace == "aten")
        return func(*args, **(kwargs or {}))


def operations_of(work: Callable[[], Any]) -> int:
    """Operations of torch in a piece of work; replaying a graph is none, filling what it reads one for each.

    Args:
        work: Done once; not compiled, which would compile anew for the count.
    """
    counting = _Counting()
    with counting:
        work()
    return counting.count
