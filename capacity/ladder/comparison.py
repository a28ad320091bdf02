"""What trained models hold, along width, depth, training and learning rate."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import log2
from pathlib import Path
from typing import Any

import polars as pl

from capacity import gains, metrics, models, scaling, sweep
from capacity.ladder.facts import FACTS

# What trends and laws are of, by its column: what a chart calls it.
MEASURES = {
    "tokens_held": "exact length at one budget (tokens)",
    "longest": "longest of several searches (tokens)",
    "bits": "bits of random tokens that come back",
    "gain": "text-specific gain (bits)",
}
HELD: dict[str, Any] = {
    "n_texts": pl.Int64,
    "tokens_held": pl.Float64,  # mean exact length of natural texts, one search at one budget
    "low": pl.Float64,  # of tokens_held, 95% over texts
    "high": pl.Float64,
    "n_censored": pl.Int64,  # of these searches, that ended with their budget or the text
    "longest": pl.Float64,  # mean over texts of the longest of several searches and fresh fits
    "limits": pl.Float64,  # share of these texts whose longest is their limit
    "bits": pl.Float64,  # mean exact length of random tokens, times the bits of one
    "certified": pl.Float64,  # of these, see gains.certified_lengths: a constant less, so that it has no exponent
    "gain": pl.Float64,  # what a text's own vector saves beyond a shared one, mean over texts
}
# What models are compared along, and what they share then.
AXES: dict[str, tuple[str, ...]] = {
    "width": ("depth", "rate", "planned"),
    "depth": ("width", "rate", "planned"),
    "tokens": ("width", "depth", "rate", "planned"),
    "rate": ("width", "depth", "planned"),
}


def measure(
    table: pl.DataFrame,
    folder: Path | str | None = None,
    *,
    fresh: Sequence[int] = (),
    missing: str = "measure",
    **settings: Any,
) -> sweep.Measured:
    """Return the rows of models of which some may not be on this machine: those are loaded, never measured.

    Rows of another training than that of the facts are left out.

    Args:
        table: FACTS of the models.
        folder: of the store, as of sweep.measure.
        fresh: seeds of fits at one token more than the longest (sweep.limits); none: no such fits.
        missing: of sweep.measure.
        settings: of sweep.grid.

    Raises ValueError for a model that is here and is another training than that of the facts.
    """
    run = partial(sweep.limits, seeds=fresh) if fresh else sweep.measure
    names = table["model"].to_list()
    here = [name for name, digest in table.select("model", "revision").iter_rows() if _is_here(name, digest)]
    n_new = 0
    if missing == "measure" and here:
        n_new = run(sweep.grid(model=here, **settings), folder).n_new
    wanted = sweep.grid(model=names, **settings) if names else []
    revisions = dict(table.select("model", "revision").drop_nulls().iter_rows())
    done = run(wanted, folder, missing="skip" if missing == "measure" else missing, revisions=revisions)
    return replace(done, n_new=n_new, n_there=done.n_there - n_new)


def held(
    table: pl.DataFrame, rows: pl.DataFrame, *, ends: pl.DataFrame | None = None, gain: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return what each model holds: FACTS and HELD, of the models of which anything is there; the rest is null.

    A model of which some texts are missing that others have counts as not measured.

    table: of FACTS; rows: from `measure`, of at most one natural source; ends: from metrics.limits, by model; gain:
    from gains.text_specific_gain, by model.
    """
    drawn = pl.col("source") == "random_tokens"
    natural, even = rows.filter(~drawn), rows.filter(drawn)
    parts = []
    if natural.height:
        length = metrics.exact_length(natural, by=["model"])
        parts.append(length.select("model", "low", "high", "n", "n_censored", n_texts="n", tokens_held="value"))
    if ends is not None and ends.height:
        known = (pl.col("kind") == "limit").mean()
        parts.append(ends.group_by("model").agg(longest=pl.col("tokens").mean(), limits=known, n=pl.len()))
    if even.height:
        certified = gains.certified_lengths(sweep.with_source_bits(even, []), by=["model"])
        less = log2(even["limit"].max() + 1)  # pyright: ignore[reportOperatorIssue] (certified_lengths: whole numbers)
        parts.append(certified.select("model", "n", bits=pl.col("value") + less, certified="value"))
    if gain is not None and gain.height:
        parts.append(gain.select("model", "n", gain="value"))
    for part in parts:
        whole = part.filter(pl.col("n") == pl.col("n").max()).drop("n")
        table = table.join(whole, on="model", how="left", maintain_order="left")
    every = pl.concat([pl.DataFrame(schema=FACTS | HELD), table], how="diagonal_relaxed")
    return every.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in MEASURES))


