"""An executed notebook as an offline HTML page: nothing in it is trusted, and no request leaves it."""

import base64
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import nbformat
import nh3
import vl_convert
from markdown_it import MarkdownIt
from markupsafe import Markup

from capacity import harmless, verdicts
from capacity.charts import display

_TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "small", "div"}
# A table that nh3 has cleaned has no attributes, so its parts are found by their tags alone.
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
_CELL = re.compile(r"<(t[hd])>(.*?)</t[hd]>", re.DOTALL)
_QUOTED = re.compile(r'<td>"([^<]*?)"?</td>')  # how polars writes a string; one that it cuts has no second mark
_NUMBER = re.compile(r"\s*([-+−]?\d[\d.,_]*(e[-+]?\d+)?\s*%?|NaN|-?inf|null|)\s*")
_LEFT_OUT = re.compile(r"<t[hd]>(?:…|&hellip;)</t[hd]>")  # rows or columns; a text cut short ends in a mark, too
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg")

Kind = Literal["markup", "code", "chart", "image", "text", "error", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart as a page carries it."""

    caption: str  # shown until it is drawn
    json: Markup  # the Vega-Lite specification, safe inside a script element


@dataclass(frozen=True, kw_only=True)
class Block:
    """One thing on a page, from top to bottom; only Markup is put in unescaped."""

    kind: Kind
    content: str | Markup | Chart


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One notebook on the index."""

    name: str
    title: str | Markup  # a str is escaped
    question: str | Markup
    status: str  # complete, failed, not run
    seconds: float | None  # None: not run
    link: str  # "": there is no page
    outcome: str = ""  # of its verdict; "": it has none, or was not run
    decides: str | Markup = ""  # the number behind it

    @property
    def number(self) -> str:
        """Return the digits its name begins with."""
        return self.name.split("_")[0]


def page(executed: Path, *, before: str = "", after: str = "") -> str:
    """Return the HTML page of an executed notebook, to stand beside `assets/vega.js`.

    before, after: names of the notebooks whose pages are linked as previous and next; "": none.

    Markdown is rendered without HTML, code is folded, tables lose their attributes, charts are drawn from
    their specification, anything else is shown as text. What the notebook was run with stands at the foot.
    """
    notebook = read(executed)
    title, _ = heading(notebook)
    blocks = _folded(block for cell in notebook["cells"] for block in _blocks(cell))
    draws = any(block.kind == "chart" for block in blocks)
    run = {
        "status": "not run",
        "reason": "",
        "seconds": 0.0,
        "date": "",
        "machine": "",
        "parameters": [],
        "versions": [],
    }
    run |= notebook["metadata"].get("capacity", {})
    return _render(
        "page.html", title=title.striptags() or executed.stem, blocks=blocks, run=run, draws=draws,
        before=before, after=after,
    )  # fmt: skip


def index(title: str, entries: list[Entry], picture: Chart | None, *, headline: str = "") -> str:
    """Return the HTML page that links all others, below one number in words and at most one chart."""
    return _render(
        "index.html", title=title, entries=entries, picture=picture, draws=picture is not None,
        headline=_inline(headline),
    )  # fmt: skip


def verdict(notebook: dict[str, Any]) -> verdicts.Verdict | None:
    """Return the last verdict among the outputs of a notebook, None if it has none."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    judged = [output["data"][verdicts.MIMETYPE] for output in outputs if verdicts.MIMETYPE in output.get("data", {})]
    return verdicts.Verdict(**judged[-1]) if judged else None


def entry(name: str, notebook: dict[str, Any], *, link: str) -> Entry:
    """Return the line of a notebook, run or not, on the index."""
    run = notebook["metadata"].get("capacity", {"status": "not run", "seconds": None})
    title, question = heading(notebook)
    end = verdict(notebook)
    return Entry(
        name=name, title=title.removeprefix(f"{name[:2]} · ") or name, question=question,
        status=run["status"], seconds=run["seconds"], link=link,
        outcome=end.outcome if end else "", decides=_inline(end.number) if end else "",
    )  # fmt: skip


def _inline(text: str) -> Markup:
    return Markup(_MARKDOWN.renderInline(text))


def script() -> str:
    """Return the JavaScript that draws charts, Vega and all it needs, for `assets/vega.js`; takes seconds."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def read(executed: Path) -> dict[str, Any]:
    """Return a notebook as JSON whose strings hold no terminal sequence, bidi mark or control character."""
    return harmless.plain(nbformat.read(executed, as_version=4))


def heading(notebook: dict[str, Any]) -> tuple[Markup, Markup]:
    """Return the title, the first `# ` heading, and the first paragraph after it; empty if there is none."""
    text = "\n\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    tokens = _MARKDOWN.parse(text)
    opens = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h1"]
    if not opens:
        return Markup(), Markup()
    paragraphs = (
        tokens[place + 1].content for place in range(opens[0], len(tokens)) if tokens[place].type == "paragraph_open"
    )
    # renderInline escapes all but the marks of markdown: html is off
    title, paragraph = tokens[opens[0] + 1].content, next(paragraphs, "")
    return _inline(title), _inline(paragraph)


def first_chart(notebook: dict[str, Any]) -> Chart | None:
    """Return the first chart among the outputs of a notebook, None if it has none."""
    return next(_charts(notebook), None)


def picture(executed: Path, number: int = 0) -> str:
    """Return one chart of an executed notebook as SVG, by its place among the charts."""
    chart = list(_charts(read(executed)))[number]
    return vl_convert.vegalite_to_svg(json.loads(chart.json))


def _charts(notebook: dict[str, Any]) -> Iterator[Chart]:
    contents = (block.content for cell in notebook["cells"] for block in _blocks(cell))
    return (content for content in contents if isinstance(content, Chart))


def _blocks(cell: dict[str, Any]) -> list[Block]:
    # papermill marks a failure with HTML of its own: the page has a line for that
    if "papermill-error-cell-tag" in cell["metadata"].get("tags", []) or not cell["source"].strip():
        return []
    match cell["cell_type"]:
        case "markdown":
            return [_prose(cell["source"])]
        case "code":
            outputs = [block for output in _joined(cell["outputs"]) if (block := _output(output))]
            return [Block(kind="code", content=cell["source"]), *outputs]
    return [Block(kind="text", content=cell["source"])]


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs with pieces of one stream put together, as they were written."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" == last.get("output_type") and output["name"] == last["name"]:
            joined[-1] = last | {"text": last["text"] + output["text"]}
        else:
            joined.append(output)
    return joined


def _output(output: dict[str, Any]) -> Block | None:
    match output["output_type"]:
        case "stream":
            # of a line drawn anew after each carriage return, a progress bar, the last state is left
            lines = output["text"].replace("\r\n", "\n").split("\n")
            text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines).strip("\n")
            return Block(kind="text", content=text) if text else None
        case "error":
            text = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
            return Block(kind="error", content=text)
    data = output["data"]
    if isinstance(spec := data.get(display.MIMETYPE), dict):  # before its picture
        return Block(
            kind="chart", content=Chart(caption=display.caption(spec), json=Markup(harmless.script_json(spec)))
        )
    for mimetype in _IMAGES:
        if mimetype in data:
            return Block(kind="image", content=_data_url(mimetype, data[mimetype]))
    match data:
        case {verdicts.MIMETYPE: dict(), "text/markdown": str(text)}:
            return Block(kind="verdict", content=Markup(_MARKDOWN.render(text)))
        case {"text/markdown": str(text)}:
            return _prose(text)
        case {"text/html": str(html)}:
            clean = nh3.clean(html, tags=_TAGS, attributes={"*": set()})
            return _tables(_QUOTED.sub(r"<td>\1</td>", clean))
    return Block(kind="text", content=str(data.get("text/plain", ", ".join(data))))


