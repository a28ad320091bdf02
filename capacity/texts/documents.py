"""Documents on disk: text files, or a column of CSV, JSONL and Parquet files, of which only what is asked for is read.

Text is UTF-8, taken as it is: nothing is replaced or dropped but a byte-order mark at the start of a file. What is not
UTF-8, or holds a lone surrogate, is refused.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl


class TextError(ValueError):
    """A source or text that can't be used: says what was given, what is allowed, what to do."""


# Every value of a CSV is read as text, so that a column of numbers further down is no error.
_SCANS: dict[str, Callable[..., pl.LazyFrame]] = {
    ".parquet": pl.scan_parquet,
    ".jsonl": pl.scan_ndjson,
    ".ndjson": pl.scan_ndjson,
    ".csv": lambda paths: pl.scan_csv(paths, infer_schema=False),
}
COLUMNAR = tuple(_SCANS)  # suffixes of files with columns; any other file is one text
_JSON = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Documents:
    """Texts in their own order; `read` brings some of them into memory, in one pass."""

    name: str  # of the file, or what stands for several
    n: int
    read: Callable[[Sequence[int]], list[str]]  # places (from 0) -> texts; a missing value is an empty text


def load(path: str | Path, column: str | None = None) -> Documents:
    """Return the documents of one file: a whole text file, or a column of a CSV, JSONL or Parquet file.

    Raises TextError as `load_all`, and if there is no such file.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name too long
        raise TextError(f"no file {str(path)[:300]!r}; give file:PATH, or file:PATH#COLUMN for CSV, JSONL and Parquet")
    return load_all([path], column, name=path.name)


def load_all(paths: Sequence[Path], column: str | None = None, *, name: str) -> Documents:
    """Return the documents of files of one kind, in the order given.

    Args:
        paths: files that are there.
        column: of CSV, JSONL and Parquet files; None for text files, each of which is one document.
        name: of the whole.

    Raises TextError for a column that is missing, not text or given for text files, files that are not what their
    names say, empty, or not UTF-8. Pages of a Parquet file are only checked when they are read.
    """
    stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    return _load(stamps, column, name)


@lru_cache(maxsize=64)  # a sweep asks for every cell; a file that changed has another stamp
def _load(stamps: tuple[tuple[Path, int, int], ...], column: str | None, name: str) -> Documents:
    paths = [path for path, _, _ in stamps]
    kind = paths[0].suffix.lower()
    if kind not in COLUMNAR:
        if column is not None:
            raise TextError(
                f"{paths[0]} has no columns, but column {column!r} is asked for; files with columns end in "
                f"{', '.join(COLUMNAR)}"
            )
        if not any(_whole(path).strip() for path in paths):
            raise TextError(f"{_named(paths)} holds no text; give a file that does")
        return Documents(name, len(paths), lambda places: [_whole(paths[place]) for place in places])
    with _reading(paths):
        scan = _scan(paths, kind, column or "")
        n = _count(scan, kind, column or "", _named(paths))
    return Documents(name, n, lambda places: _rows(paths, scan.select(pl.col(column or "").alias("text")), places))


def _whole(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # no translation of line ends
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8 full of NULs
        raise TextError(f"{path} holds a NUL, so it is no UTF-8 text; convert it first")
    return text


def _scan(paths: Sequence[Path], kind: str, column: str) -> pl.LazyFrame:
    """Return a scan of all columns, `column` among them and text."""
    # Which columns are text is seen with types inferred.
    inferred = pl.scan_csv(list(paths)) if kind == ".csv" else _SCANS[kind](list(paths))
    allowed = [name for name, dtype in inferred.collect_schema().items() if dtype == pl.String]
    if column not in allowed:
        raise TextError(
            f"{_named(paths)} has no text column {column!r}; it has {str(allowed)[:200]}: give #COLUMN after it"
        )
    return _SCANS[kind](list(paths))


def _count(scan: pl.LazyFrame, kind: str, column: str, named: str) -> int:
    """Return the number of rows; all but Parquet, which says it at its end, is read through once, and checked."""
    text = pl.col(column)
    checks = {
        "filled": (text.str.strip_chars() != "").sum(),
        "broken": text.str.contains("\0", literal=True).any(),
        "cells": pl.sum_horizontal(pl.all().count()),  # every column, or a line with too many would pass
    }
    found = scan.select(pl.len().alias("n"), **({} if kind == ".parquet" else checks)).collect(engine="streaming")
    (counts,) = found.iter_rows(named=True)
    if not counts["n"] or counts.get("filled") == 0:
        raise TextError(f"{named} holds no text in column {column!r}; give one that does")
    if kind in _JSON and counts["broken"]:  # polars makes NUL of \ud800
        raise TextError(f"{named} holds a lone surrogate or a NUL in column {column!r}; remove it")
    return counts["n"]


def _rows(paths: Sequence[Path], scan: pl.LazyFrame, places: Sequence[int]) -> list[str]:
    wanted = scan.with_row_index("place").filter(pl.col("place").is_in(list(places))).select("place", "text")
    with _reading(paths):
        found = dict(wanted.collect(engine="streaming").iter_rows())
    return [found[place] or "" for place in places]


@contextmanager
def _reading(paths: Sequence[Path]) -> Iterator[None]:
    """Turn what the reader raises into TextError."""
    try:
        yield
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        kind = paths[0].suffix[1:]
        raise TextError(f"{_named(paths)} can't be read as {kind} in UTF-8: {reason}") from error


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} (and {len(paths) - 1} more)"
