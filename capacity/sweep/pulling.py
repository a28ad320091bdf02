"""Which cells a worker is given next: small groups of one kind, the largest first; and how that would go, simulated."""

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from math import ceil
from typing import Generic, TypeVar

LEAST = 8  # cells that run together as fast as one

_T = TypeVar("_T")


class Pool(Generic[_T]):
    """What waits for workers; each pulls a group when it has ended one.

    A group is of one kind and takes about half of an even share of what waits, so that groups shrink towards the end.
    A worker stays with its kind; then it goes where most waits for each worker that is there.
    """

    def __init__(
        self,
        things: Iterable[_T],
        *,
        kind: Callable[[_T], Hashable],
        cost: Callable[[_T], float],
        n_workers: int,
        most: int,
    ):
        """Take things that wait, with their kinds and costs in any unit; most: things of a group."""
        self._kind, self._cost, self._n_workers, self._most = kind, cost, n_workers, most
        self._waiting: dict[Hashable, deque[_T]] = defaultdict(deque)
        self._left: dict[Hashable, float] = defaultdict(float)  # cost that waits, by kind
        self._at: dict[Hashable, Hashable] = {}  # the kind that a worker had last
        for thing in sorted(things, key=cost, reverse=True):
            self._waiting[kind(thing)].append(thing)
            self._left[kind(thing)] += cost(thing)
        self._alone: deque[_T] = deque()

    def __len__(self) -> int:
        return len(self._alone) + sum(map(len, self._waiting.values()))

    def put_back(self, things: Iterable[_T]) -> None:
        """Let things wait again, each to be a group by itself: one of them may have ended its worker."""
        self._alone.extend(things)

    def forget(self, worker: Hashable) -> None:
        """Count no longer with a worker."""
        self._at.pop(worker, None)

    def pull(self, worker: Hashable) -> list[_T]:
        """Return the group that a worker is to do next, empty where nothing waits."""
        if self._alone:
            return [self._alone.popleft()]
        kinds = [kind for kind, waiting in self._waiting.items() if waiting]
        if not kinds:
            return []
        kind = self._at.get(worker)
        if kind not in kinds:
            busy = list(self._at.values())
            kind = max(kinds, key=lambda kind: self._left[kind] / (1 + busy.count(kind)))
        self._at[worker] = kind
        waiting, group, taken = self._waiting[kind], [], 0.0
        aim = sum(self._left[kind] for kind in kinds) / (2 * self._n_workers)
        least = min(LEAST, ceil(len(self) / self._n_workers))
        while waiting and len(group) < self._most and (len(group) < least or taken < aim):
            group.append(waiting.popleft())
            taken += self._cost(group[-1])
        self._left[kind] -= taken
        return group


def simulate(
    seconds: Iterable[float],
    *,
    kinds: Iterable[Hashable] = itertools.repeat(0),
    n_workers: int,
    load_seconds: float = 0.0,
    group_seconds: float = 0.0,
    cell_seconds: float = 0.0,
    most: int = 64,
) -> float:
    """Return how long cells would take by a virtual clock, seconds, pulled from a Pool by so many workers.

    Args:
        seconds: that each cell takes a worker.
        kinds: of the cells, in the same order.
        n_workers: that work side by side.
        load_seconds: a worker's, for each change of kind.
        group_seconds: of the one driver, to hand out a group.
        cell_seconds: of the driver, to store a cell's rows.
        most: cells of a group.

    >>> simulate([1.0] * 64, n_workers=1), simulate([1.0] * 64, n_workers=4)
    (64.0, 16.0)
    """
    cells = list(zip(seconds, kinds, strict=False))
    pool = Pool(
        range(len(cells)), kind=lambda i: cells[i][1], cost=lambda i: cells[i][0], n_workers=n_workers, most=most
    )
    free = [(0.0, worker, 0) for worker in range(n_workers)]  # when, who, cells to store
    loaded: dict[int, Hashable] = {}
    driver = 0.0  # when the driver is free
    while free:
        now, worker, n_done = heapq.heappop(free)
        driver = max(driver, now) + n_done * cell_seconds
        group = pool.pull(worker)
        if not group:
            continue
        driver += group_seconds
        kind = cells[group[0]][1]
        change = load_seconds if worker not in loaded or loaded[worker] != kind else 0.0
        loaded[worker] = kind
        heapq.heappush(free, (driver + change + sum(cells[i][0] for i in group), worker, len(group)))
    return driver
