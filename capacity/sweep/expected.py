"""What a dry run expected, kept beside the rows of its store, and said again beside what the sweep took."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from capacity import files
from capacity.sweep.estimate import Estimate, at_once, span


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the missing cells of a grid were expected to take."""

    n_cells: int  # that were missing
    seconds: dict[int, float]  # by the number of workers; loading, scoring and decoding included
    most_seconds: float  # of one worker, if every fit takes all its steps
    n_bytes: int  # the most memory of one process at once


def keep(folder: Path, keys: Iterable[str], estimates: Sequence[Estimate], *, jobs: int) -> None:
    """Write what a dry run found of a grid whose cells have these keys; a folder that takes no file is let be."""
    expected = Expected(
        n_cells=sum(one.n_cells - one.n_there for one in estimates),
        seconds={n: at_once(estimates, n) for n in {1, jobs}},
        most_seconds=float(sum(one.seconds for one in estimates)),
        n_bytes=max((one.n_bytes for one in estimates), default=0),
    )  # fmt: skip
    with contextlib.suppress(OSError):
        files.write(_path(folder, keys), json.dumps(asdict(expected)).encode())


def load(folder: Path, keys: Iterable[str]) -> Expected | None:
    """Return what the last dry run of a grid into this store expected; None: there was none, or it can't be read."""
    try:
        read = json.loads(_path(folder, keys).read_bytes())
        return Expected(**read | {"seconds": {int(n): float(seconds) for n, seconds in read["seconds"].items()}})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def beside(expected: Expected, *, n_new: int, seconds: float, jobs: int, n_bytes: int | None) -> str:
    """Return what a person reads of a sweep that is over: what it took, and what was expected of as many workers.

    n_new: cells that were measured; where they are not those expected, nothing is compared. n_bytes: the most memory
    of this process, where it measured itself.
    """
    if n_new != expected.n_cells or jobs not in expected.seconds:
        return ""
    memory = f"; {n_bytes / 1e9:.2f} GB of memory, {expected.n_bytes / 1e9:.2f} expected" if n_bytes else ""
    return f"took {span(seconds)}, {span(expected.seconds[jobs])} were expected{memory}"


def _path(folder: Path, keys: Iterable[str]) -> Path:
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
    return folder / "expected" / f"{digest}.json"
