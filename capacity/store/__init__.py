"""Rows kept and found again: a folder of immutable Parquet shards, each named by the hash of its bytes."""

import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from capacity.store import key_files, merging, scale
from capacity.store.claims import Claims
from capacity.store.places import default_path, measured, places
from capacity.store.scale import keys as synthetic_keys
from capacity.store.scale import rows as synthetic_rows
from capacity.store.schema import COLUMNS, NULLABLE, SCHEMA, STATUSES, VERSION, to_frame
from capacity.store.shards import (
    MOST_BYTES,
    StoreError,
    StoreWarning,
    collect,
    holding,
    keys_of,
    listed,
    until_it_stays,
    valid,
    write,
)
from capacity.store.tables import kept, read_tables

__all__ = [
    "COLUMNS", "NULLABLE", "SCHEMA", "STATUSES", "VERSION", "Claims", "Store", "StoreError", "StoreWarning",
    "at_scale", "default_path", "kept", "measured", "merge", "places", "read", "read_tables", "synthetic_keys",
    "synthetic_rows", "to_frame", "valid", "write",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


_MANY = 64  # small shards; more become one
_FULL = 0.9  # of MOST_BYTES: what merged shards are to have


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
        self._known: dict[tuple, frozenset[str]] = {}  # keys of shards, by the same

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

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
            if len(_unfit(self.path)) > _MANY:
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
        is all; a shard without a wanted cell is not read. Raises ValueError for an unknown column, StoreError for a
        shard with columns or types unknown.
        """
        wanted = None if keys is None else set(keys)
        with self._lock:
            return until_it_stays(lambda: collect(self._shards(wanted), columns, wanted, self._waiting))

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
        """Return the keys of the cells in the store, waiting ones too.

        A large shard's are those of a file beside it; whether it is whole is seen when it is read.
        """
        return set[str]().union(*self._keys())

    def _keys(self) -> list[Iterable[str]]:
        with self._lock:
            until_it_stays(lambda: keys_of(self.path, self._verified, self._known, set_aside=True))
            return [*self._known.values(), *(frame["key"] for frame in self._waiting)]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are not in the store, in the order given, each once."""
        left = set(wanted := list(dict.fromkeys(keys)))
        for some in self._keys():
            left -= left.intersection(some) if isinstance(some, frozenset) else set(some)
        return [key for key in wanted if key in left]

    def compact(self) -> None:
        """Return nothing; small shards become large ones that read the same. A kill on the way loses nothing."""
        self.flush()
        if self.path.is_dir():
            with self._lock, FileLock(self.path / ".compact.lock"):
                until_it_stays(self._merge)

    def _shards(self, keys: set[str] | None) -> list[Path]:
        if keys is None:
            return valid(self.path, self._verified, set_aside=True)
        return holding(self.path, keys, self._verified, self._known, set_aside=True)

    def _merge(self) -> None:
        """Write what is read of the cells in shards that are too small or too large, and remove those shards."""
        self._shards(None)  # sets damaged ones aside
        groups: list[list[Path]] = []
        n_bytes = float("inf")
        for path in _unfit(self.path):
            n_bytes += (size := path.stat().st_size)
            if n_bytes > _FULL * MOST_BYTES:
                groups.append([])
                n_bytes = size
            groups[-1].append(path)
        for group in groups:
            if len(group) > 1 or group[0].stat().st_size > MOST_BYTES:
                self._rewrite(group)
        key_files.clear(self.path)

    def _rewrite(self, group: list[Path]) -> None:
        keys = set(collect(group, ["key"], None)["key"])
        shards = self._shards(keys)  # others may have some of the cells, too
        rows = collect(shards, None, None if shards == group else keys)
        write(self.path, rows, when=group[0].name.split("-")[0])  # the oldest's: goes before shards written meanwhile
        for path in group:
            path.unlink(missing_ok=True)


def _unfit(folder: Path) -> list[Path]:
    """Return the shards of a folder that take less than half of MOST_BYTES, or more than those."""
    return [path for path, (_, size, _) in listed(folder) if not MOST_BYTES / 2 <= size <= MOST_BYTES]


def read(
    paths: Sequence[Path | str], columns: Sequence[str] | None = None, keys: Iterable[str] | None = None, *,
    missing_ok: bool = False,
) -> pl.DataFrame:  # fmt: skip
    """Return the rows of several folders as `Store.read` does of one; a cell is the first folder's.

    Nothing is written or moved: a damaged shard is only warned of. missing_ok: a folder that is not there has no rows.
    Raises ValueError for one path that is no list, what is no path, and a folder that is not there.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"{str(paths)[:120]!r} is one path; give a list of folders, [{str(paths)[:120]!r}]")
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
        raise ValueError(f"{str(paths)[:120]!r} are no folders; give a list of paths")
    if not missing_ok:
        _check_folders(paths)
    wanted = None if keys is None else set(keys)

    def attempt() -> pl.DataFrame:
        shards = [
            shard
            for path in map(Path, paths)
            for shard in (
                valid(path, set(), set_aside=False)
                if wanted is None
                else holding(path, wanted, set(), {}, set_aside=False)
            )
        ]
        return collect(list(dict.fromkeys(shards)), columns, wanted)

    return until_it_stays(attempt)


def merge(into: Path | str, stores: Sequence[Path | str], *, keep_first: bool = False) -> tuple[int, int]:
    """Return how many cells of some folders were new in another, which has them from now on, and how many were there.

    Raises ValueError, before anything is written, for a folder that is not there, or a cell with other rows in two of
    them, or in one (`seconds`, `versions` and `threads` may differ, and what was not recorded or kept may be null);
    keep_first: those of the folder that is named first stay.
    """
    _check_folders(stores)
    return merging.merge(Path(into), [Path(folder) for folder in stores], keep_first=keep_first)


def _check_folders(paths: Sequence[Path | str]) -> None:
    if gone := [str(path)[:120] for path in paths if not Path(path).is_dir()]:
        raise ValueError(f"no folder {', '.join(gone)}; give folders of rows")


def at_scale(n_rows: int, folder: Path | str) -> pl.DataFrame:
    """Return what a store of n rows, made in a folder, costs: a row each of scale.ACTS, fields of scale.at_scale."""
    return pl.DataFrame(list(scale.at_scale(Store, n_rows, Path(folder))))
