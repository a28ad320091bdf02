"""Figures of what vectors stand: shares by condition, and shares along a precision, a noise or a length."""

import altair as alt
import polars as pl

from capacity.charts.frames import takes
from capacity.charts.style import WIDTH, band, model_color, model_order, panels, rules, tips


@takes(table="model @field #value #low #high -n")
def numbers_by_kind(
    table: pl.DataFrame, field: str, *, title: str, log: bool = False
) -> alt.LayerChart | alt.FacetChart:
    """Return a dot with its 95% interval for each model on a line a kind, in the order the kinds come.

    table: model, `field` (the kind), value, low, high, n; title: of the numbers, with their unit; log: on a log axis,
    all above 0.
    """
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=True)
    base = alt.Chart(table).encode(
        y=alt.Y(f"{field}:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("model:N", sort=model_order(table["model"])),
        color=model_color(table["model"]),
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale), tooltip=["model", field, *tips(("value", "low", "high")), "n"]
    )
    n = table["model"].n_unique()
    height = table[field].n_unique() * max(26, 14 * n)
    return (rules(base, along="x") + dots).properties(width=2 * WIDTH - 180, height=height)


@takes(table="model ~@at @panel #value #low #high -n")
def numbers_along(
    table: pl.DataFrame, at: str, panel: str, *, title: str, named: str, log: bool = False, falling: bool = False
) -> alt.FacetChart:
    """Return numbers along another one with their 95% intervals as bands: a panel a kind, a colour a model.

    table: model, `at`, `panel` (the kind), value, low, high, n; title: of the numbers; named: of `at`; both with their
    units. log: `at` on a log axis, all above 0; falling: the largest on the left.
    """
    scale = alt.Scale(type="log" if log else "linear", nice=False, padding=8, zero=False, reverse=falling)
    base = alt.Chart().encode(x=alt.X(f"{at}:Q", title=named, scale=scale), color=model_color(table["model"]))
    line = base.mark_line().encode(y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)))
    dots = base.mark_point(filled=True, size=30, opacity=1).encode(
        y="value:Q", tooltip=["model", at, *tips(("value", "low", "high"), digits=3), "n"]
    )
    drawn = alt.layer(band(base), line, dots, data=table).properties(width=WIDTH - 90, height=230)
    return panels(drawn, panel, table[panel].unique(maintain_order=True), columns=3)
