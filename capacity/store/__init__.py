"""Rows kept and found again: a folder of immutable Parquet shards, each named by the hash of its bytes."""

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from capacity.store import merging
from capacity.store.claims import Claims
from capacity.store.schema import COLUMNS, NULLABLE, SCHEMA, STATUSES, VERSION, to_frame
from capacity.store.shards import StoreError, StoreWarning, collect, until_it_stays, valid, write

__all__ = [
    "COLUMNS", "NULLABLE", "SCHEMA", "STATUSES", "VERSION", "Claims", "Store", "StoreError", "StoreWarning",
    "default_path", "merge", "read", "to_frame", "valid", "write",
]  # fmt: skip


_MANY = 64  # shards; more become one


def default_path() -> Path:
    """Return the folder rows are kept in: `$CAPACITY_STORE`, or `build/store`."""
    return Path(os.environ.get("CAPACITY_STORE") or "build/store")


class Store:
    """A folder of shards to append to and read from; the folder is made by the first write.

    Rows wait in memory until `flush_seconds` have passed since the first of them, or until `flush`, `close`
    or the end of a `with` block, also one left by an exception or Ctrl-C. Threads and processes may share it.
    """

    def __init__(self, path: Path | str, *, flush_seconds: float = 1.0):
        self.path = Path(path)
        self._flush_seconds = flush_seconds
        self._lock = threading.RLock()
        self._waiting: list[pl.DataFrame] = []
        self._due_seconds = 0.0  # time.monotonic() at which what waits is to be written
        self._timer: threading.Timer | None = None
        self._verified: set[tuple] = set()  # (name, size, mtime_ns) of shards that were hashed

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Return nothing; the rows wait to be written. A cell's rows come in one call: no shard parts them.

        Raises ValueError as `to_frame` does, and for a cell that waits already; then nothing is taken. Raises
        StoreError when rows were due and could not be written: they and those just given go on waiting, so
        call `flush` again, not `append`.
        """
        frame = to_frame(rows)
        if frame.is_empty():
            return
        with self._lock:
            if again := {key for old in self._waiting for key in old["key"]}.intersection(frame["key"]):
                raise ValueError(f"cells {sorted(again)} wait already; append all rows of a cell in one call")
            if not self._waiting:
                self._due_seconds = time.monotonic() + self._flush_seconds
                self._timer = threading.Timer(self._flush_seconds, self._flush_late)
                self._timer.daemon = True
                self._timer.start()
            self._waiting.append(frame)
            if time.monotonic() >= self._due_seconds:
                self.flush()

    def flush(self) -> None:
        """Return nothing; what waits is written as one shard. After a StoreError it goes on waiting."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if not self._waiting:
                return
            write(self.path, pl.concat(self._waiting))
            self._waiting = []
            if len(list(self.path.glob("*.parquet"))) > _MANY:
                self.compact()

    def close(self) -> None:
        """Return nothing; what waits is written."""
        self.flush()

    def _flush_late(self) -> None:
        try:
            self.flush()
        except StoreError as error:  # no caller to raise to: the next append, flush or close tries and raises
            warnings.warn(str(error), StoreWarning, stacklevel=2)

    def read(self, columns: Sequence[str] | None = None, keys: Iterable[str] | None = None) -> pl.DataFrame:
        """Return all rows, waiting ones too, sorted by key and probe; each cell from the first shard with it.

        A shard whose bytes do not hash to its name is moved to `damaged/` with a StoreWarning: its cells are
        missing. A column that an older version did not write is null. `columns`, `keys`: those wanted; None
        is all. Raises ValueError for an unknown column, StoreError for a shard with columns or types unknown.
        """
        wanted = None if keys is None else set(keys)
        with self._lock:
            return until_it_stays(lambda: collect(self._shards(), columns, wanted, self._waiting))

    def check_writable(self) -> None:
        """Raise StoreError where rows could not be written; called before what takes long is measured."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise StoreError(
                f"nothing can be written to {self.path} ({error}); choose another folder (--store, CAPACITY_STORE)"
            ) from error

    def keys(self) -> set[str]:
        """Return the keys of the cells in the store, waiting ones too."""
        return set(self.read(["key"])["key"])

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are not in the store, in the order given, each once."""
        found = self.keys()
        return [key for key in dict.fromkeys(keys) if key not in found]

    def compact(self) -> None:
        """Return nothing; all shards become one that reads the same. A kill on the way loses nothing."""
        self.flush()
        if self.path.is_dir():
            with self._lock, FileLock(self.path / ".compact.lock"):
                until_it_stays(self._merge)

    def _shards(self) -> list[Path]:
        return valid(self.path, self._verified, set_aside=True)

    def _merge(self) -> None:
        shards = self._shards()
        if len(shards) > 1:
            when = shards[0].name.split("-")[0]  # the oldest's: still goes before shards written meanwhile
            write(self.path, collect(shards, None, None), when=when)
            for path in shards:
                path.unlink(missing_ok=True)


def read(
    paths: Sequence[Path | str], columns: Sequence[str] | None = None, keys: Iterable[str] | None = None
) -> pl.DataFrame:
    """Return the rows of several folders as `Store.read` does of one; a cell is the first folder's.

    Nothing is written or moved: a damaged shard is only warned of.
    """
    wanted = None if keys is None else set(keys)

    def attempt() -> pl.DataFrame:
        shards = [shard for path in paths for shard in valid(Path(path), set(), set_aside=False)]
        return collect(list(dict.fromkeys(shards)), columns, wanted)

    return until_it_stays(attempt)


def merge(into: Path | str, stores: Sequence[Path | str], *, keep_first: bool = False) -> tuple[int, int]:
    """Return how many cells of some folders were new in another, which has them from now on, and how many were there.

    Raises ValueError, before anything is written, for a folder that is not there, or a cell with other rows in two of
    them, or in one (`seconds`, `versions` and `threads` may differ, and what was not recorded or kept may be null);
    keep_first: those of the folder that is named first stay.
    """
    folders = [Path(folder) for folder in stores]
    if gone := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"no folder {', '.join(gone)}; give folders of rows")
    return merging.merge(Path(into), folders, keep_first=keep_first)
