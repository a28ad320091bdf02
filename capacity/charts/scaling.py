"""Figures of scaling laws: rungs as dots on log axes, laws as lines."""

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import WIDTH, whole_numbers


@takes(points="+x +y rung series", lines="+x +y law")
def laws(points: pl.DataFrame, lines: pl.DataFrame, *, across: str, up: str) -> alt.LayerChart | alt.FacetChart:
    """Return what is held by what it may grow with, on log axes: a dot a rung, a dashed line a law.

    points: x, y (above 0), rung (its name), series; lines: x, y, law; across, up: titles of the axes, with units.
    """
    x = alt.X("x:Q", title=across, scale=alt.Scale(type="log", nice=False, padding=16))
    y = alt.Y("y:Q", title=up, scale=alt.Scale(type="log", nice=False, padding=16))
    series = points["series"].unique(maintain_order=True).to_list()
    dots = (
        alt.Chart(points)
        .mark_point(filled=True, size=65, opacity=0.85)
        .encode(
            x=x, y=y, tooltip=["rung", "series", alt.Tooltip("x", format=".4g"), alt.Tooltip("y", format=".4g")],
            color=alt.Color("series:N", title=None, sort=series, legend=alt.Legend(orient="right", labelLimit=260)),
        )
    )  # fmt: skip
    drawn = (
        alt.Chart(lines)
        .mark_line(color="#555", strokeWidth=1.5)
        .encode(
            x=x, y=y, strokeDash=alt.StrokeDash("law:N", title=None, sort=None, legend=alt.Legend(orient="right")),
        )
    )  # fmt: skip
    return alt.layer(drawn, dots).properties(width=WIDTH + 60, height=300)


@takes(points="+x +y rung series of", lines="+x +y law of")
def trends(points: pl.DataFrame, lines: pl.DataFrame, *, across: str) -> alt.ConcatChart:
    """Return `laws` once for each thing measured, side by side; of: its name, with its unit, in both frames."""
    each = [
        laws(*(frame.filter(pl.col("of").eq_missing(name)) for frame in (points, lines)), across=across, up=f"{name}")
        for name in points["of"].unique(maintain_order=True)
    ]
    return alt.concat(*(chart.properties(width=WIDTH, height=240) for chart in each), columns=2)


@takes(table="model +layers +value whole")
def held_by_depth(table: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Return tokens held by the first layers of models, one line a model, on log axes.

    table: model, layers, value (tokens, above 0), whole (whether these are all its layers).
    """
    kept = pl.when("whole").then(pl.lit("the whole model")).otherwise(pl.lit("its first layers"))
    base = alt.Chart(table.with_columns(kept.alias("kept"))).encode(
        x=alt.X(
            "layers:Q", title="layers kept, from the first", axis=whole_numbers(table["layers"]),
            scale=alt.Scale(type="log", base=2, nice=False, padding=14),
        ),
        y=alt.Y(
            "value:Q", title="exact length (tokens, log scale)", scale=alt.Scale(type="log", nice=False, padding=14)
        ),
        color=alt.Color("model:N", title=None, sort=None, legend=alt.Legend(orient="right", labelLimit=260)),
        tooltip=["model", "layers", "value"],
    )  # fmt: skip
    shape = alt.Shape(
        "kept:N",
        title=None,
        scale=alt.Scale(domain=["its first layers", "the whole model"], range=["circle", "diamond"]),
    )
    return (base.mark_line() + base.mark_point(filled=True, size=70).encode(shape=shape)).properties(
        width=WIDTH + 60, height=280
    )
