"""What the cells of a notebook put on a page: prose, code, tables, charts, images, text."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

from capacity import harmless, verdicts
from capacity.charts import display

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
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


def of_cell(cell: dict[str, Any]) -> list[Block]:
    """Return the blocks of a cell: its prose, or its code and what came out."""
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
            return Block(kind="verdict", content=Markup(MARKDOWN.render(text)))
        case {"text/markdown": str(text)}:
            return _prose(text)
        case {"text/html": str(html)}:
            clean = nh3.clean(html, tags=_TAGS, attributes={"*": set()})
            return _tables(_QUOTED.sub(r"<td>\1</td>", clean))
    return Block(kind="text", content=str(data.get("text/plain", ", ".join(data))))


def folded(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks with code that follows code put together."""
    together: list[Block] = []
    for block in blocks:
        if together and block.kind == together[-1].kind == "code":
            block = Block(kind="code", content=f"{together.pop().content}\n\n{block.content}")
        together.append(block)
    return together


def _prose(text: str) -> Block:
    return _tables(MARKDOWN.render(text))


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
