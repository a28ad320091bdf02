"""Small tables that are kept beside rows: in a folder of the store, or beside the rows that travel."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from capacity import provenance
from capacity.store.places import places
from capacity.store.shards import valid, write

_OWN = ("of", "versions", "machine")  # what a kept table has besides


def read_tables(folders: Sequence[Path], schema: pl.Schema, *, later: Sequence[str] = ()) -> pl.DataFrame:
    """Return the tables of these folders as one, in a schema.

    later: columns that older tables lack, which are null there.

    A table whose bytes do not hash to its name is left out, with a StoreWarning; raises ValueError for one of other
    columns.
    """
    tables = [pl.DataFrame(schema=schema)]
    for path in (path for folder in folders for path in valid(folder, set(), set_aside=False)):
        table = pl.read_parquet(path, glob=False)
        lacking = [pl.lit(None, schema[name]).alias(name) for name in later if name not in table.columns]
        filled = table.with_columns(lacking)
        filled = filled.select(schema.names()) if {*filled.columns} == {*schema} else filled
        if filled.schema != schema:
            raise ValueError(f"{path} has the columns {table.columns}, such a table has {schema.names()}; remove it")
        tables.append(filled)
    return pl.concat(tables)


def kept(
    kind: str,
    rows: pl.DataFrame,
    make: Callable[[pl.DataFrame], pl.DataFrame],
    folder: Path | str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    missing: str = "measure",
    travelling: bool = True,
) -> pl.DataFrame:
    """Return what was computed of stored vectors, computed once; a frame without columns where it is nowhere.

    It is kept as a table in the folder `kind` of the store, or beside the rows that travel, with the machine it was
    computed on: decoding may end otherwise on another. A damaged table is left out, with a StoreWarning.

    Args:
        kind: of the table, a name for its folder.
        rows: of the store, whose vectors it is computed of: with other vectors it is another table.
        make: returns it for the rows.
        folder: of the store; None takes store.default_path().
        settings: of the computation: with others it is another table.
        missing: `measure` what is not there, or `skip` it, as where the model is not on this machine.
        travelling: take the tables that travel with the project for there, too.

    Raises ValueError for another word for what is missing.
    """
    if missing not in ("measure", "skip"):
        raise ValueError(f"missing is {missing!r}; measure and skip are allowed")
    vectors = sorted([key, probe] for key, probe in rows.select("key", "probe").iter_rows())
    named = hashlib.sha256(
        json.dumps([kind, settings or {}, vectors], sort_keys=True, default=str).encode()
    ).hexdigest()
    place, every = places(kind, folder, travelling=travelling)
    for path in (path for folder in every for path in valid(folder, set(), set_aside=False)):
        table = pl.read_parquet(path, glob=False)
        if table.get_column("of", default=pl.Series([None]))[:1].to_list() == [named]:
            return table.drop(_OWN)
    if missing == "skip" or rows.is_empty():
        return pl.DataFrame()
    own = {"of": named, "versions": json.dumps(provenance.versions()), "machine": provenance.machine()}
    table = make(rows)
    write(place, table.with_columns(pl.lit(value).alias(name) for name, value in own.items()))
    return table
