"""Frames in, `alt.Chart` out: one function a figure, ours and published as layers."""

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import (
    COLORS,
    EQ1,
    WIDTH,
    band,
    counts,
    model_color,
    model_order,
    panels,
    rules,
    source_color,
    source_order,
    tips,
    whole_numbers,
)


@takes(curves="model #step #tokens ?loss_nats")
def training_curves(curves: pl.DataFrame, *, points: int = 200) -> alt.Chart:
    """Return loss against tokens seen, one line a model. curves: model, step, tokens, loss_nats.

    Losses are averaged over runs of steps, so that about `points` remain of each model.
    """
    every = max(1, int(curves["step"].max() or 0) // points + 1)  # pyright: ignore
    smooth = curves.group_by("model", pl.col("step") // every).agg(pl.col("tokens").max(), pl.col("loss_nats").mean())
    return (
        alt.Chart(smooth)
        .mark_line()
        .encode(
            x=alt.X("tokens:Q", title="tokens seen", axis=alt.Axis(format="~s")),
            y=alt.Y("loss_nats:Q", title="training loss (nats a token)", scale=alt.Scale(zero=False)),
            color=model_color(smooth["model"].sort()),
        )
        .properties(width=2 * WIDTH, height=280)
    )


@takes(table="model source recipe +length #value #low #high -n")
def accuracy_by_length(table: pl.DataFrame, *, threshold: float = 0.99) -> alt.FacetChart:
    """Return mean accuracy against length, a panel a source, a colour a model, 95% intervals as bands.

    table: from metrics.accuracy_by_length, with model, source, length, value, low, high, recipe.
    """
    base = alt.Chart().encode(
        x=alt.X(
            "length:Q", title="length of the text (tokens)",
            scale=alt.Scale(type="log", base=2, nice=False, padding=8), axis=whole_numbers(table["length"]),
        ),
        color=model_color(table["model"]),
    )  # fmt: skip
    recipes = table["recipe"].unique(maintain_order=True).to_list()
    mean = base.encode(y=alt.Y("value:Q", title="accuracy (share of tokens)", scale=alt.Scale(domain=[0, 1])))
    # The dots are a layer of their own: a line with points has no stroke in its legend.
    line = mean.mark_line().encode(
        strokeDash=alt.StrokeDash("recipe:N", sort=recipes, title=None, legend=alt.Legend(orient="bottom")),
    )
    dots = mean.mark_point(filled=True, size=30, opacity=1).encode(
        tooltip=["model", "recipe", "length", *tips(("value", "low", "high"), digits=3), "n"],
    )
    rule = alt.Chart().mark_rule(strokeDash=[4, 3], color="gray").encode(y=alt.datum(threshold))
    drawn = alt.layer(band(base).encode(detail="recipe:N"), line, dots, rule, data=table)
    return panels(drawn.properties(width=WIDTH - 90, height=230), "source", source_order(table["source"]), columns=3)


@takes(table="model source #value #low #high -n -n_censored")
def exact_length_by_model(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the mean exact length of each model and source with 95% intervals.

    table: from metrics.exact_length, with model, source, value, low, high, n, n_censored.
    """
    base = alt.Chart(table).encode(
        y=alt.Y("model:N", title=None, sort=model_order(table["model"])),
        yOffset=alt.YOffset("source:N", sort=source_order(table["source"])),
        color=source_color(table["source"]),
    )
    x = alt.X(
        "value:Q",
        title="exact length (tokens; mean over texts, 95% interval)",
        scale=alt.Scale(zero=True),
        axis=counts(),
    )
    bars = rules(base, along="x")
    points = base.mark_point(filled=True, size=70).encode(
        x=x, tooltip=["model", "source", *tips(("value", "low", "high")), "n", "n_censored"]
    )
    return (bars + points).properties(width=2 * WIDTH - 60, height=60 * max(1, table["model"].n_unique()))


@takes(
    ours="model source +d_model #value series",
    published="model source +d_model #value series",
    limit="model +d_model +value",
)
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
    both = pl.concat([ours, published], how="diagonal_relaxed").filter(pl.col("value") > 0)
    names = [*both["series"].unique(maintain_order=True), EQ1]
    colors = alt.Scale(domain=names, range=[*COLORS[5 : 4 + len(names)], "black"])
    color = alt.Color("series:N", title=None, sort=names, scale=colors, legend=alt.Legend(labelLimit=260))
    points = (
        alt.Chart(both)
        .mark_point(filled=True, size=75, opacity=0.85)
        .encode(
            x=x, y=y,
            color=color,
            shape=alt.Shape("source:N", title="source"),
            tooltip=["model", "source", "d_model", alt.Tooltip("value", format=".1f"), "series"],
        )
    )  # fmt: skip
    bounds = alt.Chart(limit.with_columns(series=pl.lit(EQ1))).mark_tick(thickness=2, width=14).encode(
        x=x, y=y, color=color, tooltip=["model", "d_model", alt.Tooltip("value", format=".0f", title="Eq. 1")]
    )  # fmt: skip
    layers = [bounds, points]
    if "low" in both.columns:
        spread = alt.Chart(both.filter(pl.col("low") > 0)).mark_rule(opacity=0.6)
        layers.append(spread.encode(x=x, y="low:Q", y2="high:Q", color=color))
    return alt.layer(*layers).properties(width=WIDTH + 180, height=340)


@takes(table="method +length +rate #low #high -texts -ratio -share")
def rates_by_length(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return token-steps a second by length, one line a method: benchmark.medians of one model. Bars: the range."""
    base = alt.Chart(table).encode(
        x=alt.X(
            "length:Q",
            title="length (tokens)",
            scale=alt.Scale(type="log", base=2, nice=False, padding=16),
            axis=whole_numbers(table["length"]),
        ),
        color=alt.Color("method:N", title="", sort=None, legend=alt.Legend(orient="top")),
    )
    rate = alt.Y("rate:Q", title="token-steps a second", scale=alt.Scale(type="log"))
    tips = ["method", "length", "texts", "rate", "low", "high", "ratio", "share"]
    bars = rules(base)
    line = base.mark_line(point=alt.OverlayMarkDef(size=45)).encode(y=rate, tooltip=tips)
    return (line + bars).properties(width=2 * WIDTH, height=280)


@takes(table="+spent @color #value #low #high -n")
def exact_length_by_cost(
    table: pl.DataFrame, *, title: str, color: str = "recipe", value: str = "mean exact length (tokens)"
) -> alt.LayerChart | alt.FacetChart:
    """Return the mean exact length by what was spent, one line a recipe: metrics.exact_length_by_cost.

    title, value: of the axes, with their units; color: the column that tells the lines apart. A panel a model, where
    the table has that column. Shaded: 95% intervals.
    """
    base = alt.Chart(table).encode(
        x=alt.X("spent:Q", title=title, scale=alt.Scale(type="log", nice=False)),
        color=alt.Color(f"{color}:N", title=color, sort=None, legend=alt.Legend(orient="top", symbolOpacity=1)),
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title=value), tooltip=[color, "spent", "value", "low", "high", "n"]
    )
    drawn = (band(base) + line).properties(width=WIDTH, height=260)
    return panels(drawn, "model", model_order(table["model"]), columns=2) if "model" in table.columns else drawn


@takes(table="model text_id #tokens kind -n_searches -n_stalled -n_beyond -n_held -n_at")
def lengths_by_text(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return each text's longest exact length, a row a text, a panel a model; a bound points on. metrics.limits."""
    marks = {"limit": "circle", "search-limited": "triangle-right", "ended": "square"}
    names = {"limit": "limit", "search-limited": "search-limited: at least", "ended": "the text ends"}
    shown = table.with_columns(pl.col("kind").replace(names))
    drawn = alt.Chart(shown).mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("tokens:Q", title="longest exact length (tokens)", scale=alt.Scale(zero=True), axis=counts()),
        y=alt.Y("text_id:N", title=None),
        shape=alt.Shape(
            "kind:N", title=None, legend=alt.Legend(orient="bottom", columns=1),
            scale=alt.Scale(domain=list(names.values()), range=list(marks.values())),
        ),
        tooltip=["model", "text_id", "tokens", "kind", "n_searches", "n_stalled", "n_beyond", "n_held", "n_at"],
    ).properties(width=WIDTH - 150)  # fmt: skip
    return panels(drawn, "model", model_order(table["model"]), columns=2)


@takes(table="model series #tokens #share")
def shares_above(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the share of texts that hold more than so many tokens, as steps, one line a series, a panel a model.

    table: model, series, tokens, share (0 to 1), as metrics.survival; each line begins at (0, 1).
    """
    begun = table.select("model", "series").unique(maintain_order=True).with_columns(tokens=0.0, share=1.0)
    drawn = alt.Chart(pl.concat([begun, table.select(begun.columns)], how="vertical_relaxed")).mark_line(
        interpolate="step-after"
    ).encode(
        x=alt.X("tokens:Q", title="length (tokens)", axis=counts()),
        y=alt.Y("share:Q", title="share of texts that hold more", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("series:N", title=None, sort=None, legend=alt.Legend(orient="bottom", columns=1)),
        strokeDash=alt.StrokeDash("series:N", sort=None, legend=None),
        tooltip=["model", "series", "tokens", alt.Tooltip("share", format=".2f")],
    ).properties(width=WIDTH - 40, height=220)  # fmt: skip
    return panels(drawn, "model", model_order(table["model"]), columns=2)
