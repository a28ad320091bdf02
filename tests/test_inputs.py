"""What is handed over in place of what is asked for: one sentence, whatever it is."""

import subprocess
import sys

import polars as pl
import pytest
from typer.testing import CliRunner

from capacity import gains, metrics, models, report, store
from capacity.__main__ import app

COUNTS = [0, -1, 1.5, float("nan"), "2", [1], None, True]
SCRIPT = """
from capacity import fitting, models, sweep, texts
frozen, nan = models.load("llama-64", device="cpu"), float("nan")
def said(function, *given, **named):
    try:
        function(*given, **named)
    except ValueError as error:
        print(error)
for what in (None, "llama-64", 3, object()):
    said(fitting.fit, what, [[1, 2]])
    said(fitting.exact_length, what, [[1, 2]], "default")
    said(fitting.cram, "words", what)
for n in COUNTS:
    said(fitting.fit, frozen, [[1, 2]], n_mem=n)
    said(fitting.cram, "words", frozen, budget=n)
    said(fitting.cram, "words", frozen, n_mem=0 if n is None else n)
    said(sweep.grid, model="llama-64", n_texts=n)
    said(sweep.measure, [], jobs=0 if n is None else n)
    said(texts.sample, "embedded", frozen.tokenizer, n_texts=n, length=4)
for name in (None, 3, ["embedded"], b"embedded"):
    said(models.load, name)
    said(texts.sample, name, frozen.tokenizer, n_texts=1, length=4)
"""


@pytest.mark.slow
def test_what_is_no_model_and_what_is_no_number_is_refused():
    """In a process of its own: annotations are checked in this one."""
    script = SCRIPT.replace("COUNTS", str(COUNTS).replace("nan", "float('nan')"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 12 + 6 * len(COUNTS) + 8), done.stderr
    assert all(line.endswith("is no model; give what models.load returns") for line in said[:12])
    assert all(line.endswith("; give a whole number from 1 on") for line in said[12:-8])
    assert {line.split()[0] for line in said[12:-8]} == {"n_mem", "budget", "n_texts", "jobs"}
    assert all("names no model; give a name" in line or "names no source; give one name" in line for line in said[-8:])


# What a child process says of a call with a wrong input: its one sentence, or that it was taken.
SAID = """
def said(function, *given, **named):
    try:
        function(*given, **named)
    except ValueError as error:
        print(" ".join(str(error).split()))
    else:
        print("taken", function.__name__, str(given)[:60], named)
"""
REFUSED = """
import torch
from capacity import decoding, fitting, models, sweep, vector_files
frozen = models.load("llama-64", device="cpu")
mem = torch.zeros(1, frozen.dim)
for ids in (None, 3, b"abc", [b"abc"]):
    said(fitting.fit, frozen, ids, "default")
for recipe in (None, 3, {}):
    said(fitting.cram, "words", frozen, recipe)
for seed in (-1, 1.5, "a", None):
    said(fitting.cram, "words", frozen, seed=seed)
    said(fitting.fit, frozen, [[1, 2]], "default", seed=seed)
for budget in (0, 1.5, "3", None):
    said(fitting.exact_length, frozen, [[1, 2]], "default", budget=budget)
for wrong in (None, mem.numpy(), mem[0], mem[:, :3], mem.long(), mem * float("nan")):
    said(decoding.free_running, frozen, wrong, 3)
for n_tokens in (None, "3", 1.5, 0):
    said(decoding.free_running, frozen, mem, n_tokens)
    said(vector_files.save, FILE, mem, frozen, n_tokens=n_tokens)
for given in ((-1,), (10**9,), ("a",), (1.5,), (1, 2, 3, 4)):
    said(decoding.free_running, frozen, mem, 3, given=given)
    said(vector_files.save, FILE, mem, frozen, n_tokens=3, given=given)
said(vector_files.save, FILE, mem[:, :3], frozen, n_tokens=3)
said(vector_files.save, FILE, mem[:0], frozen, n_tokens=3)
said(vector_files.save, FILE, mem, frozen, n_tokens=10**9)
said(models.load, "llama-64", revision="main")
said(models.load, "llama-64", attention=3)
said(sweep.grid)
for length in ({4, 8}, {"a": 1}):
    said(sweep.grid, model="llama-64", length=length)
for experiments in (None, "ab", [3]):
    said(sweep.measure, experiments)
"""


@pytest.mark.slow
def test_what_a_fit_a_decoder_or_a_file_can_t_take_is_refused(tmp_path):
    script = SAID + REFUSED.replace("FILE", repr(str(tmp_path / "x.safetensors")))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 4 + 3 + 8 + 4 + 6 + 8 + 10 + 5 + 1 + 2 + 3), done.stderr
    assert [line for line in said if line.startswith("taken")] == []
    assert list(tmp_path.iterdir()) == []  # what could not be read again is not written


