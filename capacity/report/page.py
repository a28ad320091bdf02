"""An executed notebook as an offline HTML page: nothing in it is trusted, and no request leaves it."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import vl_convert
from markupsafe import Markup

from capacity import harmless, verdicts
from capacity.report.blocks import MARKDOWN, Chart, folded, of_cell

_TEMPLATES = Path(__file__).parent / "templates"


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
    blocks = folded(block for cell in notebook["cells"] for block in of_cell(cell))
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
    return Markup(MARKDOWN.renderInline(text))


def script() -> str:
    """Return the JavaScript that draws charts, Vega and all it needs, for `assets/vega.js`; takes seconds."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def read(executed: Path) -> dict[str, Any]:
    """Return a notebook as JSON whose strings hold no terminal sequence, bidi mark or control character."""
    return harmless.plain(nbformat.read(executed, as_version=4))


def heading(notebook: dict[str, Any]) -> tuple[Markup, Markup]:
    """Return the title, the first `# ` heading, and the first paragraph after it; empty if there is none."""
    text = "\n\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    tokens = MARKDOWN.parse(text)
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
    contents = (block.content for cell in notebook["cells"] for block in of_cell(cell))
    return (content for content in contents if isinstance(content, Chart))


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
