"""Rows of CSV and JSONL files: checked in one pass, which keeps where each begins; later read from there alone.

Nothing is guessed from the first rows, and no name is a pattern: a cell is text or it is refused with its line.
"""

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MARK = b"\xef\xbb\xbf"
_FIELD = re.compile(r'"[^"]*(?:""[^"]*)*"|[^",]*')
_NO_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf|true|false|", re.IGNORECASE | re.ASCII)
_SHOWN = 20  # columns named in a message


class RowError(ValueError):
    """A row that can't be read: says in which line, why, and what to do."""


class ColumnError(ValueError):
    """No such column of text; `str` names it, and those of text."""

    def __init__(self, name: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{name!r}; it has {str(list(allowed))[:200]}")


@dataclass(frozen=True)
class Column:
    """A column of one file: where its rows begin."""

    path: Path
    kind: str  # csv, jsonl
    names: tuple[str, ...]  # of a CSV's columns
    name: str
    starts: array  # bytes before each row
    filled: bool  # some cell holds more than space

    def read(self, places: Sequence[int]) -> list[str]:
        """Return the cells at these rows, from 0; a missing one is an empty text."""
        with self.path.open("rb") as file:
            return [self._cell(file, self.starts[place]) for place in places]

    def _cell(self, file: BinaryIO, start: int) -> str:
        file.seek(start)
        record = next(_records(file, self.kind, start=start))
        return _row(record, self.kind, self.names).get(self.name) or ""


def column(path: Path, kind: str, name: str) -> Column:
    """Return a column of a file, every row of which was read.

    kind: csv or jsonl. Raises RowError for what is no such row, no UTF-8, or a cell of the column that is no text (null
    and a key that is not there are empty texts); ColumnError where no cell is text.
    """
    starts, has_text, filled, wrong = array("Q"), False, False, ""
    with path.open("rb") as file:
        records = _records(file, kind)
        names = _header(records, name) if kind == "csv" else ()
        for record in records:
            cell = _row(record, kind, names).get(name)
            starts.append(record.start)
            if isinstance(cell, str):
                has_text = has_text or kind != "csv" or _NO_TEXT.fullmatch(cell) is None or cell.isspace()
                filled = filled or bool(cell.strip())
                _check(cell, name, record.line)
            elif cell is not None and not wrong:
                shown = json.dumps(cell)[:40]
                wrong = f"row {len(starts)} (line {record.line}) of column {name!r} is {shown}, no text"
    if not starts or (names and name in names and not filled):
        return Column(path, kind, names, name, starts, False)
    if not has_text:
        raise ColumnError(name, text_columns(path, kind))
    if wrong:
        raise RowError(f"{wrong}; write it as a text, in quotes, or take the row out")
    return Column(path, kind, names, name, starts, filled)


def text_columns(path: Path, kind: str) -> list[str]:
    """Return the names of a file's first columns that have a cell of text."""
    text_names: dict[str, None] = {}
    with path.open("rb") as file:
        records = _records(file, kind)
        names = _header(records, None) if kind == "csv" else ()
        for record in records:
            for name, cell in _row(record, kind, names).items():
                if isinstance(cell, str) and (kind != "csv" or not _NO_TEXT.fullmatch(cell)):
                    text_names[name] = None
            if len(text_names) >= _SHOWN:
                break
    return [name for name in names if name in text_names] or list(text_names)


@dataclass(frozen=True)
class _Record:
    start: int  # byte
    line: int  # from 1
    text: str  # without the end of its last line


def _records(file: BinaryIO, kind: str, *, start: int = 0) -> Iterator[_Record]:
    """Yield what stands in each line; of a CSV, lines are put together until every quote has its other."""
    line, pending, begun = 0, [], (start, 1)
    odd = False
    for raw in file:
        line += 1
        if start == 0 and line == 1:
            begun = (len(_MARK) * raw.startswith(_MARK), 1)
            raw = raw.removeprefix(_MARK)
            start = begun[0]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(f"line {line} is no UTF-8 (byte {error.start}); convert the file first") from error
        start += len(raw)
        odd ^= kind == "csv" and text.count('"') % 2 == 1
        if odd:
            pending.append(text)
            continue
        text = "".join([*pending, text])
        pending.clear()
        if kind == "csv" or text.strip():
            yield _Record(*begun, text.removesuffix("\n").removesuffix("\r"))
        begun = (start, line + 1)
    if pending:
        raise RowError(
            f"line {begun[1]} has a quote that never ends; end it, or write a quote within a text twice, and the text "
            "in quotes"
        )


def _header(records: Iterator[_Record], name: str | None) -> tuple[str, ...]:
    first = next(records, None)
    names = tuple(_fields(first)) if first else ()
    if name is not None and names.count(name) > 1:
        raise RowError(f"line 1 has {names.count(name)} columns {name!r}; name each differently")
    return names


def _row(record: _Record, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the cells of a row by column. An empty line of a CSV is a row of missing cells."""
    if kind == "csv":
        cells = _fields(record) if record.text else []
        if cells and len(cells) != len(names):
            raise RowError(
                f"line {record.line} has {len(cells)} fields, the first line {len(names)}; put a text with commas or "
                "line ends in quotes"
            )
        return dict(zip(names, cells, strict=False))
    try:
        row = json.loads(record.text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"line {record.line} is no JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise RowError(f"line {record.line} is {record.text[:40]!r}, no object; write one object a line")
    return row


def _fields(record: _Record) -> list[str]:
    text, fields, at = record.text, [], 0
    while True:
        match = _FIELD.match(text, at)
        assert match is not None  # it matches nothing, too
        end, field = match.end(), match.group()
        fields.append(field[1:-1].replace('""', '"') if field.startswith('"') else field)
        if end == len(text):
            return fields
        if text[end] != ",":
            line = record.line + text.count("\n", 0, end)
            raise RowError(
                f"line {line} has a stray quote near {text[max(0, end - 20) : end + 10]!r}; write a quote within a "
                'text twice, and the text in quotes: "say ""hi"""'
            )
        at = end + 1


def _check(cell: str, name: str, line: int) -> None:
    if "\0" in cell:
        raise RowError(f"line {line} holds a NUL in column {name!r}; remove it, or convert the file to UTF-8 first")
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"line {line} holds a lone surrogate in column {name!r}; remove it") from error
