"""Frames in, `alt.Chart` out: one function a figure, ours and published as layers."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from capacity.charts.style import WIDTH


def training_curves(curves: pl.DataFrame, *, points: int = 200) -> alt.Chart:
    """Return loss against tokens seen, one line a model. curves: model, step, tokens, loss_nats.

    Losses are averaged over runs of steps, so that about `points` remain of each model.
    """
    every = max(1, curves["step"].max() // points + 1)  # pyright: ignore
    smooth = curves.group_by("model", pl.col("step") // every).agg(pl.col("tokens").max(), pl.col("loss_nats").mean())
    return (
        alt.Chart(smooth)
        .mark_line()
        .encode(
            x=alt.X("tokens:Q", title="tokens seen", axis=alt.Axis(format="~s")),
            y=alt.Y("loss_nats:Q", title="training loss (nats a token)", scale=alt.Scale(zero=False)),
            color=alt.Color("model:N", title="model"),
        )
        .properties(width=2 * WIDTH, height=280)
    )


def accuracy_by_length(table: pl.DataFrame, *, threshold: float = 0.99) -> alt.FacetChart:
    """Return mean accuracy against length, a panel a source, a colour a model, 95% intervals as bands.

    table: from metrics.accuracy_by_length, with model, source, length, value, low, high, recipe.
    """
    base = alt.Chart().encode(
        x=alt.X("length:Q", title="length of the text (tokens)", scale=alt.Scale(type="log", base=2)),
        color=alt.Color(
            "series:N", title=None, legend=alt.Legend(orient="bottom", columns=3, labelLimit=300, symbolOpacity=1)
        ),
    )
    band = base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title="accuracy (share of tokens)", scale=alt.Scale(domain=[0, 1])),
        tooltip=["series", "length", alt.Tooltip("value", format=".3f"), alt.Tooltip("low", format=".3f"),
                 alt.Tooltip("high", format=".3f"), "n"],
    )  # fmt: skip
    rule = alt.Chart().mark_rule(strokeDash=[4, 3], color="gray").encode(y=alt.datum(threshold))
    named = table.with_columns(pl.format("{}, {}", "model", "recipe").alias("series"))
    return (
        alt.layer(band, line, rule, data=named)
        .properties(width=WIDTH - 90, height=230)
        .facet(facet=alt.Facet("source:N", title=None), columns=3)
    )


def exact_length_by_model(table: pl.DataFrame, *, order: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """Return the mean exact length of each model and source with 95% intervals.

    table: from metrics.exact_length, with model, source, value, low, high, n, n_censored; order: of the models.
    """
    base = alt.Chart(table).encode(
        y=alt.Y("model:N", title=None, sort=list(order)),
        yOffset=alt.YOffset("source:N"),
        color=alt.Color("source:N", title="source", legend=alt.Legend(orient="bottom")),
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="exact length (tokens; mean over texts, 95% interval)", scale=alt.Scale(zero=True)),
        x2="high:Q",
    )
    points = base.mark_point(filled=True, size=70).encode(
        x="value:Q",
        tooltip=["model", "source", alt.Tooltip("value", format=".2f"), alt.Tooltip("low", format=".2f"),
                 alt.Tooltip("high", format=".2f"), "n", "n_censored"],
    )  # fmt: skip
    return (bars + points).properties(width=2 * WIDTH - 60, height=60 * max(1, table["model"].n_unique()))


def capacity_by_width(
    ours: pl.DataFrame, published: pl.DataFrame, limit: pl.DataFrame, *, title: str = "tokens in one vector"
) -> alt.LayerChart | alt.FacetChart:
    """Return what one vector holds against width, ours and the paper's on one chart, under a limit.

    ours, published: model, source, d_model, value (in the unit that `title` names, above 0), series, and low and high
    where there is an interval; limit: model, d_model, value (Eq. 1).
    """
    x = alt.X(
        "d_model:Q",
        title="width of the [mem] vector (d_model)",
        scale=alt.Scale(type="log", base=2, nice=False, padding=20),
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(type="log"))
    both = pl.concat([ours, published], how="diagonal").filter(pl.col("value") > 0)
    points = (
        alt.Chart(both)
        .mark_point(filled=True, size=75, opacity=0.85)
        .encode(
            x=x, y=y,
            color=alt.Color("series:N", title=None, legend=alt.Legend(orient="right", labelLimit=260)),
            shape=alt.Shape("source:N", title="source"),
            tooltip=["model", "source", "d_model", alt.Tooltip("value", format=".1f"), "series"],
        )
    )  # fmt: skip
    bounds = alt.Chart(limit).mark_tick(color="black", thickness=2, width=14).encode(
        x=x, y=y, tooltip=["model", "d_model", alt.Tooltip("value", format=".0f", title="Eq. 1")]
    )  # fmt: skip
    layers = [bounds, points]
    if "low" in both.columns:
        spread = alt.Chart(both.filter(pl.col("low") > 0)).mark_rule(opacity=0.6)
        layers.append(spread.encode(x=x, y="low:Q", y2="high:Q", color="series:N"))
    return alt.layer(*layers).properties(width=WIDTH + 180, height=340)


def rates_by_length(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return token-steps a second by length, one line a method: benchmark.medians of one model. Bars: the range."""
    base = alt.Chart(table).encode(
        x=alt.X("length:Q", title="length (tokens)", scale=alt.Scale(type="log", base=2, nice=False, padding=16)),
        color=alt.Color("method:N", title="", sort=None, legend=alt.Legend(orient="top")),
    )
    rate = alt.Y("rate:Q", title="token-steps a second", scale=alt.Scale(type="log"))
    tips = ["method", "length", "texts", "rate", "low", "high", "ratio", "share"]
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=45)).encode(y=rate, tooltip=tips)
    return (line + bars).properties(width=2 * WIDTH, height=280)


def exact_length_by_cost(table: pl.DataFrame, *, title: str) -> alt.LayerChart | alt.FacetChart:
    """Return the mean exact length by what was spent, one line a recipe: metrics.exact_length_by_cost.

    title: of the horizontal axis, with its unit. Shaded: 95% intervals.
    """
    base = alt.Chart(table).encode(
        x=alt.X("spent:Q", title=title, scale=alt.Scale(type="log", nice=False)),
        color=alt.Color("recipe:N", title="recipe", sort=None, legend=alt.Legend(orient="top", symbolOpacity=1)),
    )
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title="mean exact length (tokens)"), tooltip=["recipe", "spent", "value", "low", "high", "n"]
    )
    return (band + line).properties(width=WIDTH, height=260)
