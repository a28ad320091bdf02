"""Charts of gains, ours beside the published: by length, beside a null, certified, many vectors, utilisation."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import (
    EQ1,
    SOURCE_COLORS,
    WIDTH,
    band,
    model_color,
    model_order,
    panels,
    rules,
    source_color,
    source_order,
    tips,
    whole_numbers,
)  # fmt: skip

KINDS = ("natural", "random words", "random tokens")  # of texts, in the order of style.SOURCES


@takes(table="model source kind +length #value #low #high -n")
def gain_by_length(table: pl.DataFrame) -> alt.FacetChart:
    """Return mean gains against length, a panel a model, a colour a source, a dash a kind, 95% intervals as bands.

    table: model, source, kind, length, value (bits), low, high (null where there is no interval), n (texts).
    """
    kinds = table["kind"].unique(maintain_order=True).to_list()
    base = alt.Chart().encode(
        x=alt.X(
            "length:Q",
            title="length of the text (tokens)",
            scale=alt.Scale(type="log", base=2, nice=False, padding=8),
            axis=whole_numbers(table["length"]),
        ),
        color=source_color(table["source"]),
        detail="kind:N",
    )
    # of lines alone: with what is filled the legend's strokes are transparent
    dash = alt.StrokeDash(
        "kind:N", title=None, scale=alt.Scale(domain=kinds, range=[[1, 0], [5, 3], [1, 3]][: len(kinds)]),
        legend=alt.Legend(orient="bottom", labelLimit=300, symbolType="stroke", symbolSize=400),
    )  # fmt: skip
    bits = alt.Y("value:Q", title="bits")
    line = base.mark_line().encode(y=bits, strokeDash=dash)
    dots = base.mark_point(filled=True, size=30, opacity=1).encode(
        y=bits, tooltip=["source", "kind", "length", *tips(("value", "low", "high"), digits=1), "n"]
    )
    drawn = alt.layer(band(base), line, dots, data=table).properties(width=WIDTH, height=230)
    return panels(drawn, "model", model_order(table["model"]), columns=2)


@takes(table="model +length +value")
def published_gain_by_length(table: pl.DataFrame) -> alt.Chart:
    """Return published gains of one length by itself against length, a line a model: model, length, value (bits)."""
    order = table.sort("length", "value").group_by("model", maintain_order=True).last().sort("value", descending=True)
    return alt.Chart(table).mark_line(point=True).encode(
        x=alt.X("length:Q", title="length of the text (tokens)", scale=alt.Scale(type="log", base=2, nice=False)),
        y=alt.Y("value:Q", title="information gain (bits)", scale=alt.Scale(type="log", nice=False)),
        color=alt.Color("model:N", title=None, sort=order["model"].to_list(), legend=alt.Legend(labelLimit=260)),
        tooltip=["model", "length", *tips(("value",), digits=0)],
    ).properties(width=WIDTH + 180, height=320)  # fmt: skip


@takes(table="model source kind #value #low #high -n")
def gains_beside(table: pl.DataFrame) -> alt.FacetChart:
    """Return what vectors save by what it is, a panel a model, a colour a source, 95% intervals as rules.

    table: model, source, kind, value (bits, below 0 too), low, high (null where there is no interval), n.
    """
    kinds, sources = table["kind"].unique(maintain_order=True).to_list(), source_order(table["source"])
    base = alt.Chart().encode(
        y=alt.Y("kind:N", title=None, sort=kinds, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("source:N", sort=sources),
        color=source_color(sources),
    )
    zero = alt.Chart().mark_rule(color="gray").encode(x=alt.datum(0))
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=alt.X("value:Q", title="bits"), tooltip=["source", "kind", *tips(("value", "low", "high"), digits=1), "n"]
    )
    drawn = alt.layer(zero, rules(base, along="x"), dots, data=table).properties(width=WIDTH - 60, height=190)
    return panels(drawn, "model", model_order(table["model"]), columns=2)


@takes(table="model +alphabet #value #low #high -n")
def certified_by_alphabet(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the bits certified of one vector by the tokens that texts are drawn from: one line a model.

    table: model, alphabet (tokens), value (bits), low, high (null where there is no interval), n.
    """
    base = alt.Chart(table).encode(
        x=alt.X(
            "alphabet:Q", title="tokens that texts are drawn from", axis=whole_numbers(table["alphabet"]),
            scale=alt.Scale(type="log", base=2, nice=False, padding=16),
        ),
        color=model_color(table["model"]),
    )  # fmt: skip
    line = base.mark_line(point=alt.OverlayMarkDef(size=50)).encode(
        y=alt.Y("value:Q", title="bits certified"),
        tooltip=["model", "alphabet", *tips(("value", "low", "high"), digits=1), "n"],
    )
    return alt.layer(rules(base), line).properties(width=WIDTH + 60, height=300)


