"""The keys of a large shard in a file of their own, so that asking for keys reads no rows.

Such a file begins with the hash of the rest, which names the shard's size and time: it holds for that shard alone, as
it was when it was last verified. It may be lost or left over without harm.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from capacity import files

LEAST_BYTES = 2**20  # of a shard; a smaller one is read as fast
_FOLDER = "keys"
_DIGEST = 32  # bytes


def _place(shard: Path) -> Path:
    return shard.parent / _FOLDER / f"{shard.stem}.json"


def keep(shard: Path, keys: Iterable[str]) -> None:
    """Write the keys of a shard that is known to be whole; where nothing can be written, there is no such file."""
    with contextlib.suppress(OSError):
        stat = shard.stat()
        if stat.st_size >= LEAST_BYTES:
            rest = json.dumps([stat.st_size, stat.st_mtime_ns, sorted(set(keys))]).encode()
            files.write(_place(shard), hashlib.sha256(rest).digest() + rest)


def load(shard: Path) -> frozenset[str] | None:
    """Return the keys of a shard; None where no file has them, or it is damaged or another shard's."""
    stat = shard.stat()
    if stat.st_size < LEAST_BYTES:
        return None
    try:
        data = _place(shard).read_bytes()
    except OSError:
        return None
    rest = memoryview(data)[_DIGEST:]
    if hashlib.sha256(rest).digest() != data[:_DIGEST]:
        return None
    size, time, keys = json.loads(bytes(rest))
    return frozenset(keys) if (size, time) == (stat.st_size, stat.st_mtime_ns) else None


def clear(folder: Path) -> None:
    """Remove the files of shards that are there no more."""
    for path in (folder / _FOLDER).glob("*.json"):
        if not (folder / f"{path.stem}.parquet").exists():
            path.unlink(missing_ok=True)
