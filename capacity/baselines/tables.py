"""Small tables that are kept beside rows: in a folder of the store, or beside the rows that travel."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from capacity import store
from capacity.sweep import measured


def places(name: str, folder: Path | str | None, *, travelling: bool) -> tuple[Path, list[Path]]:
    """Return where a kind of tables of a store goes, and all folders where such tables are."""
    beside, own = measured().with_name(name), Path(folder if folder is not None else store.default_path())
    place = beside if own.resolve() == measured().resolve() else own / name
    return place, [place, *([beside] if travelling else [])]


def load(folders: Sequence[Path], schema: pl.Schema, *, later: Sequence[str] = ()) -> pl.DataFrame:
    """Return the tables of these folders as one, in a schema.

    later: columns that older tables lack, which are null there.

    A table whose bytes do not hash to its name is left out, with a StoreWarning; raises ValueError for one of other
    columns.
    """
    tables = [pl.DataFrame(schema=schema)]
    for path in (path for folder in folders for path in store.valid(folder, set(), set_aside=False)):
        table = pl.read_parquet(path, glob=False)
        lacking = [pl.lit(None, schema[name]).alias(name) for name in later if name not in table.columns]
        filled = table.with_columns(lacking)
        filled = filled.select(schema.names()) if {*filled.columns} == {*schema} else filled
        if filled.schema != schema:
            raise ValueError(f"{path} has the columns {table.columns}, such a table has {schema.names()}; remove it")
        tables.append(filled)
    return pl.concat(tables)