@takes(table="series +n_mem #value #low #high")
def tokens_by_vectors(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return tokens held against the number of vectors on log axes, one line a series, 95% intervals as rules.

    table: series, n_mem, value, low, high (tokens; null where there is no interval). What is 0 is left out. Dashed:
    n times what the series' smallest number of vectors holds a vector.
    """
    held = table.filter(pl.col("value") > 0)
    first = held.sort("n_mem").group_by("series", maintain_order=True).first()
    ideal = held.join(first.select("series", (pl.col("value") / pl.col("n_mem")).alias("each")), on="series").select(
        "series", "n_mem", (pl.col("each") * pl.col("n_mem")).alias("value")
    )
    x = alt.X(
        "n_mem:Q", title="[mem] vectors", scale=alt.Scale(type="log", base=2, nice=False, padding=14),
        axis=whole_numbers(held["n_mem"]),
    )  # fmt: skip
    y = alt.Y("value:Q", title="tokens (log scale)", scale=alt.Scale(type="log"))
    color = _series(table)
    named = alt.StrokeDash(
        "kind:N", title=None, scale=alt.Scale(domain=["measured", "ideal"], range=[[1, 0], [4, 3]]),
        legend=alt.Legend(labelExpr="datum.label == 'ideal' ? 'ideal: n times the first' : datum.label"),
    )  # fmt: skip
    dashed = alt.Chart(ideal.with_columns(kind=pl.lit("ideal"))).mark_line(opacity=0.6).encode(
        x=x, y=y, color=color, strokeDash=named
    )  # fmt: skip
    line = alt.Chart(held).mark_line(point=alt.OverlayMarkDef(size=50)).encode(
        x=x, y=y, color=color,
        tooltip=["series", "n_mem", *tips(("value", "low", "high"), digits=1)],
    )  # fmt: skip
    known = held.filter(pl.col("low") > 0)
    spread = alt.Chart(known).mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q", color=color)
    return alt.layer(dashed, spread, line).properties(width=WIDTH + 60, height=340)


@takes(table="series +n_mem #share #share_low #share_high")
def share_by_vectors(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return information a vector, as a share of one vector's, by number of vectors; dashed: no loss.

    table: series, n_mem, share, share_low, share_high (null where there is no interval).
    """
    x = alt.X(
        "n_mem:Q", title="[mem] vectors", scale=alt.Scale(type="log", base=2, nice=False, padding=14),
        axis=whole_numbers(table["n_mem"]),
    )  # fmt: skip
    y = alt.Y("share:Q", title="information a vector / that of one vector alone", scale=alt.Scale(zero=True))
    color = _series(table)
    line = alt.Chart(table).mark_line(point=alt.OverlayMarkDef(size=50)).encode(
        x=x, y=y, color=color,
        tooltip=["series", "n_mem", *tips(("share", "share_low", "share_high"), digits=3)],
    )  # fmt: skip
    known = table.filter(pl.col("share_low").is_not_null() & (pl.col("n_mem") > 1))
    spread = alt.Chart(known).mark_rule(strokeWidth=2).encode(x=x, y="share_low:Q", y2="share_high:Q", color=color)
    whole = alt.Chart(table).mark_rule(strokeDash=[4, 3], color="gray").encode(y=alt.datum(1))
    return alt.layer(whole, spread, line).properties(width=WIDTH + 60, height=300)


@takes(table="model kind series +capacity #gain #low #high #share #share_low #share_high")
def utilisation_by_model(table: pl.DataFrame, *, order: Sequence[str], unit: str) -> alt.VConcatChart:
    """Return capacity by Eq. 1 and gain above, their quotient below, a column a model, a colour a kind of text.

    table: model, kind (of KINDS), series, capacity, gain, low, high (in `unit`, above 0), share, share_low, share_high;
    order: of the models, the embedded ones going first. Rules: what `series` says of its spread, null where none is
    known; black ticks: the capacity.
    """
    order = model_order(order)
    names = alt.Axis(labelAngle=-60, labelLimit=200, labelExpr="peek(split(datum.label, '/'))")  # without the owner
    x = alt.X("model:N", title=None, sort=order, axis=names)
    bare = alt.X("model:N", title=None, sort=order, axis=alt.Axis(labels=False, ticks=False, grid=True))
    kinds = alt.XOffset("kind:N", scale=alt.Scale(paddingOuter=0.6))
    texts = {kind: SOURCE_COLORS[place] for place, kind in enumerate(KINDS) if kind in set(table["kind"])}
    scale = alt.Scale(domain=list(texts), range=list(texts.values()))
    color = alt.Color("kind:N", title="text", scale=scale, legend=alt.Legend(orient="top"))
    shape = alt.Shape("series:N", title=None, sort=None, legend=alt.Legend(orient="top", labelLimit=400))
    log = alt.Scale(type="log", nice=False, padding=8)
    numbers = ("capacity", "gain", "low", "high", "share", "share_low", "share_high")
    tips = ["model", "kind", "series", *(alt.Tooltip(name, format=".4g") for name in numbers)]
    base = alt.Chart(table)
    stroke = alt.Legend(orient="top", symbolType="stroke", symbolStrokeColor="black", symbolStrokeWidth=2)
    limit = alt.Chart(table.with_columns(limit=pl.lit(EQ1)))
    capacity = limit.mark_tick(color="black", thickness=2).encode(
        x=bare, y=alt.Y("capacity:Q", scale=log),
        opacity=alt.Opacity("limit:N", title=None, scale=alt.Scale(range=[1]), legend=stroke),
    )  # fmt: skip
    dots = base.mark_point(filled=True, size=55).encode(
        x=bare, xOffset=kinds, y=alt.Y("gain:Q", title=f"gain and capacity ({unit}, log)", scale=log), color=color,
        shape=shape, tooltip=tips,
    )  # fmt: skip
    spread = alt.Chart(table.filter(pl.col("low") > 0)).mark_rule().encode(
        x=bare, xOffset=kinds, y="low:Q", y2="high:Q", color=color
    )  # fmt: skip
    shares = base.mark_point(filled=True, size=55).encode(
        x=x, xOffset=kinds, color=color, shape=shape, tooltip=tips,
        y=alt.Y("share:Q", title=f"utilisation (gain / capacity, in {unit})", axis=alt.Axis(format="%")),
    )  # fmt: skip
    share_spread = base.mark_rule().encode(x=x, xOffset=kinds, y="share_low:Q", y2="share_high:Q", color=color)
    return alt.vconcat(
        alt.layer(capacity, spread, dots).properties(width=2 * WIDTH, height=260),
        alt.layer(share_spread, shares).properties(width=2 * WIDTH, height=220),
    )


def _series(table: pl.DataFrame) -> alt.Color:
    names = table["series"].unique(maintain_order=True).to_list()
    return alt.Color("series:N", title=None, sort=names, legend=alt.Legend(orient="right", labelLimit=330))
