"""What trained models hold, along width, depth, training and learning rate."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from capacity import gains, metrics, models, scaling, sweep, verdicts
from capacity.ladder.facts import FACTS

# What is measured of each model, by its column: what a chart calls it.
MEASURES = {
    "tokens_held": "exact length at one budget (tokens)",
    "longest": "longest exact length of several searches (tokens)",
    "bits": "certified bits of random tokens",
    "gain": "text-specific gain (bits)",
}
HELD: dict[str, Any] = {
    "n_texts": pl.Int64,
    "tokens_held": pl.Float64,  # mean exact length of natural texts, one search at one budget
    "low": pl.Float64,  # of tokens_held, 95% over texts
    "high": pl.Float64,
    "longest": pl.Float64,  # mean over texts of the longest of several searches and fresh fits
    "limits": pl.Float64,  # share of these texts whose longest is their limit
    "bits": pl.Float64,  # certified on random tokens, see gains.certified_lengths
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
    names: Sequence[str] | pl.Series,
    folder: Path | str | None = None,
    *,
    fresh: Sequence[int] = (),
    missing: str = "measure",
    **settings: Any,
) -> sweep.Measured:
    """Return the rows of models of which some may not be on this machine: those are loaded, never measured.

    names: of models; folder, missing: of sweep.measure; fresh: seeds of fits at one token more than the longest, of
    sweep.limits, none: no such fits; settings: of sweep.grid.
    """
    run = partial(sweep.limits, seeds=fresh) if fresh else sweep.measure
    here = [name for name in names if not name.startswith(models.TRAINED) or _found(name)]
    n_new = 0
    if missing == "measure" and here:
        n_new = run(sweep.grid(model=here, **settings), folder).n_new
    wanted = sweep.grid(model=list(names), **settings) if len(names) else []
    done = run(wanted, folder, missing="skip" if missing == "measure" else missing)
    return replace(done, n_new=n_new, n_there=done.n_there - n_new)


def held(
    table: pl.DataFrame, rows: pl.DataFrame, *, ends: pl.DataFrame | None = None, gain: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return what each model holds: FACTS and HELD, of the models of which anything is there; the rest is null.

    table: of FACTS; rows: from `measure`, of at most one natural source; ends: from metrics.limits, by model; gain:
    from gains.text_specific_gain, by model.
    """
    drawn = pl.col("source") == "random_tokens"
    natural, even = rows.filter(~drawn), rows.filter(drawn)
    parts = []
    if natural.height:
        length = metrics.exact_length(natural, by=["model"])
        parts.append(length.select("model", "low", "high", n_texts="n", tokens_held="value"))
    if ends is not None and ends.height:
        known = (pl.col("kind") == "limit").mean()
        parts.append(ends.group_by("model").agg(longest=pl.col("tokens").mean(), limits=known))
    if even.height:
        certified = gains.certified_lengths(sweep.with_source_bits(even, []), by=["model"])
        parts.append(certified.select("model", bits="value"))
    if gain is not None and gain.height:
        parts.append(gain.select("model", gain="value"))
    for part in parts:
        table = table.join(part, on="model", how="left", maintain_order="left")
    every = pl.concat([pl.DataFrame(schema=FACTS | HELD), table], how="diagonal_relaxed")
    return every.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in MEASURES))


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

    held: of trainings that differ in width, depth and seed alone; value: a column of it, of which what is not above 0
    is left out.
    """
    by = held.filter(pl.col(value) > 0).group_by("width", "depth", "parameters", maintain_order=True)
    return by.agg(pl.col(value).log().mean().exp(), n=pl.len()).sort("width", "depth")


def trends(held: pl.DataFrame) -> dict[str, dict[str, scaling.Trend]]:
    """Return how each of MEASURES goes along width, depth and tokens, where two values of these are there.

    What is not above 0 is left out.
    """
    by_axis: dict[str, dict[str, scaling.Trend]] = {}
    for axis in ("width", "depth", "tokens"):
        for name in MEASURES:
            own = along(held, axis).filter(pl.col(name) > 0)
            if own[axis].n_unique() > 1:
                by_axis.setdefault(axis, {})[name] = scaling.trend(*own.select(axis, name).to_numpy().T)
    return by_axis


def drawn(held: pl.DataFrame, axis: str, by_measure: dict[str, scaling.Trend]) -> dict[str, pl.DataFrame]:
    """Return the points and lines of charts.trends along an axis: trainings, and the law of rung means."""
    part = along(held, axis)
    points = [
        part.filter(pl.col(name) > 0).select(
            x=axis, y=name, rung="model", series=pl.format("seed {}", "seed"), of=pl.lit(MEASURES[name])
        )
        for name in by_measure
    ]  # fmt: skip
    laws = [
        lines({"rung means": trend.means}, sorted(set(part[axis]))).with_columns(of=pl.lit(MEASURES[name]))
        for name, trend in by_measure.items()
    ]
    return {"points": pl.concat(points), "lines": pl.concat(laws)}


def lines(laws: dict[str, scaling.Law], x: scaling.Numbers) -> pl.DataFrame:
    """Return what laws say at each x, as charts.laws draws it: x, y, law."""
    return pl.DataFrame([{"x": at, "y": law.predict(at), "law": name} for name, law in laws.items() for at in x])


def beyond(held: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return what laws are to foretell: rung, width, parameters, and MEASURES (null: not known).

    held: from `held`, of which the rungs that were held out; others: models by name, with some of these columns.
    """
    out = held.filter("held_out", pl.col("rate") == 1, pl.col("tokens") == pl.col("planned"))
    rung = ["width", "depth", "parameters"]
    own = out.group_by(rung, maintain_order=True).agg(n=pl.len())
    for name in MEASURES:
        own = own.join(means(out, name).drop("n"), on=rung, how="left", maintain_order="left")
    own = own.with_columns(rung=pl.format("width {}, depth {}, {} trainings", "width", "depth", "n"))
    sizes = {"rung": pl.String, "width": pl.Int64, "parameters": pl.Int64}
    parts = [part.rename({"model": "rung"}, strict=False) for part in (own, others)]
    empty = pl.DataFrame(schema=sizes | dict.fromkeys(MEASURES, pl.Float64))
    return pl.concat(
        [empty, *(part.select(c for c in empty.columns if c in part.columns) for part in parts)], how="diagonal_relaxed"
    )


