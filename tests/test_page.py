"""Hostile notebooks, and pages opened in a browser that reaches nothing but this machine."""

import base64
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import polars as pl
import pytest

from capacity import charts, report, verdicts
from capacity.charts import display
from capacity.report import page

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")

# Run, it leaves the attribute data-owned; shown, it does not contain that word.
HANDLER = "document.documentElement.dataset.owned=1"
HOSTILE = f"</script><script>{HANDLER}</script><img src=x onerror={HANDLER}> \x1b[31mred\x1b[0m \u202eoc.live"
HARMLESS = HOSTILE.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\u202e", "⟨U+202E⟩")

CHARTS = """# %% [markdown]
# # How many <script>document.documentElement.dataset.owned=1</script> fit?
#
# The **claim**, with ![a picture](ADDRESS/markdown) in it.

# %%
import altair as alt
import polars as pl
from IPython.display import HTML, Markdown
from capacity.charts import display
display.enable()
hostile = HOSTILE
frame = pl.DataFrame({"text": [hostile, "plain", "third"], "length": [3.5, 2.0, float("nan")]})
print(hostile)

# %%
frame

# %%
title = alt.Title(hostile, subtitle=hostile)
alt.Chart(frame, title=title, description=hostile).mark_bar().encode(x="length", y="text", tooltip="text")

# %%
alt.Chart(frame.head(2)).mark_point().encode(x="length", y="length")

# %%
leak = pl.DataFrame({"x": [1], "address": ["ADDRESS/mark"]})
alt.Chart(leak).mark_image(width=9, height=9).encode(x="x", url="address")

# %%
Markdown(f"The caption: {hostile} <img src='ADDRESS/caption'>")

# %%
HTML(f"<table><tr><td onclick='{hostile}'>{hostile}<img src='ADDRESS/html'></td></tr></table>")
"""


