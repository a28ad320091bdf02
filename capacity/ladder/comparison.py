"""What trained models hold, along width, depth, training and learning rate."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from capacity import gains, metrics, models, scaling, sweep, verdicts

# What is kept of each trained model, beside its rows; weights don't travel.
FACTS: dict[str, Any] = {
    "model": pl.String,  # its name, models.TRAINED before that of its folder
    "width": pl.Int64,
    "depth": pl.Int64,
    "heads": pl.Int64,
    "parameters": pl.Int64,
    "seed": pl.Int64,  # of weights and order
    "rate": pl.Float64,  # factor of the learning rate
    "tokens": pl.Int64,  # seen
    "planned": pl.Int64,  # tokens of the whole training; a checkpoint has seen fewer
    "held_out": pl.Boolean,  # left out of the laws, to be foretold
    "held_out_nats": pl.Float64,  # a token, of books never trained on
}
# What models are compared along, and what they share then.
AXES: dict[str, tuple[str, ...]] = {
    "width": ("depth", "rate", "planned"),
    "depth": ("width", "rate", "planned"),
    "tokens": ("width", "depth", "rate", "planned"),
    "rate": ("width", "depth", "planned"),
}


def table(path: Path | str | None = None) -> pl.DataFrame:
    """Return the facts in a CSV file; None: those that travel with the rows, empty where none do."""
    place = sweep.measured().parent / "ladder.csv" if path is None else Path(path)
    if path is None and not place.is_file():
        return pl.DataFrame(schema=FACTS)
    return pl.read_csv(place, schema=FACTS)


def measure(
    names: Sequence[str] | pl.Series, folder: Path | str | None = None, *, missing: str = "measure", **settings: Any
) -> sweep.Measured:
    """Return the rows of models of which some may not be on this machine: those are loaded, never measured.

    names: of models; folder, missing: of sweep.measure; settings: of sweep.grid.
    """
    here = [name for name in names if not name.startswith(models.TRAINED) or _found(name)]
    n_new = 0
    if missing == "measure" and here:
        n_new = sweep.measure(sweep.grid(model=here, **settings), folder).n_new
    wanted = sweep.grid(model=list(names), **settings) if len(names) else []
    done = sweep.measure(wanted, folder, missing="skip" if missing == "measure" else missing)
    return replace(done, n_new=n_new, n_there=done.n_there - n_new)


def held(table: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return what each model holds: FACTS, n_texts, tokens_held, low, high, bits, of the models that have rows.

    tokens_held: the mean exact length of natural texts, with its interval over texts; bits: those certified on random
    tokens (gains.certified_lengths), null where there are no such rows.

    table: of FACTS; rows: from `measure`, of at most one natural source.
    """
    drawn = pl.col("source") == "random_tokens"
    nothing = {
        "low": pl.Float64,
        "high": pl.Float64,
        "n_texts": pl.Int64,
        "tokens_held": pl.Float64,
        "bits": pl.Float64,
    }
    if rows.filter(~drawn).is_empty():
        return table.clear().with_columns(pl.lit(None, kind).alias(name) for name, kind in nothing.items())
    length = metrics.exact_length(rows.filter(~drawn), by=["model"])
    joined = table.join(
        length.select("model", "low", "high", n_texts="n", tokens_held="value"), on="model", maintain_order="left"
    )  # fmt: skip
    even = rows.filter(drawn)
    if even.is_empty():
        return joined.with_columns(bits=pl.lit(None, pl.Float64))
    certified = gains.certified_lengths(sweep.with_source_bits(even, []), by=["model"]).select("model", bits="value")
    return joined.join(certified, on="model", how="left", maintain_order="left")