def foretold(laws: dict[str, dict[str, scaling.Named]], rungs: pl.DataFrame) -> pl.DataFrame:
    """Return what laws foretell of rungs that they have not seen: rung, of, law, foretold, low, high, held, miss.

    laws: by measure and name (scaling.named); rungs: from `beyond`. low, high: where such a rung lies in
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


def verdict(axis: str, by_measure: dict[str, scaling.Trend]) -> verdicts.Verdict:
    """Return whether what is held grows along an axis: it does where all of MEASURES do, by more than seeds make."""
    claim = f"training alike, capacity grows with {'more training' if axis == 'tokens' else axis}"
    change = "more seeds and rungs of the ladder"
    if not by_measure:
        return verdicts.Verdict(
            outcome="cannot tell", claim=claim, number="no models trained alike were measured", change=change
        )
    first, *others = (trend.seen for trend in by_measure.values())
    told = first if all(seen == first for seen in others) else 0
    outcome = {1: "holds", -1: "does not hold", 0: "cannot tell"}[told]
    number = "; ".join(
        f"{MEASURES[name]} as {axis}^{trend.trainings.exponent:.2f} ({trend.trainings.low:.2f} to "
        f"{trend.trainings.high:.2f}) over {trend.trainings.n} trainings, from end to end {math.exp(trend.rise):.2f} "
        f"times, seeds {math.exp(trend.seeds):.2f} times"
        for name, trend in by_measure.items()
    )
    return verdicts.Verdict(outcome=outcome, claim=claim, number=number, change=change)


def _found(name: str) -> bool:
    try:
        return models.locate(name).is_dir()
    except models.ModelError:
        return False