def _folded(blocks: Iterable[Block]) -> list[Block]:
    folded: list[Block] = []
    for block in blocks:
        if folded and block.kind == folded[-1].kind == "code":
            block = Block(kind="code", content=f"{folded.pop().content}\n\n{block.content}")
        folded.append(block)
    return folded


def _prose(text: str) -> Block:
    return _tables(_MARKDOWN.render(text))


def _tables(html: str) -> Block:
    if not _LEFT_OUT.search(html):  # polars shows all rows and columns, so the shape is seen
        html = re.sub(r"<small>shape: \([\d_, ]*\)</small>", "", html)
    aligned = _TABLE.sub(lambda table: f'<div class="scroll">{_aligned(table[0])}</div>', html)
    return Block(kind="markup", content=Markup(aligned))


def _aligned(table: str) -> str:
    """Return a table whose columns of numbers, and their names, are marked for setting to the right."""
    rows = [[cell[2] for cell in _CELL.finditer(row[1])] for row in _ROW.finditer(table.partition("<tbody>")[2])]
    numeric = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows, strict=False)]

    def mark(row: re.Match[str]) -> str:
        right = iter(numeric)
        return _CELL.sub(lambda c: f'<{c[1]} class="number">{c[2]}</{c[1]}>' if next(right, False) else c[0], row[0])

    return _ROW.sub(mark, table)


def _data_url(mimetype: str, content: str) -> str:
    payload = content.encode() if mimetype == "image/svg+xml" else base64.b64decode(content)
    return f"data:{mimetype};base64,{base64.b64encode(payload).decode()}"


def _render(template: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = {
        "style": Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "script": Markup((_TEMPLATES / "draw.js").read_text(encoding="utf-8")),
    }
    # scripts without this page's nonce, and so whatever a notebook slipped in, do not run
    nonce = secrets.token_urlsafe(16)
    return harmless.neutral(environment.get_template(template).render(nonce=nonce, **files, **content))
