"""What a dry run expected, kept beside the rows of its store, and said again beside what the sweep took."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path

from capacity import files
from capacity.sweep.plan import Estimate, at_once, span


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the missing cells of a grid were expected to take, in one process."""

    n_cells: int  # that were missing
    seconds: float  # loading, scoring and decoding included
    n_bytes: int  # the most memory at once


def keep(folder: Path, keys: Iterable[str], estimates: Sequence[Estimate]) -> None:
    """Write what a dry run found of a grid whose cells have these keys; a folder that takes no file is let be."""
    expected = Expected(
        n_cells=sum(part.n_cells - part.n_there for part in estimates),
        seconds=at_once(estimates, 1),
        n_bytes=max((part.n_bytes for part in estimates), default=0),
    )
    with contextlib.suppress(OSError):
        files.write(_path(folder, keys), json.dumps(asdict(expected)).encode())


def load(folder: Path, keys: Iterable[str]) -> Expected | None:
    """Return what the last dry run of a grid into this store expected; None: there was none, or it can't be read."""
    try:
        read = json.loads(_path(folder, keys).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    names = [field.name for field in fields(Expected)]
    if not isinstance(read, dict) or sorted(read) != sorted(names):
        return None
    whole = all(type(read[name]) is int for name in ("n_cells", "n_bytes"))
    if not whole or not all(type(value) in (int, float) and 0 <= value < inf for value in read.values()):
        return None
    return Expected(**read)


def beside(expected: Expected, *, n_new: int, seconds: float, n_bytes: int) -> str:
    """Return what a person reads of a sweep that is over: what it took, and what was expected.

    n_new: cells that this process measured; where they are not those expected, nothing is compared and the text is
    empty. n_bytes: the most memory it had.
    """
    if not n_new or n_new != expected.n_cells:
        return ""
    memory = f"{n_bytes / 1e9:.2f} GB of memory, {expected.n_bytes / 1e9:.2f} expected"
    return f"took {span(seconds)}, {span(expected.seconds)} were expected; {memory}"


def _path(folder: Path, keys: Iterable[str]) -> Path:
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
    return folder / "expected" / f"{digest}.json"