NUMBERS = """
import math
import polars as pl
from capacity import charts, gains, metrics, theory
own = pl.DataFrame({"net": ["a"] * 2, "text_id": ["x", "y"], "length": [4, 4], "ok": [1.0, 0.5], "back": [4, 3]})
for values in (5, "abc", ["1", "2"], [[1], [2]], [[1], [2, 3]], None, {"a": 1}):
    said(metrics.interval, values)
    said(metrics.difference, values, [1.0])
    said(metrics.quotient, [1.0, 2.0], values)
    said(metrics.proportion, values)
    said(metrics.survival, values, [True])
    said(metrics.median_limit, [2.0], values)
    said(gains.plateau_of, values, [1.0])
said(metrics.survival, [1, 2], [True])
said(metrics.survival, [1, math.nan], [True, False])
for threshold in ("x", None, [0.9], 1j):
    said(metrics.decoding_capacity, own, by=["net"], share="ok", threshold=threshold)
for name in (5, pl.col("ok")):
    said(metrics.accuracy_by_length, own, by=["net"], share=name)
    said(metrics.exact_length, own, by=["net"], decoded=name, status=None, seed=None)
for value in (5, None, ["ok"]):
    said(metrics.mean, own, value, ["net"])
for made in (5, None, "a"):
    said(metrics.summarise, own, ["net"], lambda part: made)
for wrong in ("a", None, [5], math.nan, 10**400, 0):
    said(theory.token_capacity, wrong, 5)
    said(theory.token_capacity, 5, wrong)
    said(theory.entropy_capacity, 5, 4, bits=wrong)
for frame in (5, None, own.lazy(), own):
    for name in ("capacities", "plateaus", "given_back", "token_gain", "information_gain", "utilisation",
                 "as_published", "per_vector", "certified_at", "certified_lengths", "certified_information"):
        said(getattr(gains, name), frame)
    for name in ("beside", "by_kind", "text_specific_gain"):
        said(getattr(gains, name), frame, frame)
    said(metrics.limits, frame)
    said(metrics.not_empty, frame if frame is not own else own.clear())
    said(metrics.impatient, frame, steps=3)
    said(metrics.doubled, frame, cost="paid", at=[1])
    said(metrics.reached, frame, cost="paid", at=[1])
    said(metrics.bounds, frame)
for chart in (5, None, "<svg/>", own, charts):
    said(charts.svg, chart)
    said(charts.byte_ledger, chart)
    said(charts.texts_by_source, own, chart if chart is not charts else ["ok"], title="")
"""


@pytest.mark.slow
def test_what_is_no_number_no_column_and_no_frame_is_refused_by_the_analysis():
    done = subprocess.run([sys.executable, "-c", SAID + NUMBERS], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, len(said)) == (0, 7 * 7 + 2 + 4 + 4 + 3 + 3 + 18 + 4 * 20 + 15), done.stderr
    assert [line for line in said if line.startswith("taken")] == []
    assert [line for line in said if len(line) > 700] == []


