"""The numbers in `papers/` as frames: one row a number, with its table, unit and place."""

import math
from pathlib import Path

import polars as pl

from capacity import resources

__all__ = ["KEY", "SCHEMA", "by_depth", "by_width", "load", "papers", "table_1", "wide"]
__dir__ = __all__.copy  # what completion shows

SCHEMA = pl.Schema(
    {
        "paper": pl.String,  # folder in papers/
        "item": pl.String,  # table, figure or page, as the paper calls it
        "model": pl.String,  # name on the hub
        "source": pl.String,  # text source; null for a fact about the model
        "n_mem": pl.Int64,  # [mem] vectors; 0 is the model without any; null where there is nothing to count
        "metric": pl.String,  # what differs beside the columns is in its name: information_gain_length_256
        "value": pl.Float64,  # in `unit`
        "sd": pl.Float64,  # standard deviation over rows, in `unit`; null where none is published
        "unit": pl.String,  # billions, dimensions, layers, nats, ratio, steps, tokens, tokens/byte
        "where": pl.String,  # file and cell of the paper's repository
    }
)
_TABLE_1 = {"gain (bits)": "information_gain", "decoding capacity (tokens)": "decoding_capacity"}
KEY = ("paper", "item", "model", "source", "n_mem", "metric")  # names one number


def papers() -> list[str]:
    """Return the names of the papers whose numbers are at hand, sorted.

    Raises FileNotFoundError when the folder of papers holds no table.

    >>> papers()
    ['kuratov2025', 'tarasov2026']
    """
    names = sorted({path.parent.name for path in resources.papers().glob("*/*.csv")})
    if not names:
        raise FileNotFoundError(f"no published numbers in {resources.papers()}; install the package whole")
    return names


def load(paper: str | None = None, item: str | None = None) -> pl.DataFrame:
    """Return the published numbers of one paper and one item (default: all), one row a number, in `SCHEMA`.

    Rows come by paper, then file, then as written. What the numbers mean is in `papers/<paper>/notes.md`.
    Raises ValueError for a paper or an item (of that paper) that is not there, and a file with other columns.

    >>> load("tarasov2026", "project page").select("model", "value").row(0)
    ('meta-llama/Llama-3.1-8B', 1438.0)
    """
    known = papers()
    if paper is not None and paper not in known:
        raise ValueError(f"unknown paper {paper!r}; choose one of {known}")
    chosen = known if paper is None else [paper]
    rows = pl.concat([_read(path) for name in chosen for path in sorted((resources.papers() / name).glob("*.csv"))])
    if item is None:
        return rows
    items = rows["item"].unique(maintain_order=True).to_list()
    if item not in items:
        raise ValueError(f"unknown item {item!r} in {', '.join(chosen)}; choose one of {items}")
    return rows.filter(pl.col("item") == item)