class Elements(HTMLParser):
    """The elements of a document: their names and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep one element."""
        self.found.append((tag, dict(attrs)))

    def count(self, name: str, value: str) -> int:
        """Return how many elements have this attribute with this value."""
        return sum(attributes.get(name) == value for _, attributes in self.found)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """Return the address of a web server on this machine, and the paths it was asked for."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", seen
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, server: tuple[str, list[str]]) -> Path:
    """Return the folder of a report of one notebook, full of charts and of attempts to break out."""
    folder, out = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("report")
    text = CHARTS.replace("HOSTILE", ascii(HOSTILE)).replace("ADDRESS", server[0])
    (folder / "01_decoding_capacity.py").write_text(text, encoding="utf-8")
    assert report.build(folder=folder, out=out, progress=False).failed == ()
    return out


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Return a function that opens a file in Chromium and gives the DOM that its scripts have made."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-component-update"
    quiet = "--disable-background-networking --disable-sync --virtual-time-budget=10000 --dump-dom"
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

    def dom(path: Path, *options: str) -> str:
        command = [CHROMIUM, *flags.split(), *quiet.split(), nowhere, f"--user-data-dir={tmp_path}/profile", *options]
        done = subprocess.run([*command, path.as_uri()], capture_output=True, timeout=60, check=True)
        return done.stdout.decode()

    return dom


@needs_chromium
def test_every_chart_draws_and_nothing_injected_runs(
    built: Path, server: tuple[str, list[str]], browse: Callable[[Path], str]
) -> None:
    server[1].clear()
    dom = browse(built / "01_decoding_capacity.html")
    elements = Elements(dom)
    assert elements.count("class", "chart") == 3 == len(re.findall('<svg[^>]*class="marks"', dom))
    drawn = [elements.count("aria-roledescription", mark) for mark in ("bar", "point", "image mark")]
    assert drawn == [2, 2, 1]  # the row that is NaN has no bar
    assert "data-owned" not in dom
    assert "\u202e" not in dom
    assert "\x1b" not in dom
    assert elements.count("aria-label", HARMLESS) >= 1  # the description, of the drawing
    assert sum(tag == "img" for tag, _ in elements.found) == 1  # the one that is markdown, and stays empty
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    index = browse(built / "index.html")
    assert Elements(index).count("aria-roledescription", "bar") == 2
    assert "data-owned" not in index
    assert server[1] == []


def test_elsewhere_a_chart_is_a_picture_that_asks_for_nothing(built: Path, server: tuple[str, list[str]]) -> None:
    cells = nbformat.read(built / "01_decoding_capacity.ipynb", as_version=4).cells
    data = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    charts = [forms for forms in data if display.MIMETYPE in forms]
    assert [forms.keys() - {display.MIMETYPE} for forms in charts] == [{"text/plain", "image/svg+xml", "image/png"}] * 3
    pictures = [forms["image/svg+xml"] for forms in charts]
    assert [Elements(svg).count("aria-roledescription", "bar") for svg in pictures] == [2, 0, 0]
    assert not any(tag == "script" for svg in pictures for tag, _ in Elements(svg).found)
    assert "/mark" not in server[1]


@needs_chromium
@pytest.mark.parametrize(("window", "columns"), [(1400, 2), (600, 1)])
def test_a_chart_is_no_wider_than_its_page(
    built: Path, browse: Callable[..., str], tmp_path: Path, window: int, columns: int
) -> None:
    table = pl.DataFrame([
        {"model": model, "source": "embedded", "kind": "gain", "length": length, "value": 9.0, "low": 8.0,
         "high": 10.0, "n": 4}
        for model in ("a", "b") for length in (4, 8)
    ])  # fmt: skip
    beside = charts.exact_length_by_cost(
        table.select(pl.lit("default").alias("recipe"), pl.col("length").alias("spent"), "value", "low", "high", "n"),
        title="token-steps",
    )
    (tmp_path / "assets").mkdir()
    shutil.copy(built / "assets" / "vega.js", tmp_path / "assets")
    for chart in (charts.gain_by_length(table), beside | beside):
        (tmp_path / "a.html").write_text(written(tmp_path / "a.ipynb", shown(display.bundle(chart.to_dict()))))
        dom = browse(tmp_path / "a.html", f"--window-size={window},900")
        (width,) = map(float, re.findall(r'<svg[^>]*class="marks"[^>]*? width="([\d.]+)"', dom))
        assert width < min(window, 960)
        assert (width > 600) == (columns == 2)
        assert dom.count("could not be drawn") == 1  # in the script


def test_the_page_lets_no_script_run_but_its_own(built: Path) -> None:
    texts = [(built / name).read_text() for name in ("01_decoding_capacity.html", "index.html")]
    nonces = [re.findall(r"script-src 'nonce-([\w-]+)';", text) for text in texts]
    assert len(nonces[0]) == len(nonces[1]) == 1
    assert nonces[0] != nonces[1]
    for text, (nonce,) in zip(texts, nonces, strict=True):
        assert "default-src 'none'" in text
        assert "unsafe-eval" not in text
        scripts = [attributes for tag, attributes in Elements(text).found if tag == "script"]
        run = [attributes for attributes in scripts if attributes.get("type") != "application/json"]
        assert run == [{"src": "assets/vega.js", "nonce": nonce}, {"nonce": nonce}]


def written(path: Path, *outputs: dict, markdown: str = "# Title") -> str:
    """Return the page of a notebook of one markdown cell and one code cell with these outputs."""
    code = nbformat.v4.new_code_cell("1 < 2", outputs=[nbformat.from_dict(output) for output in outputs])
    cells = [nbformat.v4.new_markdown_cell(markdown), code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return page.page(path)


def shown(data: dict[str, str]) -> dict:
    """Return an output with this data by mimetype."""
    return {"output_type": "display_data", "metadata": {}, "data": data}


def test_tables_keep_their_cells_and_lose_all_else(tmp_path: Path) -> None:
    table = (
        "<div lang=x><style>td{}</style><small>shape: (2, 2)</small><table border=1 class=dataframe>"
        "<thead><tr><th>text</th><th>length</th></tr><tr><td>str</td><td>f64</td></tr></thead><tbody>"
        "<tr><td onclick=a()>&quot;&lt;b&gt;&#x202e;&quot;</td><td>3.5</td></tr>"
        "<tr><td><a href=javascript:a()>x</a><iframe src=y></iframe></td><td>NaN</td></tr>"
        "</tbody></table></div>"
    )
    expected = (
        '<div><div class="scroll"><table><thead><tr><th>text</th><th class="number">length</th></tr>'
        '<tr><td>str</td><td class="number">f64</td></tr></thead><tbody>'
        '<tr><td>&lt;b&gt;⟨U+202E⟩</td><td class="number">3.5</td></tr>'
        '<tr><td>x</td><td class="number">NaN</td></tr></tbody></table></div></div>'
    )
    assert expected in written(tmp_path / "a.ipynb", shown({"text/html": table}))
    short = table.replace(">x<", ">a text cut shor…<")  # polars shows every row
    assert "shape:" not in written(tmp_path / "a.ipynb", shown({"text/html": short}))
    cut = table.replace("3.5", "…")  # polars left out rows: how many is told
    assert "<small>shape: (2, 2)</small>" in written(tmp_path / "a.ipynb", shown({"text/html": cut}))


def test_streams_errors_pictures_and_markdown_are_shown_as_what_they_are(tmp_path: Path) -> None:
    svg = "<svg xmlns='http://www.w3.org/2000/svg' onload='a()'/>"
    text = written(
        tmp_path / "a.ipynb",
        {"output_type": "stream", "name": "stderr", "text": "\r1/3\r2/3\r3/3\ndone <b>\x1b[0m\x07\n"},
        {"output_type": "error", "ename": "E", "evalue": "<i>", "traceback": ["\x1b[31mE\x1b[0m: <i>"]},
        shown({"image/svg+xml": svg, "text/plain": "not me"}),
        shown({"image/png": base64.b64encode(b"png").decode()}),
        markdown="# A `title` <b>\n\nThe *claim* [x](javascript:a()) &#x202e;\n\n| a |\n|---|\n| 1 |",
    )
    assert '<pre class="text">3/3\ndone &lt;b&gt;⟨U+0007⟩</pre>' in text
    assert '<pre class="error">E: &lt;i&gt;</pre>' in text
    assert f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" in text
    assert "data:image/png;base64,cG5n" in text
    assert "not me" not in text
    assert "<title>A title &lt;b&gt;</title>" in text
    assert "<h1>A <code>title</code> &lt;b&gt;</h1>" in text
    assert "<p>The <em>claim</em> [x](javascript:a()) ⟨U+202E⟩</p>" in text
    assert '<td class="number">1</td>' in text
    assert "<code>1 &lt; 2</code>" in text


def test_a_verdict_stands_in_a_frame_and_is_read_back(tmp_path: Path) -> None:
    hostile = verdicts.measured(f"Five tokens {HOSTILE}", headline="*Five* (4 to 6)")
    bundle = hostile._repr_mimebundle_()
    text = written(
        tmp_path / "a.ipynb", {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": bundle}
    )
    frame = re.search(r'<div class="verdict">(.*?)</div>', text, re.DOTALL)
    assert frame
    assert "<strong>Measured.</strong> Five tokens &lt;/script&gt;" in frame[1]
    notebook = page.read(tmp_path / "a.ipynb")
    assert page.verdict(notebook).headline == "*Five* (4 to 6)"
    line = page.entry("a", notebook, link="a.html")
    assert line.outcome == "measured"
    index = page.index("T", [line], None, headline=page.verdict(notebook).headline)
    assert '<p class="headline"><em>Five</em> (4 to 6)</p>' in index
    assert "<b>measured</b>: Five tokens &lt;/script&gt;" in index
    assert "<script>doc" not in index + text
    assert page.verdict({"cells": []}) is None
