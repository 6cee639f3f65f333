"""What torch.compile leaves in a process, which belongs to several trainings at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_with_compiled_code = 0
"""Trainings of this process that compile and have not ended."""

_limits = [0, 0]
"""torch's own on recompilation: of one function, and of all code made from it."""


@contextmanager
def compiled_code(compiles: bool) -> Iterator[None]:
    """Around a training that compiles: what earlier ones compiled is dropped before the first and after the last.

    It counts against torch's limits on recompilation, and it outlives its network. Each of several trainings in turn
    compiles a folded network of its own, so that the limits grow with them: what is beyond runs uncompiled.
    """
    global _with_compiled_code
    if not compiles:
        yield
        return
    import torch._dynamo.config as limits  # takes seconds

    if not _with_compiled_code:
        torch.compiler.reset()
        _limits[:] = limits.recompile_limit, limits.accumulated_recompile_limit
    _with_compiled_code += 1
    each, all_together = _limits
    limits.recompile_limit = max(limits.recompile_limit, each * _with_compiled_code)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, all_together * _with_compiled_code)
    try:
        yield
    finally:
        _with_compiled_code -= 1
        if not _with_compiled_code:
            torch.compiler.reset()
            limits.recompile_limit, limits.accumulated_recompile_limit = _limits


def forget_unless_shared() -> None:
    """Drop what was compiled, where no training inside `compiled_code` needs it."""
    if not _with_compiled_code:
        torch.compiler.reset()
