"""Laws of what trained models hold: fitted to rungs, drawn, asked of rungs that they have not seen, and judged."""

import math
from typing import Any

import polars as pl

from capacity import scaling, verdicts
from capacity.ladder.comparison import MEASURES, above_zero, along

_RUNG = ["width", "depth", "parameters"]


def means(held: pl.DataFrame, value: str) -> pl.DataFrame:
    """Return rung means: width, depth, parameters, value, n (trainings); means are of the logarithm.

    held: of trainings that differ in width, depth and seed alone; value: a column of it, of rungs as in `above_zero`.
    """
    by = above_zero(held, value, _RUNG).group_by(_RUNG, maintain_order=True)
    return by.agg(pl.col(value).log().mean().exp(), n=pl.len()).sort("width", "depth")


def law_table(laws: dict[str, dict[str, scaling.Named]]) -> pl.DataFrame:
    """Return what laws are, a row a law: of, law, b, low, high, rungs, spread (ln), left out (ln).

    low and high are null where the exponent was held, or two rungs are all. laws: by what they are of, and name.
    """
    rows = [
        {"of": kind, "law": name, "b": named.law.exponent}
        | dict(zip(("low", "high"), _interval(named.law), strict=True))
        | {"rungs": named.law.n, "spread (ln)": named.law.spread, "left out (ln)": named.left_out}
        for kind, by_name in laws.items() for name, named in by_name.items()
    ]  # fmt: skip
    floats = ("b", "low", "high", "spread (ln)", "left out (ln)")
    kinds: dict[str, Any] = {"of": pl.String, "law": pl.String} | dict.fromkeys(floats, pl.Float64)
    return pl.DataFrame(rows, schema_overrides=kinds) if rows else pl.DataFrame(schema=kinds | {"rungs": pl.Int64})


def drawn(held: pl.DataFrame, axis: str, by_measure: dict[str, scaling.Trend]) -> dict[str, pl.DataFrame]:
    """Return the points and lines of charts.trends along an axis: trainings, and the law of rung means."""
    part = along(held, axis, held_out=True)
    points = [
        above_zero(part, name, [axis]).select(
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
    own = out.group_by(_RUNG, maintain_order=True).agg(n=pl.len())
    for name in MEASURES:
        own = own.join(means(out, name).drop("n"), on=_RUNG, how="left", maintain_order="left")
    own = own.with_columns(rung=pl.format("width {}, depth {} (trained {} times)", "width", "depth", "n"))
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


def missed(foretold: pl.DataFrame) -> str:
    """Return in words which laws missed which rungs: what these hold is outside of where 95% of such rungs lie.

    foretold: from `foretold`. A law whose spread was not seen tells nothing, and is not counted.
    """
    told = foretold.filter(pl.col("low").is_not_nan())
    outside = told.filter(~pl.col("held").is_between("low", "high"))
    said = [
        f"{row['law']} foretold {row['foretold']:.1f} ({row['low']:.1f} to {row['high']:.1f}) for {row['rung']}, "
        f"which has {row['held']:.1f}, {abs(row['miss']):.1f} standard errors {'more' if row['miss'] > 0 else 'less'} "
        f"({MEASURES[row['of']]})"
        for row in outside.iter_rows(named=True)
    ]
    return f"{len(said)} of {told.height} foretold numbers are missed" + (f": {'; '.join(said)}" if said else "")


def verdict(axis: str, by_measure: dict[str, scaling.Trend], rates: pl.DataFrame | None = None) -> verdicts.Verdict:
    """Return whether what is held grows along an axis: where all that was measured does, beyond seeds.

    rates: from `by_rate`, whose exponents are said beside.
    """
    claim = f"training alike, capacity grows with {'more training' if axis == 'tokens' else axis}"
    change = "trainings that end at each number of tokens" if axis == "tokens" else "more rungs of the ladder"
    if not by_measure:
        number = f"no two models of another {axis} that were trained alike were measured"
        return verdicts.Verdict(outcome="cannot tell", claim=claim, number=number, change=change)
    first, *others = (trend.seen for trend in by_measure.values())
    told = first if all(seen == first for seen in others) else 0
    number = "; ".join(
        f"{MEASURES[name]} as {axis}^{trend.exponent:.2f} ({_said(trend)}{_rates(name, rates)}), from end to end "
        f"{math.exp(trend.rise):.2f} times, seeds {_times(trend.seeds)}"
        for name, trend in by_measure.items()
    )
    outcome = {1: "holds", -1: "does not hold", 0: "cannot tell"}[told]
    return verdicts.Verdict(outcome=outcome, claim=claim, number=number, change=change)


def constant(by_measure: dict[str, scaling.Trend], foretold: pl.DataFrame) -> verdicts.Verdict:
    """Return whether bits a dimension are constant: whether what is held in bits goes as the width to the power of 1.

    It does not hold where the interval of each measure in bits leaves out 1, over one number a width. by_measure: from
    `trends`, along the width; foretold: from `foretold`, of rungs that were held out, said beside.
    """
    own = {name: by_measure[name] for name in ("bits", "gain") if name in by_measure}
    said = [f"{MEASURES[name]} go as d_model^{trend.exponent:.2f} ({_said(trend)})" for name, trend in own.items()]
    said += [
        f"as a constant {MEASURES[row['of']]} are foretold to be {row['foretold']:.1f} ({row['low']:.1f} to "
        f"{row['high']:.1f}) for {row['rung']}, which has {row['held']:.1f}"
        for row in foretold.filter(pl.col("low").is_not_nan(), pl.col("of").is_in([*own]), law="a · d_model").iter_rows(
            named=True
        )
    ]
    against = [trend.high < 1 or trend.low > 1 for trend in own.values()]
    return verdicts.Verdict(
        outcome="does not hold" if against and all(against) else "cannot tell",
        claim="bits a dimension are constant",
        number="; ".join(said) or "no models trained alike at several widths were measured",
        change="more widths of one family, trained alike, each more than once",
    )


def _interval(law: scaling.Law) -> tuple[float | None, float | None]:
    return (law.low, law.high) if law.free and law.freedom > 0 else (None, None)


def _said(trend: scaling.Trend) -> str:
    over = f"over {trend.n} {'trainings' if trend.over_trainings else 'rung means'}"
    return f"no interval {over}" if math.isnan(trend.low) else f"{trend.low:.2f} to {trend.high:.2f} {over}"


def _rates(name: str, rates: pl.DataFrame | None) -> str:
    own = [] if rates is None else rates.filter(pl.col("rate") != 1)[name].drop_nulls().to_list()
    return f"; {min(own):.2f} to {max(own):.2f} between the two widths at other learning rates" if own else ""


def _times(ln: float) -> str:
    return "not trained twice" if math.isnan(ln) else f"{math.exp(ln):.2f} times"
