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
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl
from filelock import FileLock

_LEFTOVER_SECONDS = 3600.0  # a temporary file this old belongs to no writer any more
_R = TypeVar("_R")

_TEXT, _INT, _LONG, _REAL = pl.String(), pl.Int32(), pl.Int64(), pl.Float64()

_ROW: dict[str, tuple[pl.DataType, str]] = {
    "key": (_TEXT, "hash of the experiment, the text, the model's revision and the protocol: names the cell"),
    "model": (_TEXT, "name of the model"),
    "revision": (_TEXT, "digest of the model's files"),
    "architecture": (_TEXT, "class of the model"),
    "n_parameters": (_LONG, "parameters of the model, tied ones once"),
    "d_model": (_INT, "width of a [mem] vector, numbers"),
    "vocab_size": (_INT, "rows of the embedding, padding included"),
    "tokenizer_digest": (_TEXT, "digest of the tokenizer"),
    "bos": (_TEXT, "policy for the beginning-of-sequence token: none, before_mem or after_mem"),
    "attention": (_TEXT, "implementation of attention"),
    "dtype": (_TEXT, "number type of the model's weights"),
    "source": (_TEXT, "name of the source of texts"),
    "text_index": (_INT, "place of the text in its seeded sample, from 0"),
    "text_id": (_TEXT, "name of the text in its source"),
    "text_digest": (_TEXT, "digest of the text's tokens"),
    "n_mem": (_INT, "[mem] vectors"),
    "length": (_INT, "length N of the text, tokens"),
    "scored_from": (_INT, "0: all N positions are scored; 1: positions 2..N, the first token given"),
    "recipe": (_TEXT, "name of the optimisation settings"),
    "search": (_TEXT, "name of the search over lengths"),
    "probe": (_INT, "place of the fit in its cell, from 0"),
    "seed": (_LONG, "seed of the fit"),
    "init": (_TEXT, "how the first [mem] vector was made"),
    "steps": (_INT, "optimisation steps"),
    "token_steps": (_LONG, "tokens times forward-backward passes"),
    "status": (_TEXT, "why the fit ended: solved, stalled, budget, diverged, oom"),
    "n_scored": (_INT, "scored positions"),
    "correct_without": (_INT, "positions 2..N predicted right without [mem]"),
    "correct_with": (_INT, "positions 2..N predicted right with [mem]"),
    "bits_without": (_REAL, "bits of positions 2..N without [mem], summed"),
    "bits_with": (_REAL, "bits of positions 2..N with [mem], summed"),
    "bits_with_min": (_REAL, "least bits of positions 2..N with [mem] over the steps; null: not followed"),
    "first_bits_with": (_REAL, "bits of the first token with [mem]; null: not predicted"),
    "first_correct": (pl.Boolean(), "whether the first token is predicted right; null: not predicted"),
    "decoded_tokens": (_INT, "tokens right before the first wrong one, decoding freely; null: not decoded"),
    "seconds": (_REAL, "wall-clock time of the fit, seconds"),
    "device": (_TEXT, "device the fit ran on"),
    "versions": (_TEXT, "versions of the libraries, JSON"),
    "mem": (pl.List(pl.Float32()), "the scored [mem] vectors, flat, n_mem * d_model numbers; null: not kept"),
}
SCHEMA: dict[str, pl.DataType] = {name: dtype for name, (dtype, _) in _ROW.items()}
COLUMNS: dict[str, str] = {name: description for name, (_, description) in _ROW.items()}
NULLABLE = frozenset({"bits_with_min", "first_bits_with", "first_correct", "decoded_tokens", "mem"})
STATUSES = ("solved", "stalled", "budget", "diverged", "oom")


def to_frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return the rows as a frame in `SCHEMA`, in the order given.

    `rows`: one dict a row with exactly the columns of `SCHEMA`, scalars of Python or NumPy; `mem` is flat,
    (n_mem * d_model,), and exact in float32. Raises ValueError for a column unknown or missing, a status not
    in `STATUSES`, a value of another type, a None outside `NULLABLE`, a key and probe given twice.
    """
    for row in rows:
        unknown, missing = sorted(row.keys() - SCHEMA.keys()), sorted(SCHEMA.keys() - row.keys())
        if unknown or missing:
            raise ValueError(f"unknown columns {unknown}, missing columns {missing}; see COLUMNS")
        if row["status"] not in STATUSES:
            raise ValueError(f"status {row['status']!r} is not one of {', '.join(STATUSES)}")
    frame = pl.DataFrame([_series(name, [row[name] for row in rows]) for name in SCHEMA])
    if frame.select("key", "probe").is_duplicated().any():
        raise ValueError("two rows have the same key and probe; number the probes of a cell 0, 1, 2 ...")
    return frame


def _series(name: str, values: list[Any]) -> pl.Series:
    if name not in NULLABLE and any(value is None for value in values):
        raise ValueError(f"column {name!r} is None; only {', '.join(sorted(NULLABLE))} may be")
    plain = _vector if name == "mem" else _scalar
    try:
        return pl.Series(name, [plain(value) for value in values], dtype=SCHEMA[name], strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"column {name!r} takes one {SCHEMA[name]} a row: {str(error).splitlines()[0]}") from error


def _scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} is a {type(value).__name__}; give a scalar of Python or NumPy")


def _vector(value: Any) -> pl.Series | None:
    if value is None:
        return None
    given = np.asarray(value, dtype=np.float64)
    with np.errstate(over="ignore"):  # what overflows differs, and is refused
        kept = given.astype(np.float32)
    if given.ndim != 1 or not np.array_equal(kept, given, equal_nan=True):
        raise ValueError(f"got shape {given.shape}; give it flat, and as float32 numbers")
    return pl.Series(kept)


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

    def __enter__(self) -> Self:
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