def along(held: pl.DataFrame, axis: str, *, held_out: bool = False) -> pl.DataFrame:
    """Return the models that differ along one of AXES, and in seeds, alone: the most values of it that there are.

    Checkpoints are among them along `tokens` alone, other learning rates along `rate` alone; held_out: models that laws
    are to foretell, too. Empty where no two values of the axis are there.
    """
    fitted = held.filter(
        ~pl.col("held_out") | held_out,
        pl.lit(axis == "tokens") | (pl.col("tokens") == pl.col("planned")),
        pl.lit(axis == "rate") | (pl.col("rate") == 1),
    )
    groups = [part for _, part in fitted.group_by(AXES[axis], maintain_order=True) if part[axis].n_unique() > 1]
    groups = groups if axis == "rate" else sorted(groups, key=lambda part: (-part[axis].n_unique(), -len(part)))[:1]
    return pl.concat(groups).sort(axis, "seed") if groups else held.clear()


def above_zero(held: pl.DataFrame, value: str, by: Sequence[str]) -> pl.DataFrame:
    """Return the rungs, of one value of `by`, all of whose trainings have a value above 0; what has none is left out.

    A law in logarithms has no place for others, and a rung without its worst trainings would be too good.
    """
    return held.drop_nulls(value).filter((pl.col(value) > 0).all().over(by))


def trends(held: pl.DataFrame) -> dict[str, dict[str, scaling.Trend]]:
    """Return how each of MEASURES goes along width, depth and tokens, where two values of these are there.

    Models that laws are to foretell are among them; rungs are those of `above_zero`.
    """
    by_axis: dict[str, dict[str, scaling.Trend]] = {}
    for axis in ("width", "depth", "tokens"):
        for name in MEASURES:
            own = above_zero(along(held, axis, held_out=True), name, [axis])
            if own[axis].n_unique() > 1:
                training = own.select(pl.format("{} {} {}", "width", "depth", "seed")).to_series().to_list()
                x, y = own.select(axis, name).to_numpy().T
                by_axis.setdefault(axis, {})[name] = scaling.trend(x, y, training=training)
    return by_axis


def by_rate(held: pl.DataFrame) -> pl.DataFrame:
    """Return the exponents of MEASURES between the least and the most width at each learning rate: rate, *MEASURES.

    Of rates with trainings at both; null where a mean is not above 0. No intervals: there are two widths.
    """
    every = along(held, "rate")
    rows = []
    for (rate,), part in every.group_by("rate", maintain_order=True):
        exponents: dict[str, float | None] = dict.fromkeys(MEASURES)
        for name in MEASURES:
            own = above_zero(part, name, ["width"])
            if own["width"].n_unique() > 1:
                x, y = own.select("width", name).to_numpy().T
                exponents[name] = scaling.trend(x, y).means.exponent
        rows.append({"rate": rate} | exponents)
    return pl.DataFrame(rows, schema={"rate": pl.Float64} | dict.fromkeys(MEASURES, pl.Float64)).sort("rate")


def _is_here(name: str, revision: str | None) -> bool:
    if not name.startswith(models.TRAINED):
        return True
    try:
        folder = models.locate(name)
    except models.ModelError:
        return False
    if revision is not None and models.digest(folder) != revision:
        raise ValueError(
            f"{name} in {folder.parent} is another training than that of the facts; write those of yours "
            "(ladder.write) and name their file, or set CAPACITY_HOME to another folder"
        )
    return True
