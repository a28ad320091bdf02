import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import typer
from typer.testing import CliRunner

import capacity as capacity_package
from capacity import extensions, models, resources, vector_files
from capacity.__main__ import app
from capacity.charts.display import MIMETYPE
from capacity.commands.exits import coded, is_usage, read_text
from capacity.store import Store

pytestmark = pytest.mark.slow

SMALLEST = next(iter(models.EMBEDDED))


def capacity(*arguments, stdin=None, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "capacity", *map(str, arguments)],
        capture_output=True, text=True, input=stdin, cwd=cwd, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )  # fmt: skip


def here(*arguments, stdin=None):
    """The same in this process, where starting one would take most of the time."""
    done = CliRunner(env={"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}).invoke(app, list(map(str, arguments)), input=stdin)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def test_cram_saves_what_decode_gives_back_in_a_new_process(tmp_path):
    text = "He said that"
    done = here("cram", text, "--model", SMALLEST, "--save", tmp_path / "x.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"\n{text}\n" in done.stdout
    assert "tokens come back" in done.stdout
    assert "[mem], float32" in done.stdout
    stored = vector_files.load(tmp_path / "x.safetensors")
    back = capacity("decode", tmp_path / "x.safetensors")
    assert back.returncode == 0, back.stderr
    assert back.stdout == text
    assert stored.n_tokens == len(models.load(SMALLEST).tokenizer(text)["input_ids"])
    wrong = here("decode", tmp_path / "x.safetensors", "--model", list(models.EMBEDDED)[-1])
    assert wrong.returncode == 2
    assert "made with" in wrong.stderr


def test_a_text_longer_than_one_vector_holds_says_so_and_takes_more(tmp_path):
    text = "It was a fine evening, and he went out."
    one = here("cram", "--model", SMALLEST, "--n-mem", 1, "--budget", 100, stdin=text)
    assert one.returncode == 1
    assert "1 [mem]: the first" in one.stdout
    assert "did not fit into 1 vector. Try --n-mem auto, or a larger --budget" in one.stderr
    (tmp_path / "text.txt").write_text(text)
    auto = here("cram", "--file", tmp_path / "text.txt", "--model", SMALLEST, "--budget", 1000)
    assert auto.returncode == 0, auto.stderr + auto.stdout
    assert "1 [mem]: the first" in auto.stdout
    assert " [mem]: all " in auto.stdout
    assert f"\n{text}\n" in auto.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cram", ""], "the text is empty"),
        (["cram", "x", "--model", "nobody/nothing"], "no model 'nobody/nothing'"),
        (["cram", "x", "--recipe", "magic"], "unknown recipe 'magic'; known are paper, "),
        (["cram", "x", "--n-mem", "0"], "--n-mem is '0'"),
        (["cram", "x", "--n-mem", "600", "--model", SMALLEST], "past the context"),
        (["cram", "word " * 600, "--model", SMALLEST], "past the context"),
        (["cram", "x", "--file", "y"], "give one of them"),
        (["cram", "--file", "no-such-file"], "can't be read"),
        (["decode", "no-such-file"], "no file"),
        (["run", "77_nothing"], "77_nothing"),
        (["run", "01_decoding_capacity", "-p", "treshold=0.9"], "threshold"),
        (["run", "01_decoding_capacity", "-p", "n_texts=many"], "n_texts"),
        (["run", "01_decoding_capacity", "-p", "n_texts"], "no name=value"),
        (["run", "01_decoding_capacity", "-p", "n_texts={[1]}"], "-p n_texts: '{[1]}' is no value"),
        (["run", "01_decoding_capacity", "-p", f"n_texts={'-' * 20_000}1"], "-p n_texts: '---"),
        (["sweep", "--preset", "kuratov2025/table1", "-p", f"length={'-' * 100_000}1"], "-p length: '---"),
        (["cram", "x", "--budget", "0"], "--budget is 0"),
        (["cram", "x", "--save", "."], "is a folder"),
        (["cram", "x", "--picture", "."], "--picture . is to be an SVG; give a name that ends in .svg"),
        (["cram", "x", "--save", "/dev/null"], "--save /dev/null is no file"),
        (["sweep"], "give a grid file, or a preset with --preset; known are kuratov2025/fanfics, "),
        (["sweep", "nothing.toml"], "nothing.toml can't be read"),
        (["sweep", "--preset", "kuratov2025/table1", "--shard", "3/2"], "part '3/2' is no I/N"),
        (["run", "01_decoding_capacity", "-f", "nothing.yaml"], "nothing.yaml can't be read"),
        (["run", "01_decoding_capacity", "--grid", "nothing.toml"], "nothing.toml can't be read"),
        (["run", "01_decoding_capacity", "02_information_gain", "--grid", "x.toml"], "a grid is of one"),
        (["cram", "x", "--with", "nothing.py"], "no Python or TOML file"),
        (["list", "texts"], "'texts' can't be listed; models, recipes, losses, sources, presets, notebooks can"),
        (["merge", "a", "nowhere"], "no folder nowhere"),
        (["sweep", "--preset", "kuratov2025/table1", "-p", "lengths=8"], "unknown setting 'lengths'; known are"),
        (["sweep", "--preset", "kuratov2025/random", "--model", "nobody/nothing", "--dry-run"], "no model 'nobody"),
        (["frobnicate"], "No such command"),
        (["cram", "x", "--frobnicate"], "No such option"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_error_and_exit_code_2(arguments, says, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)  # as a process: the test below
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("models", "llama-64"), ("recipes", "soft"), ("losses", "softplus_margin"), ("sources", "counting"),
        ("presets", "own/quick"), ("notebooks", "20_your_own"),
    ],
)  # fmt: skip
def test_what_can_be_named_is_listed_with_ones_own(kind, named, monkeypatch):
    monkeypatch.setattr(extensions, "_used", {})
    monkeypatch.setenv(extensions.VARIABLE, "")
    own = resources.data() / "examples" / "own.py"
    done = CliRunner().invoke(app, ["list", kind, "--with", str(own)])
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert len(lines[named].split()) > 1


@pytest.mark.parametrize("flag", ["-h", "--help", "--version"])
def test_help_and_version(flag):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [flag])
    assert done.exit_code == 0
    assert ("cram" in done.stdout) == (flag != "--version")
    assert done.stdout.strip() == f"capacity {capacity_package.__version__}" or flag != "--version"
    cited = (resources.root() / "CITATION.cff").read_text()
    assert f"version: {capacity_package.__version__}\n" in cited


def test_an_interrupt_says_what_is_kept():
    def ended(resumes):
        def interrupted(dry_run=False):
            raise KeyboardInterrupt

        stream = io.StringIO()
        with contextlib.redirect_stderr(stream), pytest.raises(typer.Exit):
            coded(resumes)(interrupted)(dry_run=True)
        return stream.getvalue()

    assert "what is finished is kept; the same command goes on" in ended(lambda **_: True)
    assert "to begin again" in ended(lambda dry_run: not dry_run)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    done = here("cram", "--file", tmp_path / "latin")
    assert done.returncode == 2
    assert "not UTF-8 (byte 3)" in done.stderr


def test_what_is_printed_cannot_steer_the_terminal():
    done = here("cram", "a\x1b[2Jb", "--model", SMALLEST, "--n-mem", 1, "--budget", 100)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_sweep_runs_what_its_dry_run_says_and_nothing_twice(tmp_path):
    protocol = ["sweep", "--preset", "kuratov2025/table1", "--model", SMALLEST, "--store", tmp_path / "store"]
    small = ["-p", "source=random_words", "-p", "recipe=default", "-p", "length=[2, 3, 5000]", "-p", "n_texts=2"]
    before = here(*protocol, *small, "--dry-run")
    assert before.returncode == 0, before.stderr
    assert "2 cells are left out" in before.stdout
    assert f"{SMALLEST}: 4 cells, 0 already there" in before.stdout
    assert " seconds on this " in before.stdout or " minutes on this " in before.stdout
    assert not list((tmp_path / "store").glob("*.parquet"))  # what is expected is kept, and no row
    first = here(*protocol, *small)
    assert first.returncode == 0, first.stderr
    assert re.search(
        r"\ntook [0-9.]+ \w+, [0-9.]+ \w+ were expected; [0-9.]+ GB of memory, [0-9.]+ expected", first.stdout
    )
    assert "4 cells are in " in first.stdout
    rows, shards = Store(tmp_path / "store").read(), sorted((tmp_path / "store").glob("*.parquet"))
    assert sorted(rows.select("length", "text_index").iter_rows()) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert set(rows.select("recipe", "search", "scored_from", "source").iter_rows()) == {
        ("default", "fixed", 1, "random_words")
    }
    after = here(*protocol, *small, "--dry-run")
    assert f"{SMALLEST}: 4 cells, 4 already there" in after.stdout
    again = here(*protocol, *small)
    assert (again.returncode, again.stdout) == (
        0,
        first.stdout.partition("took ")[0],
    )  # nothing new: nothing to compare
    assert sorted((tmp_path / "store").glob("*.parquet")) == shards  # one or more, as fast as the machine is


def shown(path):
    """What an executed notebook shows: the charts without the names of their data, and its sentences."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind in (MIMETYPE, "text/markdown"):
                if kind in output.get("data", {}):
                    found.append((kind, json.loads(json.dumps(output["data"][kind]))))
    return found


def test_plain_papermill_gives_what_the_command_gives(tmp_path):
    tools, name = Path(sys.executable).parent, "00_one_vector"
    source = resources.notebooks() / f"{name}.py"
    given = {"model": SMALLEST, "length": 6, "budget": 60, "store": str(tmp_path / "store")}
    pairs = [part for key, value in given.items() for part in ("-p", key, str(value))]

    def run(*command):
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    jupytext.write(jupytext.read(source), tmp_path / "plain.ipynb")
    run(tools / "papermill", tmp_path / "plain.ipynb", tmp_path / "executed.ipynb", "--kernel", "python3", *pairs)
    ours = [f"{key}={value}" for key, value in (given | {"missing": "refuse"}).items()]  # the rows of papermill's run
    done = here("run", name, *(part for pair in ours for part in ("-p", pair)), "--out", tmp_path / "pages")
    assert done.returncode == 0, done.stderr + done.stdout
    theirs = shown(tmp_path / "executed.ipynb")
    assert len(theirs) >= 4
    assert theirs == shown(tmp_path / "pages" / f"{name}.ipynb")


@pytest.mark.parametrize("command", ["", "cram", "decode"])
def test_help_keeps_its_brackets(command):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "[mem]" in done.stdout


def test_a_vector_is_kept_although_it_cannot_be_shown(tmp_path):
    command = [sys.executable, "-m", "capacity", "cram", "He said that", "--model", SMALLEST, "--budget", "20000"]
    command += ["--save"]
    with subprocess.Popen([*command, tmp_path / "b"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as `| head -1`
        assert (process.wait(), process.stderr.read()) == (0, b"")
    assert vector_files.load(tmp_path / "b").n_tokens == 4


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_of_another_encoding_gets_the_text_escaped(folders, tmp_path, encoding):
    command = [sys.executable, "-m", "capacity", "cram", "to →", "--model", folders["llama"], "--save"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": encoding}
    done = subprocess.run([*command, tmp_path / "a"], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\nto \\u2192\n" in done.stdout
    assert here("decode", tmp_path / "a").stdout == "to →"


def test_a_text_that_the_tokenizer_changes_is_crammed_as_tokenized_if_asked_for(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "model")
    definition = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    definition["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(definition))
    command = ["cram", "The Rain", "--model", str(tmp_path / "model"), "--save", str(tmp_path / "x"), "--device", "cpu"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "character 1 on 'The Rain' becomes 'the rain'" in refused.stdout
    assert "--as-tokenized" in refused.stderr
    assert not (tmp_path / "x").exists()
    done = CliRunner().invoke(app, [*command, "--as-tokenized"])
    assert done.exit_code == 0, done.output
    assert "\nthe rain\n" in done.stdout
    assert vector_files.load(tmp_path / "x").n_tokens > 0


def test_a_text_that_does_not_fit_gets_a_hint_what_to_try(folders):
    command = ["cram", "The ferry left the harbour", "--model", str(folders["llama"]), "--n-mem", "1", "--budget", "20"]
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, [*command, "--device", "cpu"])
    assert done.exit_code == 1
    assert "Try --n-mem auto, or a larger --budget, or --bos before_mem, or another --seed, or a wider" in done.stderr


def test_a_place_that_takes_no_file_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    done = CliRunner().invoke(app, ["cram", "x", "--model", "nobody/nothing", "--save", str(tmp_path / "file" / "a")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "can't be written" in done.stderr


def test_errors_are_sorted_by_what_happened():
    full = ValueError("the vectors could not be written")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert not is_usage(full)
    assert is_usage(ValueError("no such thing"))
    assert not is_usage(OSError(errno.EIO, "Input/output error"))


def test_a_mark_at_the_start_of_a_file_is_no_text_and_line_ends_stay(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_text(None, tmp_path / "a.txt") == "a\r\nb\n"
