"""A sweep in several processes of one machine, each with a part of the cells: one a GPU, or a share of the cores."""

import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from capacity import fitting
from capacity.store import Store
from capacity.sweep import engines, progress, shards
from capacity.sweep.experiment import Cell

_POLL_SECONDS = 0.5


def processes(
    cells: Sequence[Cell], folder: Path | str, *, jobs: int, compile: bool | str = False, show: bool = True
) -> int:
    """Measure cells in `jobs` processes, which write rows to a store as they end; return how many were measured here.

    Where there are GPUs, process i sees GPU i alone (modulo their number); on processors each has its share of the
    threads. Raises RuntimeError where a process failed, after the others have ended; what had ended is kept.
    """
    context = multiprocessing.get_context("spawn")  # a fork would take along CUDA and threads
    ended = context.Queue()
    n_gpus = torch.cuda.device_count()
    threads = max(1, fitting.processors() // jobs)
    split = [part for part in shards.parts(cells, [shards.work(cell.experiment) for cell in cells], jobs) if part]
    workers = [
        context.Process(
            target=_work, args=(part, folder, ended, compile, threads, i % n_gpus if n_gpus else None), daemon=True
        )
        for i, part in enumerate(split)
    ]
    n_measured = 0
    try:
        for worker in workers:
            worker.start()
        with progress.Progress(len(cells), show=show) as bar:
            bar.set_description(f"{len(workers)} processes")
            while any(worker.is_alive() for worker in workers) or not ended.empty():
                try:
                    n, token_steps = ended.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                n_measured += n if token_steps is not None else 0  # None: by another sweep into the same store
                bar.advance(token_steps or 0)
                bar.update(n, token_steps)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            worker.join()
    if failed := [str(worker.exitcode) for worker in workers if worker.exitcode]:
        raise RuntimeError(
            f"{len(failed)} of {len(workers)} processes failed (exit codes {', '.join(failed)}); what had ended is "
            "kept, the same sweep measures the rest"
        )
    return n_measured


def _work(cells: list[Cell], folder: Path, ended: Any, compile: bool | str, threads: int, gpu: int | None) -> None:
    """Measure a part in this process; told to end, it writes what waits and leaves."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent tells
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)  # before CUDA is begun with
    with Store(folder) as kept:
        engines.local(
            cells, kept, compile=compile, progress=False, n_processors=threads, ended=lambda *counts: ended.put(counts)
        )
