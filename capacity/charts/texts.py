"""Figures of texts: token by token, step by step, and what other ways to keep or predict them take."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import (
    COLORS,
    WIDTH,
    band,
    counts,
    model_color,
    model_order,
    panels,
    rules,
    source_order,
    tips,
    whole_numbers,
)


@takes(curve="#step ?bits #n_right #length")
def fit_curve(curve: pl.DataFrame) -> alt.VConcatChart:
    """Return bits and right tokens by optimiser step. curve: step, bits, n_right, length."""
    base = alt.Chart(curve).encode(x=alt.X("step:Q", title="optimiser step"))
    bits = base.mark_line().encode(
        y=alt.Y("bits:Q", title="bits left, all tokens", scale=alt.Scale(zero=True)), tooltip=["step", "bits"]
    )
    right = base.mark_line(interpolate="step-after", color=COLORS[1]).encode(
        y=alt.Y("n_right:Q", title="tokens right (dashed: asked for)", axis=counts()),
        tooltip=["step", "n_right", "length"],
    )
    asked = base.mark_line(interpolate="step-after", color="gray", strokeDash=[4, 3]).encode(
        y=alt.Y("length:Q", title="tokens right (dashed: asked for)")
    )
    return alt.vconcat(
        bits.properties(width=2 * WIDTH, height=150), (asked + right).properties(width=2 * WIDTH, height=150)
    )


@takes(table="source #@value")
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
    return (ticks + medians).properties(width=2 * WIDTH - 120, height=34 * max(1, table["source"].n_unique()))


@takes(tokens="#position token decoded #bits_without")
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
    dark = f"datum.decoded && datum.bits_without > {0.6 * float(laid['bits_without'].max() or 0)}"  # pyright: ignore
    names = base.mark_text(fontSize=13).encode(
        text="shown:N", color=alt.condition(dark, alt.value("white"), alt.value("black"))
    )
    return (came.encode(color=color) + lost.encode(color=color) + names).properties(width=2 * WIDTH, height=36 * lines)


@takes(ledger="what +bytes")
def byte_ledger(ledger: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the bytes of each way to keep a text, as dots on a log axis. ledger: what, bytes."""
    base = alt.Chart(ledger).encode(
        y=alt.Y("what:N", title=None, sort="-x", axis=alt.Axis(labelLimit=260)),
        x=alt.X("bytes:Q", title="bytes (log scale)", scale=alt.Scale(type="log", nice=False, padding=24)),
    )
    numbers = base.mark_text(align="left", dx=8).encode(text=alt.Text("bytes:Q", format=","))
    dots = base.mark_point(filled=True, size=70, color=COLORS[0])
    return (dots + numbers).properties(width=WIDTH + 120, height=34 * ledger.height)


@takes(table="+n_context #share #share_low #share_high model series")
def prefix_share(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return what real prefixes save, as a share of what [mem] saves, against their tokens; dashed: as much as [mem].

    table: n_context, share, share_low, share_high (95% interval, as bands), model, series (here or the paper).
    """
    base = alt.Chart(table).encode(
        x=alt.X(
            "n_context:Q", title="real tokens before the text", axis=whole_numbers(table["n_context"]),
            scale=alt.Scale(type="log", base=2, nice=False, padding=16),
        ),
        color=model_color(
            table["model"], legend=alt.Legend(orient="bottom", columns=2, labelLimit=360, symbolOpacity=1)
        ),
    )  # fmt: skip
    value = base.encode(y=alt.Y("share:Q", title="bits saved / bits saved by [mem]", scale=alt.Scale(zero=True)))
    # The dots are a layer of their own: a line with points has no stroke in its legend.
    line = value.mark_line().encode(
        strokeDash=alt.StrokeDash(
            "series:N", sort=None, title=None, legend=alt.Legend(orient="bottom", labelLimit=260)
        ),
    )
    dots = value.mark_point(filled=True, size=30, opacity=1).encode(
        tooltip=["model", "series", "n_context", *tips(("share", "share_low", "share_high"), digits=3)],
    )
    rule = alt.Chart(table).mark_rule(strokeDash=[4, 3], color="gray").encode(y=alt.datum(1))
    return (band(base, "share_low", "share_high") + line + dots + rule).properties(width=2 * WIDTH - 60, height=300)


@takes(table="what +value #low #high model series")
def bytes_per_token(table: pl.DataFrame, *, order: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """Return the bytes a token of each way to keep texts, on a log axis: a point a model, bars its 95% interval.

    table: what, value, low, high (above 0), model, series (told apart by colour); order: of the ways.
    """
    base = alt.Chart(table).encode(
        y=alt.Y("what:N", title=None, sort=list(order), axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("series:N", sort=model_order(table["series"])),
        color=model_color(table["series"], field="series"),
    )
    bars = rules(base, along="x")
    points = base.mark_point(filled=True, size=50, opacity=0.7).encode(
        x=alt.X("value:Q", title="bytes a token (log scale)", scale=alt.Scale(type="log", nice=False, padding=12)),
        tooltip=["what", "model", *tips(("value", "low", "high"), digits=3)],
    )
    return (bars + points).properties(width=2 * WIDTH - 120, height=alt.Step(12))


@takes(table="model source kind #value #low #high")
def bits_needed(table: pl.DataFrame, *, order: Sequence[str]) -> alt.FacetChart:
    """Return bits a token by kind, a panel a model, with 95% intervals over texts.

    table: model, source, kind, value, low, high; order: of the kinds.
    """
    base = alt.Chart().encode(
        y=alt.Y("source:N", title=None, sort=source_order(table["source"])),
        yOffset=alt.YOffset("kind:N", sort=list(order)),
        color=alt.Color("kind:N", title=None, sort=list(order), legend=alt.Legend(orient="bottom", labelLimit=400)),
    )
    bars = rules(base, along="x")
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title="bits a token (95% interval over texts)", scale=alt.Scale(zero=True)),
        tooltip=["model", "source", "kind", *tips(("value", "low", "high"))],
    )
    drawn = alt.layer(bars, points, data=table).properties(width=WIDTH - 90, height=alt.Step(18))
    return panels(drawn, "model", model_order(table["model"]), columns=3)
