"""Frames in, `alt.Chart` out: one function a figure, ours and published as layers."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from capacity.display import enable

__all__ = [
    "accuracy_by_length",
    "bits_needed",
    "byte_ledger",
    "bytes_per_token",
    "capacity_by_width",
    "enable",
    "exact_length_by_cost",
    "exact_length_by_model",
    "fit_curve",
    "prefix_share",
    "rates_by_length",
    "texts_by_source",
    "token_strip",
    "training_curves",
]

_WIDTH = 340  # pixels of a panel; two stand side by side on a laptop


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
        .properties(width=2 * _WIDTH, height=280)
    )


def fit_curve(curve: pl.DataFrame) -> alt.VConcatChart:
    """Return bits and right tokens by optimiser step. curve: step, bits, n_right, length."""
    base = alt.Chart(curve).encode(x=alt.X("step:Q", title="optimiser step"))
    bits = base.mark_line().encode(
        y=alt.Y("bits:Q", title="bits left, all tokens", scale=alt.Scale(zero=True)), tooltip=["step", "bits"]
    )
    right = base.mark_line(interpolate="step-after", color="#d95f02").encode(
        y=alt.Y("n_right:Q", title="tokens right (dashed: asked for)", axis=alt.Axis(tickMinStep=1)),
        tooltip=["step", "n_right", "length"],
    )
    asked = base.mark_line(interpolate="step-after", color="gray", strokeDash=[4, 3]).encode(
        y=alt.Y("length:Q", title="tokens right (dashed: asked for)")
    )
    return alt.vconcat(
        bits.properties(width=2 * _WIDTH, height=150), (asked + right).properties(width=2 * _WIDTH, height=150)
    )


def texts_by_source(
    table: pl.DataFrame, value: str, *, title: str, log: bool = False
) -> alt.LayerChart | alt.FacetChart:
    """Return one tick a text on a line a source, and a dot at each source's median.

    table: source, and the column `value`, which `title` describes with its unit; log: on a log axis, all above 0.
    """
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=False)
    base = alt.Chart(table).encode(y=alt.Y("source:N", title=None, sort=None, axis=alt.Axis(labelLimit=300)))
    ticks = base.mark_tick(thickness=1.5, opacity=0.5).encode(
        x=alt.X(f"{value}:Q", title=title, scale=scale), tooltip=["source", value]
    )
    medians = base.mark_point(filled=True, size=70, color="black").encode(x=f"median({value}):Q")
    return (ticks + medians).properties(width=2 * _WIDTH - 120, height=34 * max(1, table["source"].n_unique()))


def token_strip(tokens: pl.DataFrame, *, per_line: int = 12) -> alt.LayerChart | alt.FacetChart:
    """Return a text token by token, colour its surprisal without [mem].

    tokens: position (from 1), token, decoded (bool), bits_without (null for t1, which nothing predicts). What did not
    come back is crossed out by a dashed frame.
    """
    place = pl.col("position") - 1
    laid = tokens.with_columns(
        (place % per_line).alias("column"),
        (place // per_line).alias("line"),
        pl.col("token").str.replace_all(" ", "·").str.replace_all("\n", "↵").alias("shown"),
    )
    lines = laid["line"].n_unique()
    base = alt.Chart(laid).encode(
        x=alt.X("column:O", axis=None), y=alt.Y("line:O", axis=None),
        tooltip=["position", "shown", "bits_without", "decoded"],
    )  # fmt: skip
    color = alt.Color(
        "bits_without:Q", title="surprisal without [mem] (bits)", scale=alt.Scale(scheme="yelloworangered"),
        legend=alt.Legend(orient="bottom", direction="horizontal", gradientOpacity=1),
    )  # fmt: skip
    came = base.transform_filter("datum.decoded").mark_rect(stroke="#333", strokeWidth=1.5)
    lost = base.transform_filter("!datum.decoded").mark_rect(stroke="#777", strokeDash=[3, 3], opacity=0.35)
    names = base.mark_text(fontSize=13, color="black").encode(text="shown:N")
    return (came.encode(color=color) + lost.encode(color=color) + names).properties(width=2 * _WIDTH, height=36 * lines)


def byte_ledger(ledger: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the bytes of each way to keep a text, as bars on a log axis. ledger: what, bytes."""
    base = alt.Chart(ledger).encode(
        y=alt.Y("what:N", title=None, sort="-x", axis=alt.Axis(labelLimit=260)),
        x=alt.X("bytes:Q", title="bytes (log scale)", scale=alt.Scale(type="log", domainMin=1)),
    )
    numbers = base.mark_text(align="left", dx=4).encode(text=alt.Text("bytes:Q", format=","))
    bars = base.mark_bar(color="#4c78a8").encode(x2=alt.datum(1))
    return (bars + numbers).properties(width=_WIDTH + 120, height=34 * ledger.height)


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
        .properties(width=_WIDTH - 90, height=230)
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
    return (bars + points).properties(width=2 * _WIDTH - 60, height=60 * max(1, table["model"].n_unique()))


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
    return alt.layer(*layers).properties(width=_WIDTH + 180, height=340)


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
    return (line + bars).properties(width=2 * _WIDTH, height=280)


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
    return (band + line).properties(width=_WIDTH, height=260)


