"""Frames of `geometry` and `paths` in, `alt.Chart` out: one function a figure."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import COLORS, WIDTH, panels


@takes(table="part within text #cosine #above")
def cosines_by_text(table: pl.DataFrame, *, bound: float) -> alt.LayerChart | alt.FacetChart:
    """Return the mean cosine of each text's solutions, a dot a text, within it and with those of others, a row a part.

    table: part, within (of one text), text, cosine, above (share of its pairs above the bound). Black: the median.
    """
    pair = pl.when("within").then(pl.lit("within a text")).otherwise(pl.lit("between texts"))
    shown = table.with_columns(row=pl.format("{}, {}", pair, "part"), pair=pair)
    order = shown["row"].unique(maintain_order=True).to_list()
    base = alt.Chart(shown).encode(y=alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=300)))
    dots = base.mark_point(filled=True, size=45, opacity=0.6).encode(
        x=alt.X("cosine:Q", title="cosine similarity of two solutions (mean over a text's pairs)"),
        color=alt.Color(
            "pair:N", legend=None, scale=alt.Scale(domain=["within a text", "between texts"], range=COLORS[:2])
        ),
        tooltip=["text", alt.Tooltip("cosine", format=".2f"), alt.Tooltip("above", format=".2f")],
    )
    medians = base.mark_tick(thickness=3, color="black", height=18).encode(x="median(cosine):Q")
    rule = alt.Chart(pl.DataFrame({"cosine": [bound]})).mark_rule(strokeDash=[4, 3]).encode(x="cosine:Q")
    return (dots + medians + rule).properties(width=2 * WIDTH - 240, height=40 * max(1, len(order)))


@takes(table="text path pair #at #accuracy")
def accuracy_along_paths(table: pl.DataFrame, *, drawn: int = 12) -> alt.FacetChart:
    """Return accuracy along the paths between two solutions, a panel a text, a colour a kind of path.

    table: from connections.table, one or several kinds. Thin: up to `drawn` pairs of each kind; thick: the mean
    over all pairs; dashed: their minimum and maximum.
    """
    group = ["text", "path", "at"]
    within = pl.col("accuracy")
    spans = table.group_by(group).agg(within.mean().alias("mean"), within.min().alias("min"), within.max().alias("max"))
    summary = spans.unpivot(index=group, variable_name="statistic", value_name="accuracy").sort(*group)
    some = table.filter(pl.col("pair").rank("dense").over("text", "path") <= drawn)
    data = pl.concat([some.with_columns(statistic=pl.lit("pair")), summary], how="diagonal")
    kinds = table["path"].unique(maintain_order=True).to_list()
    base = alt.Chart().encode(
        x=alt.X("at:Q", title="place on the path (0, 1: solutions)"),
        y=alt.Y("accuracy:Q", title="accuracy (share of tokens)", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color(
            "path:N", title=None, scale=alt.Scale(domain=kinds, range=COLORS[: len(kinds)]),
            legend=alt.Legend(orient="bottom", symbolOpacity=1, symbolStrokeWidth=3),
        ),
    )  # fmt: skip
    pairs = base.transform_filter("datum.statistic == 'pair'").mark_line(strokeWidth=1, opacity=0.2)
    mean = base.transform_filter("datum.statistic == 'mean'").mark_line(strokeWidth=3)
    edges = base.transform_filter("datum.statistic == 'min' || datum.statistic == 'max'").mark_line(
        strokeWidth=1.5, strokeDash=[5, 3]
    )
    layers = alt.layer(pairs.encode(detail="pair:N"), edges.encode(detail="statistic:N"), mean, data=data)
    texts = table["text"].unique(maintain_order=True)
    return panels(layers.properties(width=WIDTH - 60, height=170), "text", texts, columns=2)


@takes(table="series #component #cumulative")
def variance_by_component(table: pl.DataFrame, *, shares: Sequence[float]) -> alt.LayerChart | alt.FacetChart:
    """Return the cumulative share of variance by number of principal components, a line a series, `shares` dashed.

    table: series, component (from 1), cumulative (share of the variance).
    """
    lines = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=alt.X("component:Q", title="principal components", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("cumulative:Q", title="variance explained (share)", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("series:N", title=None, sort=None, legend=alt.Legend(orient="bottom", labelLimit=300)),
            tooltip=["series", "component", alt.Tooltip("cumulative", format=".3f")],
        )
    )
    rules = (
        alt.Chart(pl.DataFrame({"cumulative": list(shares)}))
        .mark_rule(strokeDash=[4, 3], color="gray")
        .encode(y="cumulative:Q")
    )
    return (rules + lines).properties(width=2 * WIDTH - 120, height=260)


@takes(table="series n #least #low #median #high #most")
def norms_by_series(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return the norms of each series: thin from least to most, thick from 5th to 95th percentile, dot the median.

    table: from geometry.norms; where the least is 0 (unused ids), the thin line begins at the 5th percentile.
    """
    table = table.with_columns(least=pl.when(pl.col("least") > 0).then("least").otherwise("low"))
    x = alt.X(
        "least:Q", title="norm (log scale, units of the model's embeddings)",
        scale=alt.Scale(type="log", nice=False, padding=16),
    )  # fmt: skip
    base = alt.Chart(table).encode(
        y=alt.Y("series:N", title=None, sort=None, axis=alt.Axis(labelLimit=300)),
        tooltip=["series", "n", *(alt.Tooltip(name, format=".3f") for name in table.columns[2:])],
    )
    whole = base.mark_rule().encode(x=x, x2="most:Q")
    middle = base.mark_rule(strokeWidth=5, color=COLORS[0]).encode(x="low:Q", x2="high:Q")
    medians = base.mark_point(filled=True, size=70, color="black").encode(x="median:Q")
    return (whole + middle + medians).properties(width=2 * WIDTH - 160, height=34 * max(1, table.height))
