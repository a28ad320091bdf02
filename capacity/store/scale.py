"""What a store of many rows costs: seconds and memory to open it, to ask for keys, to read, to append, to compact."""

import contextlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from capacity.store.schema import NULLABLE, SCHEMA
from capacity.store.shards import write

_PART = 50_000  # rows written at once
_WIDTH = 64  # numbers of a vector
_PLAIN = {pl.String: "a", pl.Int32: 1, pl.Int64: 1, pl.Float64: 0.5, pl.Boolean: True}


def keys(n: int, *, seed: int = 0) -> list[str]:
    """Return n keys as cells have them, 32 hex digits, always the same."""
    return [row.tobytes().hex() for row in np.random.default_rng(seed).integers(0, 256, (n, 16), dtype=np.uint8)]


def rows(names: list[str]) -> pl.DataFrame:
    """Return one row a key (columns: SCHEMA): random vectors and bits, which do not compress, all else alike."""
    draw, n = np.random.default_rng(len(names)), len(names)
    plain = {name: None if name in NULLABLE else _PLAIN[type(dtype)] for name, dtype in SCHEMA.items()}
    own = {
        "key": names, "probe": [0] * n, "status": ["solved"] * n, "bits_with": draw.random(n),
        "seconds": draw.random(n), "mem": draw.standard_normal((n, _WIDTH), dtype=np.float32),
    }  # fmt: skip
    return pl.DataFrame(
        {
            name: pl.Series(name, own[name], dtype=dtype) if name in own else pl.Series(name, [plain[name]] * n, dtype)
            for name, dtype in SCHEMA.items()
        }
    )


def _open(store: Any, n_rows: int) -> int:
    return len(store.missing([keys(1)[0], "nowhere"]))


def _keys(store: Any, n_rows: int) -> int:
    return len(store.keys())


def _read(store: Any, n_rows: int) -> int:
    return store.read(keys=keys(min(n_rows, 1000))).height


def _append(store: Any, n_rows: int) -> int:
    store.append(rows(keys(100, seed=1)).to_dicts())
    store.flush()
    return len(store.missing(keys(100, seed=1)))


def _compact(store: Any, n_rows: int) -> int:
    store.compact()
    return 0


ACTS: dict[str, Callable[[Any, int], int]] = {
    "open, ask for one key": _open, "ask for all keys": _keys, "read 1000 cells": _read,
    "append 100 rows": _append, "compact": _compact,
}  # fmt: skip


def _peak_bytes() -> int:
    """Return the most resident memory of this process since it began; where /proc does not say, of its parent, too."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _timed(make: Callable[[Path], Any], path: Path, act: str, n_rows: int) -> tuple[float, float, int, int]:
    before, started, spent = _peak_bytes(), time.perf_counter(), time.process_time()
    count = ACTS[act](make(path), n_rows)
    return time.perf_counter() - started, time.process_time() - spent, _peak_bytes() - before, count


def at_scale(make: Callable[[Path], Any], n_rows: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each of ACTS costs a process of its own on a store of n rows, made anew in a folder.

    make: Store. Fields: n_rows, act, seconds, processor_seconds, n_bytes (of memory, above what was taken before the
    act, at the peak), count (what the act counted).
    """
    names = keys(n_rows)
    for start in range(0, n_rows, _PART):
        write(folder, rows(names[start : start + _PART]))
    context = multiprocessing.get_context("spawn")
    for act in ACTS:
        with context.Pool(1) as pool:
            seconds, spent, n_bytes, count = pool.apply(_timed, (make, folder, act, n_rows))
        yield {
            "n_rows": n_rows, "act": act, "seconds": seconds, "processor_seconds": spent, "n_bytes": n_bytes,
            "count": count,
        }  # fmt: skip
