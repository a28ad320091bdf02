"""Rows of several stores in one, where the same cell has the same rows."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from capacity.store.shards import collect, valid, write

_MAY_DIFFER = ["seconds", "versions", "threads"]
_MAY_BE_MISSING = [  # null where it was not recorded, kept or followed: beside a value that is no other row
    "schema", "budget", "limit", "text_seed", "source_bits_low", "source_bits_high", "bits_with_min", "mem",
    "curve_right", "curve_bits",
]  # fmt: skip


def merge(into: Path, stores: Sequence[Path], *, keep_first: bool) -> tuple[int, int]:
    """Return how many cells were new in `into`, and how many were there; see store.merge."""
    shards = {folder: valid(folder, set(), set_aside=False) for folder in dict.fromkeys([into, *stores])}
    if not keep_first:
        _check(shards)
    known = set(collect(shards[into], ["key"], None)["key"])
    n_new, n_there = 0, 0
    for folder in stores:
        keys = set(collect(shards[folder], ["key"], None)["key"])
        n_there += len(keys & known)
        if new := keys - known:
            write(into, collect(shards[folder], None, new))
            n_new += len(new)
        known |= keys
    return n_new, n_there


def _check(shards: dict[Path, list[Path]]) -> None:
    """Raise ValueError where a shard has other rows of a cell than those before it, of its folder or another."""
    before: list[Path] = []
    for folder, some in shards.items():
        for shard in some:
            if differ := _differing(before, shard):
                have = [path.parent for path in before if collect([path], ["key"], set(differ[:1])).height]
                places = " or ".join(dict.fromkeys(map(str, have)))
                raise ValueError(
                    f"{len(differ)} cells of {folder} have other rows in {places}, the first is {differ[0]}; measure "
                    "them anew, or keep the rows of the folder that is named first (--keep-first)"
                )
            before.append(shard)


def _differing(before: list[Path], shard: Path) -> list[str]:
    """Return the keys whose rows in a shard are others than in those before it."""
    both = set(collect(before, ["key"], None)["key"]) & set(collect([shard], ["key"], None)["key"])
    if not both:
        return []
    earlier, later = (
        collect(where, None, both).drop(_MAY_DIFFER).partition_by("key", as_dict=True) for where in (before, [shard])
    )
    return sorted(str(key) for (key,), rows in earlier.items() if not _alike(rows, later[key,]))


def _alike(rows: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Return whether rows of a cell are the same in all that both have."""
    if rows.height != other.height:
        return False
    lacking = [name for name in _MAY_BE_MISSING if rows[name].is_null().all() or other[name].is_null().all()]
    return rows.drop(lacking).equals(other.drop(lacking))
