"""How much memory a device has, and what says that it ran out."""

import contextlib
import os
import re
from pathlib import Path

import torch

# CUDA, its driver, HIP, XPU and MPS; processors (two systems); cuBLAS, cuDNN and their like; MPS; SYCL.
_TEXTS = re.compile(
    "out of memory|can't allocate memory|not enough memory|_STATUS_ALLOC_FAILED|invalid buffer size"
    "|OUT_OF_(DEVICE|HOST)_MEMORY|ErrorOutOfMemory|ErrorMemoryAllocation",
    re.IGNORECASE,
)
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroups 2 and 1


def total_bytes(device: torch.device) -> int:
    """Return the memory of a device: of the whole GPU, or of the machine, or what this container may take of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            total = min(total, int(limit.read_text()))
    return total


def is_exhausted(error: BaseException) -> bool:
    """Return whether an exception, or one that it came from, says that memory ran out, of a GPU or of the machine.

    Most have no type of their own: allocators, drivers, libraries and compilers say it each in other words. What a
    graph's recording raises after it says no more than that something went wrong before.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and _TEXTS.search(str(error)):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_exhausted(before)
