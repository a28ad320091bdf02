"""Rows of several stores in one, where the same cell has the same rows."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from capacity.store.shards import write

_MAY_DIFFER = ("seconds", "versions", "threads")
Read = Callable[..., pl.DataFrame]  # store.read


def merge(into: Path, stores: Sequence[Path], read: Read, *, keep_first: bool) -> tuple[int, int]:
    """Return how many cells were new in `into`, and how many were there; see store.merge."""
    there = places = [into]
    for folder in stores:
        if not keep_first and (differ := _differing(read, places, folder)):
            raise ValueError(
                f"{len(differ)} cells of {folder} have other rows in {' or '.join(map(str, places))}, the first is "
                f"{differ[0]}; measure them anew, or keep the rows of the folder that is named first (--keep-first)"
            )
        places = [*places, folder]
    n_new, n_there = 0, 0
    for folder in stores:
        known, keys = set(read(there, ["key"])["key"]), set(read([folder], ["key"])["key"])
        n_there += len(keys & known)
        if new := keys - known:
            write(into, read([folder], keys=new))
            n_new += len(new)
    return n_new, n_there


def _differing(read: Read, places: Sequence[Path], folder: Path) -> list[str]:
    """Return the keys whose rows in a folder are others than in those before it (_MAY_DIFFER apart)."""
    both = set(read(places, ["key"])["key"]) & set(read([folder], ["key"])["key"])
    one, other = (
        read(where, keys=both).drop("seconds", "versions", "threads").partition_by("key", as_dict=True)
        for where in (places, [folder])
    )
    return sorted(str(key) for (key,), rows in one.items() if not rows.equals(other[key,]))
