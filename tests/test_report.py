"""Notebooks run for real: one fails, one's kernel is gone, two builds run at once, a build is interrupted."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest

from capacity import report

pytestmark = pytest.mark.slow

RAISES = """# %% [markdown]
# # What if a cell fails?
# It is said.
# %%
print("before")
# %%
raise KeyError("no <b>row</b>")
# %%
print("never" + "theless")
"""
GOOD = """# %% [markdown]
# # What is seven times *n*?
#
# Sevenfold.
# %% tags=["parameters"]
n_texts: int = 8  # texts
margin: float = 0.05  # logits
models: list[str] = ["llama-128"]  # names
# %%
import sys
print(7 * n_texts, models, sys.executable)
"""
DIES = """# %% [markdown]
# # What if the kernel dies?
# %%
import os
os._exit(3)
"""
BUILD = """import sys
from pathlib import Path
from capacity import report
report.build(folder=Path(sys.argv[1]), out=Path(sys.argv[2]), given={given})
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> report.Summary:
    """Return what became of three notebooks: one raising, one good, one dying."""
    folder, out = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("report")
    sources = {"00_raises": RAISES, "01_good": GOOD, "02_dies": DIES, "90_left_out": RAISES}
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    # a kernel of the same name, registered by someone else, that cannot run
    spec = tmp_path_factory.mktemp("jupyter") / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "elsewhere", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(spec.parents[2]))
        return report.build(folder=folder, out=out, given={"n_texts": 3}, progress=False)


def printed(executed: Path) -> str:
    """Return what the cells of an executed notebook printed."""
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_one_failure_stops_no_other_notebook(built: report.Summary) -> None:
    out = built.index.parent
    status = [(result.name, result.status) for result in built.results]
    assert status == [("00_raises", "failed"), ("01_good", "complete"), ("02_dies", "failed")]
    assert built.failed == (built.results[0], built.results[2])
    assert built.failed[0].reason == "KeyError: 'no <b>row</b>'"
    assert "kernel died" in built.failed[1].reason
    raises, dies = ((out / f"{name}.html").read_text() for name in ("00_raises", "02_dies"))
    assert "before" in raises
    assert "nevertheless" not in raises
    assert '<pre class="error">' in raises
    assert "This notebook failed: KeyError: &#39;no &lt;b&gt;row&lt;/b&gt;&#39;" in raises
    assert "This notebook failed: the kernel died" in dies
    assert "os._exit(3)" in dies
    files = {path.name for path in out.rglob("*") if path.is_file()}
    stems = ("00_raises", "01_good", "02_dies")
    assert files == {f"{stem}.{end}" for stem in stems for end in ("ipynb", "html")} | {
        "index.html",
        "vega.js",
    }


def test_the_index_has_a_line_for_each_notebook(built: report.Summary) -> None:
    text = built.index.read_text()
    assert re.findall(r'class="status quiet ([\w-]+)">', text) == ["failed", "complete", "failed"]
    assert re.findall(r'<a href="(.*?)">(.*?)</a>', text) == [
        ("00_raises.html", "What if a cell fails?"),
        ("01_good.html", "What is seven times <em>n</em>?"),
        ("02_dies.html", "What if the kernel dies?"),
    ]
    questions = [question.strip() for question in re.findall(r'class="question">(.*?)<', text, re.DOTALL)]
    assert questions == ["It is said.", "Sevenfold.", ""]
    assert "1 of 3 notebooks complete" in text


def test_pages_link_those_beside_them_and_no_other(built: report.Summary) -> None:
    names = ("00_raises", "01_good", "02_dies")
    pages = {name: built.index.with_name(f"{name}.html").read_text() for name in names}
    links = {name: re.findall(r'<a rel="(\w+)" href="(.*?)">', text) for name, text in pages.items()}
    assert links == {
        "00_raises": [("next", "01_good.html")] * 2,
        "01_good": [("prev", "00_raises.html"), ("next", "02_dies.html")] * 2,
        "02_dies": [("prev", "01_good.html")] * 2,
    }


def test_given_parameters_reach_a_kernel_of_this_interpreter(built: report.Summary) -> None:
    executed = built.index.with_name("01_good.ipynb")
    assert printed(executed) == f"21 ['llama-128'] {sys.executable}\n"
    foot = executed.with_suffix(".html").read_text().partition("<footer>")[2]
    rows = re.findall(r"<tr><td>(\w+)</td><td><code>(.*?)</code></td><td>(.*?)</td></tr>", foot)
    assert [(name, html.unescape(value), unit) for name, value, unit in rows] == [
        ("n_texts", "3", "texts"),
        ("margin", "0.05", "logits"),
        ("models", "['llama-128']", "names"),
    ]
    assert f"python {sys.version.split()[0]}" in foot
    assert re.search(r"Complete in \d+\.\d s, 20\d\d-", foot)


