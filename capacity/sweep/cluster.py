"""A sweep on a Ray cluster, or on one machine as one: workers that hold a model pull cells, a driver stores the rows.

Workers need the package and the models' files, not the store. One that dies is replaced, and its cells go to another.
"""

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capacity.store import Claims, Store
from capacity.sweep import progress, rows, shards
from capacity.sweep.experiment import Cell
from capacity.sweep.pulling import Pool
from capacity.sweep.workers import Worker, connected, share

ATTEMPTS = 3  # workers that a cell may end, and that may die at their start one after another
_MOST = {"cpu": 64, "gpu": 256}  # cells of a group: a full batch
_POLL_SECONDS = 0.5


@dataclass
class _Group:
    """Cells that a worker has."""

    worker: Any  # the actor
    left: dict[str, Cell]  # whose rows have not come yet
    keys: list[str]  # of all its cells, claimed


def distributed(
    cells: Sequence[Cell], kept: Store, *, jobs: int | None = None, compile: bool | str = False, show: bool = True
) -> int:
    """Measure cells by workers of a Ray cluster, into a store that this process writes; return how many were measured.

    A cell's rows are on disk a second after they come. What another process has claimed is waited for, as in
    engines.local. Raises RuntimeError where cells ended ATTEMPTS workers, after all others have ended, or where as many
    die before they begin; and what a worker raised.

    jobs: workers, see `share`; compile: see fitting.run; show: cells done and the time left, on standard error.
    """
    with (
        connected(jobs) as ray,
        Claims(kept.path) as claims,
        contextlib.ExitStack() as ending,
        progress.Progress(len(cells), show=show) as bar,
    ):
        ending.callback(kept.flush)  # before the claims end, however this does
        return Driver(ray, cells, kept, claims, bar, jobs=jobs, compile=compile).run()


class Driver:
    """Hands groups to workers, stores what comes back, replaces the dead."""

    def __init__(
        self,
        ray: Any,
        cells: Sequence[Cell],
        kept: Store,
        claims: Claims,
        bar: Any,
        *,
        jobs: int | None,
        compile: bool | str,
        worker: type = Worker,
    ):
        self._ray, self._kept, self._claims, self._bar = ray, kept, claims, bar
        resources = ray.cluster_resources()
        n_gpus = int(resources.get("GPU", 0))
        n_workers, n_processors, gpu = share(max(1, int(resources.get("CPU", 1))), n_gpus, jobs)
        n_workers = min(n_workers, max(1, len(cells)))
        self._actor = ray.remote(num_cpus=n_processors, num_gpus=gpu)(worker)
        self._arguments = max(1, int(n_processors)), compile
        self._pool = Pool(
            cells, kind=lambda cell: (cell.experiment.loaded, rows.kind(cell)),
            cost=lambda cell: shards.work(cell.experiment), n_workers=n_workers, most=_MOST["gpu" if n_gpus else "cpu"],
        )  # fmt: skip
        self._elsewhere: dict[str, Cell] = {}  # what others have claimed
        self._deaths: Counter[str] = Counter()  # of workers, by cell that they had
        self._failed: list[Cell] = []
        self._stillborn, self._n_new = 0, 0
        self._idle: list[Any] = []
        self._running: dict[Any, _Group] = {}  # by the generator of their rows
        self._starting: dict[Any, Any] = {}  # by what tells that they are there
        bar.set_description(f"{n_workers} workers")
        for _ in range(n_workers):
            self._start()

    def wait_for_all(self) -> None:
        """Return when every worker is there."""
        self._ray.wait([*self._starting], num_returns=len(self._starting))

    def run(self) -> int:
        """Return how many cells were measured, when all have ended."""
        while self._pool or self._running or self._elsewhere:
            self._hand_out()
            if not self._running and not self._pool:
                self._look_elsewhere()
                continue
            ready, _ = self._ray.wait([*self._starting, *self._running], timeout=_POLL_SECONDS)
            for reference in ready:
                self._welcome(reference) if reference in self._starting else self._receive(reference)
        if self._failed:
            raise RuntimeError(
                f"{len(self._failed)} cells ended {ATTEMPTS} workers each, the first is {self._failed[0].experiment}; "
                "what had ended is kept; they may need more memory than a worker has (fewer jobs, a shorter length)"
            )
        return self._n_new

    def _start(self) -> None:
        worker = self._actor.remote(*self._arguments)
        self._starting[worker.ready.remote()] = worker

    def _welcome(self, told: Any) -> None:
        worker = self._starting.pop(told)
        try:
            self._ray.get(told)
        except self._ray.exceptions.RayActorError as error:
            self._stillborn += 1
            if self._stillborn >= ATTEMPTS:
                raise RuntimeError(f"{ATTEMPTS} workers died before they began: {error}") from error
            self._start()
        else:
            self._stillborn = 0
            self._idle.append(worker)

    def _hand_out(self) -> None:
        while self._idle and (group := self._pool.pull(self._idle[-1])):
            cells = {cell.key: cell for cell in group}
            mine = self._claims.take(cells, len(cells))
            new = self._kept.missing(mine)  # not what another ended before the claim was made
            self._elsewhere |= {key: cell for key, cell in cells.items() if key not in mine}
            self._bar.update(len(mine) - len(new))
            if not new:
                self._claims.release(mine)
                continue
            worker, left = self._idle.pop(), {key: cells[key] for key in new}
            rows_of = worker.measure.options(num_returns="streaming").remote(list(left.values()))
            self._running[rows_of] = _Group(worker, left, mine)

    def _receive(self, rows_of: Any) -> None:
        """Store a cell's rows; where there are no more, the worker is free, or dead."""
        group = self._running[rows_of]
        try:
            made = self._ray.get(next(rows_of))
        except StopIteration:
            self._idle.append(group.worker)
        except self._ray.exceptions.RayActorError:
            self._bury(group)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        else:
            self._kept.append(made)
            del group.left[made[0]["key"]]
            self._n_new += 1
            token_steps = sum(row["token_steps"] for row in made)
            self._bar.advance(token_steps)
            self._bar.update(token_steps=token_steps)
            return
        del self._running[rows_of]
        self._kept.flush()
        self._claims.release(group.keys)

    def _bury(self, group: _Group) -> None:
        """Let a dead worker's cells go to others, each alone, and start another worker."""
        self._deaths.update(list(group.left))
        again = [cell for key, cell in group.left.items() if self._deaths[key] < ATTEMPTS]
        self._failed += [cell for key, cell in group.left.items() if self._deaths[key] >= ATTEMPTS]
        self._ray.kill(group.worker)  # where it was out of reach only
        self._pool.forget(group.worker)
        self._pool.put_back(again)
        warnings.warn(f"a worker died; {len(again)} of its cells go to another", RuntimeWarning, stacklevel=2)
        self._start()

    def _look_elsewhere(self) -> None:
        """Count what other processes have ended; what they still have is asked for again a little later."""
        missing = self._kept.missing(self._elsewhere)
        self._bar.update(len(self._elsewhere) - len(missing))
        self._pool.put_back(self._elsewhere[key] for key in missing)
        self._elsewhere = {}
        if missing:
            time.sleep(_POLL_SECONDS)
