"""Workers of a Ray cluster that hold a model and measure cells, and the way to a cluster."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from math import ceil, floor
from typing import Any

from capacity import fitting
from capacity.models import Frozen
from capacity.sweep import engines, rows
from capacity.sweep.experiment import Cell

_OBJECT_STORE_BYTES = 2**27  # of a cluster of our own: rows on their way
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",  # said here
}


class Worker:
    """A process that holds the model of the cells that it was given last."""

    def __init__(self, n_processors: int, compile: bool | str):
        self._n_processors, self._compile = n_processors, compile
        self._frozen: Frozen | None = None
        self._loaded: tuple = ()

    def ready(self) -> int:
        """Return the process's id, once it is there."""
        return os.getpid()

    def measure(self, cells: list[Cell]) -> Iterator[list[dict]]:
        """Yield the rows of each cell as it ends; the cells are of one model."""
        experiment = cells[0].experiment
        if self._frozen is None or self._loaded != experiment.loaded:
            self._frozen = None  # before the next takes memory
            self._frozen, self._loaded = experiment.load(), experiment.loaded
        engines.check(self._frozen, cells)
        with fitting.threads(self._frozen, most=self._n_processors):
            yield from rows.run(self._frozen, cells, compile=self._compile)


def share(n_processors: int, n_gpus: int, jobs: int | None) -> tuple[int, int | float, float]:
    """Return how many workers there are, and what each asks for of processors and of a GPU.

    Without `jobs` one a GPU, or without GPUs one a processor.

    >>> share(16, 4, None), share(16, 4, 8), share(16, 0, 4), share(1, 0, 2)
    ((4, 4, 1.0), (8, 2, 0.5), (4, 4, 0.0), (2, 0.5, 0.0))
    """
    n_workers = jobs or n_gpus or n_processors
    gpu = floor(1e4 / ceil(n_workers / n_gpus)) / 1e4 if n_gpus else 0.0  # Ray counts in ten-thousandths
    return n_workers, n_processors // n_workers or n_processors / n_workers, gpu


def check() -> None:
    """Raise ValueError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "engine 'ray' needs Ray, which is not installed: pip install 'mem-capacity[ray]', or choose 'local'"
        ) from error


@contextlib.contextmanager
def connected(jobs: int | None) -> Iterator[Any]:
    """Give `ray`, connected to what runs already, to the cluster at $RAY_ADDRESS, or to this machine's processors."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        named = {name: value for name, value in os.environ.items() if name.startswith("CAPACITY_")}
        options["runtime_env"] = {"env_vars": named}
    else:
        options |= {
            "num_cpus": max(fitting.processors(), jobs or 1), "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }  # fmt: skip
    before = signal.getsignal(signal.SIGTERM)
    ray.init(**options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray leaves with 15
    try:
        yield ray
    finally:
        ray.shutdown()
