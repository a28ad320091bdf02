"""Files written whole or not at all, what a kill left of them cleaned, and what an error says in one line."""

import contextlib
import operator
import os
import time
import uuid
from pathlib import Path
from typing import Any

__all__ = ["clean", "first_line", "list_hint", "whole_number", "write"]
__dir__ = __all__.copy  # what completion shows

_LEFTOVER_SECONDS = 3600.0  # an unfinished file this old belongs to no writer any more
_PARTS = ".*.part"


def write(path: Path | str, data: bytes) -> None:
    """Write a file, whole or not at all, with the folders above it; what was there stays until the new one is on disk.

    A kill leaves at most an unfinished file beside it, which no reader takes for one and a later write into the folder
    cleans. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clean(path.parent)
    part = path.with_name(f".{path.name[:150]}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":  # the new name outlasts a power cut only when the folder is on disk, too
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; a young one is being written by another."""
    for part in folder.glob(_PARTS):
        with contextlib.suppress(FileNotFoundError):  # its writer renamed it, or another one removed it
            if time.time() - part.stat().st_mtime > _LEFTOVER_SECONDS:
                part.unlink()


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, cut to 200 characters; its type's name where it says nothing.

    >>> first_line(ValueError("no\\nyes")), first_line(KeyError())
    ('no', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def list_hint(value: object) -> str:
    """Return what an error adds where a list was handed over as text, as papermill's -p does; "" for all else.

    >>> list_hint(["a"]), list_hint("a"), list_hint("[1, 2]")
    ('', '', "; a list was given as text: papermill reads it with -y '{NAME: [1, 2]}' or -f FILE.yaml")
    """
    if not (isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]"):
        return ""
    return f"; a list was given as text: papermill reads it with -y '{{NAME: {value.strip()[:80]}}}' or -f FILE.yaml"


def whole_number(name: str, value: Any, *, least: int) -> int:
    """Return a value as an int; raises ValueError, which names it, for one below `least` or no whole number.

    >>> whole_number("n_texts", 4, least=1)
    4
    >>> whole_number("n_texts", 2.5, least=1)
    Traceback (most recent call last):
    ValueError: n_texts is 2.5; give a whole number from 1 on
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name} is {str(value)[:80]}{list_hint(value)}; give a whole number from {least} on")
    return number
