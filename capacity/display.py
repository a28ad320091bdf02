"""How a chart is shown, in Jupyter and in a report, and how text is made harmless."""

import json
import math
import re
import uuid
from typing import Any

import altair as alt

MIMETYPE = "application/vnd.capacity.vegalite+json"  # holds the Vega-Lite specification in an output

# Terminal sequences, by ECMA-48: control (colours, cursor), operating-system commands (links), others.
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROL = [code for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"]
_SURROGATES = range(0xD800, 0xE000)  # alone they cannot be written as UTF-8
_VISIBLE = {code: f"⟨U+{code:04X}⟩" for code in (*map(ord, _BIDI), *_CONTROL, *_SURROGATES)}

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
    """Return None; from now on Altair charts are shown as `bundle` gives them, in Jupyter and in a report."""
    alt.renderers.register("capacity", bundle)
    alt.renderers.enable("capacity")


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


def script_json(value: Any) -> str:
    """Return `value` as JSON for the inside of a script element: ASCII, with no `<` to end or comment it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def plain(value: Any) -> Any:
    """Return a valid and harmless copy of a JSON value: NaN and infinities null, strings `visible`."""
    match value:
        case dict():
            return {visible(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case str():
            return visible(value)
        case float() if not math.isfinite(value):
            return None
    return value


def visible(text: str) -> str:
    """Return `text` without terminal sequences, its bidi marks and control characters written as ⟨U+202E⟩.

    Tab, newline and carriage return stay. Applied twice it changes nothing more.
    """
    return _TERMINAL.sub("", text).translate(_VISIBLE)


def neutral(html: str) -> str:
    """Return markup with bidi marks and control characters written out: entities may bring them back."""
    return html.translate(_VISIBLE)