def prefix_share(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return what real prefixes save, as a share of what [mem] saves, against their tokens; dashed: as much as [mem].

    table: n_context, share, share_low, share_high (95% interval, as bands), model, series (here or the paper).
    """
    base = alt.Chart(table.with_columns(pl.format("{}, {}", "model", "series").alias("who"))).encode(
        x=alt.X(
            "n_context:Q",
            title="real tokens before the text",
            scale=alt.Scale(type="log", base=2, nice=False, padding=16),
        ),
        color=alt.Color(
            "who:N",
            title=None,
            sort=None,
            legend=alt.Legend(orient="bottom", columns=2, labelLimit=360, symbolOpacity=1),
        ),
    )
    band = base.mark_area(opacity=0.15).encode(y="share_low:Q", y2="share_high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("share:Q", title="bits saved / bits saved by [mem]", scale=alt.Scale(zero=True)),
        strokeDash=alt.StrokeDash("series:N", sort=None, legend=None),
        tooltip=["model", "n_context", alt.Tooltip("share", format=".3f"), alt.Tooltip("share_low", format=".3f"),
                 alt.Tooltip("share_high", format=".3f")],
    )  # fmt: skip
    rule = alt.Chart(table).mark_rule(strokeDash=[4, 3], color="gray").encode(y=alt.datum(1))
    return (band + line + rule).properties(width=2 * _WIDTH - 60, height=300)


def bytes_per_token(table: pl.DataFrame, *, order: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """Return the bytes a token of each way to keep texts, on a log axis: a point a model, bars its 95% interval.

    table: what, value, low, high (above 0), model, series (told apart by colour); order: of the ways.
    """
    base = alt.Chart(table).encode(
        y=alt.Y("what:N", title=None, sort=list(order), axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("series:N", sort=None),
        color=alt.Color("series:N", title=None, sort=None, legend=alt.Legend(orient="bottom", labelLimit=260)),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=0.7).encode(
        x=alt.X("value:Q", title="bytes a token (log scale)", scale=alt.Scale(type="log", nice=False, padding=12)),
        tooltip=["what", "model", *(alt.Tooltip(name, format=".3f") for name in ("value", "low", "high"))],
    )
    return (bars + points).properties(width=2 * _WIDTH - 120, height=alt.Step(12))


def bits_needed(table: pl.DataFrame, *, order: Sequence[str]) -> alt.FacetChart:
    """Return bits a token by kind, a panel a model, with 95% intervals over texts.

    table: model, source, kind, value, low, high; order: of the kinds.
    """
    base = alt.Chart().encode(
        y=alt.Y("source:N", title=None, sort=None),
        yOffset=alt.YOffset("kind:N", sort=list(order)),
        color=alt.Color("kind:N", title=None, sort=list(order), legend=alt.Legend(orient="bottom", labelLimit=400)),
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title="bits a token (95% interval over texts)", scale=alt.Scale(zero=True)),
        tooltip=["model", "source", "kind", *(alt.Tooltip(name, format=".2f") for name in ("value", "low", "high"))],
    )
    return (
        alt.layer(bars, points, data=table)
        .properties(width=_WIDTH - 90, height=alt.Step(18))
        .facet(
            facet=alt.Facet("model:N", title=None, sort=table["model"].unique(maintain_order=True).to_list()), columns=3
        )
    )