def along(held: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Return the models that differ along one of AXES, and in seeds, alone: the most values of it that there are.

    Checkpoints are among them along `tokens` alone, other learning rates along `rate` alone; models that are to be
    foretold are in none. Empty where no two values of the axis are there.
    """
    fitted = held.filter(
        ~pl.col("held_out"),
        pl.lit(axis == "tokens") | (pl.col("tokens") == pl.col("planned")),
        pl.lit(axis == "rate") | (pl.col("rate") == 1),
    )
    groups = [part for _, part in fitted.group_by(AXES[axis], maintain_order=True) if part[axis].n_unique() > 1]
    groups = groups if axis == "rate" else sorted(groups, key=lambda part: (-part[axis].n_unique(), -len(part)))[:1]
    return pl.concat(groups).sort(axis, "seed") if groups else held.clear()


def means(held: pl.DataFrame, value: str) -> pl.DataFrame:
    """Return rung means: width, depth, parameters, value, n (trainings); means are of the logarithm.

    held: of trainings that differ in width, depth and seed alone; value: a column of it, above 0.
    """
    by = held.drop_nulls(value).group_by("width", "depth", "parameters", maintain_order=True)
    return by.agg(pl.col(value).log().mean().exp(), n=pl.len()).sort("width", "depth")


def lines(laws: dict[str, scaling.Law], x: scaling.Numbers) -> pl.DataFrame:
    """Return what laws say at each x, as charts.laws draws it: x, y, law."""
    return pl.DataFrame([{"x": at, "y": law.predict(at), "law": name} for name, law in laws.items() for at in x])


def beyond(held: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return what laws are to foretell: rung, width, parameters, tokens_held, bits (null: not known).

    held: from `held`, of which the rungs that were held out; others: models by name, with some of these columns.
    """
    out = held.filter("held_out", pl.col("rate") == 1, pl.col("tokens") == pl.col("planned"))
    name = pl.format("width {}, depth {}, {} trainings", "width", "depth", "n")
    kinds = {
        "rung": pl.String,
        "width": pl.Int64,
        "parameters": pl.Int64,
        "tokens_held": pl.Float64,
        "bits": pl.Float64,
    }
    by = [means(out.filter(pl.col(y) > 0), y) for y in ("tokens_held", "bits")]
    own = by[0].with_columns(rung=name).join(by[1].drop("n"), on=["width", "depth", "parameters"], how="left")
    parts = [part.rename({"model": "rung"}, strict=False) for part in (own, others)]
    empty = pl.DataFrame(schema=kinds)
    return pl.concat(
        [empty, *(part.select(c for c in kinds if c in part.columns) for part in parts)], how="diagonal_relaxed"
    )


def foretold(laws: dict[str, dict[str, scaling.Named]], rungs: pl.DataFrame) -> pl.DataFrame:
    """Return what laws foretell of rungs that they have not seen: rung, of, law, foretold, low, high, held, miss.

    laws: of tokens_held and bits, by name (scaling.named); rungs: from `beyond`. low, high: where such a rung lies in
    95% of cases; miss: standard errors by which it holds more (scaling.Law.miss).
    """
    rows = []
    for rung in rungs.iter_rows(named=True):
        for y, by_name in laws.items():
            for name, named_law in by_name.items() if rung[y] else ():
                x = rung["width" if named_law.of_width else "parameters"]
                low, high = named_law.law.interval(x)
                rows.append({
                    "rung": rung["rung"], "of": y, "law": name, "foretold": named_law.law.predict(x), "low": low,
                    "high": high, "held": rung[y], "miss": named_law.law.miss(x, rung[y]),
                })  # fmt: skip
    kinds: dict[str, Any] = dict.fromkeys(("rung", "of", "law"), pl.String)
    floats = dict.fromkeys(("foretold", "low", "high", "held", "miss"), pl.Float64)
    return pl.DataFrame(rows, schema=kinds | floats)


def verdict(axis: str, trend: scaling.Trend | None) -> verdicts.Verdict:
    """Return whether what is held grows along an axis: it is told only where it does by more than seeds make."""
    claim = f"training alike, capacity grows with {'more training' if axis == 'tokens' else axis}"
    change = "more seeds and rungs of the ladder"
    if trend is None:
        return verdicts.Verdict(
            outcome="cannot tell", claim=claim, number="no models trained alike were measured", change=change
        )
    training_law, law = trend.trainings, trend.means
    over = f"{law.n} rung means" if law.freedom else "two rung means, no interval"
    number = (
        f"tokens held go as {axis}^{training_law.exponent:.2f} ({training_law.low:.2f} to {training_law.high:.2f}) "
        f"over {training_law.n} trainings, "
        f"{law.exponent:.2f}{f' ({law.low:.2f} to {law.high:.2f})' if law.freedom else ''} over {over}; from end to "
        f"end they change by a factor of {math.exp(trend.rise):.2f}, seeds by {math.exp(trend.seeds):.2f}"
    )
    outcome = {1: "holds", -1: "does not hold", 0: "cannot tell"}[trend.seen]
    return verdicts.Verdict(outcome=outcome, claim=claim, number=number, change=change)


def _found(name: str) -> bool:
    try:
        return models.locate(name).is_dir()
    except models.ModelError:
        return False
