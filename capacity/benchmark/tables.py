"""Rates that were measured, as files: where they lie, read or measured, and what stands for several."""

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from capacity import files, provenance, resources


def folder(
    speed: str, model: str, *, dtype: str, kinds: Sequence[str] = ("rates", "compiled", "costs", "driver")
) -> Path:
    """Return the folder of a model's rates in that of all, `speed`; "": those that travel with the project.

    Raises ValueError where one of these `kinds` does not travel, so that nothing is timed that was not asked for.
    """
    name = f"{model.replace(':', '-').replace('/', '--')}-{dtype}"
    if speed:
        return Path(speed) / name
    place = resources.data() / "measured" / "speed" / name
    if missing := [kind for kind in kinds if not (place / f"{kind}.csv").is_file()]:
        raise ValueError(
            f"no {', '.join(missing)} of {model} in {dtype} travel with the project; -p speed=build/speed measures "
            "them on this machine, in minutes"
        )
    return place


def kept(path: Path | str, measure: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Return the table in the CSV file `path`; where there is none, measure it and write it there first.

    Columns machine, versions and date are added to what is measured. A file that holds no row or ends within one is set
    aside with a warning, and measured again.
    """
    path = Path(path)
    if path.is_file():
        data = path.read_bytes()
        with contextlib.suppress(pl.exceptions.PolarsError):
            table = pl.read_csv(data)
            if table.height and data.endswith(b"\n"):
                return table
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        warnings.warn(f"{path} was cut short or is empty: it is {aside} now, and measured again", stacklevel=2)
    table = measure().with_columns(
        machine=pl.lit(provenance.machine()), versions=pl.lit(json.dumps(provenance.versions())),
        date=pl.lit(time.strftime("%Y-%m-%d", time.gmtime())),
    )  # fmt: skip
    files.write(path, table.write_csv().encode())
    return pl.read_csv(path)


def medians(table: pl.DataFrame) -> pl.DataFrame:
    """Return median, least and most rate of each setting of `rates`, with its ratio to `plain` of the same repeat.

    Columns: model, length, n_mem, texts, method, rate, low, high, ratio (median; null without plain), share.
    """
    plain_rate = table.filter(method="plain").select("model", "length", "n_mem", "repeat", pl.col("rate").alias("base"))
    each = table.join(plain_rate, on=["model", "length", "n_mem", "repeat"], how="left")
    return (
        each.group_by("model", "length", "n_mem", "texts", "method", maintain_order=True)
        .agg(
            pl.col("rate").min().alias("low"), pl.col("rate").max().alias("high"), pl.col("rate").median(),
            (pl.col("rate") / pl.col("base")).median().alias("ratio"), pl.col("share").median(),
        )
    )  # fmt: skip
