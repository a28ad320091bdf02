"""Rows kept and found again: a folder of immutable Parquet shards, each named by the hash of its bytes."""

import contextlib
import hashlib
import io
import os
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from filelock import FileLock

from capacity.rows import SCHEMA, to_frame

_LEFTOVER_SECONDS = 3600.0  # a temporary file this old belongs to no writer any more
_R = TypeVar("_R")


class StoreError(RuntimeError):
    """A store that cannot be read or written as it is; the message says what to do."""


class StoreWarning(UserWarning):
    """A shard was left out of what was read, or could not be written yet."""


def default_path() -> Path:
    """Return the folder rows are kept in: `$CAPACITY_STORE`, or `build/store`."""
    return Path(os.environ.get("CAPACITY_STORE") or "build/store")


class Store:
    """A folder of shards to append to and read from; the folder is made by the first write.

    Rows wait in memory until `flush_seconds` have passed since the first of them, or until `flush`, `close`
    or the end of a `with` block, also one left by an exception or Ctrl-C. Threads and processes may share it.
    """

    def __init__(self, path: Path | str, *, flush_seconds: float = 60.0):
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
            if self._waiting:
                _write(self.path, pl.concat(self._waiting))
                self._waiting = []

    close = flush

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
            return _until_it_stays(lambda: _collect(self._shards(), columns, wanted, self._waiting))

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
                _until_it_stays(self._merge)

    def _shards(self) -> list[Path]:
        return _valid(self.path, self._verified, set_aside=True)

    def _merge(self) -> None:
        shards = self._shards()
        if len(shards) > 1:
            when = shards[0].name.split("-")[0]  # the oldest's: still goes before shards written meanwhile
            _write(self.path, _collect(shards, None, None), when=when)
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
        shards = [shard for path in paths for shard in _valid(Path(path), set(), set_aside=False)]
        return _collect(list(dict.fromkeys(shards)), columns, wanted)

    return _until_it_stays(attempt)


def _until_it_stays(attempt: Callable[[], _R]) -> _R:
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):  # a shard was merged away under us: list the folder again
            return attempt()
    raise StoreError("shards vanish as fast as they are listed; wait until other processes have compacted")


def _collect(
    shards: list[Path],
    columns: Sequence[str] | None,
    keys: set[str] | None,
    waiting: Sequence[pl.DataFrame] = (),
) -> pl.DataFrame:
    columns = list(SCHEMA) if columns is None else list(columns)
    if unknown := sorted(set(columns) - SCHEMA.keys()):
        raise ValueError(f"unknown columns {unknown}; choose from {', '.join(SCHEMA)}")
    names = [str(path) for path in shards]
    by_name = {"glob": False, "hive_partitioning": False, "include_file_paths": "shard"}
    files = pl.scan_parquet(shards, schema=SCHEMA, missing_columns="insert", **by_name)
    ranks = pl.col("shard").replace_strict(names, range(len(names)), return_dtype=pl.Int64)
    last = pl.lit(len(names), pl.Int64).alias("shard")
    rows = pl.concat([files.with_columns(ranks), *(frame.lazy().with_columns(last) for frame in waiting)])
    if keys is not None:
        rows = rows.filter(pl.col("key").is_in(sorted(keys)))
    rows = rows.filter(pl.col("shard") == pl.col("shard").min().over("key"))
    try:
        return rows.sort("key", "probe", maintain_order=True).select(columns).collect()
    except (pl.exceptions.SchemaError, pl.exceptions.ComputeError) as error:
        raise StoreError(
            f"a shard was written by another version: {error}. Read it with that version, "
            "or choose another folder (--store, CAPACITY_STORE)"
        ) from error


def _valid(folder: Path, verified: set[tuple], *, set_aside: bool) -> list[Path]:
    shards = []
    for path in sorted(folder.glob("*.parquet")):
        stat = path.stat()
        seen = (path.name, stat.st_size, stat.st_mtime_ns)
        if seen not in verified and not path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()):
            _report_damaged(path, set_aside=set_aside)
            continue
        verified.add(seen)
        shards.append(path)
    return shards


def _report_damaged(path: Path, *, set_aside: bool) -> None:
    outcome = "it stays where it is"
    if set_aside:
        try:
            (path.parent / "damaged").mkdir(exist_ok=True)
            path.replace(path.parent / "damaged" / path.name)
            outcome = "it is moved to damaged/"
        except OSError as error:  # a folder that may only be read, or another process was first
            outcome = f"it could not be moved ({error})"
    message = f"{path} is damaged, its bytes do not hash to its name: its cells count as missing; {outcome}"
    warnings.warn(message, StoreWarning, stacklevel=2)


def _write(folder: Path, frame: pl.DataFrame, *, when: str | None = None) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    data = buffer.getvalue()
    when = when or datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    name = f"{when}-{secrets.token_hex(8)}-{hashlib.sha256(data).hexdigest()}.parquet"
    part = folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):  # its writer renamed it, or another one removed it
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                    leftover.unlink()
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)
        if os.name == "posix":  # the new name outlasts a power cut only when the folder is on disk, too
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise StoreError(
            f"{frame.height} rows could not be written to {folder} ({error}); what is there is intact. "
            "Free space or choose another folder (--store, CAPACITY_STORE), then try again"
        ) from error
