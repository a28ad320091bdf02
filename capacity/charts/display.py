"""How a chart is shown, in Jupyter and in a report."""

import base64
import contextlib
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from capacity.harmless import plain

MIMETYPE = "application/vnd.capacity.vegalite+json"  # holds the Vega-Lite specification in an output


def enable() -> None:
    """Return None; from now on charts are shown as `bundle` gives them, in Jupyter and in a report, tables whole.

    A chart may have any number of rows: accuracy along all pairs of paths has ten thousands, which a page can hold.
    """
    alt.data_transformers.enable("default", max_rows=None)
    pl.Config.set_tbl_rows(-1).set_tbl_cols(-1).set_fmt_str_lengths(100)
    alt.theme.register("capacity", enable=True)(_theme)
    alt.renderers.register("capacity", bundle)
    alt.renderers.enable("capacity")


def _theme() -> alt.theme.ThemeConfig:
    """Return what all charts share: names of ticks keep apart, where space is short some are left out."""
    return {"config": {"axis": {"labelSeparation": 6}}}


def bundle(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Return one chart in every form it may be shown in, by mimetype.

    `spec` is a Vega-Lite specification with its data inside. `MIMETYPE` holds it for the report, which draws it;
    image/svg+xml is the picture for Jupyter, nbviewer and GitHub, none of which then needs a network or a script;
    image/png is the same where an SVG is not trusted, as in JupyterLab for a notebook that another program ran;
    text/plain names it. Missing numbers are null in all of them. Nothing is fetched: a chart that
    asks for that has no picture.
    """
    spec = plain(spec)
    forms = {MIMETYPE: spec, "text/plain": caption(spec)}
    with contextlib.suppress(ValueError):  # vl-convert's, for what it may not fetch or can't draw
        forms["image/svg+xml"] = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        drawn = vl_convert.svg_to_png(forms["image/svg+xml"], scale=1)
        forms["image/png"] = base64.b64encode(drawn).decode()
    return forms


def svg(chart: Any) -> str:
    """Return an altair chart as SVG; nothing is fetched for it. ValueError for what is no chart."""
    if not isinstance(chart, alt.TopLevelMixin):
        raise ValueError(f"charts.svg: {str(chart)[:80]!r} is no chart of altair; give what a figure of charts returns")
    return vl_convert.vegalite_to_svg(plain(chart.to_dict()), allowed_base_urls=[])


def caption(spec: dict[str, Any]) -> str:
    """Return one line that names a chart: its title and the number of rows drawn."""
    title = spec.get("title") or ""
    words = title.get("text", "") if isinstance(title, dict) else title
    words = " ".join(words) if isinstance(words, list) else words
    rows = sum(len(data) for data in spec.get("datasets", {}).values())
    counted = f"{rows} row{'s' * (rows != 1)}"
    return f"Chart: {words} ({counted})" if words else f"Chart of {counted}"