ROWS = pl.DataFrame({
    "net": ["a"] * 2, "text_id": ["x", "y"], "length": [4, 4], "share": [1.0, 0.5], "decoded_tokens": [4, 3],
    "n_mem": [1, 1], "bits": [2.0, 3.0],
})  # fmt: skip
TABLES = {
    "accuracy_by_length": lambda rows, by: metrics.accuracy_by_length(rows, by=by, share="share"),
    "exact_length": lambda rows, by: metrics.exact_length(rows, by=by, status=None, seed=None),
    "mean": lambda rows, by: metrics.mean(rows, pl.col("length"), by),
    "per_vector": lambda rows, by: gains.per_vector(rows, by=by),
    "summarise": lambda rows, by: metrics.summarise(rows, by, lambda part: metrics.interval(part["length"])),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_by_a_list_of_columns_of_a_frame(table):
    made = TABLES[table]
    assert made(ROWS, ("net",))["value"].len() == 1
    for by in ("net", None, 3, ["net", "net"], [pl.col("net")]):
        with pytest.raises(ValueError, match="give a list of columns, each once"):
            made(ROWS, by)
    for rows in (ROWS.lazy(), ROWS.to_dict(), None):
        with pytest.raises(ValueError, match="is no frame of polars"):
            made(rows, ["net"])
    with pytest.raises(ValueError, match="the frame has no column model; it has net"):
        made(ROWS, ["model"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.yaml", "models: " + "[" * 5000), ("digits.yaml", "n_texts: " + "9" * 5000),
        ("month.yaml", "n_texts: 2024-13-45"), ("date.yaml", "n_texts: 2024-01-01"), ("key.yaml", "2024-01-01: 3"),
        ("alias.yaml", "models: &a [*a]"), ("table.yaml", "models: &a {x: *a}"), ("source.yaml", "sources: [embeded]"),
        ("deep.toml", "lengths = " + "[" * 5000), ("digits.toml", "n_texts = " + "9" * 5000),
        ("date.toml", "n_texts = 1979-05-27"), ("none.toml", "n_texts = []"),
        ("source.toml", 'sources = [["embedded"], ["embeded"]]'),
    ],
)  # fmt: skip
def test_a_file_of_parameters_that_is_none_is_one_line(name, text, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_make", None)  # no kernel is started
    (path := tmp_path / name).write_text(text)
    option = "--grid" if path.suffix == ".toml" else "-f"
    done = CliRunner().invoke(app, ["run", "01_decoding_capacity", option, str(path), "--out", str(tmp_path / "out")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert len(done.stderr) < 700


def test_an_unknown_recipe_of_a_grid_is_found_before_a_kernel_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_make", None)
    (path := tmp_path / "grid.toml").write_text('recipe = ["default", "magic"]')
    done = CliRunner().invoke(app, ["run", "00_one_vector", "--grid", str(path), "--out", str(tmp_path / "out")])
    assert (done.exit_code, done.stderr.partition(";")[0]) == (2, "error: unknown recipe 'magic'")


@pytest.mark.slow
def test_a_place_for_pages_that_is_none_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["run", "01_decoding_capacity", "--out", str(tmp_path / "file" / "out")])
    assert (done.exit_code, "choose another --out" in done.stderr) == (1, True)


def test_compact_says_what_it_did_and_refuses_what_is_no_store(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        done = CliRunner().invoke(app, ["compact", str(path)])
        assert (done.exit_code, "is no folder of rows" in done.stderr) == (2, True)
    rows = store.synthetic_rows(list("abcd"))
    for part in (rows.head(2), rows.tail(2)):
        store.write(tmp_path / "rows", part)
    done = CliRunner().invoke(app, ["compact", str(tmp_path / "rows")])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'rows'}: 2 files of rows became 1\n")


def test_a_merge_that_leaves_damaged_rows_out_is_no_success(tmp_path):
    rows = store.synthetic_rows(list("abcd"))
    store.write(tmp_path / "whole", rows.head(2))
    store.write(tmp_path / "damaged", rows.tail(2))
    (path,) = (tmp_path / "damaged").glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = CliRunner().invoke(app, ["merge", *(str(tmp_path / name) for name in ("all", "whole", "damaged"))])
    assert (done.exit_code, done.stdout) == (1, "2 cells are new, 0 were there\n"), done.stderr
    assert "what is damaged was left out" in done.stderr


def test_a_dry_run_refuses_what_its_sweep_would(tmp_path):
    (tmp_path / "file").touch()
    (grid := tmp_path / "grid.toml").write_text('model = "llama-64"\nlength = 2\n')
    for more, says in (
        (["--engine", "slurm"], "engine is 'slurm'"),
        (["--store", str(tmp_path / "file")], "is no folder"),
    ):
        done = CliRunner().invoke(app, ["sweep", str(grid), "--dry-run", *more])
        assert (done.exit_code, says in done.stderr) == (2, True), done.stderr


def test_a_model_may_be_a_path():
    assert models.load(models.EMBEDDED["llama-64"], device="cpu").revision == models.load("llama-64").revision