def test_a_cell_out_of_time_fails(tmp_path: Path) -> None:
    (tmp_path / "00_slow.py").write_text("# %%\nprint('begun')\n# %%\nimport time\ntime.sleep(60)\n")
    started = time.monotonic()
    with pytest.raises(report.NotebookError, match=r"00_slow failed: A cell timed out .* after 1 seconds"):
        report.execute(tmp_path / "00_slow.py", {}, out=tmp_path / "out", timeout=1)
    assert time.monotonic() - started < 30
    assert printed(tmp_path / "out" / "00_slow.ipynb") == "begun\n"


def test_an_unknown_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "07_source.py").write_text(GOOD)
    with pytest.raises(ValueError, match="'07_sourse'; allowed are 07_source; did you mean 07_source"):
        report.build(["07_sourse"], folder=tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_builds_at_once_leave_whole_files(tmp_path: Path, built: report.Summary) -> None:
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    folder.mkdir()
    (folder / "01_good.py").write_text(GOOD)
    shutil.copytree(built.index.with_name("assets"), out / "assets")
    code = [BUILD.format(given={"n_texts": n}) for n in (5, 6)]
    command = [sys.executable, "-W", "error", "-c"]
    builds = [subprocess.Popen([*command, each, folder, out], stderr=subprocess.PIPE, text=True) for each in code]
    errors = [build.communicate(timeout=60)[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], errors
    assert all("01_good: complete in" in error for error in errors)
    assert printed(out / "01_good.ipynb").split()[0] in ("35", "42")
    assert all((out / name).read_text().rstrip().endswith("</html>") for name in ("01_good.html", "index.html"))
    assert {path.name for path in out.iterdir()} == {"01_good.ipynb", "01_good.html", "index.html", "assets"}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a child")
def test_an_interrupt_ends_the_build_and_its_kernel(tmp_path: Path, built: report.Summary) -> None:
    folder, out, begun = tmp_path / "notebooks", tmp_path / "out", tmp_path / "begun"
    folder.mkdir()
    shutil.copytree(built.index.with_name("assets"), out / "assets")
    wait = f"import os, time\nwith open({str(begun)!r}, 'w') as file: file.write(f'{{os.getpid()}}.')\n"
    (folder / "00_slow.py").write_text(f"# %%\n{wait}time.sleep(60)\n")
    command = [sys.executable, "-c", BUILD.format(given={}), folder, out]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background
    build = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while build.poll() is None and not (begun.exists() and begun.read_text().endswith(".")):
        time.sleep(0.05)
    build.send_signal(signal.SIGINT)
    error = build.communicate(timeout=30)[1]
    assert build.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in error
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text().rstrip(".")), 0)
    assert {path.name for path in out.iterdir()} == {"index.html", "assets"}
    assert '<span class="status quiet not-run">not run</span>' in (out / "index.html").read_text()


def test_what_a_kill_left_is_cleaned_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / "out" / ".index.html.1.part", tmp_path / "out" / ".index.html.2.part"
    old.parent.mkdir()
    (tmp_path / "empty").mkdir()
    shutil.copyfile(__file__, old)
    shutil.copyfile(__file__, new)
    os.utime(old, (time.time() - 90_000,) * 2)
    summary = report.build(folder=tmp_path / "empty", out=tmp_path / "out", progress=False)
    assert (old.exists(), new.exists(), summary.results) == (False, True, ())
    assert "0 of 0 notebooks complete" in summary.index.read_text()


def test_the_report_does_not_import_torch() -> None:
    code = "import sys, capacity.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_grid_has_a_page_for_each_combination_and_keeps_those_of_before(tmp_path: Path) -> None:
    folder, grid, out = tmp_path / "notebooks", tmp_path / "grid.toml", tmp_path / "out"
    folder.mkdir()
    lines = ["# %% [markdown]", "# # Halves", "", '# %% tags=["parameters"]', "n: int = 1  # a", 'model: str = ""  # b']
    lines += ["# %%", "print(model)", "print(6 // n)"]
    (folder / "00_halves.py").write_text("\n".join(lines) + "\n")
    model = tmp_path / "a-model"
    grid.write_text("n = [0, 2]\n")
    done = report.build_grid(["00_halves"], grid, out=out, given={"model": str(model)}, folder=folder)
    assert [result.status for result in done.results] == ["failed", "complete"]  # which leaves the other
    grid.write_text("n = 3\n")
    report.build_grid(["00_halves"], grid, out=out, given={"model": str(model)}, folder=folder)
    pages = sorted((out / "grid-00_halves").glob("*.html"))
    assert len(pages) == 4
    index = done.index.read_text()
    assert all(f"n = {n}" in index for n in (0, 2, 3))
    shown = [nbformat.read(path, as_version=4).cells[-1].outputs for path in sorted(done.index.parent.glob("*.ipynb"))]
    printed = ["".join(one["text"] for one in outputs if one.output_type == "stream") for outputs in shown]
    assert sorted(text.splitlines()[-1] for text in printed) == ["2", "3", "a-model"]
    assert not any(str(tmp_path) in text for text in printed)  # a model is named by its folder's name
