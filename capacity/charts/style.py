"""What the figures share: sizes, intervals, axes of whole numbers, and the colour of a model on every page."""

from collections.abc import Iterable, Sequence

import altair as alt

WIDTH = 340  # pixels of a panel; two stand side by side on a laptop
EQ1 = "Eq. 1 (black ticks)"  # how a legend names the limit
# A model has its colour and its place on every page; names that are not here follow in the order they come.
MODELS = ("llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos")
COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#72b7b2", "#9d755d", "#eeca3b", "#ff9da6", "#79706e",
)  # fmt: skip
# So has a source, in other colours: a line of a model is never taken for one of a source.
SOURCES = ("embedded", "random_words", "random_tokens", "shuffled:embedded")
SOURCE_COLORS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666")


def model_order(names: Iterable[str]) -> list[str]:
    """Return each name once: the embedded models in their order, then the others as they come."""
    return _ordered(names, MODELS)


def source_order(names: Iterable[str]) -> list[str]:
    """Return each name once: the sources that need no network in their order, then the others as they come."""
    return _ordered(names, SOURCES)


def model_color(names: Iterable[str], *, field: str = "model", legend: alt.Legend | None = None) -> alt.Color:
    """Return the colour of the models in `names`, the same one on every page, in `model_order`."""
    return _color(model_order(names), field, MODELS, COLORS, legend)


def source_color(names: Iterable[str], *, field: str = "source", legend: alt.Legend | None = None) -> alt.Color:
    """Return the colour of the sources in `names`, the same one on every page, in `source_order`."""
    return _color(source_order(names), field, SOURCES, SOURCE_COLORS, legend)


def _ordered(names: Iterable[str], known: Sequence[str]) -> list[str]:
    once = list(dict.fromkeys(names))
    return [*(name for name in known if name in once), *(name for name in once if name not in known)]


def _color(
    order: list[str], field: str, known: Sequence[str], colors: Sequence[str], legend: alt.Legend | None
) -> alt.Color:
    places = [*known, *(name for name in order if name not in known)]
    scale = alt.Scale(domain=order, range=[colors[places.index(name) % len(colors)] for name in order])
    legend = legend or alt.Legend(orient="bottom", columns=3, labelLimit=300, symbolOpacity=1)
    return alt.Color(f"{field}:N", title=None, sort=order, scale=scale, legend=legend)


def panels(
    chart: alt.Chart | alt.LayerChart | alt.FacetChart, field: str, order: Iterable[str], *, columns: int
) -> alt.FacetChart:
    """Return a chart's panels, one a value of `field`, each with its horizontal axis: no axis stands below nothing."""
    facet = alt.Facet(f"{field}:N", title=None, sort=list(order))
    return chart.facet(facet=facet, columns=columns).resolve_axis(x="independent")  # pyright: ignore


def whole_numbers(values: Iterable[int | None]) -> alt.Axis:
    """Return an axis with a tick at each of these counts, as whole numbers; names that would overlap are left out.

    What is None has no tick.
    """
    return alt.Axis(values=sorted({int(value) for value in values if value is not None}), format="d", labelOverlap=True)


def counts() -> alt.Axis:
    """Return an axis whose ticks are whole numbers."""
    return alt.Axis(tickMinStep=1, format="d")


def band(base: alt.Chart, low: str = "low", high: str = "high") -> alt.Chart:
    """Return a chart's 95% interval as a shaded area, upright."""
    return base.mark_area(opacity=0.15).encode(y=alt.Y(f"{low}:Q"), y2=f"{high}:Q")


def rules(base: alt.Chart, low: str = "low", high: str = "high", *, along: str = "y") -> alt.Chart:
    """Return a chart's interval as rules along an axis, x or y."""
    marks = base.mark_rule(strokeWidth=2)
    if along == "x":
        return marks.encode(x=alt.X(f"{low}:Q"), x2=f"{high}:Q")
    return marks.encode(y=alt.Y(f"{low}:Q"), y2=f"{high}:Q")


def tips(names: Sequence[str], *, digits: int = 2) -> list[alt.Tooltip]:
    """Return what a mark says of numbers when it is pointed at."""
    return [alt.Tooltip(name, format=f".{digits}f") for name in names]
