"""How far a sweep is: a bar on a terminal, elsewhere a line a minute."""

import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS = 60.0  # between two lines


class Lines:
    """Cells done and the time left, as a line a minute on standard error, without control characters."""

    def __init__(self, total: int, *, seconds: float = _SECONDS):
        self._total, self._seconds, self._done, self._what = total, seconds, 0, ""
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        """Say no more."""

    def set_description(self, what: str) -> None:
        """Name what is under way."""
        self._what = what

    def update(self, n: int = 1) -> None:
        """Count cells that ended; say so where a minute has passed."""
        self._done += n
        now = time.monotonic()
        if now - self._said < self._seconds:
            return
        self._said = now
        spent = (now - self._started) / 60
        left = spent / self._done * (self._total - self._done)
        line = f"{self._what}: {self._done} of {self._total} cells, {spent:.0f} min, about {left:.0f} min left"
        print(line, file=sys.stderr, flush=True)


def bar(total: int, *, show: bool) -> Any:
    """Return what counts cells: a bar on a terminal, else Lines; with `update(n)` and `set_description(text)`."""
    if show and total and not sys.stderr.isatty():
        return Lines(total)
    return tqdm(total=total, unit="cell", disable=not (show and total), smoothing=0.1)
