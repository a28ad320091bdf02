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

import numpy as np
import polars as pl
import polars.selectors as cs

from capacity.files import first_line
from capacity.texts import rows


class TextError(ValueError):
    """A source or text that can't be used: says what was given, what is allowed, what to do."""


_ROWS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}  # suffix -> the kind that `rows` reads
COLUMNAR = (".parquet", *_ROWS)  # suffixes of files with columns; any other file is one text


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
        return _parquet(paths, column or "", name) if kind == ".parquet" else _lines(paths, column or "", name)


def _whole(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # no translation of line ends
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8 full of NULs
        raise TextError(f"{path} holds a NUL, so it is no UTF-8 text; convert it first")
    return text


def _lines(paths: Sequence[Path], name: str, named: str) -> Documents:
    columns = [rows.column(path, _ROWS[path.suffix.lower()], name) for path in paths]
    if not any(column.filled for column in columns):
        raise TextError(f"{_named(paths)} holds no text in column {name!r}; give one that does")
    firsts = np.cumsum([0, *(len(column.starts) for column in columns)])  # the place of each file's first row

    def read(places: Sequence[int]) -> list[str]:
        texts: dict[int, str] = {}
        for number, column in enumerate(columns):
            inside = sorted({place for place in places if firsts[number] <= place < firsts[number + 1]})
            with _reading([column.path]):
                texts |= zip(inside, column.read([place - int(firsts[number]) for place in inside]), strict=True)
        return [texts[place] for place in places]

    return Documents(named, int(firsts[-1]), read)


def _parquet(paths: Sequence[Path], name: str, named: str) -> Documents:
    # An absolute path and no glob: every character of it is itself.
    scan = pl.scan_parquet([path.absolute() for path in paths], glob=False, hive_partitioning=False)
    types = scan.collect_schema()
    allowed = [column for column, dtype in types.items() if dtype in (pl.String, pl.Categorical, pl.Enum)]
    if name not in allowed:
        raise rows.ColumnError(name, allowed)
    texts = scan.select(cs.by_name(name).cast(pl.String).alias("text"))  # pl.col would take ^...$ and * as patterns
    n = texts.select(pl.len()).collect(engine="streaming").item()
    if not n:
        raise TextError(f"{_named(paths)} holds no text in column {name!r}; give one that does")

    def read(places: Sequence[int]) -> list[str]:
        wanted = texts.with_row_index("place").filter(pl.col("place").is_in(list(places)))
        with _reading(paths):
            text_by_place = dict(wanted.collect(engine="streaming").iter_rows())
        return [text_by_place[place] or "" for place in places]

    return Documents(named, n, read)


@contextmanager
def _reading(paths: Sequence[Path]) -> Iterator[None]:
    """Turn what the reader raises into TextError."""
    try:
        yield
    except rows.ColumnError as error:
        raise TextError(f"{_named(paths)} has no text column {error}: give #COLUMN after it") from error
    except (pl.exceptions.PolarsError, rows.RowError) as error:
        reason = first_line(error)
        raise TextError(f"{_named(paths)} can't be read as {paths[0].suffix[1:]} in UTF-8: {reason}") from error


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} (and {len(paths) - 1} more)"
