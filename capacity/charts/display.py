"""How a chart is shown, in Jupyter and in a report, and how text is made harmless."""

import json
import uuid
from typing import Any

import altair as alt
import polars as pl

from capacity.harmless import plain, script_json

MIMETYPE = "application/vnd.capacity.vegalite+json"  # holds the Vega-Lite specification in an output
# Jupyter alone runs this, and asks the network only where no vegaEmbed is there yet.
_HTML = """<div id="{id}">{text}</div>
<script type="application/json" id="{id}-spec">{spec}</script>
<script>
(async () => {{
  const load = (source) => new Promise((done, fail) => {{
    const script = document.createElement("script");
    Object.assign(script, {{src: source, onload: done, onerror: fail}});
    document.head.append(script);
  }});
  if (!window.vegaEmbed) for (const source of {sources}) await load(source);
  const spec = JSON.parse(document.getElementById("{id}-spec").textContent);
  await window.vegaEmbed(document.getElementById("{id}"), spec, {{renderer: "svg"}});
}})();
</script>
"""
_SOURCES = [
    f"https://cdn.jsdelivr.net/npm/{name}"
    for name in (
        f"vega@{alt.VEGA_VERSION}",
        f"vega-lite@{alt.VEGALITE_VERSION}",
        f"vega-embed@{alt.VEGAEMBED_VERSION}",
    )
]


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

    `spec` is a Vega-Lite specification with its data inside. `MIMETYPE` holds it for the report, text/html
    draws it in Jupyter, text/plain names it elsewhere. Missing numbers are null in all of them.
    """
    spec = plain(spec)
    text = caption(spec)
    html = _HTML.format(
        id=f"chart-{uuid.uuid4().hex}",
        text=text.replace("&", "&amp;").replace("<", "&lt;"),
        spec=script_json(spec),
        sources=json.dumps(_SOURCES),
    )
    return {MIMETYPE: spec, "text/html": html, "text/plain": text}


def caption(spec: dict[str, Any]) -> str:
    """Return one line that names a chart: its title and the number of rows drawn."""
    title = spec.get("title") or "untitled"
    words = title.get("text", "untitled") if isinstance(title, dict) else title
    words = " ".join(words) if isinstance(words, list) else words
    rows = sum(len(data) for data in spec.get("datasets", {}).values())
    return f"Chart: {words} ({rows} rows)"
