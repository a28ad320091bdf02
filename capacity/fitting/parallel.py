"""How many threads a model's fits run on: chosen by model and machine, once for commands, notebooks and API."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from capacity.models import Frozen

SMALL = 10_000_000  # parameters; below, one thread is as fast alone, and far faster where the processor is shared


def threads_for(frozen: Frozen, most: int | None = None) -> int:
    """Return 1 for a small model, else this process's processors; $CAPACITY_THREADS overrides, a GPU changes nothing.

    most: of the processors, where others have the rest.

    OMP_NUM_THREADS does not hold: it is set to 1 for the sake of small models. Raises ValueError where
    $CAPACITY_THREADS is no whole number above 0.
    """
    given = os.environ.get("CAPACITY_THREADS")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"CAPACITY_THREADS is {given!r}; a whole number above 0 is needed")
        return int(given)
    if frozen.device.type != "cpu":
        return torch.get_num_threads()
    if frozen.model.num_parameters() < SMALL:
        return 1
    return min(processors(), most or processors())


def processors() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(frozen: Frozen, most: int | None = None) -> Iterator[None]:
    """Run what is inside on as many threads as `threads_for` says, then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_for(frozen, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)
