"""Who measures which cell, where processes share a store: a file for each cell under way, as alive as its owner is.

An owner has one file of its own, which it locks, and touches again and again; a claim is another name (a hard link) of
that file. So a claim is made at once or not at all, and one touch keeps all of an owner's claims young.
"""

import contextlib
import os
import platform
import re
import threading
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from capacity.store.shards import StoreError, StoreWarning

try:
    import fcntl
except ImportError:  # no such locks on this system: age alone tells
    fcntl = None

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # after which an owner on another machine counts as dead; on this one its lock tells at once
_OWNER = ".owner"
_OURS = re.compile(r"[0-9a-f]{32}(\.owner)?")  # names of claims, which are cells' keys, and of owners


class Claims:
    """The claims of one owner on the cells of a store, from `__enter__` to `__exit__`.

    Ages are differences of two files' times on the store's own file system, whatever the clocks of machines say. Where
    it has no hard links, nothing is claimed and everything is given: processes then measure the same cells.
    """

    def __init__(self, store: Path, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS):
        self._folder = store / "claims"
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        self._own = self._folder / f"{uuid.uuid4().hex}{_OWNER}"
        self._claimed: set[str] = set()
        self._ended = threading.Event()
        self._links = True

    def __enter__(self) -> "Claims":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self._folder} can't be a folder ({error}); remove it, or choose another store"
            ) from error
        self._guard = FileLock(self._folder / ".lock")
        with self._guard:
            self._file = self._own.open("x")
            self._file.write(platform.node())
            self._file.flush()
            with contextlib.suppress(OSError):
                _lock(self._file.fileno(), exclusive=True)
            for path in self._folder.iterdir():  # what the dead left
                if _OURS.fullmatch(path.name) and path.is_file() and self._dead(path):
                    path.unlink()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.release([*self._claimed])
        self._own.unlink(missing_ok=True)
        self._file.close()

    def n_others(self) -> int:
        """Return how many other owners there are."""
        return sum(path != self._own for path in self._folder.glob(f"*{_OWNER}"))

    def take(self, keys: Iterable[str], most: int) -> list[str]:
        """Return the first of `keys`, at most `most`, that nobody alive has claimed; from now on they are ours."""
        taken = []
        with self._guard:
            for key in keys:
                if len(taken) == most:
                    break
                if self._take(key):
                    taken.append(key)
        self._claimed.update(taken)
        return taken

    def release(self, keys: Iterable[str]) -> None:
        """Give claims up, of cells whose rows are on disk by now, or that are left to others."""
        for key in keys:
            if key in self._claimed and self._links:
                with contextlib.suppress(OSError):  # taken over, while this process was held up
                    if self._own.samefile(self._folder / key):
                        (self._folder / key).unlink()
            self._claimed.discard(key)

    def _take(self, key: str) -> bool:
        claim = self._folder / key
        if self._links and claim.exists() and self._dead(claim):
            claim.unlink()
        try:
            if self._links:
                os.link(self._own, claim)
        except FileExistsError:
            return False
        except OSError as error:
            warnings.warn(
                f"{self._folder} can't hold claims ({error}): what another process measures at the same time is "
                "measured here, too",
                StoreWarning,
                stacklevel=2,
            )
            self._links = False
        return True

    def _dead(self, path: Path) -> bool:
        """Return whether an owner, or that of a claim, lives no more."""
        try:
            if self._own.samefile(path):
                return False
            if path.read_bytes() == platform.node().encode():
                with contextlib.suppress(OSError), path.open("r+") as file:
                    return _lock(file.fileno(), exclusive=False)
            os.utime(self._own)
            return self._own.stat().st_mtime - path.stat().st_mtime > self._stale_seconds
        except FileNotFoundError:  # given up just now
            return False

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            with contextlib.suppress(OSError):
                os.utime(self._own)


def _lock(file: int, *, exclusive: bool) -> bool:
    """Return whether a lock on an open file was had; raises OSError where there are none."""
    if fcntl is None:
        raise OSError("no locks of files here")
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
