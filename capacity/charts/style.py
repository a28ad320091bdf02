"""What the figures share: sizes, intervals, axes of whole numbers, and the colour of a model on every page."""

from collections.abc import Iterable, Sequence

import altair as alt

WIDTH = 340  # pixels of a panel; two stand side by side on a laptop
EQ1 = "Eq. 1 (black ticks)"  # how a legend names the limit
# A model has its colour and its place on every page; names that are not here follow in the order they come.
MODELS = ("llama-64", "llama-128", "llama-192", "neox-128", "llama-128-bos")
_COLORS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#72b7b2", "#9d755d", "#eeca3b", "#ff9da6", "#79706e",
)  # fmt: skip


def model_order(names: Iterable[str]) -> list[str]:
    """Return each name once: the embedded models in their order, then the others as they come."""
    once = list(dict.fromkeys(names))
    return [*(name for name in MODELS if name in once), *(name for name in once if name not in MODELS)]


def model_color(names: Iterable[str], *, field: str = "model", legend: alt.Legend | None = None) -> alt.Color:
    """Return the colour of the models in `names`, the same one on every page, in `model_order`."""
    order = model_order(names)
    places = [*MODELS, *(name for name in order if name not in MODELS)]
    colors = [_COLORS[places.index(name) % len(_COLORS)] for name in order]
    legend = legend or alt.Legend(orient="bottom", columns=3, labelLimit=300, symbolOpacity=1)
    return alt.Color(f"{field}:N", title=None, sort=order, scale=alt.Scale(domain=order, range=colors), legend=legend)


def whole_numbers(values: Iterable[int]) -> alt.Axis:
    """Return an axis with a tick at each of these counts, as whole numbers; names that would overlap are left out."""
    return alt.Axis(values=sorted({int(value) for value in values}), format="d", labelOverlap=True)


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