def wide(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each (model, source, n_mem) of `rows`, a column for each metric, in their order.

    `rows` is what `load` returns, of one item: `wide(load("kuratov2025", "Table 1"))` has the columns
    decoding_capacity (tokens), information_gain (nats), token_gain (tokens), information_gain_sd and
    token_gain_sd. A metric with any published deviation gets a column `<metric>_sd`; what was not published
    is null.
    Raises ValueError when a cell would hold two numbers.

    >>> wide(load("kuratov2025", "Eq. 1, Fig. 5")).select("d_model", "vocab_size", "token_capacity").row(0)
    (768.0, 50304.0, 787.0)
    """
    cell = ["model", "source", "n_mem"]
    twice = rows.filter(rows.select(*cell, "metric").is_duplicated())
    if not twice.is_empty():
        raise ValueError(
            f"{twice.height} numbers share their model, source, n_mem and metric with another, "
            f"in the items {twice['item'].unique(maintain_order=True).to_list()}; give the rows of one item"
        )
    deviations = rows.filter(pl.col("sd").is_not_null()).with_columns(pl.col("metric") + "_sd", value="sd")
    return pl.concat([rows, deviations]).pivot("metric", index=cell, values="value")


def table_1(metric: str) -> pl.DataFrame:
    """Return one number of Kuratov et al. 2025, Table 1, by width, one row a model and source.

    Columns: model, source, n_mem, d_model, vocab_size, value, low, high.

    metric: decoding_capacity or token_gain (tokens), information_gain (bits, the paper's nats over ln 2). low and high:
    one standard deviation over rows below and above, null where none is published. Models come by width, then name.

    Raises ValueError for another metric.

    >>> table_1("decoding_capacity").filter(model="EleutherAI/pythia-160m").select("source", "d_model", "value").row(0)
    ('pg19', 768, 80.0)
    """
    rows = load("kuratov2025", "Table 1")
    allowed = rows["metric"].unique(maintain_order=True).to_list()
    if metric not in allowed:
        raise ValueError(f"unknown metric {metric!r} of Table 1; choose one of {allowed}")
    facts = wide(load("kuratov2025", "Eq. 1, Fig. 5")).select("model", pl.col("d_model", "vocab_size").cast(pl.Int64))
    bits = pl.when(unit="nats").then(1 / math.log(2)).otherwise(1.0)
    value, sd = pl.col("value") * bits, pl.col("sd") * bits
    joined = rows.filter(metric=metric).join(facts, on="model", maintain_order="left")
    return joined.select(
        "model", "source", "n_mem", "d_model", "vocab_size", value=value, low=value - sd, high=value + sd
    ).sort("d_model", "model", maintain_order=True)  # fmt: skip


def by_width() -> pl.DataFrame:
    """Return what one vector of each published model holds of PG-19: model, family, d_model, ..., measure, value.

    Measures: `gain (bits)` and `decoding capacity (tokens)` of Kuratov et al. 2025, Table 1; `exact length (tokens)` of
    whole models by progressive cramming, teacher-forced (Tarasov et al. 2026, project page and slides). d_model,
    vocab_size and billions (of parameters) are those of the papers and configs.
    """
    own = {name: table_1(metric) for name, metric in _TABLE_1.items()}
    page = load("tarasov2026", "project page").filter(metric="exact_length_teacher_forced")
    slides = by_depth().filter("whole").with_columns(n_mem=pl.lit(1, pl.Int64), source=pl.lit("pg19"))
    own["exact length (tokens)"] = pl.concat([page, slides], how="diagonal").unique("model")
    facts = pl.concat(
        wide(load(*item)).select("model", pl.col("d_model", "vocab_size").cast(pl.Int64), billions="n_parameters")
        for item in (("kuratov2025", "Eq. 1, Fig. 5"), ("tarasov2026", "model configs"))
    ).unique("model")  # fmt: skip
    every = pl.concat(
        rows.filter(n_mem=1, source="pg19").select("model", measure=pl.lit(name), value="value")
        for name, rows in own.items()
    )
    family = pl.col("model").str.extract(r"/(?:Meta-)?([A-Za-z]+)").alias("family")
    joined = every.drop_nulls("value").join(facts, on="model", maintain_order="left")
    return joined.select("model", family, "d_model", "vocab_size", "billions", "measure", "value").sort(
        "measure", "d_model", "model"
    )


def by_depth() -> pl.DataFrame:
    """Return the tokens that the first layers of models hold: model, layers, whole (all its layers), value.

    Source: Tarasov et al. 2026, slides.
    """
    layers = pl.col("metric").str.extract(r"first_(\d+)_layers").cast(pl.Int64)
    rows = load("tarasov2026", "depth and size table").select("model", "value", layers=layers)
    whole = pl.col("layers") > 8  # 1, 2, 4 and 8 layers were kept, else all
    return rows.select("model", "layers", whole.alias("whole"), "value")


def _read(path: Path) -> pl.DataFrame:
    rows = pl.read_csv(path, schema_overrides=SCHEMA)
    if rows.schema != SCHEMA:
        raise ValueError(f"{path} has the columns {rows.columns}; allowed are {SCHEMA.names()}, in this order")
    return rows
