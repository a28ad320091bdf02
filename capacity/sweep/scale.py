"""How a sweep scales: workers by a virtual clock, real ones of Ray whose cells are sleep; and what was foretold."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capacity import fitting
from capacity.store import Claims, Store, synthetic_keys, synthetic_rows
from capacity.sweep import cluster, engines, estimate, progress, workers
from capacity.sweep.experiment import Cell, Experiment, cells
from capacity.sweep.pulling import simulate
from capacity.texts import Text

_KINDS = 10  # models of the simulated cells


class Sleeper:
    """A worker that sleeps for each cell, and gives a row of no meaning."""

    def __init__(self, n_processors: int, compile: bool | str): ...

    def ready(self) -> None:
        """Return once it is there."""

    def measure(self, cells: list[Cell]) -> Iterator[list[dict]]:
        """Yield a row a cell, after as many milliseconds as it has tokens."""
        for cell in cells:
            time.sleep(cell.experiment.length / 1000)
            yield synthetic_rows([cell.key]).to_dicts()


def real(n_cells: int, *, milliseconds: int, n_workers: int) -> dict[str, Any]:
    """Return how long cells that sleep took workers of Ray, and the driver's own part; rows go to a store as ever.

    Fields: seconds (from the first group on: until then workers start), efficiency (of n_workers that only sleep),
    driver_seconds (of a processor, a cell: to hand out, to receive, to store).
    """
    experiment = Experiment(model="llama-64", length=milliseconds, search="fixed")
    text = Text(source="embedded", index=0, id="none", ids=(0,))
    every = [Cell(experiment, text, key) for key in synthetic_keys(n_cells)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder)) as kept,
        workers.connected(n_workers) as ray,
        Claims(kept.path) as claims,
        progress.Progress(n_cells, show=False) as bar,
    ):
        driver = cluster.Driver(ray, every, kept, claims, bar, jobs=n_workers, compile=False, worker=Sleeper)
        driver.wait_for_all()
        started, spent = time.perf_counter(), time.process_time()
        driver.run()
        kept.flush()
        seconds, spent = time.perf_counter() - started, time.process_time() - spent
        if len(kept.keys()) != n_cells:
            raise RuntimeError(f"{len(kept.keys())} of {n_cells} cells are in the store")
    return {
        "n_workers": n_workers, "seconds": seconds, "efficiency": n_cells * milliseconds / 1000 / n_workers / seconds,
        "driver_seconds": spent / n_cells,
    }  # fmt: skip


def simulated(
    n_workers: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    *,
    n_cells: int = 10_000,
    load_seconds: float = 5.0,
    driver_seconds: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the efficiency of so many workers on cells of ten models, by a virtual clock: n_workers, efficiency.

    A cell takes 3 s in the middle, log-normal with sigma 1; load_seconds: of a worker, for another model;
    driver_seconds: of the driver, a cell, as `real` measures them.
    """
    draw = np.random.default_rng(seed)
    seconds = draw.lognormal(np.log(3), 1.0, n_cells).tolist()
    kinds = draw.integers(0, _KINDS, n_cells).tolist()
    return [
        {
            "n_workers": n,
            "efficiency": sum(seconds)
            / n
            / simulate(seconds, kinds=kinds, n_workers=n, load_seconds=load_seconds, cell_seconds=driver_seconds),
        }
        for n in n_workers
    ]


def foretold(experiments: Sequence[Experiment], folder: Path | str) -> dict[str, float]:
    """Return what an estimate said of a sweep into a new folder, what the sweep then took, and the quotients.

    Fields: seconds_said, seconds_taken, seconds_ratio (taken by said), and bytes_ of the same, at the peak of a process
    of its own each. A model is loaded in both.
    """
    context = multiprocessing.get_context("forkserver")  # whose children's peak is their own
    results = []
    for act in (_said, _taken):
        with context.Pool(1) as pool:
            results.append(pool.apply(act, (list(experiments), Path(folder))))
    (said, bytes_said), (taken, bytes_taken) = results
    return {
        "seconds_said": said, "seconds_taken": taken, "seconds_ratio": taken / said,
        "bytes_said": bytes_said, "bytes_taken": bytes_taken, "bytes_ratio": bytes_taken / bytes_said,
    }  # fmt: skip


def _said(experiments: Sequence[Experiment], folder: Path) -> tuple[float, int]:
    estimates = list(estimate.estimate(experiments, folder))
    return sum(estimated.expected_seconds for estimated in estimates), max(estimated.n_bytes for estimated in estimates)


def _taken(experiments: Sequence[Experiment], folder: Path) -> tuple[float, int]:
    started = time.perf_counter()
    with Store(folder) as kept:
        engines.local(cells(experiments), kept, progress=False)
    devices = {experiment.device for experiment in experiments}
    device = torch.device("cuda" if torch.cuda.is_available() and devices != {"cpu"} else "cpu")
    return time.perf_counter() - started, fitting.peak_bytes(device)
