"""Immutable Parquet shards, each named by the hash of its bytes: written whole, read where whole."""

import contextlib
import hashlib
import io
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import polars as pl

from capacity import files
from capacity.store import key_files
from capacity.store.schema import SCHEMA


class StoreError(RuntimeError):
    """A store that cannot be read or written as it is; the message says what to do."""


class StoreWarning(UserWarning):
    """A shard was left out of what was read, or could not be written yet."""


MOST_BYTES = 2**26  # of a shard: what is verified at once

_R = TypeVar("_R")


def until_it_stays(attempt: Callable[[], _R]) -> _R:
    """Return what `attempt` returns, tried again where a shard vanishes under it; StoreError if they never stay."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):  # a shard was merged away under us: list the folder again
            return attempt()
    raise StoreError("shards vanish as fast as they are listed; wait until other processes have compacted")


def collect(
    shards: list[Path],
    columns: Sequence[str] | None,
    keys: set[str] | None,
    waiting: Sequence[pl.DataFrame] = (),
) -> pl.DataFrame:
    """Return the rows of shards, and of frames that wait, as Store.read does."""
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


def valid(folder: Path, verified: set[tuple], *, set_aside: bool) -> list[Path]:
    """Return the shards of a folder whose bytes hash to their names; others are warned of, or moved to damaged/."""
    return [path for path, seen in listed(folder) if is_whole(path, seen, verified, set_aside=set_aside)]


def listed(folder: Path) -> Iterator[tuple[Path, tuple]]:
    """Yield the shards of a folder in order, each with what changes where it does: name, size, time."""
    for path in sorted(folder.glob("*.parquet")):
        if not path.is_file() and (path.exists() or path.is_symlink()):  # a folder, a pipe, a link to nothing
            warnings.warn(f"{path} is no file, and is left out; remove it", StoreWarning, stacklevel=2)
            continue
        stat = path.stat()
        yield path, (path.name, stat.st_size, stat.st_mtime_ns)


def is_whole(path: Path, seen: tuple, verified: set[tuple], *, set_aside: bool) -> bool:
    """Return whether a shard's bytes hash to its name, remembered in `verified`; see `valid`."""
    if seen not in verified and not path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()):
        _report_damaged(path, set_aside=set_aside)
        return False
    verified.add(seen)
    return True


def holding(
    folder: Path, keys: set[str], verified: set[tuple], known: dict[tuple, frozenset[str]], *, set_aside: bool
) -> list[Path]:
    """Return the valid shards of a folder that have some of these keys; arguments as of `keys_of` and `valid`."""
    keys_of(folder, verified, known, set_aside=set_aside)
    return [
        path
        for path, seen in listed(folder)
        if not keys.isdisjoint(known.get(seen, ())) and is_whole(path, seen, verified, set_aside=set_aside)
    ]


def keys_of(folder: Path, verified: set[tuple], known: dict[tuple, frozenset[str]], *, set_aside: bool) -> None:
    """Bring `known` up to date: the keys of each shard of a folder, by what `listed` says of it.

    They are those of a key file, or of the shard, verified; `set_aside`: as of `valid`, and key files are written.
    """
    paths = {seen: path for path, seen in listed(folder)}
    for seen in known.keys() - paths.keys():
        del known[seen]
    for seen, path in paths.items():
        if seen in known:
            continue
        own = key_files.load(path)
        if own is None:
            if not is_whole(path, seen, verified, set_aside=set_aside):
                continue
            own = frozenset(collect([path], ["key"], None)["key"])
            if set_aside:
                key_files.keep(path, own)
        known[seen] = own


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


def write(folder: Path, frame: pl.DataFrame, *, when: str | None = None) -> None:
    """Write rows as one shard, whole or not at all; `when` sorts it among the others. Raises StoreError.

    What takes more than MOST_BYTES becomes several shards, none of which parts a cell.
    """
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    data = buffer.getvalue()
    keys = frame["key"].unique().sort() if "key" in frame.columns else pl.Series([])
    when = when or datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    if len(data) > MOST_BYTES and len(keys) > 1:
        low = pl.col("key") < keys[len(keys) // 2]
        for part in (frame.filter(low), frame.filter(~low)):
            write(folder, part, when=when)
        return
    name = f"{when}-{secrets.token_hex(8)}-{hashlib.sha256(data).hexdigest()}.parquet"
    try:
        files.write(folder / name, data)
    except OSError as error:
        raise StoreError(
            f"{frame.height} rows could not be written to {folder} ({error}); what is there is intact. "
            "Free space or choose another folder (--store, CAPACITY_STORE), then try again"
        ) from error
    if len(keys):
        key_files.keep(folder / name, keys)
